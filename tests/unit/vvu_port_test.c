#include "serve/vvu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#include "base/log.h"
#include "base/loop.h"
#include "echo_model.h"
#include "vvu_fake.h"

#define GPA	0x100000ull
#define USER	0x7f0000000000ull
#define RING(q) ((q)*0x4000ull)
#define AVAIL	0x1000ull
#define USED	0x2000ull
#define OUT_AT	0x40000ull
#define IN_AT	0x48000ull
#define MEMORY	MIB

struct end {
	struct vvu_fake fake;
	struct loop *loop;
	struct echo *echo;
	struct vvu_port *port;
	pthread_t thread;
	int fds_before;
	bool lost;
	uint16_t avail[FAKE_QUEUES];
	struct loop_work work;
	struct loop_timer timer;
};

static void lost(void *arg)
{
	((struct end *)arg)->lost = true;
	loop_quit(((struct end *)arg)->loop, 9);
}

static void *serve(void *arg)
{
	return (void *)(intptr_t)loop_run(((struct end *)arg)->loop);
}

static void prepare(struct end *e)
{
	memset(e, 0, sizeof(*e));
	fake_init(&e->fake);
	assert_int_equal(loop_new(&e->loop), 0);
	e->echo = echo_new(e->loop);
	e->fds_before = fd_count();
}

static int try(struct end *e, struct err *err)
{
	const struct vvu_port_config config = { .lost = lost, .arg = e, .calls = &e->fake.calls };

	err_clear(err);
	return vvu_port_new(&e->port, e->loop, &e->echo->model, FAKE_NAME, &config, err);
}

static void start(struct end *e)
{
	struct err err;

	assert_int_equal(try(e, &err), 0);
	assert_int_equal(pthread_create(&e->thread, NULL, serve, e), 0);
	fake_wait_up(&e->fake, VVU_STATUS_BACKEND_UP);
}

static void freed(void *arg)
{
	struct end *e = arg;

	e->port = NULL;
	loop_quit(e->loop, 0);
}

static void end(struct end *e)
{
	loop_quit(e->loop, 0);
	pthread_join(e->thread, NULL);
	vvu_port_free(e->port, freed, e);
	while (e->port)
		loop_run(e->loop);
	assert_int_equal(e->fake.status, 0);
	assert_int_equal(fd_count(), e->fds_before);
	virtio_model_free(&e->echo->model);
	loop_free(e->loop);
	fake_fini(&e->fake);
}

/* --- the sibling --- */

static void say(struct end *e, uint32_t request, uint32_t flags, const void *payload, uint32_t size)
{
	struct vhost_user_msg m = {
		.header = { request, VHOST_USER_FLAG_VERSION | flags, size },
	};

	if (size)
		memcpy(&m.payload, payload, size);
	fake_give(&e->fake, &m, sizeof(m.header) + size);
}

static void say_u64(struct end *e, uint32_t request, uint64_t value)
{
	say(e, request, 0, &value, sizeof(value));
}

static uint64_t ask(struct end *e, uint32_t request)
{
	struct vhost_user_msg m;

	say(e, request, 0, NULL, 0);
	fake_take(&e->fake, &m);
	assert_int_equal(m.header.request, request);
	assert_true(m.header.flags & VHOST_USER_FLAG_REPLY);
	assert_int_equal(m.header.size, 8);
	return m.payload.u64;
}

/* What REPLY_ACK says of it. */
static uint64_t acked(struct end *e, uint32_t request, const void *payload, uint32_t size)
{
	struct vhost_user_msg m;

	say(e, request, VHOST_USER_FLAG_NEED_REPLY, payload, size);
	fake_take(&e->fake, &m);
	assert_int_equal(m.header.request, request);
	assert_int_equal(m.header.size, 8);
	return m.payload.u64;
}

static void hello(struct end *e)
{
	uint64_t features;

	pthread_mutex_lock(&e->fake.lock);
	e->fake.vvu.status |= VVU_STATUS_FRONTEND_UP;
	pthread_mutex_unlock(&e->fake.lock);
	memset(e->avail, 0, sizeof(e->avail));
	features = ask(e, VHOST_USER_GET_FEATURES);
	assert_true(features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES));
	features = ask(e, VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_false(features & ~VVU_PROTOCOL_FEATURES);
	assert_true(features & VHOST_USER_PROTOCOL_BIT(REPLY_ACK));
	say_u64(e, VHOST_USER_SET_PROTOCOL_FEATURES, features);
	say_u64(e, VHOST_USER_SET_FEATURES,
		VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES));
}

static uint64_t share(struct end *e, uint64_t at, uint64_t size)
{
	struct vhost_user_mem_table t = { .nr = 1 };

	t.regions[0] = (struct vhost_user_mem_region){ GPA, size, USER, at };
	return acked(e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32);
}

/* All but the sizes of things: the memory of the sibling begins at the BAR's begin. */
static void set_up_queue(struct end *e, unsigned q)
{
	struct vhost_user_vring_state num = { q, 64 }, base = { q, 0 }, on = { q, 1 };
	struct vhost_user_vring_addr a = {
		.index = q,
		.desc = USER + RING(q),
		.avail = USER + RING(q) + AVAIL,
		.used = USER + RING(q) + USED,
	};

	memset(e->fake.memory + RING(q), 0, 0x4000);
	say(e, VHOST_USER_SET_VRING_NUM, 0, &num, sizeof(num));
	say(e, VHOST_USER_SET_VRING_BASE, 0, &base, sizeof(base));
	say(e, VHOST_USER_SET_VRING_ADDR, 0, &a, sizeof(a));
	say_u64(e, VHOST_USER_SET_VRING_CALL, q);
	say_u64(e, VHOST_USER_SET_VRING_ERR, q);
	say_u64(e, VHOST_USER_SET_VRING_KICK, q);
	assert_int_equal(acked(e, VHOST_USER_SET_VRING_ENABLE, &on, sizeof(on)), 0);
}

static uint16_t bell_of(struct end *e, unsigned index)
{
	uint16_t *at = (void *)(e->fake.bells + index * VVU_DOORBELL_STEP);

	return __atomic_exchange_n(at, 0, __ATOMIC_ACQ_REL);
}

static void await_bell(struct end *e, unsigned index)
{
	time_t until = time(NULL) + FAKE_DEADLINE;

	while (!bell_of(e, index)) {
		assert_true(time(NULL) < until);
		sched_yield();
	}
}

/* A request through the sibling's memory, its kick by this vector, its call at the doorbell. */
static void echo_by(struct end *e, unsigned q, unsigned vector)
{
	uint8_t *ram = e->fake.memory;
	struct vring_desc *desc = (void *)(ram + RING(q));
	struct vring_avail *avail = (void *)(ram + RING(q) + AVAIL);
	struct vring_used *used = (void *)(ram + RING(q) + USED);

	snprintf((char *)ram + OUT_AT, 64, "request %u of queue %u", e->avail[q], q);
	memset(ram + IN_AT, 0, 64);
	desc[0] = (struct vring_desc){ GPA + OUT_AT, 64, VRING_DESC_F_NEXT, 1 };
	desc[1] = (struct vring_desc){ GPA + IN_AT, 64, VRING_DESC_F_WRITE, 0 };
	avail->ring[e->avail[q] % 64] = 0;
	__atomic_store_n(&avail->idx, ++e->avail[q], __ATOMIC_RELEASE);
	fake_raise(&e->fake, vector);
	await_bell(e, VVU_DOORBELL_CALL(FAKE_QUEUES, q));
	assert_int_equal(__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE), e->avail[q]);
	assert_memory_equal(ram + OUT_AT, ram + IN_AT, 64);
}

static void echo(struct end *e, unsigned q)
{
	echo_by(e, q, e->fake.kick_vector[q]);
}

/* From its coming to its last request. */
static void sibling(struct end *e)
{
	hello(e);
	assert_int_equal(share(e, 0, MEMORY), 0);
	for (unsigned q = 0; q < FAKE_QUEUES; q++)
		set_up_queue(e, q);
	for (unsigned n = 0; n < 8; n++)
		echo(e, n % FAKE_QUEUES);
}

static void await_resets(struct end *e, unsigned nr)
{
	time_t until = time(NULL) + FAKE_DEADLINE;

	while (atomic_load(&e->echo->resets) < nr) {
		assert_true(time(NULL) < until);
		sched_yield();
	}
}

/* --- what works --- */

static void a_sibling_is_served(void **state)
{
	struct end e;

	prepare(&e);
	start(&e);
	assert_int_equal(e.fake.accepted, VIRTIO_BIT(VIRTIO_BIT_VERSION_1) |
						  VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM));
	for (unsigned i = 0; i < FAKE_QUEUES; i++)
		assert_int_equal(e.fake.kick_vector[i], 2 + i);
	sibling(&e);
	assert_int_equal(ask(&e, VHOST_USER_GET_QUEUE_NUM), ECHO_QUEUES);
	end(&e);
}

static void through_iommufd_as_well(void **state)
{
	struct end e;

	prepare(&e);
	e.fake.cdev = true;
	e.fake.slow = true;
	start(&e);
	sibling(&e);
	end(&e);
}

/* allow_unsafe_interrupts is a parameter of vfio_iommu_type1's, and another of iommufd's. */
static void through_a_container_where_only_that_may(void **state)
{
	struct end e;

	prepare(&e);
	e.fake.cdev = true;
	e.fake.minds_iommufd = true;
	start(&e);
	sibling(&e);
	end(&e);
}

static void siblings_come_and_go_in_each_way(void **state)
{
	struct end e;

	prepare(&e);
	start(&e);
	for (unsigned n = 0; n < 21; n++) {
		sibling(&e);
		switch (n % 3) {
		case 0: /* a buffer of no bytes, BACKEND_UP stays */
			pthread_mutex_lock(&e.fake.lock);
			e.fake.vvu.status = VVU_STATUS_BACKEND_UP;
			pthread_mutex_unlock(&e.fake.lock);
			fake_give(&e.fake, NULL, 0);
			break;
		case 1: /* the status says it */
			fake_set_vvu(&e.fake, 0);
			break;
		case 2: /* both, and a message that comes too late */
			say(&e, VHOST_USER_GET_FEATURES, 0, NULL, 0);
			fake_set_vvu(&e.fake, 0);
			await_resets(&e, n + 1);
			fake_wait_up(&e.fake, VVU_STATUS_BACKEND_UP);
			fake_give(&e.fake, NULL, 0);
		}
		await_resets(&e, n + 1);
		fake_wait_up(&e.fake, VVU_STATUS_BACKEND_UP);
		if (n % 3 == 2) {
			struct vring_desc d;

			/* The late message may have been answered. */
			while (fake_has(&e.fake, VVU_QUEUE_TX))
				fake_push(&e.fake, VVU_QUEUE_TX,
					fake_pop(&e.fake, VVU_QUEUE_TX, &d), 0);
		}
	}
	end(&e);
}

static void queues_beyond_the_vectors_share_one(void **state)
{
	struct end e;

	prepare(&e);
	e.fake.granted = 3;
	start(&e);
	assert_int_equal(e.fake.nr_irqs, 3);
	assert_int_equal(e.fake.kick_vector[0], 2);
	assert_int_equal(e.fake.kick_vector[1], 1);
	assert_int_equal(e.fake.kick_vector[3], 1);
	sibling(&e);
	end(&e);
}

static void inflight_and_log_lie_in_shared_memory(void **state)
{
	struct vhost_user_inflight area = { .mmap_size = 0x10000, .num_queues = 4,
		.queue_size = 64 };
	struct vhost_user_log log = { .size = 0x1000 };
	struct vhost_user_msg m;
	struct end e;
	bool marked = false;

	prepare(&e);
	start(&e);
	hello(&e);
	assert_int_equal(share(&e, 0, MEMORY), 0);
	assert_int_equal(acked(&e, VHOST_USER_SET_INFLIGHT_FD, &area, sizeof(area)), 0);
	say(&e, VHOST_USER_SET_LOG_BASE, 0, &log, sizeof(log));
	fake_take(&e.fake, &m);
	say_u64(&e, VHOST_USER_SET_LOG_FD, 0);
	say_u64(&e, VHOST_USER_SET_FEATURES,
		VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES) |
			VIRTIO_BIT(VHOST_USER_F_LOG_ALL));
	set_up_queue(&e, 0);
	echo(&e, 0);
	assert_true(e.fake.small[(GPA + IN_AT) / 4096 / 8] & 1 << (GPA + IN_AT) / 4096 % 8);
	for (unsigned i = 0; i < 0x1000; i++)
		marked |= e.fake.small[MIB + i];
	assert_true(marked);
	end(&e);
}

static void change_config(struct loop_work *work)
{
	struct echo *echo = container_of(work, struct echo, release);

	virtio_model_config_changed(&echo->model);
}

static void the_model_can_speak_first(void **state)
{
	struct vhost_user_msg m;
	struct end e;

	prepare(&e);
	start(&e);
	hello(&e);
	assert_int_equal(acked(&e, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0), 0);
	loop_post(e.loop, &e.echo->release, change_config);
	fake_take(&e.fake, &m);
	assert_int_equal(m.header.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_false(m.header.flags & VHOST_USER_FLAG_REPLY);
	end(&e);
}

static void a_ring_that_does_not_start_rings_the_error_bell(void **state)
{
	struct vhost_user_vring_addr a = { .index = 1, .desc = 1, .avail = 2, .used = 3 };
	struct vhost_user_vring_state num = { 1, 64 }, on = { 1, 1 };
	struct end e;

	prepare(&e);
	start(&e);
	hello(&e);
	assert_int_equal(share(&e, 0, MEMORY), 0);
	say(&e, VHOST_USER_SET_VRING_NUM, 0, &num, sizeof(num));
	say(&e, VHOST_USER_SET_VRING_ADDR, 0, &a, sizeof(a));
	say_u64(&e, VHOST_USER_SET_VRING_ERR, 1);
	say_u64(&e, VHOST_USER_SET_VRING_KICK, 1);
	assert_int_not_equal(acked(&e, VHOST_USER_SET_VRING_ENABLE, &on, sizeof(on)), 0);
	await_bell(&e, VVU_DOORBELL_ERR(FAKE_QUEUES, 1));
	end(&e);
}

/* --- who means it no good --- */

static void places_that_are_not_there_are_refused(void **state)
{
	struct vhost_user_inflight area = { .mmap_size = 2 * MIB, .num_queues = 4,
		.queue_size = 64 };
	uint64_t queue = FAKE_QUEUES;
	struct end e;

	prepare(&e);
	start(&e);
	hello(&e);
	assert_int_not_equal(share(&e, 0, FAKE_MEMORY + 4096), 0);
	assert_int_not_equal(share(&e, FAKE_MEMORY - 4096, 8192), 0);
	assert_int_not_equal(share(&e, UINT64_MAX - 4095, 4096), 0);
	assert_int_not_equal(share(&e, 0, 1ull << 63), 0);
	assert_int_not_equal(share(&e, 0, 0), 0);
	assert_int_not_equal(acked(&e, VHOST_USER_SET_INFLIGHT_FD, &area, sizeof(area)), 0);
	assert_int_not_equal(acked(&e, VHOST_USER_SET_VRING_KICK, &queue, 8), 0);
	assert_int_not_equal(acked(&e, VHOST_USER_SET_VRING_CALL, &queue, 8), 0);
	/* It goes on as if nothing had been. */
	assert_int_equal(share(&e, 0, MEMORY), 0);
	set_up_queue(&e, 0);
	echo(&e, 0);
	end(&e);
}

/* The port drops a front-end whom it has no words for: the sibling is hung up on, the next let in. */
static void a_sibling_that_is_dropped_is_hung_up_on(void **state)
{
	struct end e;

	prepare(&e);
	start(&e);
	hello(&e);
	say_u64(&e, VHOST_USER_SET_VRING_KICK, FAKE_QUEUES);
	await_resets(&e, 1);
	pthread_mutex_lock(&e.fake.lock);
	while (!e.fake.hang_ups)
		fake_wait(&e.fake);
	pthread_mutex_unlock(&e.fake.lock);
	fake_wait_up(&e.fake, VVU_STATUS_BACKEND_UP);
	sibling(&e);
	end(&e);
}

struct look {
	struct loop_work work;
	struct echo_queue *queue;
	bool stopping;
	sem_t done;
};

static void look(struct loop_work *work)
{
	struct look *l = container_of(work, struct look, work);

	l->stopping = l->queue->stopped;
	sem_post(&l->done);
}

/* On the loop's thread, after all that was ready before: whether the queue is to stop. */
static bool is_stopping(struct end *e, unsigned q)
{
	struct look l = { .queue = &e->echo->queues[q] };

	sem_init(&l.done, 0, 0);
	loop_post(e->loop, &l.work, look);
	sem_wait(&l.done);
	sem_destroy(&l.done);
	return l.stopping;
}

static void make_request(struct end *e, unsigned q)
{
	uint8_t *ram = e->fake.memory;
	struct vring_desc *desc = (void *)(ram + RING(q));
	struct vring_avail *avail = (void *)(ram + RING(q) + AVAIL);

	desc[0] = (struct vring_desc){ GPA + OUT_AT, 64, VRING_DESC_F_NEXT, 1 };
	desc[1] = (struct vring_desc){ GPA + IN_AT, 64, VRING_DESC_F_WRITE, 0 };
	avail->ring[e->avail[q] % 64] = 0;
	__atomic_store_n(&avail->idx, ++e->avail[q], __ATOMIC_RELEASE);
	fake_raise(&e->fake, e->fake.kick_vector[q]);
}

/* Dropped for a queue that there is none of, while a request of queue 0 is under way. */
static void start_and_drop_at_work(struct end *e)
{
	time_t until = time(NULL) + FAKE_DEADLINE;

	prepare(e);
	start(e);
	hello(e);
	assert_int_equal(share(e, 0, MEMORY), 0);
	set_up_queue(e, 0);
	atomic_store(&e->echo->hold, true);
	make_request(e, 0);
	while (!atomic_load(&e->echo->queues[0].held))
		assert_true(time(NULL) < until);
	say_u64(e, VHOST_USER_SET_VRING_KICK, FAKE_QUEUES);
	while (!is_stopping(e, 0))
		assert_true(time(NULL) < until);
}

/* With the sibling its memory goes, where a request that is under way reads and writes. */
static void a_sibling_that_is_dropped_is_kept_until_its_requests_are_done(void **state)
{
	struct end e;

	start_and_drop_at_work(&e);
	/* What the port has closed was seen by now. */
	for (unsigned i = 0; i < 3; i++)
		assert_true(is_stopping(&e, 0));
	pthread_mutex_lock(&e.fake.lock);
	assert_int_equal(e.fake.hang_ups, 0);
	pthread_mutex_unlock(&e.fake.lock);
	echo_release(e.echo);
	await_bell(&e, VVU_DOORBELL_CALL(FAKE_QUEUES, 0));
	pthread_mutex_lock(&e.fake.lock);
	while (!e.fake.hang_ups)
		fake_wait(&e.fake);
	pthread_mutex_unlock(&e.fake.lock);
	fake_wait_up(&e.fake, VVU_STATUS_BACKEND_UP);
	sibling(&e);
	end(&e);
}

/* The tx queue's vector is raised, then the model is done, before the port looks at either. */
static void finish_late(struct loop_timer *timer)
{
	struct end *e = container_of(timer, struct end, timer);

	fake_raise(&e->fake, e->fake.queues[VVU_QUEUE_TX].vector);
	atomic_store(&e->echo->hold, false);
	echo_release_now(&e->echo->release);
}

static void set_timer(struct loop_work *work)
{
	struct end *e = container_of(work, struct end, work);

	loop_timer_set(e->loop, &e->timer, 1, finish_late);
}

/* What a sibling says after it was dropped is nobody's first message, whatever comes first. */
static void what_a_dropped_sibling_says_is_thrown_away(void **state)
{
	struct end e;

	start_and_drop_at_work(&e);
	say(&e, VHOST_USER_GET_FEATURES, 0, NULL, 0);
	/* Its interrupt is taken, but not the message. */
	for (unsigned i = 0; i < 3; i++)
		assert_true(is_stopping(&e, 0));
	loop_post(e.loop, &e.work, set_timer);
	await_bell(&e, VVU_DOORBELL_CALL(FAKE_QUEUES, 0));
	pthread_mutex_lock(&e.fake.lock);
	while (!e.fake.hang_ups)
		fake_wait(&e.fake);
	pthread_mutex_unlock(&e.fake.lock);
	fake_wait_up(&e.fake, VVU_STATUS_BACKEND_UP);
	sibling(&e);
	end(&e);
}

/* After each of these the function is set up anew, and serves. */
static void nonsense_of_the_device_is_answered_by_a_reset(void **state)
{
	struct vring_desc d;
	struct end e;

	prepare(&e);
	start(&e);
	for (unsigned n = 0; n < 6; n++) {
		unsigned resets = e.fake.resets, id;

		sibling(&e);
		id = fake_pop(&e.fake, VVU_QUEUE_RX, &d);
		switch (n) {
		case 0:
			fake_push(&e.fake, VVU_QUEUE_RX, 64, 12);
			break;
		case 1:
			fake_push(&e.fake, VVU_QUEUE_RX, id, 1025);
			break;
		case 2:
			__atomic_fetch_add(
				&fake_used(&e.fake, VVU_QUEUE_RX)->idx, 1000, __ATOMIC_RELEASE);
			fake_raise(&e.fake, 0);
			break;
		case 3: /* a header that says more than there is */
			((struct vhost_user_header *)fake_dma(&e.fake, d.addr, 12))->size = 9;
			fake_push(&e.fake, VVU_QUEUE_RX, id, 20);
			break;
		case 4: /* what was never posted */
			fake_push(&e.fake, VVU_QUEUE_TX, 5, 0);
			break;
		case 5:
			pthread_mutex_lock(&e.fake.lock);
			e.fake.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
			pthread_mutex_unlock(&e.fake.lock);
			fake_raise(&e.fake, 0);
		}
		pthread_mutex_lock(&e.fake.lock);
		while (e.fake.resets == resets)
			fake_wait(&e.fake);
		pthread_mutex_unlock(&e.fake.lock);
		fake_wait_up(&e.fake, VVU_STATUS_BACKEND_UP);
	}
	sibling(&e);
	end(&e);
}

static void a_function_that_is_gone_is_given_up(void **state)
{
	struct end e;
	void *code;

	prepare(&e);
	start(&e);
	sibling(&e);
	pthread_mutex_lock(&e.fake.lock);
	e.fake.status = 0xff;
	pthread_mutex_unlock(&e.fake.lock);
	fake_raise(&e.fake, 0);
	pthread_join(e.thread, &code);
	assert_int_equal((intptr_t)code, 9);
	assert_true(e.lost);
	assert_int_equal(pthread_create(&e.thread, NULL, serve, &e), 0);
	end(&e);
}

/* --- what cannot be used --- */

static void other_id(struct vvu_fake *f)
{
	f->config[2] = 0x42;
}

static void no_memory(struct vvu_fake *f)
{
	f->config[0xd0 + 1] = 0; /* the list ends before it */
}

static void bar_too_small(struct vvu_fake *f)
{
	f->config[0x40 + 13] = 0xff; /* length of the common configuration */
}

static void loops(struct vvu_fake *f)
{
	f->config[0x58 + 1] = 0x40;
}

static void refuses(struct vvu_fake *f)
{
	f->refuses = true;
}

static void no_queues(struct vvu_fake *f)
{
	f->vvu.max_queues = 0;
}

static void no_vectors(struct vvu_fake *f)
{
	f->nr_vectors = 0;
}

static void one_vector(struct vvu_fake *f)
{
	f->granted = 1;
}

static void no_room(struct vvu_fake *f)
{
	f->last_iova = FAKE_IOVA + 65535;
}

static void unsafe(struct vvu_fake *f)
{
	f->unsafe = true;
	f->cdev = f->minds_iommufd = true;
}

static void other_driver(struct vvu_fake *f)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/" FAKE_NAME "/driver", f->root);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("../drivers/virtio-pci", path), 0);
}

static void what_cannot_be_used_is_refused_in_a_line(void **state)
{
	static const struct {
		void (*spoil)(struct vvu_fake *f);
		const char *says;
	} cases[] = {
		{ other_id, "expected 1af4:107d" },
		{ no_memory, "has no shared memory" },
		{ bar_too_small, "of BAR 0 of 0x8000 bytes" },
		{ loops, "has no notifications of queues" },
		{ refuses, "does not take features" },
		{ no_queues, "serves no queue" },
		{ no_vectors, "has no MSI-X" },
		{ one_vector, "has 1 interrupt vectors" },
		{ no_room, "allows no range" },
		{ unsafe, "allow_unsafe_interrupts" },
		{ other_driver, "is bound to virtio-pci, expected vfio-pci" },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err;
		struct end e;

		prepare(&e);
		cases[i].spoil(&e.fake);
		assert_true(try(&e, &err) < 0);
		if (!strstr(err.text, cases[i].says))
			fail_msg("'%s', expected '%s'", err.text, cases[i].says);
		assert_null(strchr(err.text, '\n'));
		assert_int_equal(fd_count(), e.fds_before);
		virtio_model_free(&e.echo->model);
		loop_free(e.loop);
		fake_fini(&e.fake);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sibling_is_served),
		cmocka_unit_test(through_iommufd_as_well),
		cmocka_unit_test(through_a_container_where_only_that_may),
		cmocka_unit_test(siblings_come_and_go_in_each_way),
		cmocka_unit_test(queues_beyond_the_vectors_share_one),
		cmocka_unit_test(inflight_and_log_lie_in_shared_memory),
		cmocka_unit_test(the_model_can_speak_first),
		cmocka_unit_test(a_ring_that_does_not_start_rings_the_error_bell),
		cmocka_unit_test(places_that_are_not_there_are_refused),
		cmocka_unit_test(a_sibling_that_is_dropped_is_hung_up_on),
		cmocka_unit_test(a_sibling_that_is_dropped_is_kept_until_its_requests_are_done),
		cmocka_unit_test(what_a_dropped_sibling_says_is_thrown_away),
		cmocka_unit_test(nonsense_of_the_device_is_answered_by_a_reset),
		cmocka_unit_test(a_function_that_is_gone_is_given_up),
		cmocka_unit_test(what_cannot_be_used_is_refused_in_a_line),
	};

	log_init("vvu_port", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
