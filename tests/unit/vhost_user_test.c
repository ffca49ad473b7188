/* vhost_user_test.c - the front-end against good, odd and hostile back-ends; loss and return */
#include "vhost_fake.h"

#include "attach/vhost_user_priv.h"

#define NR	  2u
#define RING_SIZE 64

/* A front-end, its owner and a driver's queues. */
struct fix {
	struct fake f;
	struct owner w;
	struct loop *loop;
	struct vhost_user *vu;
	struct vhost_user_params p;
	struct virtio_queue q[VIRTIO_MAX_QUEUES];
	uint16_t sizes[VIRTIO_MAX_QUEUES];
	int log_fd, fds_before;
	char log[64];
};

static struct fix *fix_new(void)
{
	struct fix *x = calloc(1, sizeof(*x));
	static unsigned number;

	snprintf(x->log, sizeof(x->log), "/tmp/vhost-log-%d-%u", (int)getpid(), number++);
	assert_int_equal(log_open(x->log), 0);
	x->fds_before = fd_count();
	ram_init();
	fake_init(&x->f);
	assert_int_equal(loop_new(&x->loop), 0);
	x->w.o.ops = &owner_ops;
	x->p = (struct vhost_user_params){
		.id = "dev0",
		.where = x->f.path,
		.type = VIRTIO_ID_BLOCK,
		.loop = x->loop,
		.memory = &ram,
		.owner = &x->w.o,
		.times = {
			.request_ms = 300,
			.handshake_ms = 300,
			.connect_ms = 2000,
			.retry_min_ms = 1,
			.retry_max_ms = 20,
		},
	};
	for (unsigned i = 0; i < NR; i++) {
		x->q[i] = (struct virtio_queue){
			.size = RING_SIZE,
			.enabled = true,
			.desc = 0x10000 * (i + 1),
			.driver = 0x10000 * (i + 1) + 0x4000,
			.device = 0x10000 * (i + 1) + 0x8000,
			.kick_fd = fd_eventfd(),
			.call_fd = fd_eventfd(),
		};
	}
	return x;
}

static void fix_make(struct fix *x)
{
	struct vhost_user_source *source;
	struct err err = { 0 };

	assert_int_equal(vhost_user_source_connect(x->f.path, &source, &err), 0);
	assert_int_equal(vhost_user_new(&x->p, source, &x->vu), 0);
	assert_int_equal(vhost_user_start(x->vu, &err), 0);
}

static void fix_free(struct fix *x)
{
	vhost_user_free(x->vu);
	fake_fini(&x->f);
	loop_free(x->loop);
	for (unsigned i = 0; i < VIRTIO_MAX_QUEUES; i++) {
		if (x->q[i].kick_fd > 0)
			close(x->q[i].kick_fd);
		if (x->q[i].call_fd > 0)
			close(x->q[i].call_fd);
	}
	ram_fini();
	assert_int_equal(fd_count(), x->fds_before);
	unlink(x->log);
	free(x);
}

/* How many lines of the log hold text. */
static unsigned logged(const struct fix *x, const char *text)
{
	FILE *file = fopen(x->log, "re");
	char line[1024];
	unsigned n = 0;

	while (fgets(line, sizeof(line), file))
		n += strstr(line, text) != NULL;
	fclose(file);
	return n;
}

/* --- conditions --- */

static bool is_connected(void *arg)
{
	return vhost_user_connected(((struct fix *)arg)->vu) || ((struct fix *)arg)->w.failed;
}

static MAYBE_UNUSED bool has_failed(void *arg)
{
	return ((struct fix *)arg)->w.failed;
}

static bool is_lost(void *arg)
{
	return ((struct fix *)arg)->w.lost;
}

static bool is_back(void *arg)
{
	return ((struct fix *)arg)->w.back;
}

static MAYBE_UNUSED bool needs_reset(void *arg)
{
	return atomic_load(&((struct fix *)arg)->w.needs_reset);
}

static void attach(struct fix *x)
{
	fake_run(&x->f);
	fix_make(x);
	run_until(x->loop, is_connected, x);
	assert_string_equal(x->w.text, "");
	assert_int_equal(x->w.attached, 1);
}

static struct virtio_backend *backend(struct fix *x)
{
	return vhost_user_backend(x->vu);
}

static int start(struct fix *x, uint64_t features)
{
	struct virtio_backend *b = backend(x);

	return b->ops->start(b, features | BIT(VIRTIO_BIT_VERSION_1), x->q);
}

static void stop(struct fix *x)
{
	backend(x)->ops->stop(backend(x));
}

static void lose_and_return(struct fix *x)
{
	x->w.lost = x->w.back = 0;
	fake_hang_up(&x->f);
	run_until(x->loop, is_lost, x);
	run_until(x->loop, is_back, x);
}

/* --- the handshake --- */

static void a_handshake_takes_what_is_known_and_masks_the_rest(void **state)
{
	struct fix *x = fix_new();

	x->f.protocol = ~0ull;
	x->f.features = ~0ull;
	attach(x);
	assert_int_equal(x->f.acked,
		P(MQ) | P(LOG_SHMFD) | P(REPLY_ACK) | P(BACKEND_REQ) | P(CONFIG) |
			P(BACKEND_SEND_FD) | P(INFLIGHT_SHMFD) | P(RESET_DEVICE) |
			P(CONFIGURE_MEM_SLOTS) | P(STATUS) | P(DEVICE_STATE) | P(SHMEM_MAP));
	/* The type's own from 0 to 23 and from 50; and of the rest those that need nobody's help. */
	assert_int_equal(backend(x)->info.features,
		0xffffffull | BIT(28) | BIT(29) | BIT(32) | BIT(34) | BIT(35) | BIT(36) | BIT(38) |
			BIT(40) | ~0ull << 50);
	fix_free(x);
}

static void queues_are_as_many_as_the_back_end_has(void **state)
{
	struct fix *x = fix_new();

	x->f.queue_num = 5;
	attach(x);
	assert_int_equal(backend(x)->info.nr_queues, 5);
	assert_int_equal(backend(x)->info.queue_sizes[4], 256);
	fix_free(x);
}

static void a_start_tells_everything_in_order(void **state)
{
	struct fix *x = fix_new();
	struct fake *f = &x->f;
	struct rec r;

	x->f.protocol |= P(INFLIGHT_SHMFD);
	attach(x);
	assert_int_equal(start(x, BIT(9)), 0);
	assert_int_equal(f->last_features, BIT(32) | BIT(30) | BIT(9));
	assert_int_equal(count(f, VHOST_USER_ADD_MEM_REG, 1), 1);
	for (unsigned i = 0; i < NR; i++) {
		r = nth(f, VHOST_USER_SET_VRING_NUM, 1, i);
		assert_int_equal(r.state.num, RING_SIZE);
		assert_true(place(f, VHOST_USER_SET_VRING_NUM, 1, i) <
			    place(f, VHOST_USER_GET_INFLIGHT_FD, 1, 0));
		assert_int_equal(nth(f, VHOST_USER_SET_VRING_BASE, 1, i).state.num, 0);
		r = nth(f, VHOST_USER_SET_VRING_ADDR, 1, i);
		assert_int_equal(r.addr.desc, VHU_USER_BASE + x->q[i].desc);
		assert_int_equal(r.addr.avail, VHU_USER_BASE + x->q[i].driver);
		assert_int_equal(r.addr.used, VHU_USER_BASE + x->q[i].device);
		assert_int_equal(nth(f, VHOST_USER_SET_VRING_KICK, 1, i).nr_fds, 1);
		assert_true(place(f, VHOST_USER_SET_INFLIGHT_FD, 1, 0) <
			    place(f, VHOST_USER_SET_VRING_KICK, 1, i));
		assert_int_equal(nth(f, VHOST_USER_SET_VRING_ENABLE, 1, i).state.num, 1);
		assert_true(fd_clear(x->q[i].kick_fd));
	}
	assert_true(place(f, VHOST_USER_SET_VRING_KICK, 1, 1) <
		    place(f, VHOST_USER_SET_VRING_ENABLE, 1, 0));
	fix_free(x);
}

static void a_stop_drains_and_the_connection_stays(void **state)
{
	struct fix *x = fix_new();

	x->f.protocol |= P(RESET_DEVICE);
	attach(x);
	for (unsigned n = 1; n <= 3; n++) {
		assert_int_equal(start(x, 0), 0);
		stop(x);
		assert_int_equal(count(&x->f, VHOST_USER_GET_VRING_BASE, 0), n * NR);
		assert_int_equal(count(&x->f, VHOST_USER_RESET_DEVICE, 0), n);
		assert_int_equal(count(&x->f, VHOST_USER_ADD_MEM_REG, 0), 1);
	}
	assert_int_equal(x->f.connections, 1);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 1, 2).state.num, 0);
	fix_free(x);
}

static void a_lost_back_end_is_replaced_and_goes_on_at_the_used_index(void **state)
{
	struct fix *x = fix_new();
	uint16_t used = 0xfffe;

	attach(x);
	assert_int_equal(start(x, 0), 0);
	memcpy(ram.hva + x->q[1].device + 2, &used, sizeof(used));
	fd_clear(x->q[1].kick_fd);
	lose_and_return(x);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, 0).state.num, 0);
	assert_int_equal(nth(&x->f, VHOST_USER_SET_VRING_BASE, 2, 1).state.num, used);
	assert_int_equal(count(&x->f, VHOST_USER_SET_VRING_ENABLE, 2), NR);
	assert_true(fd_clear(x->q[1].kick_fd));
	assert_int_equal(atomic_load(&x->w.needs_reset), 0);
	assert_int_equal(logged(x, "is away until"), 1);
	assert_int_equal(logged(x, "is back"), 1);
	fix_free(x);
}

/* --- the list --- */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_handshake_takes_what_is_known_and_masks_the_rest),
		cmocka_unit_test(queues_are_as_many_as_the_back_end_has),
		cmocka_unit_test(a_start_tells_everything_in_order),
		cmocka_unit_test(a_stop_drains_and_the_connection_stays),
		cmocka_unit_test(a_lost_back_end_is_replaced_and_goes_on_at_the_used_index),
	};

	log_init("test", LOG_INFO);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
