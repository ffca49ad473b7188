/*
 * vhost_user_kill_test.c - a disk whose process is killed again and again, under load
 *
 * The whole route but for PCI: a driver's thread, the front-end on the loop, and the block model
 * behind the project's own port in a process of its own (this program once more), which is killed
 * whenever it has done some more work. Each slot of the driver owns a piece of the disk, writes it,
 * reads it back, and compares. The driver sleeps until it is signalled, so a signal that is lost
 * ends the test, too.
 */
#include "vhost_fake.h"

#include <linux/virtio_blk.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "device/block.h"
#include "serve/vhost_user.h"
#include "vq_driver.h"

#define NR_QUEUES  2u
#define QUEUE_SIZE 64
#define SLOTS	   12u /* of a queue: requests that are open at a time */
#define PIECE	   8192u
#define DISK_SIZE  (NR_QUEUES * SLOTS * PIECE)
#define KILLS	   25
#define WORK	   300 /* requests between two kills */

/* --- the process --- */

static int serve_disk(int listen_fd, int image_fd)
{
	struct block_file_config file = { .fd = image_fd, .sparse = true };
	struct block_config config = {
		.name = "_disk0", .nr_queues = NR_QUEUES, .queue_size = QUEUE_SIZE, .nr_threads = 2
	};
	const struct vhost_user_port_config port_config = { 0 };
	struct vhost_user_port *port;
	struct virtio_model *model;
	struct block_store *store;
	struct loop *loop;
	struct err err = { 0 };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	log_init("disk", LOG_ERR);
	if (loop_new(&loop) || block_file_new(&store, &file, &err) ||
		block_new(&model, loop, store, &config, &err) ||
		vhost_user_port_new(&port, loop, model, listen_fd, &port_config, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	return loop_run(loop);
}

/* The image stays open here: the lock of a process that was killed may outlive it for a moment. */
static pid_t spawn(int listen_fd, int image_fd)
{
	char args[2][16];
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid)
		return pid;
	snprintf(args[0], sizeof(args[0]), "%d", listen_fd);
	snprintf(args[1], sizeof(args[1]), "%d", image_fd);
	fcntl(listen_fd, F_SETFD, 0);
	fcntl(image_fd, F_SETFD, 0);
	execl("/proc/self/exe", "disk", args[0], args[1], (char *)NULL);
	_exit(127);
}

/* --- the driver --- */

struct slot {
	struct rig *rig;
	unsigned queue;
	uint64_t sector;
	uint64_t head, data, status; /* IOVAs */
	uint32_t seq;
	bool reading;
};

struct rig {
	struct loop *loop;
	struct owner w;
	struct vhost_user *vu;
	struct drv_mem *mem;
	struct drv *drv[NR_QUEUES];
	struct virtio_queue q[VIRTIO_MAX_QUEUES];
	struct slot slots[NR_QUEUES][SLOTS];
	int call_fd;
	pthread_t thread;
	_Atomic bool ending;
	_Atomic unsigned done;
	_Atomic(const char *) wrong; /* what the driver found */
	unsigned open;
	/* of the process */
	int listen_fd, image_fd;
	char socket[64];
	pid_t pid;
	unsigned goal;
};

static void fill(struct slot *s, uint8_t *data)
{
	uint32_t v = s->seq * 2654435761u + (uint32_t)s->sector;

	for (unsigned i = 0; i < PIECE; i += 4, v = v * 1664525 + 1013904223)
		memcpy(data + i, &v, 4);
}

static bool as_filled(struct slot *s, const uint8_t *data)
{
	uint8_t expected[PIECE];

	fill(s, expected);
	return !memcmp(data, expected, PIECE);
}

/* The next request of a slot: write, then read what was written. */
static void submit(struct slot *s)
{
	struct drv *d = s->rig->drv[s->queue];
	struct virtio_blk_outhdr head = { .type = s->reading ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
		.sector = s->sector };
	struct drv_buf bufs[3] = { { s->head, sizeof(head) }, { s->data, PIECE },
		{ s->status, 1 } };
	uint8_t *data = drv_at(d->m, s->data);

	if (s->reading)
		memset(data, 0xee, PIECE);
	else
		fill(s, data);
	memcpy(drv_at(d->m, s->head), &head, sizeof(head));
	*(uint8_t *)drv_at(d->m, s->status) = 0xff;
	if (drv_add(d, bufs, s->reading ? 1 : 2, s->reading ? 2 : 1, s))
		atomic_store(&s->rig->wrong, "no room in the ring");
	s->rig->open++;
}

static void completed(struct slot *s)
{
	struct rig *r = s->rig;

	r->open--;
	atomic_fetch_add(&r->done, 1);
	if (*(uint8_t *)drv_at(r->mem, s->status) != VIRTIO_BLK_S_OK)
		atomic_store(&r->wrong, "a request failed");
	else if (s->reading && !as_filled(s, drv_at(r->mem, s->data)))
		atomic_store(&r->wrong, "other bytes than were written");
	if (s->reading)
		s->seq++;
	s->reading = !s->reading;
	if (!atomic_load(&r->ending))
		submit(s);
}

static void kick_device(struct rig *r, unsigned queue)
{
	if (drv_must_kick(r->drv[queue]))
		fd_signal(r->q[queue].kick_fd);
}

/* All answers that there are, of all queues. False: there was none. */
static bool collect(struct rig *r)
{
	bool any = false;
	uint32_t written;
	void *slot;

	for (unsigned i = 0; i < NR_QUEUES; i++) {
		while (drv_get(r->drv[i], &slot, &written)) {
			completed(slot);
			any = true;
		}
		if (r->drv[i]->error)
			atomic_store(&r->wrong, r->drv[i]->error);
		kick_device(r, i);
	}
	return any;
}

static void want_signals(struct rig *r, bool want)
{
	for (unsigned i = 0; i < NR_QUEUES; i++)
		drv_want_signals(r->drv[i], want, 0);
}

static void *drive(void *arg)
{
	struct rig *r = arg;
	struct pollfd p = { .fd = r->call_fd, .events = POLLIN };

	for (unsigned i = 0; i < NR_QUEUES; i++) {
		for (unsigned k = 0; k < SLOTS; k++)
			submit(&r->slots[i][k]);
		kick_device(r, i);
	}
	while (r->open && !atomic_load(&r->wrong)) {
		want_signals(r, false);
		while (collect(r) && !atomic_load(&r->wrong))
			;
		want_signals(r, true);
		if (collect(r) || !r->open)
			continue;
		if (poll(&p, 1, (int)(DEADLINE_NS / NS_PER_MS)) != 1)
			atomic_store(&r->wrong, "no signal came");
		fd_clear(r->call_fd);
	}
	return NULL;
}

/* --- all together --- */

static void make_slots(struct rig *r)
{
	uint64_t sector = 0;

	for (unsigned i = 0; i < NR_QUEUES; i++)
		for (unsigned k = 0; k < SLOTS; k++, sector += PIECE / 512)
			r->slots[i][k] = (struct slot){
				.rig = r,
				.queue = i,
				.sector = sector,
				.head = drv_alloc(r->mem, 16, 16),
				.data = drv_alloc(r->mem, PIECE, 512),
				.status = drv_alloc(r->mem, 1, 1),
			};
}

/* The driver's memory is guest RAM, at the same addresses. */
static void make_driver(struct rig *r, const struct drv_config *config)
{
	r->mem = drv_mem_new(RAM_SIZE - DRV_IOVA);
	munmap(r->mem->hva, r->mem->size);
	r->mem->hva = ram.hva + DRV_IOVA;
	r->call_fd = fd_eventfd();
	for (unsigned i = 0; i < NR_QUEUES; i++) {
		struct drv *d = r->drv[i] = drv_new(r->mem, config);

		r->q[i] = (struct virtio_queue){
			.size = QUEUE_SIZE,
			.enabled = true,
			.desc = d->desc_iova,
			.driver = d->driver_iova,
			.device = d->device_iova,
			.kick_fd = fd_eventfd(),
			.call_fd = r->call_fd,
		};
	}
	make_slots(r);
}

static void make_process(struct rig *r)
{
	static unsigned number;
	struct err err = { 0 };

	snprintf(r->socket, sizeof(r->socket), "/tmp/vhost-kill-%d-%u", (int)getpid(), number++);
	r->image_fd = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(r->image_fd, DISK_SIZE), 0);
	r->listen_fd = sock_listen(r->socket, 8, &err);
	assert_true(r->listen_fd >= 0);
	r->pid = spawn(r->listen_fd, r->image_fd);
}

static void kill_process(struct rig *r)
{
	kill(r->pid, SIGKILL);
	/* A kick's timer may interrupt it. */
	assert_int_equal(TEMP_FAILURE_RETRY(waitpid(r->pid, NULL, 0)), r->pid);
}

static bool is_attached(void *arg)
{
	struct rig *r = arg;

	return vhost_user_connected(r->vu) || r->w.failed;
}

static bool has_worked(void *arg)
{
	struct rig *r = arg;

	return atomic_load(&r->done) >= r->goal || atomic_load(&r->wrong);
}

static bool has_drained(void *arg)
{
	struct rig *r = arg;

	return pthread_tryjoin_np(r->thread, NULL) == 0;
}

static void make_front_end(struct rig *r)
{
	struct vhost_user_params p = {
		.id = "dev0",
		.where = r->socket,
		.type = VIRTIO_ID_BLOCK,
		.default_queue_size = QUEUE_SIZE,
		.loop = r->loop,
		.memory = &ram,
		.owner = &r->w.o,
		.times = { .retry_min_ms = 1, .retry_max_ms = 5 },
	};
	struct vhost_user_source *source;
	struct err err = { 0 };

	r->w.o.ops = &owner_ops;
	assert_int_equal(vhost_user_source_connect(r->socket, &source, &err), 0);
	assert_int_equal(vhost_user_new(&p, source, &r->vu), 0);
	assert_int_equal(vhost_user_start(r->vu, &err), 0);
	run_until(r->loop, is_attached, r);
	assert_string_equal(r->w.text, "");
}

static uint64_t features_of(const struct drv_config *c)
{
	return BIT(VIRTIO_BIT_VERSION_1) | (c->packed ? BIT(VIRTIO_BIT_RING_PACKED) : 0) |
	       (c->event_idx ? BIT(VIRTIO_BIT_EVENT_IDX) : 0) |
	       (c->indirect ? BIT(VIRTIO_BIT_INDIRECT) : 0);
}

static void fini(struct rig *r)
{
	vhost_user_free(r->vu);
	kill_process(r);
	for (unsigned i = 0; i < NR_QUEUES; i++) {
		drv_free(r->drv[i]);
		fd_close(&r->q[i].kick_fd);
	}
	fd_close(&r->call_fd);
	fd_close(&r->listen_fd);
	fd_close(&r->image_fd);
	r->mem->hva = mmap(NULL, r->mem->size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	drv_mem_free(r->mem);
	loop_free(r->loop);
	unlink(r->socket);
	ram_fini();
}

static void kill_often(const struct drv_config *config)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct virtio_backend *b;

	ram_init();
	assert_int_equal(loop_new(&r->loop), 0);
	make_driver(r, config);
	make_process(r);
	make_front_end(r);
	b = vhost_user_backend(r->vu);
	assert_int_equal(b->info.features & features_of(config), features_of(config));
	assert_int_equal(b->ops->start(b, features_of(config), r->q), 0);
	assert_int_equal(pthread_create(&r->thread, NULL, drive, r), 0);
	for (unsigned n = 0; n < KILLS && !atomic_load(&r->wrong); n++) {
		r->goal = atomic_load(&r->done) + WORK;
		run_until(r->loop, has_worked, r);
		kill_process(r);
		r->pid = spawn(r->listen_fd, r->image_fd);
	}
	atomic_store(&r->ending, true);
	run_until(r->loop, has_drained, r);
	if (atomic_load(&r->wrong))
		fail_msg("%s after %u requests", atomic_load(&r->wrong), atomic_load(&r->done));
	assert_int_equal(r->open, 0);
	assert_int_equal(atomic_load(&r->w.needs_reset), 0);
	/* It may serve, and be killed, before the front-end knows that it is back. */
	assert_true(r->w.back && r->w.back <= (int)KILLS);
	b->ops->stop(b);
	fini(r);
	free(r);
}

static void no_request_of_a_split_ring_is_lost(void **state)
{
	kill_often(&(struct drv_config){ .size = QUEUE_SIZE });
}

static void nor_with_indirect_tables_and_few_signals(void **state)
{
	kill_often(&(struct drv_config){ .size = QUEUE_SIZE, .event_idx = true, .indirect = true });
}

static void no_request_of_a_packed_ring_is_lost(void **state)
{
	kill_often(&(struct drv_config){ .size = QUEUE_SIZE, .packed = true });
}

static void nor_of_a_packed_one_with_few_signals(void **state)
{
	kill_often(&(struct drv_config){
		.size = QUEUE_SIZE, .packed = true, .event_idx = true, .indirect = true });
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_request_of_a_split_ring_is_lost),
		cmocka_unit_test(nor_with_indirect_tables_and_few_signals),
		cmocka_unit_test(no_request_of_a_packed_ring_is_lost),
		cmocka_unit_test(nor_of_a_packed_one_with_few_signals),
	};

	if (argc == 3)
		return serve_disk(atoi(argv[1]), atoi(argv[2]));
	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
