/*
 * fuzz_vhost_user_client.c - the vhost-user front-end, against what back-ends may say
 *
 * The input is what a driver does and what a back-end answers:
 *
 *   byte 0    bits 0-4: number of the driver's actions; bit 5: after them, give a lost device
 *             time to come back
 *   byte 1    bits of the virtio type
 *   n * 2     actions: kind, argument
 *   the rest  one answer after the other: a control byte, then what it asks for
 *             (fuzz_server.h); the back-end's own is a request of its: length and bytes
 *
 * Guest RAM is an array. What must hold: no crash, no hang, no leak, a text of one line for each
 * refusal, and as many descriptors after it as before.
 */
#include <errno.h>

#include "attach/vhost_user.h"
#include "base/log.h"
#include "fuzz_server.h"
#include "wire/vhost_user.h"

#define RAM_SIZE     (1 * MIB)
#define NR_QUEUES    4u
#define COME_BACK_MS 5

/* --- guest RAM --- */

struct memory {
	struct mem_range range;
	struct memory_listener *listener;
};

static struct memory ram;

void memory_listen(struct memory *m, struct memory_listener *l)
{
	m->listener = l;
	l->add(l, &m->range);
	l->commit(l);
}

void memory_unlisten(struct memory *m, struct memory_listener *l)
{
	m->listener = NULL;
}

unsigned memory_nr_ranges(const struct memory *m)
{
	return 1;
}

const struct mem_range *memory_range(const struct memory *m, unsigned i)
{
	return &m->range;
}

void *memory_ptr(const struct memory *m, uint64_t gpa, uint64_t len)
{
	return range_ok(gpa, len, m->range.size) ? (char *)m->range.hva + gpa : NULL;
}

int memory_read(const struct memory *m, uint64_t gpa, void *buf, uint64_t len)
{
	const void *from = memory_ptr(m, gpa, len);

	if (!from)
		return -EFAULT;
	memcpy(buf, from, len);
	return 0;
}

/* --- the back-end --- */

static int back_fd = -1; /* for requests of its own */

static uint64_t good_number(uint32_t request)
{
	switch (request) {
	case VHOST_USER_GET_FEATURES:
		return 1ull << VIRTIO_BIT_VERSION_1 | 1ull << VIRTIO_BIT_RING_PACKED | 1ull << 30 |
		       7;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		return ~0ull;
	case VHOST_USER_GET_QUEUE_NUM:
		return NR_QUEUES;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		return 8;
	default:
		return 0; /* done */
	}
}

/* The payload that a well-meaning back-end answers with. Descriptors: *nr_fds. */
static uint32_t good_payload(
	const struct vhost_user_header *h, union vhost_user_payload *p, int *nr_fds)
{
	switch (h->request) {
	case VHOST_USER_GET_VRING_BASE:
		return sizeof(p->state);
	case VHOST_USER_GET_CONFIG:
		memset(p->config.bytes, 3, sizeof(p->config.bytes));
		return h->size;
	case VHOST_USER_GET_INFLIGHT_FD:
		p->inflight.mmap_size = 4096;
		p->inflight.mmap_offset = 0;
		*nr_fds = 1;
		return sizeof(p->inflight);
	case VHOST_USER_GET_SHMEM_CONFIG:
		p->shmem.nr = 1;
		p->shmem.sizes[1] = 1 * MIB;
		return sizeof(p->shmem);
	default:
		p->u64 = good_number(h->request);
		return sizeof(p->u64);
	}
}

static void send_own_request(struct input *in)
{
	uint8_t bytes[128];
	uint32_t len = take_copy(in, take8(in) & 127, bytes, sizeof(bytes));

	if (back_fd >= 0)
		send_message(back_fd, bytes, len, bytes[0] >> 6 & 3);
}

static bool is_answered(const struct vhost_user_header *h)
{
	const struct vhost_user_rule *rule = vhost_user_rule(h->request);

	require(rule && h->size >= rule->min && h->size <= rule->max);
	return rule->replies || h->flags & VHOST_USER_FLAG_NEED_REPLY;
}

/* False: hang up. */
static bool answer(
	int fd, const struct vhost_user_header *h, const union vhost_user_payload *request)
{
	static uint8_t m[sizeof(*h) + sizeof(*request) + 64];
	struct vhost_user_header reply = { h->request,
		VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY, 0 };
	union vhost_user_payload p = *request;
	struct input *in = &server.in;
	uint8_t control;
	int nr_fds = 0;
	uint32_t len;

	if (!in->left)
		return false;
	control = take8(in);
	if (control & ANSWER_OWN_BEFORE)
		send_own_request(in);
	if (ANSWER_KIND(control) == ANSWER_BYTES) {
		len = take_copy(in, take16(in), m, sizeof(m));
		send_message(fd, m, len, ANSWER_FDS(control));
		return true;
	}
	reply.size = ANSWER_KIND(control) == ANSWER_PAYLOAD
			     ? take_copy(in, take16(in), &p, sizeof(p))
			     : good_payload(h, &p, &nr_fds);
	len = (uint32_t)sizeof(reply) + reply.size;
	memcpy(m, &reply, sizeof(reply));
	memcpy(m + sizeof(reply), &p, reply.size);
	if (ANSWER_KIND(control) == ANSWER_CHANGED)
		change_bytes(in, m, len);
	if (is_answered(h) || ANSWER_KIND(control) != ANSWER_GOOD)
		send_message(fd, m, len, ANSWER_FDS(control) ? ANSWER_FDS(control) : nr_fds);
	return true;
}

static bool serve_one(int fd)
{
	union vhost_user_payload request = { 0 };
	struct vhost_user_header h;
	struct fd_list fds = { .nr = 0 };
	bool more = recv_all(fd, &h, sizeof(h), &fds);

	if (more) {
		require(h.size <= sizeof(request));
		more = recv_all(fd, &request, h.size, &fds);
	}
	if (more && h.request == VHOST_USER_SET_BACKEND_REQ_FD) {
		fd_close(&back_fd);
		back_fd = fd_list_take(&fds);
	}
	fd_list_close(&fds);
	return more && answer(fd, &h, &request);
}

static void hung_up(void)
{
	fd_close(&back_fd);
}

/* --- the owner --- */

static struct loop *loop;
static int outcome; /* 1: none yet */

static int attached(struct virtio_owner *o, struct err *err)
{
	outcome = 0;
	return 0;
}

static void failed(struct virtio_owner *o, int rc, const struct err *err)
{
	require(rc < 0);
	require_text(rc, err);
	outcome = rc;
	loop_quit(loop, 0);
}

static void nothing(struct virtio_owner *o)
{
}

static int shm_map(struct virtio_owner *o, uint8_t shmid, uint64_t off, uint64_t len, int fd,
	uint64_t fd_off, bool writable)
{
	require(len && !((off | len | fd_off) % PAGE_SIZE_4K) && off <= UINT64_MAX - len);
	fd_close(&fd);
	return off ? -EINVAL : 0;
}

static const struct virtio_owner_ops owner_ops = {
	.attached = attached,
	.failed = failed,
	.lost = nothing,
	.back = nothing,
	.config_changed = nothing,
	.needs_reset = nothing,
	.shm_map = shm_map,
	.shm_clear = nothing,
};

/* --- the driver --- */

static int kick_fd;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_init("fuzz", LOG_ERR);
	ram.range.fd = memfd_create("ram", MFD_CLOEXEC);
	ram.range.size = RAM_SIZE;
	require(ram.range.fd >= 0 && !ftruncate(ram.range.fd, RAM_SIZE));
	ram.range.hva = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, ram.range.fd, 0);
	require(ram.range.hva != MAP_FAILED && !loop_new(&loop));
	server_init("vhost-user", serve_one);
	server.hung_up = hung_up;
	kick_fd = fd_eventfd();
	require(kick_fd >= 0);
	return 0;
}

struct driver {
	struct virtio_backend *b;
	bool started, running[NR_QUEUES];
	struct virtio_queue q[VIRTIO_MAX_QUEUES];
};

static void start(struct driver *d, uint8_t arg)
{
	uint64_t features = d->b->info.features;

	if (d->started)
		return;
	if (arg & 1)
		features &= ~(1ull << VIRTIO_BIT_RING_PACKED);
	for (unsigned i = 0; i < d->b->info.nr_queues; i++)
		d->q[i] = (struct virtio_queue){
			.size = 16,
			.enabled = i != 1 || arg & 2,
			.desc = 0x1000 * (i % 128),
			.driver = 0x1000 * (i % 128) + 0x400,
			.device = 0x1000 * (i % 128) + 0x800,
			.kick_fd = kick_fd,
			.call_fd = i ? -1 : kick_fd,
		};
	d->started = !d->b->ops->start(d->b, features, d->q);
}

static void act(struct driver *d, struct input *in)
{
	uint8_t kind = take8(in), arg = take8(in);
	struct virtio_backend *b = d->b;
	unsigned queue = b->info.nr_queues ? arg % b->info.nr_queues : 0;
	uint64_t value = arg;

	switch (kind & 7) {
	case 0:
	case 1:
		start(d, arg);
		break;
	case 2:
		if (d->started)
			b->ops->stop(b);
		d->started = false;
		break;
	case 3:
		b->ops->config_read(b, arg * 2u, &value, 1u << (kind >> 4 & 3));
		break;
	case 4:
		b->ops->config_write(b, arg, &value, 1u << (kind >> 4 & 3));
		break;
	case 5:
		if (d->started && queue && !b->ops->queue_stop(b, queue))
			b->ops->queue_start(b, queue, &d->q[queue]);
		break;
	case 6:
		if (b->info.nr_queues)
			b->ops->queue_call(b, queue, arg & 1 ? kick_fd : -1);
		break;
	default:
		/* What a back-end without an inflight area left behind. */
		memset((char *)ram.range.hva + 0x1000 * (arg & 3), arg, 0x1000);
		run_for(loop, 1);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	uint8_t first = take8(&in), type = take8(&in);
	struct input actions = { in.at, MIN((size_t)(first & 31) * 2, in.left) };
	struct virtio_owner owner = { &owner_ops };
	struct vhost_user_params p = {
		.id = "dev0",
		.where = server.path,
		.type = (type & 63) ? type & 63 : 1,
		.force = type & 64,
		.loop = loop,
		.memory = &ram,
		.owner = &owner,
		.times = { .request_ms = 5,
			.handshake_ms = 10,
			.connect_ms = 5,
			.retry_min_ms = 1 },
	};
	struct vhost_user_source *source;
	struct vhost_user *vu;
	static struct driver d;
	struct err err = { 0 };
	int fds_before = fd_count();

	server_begin((struct input){ in.at + actions.left, in.left - actions.left });
	outcome = 1;
	require(!vhost_user_source_connect(server.path, &source, &err) &&
		!vhost_user_new(&p, source, &vu) && !vhost_user_start(vu, &err));
	for (unsigned n = 0; outcome == 1; n++) {
		require(n < 1000);
		run_for(loop, 1);
	}
	d = (struct driver){ .b = vhost_user_backend(vu) };
	while (!outcome && actions.left)
		act(&d, &actions);
	if (!outcome && first & 32)
		run_for(loop, COME_BACK_MS);
	vhost_user_free(vu);
	server_end();
	require(fd_count() == fds_before);
	return 0;
}
