/*
 * virtio_pci_irq_test.c - the virtio function's descriptors and memory: interrupts, doorbells,
 * shared memory, resets
 */
#include "virtio_fake.h"

/* --- MSI-X --- */

#define MSIX_ON (PCI_MSIX_FLAGS_ENABLE)

static void msix_flags(struct world *w, uint16_t flags)
{
	cfg_write(w, msix_cap(w) + PCI_MSIX_FLAGS, 2, flags);
}

static void msix_entry(struct world *w, unsigned i, bool masked)
{
	uint64_t at = (cfg_read(w, msix_cap(w) + PCI_MSIX_TABLE, 4) & ~7u) + 16 * i;

	reg_write(w, at, 4, 0xfee00000);
	reg_write(w, at + 4, 4, 0);
	reg_write(w, at + 8, 4, 0x40 + i);
	reg_write(w, at + 12, 4, masked);
}

/* A driver with a vector for the configuration (0) and one for each queue (1, 2). */
static struct world *world_with_vectors(void)
{
	struct world *w = world_plugged();

	msix_flags(w, MSIX_ON);
	for (unsigned i = 0; i < 3; i++)
		msix_entry(w, i, false);
	accept_features(w, VERSION_1 | VIRTIO_BIT(VIRTIO_BIT_RING_RESET));
	com_write(w, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	set_queue(w, 0, 1);
	set_queue(w, 1, 2);
	set_status(w, DRIVER_OK);
	return w;
}

static void a_queue_signals_its_vector(void **state)
{
	struct world *w = world_with_vectors();
	const struct virtio_queue *q = w->f.queues;

	assert_int_equal(fake_kvm.nr_irq, 3);
	assert_true(is_irqfd(q[0].call_fd));
	assert_true(is_irqfd(q[1].call_fd));
	assert_int_not_equal(q[0].call_fd, q[1].call_fd);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_MSIX, 2), 2);
	world_free(w);
}

static void a_vector_that_is_not_there_is_none(void **state)
{
	static const uint16_t absent[] = { 3, 4, 0x7ff, 0x8000, 0xfffe, NO_VECTOR };
	struct world *w = world_plugged();

	for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
		com_write(w, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_MSIX, 2), 1);
		com_write(w, VIRTIO_PCI_COMMON_Q_MSIX, 2, absent[i]);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_MSIX, 2), NO_VECTOR);
		com_write(w, VIRTIO_PCI_COMMON_MSIX, 2, absent[i]);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_MSIX, 2), NO_VECTOR);
	}
	world_free(w);
}

static void a_vector_that_cannot_be_had_is_none(void **state)
{
	struct world *w = world_new();

	/* Room for the pins of the IOAPIC and one vector. */
	irqs_free(w->m.irqs);
	w->m.kvm.nr_gsi_routes = GSI_MSI_BASE + 1;
	assert_int_equal(irqs_new(&w->m.kvm, &w->m.irqs), 0);
	world_plug(w);
	com_write(w, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	com_write(w, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_MSIX, 2), 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_MSIX, 2), NO_VECTOR);
	assert_int_equal(world_log(w, "vector 1 cannot be had"), 1);
	world_free(w);
}

static void a_masked_vector_keeps_its_signal(void **state)
{
	struct world *w = world_plugged();
	uint64_t pba;

	msix_flags(w, MSIX_ON);
	accept_features(w, VERSION_1);
	set_queue(w, 0, 1);
	set_status(w, DRIVER_OK);
	pba = cfg_read(w, msix_cap(w) + PCI_MSIX_PBA, 4) & ~7u;
	assert_true(w->f.queues[0].call_fd >= 0);
	assert_false(is_irqfd(w->f.queues[0].call_fd));
	assert_int_equal(reg_read(w, pba, 8), 0);
	fd_signal(w->f.queues[0].call_fd);
	assert_int_equal(reg_read(w, pba, 8), 2);
	msix_entry(w, 1, false);
	assert_true(is_irqfd(w->f.queues[0].call_fd));
	assert_int_equal(w->f.queue_calls, 0);
	world_free(w);
}

static void another_vector_is_told_to_the_device(void **state)
{
	struct world *w = world_with_vectors();
	int was = w->f.queues[1].call_fd;

	com_write(w, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	assert_int_equal(w->f.queue_calls, 1);
	assert_int_equal(w->f.index, 1);
	assert_int_equal(w->f.queues[1].call_fd, w->f.queues[0].call_fd);
	com_write(w, VIRTIO_PCI_COMMON_Q_MSIX, 2, NO_VECTOR);
	assert_int_equal(w->f.queues[1].call_fd, -1);
	com_write(w, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(w->f.queues[1].call_fd, was);
	assert_int_equal(w->f.queue_calls, 3);
	world_free(w);
}

static void without_msix_queues_share_a_line(void **state)
{
	struct world *w = world_with_vectors();
	int was = w->f.queues[0].call_fd;

	msix_flags(w, 0);
	assert_int_equal(w->f.queue_calls, 2);
	assert_int_equal(w->f.queues[0].call_fd, w->f.queues[1].call_fd);
	assert_int_not_equal(w->f.queues[0].call_fd, was);
	assert_int_equal(fake_kvm.nr_irq, 0);
	msix_flags(w, MSIX_ON);
	assert_int_equal(w->f.queues[0].call_fd, was);
	world_free(w);
}

/* --- INTx --- */

static int line_of(const struct world *w)
{
	return fake_kvm.line[GSI_INTX_BASE + w->slot % GSI_INTX_COUNT];
}

static bool status_says_intx(struct world *w)
{
	return cfg_read(w, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT;
}

static void a_signal_raises_the_line_until_isr_is_read(void **state)
{
	struct world *w = world_driven();

	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(line_of(w), 0);
		fd_signal(w->f.queues[i % 2].call_fd);
		world_serve(w);
		assert_int_equal(line_of(w), 1);
		assert_true(status_says_intx(w));
		assert_int_equal(isr_read(w), 1);
		assert_int_equal(line_of(w), 0);
		assert_false(status_says_intx(w));
		assert_int_equal(isr_read(w), 0);
	}
	assert_int_equal(fake_kvm.line_changes, 6);
	world_free(w);
}

static void intx_can_be_disabled(void **state)
{
	struct world *w = world_driven();

	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	fd_signal(w->f.queues[0].call_fd);
	world_serve(w);
	assert_int_equal(line_of(w), 0);
	assert_true(status_says_intx(w));
	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(line_of(w), 1);
	/* Nobody is there to read ISR any more. */
	virtio_pci_unplug(w->vp);
	assert_int_equal(line_of(w), 0);
	world_free(w);
}

static void functions_share_a_line(void **state)
{
	struct world *w = world_driven(), other = *w;

	other.slot = w->slot + GSI_INTX_COUNT;
	other.reports = 0;
	other.f.running = false;
	assert_int_equal(virtio_pci_new(&w->m, "dev1", world_attached, &other, &other.vp), 0);
	virtio_pci_set_backend(other.vp, &other.f.b);
	other.owner = virtio_pci_owner(other.vp);
	world_driven_with(&other, VERSION_1);
	fd_signal(w->f.queues[0].call_fd);
	fd_signal(other.f.queues[0].call_fd);
	world_serve(w);
	assert_int_equal(line_of(w), 1);
	assert_int_equal(isr_read(w), 1);
	assert_int_equal(line_of(w), 1);
	assert_int_equal(isr_read(&other), 1);
	assert_int_equal(line_of(w), 0);
	virtio_pci_unplug(other.vp);
	virtio_pci_free(other.vp);
	world_free(w);
}

static void nothing_interrupts_before_driver_ok_or_after_a_reset(void **state)
{
	struct world *w = world_plugged();
	int call;

	w->owner->ops->config_changed(w->owner);
	assert_int_equal(isr_read(w), 0);
	accept_features(w, VERSION_1);
	set_queue(w, 0, NO_VECTOR);
	set_status(w, DRIVER_OK);
	call = w->f.queues[0].call_fd;
	fd_signal(call);
	world_serve(w);
	assert_int_equal(line_of(w), 1);
	set_status(w, 0);
	assert_int_equal(line_of(w), 0);
	fd_signal(call);
	w->owner->ops->config_changed(w->owner);
	world_serve(w);
	assert_int_equal(line_of(w), 0);
	assert_int_equal(isr_read(w), 0);
	world_free(w);
}

/* --- configuration --- */

static void a_change_is_a_generation_and_an_interrupt(void **state)
{
	struct world *w = world_driven();
	uint64_t at = cap_place(w, VIRTIO_PCI_CAP_DEVICE_CFG);
	uint64_t before = com_read(w, VIRTIO_PCI_COMMON_CFGGENERATION, 1);

	reg_read(w, at, 4);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_CFGGENERATION, 1), before);
	/* Many changes that nobody has looked at are one: it must not wrap round to the same. */
	for (unsigned i = 0; i < 256; i++)
		w->owner->ops->config_changed(w->owner);
	assert_int_equal(isr_read(w), VIRTIO_PCI_ISR_CONFIG);
	reg_read(w, at, 4);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_CFGGENERATION, 1), before + 1);
	reg_read(w, at, 4);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_CFGGENERATION, 1), before + 1);
	world_free(w);
}

/* Masked, so that the signal can be seen in its pending bit. */
static void a_change_signals_the_configuration_vector(void **state)
{
	struct world *w = world_with_vectors();
	uint64_t pba = cfg_read(w, msix_cap(w) + PCI_MSIX_PBA, 4) & ~7u;

	msix_flags(w, MSIX_ON | PCI_MSIX_FLAGS_MASKALL);
	assert_int_equal(fake_kvm.nr_irq, 0);
	w->owner->ops->config_changed(w->owner);
	assert_int_equal(reg_read(w, pba, 8), 1);
	assert_int_equal(line_of(w), 0);
	com_write(w, VIRTIO_PCI_COMMON_MSIX, 2, NO_VECTOR);
	msix_flags(w, MSIX_ON);
	w->owner->ops->config_changed(w->owner);
	assert_int_equal(line_of(w), 0);
	world_free(w);
}

static void a_device_at_its_end_needs_a_reset(void **state)
{
	struct world *w = world_driven();

	w->owner->ops->needs_reset(w->owner);
	assert_int_equal(status(w), DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(isr_read(w), VIRTIO_PCI_ISR_CONFIG);
	set_status(w, 0);
	assert_int_equal(status(w), 0);
	assert_int_equal(w->f.stops, 1);
	world_free(w);
}

static void a_device_that_rests_needs_none(void **state)
{
	struct world *w = world_plugged();

	w->owner->ops->needs_reset(w->owner);
	assert_int_equal(status(w), 0);
	accept_features(w, VERSION_1);
	set_status(w, DRIVER_OK);
	set_status(w, 0);
	w->owner->ops->needs_reset(w->owner);
	assert_int_equal(status(w), 0);
	world_free(w);
}

/* --- doorbells --- */

static uint64_t doorbell(struct world *w, unsigned queue)
{
	return bar_addr(w, 0) + cap_place(w, VIRTIO_PCI_CAP_NOTIFY_CFG) + 4 * queue;
}

static void doorbells_follow_the_bar(void **state)
{
	struct world *w = world_driven();
	uint64_t at = doorbell(w, 1), moved;

	assert_int_equal(fake_kvm.nr_io, 2);
	assert_int_equal(doorbell_at(doorbell(w, 0), 2), w->f.queues[0].kick_fd);
	assert_int_equal(doorbell_at(at, 4), w->f.queues[1].kick_fd);
	cfg_write(w, PCI_COMMAND, 2, 0);
	assert_int_equal(fake_kvm.nr_io, 0);
	cfg_write(w, PCI_BASE_ADDRESS_0, 4, (uint32_t)bar_addr(w, 0) + 0x100000);
	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	moved = doorbell(w, 1);
	assert_int_equal(moved, at + 0x100000);
	assert_int_equal(doorbell_at(moved, 2), w->f.queues[1].kick_fd);
	assert_int_equal(doorbell_at(at, 2), -1);
	world_free(w);
}

static void an_old_kvm_gets_a_doorbell_for_each_length(void **state)
{
	struct world *w = world_new();

	w->m.kvm.ioeventfd_any_length = false;
	world_driven_with(w, VERSION_1);
	assert_int_equal(fake_kvm.nr_io, 4);
	assert_int_equal(doorbell_at(doorbell(w, 1), 2), w->f.queues[1].kick_fd);
	assert_int_equal(doorbell_at(doorbell(w, 1), 4), w->f.queues[1].kick_fd);
	assert_int_equal(doorbell_at(doorbell(w, 1), 1), -1);
	world_free(w);
}

static void a_doorbell_that_traps_is_rung_too(void **state)
{
	struct world *w = world_new();
	uint64_t at;

	fake_kvm.refuse_ioeventfd = ENOSPC;
	world_driven_with(w, VERSION_1);
	at = cap_place(w, VIRTIO_PCI_CAP_NOTIFY_CFG);
	assert_int_equal(fake_kvm.nr_io, 0);
	assert_int_equal(world_log(w, "refuses the doorbell of queue 1"), 1);
	reg_write(w, at + 4, 2, 1);
	assert_true(signalled(w->f.queues[1].kick_fd));
	assert_false(signalled(w->f.queues[0].kick_fd));
	for (unsigned size = 1; size <= 8; size *= 2) {
		reg_write(w, at, size, 0);
		assert_true(fd_clear(w->f.queues[0].kick_fd));
	}
	/* There is no third queue. */
	fd_clear(w->f.queues[1].kick_fd);
	reg_write(w, at + 8, 2, 2);
	assert_false(signalled(w->f.queues[0].kick_fd));
	assert_false(signalled(w->f.queues[1].kick_fd));
	world_free(w);
}

static void a_full_blocking_doorbell_holds_nobody_up(void **state)
{
	struct world *w = world_driven();
	uint64_t full = UINT64_MAX - 1;
	int fd = w->f.queues[0].kick_fd;

	/* What a device process can do to the descriptor that it shares. */
	assert_int_equal(write(fd, &full, sizeof(full)), sizeof(full));
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	reg_write(w, cap_place(w, VIRTIO_PCI_CAP_NOTIFY_CFG), 2, 0);
	assert_int_equal(status(w), DRIVER_OK);
	world_free(w);
}

/* --- shared memory --- */

static void regions_lie_apart_in_a_bar_of_64_bits(void **state)
{
	struct world *w = world_with_shm();
	unsigned pos = cap_find(w, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 1);

	assert_int_equal(cfg_read(w, PCI_BASE_ADDRESS_2, 4) & 15, 12);
	assert_int_equal(shm_at(w, 0), bar_addr(w, 2));
	assert_int_equal(shm_at(w, 1), bar_addr(w, 2) + 16 * MIB);
	assert_int_equal(cfg_read(w, pos + 5, 1), 0);
	assert_int_equal(cfg_read(w, pos + VIRTIO_PCI_CAP_LENGTH, 4), 0x80000000);
	assert_int_equal(cfg_read(w, pos + 20, 4), 1);
	assert_int_equal(cap_find(w, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 2), 0);
	world_free(w);
}

static void pieces_are_slots_while_the_bar_is_decoded(void **state)
{
	struct world *w = world_with_shm();
	uint64_t at = shm_at(w, 1) + 5 * GIB, value;

	io_read(w->m.bus, w->r, IO_MMIO, at, 8, &value);
	assert_true(value == UINT64_MAX);
	assert_int_equal(map(w, 0, 5 * GIB, PIECE, memfd(2 * PIECE), PIECE), 0);
	assert_non_null(slot_at(at));
	assert_int_equal(slot_at(at)->memory_size, PIECE);
	cfg_write(w, PCI_COMMAND, 2, 0);
	assert_null(slot_at(at));
	/* One that comes meanwhile is there afterwards. */
	assert_int_equal(map(w, 7, 0, PIECE, memfd(PIECE), 0), 0);
	assert_null(slot_at(shm_at(w, 0)));
	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_non_null(slot_at(at));
	assert_non_null(slot_at(shm_at(w, 0)));
	assert_int_equal(map(w, 0, 5 * GIB, PIECE, -1, 0), 0);
	assert_null(slot_at(at));
	w->owner->ops->shm_clear(w->owner);
	assert_null(slot_at(shm_at(w, 0)));
	world_free(w);
}

static void pieces_are_checked(void **state)
{
	static const struct {
		uint8_t id;
		uint64_t off, len, fd_off;
		int rc;
	} cases[] = {
		{ 7, 0, PIECE, 0, 0 },
		{ 7, PIECE - 4096, 4096, 0, -EEXIST },
		{ 7, PIECE, 4096, 0, 0 },
		{ 7, 16 * MIB - 4096, 8192, 0, -EINVAL },
		{ 7, 16 * MIB, 4096, 0, -EINVAL },
		{ 7, 8 * MIB + 1, 4096, 0, -EINVAL },
		{ 7, 8 * MIB, 4095, 0, -EINVAL },
		{ 7, 8 * MIB, 0, 0, -EINVAL },
		{ 7, 8 * MIB, 4096, 17, -EINVAL },
		{ 7, UINT64_MAX - 4095, 8192, 0, -EINVAL },
		{ 7, 8 * MIB, 8192, UINT64_MAX - 4095, -EINVAL },
		{ 7, 8 * MIB, 8192, INT64_MAX - 4095, -EINVAL },
		{ 1, 0, 4096, 0, -EINVAL },
		{ 0, 0, 7 * GIB, 0, -EINVAL },
	};
	struct world *w = world_with_shm();
	int fds = fd_count();

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(map(w, cases[i].id, cases[i].off, cases[i].len, memfd(PIECE),
					 cases[i].fd_off),
			cases[i].rc);
	/* All taken, all closed. */
	assert_int_equal(fd_count(), fds);
	assert_int_equal(map(w, 7, 8 * MIB, 4096, -1, 0), -ENOENT);
	assert_int_equal(
		map(w, 7, 8 * MIB, 4096, open("/dev/null", O_RDWR | O_CLOEXEC), 0), -ENODEV);
	fake_kvm.refuse_slot = EINVAL;
	assert_int_equal(map(w, 7, 8 * MIB, 4096, memfd(4096), 0), -EINVAL);
	fake_kvm.refuse_slot = 0;
	assert_int_equal(map(w, 7, 8 * MIB, 4096, -1, 0), -ENOENT);
	world_free(w);
}

static void fault(struct pci_function *fn, void *arg)
{
	bool *handled = arg;

	*handled = *handled || (fn->ops->memory_fault && fn->ops->memory_fault(fn));
}

static bool memory_fault(struct world *w)
{
	bool handled = false;

	pci_lock(w->m.pci);
	pci_for_each(w->m.pci, fault, &handled);
	pci_unlock(w->m.pci);
	return handled;
}

static void a_piece_whose_file_is_cut_goes(void **state)
{
	struct world *w = world_with_shm();
	int cut = memfd(PIECE), whole = memfd(PIECE);

	assert_int_equal(map(w, 7, 0, PIECE, dup(cut), 0), 0);
	assert_int_equal(map(w, 7, PIECE, PIECE, dup(whole), 0), 0);
	assert_false(memory_fault(w));
	assert_int_equal(ftruncate(cut, 4096), 0);
	assert_true(memory_fault(w));
	assert_null(slot_at(shm_at(w, 0)));
	assert_non_null(slot_at(shm_at(w, 0) + PIECE));
	assert_int_equal(world_log(w, "cut short"), 1);
	close(cut);
	close(whole);
	world_free(w);
}

static void regions_are_checked(void **state)
{
	static const struct {
		uint64_t size[2];
		uint8_t id[2];
		const char *text;
	} cases[] = {
		{ { 4095, 0 }, { 0, 0 }, "4095" },
		{ { 1ull << 63, 0 }, { 0, 0 }, "0x8000000000000000" },
		{ { 4096, 4096 }, { 3, 3 }, "twice" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct world *w = world_new();

		for (unsigned j = 0; j < 2; j++) {
			w->f.b.info.shm[j].size = cases[i].size[j];
			w->f.b.info.shm[j].id = cases[i].id[j];
		}
		assert_int_equal(w->owner->ops->attached(w->owner, &w->err), -EPROTO);
		if (i)
			assert_non_null(strstr(w->err.text, cases[i].text));
		world_free(w);
	}
}

/* --- resets --- */

static void a_machine_reset_is_a_power_on(void **state)
{
	struct world *w = world_with_vectors();
	uint64_t home;

	home = bar_addr(w, 0);
	w->owner->ops->config_changed(w->owner);
	io_enter(w->m.bus, w->r);
	pci_reset(w->m.pci);
	io_leave(w->r);
	assert_int_equal(w->f.stops, 1);
	assert_int_equal(fake_kvm.nr_irq, 0);
	assert_int_equal(fake_kvm.nr_io, 0);
	assert_int_equal(cfg_read(w, PCI_COMMAND, 2), 0);
	assert_int_equal(cfg_read(w, msix_cap(w) + PCI_MSIX_FLAGS, 2), 2);
	assert_int_equal(bar_addr(w, 0), home);
	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(status(w), 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2), 256);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_MSIX, 2), NO_VECTOR);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_MSIX, 2), NO_VECTOR);
	assert_int_equal(isr_read(w), 0);
	accept_features(w, VERSION_1);
	set_queue(w, 0, NO_VECTOR);
	set_status(w, DRIVER_OK);
	assert_int_equal(w->f.starts, 2);
	fd_signal(w->f.queues[0].call_fd);
	world_serve(w);
	assert_int_equal(line_of(w), 1);
	world_free(w);
}

static void a_machine_reset_empties_shared_memory(void **state)
{
	struct world *w = world_with_shm();
	uint64_t at = shm_at(w, 0);

	assert_int_equal(map(w, 7, 0, PIECE, memfd(PIECE), 0), 0);
	io_enter(w->m.bus, w->r);
	pci_reset(w->m.pci);
	io_leave(w->r);
	assert_null(slot_at(at));
	assert_int_equal(map(w, 7, 0, PIECE, -1, 0), -ENOENT);
	world_free(w);
}

static void nothing_leaks(void **state)
{
	struct world *w = world_with_vectors();
	int fds;

	world_free(w);
	fds = fd_count();
	w = world_with_vectors();
	set_status(w, 0);
	world_free(w);
	w = world_with_shm();
	assert_int_equal(map(w, 7, 0, PIECE, memfd(PIECE), 0), 0);
	world_free(w);
	assert_int_equal(fd_count(), fds);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_queue_signals_its_vector),
		cmocka_unit_test(a_vector_that_is_not_there_is_none),
		cmocka_unit_test(a_vector_that_cannot_be_had_is_none),
		cmocka_unit_test(a_masked_vector_keeps_its_signal),
		cmocka_unit_test(another_vector_is_told_to_the_device),
		cmocka_unit_test(without_msix_queues_share_a_line),
		cmocka_unit_test(a_signal_raises_the_line_until_isr_is_read),
		cmocka_unit_test(intx_can_be_disabled),
		cmocka_unit_test(functions_share_a_line),
		cmocka_unit_test(nothing_interrupts_before_driver_ok_or_after_a_reset),
		cmocka_unit_test(a_change_is_a_generation_and_an_interrupt),
		cmocka_unit_test(a_change_signals_the_configuration_vector),
		cmocka_unit_test(a_device_at_its_end_needs_a_reset),
		cmocka_unit_test(a_device_that_rests_needs_none),
		cmocka_unit_test(doorbells_follow_the_bar),
		cmocka_unit_test(an_old_kvm_gets_a_doorbell_for_each_length),
		cmocka_unit_test(a_doorbell_that_traps_is_rung_too),
		cmocka_unit_test(a_full_blocking_doorbell_holds_nobody_up),
		cmocka_unit_test(regions_lie_apart_in_a_bar_of_64_bits),
		cmocka_unit_test(pieces_are_slots_while_the_bar_is_decoded),
		cmocka_unit_test(pieces_are_checked),
		cmocka_unit_test(a_piece_whose_file_is_cut_goes),
		cmocka_unit_test(regions_are_checked),
		cmocka_unit_test(a_machine_reset_is_a_power_on),
		cmocka_unit_test(a_machine_reset_empties_shared_memory),
		cmocka_unit_test(nothing_leaks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
