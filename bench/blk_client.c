/*
 * blk_client.c - a vhost-user-blk front-end that does nothing but make requests
 *
 *   blk_client --socket-path=PATH --op=read|write --bytes=N --depth=N [--queues=N] [--seconds=S]
 *              [--sequential] [--poll] [--idle] [--pid=PID] [--cpu=N]
 *
 * Negotiates, hands over one region of memory with a split ring for each queue, keeps `depth`
 * requests open on each, and counts for as long as it was told. With --poll it looks for used ones
 * all the time and asks for no signals; else it sleeps when there are none, as a guest does. --pid
 * names the server, whose CPU time over the same span is taken from the scheduler's own account.
 * With --idle it then asks for nothing for one more second. Prints, on one line,
 *
 *   {"ops_s": ..., "mib_s": ..., "mean_us": ..., "p50_us": ..., "p99_us": ...,
 *    "cpu": ..., "cpu_us_op": ...,	the server's, in CPUs and for each operation
 *    "client_cpu": ..., "kicks_op": ..., "signals_op": ...,
 *    "idle_cpu": ..., "private_kib": ...}	of that second; the server's own memory then
 *
 * Latencies are those of one request of each queue, timed each time it comes round. Trusts the
 * server: it is a tool for one that works.
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "wire/vhost_user.h"
#include "wire/virtio.h"

#define MAX_QUEUES 8
#define QUEUE_SIZE 128u /* of guests; each request is one indirect table */
#define MAX_DEPTH  QUEUE_SIZE
#define NR_SAMPLES (1u << 16)
#define EVENT_IDX  VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX)
#define WARM_UP_NS (200 * NS_PER_MS)
/* Of the client's own address space, which ring addresses are told in, and of the "guest's". */
#define GUEST_BASE 0x100000ull

struct options {
	const char *path;
	bool write, sequential, poll, idle;
	uint32_t bytes;
	unsigned depth, queues;
	double seconds;
	int pid, cpu;
};

struct queue {
	unsigned index;
	struct vring_desc *desc, *tables;
	struct vring_avail *avail;
	struct vring_used *used;
	struct virtio_blk_outhdr *headers;
	uint8_t *data, *status;
	uint16_t avail_idx, used_idx, kicked;
	int kick, call;
	uint64_t random, next;
	uint64_t started_ns; /* request 0 */
};

struct client {
	struct options o;
	int sock;
	uint64_t features, sectors;
	uint8_t *memory;
	uint64_t memory_size;
	struct queue queues[MAX_QUEUES];
	uint64_t ops, kicks, signals, errors;
	uint32_t *samples;
	unsigned nr_samples, seen;
};

static void die(const char *what)
{
	fprintf(stderr, "blk_client: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Messages */

static void tell(struct client *c, uint32_t request, const void *payload, uint32_t size,
	const int *fds, unsigned nr_fds)
{
	struct vhost_user_header h = { request, VHOST_USER_FLAG_VERSION, size };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)payload, size } };
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov) };
	struct cmsghdr *cmsg;

	if (nr_fds) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		cmsg = CMSG_FIRSTHDR(&m);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int));
	}
	if (sendmsg(c->sock, &m, MSG_NOSIGNAL) != (ssize_t)(sizeof(h) + size))
		die("sendmsg");
}

static void receive(struct client *c, void *buf, size_t len)
{
	ssize_t n = recv(c->sock, buf, len, MSG_WAITALL);

	if (n != (ssize_t)len) {
		errno = n < 0 ? errno : ECONNRESET;
		die("the server's answer");
	}
}

static void ask(struct client *c, uint32_t request, const void *payload, uint32_t size,
	void *answer, uint32_t answer_size)
{
	struct vhost_user_header h;

	tell(c, request, payload, size, NULL, 0);
	receive(c, &h, sizeof(h));
	if (h.request != request || h.size != answer_size) {
		errno = EPROTO;
		die("the server's answer");
	}
	receive(c, answer, answer_size);
}

static void tell_u64(struct client *c, uint32_t request, uint64_t value)
{
	tell(c, request, &value, sizeof(value), NULL, 0);
}

static uint64_t ask_u64(struct client *c, uint32_t request)
{
	uint64_t value;

	ask(c, request, NULL, 0, &value, sizeof(value));
	return value;
}

/* Set-up */

/* A socket is there a moment before its server listens. */
static void connect_to(struct client *c)
{
	const struct timespec pause = { .tv_nsec = NS_PER_MS };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	uint64_t until = clock_now_ns() + 5 * NS_PER_S;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", c->o.path);
	c->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->sock < 0)
		die(c->o.path);
	while (connect(c->sock, (struct sockaddr *)&addr, sizeof(addr))) {
		if (errno != ECONNREFUSED || clock_now_ns() > until)
			die(c->o.path);
		nanosleep(&pause, NULL);
	}
}

static void negotiate(struct client *c)
{
	uint64_t want = VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_VHOST_USER) |
			EVENT_IDX | VIRTIO_BIT(VIRTIO_BIT_INDIRECT) |
			VIRTIO_BIT(VIRTIO_BLK_F_FLUSH) | VIRTIO_BIT(VIRTIO_BLK_F_MQ);
	uint64_t protocol = VHOST_USER_PROTOCOL_BIT(MQ) | VHOST_USER_PROTOCOL_BIT(CONFIG);
	struct vhost_user_config config = { .size = sizeof(struct virtio_blk_config) };
	uint32_t size;
	struct virtio_blk_config *blk = (struct virtio_blk_config *)config.bytes;

	c->features = ask_u64(c, VHOST_USER_GET_FEATURES) & want;
	protocol &= ask_u64(c, VHOST_USER_GET_PROTOCOL_FEATURES);
	tell_u64(c, VHOST_USER_SET_PROTOCOL_FEATURES, protocol);
	tell(c, VHOST_USER_SET_OWNER, NULL, 0, NULL, 0);
	tell_u64(c, VHOST_USER_SET_FEATURES, c->features);
	config.size = 60;
	size = VHOST_USER_CONFIG_HEADER + config.size;
	ask(c, VHOST_USER_GET_CONFIG, &config, size, &config, size);
	c->sectors = blk->capacity;
	if (c->sectors * 512 < c->o.bytes) {
		errno = ENOSPC;
		die("the disk is smaller than a request");
	}
}

/* Rings, headers, status bytes and data of a queue, page-aligned. */
static uint64_t queue_bytes(const struct options *o)
{
	return 64 * KIB + 4096 + (uint64_t)o->depth * align_up(o->bytes, 4096);
}

static uint64_t gpa_of(struct client *c, void *p)
{
	return GUEST_BASE + (uint64_t)((uint8_t *)p - c->memory);
}

static void lay_out(struct client *c, struct queue *q, uint8_t *at)
{
	q->desc = (struct vring_desc *)at;
	q->avail = (struct vring_avail *)(at + 16 * KIB);
	q->used = (struct vring_used *)(at + 32 * KIB);
	q->headers = (struct virtio_blk_outhdr *)(at + 48 * KIB);
	q->tables = (struct vring_desc *)(at + 52 * KIB);
	q->status = at + 64 * KIB;
	q->data = q->status + 4096;
	q->random = 88172645463325252ull + q->index;
	for (unsigned i = 0; i < c->o.depth; i++) {
		struct vring_desc *d = &q->tables[3 * i];
		uint16_t flags = VRING_DESC_F_NEXT | (c->o.write ? 0 : VRING_DESC_F_WRITE);
		uint8_t *data = q->data + i * align_up(c->o.bytes, 4096);

		q->headers[i].type = c->o.write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
		q->desc[i] = (struct vring_desc){ gpa_of(c, d), 48, VRING_DESC_F_INDIRECT, 0 };
		d[0] = (struct vring_desc){ gpa_of(c, &q->headers[i]), 16, VRING_DESC_F_NEXT, 1 };
		d[1] = (struct vring_desc){ gpa_of(c, data), c->o.bytes, flags, 2 };
		d[2] = (struct vring_desc){ gpa_of(c, &q->status[i]), 1, VRING_DESC_F_WRITE, 0 };
	}
}

static void share_memory(struct client *c)
{
	uint64_t each = align_up(queue_bytes(&c->o), 2 * MIB);
	struct vhost_user_mem_table table = { .nr = 1 };
	int fd = memfd_create("guest", MFD_CLOEXEC);

	c->memory_size = each * c->o.queues;
	if (fd < 0 || ftruncate(fd, (off_t)c->memory_size))
		die("memory");
	c->memory = mmap(
		NULL, c->memory_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (c->memory == MAP_FAILED)
		die("memory");
	table.regions[0] = (struct vhost_user_mem_region){ GUEST_BASE, c->memory_size,
		(uint64_t)(uintptr_t)c->memory, 0 };
	tell(c, VHOST_USER_SET_MEM_TABLE, &table, 8 + sizeof(table.regions[0]), &fd, 1);
	close(fd);
	for (unsigned i = 0; i < c->o.queues; i++) {
		c->queues[i].index = i;
		lay_out(c, &c->queues[i], c->memory + i * each);
	}
}

static void start_queue(struct client *c, struct queue *q)
{
	struct vhost_user_vring_state num = { q->index, QUEUE_SIZE }, base = { q->index, 0 };
	struct vhost_user_vring_state enable = { q->index, 1 };
	struct vhost_user_vring_addr addr = { q->index, 0, (uint64_t)(uintptr_t)q->desc,
		(uint64_t)(uintptr_t)q->used, (uint64_t)(uintptr_t)q->avail, 0 };
	uint64_t index = q->index;

	q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	tell(c, VHOST_USER_SET_VRING_NUM, &num, sizeof(num), NULL, 0);
	tell(c, VHOST_USER_SET_VRING_BASE, &base, sizeof(base), NULL, 0);
	tell(c, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr), NULL, 0);
	tell(c, VHOST_USER_SET_VRING_CALL, &index, sizeof(index), &q->call, 1);
	tell(c, VHOST_USER_SET_VRING_KICK, &index, sizeof(index), &q->kick, 1);
	tell(c, VHOST_USER_SET_VRING_ENABLE, &enable, sizeof(enable), NULL, 0);
}

/* Requests */

static uint64_t next_sector(struct client *c, struct queue *q)
{
	uint64_t requests = c->sectors * 512 / c->o.bytes;

	if (c->o.sequential)
		return (q->next++ + q->index * (requests / c->o.queues)) % requests *
		       (c->o.bytes / 512);
	q->random ^= q->random << 13;
	q->random ^= q->random >> 7;
	q->random ^= q->random << 17;
	return q->random % requests * (c->o.bytes / 512);
}

static void submit(struct client *c, struct queue *q, unsigned i)
{
	q->headers[i].sector = next_sector(c, q);
	q->status[i] = 0xff;
	q->avail->ring[q->avail_idx++ % QUEUE_SIZE] = (uint16_t)i;
	if (!i)
		q->started_ns = clock_now_ns();
}

static void kick_if_wanted(struct client *c, struct queue *q)
{
	uint16_t event;
	bool want;

	/* Pairs with the device's acquire; then its wish for kicks is looked at. */
	__atomic_store_n(&q->avail->idx, q->avail_idx, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (c->features & EVENT_IDX) {
		event = *(volatile uint16_t *)&q->used->ring[QUEUE_SIZE];
		want = vring_need_event(event, q->avail_idx, q->kicked);
	} else {
		want = !(*(volatile uint16_t *)&q->used->flags & VRING_USED_F_NO_NOTIFY);
	}
	q->kicked = q->avail_idx;
	if (!want)
		return;
	c->kicks++;
	if (eventfd_write(q->kick, 1))
		die("kick");
}

static void sample(struct client *c, struct queue *q)
{
	uint64_t ns = clock_now_ns() - q->started_ns;
	unsigned at = c->seen++;

	/* Beyond the room a random one is replaced, so that all count alike. */
	if (at >= NR_SAMPLES) {
		at = (unsigned)(q->random >> 20) % c->seen;
		if (at >= NR_SAMPLES)
			return;
	} else {
		c->nr_samples++;
	}
	c->samples[at] = (uint32_t)MIN(ns, (uint64_t)UINT32_MAX);
}

static unsigned take_used(struct client *c, struct queue *q)
{
	unsigned n = 0;

	while (q->used_idx != __atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE)) {
		unsigned i = q->used->ring[q->used_idx++ % QUEUE_SIZE].id;

		if (i >= c->o.depth || q->status[i])
			c->errors++;
		if (!i)
			sample(c, q);
		submit(c, q, i % c->o.depth);
		n++;
	}
	if (n)
		kick_if_wanted(c, q);
	c->ops += n;
	return n;
}

/* Signals are wanted for what is used from now on, or not at all. */
static void want_signals(struct client *c, struct queue *q, bool want)
{
	if (c->features & EVENT_IDX)
		*(volatile uint16_t *)&q->avail->ring[QUEUE_SIZE] =
			(uint16_t)(want ? q->used_idx : q->used_idx - 1);
	else
		*(volatile uint16_t *)&q->avail->flags = want ? 0 : VRING_AVAIL_F_NO_INTERRUPT;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void sleep_for_used(struct client *c)
{
	struct pollfd fds[MAX_QUEUES];
	eventfd_t value;

	for (unsigned i = 0; i < c->o.queues; i++) {
		struct queue *q = &c->queues[i];

		want_signals(c, q, true);
		if (q->used_idx != *(volatile uint16_t *)&q->used->idx)
			return;
		fds[i] = (struct pollfd){ .fd = q->call, .events = POLLIN };
	}
	if (poll(fds, c->o.queues, 10000) <= 0)
		die("no request has been answered for 10 s");
	for (unsigned i = 0; i < c->o.queues; i++)
		if (fds[i].revents && !eventfd_read(fds[i].fd, &value))
			c->signals++;
}

static void run_until(struct client *c, uint64_t end_ns)
{
	for (unsigned spins = 0;; spins++) {
		unsigned n = 0;

		for (unsigned i = 0; i < c->o.queues; i++)
			n += take_used(c, &c->queues[i]);
		/* The clock costs as much as a request does. */
		if ((spins % 16 == 0 || !c->o.poll) && clock_now_ns() >= end_ns)
			return;
		if (!n && !c->o.poll)
			sleep_for_used(c);
	}
}

/* What it cost */

static uint64_t task_ns(const char *path)
{
	FILE *file = fopen(path, "re");
	unsigned long long ns = 0;

	if (!file)
		return 0;
	if (fscanf(file, "%llu", &ns) != 1)
		ns = 0;
	fclose(file);
	return ns;
}

/* CPU time of all threads of a process; those that end meanwhile are lost. */
static uint64_t process_ns(int pid)
{
	char path[300];
	struct dirent *entry;
	uint64_t sum = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = pid > 0 ? opendir(path) : NULL;
	while (dir && (entry = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, entry->d_name);
		if (entry->d_name[0] != '.')
			sum += task_ns(path);
	}
	if (dir)
		closedir(dir);
	return sum;
}

/* What the server does while nobody wants anything of it, in parts of a CPU */
static double idle_cpu(struct client *c)
{
	struct timespec second = { .tv_sec = 1 };
	uint64_t server;

	for (unsigned i = 0; i < c->o.queues; i++) {
		struct queue *q = &c->queues[i];

		while (__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) != q->avail_idx)
			sched_yield();
	}
	server = process_ns(c->o.pid);
	nanosleep(&second, NULL);
	return (double)(process_ns(c->o.pid) - server) / 1e9;
}

/* Memory that is the server's alone */
static unsigned private_kib(int pid)
{
	char path[40], line[256];
	unsigned sum = 0, kib;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	file = pid > 0 ? fopen(path, "re") : NULL;
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Private_Clean: %u", &kib) == 1 ||
			sscanf(line, "Private_Dirty: %u", &kib) == 1)
			sum += kib;
	if (file)
		fclose(file);
	return sum;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static void measure(struct client *c)
{
	uint64_t begin, end, server, own;
	double s, ops;

	run_until(c, clock_now_ns() + WARM_UP_NS);
	c->ops = c->kicks = c->signals = c->nr_samples = c->seen = 0;
	server = process_ns(c->o.pid);
	own = process_ns(getpid());
	begin = clock_now_ns();
	run_until(c, begin + (uint64_t)(c->o.seconds * 1e9));
	end = clock_now_ns();
	server = process_ns(c->o.pid) - server;
	own = process_ns(getpid()) - own;
	if (!c->ops || !c->nr_samples || c->errors) {
		errno = EIO;
		die(c->errors ? "requests failed" : "no requests were answered");
	}
	s = (double)(end - begin) / 1e9;
	ops = (double)c->ops;
	qsort(c->samples, c->nr_samples, sizeof(c->samples[0]), compare);
	printf("{\"ops_s\": %.0f, \"mib_s\": %.1f, \"mean_us\": %.3f, \"p50_us\": %.3f, "
	       "\"p99_us\": %.3f, \"cpu\": %.3f, \"cpu_us_op\": %.4f, \"client_cpu\": %.3f, "
	       "\"kicks_op\": %.4f, \"signals_op\": %.4f, \"idle_cpu\": %.6f, "
	       "\"private_kib\": %u}\n",
		ops / s, ops / s * c->o.bytes / (double)MIB,
		s * 1e6 / ops * c->o.depth * c->o.queues, c->samples[c->nr_samples / 2] / 1e3,
		c->samples[c->nr_samples - 1 - c->nr_samples / 100] / 1e3, (double)server / 1e9 / s,
		(double)server / 1e3 / ops, (double)own / 1e9 / s, (double)c->kicks / ops,
		(double)c->signals / ops, c->o.idle ? idle_cpu(c) : 0.0, private_kib(c->o.pid));
}

static void stop(struct client *c)
{
	for (unsigned i = 0; i < c->o.queues; i++) {
		struct vhost_user_vring_state state = { i, 0 };

		ask(c, VHOST_USER_GET_VRING_BASE, &state, sizeof(state), &state, sizeof(state));
	}
	close(c->sock);
}

/* Command line */

enum { PATH, OP, BYTES, DEPTH, QUEUES, SECONDS, SEQUENTIAL, POLL, IDLE, PID, CPU };

static const struct option table[] = {
	[PATH] = { "socket-path", required_argument, NULL, PATH },
	[OP] = { "op", required_argument, NULL, OP },
	[BYTES] = { "bytes", required_argument, NULL, BYTES },
	[DEPTH] = { "depth", required_argument, NULL, DEPTH },
	[QUEUES] = { "queues", required_argument, NULL, QUEUES },
	[SECONDS] = { "seconds", required_argument, NULL, SECONDS },
	[SEQUENTIAL] = { "sequential", no_argument, NULL, SEQUENTIAL },
	[POLL] = { "poll", no_argument, NULL, POLL },
	[IDLE] = { "idle", no_argument, NULL, IDLE },
	[PID] = { "pid", required_argument, NULL, PID },
	[CPU] = { "cpu", required_argument, NULL, CPU },
	{ 0 },
};

static void take_option(struct options *o, int code)
{
	switch (code) {
	case PATH:
		o->path = optarg;
		break;
	case OP:
		o->write = !strcmp(optarg, "write");
		break;
	case BYTES:
		o->bytes = (uint32_t)strtoul(optarg, NULL, 10);
		break;
	case DEPTH:
		o->depth = (unsigned)strtoul(optarg, NULL, 10);
		break;
	case QUEUES:
		o->queues = (unsigned)strtoul(optarg, NULL, 10);
		break;
	case SECONDS:
		o->seconds = strtod(optarg, NULL);
		break;
	case SEQUENTIAL:
		o->sequential = true;
		break;
	case POLL:
		o->poll = true;
		break;
	case IDLE:
		o->idle = true;
		break;
	case PID:
		o->pid = (int)strtol(optarg, NULL, 10);
		break;
	case CPU:
		o->cpu = (int)strtol(optarg, NULL, 10);
		break;
	}
}

static bool parse(struct options *o, int argc, char **argv)
{
	int code;

	*o = (struct options){ .bytes = 4096, .depth = 1, .queues = 1, .seconds = 1, .cpu = -1 };
	while ((code = getopt_long(argc, argv, "", table, NULL)) >= 0) {
		if (code == '?')
			return false;
		take_option(o, code);
	}
	return o->path && o->bytes && o->bytes % 512 == 0 && o->bytes <= 16 * MIB && o->depth &&
	       o->depth <= MAX_DEPTH && o->queues && o->queues <= MAX_QUEUES && o->seconds > 0;
}

int main(int argc, char **argv)
{
	struct client c = { 0 };

	if (!parse(&c.o, argc, argv)) {
		fprintf(stderr, "usage: blk_client --socket-path=PATH --op=read|write --bytes=N "
				"--depth=N [--queues=N] [--seconds=S] [--sequential] [--poll] "
				"[--idle] [--pid=PID] [--cpu=N]\n");
		return 2;
	}
	c.samples = calloc(NR_SAMPLES, sizeof(c.samples[0]));
	if (!c.samples)
		die("memory");
	if (c.o.cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(c.o.cpu, &set);
		sched_setaffinity(0, sizeof(set), &set);
	}
	connect_to(&c);
	negotiate(&c);
	share_memory(&c);
	for (unsigned i = 0; i < c.o.queues; i++)
		start_queue(&c, &c.queues[i]);
	for (unsigned i = 0; i < c.o.queues; i++) {
		want_signals(&c, &c.queues[i], false);
		for (unsigned k = 0; k < c.o.depth; k++)
			submit(&c, &c.queues[i], k);
		kick_if_wanted(&c, &c.queues[i]);
	}
	measure(&c);
	stop(&c);
	return 0;
}
