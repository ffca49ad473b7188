/* vfio_pci_host_test.c - real hardware in a guest: loss, power, resets, several vCPUs at once */
#include "vfio_host_fake.h"

/* --- leaving --- */

static void a_device_that_leaves_is_as_if_pulled_out(void **state)
{
	static const char *const lines[] = {
		[VFIO_LEAVE_ERROR] = "reported an error",
		[VFIO_LEAVE_REQUEST] = "the host wants the device back",
		[VFIO_LEAVE_GONE] = "does not answer any more",
	};

	for (unsigned why = 0; why < ARRAY_SIZE(lines); why++) {
		struct host *h = host_attach(host_new());
		uint64_t at = hbar(h, 0), value;

		hdecode(h);
		assert_int_equal(h->nr_peers, 1);
		host_lose(h, why);
		assert_int_equal(h->nr_left, 1);
		assert_int_equal(h->why, why);
		assert_int_equal(world_log(h->w, lines[why]), 1);
		assert_int_equal(kvm_nr_slots(), 1);
		assert_int_equal(h->nr_peers, 0);
		/* It is unmapped when nobody maps it for others any more. */
		assert_int_equal(h->nr_taken, 1);
		assert_int_equal(hcfg(h, PCI_VENDOR_ID, 4), UINT32_MAX);
		assert_int_equal(hcfg(h, MSIX_POS, 2), 0xffff);
		hcfg_set(h, PCI_COMMAND, 2, 0);
		/* The table, too, which is ours */
		io_read(h->w->m.bus, host_vcpu(h), IO_MMIO, at + 0x2000, 4, &value);
		assert_int_equal(value, UINT32_MAX);
		host_end(h);
	}
}

/* --- power and resets --- */

static void memory_is_out_of_reach_while_the_device_sleeps(void **state)
{
	struct host *h = host_attach(host_new());
	uint64_t at = hbar(h, 0);

	hdecode(h);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 3);
	host_story(h, "74:2=3");
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(h->nr_peers, 0);
	assert_int_equal(hreg(h, 0, 0, 4), UINT32_MAX);
	/* Nor when it moves, or decodes anew. */
	hcfg_set(h, PCI_BASE_ADDRESS_0, 4, (uint32_t)at + 0x100000);
	hcfg_set(h, PCI_COMMAND, 2, 0);
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(kvm_nr_slots(), 1);
	h->story[0] = 0;
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 1, 0);
	/* It was a reset, which forgets what it was told. */
	host_story(h, "74:1=0 74:2=0 4:2=2 INTx- INTx+0:1 INTx.unmask");
	assert_true(kvm_has_slot(at + 0x100000, 0x2000));
	assert_int_equal(h->nr_peers, 1);
	host_end(h);
}

static void a_device_that_wakes_as_it_was_is_not_told_again(void **state)
{
	struct host *h = host_new();

	put16(h->config + PM_POS + PCI_PM_CTRL, PCI_PM_CTRL_NO_SOFT_RESET);
	host_attach(h);
	hdecode(h);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 3);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 4, 0);
	host_story(h, "74:2=3 74:4=0");
	assert_int_equal(kvm_nr_slots(), 2);
	host_end(h);
}

static void a_reset_wakes_the_device(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 3);
	host_open_vector(h, 0);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	h->story[0] = 0;
	pci_reset(h->w->m.pci);
	assert_int_equal(h->resets, 1);
	host_story(h, "reset MSI-X- INTx+0:1 INTx.unmask 74:2=0 4:2=0");
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(hcfg(h, MSIX_POS + 2, 2), 7);
	hdecode(h);
	assert_int_equal(kvm_nr_slots(), 2);
	host_end(h);
}

static bool fault(struct host *h)
{
	bool taken;

	pci_lock(h->w->m.pci);
	taken = vp_memory_fault(&h->vp->fn);
	pci_unlock(h->w->m.pci);
	return taken;
}

static void memory_that_does_not_answer_is_taken_out(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	/* Somebody else's trouble */
	assert_false(fault(h));
	assert_int_equal(kvm_nr_slots(), 2);
	h->config[PCI_COMMAND] = 0;
	assert_true(fault(h));
	assert_int_equal(kvm_nr_slots(), 1);
	assert_int_equal(world_log(h->w, "memory does not answer"), 1);
	/* Another vCPU that ran into it at the same time */
	assert_true(fault(h));
	hcfg_set(h, PCI_COMMAND, 2, 0);
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(kvm_nr_slots(), 2);
	host_end(h);
}

static void resets_of_the_function_are_followed(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	hcfg_set(h, AF_POS + PCI_AF_CTRL, 1, PCI_AF_CTRL_FLR);
	host_story(h, "c4:1=1 4:2=3 INTx- INTx+0:1 INTx.unmask");
	hcfg_set(h, EXP_POS + PCI_EXP_DEVCTL, 4, PCI_EXP_DEVCTL_BCR_FLR | 0x10);
	host_story(h, "88:4=8010 88:2=10 4:2=3 INTx- INTx+0:1 INTx.unmask");
	hcfg_set(h, EXP_POS + PCI_EXP_DEVCTL, 1, 0x20);
	hcfg_set(h, AF_POS + PCI_AF_CTRL, 1, 0);
	host_story(h, "88:1=20 c4:1=0");
	host_end(h);
}

/* --- anything --- */

static uint32_t random_state;

static uint32_t any(uint32_t below)
{
	random_state = random_state * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)random_state * below) >> 32);
}

static void scramble(struct host *h)
{
	for (unsigned i = 0; i < 4 + any(40); i++)
		h->config[PCI_STATUS + any(0x1fc)] = (uint8_t)any(256);
	for (unsigned i = 0; i < any(4); i++)
		h->config[0x100 + any(0xf00)] = (uint8_t)any(256);
	h->config[PCI_HEADER_TYPE] &= 0x80;
	for (unsigned i = 0; i < 3; i++)
		h->t.info.irqs[i] = (struct vfio_irq){ any(16), any(3) ? any(9) : 0 };
	h->t.info.irqs[0].count &= 1;
	h->host_vectors = any(9);
	h->config_size = any(4) ? PCI_CONFIG_SIZE : 256;
	h->t.info.regions[0].msix_mappable = any(2);
}

static void job_anything(struct host *h)
{
	for (unsigned i = 0; i < 400; i++) {
		unsigned size = 1u << any(4), off = any(any(2) ? 0x100 : 0x1000) & ~(size - 1);
		uint64_t value = (uint64_t)any(UINT32_MAX) << any(33), out;
		uint64_t at = any(2) ? LAYOUT_ECAM + (5ull << 15) + off
				     : h->vp->fn.bars[0].addr + any(0x8000);

		if (any(2))
			io_write(h->w->m.bus, host_vcpu(h), IO_MMIO, at, size, value);
		else
			io_read(h->w->m.bus, host_vcpu(h), IO_MMIO, at, size, &out);
		if (!any(100))
			pci_reset(h->w->m.pci);
		h->story[0] = 0;
	}
}

/* The device is what it likes, and the guest does what it likes: the sanitizers, the fake's rules
 * and asserts look on. */
static void no_device_and_no_guest_do_harm(void **state)
{
	unsigned attached = 0;

	for (random_state = 1; random_state < 400; random_state++) {
		uint32_t seed = random_state;
		struct host *h = host_new();

		scramble(h);
		if (!host_try(h, NULL)) {
			attached++;
			job_anything(h);
			if (any(2))
				host_lose(h, VFIO_LEAVE_ERROR);
			job_anything(h);
		} else {
			assert_true(h->err.text[0]);
		}
		host_end(h);
		random_state = seed;
	}
	assert_true(attached > 50);
}

/* --- several vCPUs --- */

#define CROWD	    4
#define CROWD_STEPS 4000u

struct crowd_vcpu {
	struct host *h;
	struct io_reader *reader;
	pthread_t thread;
	pthread_barrier_t *begin;
	uint32_t state;
};

static uint32_t its(struct crowd_vcpu *v, uint32_t below)
{
	v->state = v->state * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)v->state * below) >> 32);
}

static void crowd_config(struct crowd_vcpu *v, unsigned off, unsigned size, uint32_t value)
{
	cfg_write(v->h->w, v->reader, off, size, value);
}

static void crowd_changes(struct crowd_vcpu *v)
{
	static const uint64_t places[] = { 0x1000000000, 0x1000100000, 0xd0000000, 0x8000, 0 };
	uint64_t place = places[its(v, ARRAY_SIZE(places))];

	switch (its(v, 8)) {
	case 0:
		crowd_config(v, PCI_BASE_ADDRESS_0, 4, (uint32_t)place);
		break;
	case 1:
		crowd_config(v, PCI_BASE_ADDRESS_0 + 4, 4, (uint32_t)(place >> 32));
		break;
	case 2:
		crowd_config(v, PM_POS + PCI_PM_CTRL, 2, its(v, 3) ? 0 : 3);
		break;
	case 3:
		crowd_config(v, MSIX_POS + 2, 2, its(v, 4) << 14);
		break;
	case 4:
		crowd_config(v, its(v, 2) ? AF_POS + PCI_AF_CTRL : EXP_POS + PCI_EXP_DEVCTL + 1, 1,
			its(v, 2) ? 0x81 : 0);
		break;
	default:
		crowd_config(v, PCI_COMMAND, 1 + its(v, 2), its(v, 3) ? PCI_COMMAND_MEMORY : 0);
	}
}

static void crowd_uses(struct crowd_vcpu *v)
{
	struct io_bus *bus = v->h->w->m.bus;
	uint64_t at = 0x1000000000 + its(v, 2) * 0x100000, out;

	switch (its(v, 5)) {
	case 0:
		io_write(bus, v->reader, IO_MMIO, at + 0x2000 + 4 * its(v, 32), 4, its(v, 2));
		break;
	case 1:
		io_read(bus, v->reader, IO_MMIO, at + 0x3000, 8, &out);
		break;
	case 2:
		cfg_read(v->h->w, v->reader, its(v, 0x400) * 4, 4);
		break;
	case 3:
		/* As one whose access the kernel stopped. */
		fault(v->h);
		break;
	default:
		io_read(bus, v->reader, IO_MMIO, at + its(v, 0x1000), 4, &out);
	}
}

static void *crowd_main(void *arg)
{
	struct crowd_vcpu *v = arg;

	pthread_barrier_wait(v->begin);
	for (unsigned i = 0; i < CROWD_STEPS; i++)
		if (its(v, 2))
			crowd_changes(v);
		else
			crowd_uses(v);
	return NULL;
}

/* The fake looks on: nothing may be in the guest's memory while the device does not answer. */
static void vcpus_take_the_device_away_from_each_other(void **state)
{
	struct host *h = host_attach(host_new());
	struct crowd_vcpu crowd[CROWD];
	pthread_barrier_t begin;

	h->crowd = true;
	pthread_barrier_init(&begin, NULL, CROWD);
	for (unsigned i = 0; i < CROWD; i++) {
		crowd[i] = (struct crowd_vcpu){
			.h = h,
			.reader = io_bus_reader(h->w->m.bus, i),
			.begin = &begin,
			.state = i,
		};
		assert_int_equal(pthread_create(&crowd[i].thread, NULL, crowd_main, &crowd[i]), 0);
	}
	for (unsigned i = 0; i < CROWD; i++)
		pthread_join(crowd[i].thread, NULL);
	pthread_barrier_destroy(&begin);
	assert_int_equal(world_log(h->w, "does not answer"), 0);
	h->crowd = false;
	hcfg_set(h, PCI_COMMAND, 2, 0);
	hcfg_set(h, PM_POS + PCI_PM_CTRL, 2, 0);
	hcfg_set(h, PCI_BASE_ADDRESS_0, 4, 0);
	hcfg_set(h, PCI_BASE_ADDRESS_0 + 4, 4, 0x10);
	hdecode(h);
	assert_int_equal(kvm_nr_slots(), 2);
	assert_int_equal(hreg(h, 0, 0x3ff8, 4), 0x5a5a5a5a);
	host_end(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_device_that_leaves_is_as_if_pulled_out),
		cmocka_unit_test(memory_is_out_of_reach_while_the_device_sleeps),
		cmocka_unit_test(a_device_that_wakes_as_it_was_is_not_told_again),
		cmocka_unit_test(a_reset_wakes_the_device),
		cmocka_unit_test(memory_that_does_not_answer_is_taken_out),
		cmocka_unit_test(resets_of_the_function_are_followed),
		cmocka_unit_test(no_device_and_no_guest_do_harm),
		cmocka_unit_test(vcpus_take_the_device_away_from_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
