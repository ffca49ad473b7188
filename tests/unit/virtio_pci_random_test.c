/*
 * virtio_pci_random_test.c - random accesses to all of a virtio function, by one thread and by
 * several
 *
 * Nothing is expected but that sanitizers stay silent, the fake back-end is called in a sound order
 * (it asserts that), and nothing is left behind.
 */
#include <stdatomic.h>

#include "virtio_fake.h"

static uint64_t next_random(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Values that mean something more often than random ones do. */
static uint64_t some_value(uint64_t *s)
{
	static const uint64_t values[] = { 0, 1, 2, 3, 4, 0xf, 0xff, 0xffff, 64, 128, 0x10000,
		UINT64_MAX };
	uint64_t r = next_random(s);

	return r & 1 ? next_random(s) : values[(r >> 8) % ARRAY_SIZE(values)];
}

static void random_access(struct world *w, uint64_t *s)
{
	unsigned size = 1u << (next_random(s) % 4), kind = (unsigned)(next_random(s) % 16);
	uint64_t off = next_random(s) % 0x10000, value;

	/* Mostly where the registers are. */
	if (kind < 10)
		off = off % 64 + (kind < 8 ? 0 : kind == 8 ? 0x3000 : 0x8000);
	/* And often as a driver would. */
	if (kind == 12)
		com_write(w, VIRTIO_PCI_COMMON_MSIX + off % 24 * 2, 2, off >> 8 & 1);
	else if (kind == 15)
		cfg_write(w, (unsigned)(off % 256), MIN(size, 4u), (uint32_t)some_value(s));
	else if (kind == 14)
		cfg_read(w, (unsigned)(off % 256), MIN(size, 4u));
	else if (next_random(s) & 3)
		io_write(w->m.bus, w->r, IO_MMIO, bar_addr(w, 0) + off, size, some_value(s));
	else
		io_read(w->m.bus, w->r, IO_MMIO, bar_addr(w, 0) + off, size, &value);
	if (kind == 13)
		cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
}

/* Bring it into a state where more of it listens. */
static void drive_again(struct world *w, uint64_t home)
{
	cfg_write(w, PCI_BASE_ADDRESS_0, 4, (uint32_t)home);
	cfg_write(w, PCI_BASE_ADDRESS_1, 4, (uint32_t)(home >> 32));
	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	set_status(w, 0);
	accept_features(w, VERSION_1 | VIRTIO_BIT(VIRTIO_BIT_RING_RESET));
	set_queue(w, 0, 1);
	set_status(w, DRIVER_OK);
}

static void random_accesses_do_no_harm(void **state)
{
	struct world *w = world_with_shm();
	uint64_t s = 0x9e3779b97f4a7c15, home = bar_addr(w, 0);

	assert_int_equal(map(w, 7, 0, PIECE, memfd(PIECE), 0), 0);
	for (unsigned i = 0; i < 300000; i++) {
		random_access(w, &s);
		if (i % 64 == 0) {
			w->f.start_rc = next_random(&s) % 4 ? 0 : -EINVAL;
			w->f.queue_rc = next_random(&s) % 4 ? 0 : -EIO;
			w->owner->ops->config_changed(w->owner);
			world_serve(w);
		}
		if (i % 64 == 32)
			drive_again(w, home);
	}
	/* It went somewhere. */
	assert_true(w->f.starts > 100 && w->f.stops > 100);
	assert_true(w->f.queue_starts && w->f.queue_stops && w->f.queue_calls);
	assert_true(w->f.config_reads > 100 && w->f.config_writes > 100);
	world_free(w);
}

/* --- several threads --- */

#define NR_VCPUS 3

struct vcpu {
	struct world w; /* with a reader of its own */
	uint64_t seed, home;
	pthread_t thread;
	_Atomic bool done;
};

static void *vcpu_main(void *arg)
{
	struct vcpu *c = arg;

	for (unsigned i = 0; i < 20000; i++) {
		random_access(&c->w, &c->seed);
		if (i % 64 == 32)
			drive_again(&c->w, c->home);
	}
	atomic_store(&c->done, true);
	return NULL;
}

/* What the back-end says meanwhile, on the loop thread. */
static void backend_speaks(struct world *w, unsigned round)
{
	struct virtio_owner *o = w->owner;

	o->ops->config_changed(o);
	if (round % 16 == 0)
		o->ops->needs_reset(o);
	map(w, 7, round % 8 * PIECE, PIECE, memfd(PIECE), 0);
	map(w, 7, round * 3 % 8 * PIECE, PIECE, -1, 0);
	if (round % 32 == 0)
		o->ops->shm_clear(o);
	world_serve(w);
}

static bool all_done(struct vcpu *vcpus)
{
	bool done = true;

	for (unsigned i = 0; i < NR_VCPUS; i++)
		done = done && atomic_load(&vcpus[i].done);
	return done;
}

static void threads_do_no_harm_to_each_other(void **state)
{
	static struct vcpu vcpus[NR_VCPUS];
	struct world *w = world_with_shm();
	uint64_t home = bar_addr(w, 0);

	for (unsigned i = 0; i < NR_VCPUS; i++) {
		vcpus[i] = (struct vcpu){ .w = *w, .seed = i + 1, .home = home };
		vcpus[i].w.r = io_bus_reader(w->m.bus, i + 1);
	}
	for (unsigned i = 0; i < NR_VCPUS; i++)
		assert_int_equal(pthread_create(&vcpus[i].thread, NULL, vcpu_main, &vcpus[i]), 0);
	for (unsigned round = 1; !all_done(vcpus); round++)
		backend_speaks(w, round);
	for (unsigned i = 0; i < NR_VCPUS; i++)
		pthread_join(vcpus[i].thread, NULL);
	assert_true(w->f.starts > 10 && w->f.stops > 10);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_accesses_do_no_harm),
		cmocka_unit_test(threads_do_no_harm_to_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
