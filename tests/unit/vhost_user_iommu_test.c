/* vhost_user_iommu_test.c - a back-end behind the guest's IOMMU is told of mappings, and told again */
#include "vhost_fixture.h"

#include "machine/iommu.h"

#define RW	 (DMA_CAN_READ | DMA_CAN_WRITE)
#define ENDPOINT 8
#define DOMAIN	 1
#define FIRST	 (4 * GIB) /* of the mappings beside the one that the rings are in */

/* A device whose driver has mapped all of low RAM where it lies. */
struct world {
	struct fix *x;
	struct iommu *io;
	struct dma_space *s;
};

static int set_up(void **state)
{
	const struct iommu_params p = { .last = UINT64_MAX };
	struct world *w = calloc(1, sizeof(*w));

	w->x = fix_new();
	w->x->f.features |= BIT(VIRTIO_BIT_ACCESS_PLATFORM);
	assert_int_equal(iommu_new(&p, &w->io), 0);
	assert_int_equal(dma_space_new(&ram, "dev0", &w->s), 0);
	assert_int_equal(iommu_add(w->io, ENDPOINT, w->s), 0);
	assert_int_equal(iommu_attach(w->io, DOMAIN, ENDPOINT, false), 0);
	assert_int_equal(iommu_map(w->io, DOMAIN, 0, RAM_SIZE - 1, 0, RW), 0);
	w->x->p.dma = w->s;
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;

	fix_free(w->x);
	iommu_remove(w->s);
	dma_space_free(w->s);
	iommu_free(w->io);
	free(w);
	return 0;
}

static int map(struct world *w, unsigned page)
{
	uint64_t at = FIRST + page * 0x2000ull;

	return iommu_map(w->io, DOMAIN, at, at + 0xfff, 0x1000, RW);
}

static int unmap(struct world *w, unsigned page)
{
	uint64_t at = FIRST + page * 0x2000ull;

	return iommu_unmap(w->io, DOMAIN, at, at + 0xfff);
}

static void serve_driver(struct world *w)
{
	attach(w->x);
	assert_int_equal(start(w->x, BIT(VIRTIO_BIT_ACCESS_PLATFORM)), 0);
}

/* --- what changes meanwhile --- */

struct changer {
	struct world *w;
	_Atomic bool end;
	_Atomic unsigned rounds;
};

static void *map_and_unmap(void *arg)
{
	struct changer *c = arg;

	while (!atomic_load(&c->end)) {
		assert_int_equal(map(c->w, 0), 0);
		assert_int_equal(unmap(c->w, 0), 0);
		atomic_fetch_add(&c->rounds, 1);
	}
	return NULL;
}

static bool went_on(void *arg)
{
	return atomic_load(&((struct changer *)arg)->rounds) > 3;
}

/* Each change is complete though the device goes, comes back, and goes for good. */
static void a_device_may_be_lost_and_stopped_while_its_mappings_change(void **state)
{
	struct world *w = *state;
	struct changer c = { .w = w };
	pthread_t thread;

	atomic_store(&w->x->f.forgets, true);
	serve_driver(w);
	assert_int_equal(pthread_create(&thread, NULL, map_and_unmap, &c), 0);
	for (unsigned i = 0; i < 10; i++) {
		atomic_store(&c.rounds, 0);
		run_until(w->x->loop, went_on, &c);
		lose_and_return(w->x);
	}
	vhost_user_stop(w->x->vu);
	atomic_store(&c.rounds, 0);
	run_until(w->x->loop, went_on, &c);
	atomic_store(&c.end, true);
	pthread_join(thread, NULL);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_device_may_be_lost_and_stopped_while_its_mappings_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
