/* vhost_user_iommu_test.c - a back-end behind the guest's IOMMU is told of mappings, and told again */
#include "vhost_fixture.h"

#include <linux/vhost_types.h>

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

/* --- very many mappings --- */

#define MANY 3000u

static void map_many(struct world *w)
{
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(map(w, i), 0);
}

/* What a back-end knows of a mapping after all that it was told: an update, or nothing any more. */
static bool knows(struct world *w, unsigned connection, unsigned page)
{
	struct fake *f = &w->x->f;
	bool known = false;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vhost_user_iotlb m;

		memcpy(&m, f->recs[i].data, sizeof(m));
		if (f->recs[i].h.request == VHOST_USER_IOTLB_MSG &&
			f->recs[i].connection == connection && m.iova == FIRST + page * 0x2000ull)
			known = m.type == VHOST_IOTLB_UPDATE;
	}
	pthread_mutex_unlock(&f->lock);
	return known;
}

static void a_back_end_is_told_of_many_mappings_by_portions(void **state)
{
	struct world *w = *state;

	map_many(w);
	serve_driver(w);
	assert_int_equal(count(&w->x->f, VHOST_USER_IOTLB_MSG, 1), MANY + 1);
	lose_and_return(w->x);
	assert_int_equal(count(&w->x->f, VHOST_USER_IOTLB_MSG, 2), MANY + 1);
	/* So much can be under way at once, and never was more. */
	assert_in_range(w->x->vu->max_pending, 256, 512);
	/* After all that its queues need, and before they run. */
	assert_true(place(&w->x->f, VHOST_USER_ADD_MEM_REG, 2, 0) <
		    place(&w->x->f, VHOST_USER_IOTLB_MSG, 2, 0));
	assert_true(place(&w->x->f, VHOST_USER_IOTLB_MSG, 2, MANY) <
		    place(&w->x->f, VHOST_USER_SET_VRING_ADDR, 2, 0));
}

/* At the 300th of its messages something happens to the second connection. */
static bool is_midway(struct fake *f, const struct rec *r)
{
	return r->h.request == VHOST_USER_IOTLB_MSG && r->connection == 2 &&
	       count(f, VHOST_USER_IOTLB_MSG, 2) == 300;
}

static bool hangs_up_midway(struct fake *f, const struct rec *r)
{
	if (!is_midway(f, r))
		return false;
	shutdown(f->conn, SHUT_RDWR);
	return true;
}

static void a_back_end_that_is_lost_in_the_midst_of_it_hears_of_all_again(void **state)
{
	struct world *w = *state;

	map_many(w);
	serve_driver(w);
	atomic_store(&w->x->f.hook, hangs_up_midway);
	lose_and_return(w->x);
	assert_int_equal(w->x->f.connections, 3);
	assert_true(count(&w->x->f, VHOST_USER_IOTLB_MSG, 2) < MANY);
	assert_int_equal(count(&w->x->f, VHOST_USER_IOTLB_MSG, 3), MANY + 1);
}

/* The guest, who changes two mappings at that moment: one was told of by then, one was not. */
static struct world *guest_of;
static pthread_t guest;

static void *unmap_two(void *arg)
{
	struct world *w = arg;

	assert_int_equal(unmap(w, 0), 0);
	assert_int_equal(unmap(w, MANY - 1), 0);
	assert_int_equal(map(w, MANY), 0);
	return NULL;
}

static bool guest_changes_midway(struct fake *f, const struct rec *r)
{
	if (is_midway(f, r))
		assert_int_equal(pthread_create(&guest, NULL, unmap_two, guest_of), 0);
	return false;
}

static bool guest_changes_and_no_answer(struct fake *f, const struct rec *r)
{
	guest_changes_midway(f, r);
	return is_midway(f, r);
}

static void check_change(struct world *w, unsigned connection)
{
	assert_int_equal(pthread_join(guest, NULL), 0);
	assert_false(knows(w, connection, 0));
	assert_true(knows(w, connection, 1));
	assert_true(knows(w, connection, MANY - 2));
	assert_false(knows(w, connection, MANY - 1));
	assert_true(knows(w, connection, MANY));
}

static void what_changes_in_the_midst_of_it_is_told(void **state)
{
	struct world *w = guest_of = *state;

	map_many(w);
	serve_driver(w);
	atomic_store(&w->x->f.hook, guest_changes_midway);
	lose_and_return(w->x);
	check_change(w, 2);
}

static void a_back_end_that_stops_to_answer_holds_the_guest_up_for_a_while(void **state)
{
	struct world *w = guest_of = *state;

	w->x->p.times.handshake_ms = 1000;
	map_many(w);
	serve_driver(w);
	atomic_store(&w->x->f.hook, guest_changes_and_no_answer);
	lose_and_return(w->x);
	check_change(w, w->x->f.connections);
	assert_int_equal(logged(w->x, "(telling it of the guest's mappings)"), 1);
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
		TEST(a_back_end_is_told_of_many_mappings_by_portions),
		TEST(a_back_end_that_is_lost_in_the_midst_of_it_hears_of_all_again),
		TEST(what_changes_in_the_midst_of_it_is_told),
		TEST(a_back_end_that_stops_to_answer_holds_the_guest_up_for_a_while),
		TEST(a_device_may_be_lost_and_stopped_while_its_mappings_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
