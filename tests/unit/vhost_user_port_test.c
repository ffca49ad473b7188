#include "serve/vhost_user.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"
#include "echo_model.h"
#include "wire/vhost_user.h"

/* An echo device on one end of a socketpair, served by a thread; the test has the other end. */
#define DEADLINE_S 30
#define MEM_SIZE   (1 * MIB)
#define MEM_GPA	   0x100000ull
#define USER	   0x7f0000000000ull
#define RING(q)	   ((q)*0x4000ull)
#define AVAIL	   0x1000ull
#define USED	   0x2000ull
#define OUT_AT	   0x40000ull
#define IN_AT	   0x48000ull
#define LOG_ALL	   VIRTIO_BIT(VHOST_USER_F_LOG_ALL)
#define PROTOCOL   VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES)
#define VERSION_1  VIRTIO_BIT(VIRTIO_BIT_VERSION_1)
#define FLAG_ACK   VHOST_USER_FLAG_NEED_REPLY

struct end {
	struct loop *loop;
	struct echo *echo;
	struct vhost_user_port *port;
	pthread_t thread;
	int sock;
	int fds_before;

	/* The front-end's */
	int memfd;
	uint8_t *mem;
	int kick[ECHO_QUEUES], call[ECHO_QUEUES];
	uint16_t avail[ECHO_QUEUES];
};

static void deserted(void *arg)
{
	loop_quit(((struct end *)arg)->loop, 7);
}

static void *serve(void *arg)
{
	return (void *)(intptr_t)loop_run(((struct end *)arg)->loop);
}

static void start(struct end *e)
{
	struct vhost_user_port_config config = { .deserted = deserted, .arg = e };
	struct timeval patience = { .tv_sec = DEADLINE_S };
	struct err err = { 0 };
	int socks[2];

	memset(e, 0, sizeof(*e));
	e->fds_before = fd_count();
	assert_int_equal(loop_new(&e->loop), 0);
	e->echo = echo_new(e->loop);
	assert_non_null(e->echo);
	assert_int_equal(sock_pair(socks), 0);
	e->sock = socks[0];
	setsockopt(e->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(
		vhost_user_port_new(&e->port, e->loop, &e->echo->model, socks[1], &config, &err),
		0);
	assert_int_equal(pthread_create(&e->thread, NULL, serve, e), 0);
	e->memfd = -1;
	for (unsigned i = 0; i < ECHO_QUEUES; i++)
		e->kick[i] = e->call[i] = -1;
}

static void note_freed(void *arg)
{
	*(bool *)arg = true;
}

/* Hang up; the server must end by itself, and leave nothing behind. */
static void finish(struct end *e)
{
	bool freed = false;
	void *code;

	fd_close(&e->sock);
	pthread_join(e->thread, &code);
	assert_int_equal((intptr_t)code, 7);
	assert_int_equal(atomic_load(&e->echo->running), 0);
	assert_int_equal(atomic_load(&e->echo->paused), 0);
	vhost_user_port_free(e->port, note_freed, &freed);
	assert_true(freed);
	virtio_model_free(&e->echo->model);
	loop_free(e->loop);
	if (e->mem)
		munmap(e->mem, MEM_SIZE);
	fd_close(&e->memfd);
	for (unsigned i = 0; i < ECHO_QUEUES; i++) {
		fd_close(&e->kick[i]);
		fd_close(&e->call[i]);
	}
	assert_int_equal(fd_count(), e->fds_before);
}

/* Messages */

static void put_fds(struct end *e, uint32_t request, uint32_t flags, const void *payload,
	size_t len, const int *fds, int nr)
{
	struct vhost_user_header h = { request, VHOST_USER_FLAG_VERSION | flags, (uint32_t)len };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, len } };

	assert_int_equal(sock_send(e->sock, iov, 2, fds, nr), sizeof(h) + len);
}

static void put(struct end *e, uint32_t request, const void *payload, size_t len)
{
	put_fds(e, request, 0, payload, len, NULL, 0);
}

static void await(int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	int n;

	/* This thread may have kicked, too: the timer of that comes later. */
	do
		n = poll(&pfd, 1, DEADLINE_S * 1000);
	while (n < 0 && errno == EINTR);
	assert_int_equal(n, 1);
}

/* A reply's payload: its length, and a descriptor (or -1) into *fd if that is wanted. */
static size_t get_fd(struct end *e, uint32_t request, void *payload, size_t room, int *fd)
{
	struct fd_list fds = { .nr = 0 };
	struct vhost_user_header h;

	await(e->sock);
	assert_int_equal(sock_recv(e->sock, &h, sizeof(h), &fds), sizeof(h));
	assert_int_equal(h.request, request);
	assert_int_equal(h.flags, VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY);
	assert_true(h.size <= room);
	if (h.size)
		assert_int_equal(recv(e->sock, payload, h.size, MSG_WAITALL), h.size);
	assert_int_equal(fds.nr, fd ? 1 : 0);
	if (fd)
		*fd = fd_list_take(&fds);
	return h.size;
}

static uint64_t get_u64(struct end *e, uint32_t request)
{
	uint64_t v = ~0ull;

	assert_int_equal(get_fd(e, request, &v, sizeof(v), NULL), sizeof(v));
	return v;
}

static uint64_t ask_u64(struct end *e, uint32_t request)
{
	put(e, request, NULL, 0);
	return get_u64(e, request);
}

/* With REPLY_ACK: 0, or the reason. */
static uint64_t ack_fds(
	struct end *e, uint32_t request, const void *payload, size_t len, const int *fds, int nr)
{
	put_fds(e, request, FLAG_ACK, payload, len, fds, nr);
	return get_u64(e, request);
}

static uint64_t ack(struct end *e, uint32_t request, const void *payload, size_t len)
{
	return ack_fds(e, request, payload, len, NULL, 0);
}

static uint64_t ack_u64(struct end *e, uint32_t request, uint64_t v)
{
	return ack(e, request, &v, sizeof(v));
}

static uint64_t state(struct end *e, uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state s = { index, num };

	return ack(e, request, &s, sizeof(s));
}

static uint64_t vring_fd(struct end *e, uint32_t request, uint64_t v, int fd)
{
	return ack_fds(e, request, &v, sizeof(v), &fd, fd >= 0);
}

static void assert_dropped(struct end *e)
{
	uint8_t byte;
	ssize_t n = recv(e->sock, &byte, 1, 0);

	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

/* A front-end's way to a running device */

static void shake_hands(struct end *e, uint64_t features)
{
	uint64_t all = ask_u64(e, VHOST_USER_GET_FEATURES);
	uint64_t protocol;

	assert_true((all & features) == features);
	protocol = ask_u64(e, VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_true(protocol & VHOST_USER_PROTOCOL_BIT(REPLY_ACK));
	put(e, VHOST_USER_SET_PROTOCOL_FEATURES, &protocol, sizeof(protocol));
	put(e, VHOST_USER_SET_OWNER, NULL, 0);
	assert_int_equal(ack_u64(e, VHOST_USER_SET_FEATURES, features), 0);
}

static int memory(size_t size)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void share_memory(struct end *e)
{
	struct vhost_user_mem_table t = {
		.nr = 1,
		.regions = { { MEM_GPA, MEM_SIZE, USER, 0 } },
	};

	e->memfd = memory(MEM_SIZE);
	e->mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, e->memfd, 0);
	assert_ptr_not_equal(e->mem, MAP_FAILED);
	assert_int_equal(ack_fds(e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &e->memfd, 1), 0);
}

static struct vhost_user_vring_addr ring_addr(unsigned q)
{
	return (struct vhost_user_vring_addr){
		.index = q,
		.desc = USER + RING(q),
		.avail = USER + RING(q) + AVAIL,
		.used = USER + RING(q) + USED,
	};
}

static void set_up_queue(struct end *e, unsigned q, uint16_t size)
{
	struct vhost_user_vring_addr a = ring_addr(q);

	e->kick[q] = fd_eventfd();
	e->call[q] = fd_eventfd();
	assert_int_equal(state(e, VHOST_USER_SET_VRING_NUM, q, size), 0);
	assert_int_equal(state(e, VHOST_USER_SET_VRING_BASE, q, 0), 0);
	assert_int_equal(ack(e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	assert_int_equal(vring_fd(e, VHOST_USER_SET_VRING_CALL, q, e->call[q]), 0);
	assert_int_equal(vring_fd(e, VHOST_USER_SET_VRING_KICK, q, e->kick[q]), 0);
}

static void run_queue(struct end *e, unsigned q)
{
	set_up_queue(e, q, 64);
	assert_int_equal(state(e, VHOST_USER_SET_VRING_ENABLE, q, 1), 0);
}

/* Up to a running queue 0 */
static void start_running(struct end *e)
{
	start(e);
	shake_hands(e, VERSION_1 | PROTOCOL);
	share_memory(e);
	run_queue(e, 0);
}

/* Rings */

static struct vring_desc *desc(struct end *e, unsigned q)
{
	return (struct vring_desc *)(e->mem + RING(q));
}

static uint16_t used_idx(struct end *e, unsigned q)
{
	return __atomic_load_n((uint16_t *)(e->mem + RING(q) + USED + 2), __ATOMIC_ACQUIRE);
}

/* One request: len bytes of text, and room for as many. Not kicked. */
static void offer(struct end *e, unsigned q, const char *text)
{
	uint16_t *avail = (uint16_t *)(e->mem + RING(q) + AVAIL);
	uint32_t len = (uint32_t)strlen(text) + 1;
	uint16_t head = (uint16_t)(e->avail[q] % 16 * 2);

	strcpy((char *)e->mem + OUT_AT + q * 64, text);
	memset(e->mem + IN_AT + q * 64, 0, 64);
	desc(e, q)[head] = (struct vring_desc){ MEM_GPA + OUT_AT + q * 64, len, VRING_DESC_F_NEXT,
		(uint16_t)(head + 1) };
	desc(e, q)[head + 1] =
		(struct vring_desc){ MEM_GPA + IN_AT + q * 64, len, VRING_DESC_F_WRITE, 0 };
	avail[2 + e->avail[q] % 64] = head;
	__atomic_store_n(&avail[1], ++e->avail[q], __ATOMIC_RELEASE);
}

static void await_call(struct end *e, unsigned q)
{
	await(e->call[q]);
	fd_clear(e->call[q]);
}

static void expect_echo(struct end *e, unsigned q, const char *text)
{
	/* A queue that starts anew may signal once for nothing: somebody before it may owe a
	 * signal. */
	do
		await_call(e, q);
	while (used_idx(e, q) != e->avail[q]);
	assert_string_equal((char *)e->mem + IN_AT + q * 64, text);
}

static void echo_once(struct end *e, unsigned q, const char *text)
{
	offer(e, q, text);
	fd_signal(e->kick[q]);
	expect_echo(e, q, text);
}

/* Tests */

static void it_offers_what_model_and_port_can_do(void **test)
{
	struct end e;
	uint64_t f, p;

	start(&e);
	f = ask_u64(&e, VHOST_USER_GET_FEATURES);
	assert_int_equal(f, e.echo->model.features | VERSION_1 | PROTOCOL | LOG_ALL |
				    VIRTIO_BIT(VIRTIO_BIT_RING_RESET));
	p = ask_u64(&e, VHOST_USER_GET_PROTOCOL_FEATURES);
	assert_int_equal(p,
		VHOST_USER_PROTOCOL_BIT(MQ) | VHOST_USER_PROTOCOL_BIT(LOG_SHMFD) |
			VHOST_USER_PROTOCOL_BIT(REPLY_ACK) | VHOST_USER_PROTOCOL_BIT(BACKEND_REQ) |
			VHOST_USER_PROTOCOL_BIT(CONFIG) | VHOST_USER_PROTOCOL_BIT(INFLIGHT_SHMFD) |
			VHOST_USER_PROTOCOL_BIT(RESET_DEVICE) |
			VHOST_USER_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS) |
			VHOST_USER_PROTOCOL_BIT(STATUS) | VHOST_USER_PROTOCOL_BIT(DEVICE_STATE));
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_QUEUE_NUM), ECHO_QUEUES);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_MAX_MEM_SLOTS), VHOST_USER_MAX_MEM_SLOTS);
	finish(&e);
}

static void a_request_goes_through_a_split_ring(void **test)
{
	struct end e;

	start_running(&e);
	for (int i = 0; i < 200; i++)
		echo_once(&e, 0, i % 2 ? "ping" : "pong, and a little longer");
	assert_int_equal(atomic_load(&e.echo->served), 200);
	assert_int_equal(e.echo->features, VERSION_1);
	finish(&e);
}

static void queues_are_served_beside_each_other(void **test)
{
	struct end e;

	start_running(&e);
	for (unsigned q = 1; q < ECHO_QUEUES; q++)
		run_queue(&e, q);
	for (int i = 0; i < 50; i++)
		for (unsigned q = 0; q < ECHO_QUEUES; q++)
			echo_once(&e, q, "all of us");
	finish(&e);
}

static void a_kick_before_the_enable_is_not_lost(void **test)
{
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	offer(&e, 0, "early");
	fd_signal(e.kick[0]);
	/* Disabled: nothing comes of it yet. */
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0);
	assert_int_equal(used_idx(&e, 0), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	expect_echo(&e, 0, "early");
	finish(&e);
}

static void without_bit_30_rings_need_no_enable(void **test)
{
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	echo_once(&e, 0, "enabled from the start");
	finish(&e);
}

static void the_order_of_the_set_up_does_not_matter(void **test)
{
	struct end e;
	struct vhost_user_vring_addr a = ring_addr(0);

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	e.kick[0] = fd_eventfd();
	e.call[0] = fd_eventfd();
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, e.call[0]), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 16), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	share_memory(&e);
	assert_int_equal(atomic_load(&e.echo->running), 1);
	offer(&e, 0, "memory came last");
	fd_signal(e.kick[0]);
	expect_echo(&e, 0, "memory came last");
	finish(&e);
}

static void get_vring_base_stops_the_queue_and_says_where(void **test)
{
	struct end e;
	struct vhost_user_vring_state s = { 0, 0 };

	start_running(&e);
	for (int i = 0; i < 3; i++)
		echo_once(&e, 0, "one of three");
	put(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	assert_int_equal(get_fd(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
	assert_int_equal(s.index, 0);
	assert_int_equal(s.num, 3);
	assert_int_equal(atomic_load(&e.echo->running), 0);

	/* It goes on from there with the next kick descriptor. */
	offer(&e, 0, "the fourth");
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	expect_echo(&e, 0, "the fourth");
	finish(&e);
}

static void get_vring_base_waits_for_what_is_under_way(void **test)
{
	struct end e;
	struct vhost_user_vring_state s = { 0, 0 };
	struct pollfd pfd;

	start_running(&e);
	run_queue(&e, 1);
	atomic_store(&e.echo->hold, true);
	offer(&e, 0, "slow");
	fd_signal(e.kick[0]);
	/* Its request is taken before the stop: an ask-and-answer comes after the kick's event. */
	while (!atomic_load(&e.echo->queues[0].held))
		ask_u64(&e, VHOST_USER_GET_STATUS);
	atomic_store(&e.echo->hold, false);
	put(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	put(&e, VHOST_USER_GET_STATUS, NULL, 0);

	/* The other queue goes on, the socket is quiet. */
	echo_once(&e, 1, "the other one");
	pfd = (struct pollfd){ .fd = e.sock, .events = POLLIN };
	assert_int_equal(poll(&pfd, 1, 0), 0);

	echo_release(e.echo);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s), NULL), sizeof(s));
	assert_int_equal(s.num, 1);
	assert_int_equal(get_u64(&e, VHOST_USER_GET_STATUS), 0);
	expect_echo(&e, 0, "slow");
	finish(&e);
}

static void a_disabled_queue_rests_and_goes_on(void **test)
{
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "before");
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 0), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	offer(&e, 0, "meanwhile");
	fd_signal(e.kick[0]);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	expect_echo(&e, 0, "meanwhile");
	finish(&e);
}

static void a_new_call_descriptor_replaces_the_old_one(void **test)
{
	struct end e;
	int old;

	start_running(&e);
	echo_once(&e, 0, "old");
	old = e.call[0];
	e.call[0] = fd_eventfd();
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, e.call[0]), 0);
	echo_once(&e, 0, "new");
	assert_false(fd_clear(old));
	fd_close(&old);
	/* None at all: the ring is looked at. */
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, VHOST_USER_NOFD, -1), 0);
	offer(&e, 0, "unheard");
	fd_signal(e.kick[0]);
	while (used_idx(&e, 0) != e.avail[0])
		ask_u64(&e, VHOST_USER_GET_STATUS);
	assert_false(fd_clear(e.call[0]));
	finish(&e);
}

static void a_new_kick_descriptor_works_on_a_running_queue(void **test)
{
	struct end e;
	int old;

	start_running(&e);
	echo_once(&e, 0, "old");
	old = e.kick[0];
	e.kick[0] = fd_eventfd();
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	echo_once(&e, 0, "new");
	fd_close(&old);
	finish(&e);
}

static void a_ring_without_kicks_is_watched(void **test)
{
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, VHOST_USER_NOFD, -1), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	offer(&e, 0, "no kick");
	expect_echo(&e, 0, "no kick");
	finish(&e);
}

static void echo_packed(uint32_t base)
{
	struct end e;
	struct vring_packed_desc *ring;
	uint16_t flags;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL | VIRTIO_BIT(VIRTIO_BIT_RING_PACKED));
	share_memory(&e);
	set_up_queue(&e, 0, 5);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_BASE, 0, base), 0);
	ring = (struct vring_packed_desc *)e.mem;
	strcpy((char *)e.mem + OUT_AT, "packed");
	ring[1] = (struct vring_packed_desc){ MEM_GPA + IN_AT, 7, 3,
		VRING_DESC_F_WRITE | 1 << VRING_PACKED_DESC_F_AVAIL };
	ring[0] = (struct vring_packed_desc){ MEM_GPA + OUT_AT, 7, 3,
		VRING_DESC_F_NEXT | 1 << VRING_PACKED_DESC_F_AVAIL };
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	await_call(&e, 0);
	flags = __atomic_load_n(&ring[0].flags, __ATOMIC_ACQUIRE);
	assert_true(flags & 1 << VRING_PACKED_DESC_F_USED);
	assert_int_equal(ring[0].len, 7);
	assert_string_equal((char *)e.mem + IN_AT, "packed");
	finish(&e);
}

static void a_packed_ring_works_too(void **test)
{
	echo_packed(0x80008000);
}

static void a_packed_ring_works_with_half_a_base(void **test)
{
	echo_packed(0x8000);
}

/* Memory */

static uint64_t mem_reg(struct end *e, uint32_t request, struct vhost_user_mem_region r, int fd)
{
	struct vhost_user_mem_reg m = { 0, r };

	return ack_fds(e, request, &m, sizeof(m), &fd, fd >= 0);
}

static void memory_may_come_and_go_in_slots(void **test)
{
	struct vhost_user_mem_region low = { MEM_GPA, MEM_SIZE / 2, USER, 0 };
	struct vhost_user_mem_region high = { MEM_GPA + MEM_SIZE / 2, MEM_SIZE / 2, USER + 16 * GIB,
		MEM_SIZE / 2 };
	struct vhost_user_mem_region over = { MEM_GPA + 4096, 4096, USER + 32 * GIB, 0 };
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	e.memfd = memory(MEM_SIZE);
	e.mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, e.memfd, 0);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, high, e.memfd), 0);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, low, e.memfd), 0);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, low, e.memfd), EEXIST);
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, over, e.memfd), EEXIST);
	run_queue(&e, 0);
	echo_once(&e, 0, "both");

	/* Under the running queue; one that is not there, one with a stray descriptor */
	assert_int_equal(mem_reg(&e, VHOST_USER_REM_MEM_REG, over, -1), ENOENT);
	assert_int_equal(mem_reg(&e, VHOST_USER_REM_MEM_REG, high, e.memfd), 0);
	echo_once(&e, 0, "the lower one");
	assert_int_equal(mem_reg(&e, VHOST_USER_ADD_MEM_REG, high, e.memfd), 0);
	echo_once(&e, 0, "both again");
	finish(&e);
}

static void a_new_table_moves_running_queues_along(void **test)
{
	struct vhost_user_mem_table t = {
		.nr = 2,
		.regions = {
			/* The same memory, elsewhere in the front-end, and more of it */
			{ MEM_GPA, MEM_SIZE, USER + 64 * GIB, 0 },
			{ 16 * GIB, MEM_SIZE, USER + 128 * GIB, 0 },
		},
	};
	struct vhost_user_vring_addr a = ring_addr(0);
	struct end e;
	int fds[2];

	start_running(&e);
	echo_once(&e, 0, "one table");
	fds[0] = fds[1] = e.memfd;
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 64, fds, 2), 0);
	echo_once(&e, 0, "another one");
	/* The ring's new address for the front-end is the old one for the guest. */
	a.desc += 64 * GIB;
	a.avail += 64 * GIB;
	a.used += 64 * GIB;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), EBUSY);
	finish(&e);
}

static void a_queue_whose_memory_goes_is_alone_in_it(void **test)
{
	struct vhost_user_mem_table t = {
		.nr = 1,
		/* Queue 0's ring is below, queue 1's within */
		.regions = { { MEM_GPA + RING(1), MEM_SIZE - RING(1), USER, RING(1) } },
	};
	struct end e;

	start_running(&e);
	run_queue(&e, 1);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &e.memfd, 1), 0);
	offer(&e, 0, "nobody hears");
	fd_signal(e.kick[0]);
	echo_once(&e, 1, "still there");
	assert_int_equal(used_idx(&e, 0), 0);
	finish(&e);
}

static void a_ring_outside_the_memory_is_that_queues_trouble(void **test)
{
	struct vhost_user_vring_addr a = ring_addr(1);
	struct end e;

	start_running(&e);
	set_up_queue(&e, 1, 64);
	a.used = USER + MEM_SIZE - 8;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 1, 1), EFAULT);
	a.used = 0x1234;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), EFAULT);
	/* The same without a wish for an answer: the front-end is not dropped for it. */
	put(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a));
	echo_once(&e, 0, "not my ring");
	a = ring_addr(1);
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	echo_once(&e, 1, "and now mine");
	finish(&e);
}

static void a_running_ring_cannot_be_moved(void **test)
{
	struct vhost_user_vring_addr a = ring_addr(0);
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "here");
	a.flags = VHOST_USER_VRING_F_LOG;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), 0);
	a.desc += 0x10;
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a)), EBUSY);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 32), EBUSY);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_BASE, 0, 7), EBUSY);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, PROTOCOL), EBUSY);
	echo_once(&e, 0, "still here");
	finish(&e);
}

static void truncated_memory_ends_the_connection(void **test)
{
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "still whole");
	offer(&e, 0, "no more");
	assert_int_equal(ftruncate(e.memfd, 0), 0);
	fd_signal(e.kick[0]);
	assert_dropped(&e);
	finish(&e);
}

static void shared_memory_must_be_memory(void **test)
{
	struct vhost_user_mem_table t = {
		.nr = 1,
		.regions = { { MEM_GPA, MEM_SIZE, USER, 0 } },
	};
	struct end e;
	int fd;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	fd = fd_eventfd();
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &fd, 1), EINVAL);
	fd_close(&fd);
	fd = memory(MEM_SIZE - 1);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &fd, 1), EINVAL);
	fd_close(&fd);
	fd = memory(1ull << 50);
	t.regions[0].size = 1ull << 50;
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, &fd, 1), ENOMEM);
	fd_close(&fd);
	assert_int_equal(ack(&e, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32), EINVAL);
	finish(&e);
}

/* The log */

static bool logged(const uint8_t *log, uint64_t gpa)
{
	return log[gpa / 4096 / 8] & 1 << gpa / 4096 % 8;
}

static void writes_are_logged_while_that_is_wanted(void **test)
{
	struct vhost_user_log l = { .size = 4096, .offset = 4096 };
	struct end e;
	uint8_t *log, reply[8];
	int fd = memory(8192);

	log = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	start_running(&e);
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	get_fd(&e, VHOST_USER_SET_LOG_BASE, reply, sizeof(reply), NULL);
	echo_once(&e, 0, "not yet");
	assert_false(logged(log + 4096, MEM_GPA + IN_AT));

	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL | LOG_ALL), 0);
	echo_once(&e, 0, "now");
	assert_true(logged(log + 4096, MEM_GPA + IN_AT));
	assert_true(logged(log + 4096, MEM_GPA + USED));
	assert_false(logged(log + 4096, MEM_GPA + OUT_AT));
	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(log[i], 0);

	memset(log, 0, 8192);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL), 0);
	echo_once(&e, 0, "no more");
	assert_false(logged(log + 4096, MEM_GPA + IN_AT));
	finish(&e);
	munmap(log, 8192);
	fd_close(&fd);
}

static void a_request_from_before_the_log_is_logged_when_it_ends(void **test)
{
	struct vhost_user_log l = { .size = 4096 };
	struct end e;
	uint8_t *log, reply[8];
	int fd = memory(4096);

	log = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	start_running(&e);
	atomic_store(&e.echo->hold, true);
	offer(&e, 0, "slow");
	fd_signal(e.kick[0]);
	while (!atomic_load(&e.echo->queues[0].held))
		ask_u64(&e, VHOST_USER_GET_STATUS);
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	get_fd(&e, VHOST_USER_SET_LOG_BASE, reply, sizeof(reply), NULL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL | LOG_ALL), 0);
	echo_release(e.echo);
	expect_echo(&e, 0, "slow");
	assert_true(logged(log, MEM_GPA + IN_AT));
	finish(&e);
	munmap(log, 4096);
	fd_close(&fd);
}

static void a_log_too_small_is_no_way_out_of_it(void **test)
{
	struct vhost_user_log l = { .size = 8 };
	struct end e;
	uint8_t reply[8];
	int fd = memory(8);

	start_running(&e);
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	get_fd(&e, VHOST_USER_SET_LOG_BASE, reply, sizeof(reply), NULL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, VERSION_1 | PROTOCOL | LOG_ALL), 0);
	echo_once(&e, 0, "above what is logged");
	/* One that does not fit its file has no other answer than the end. */
	l.size = 9;
	put_fds(&e, VHOST_USER_SET_LOG_BASE, 0, &l, sizeof(l), &fd, 1);
	assert_dropped(&e);
	finish(&e);
	fd_close(&fd);
}

/* Inflight */

static void requests_under_way_outlive_the_process(void **test)
{
	struct vhost_user_inflight i = { .num_queues = ECHO_QUEUES, .queue_size = 64 }, got;
	struct vhost_user_inflight_split *area;
	struct end e, second;
	int fd, memfd;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	put(&e, VHOST_USER_GET_INFLIGHT_FD, &i, 20);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_INFLIGHT_FD, &got, sizeof(got), &fd), 20);
	assert_int_equal(got.mmap_size, ECHO_QUEUES * vhost_user_inflight_region(false, 1024));
	assert_int_equal(got.num_queues, ECHO_QUEUES);
	got.padding = 0;
	run_queue(&e, 0);
	echo_once(&e, 0, "done");
	atomic_store(&e.echo->hold, true);
	offer(&e, 0, "under way");
	fd_signal(e.kick[0]);
	while (!atomic_load(&e.echo->queues[0].held))
		ask_u64(&e, VHOST_USER_GET_STATUS);
	area = mmap(NULL, got.mmap_size, PROT_READ, MAP_SHARED, fd, 0);
	assert_int_equal(area->desc[2].inflight, 1);
	assert_int_equal(area->desc[0].inflight, 0);
	munmap(area, got.mmap_size);

	/* Another device, the same memory and area; the first one never finishes in time. */
	start(&second);
	shake_hands(&second, VERSION_1 | PROTOCOL);
	memfd = e.memfd;
	second.mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	assert_int_equal(
		mem_reg(&second, VHOST_USER_ADD_MEM_REG,
			(struct vhost_user_mem_region){ MEM_GPA, MEM_SIZE, USER, 0 }, memfd),
		0);
	second.avail[0] = e.avail[0];
	assert_int_equal(
		ack_fds(&second, VHOST_USER_SET_INFLIGHT_FD, &got, sizeof(got), &fd, 1), 0);
	set_up_queue(&second, 0, 64);
	assert_int_equal(state(&second, VHOST_USER_SET_VRING_BASE, 0, 2), 0);
	assert_int_equal(state(&second, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	expect_echo(&second, 0, "under way");
	finish(&second);
	fd_close(&fd);
	echo_release(e.echo);
	finish(&e);
}

static void an_inflight_area_that_does_not_fit_is_refused(void **test)
{
	struct vhost_user_inflight i = { .num_queues = ECHO_QUEUES + 1, .queue_size = 64 };
	struct end e;
	int fd = memory(4096);

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	/* The protocol's way to say no */
	put(&e, VHOST_USER_GET_INFLIGHT_FD, &i, sizeof(i));
	assert_int_equal(get_fd(&e, VHOST_USER_GET_INFLIGHT_FD, &i, sizeof(i), NULL), sizeof(i));
	assert_int_equal(i.mmap_size, 0);

	i = (struct vhost_user_inflight){ 4097, 0, 1, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), EINVAL);
	i = (struct vhost_user_inflight){ 4096, UINT64_MAX - 7, 1, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), EINVAL);
	i = (struct vhost_user_inflight){ 4088, 4, 1, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), EINVAL);

	/* It says less than the queue turns out to need: that is not tracked. */
	i = (struct vhost_user_inflight){ 64, 0, 4, 64, 0 };
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_INFLIGHT_FD, &i, sizeof(i), &fd, 1), 0);
	run_queue(&e, 0);
	echo_once(&e, 0, "untracked");
	finish(&e);
	fd_close(&fd);
}

/* Configuration */

static void configuration_is_read_and_written(void **test)
{
	struct vhost_user_config c = { .offset = 4, .size = 4 };
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	put(&e, VHOST_USER_GET_CONFIG, &c, 12 + 4);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c), NULL), 12 + 4);
	assert_memory_equal(c.bytes, "\xa4\xa5\xa6\xa7", 4);

	/* A front-end that knows more fields reads zeros there. */
	c = (struct vhost_user_config){ .offset = 0, .size = 200 };
	put(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c));
	assert_int_equal(get_fd(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c), NULL), sizeof(c));
	assert_int_equal(c.bytes[15], 0xaf);
	assert_int_equal(c.bytes[16], 0);

	c = (struct vhost_user_config){ .offset = 14, .size = 2, .bytes = { 1, 2 } };
	assert_int_equal(ack(&e, VHOST_USER_SET_CONFIG, &c, 12 + 2), 0);
	assert_memory_equal(e.echo->model.config + 14, "\x01\x02", 2);
	c.offset = 15;
	assert_int_equal(ack(&e, VHOST_USER_SET_CONFIG, &c, 12 + 2), EINVAL);

	c = (struct vhost_user_config){ .offset = 255, .size = 2 };
	put(&e, VHOST_USER_GET_CONFIG, &c, 12 + 2);
	assert_int_equal(get_fd(&e, VHOST_USER_GET_CONFIG, &c, sizeof(c), NULL), 0);
	finish(&e);
}

static void on_config_work(struct loop_work *work)
{
	virtio_model_config_changed(&container_of(work, struct echo, release)->model);
}

static void a_change_of_the_configuration_is_told(void **test)
{
	struct vhost_user_header h;
	struct end e;
	int socks[2];

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(sock_pair(socks), 0);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, &socks[1], 1), 0);
	fd_close(&socks[1]);
	loop_post(e.loop, &e.echo->release, on_config_work);
	assert_int_equal(recv(socks[0], &h, sizeof(h), MSG_WAITALL), sizeof(h));
	assert_int_equal(h.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	assert_int_equal(h.flags, VHOST_USER_FLAG_VERSION);
	assert_int_equal(h.size, 0);

	/* A front-end that does not listen holds up nobody. */
	for (int i = 0; i < 20000; i++) {
		loop_post(e.loop, &e.echo->release, on_config_work);
		if (i % 64 == 0)
			ask_u64(&e, VHOST_USER_GET_STATUS);
	}
	fd_close(&socks[0]);
	loop_post(e.loop, &e.echo->release, on_config_work);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0);
	finish(&e);
}

/* Reset */

static void a_reset_stops_everything_and_keeps_the_call(void **test)
{
	struct end e;

	start_running(&e);
	echo_once(&e, 0, "before");
	assert_int_equal(ack(&e, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	assert_int_equal(atomic_load(&e.echo->resets), 1);

	memset(e.mem, 0, RING(1));
	e.avail[0] = 0;
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 16), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_BASE, 0, 0), 0);
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_ADDR,
				 &(struct vhost_user_vring_addr){ .index = 0,
					 .desc = USER,
					 .avail = USER + AVAIL,
					 .used = USER + USED },
				 sizeof(struct vhost_user_vring_addr)),
		0);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, e.kick[0]), 0);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	echo_once(&e, 0, "after");
	/* The model has heard of its features again. */
	assert_int_equal(e.echo->features, VERSION_1);
	finish(&e);
}

static void status_0_stops_the_queues_and_keeps_the_model(void **test)
{
	struct end e;

	start_running(&e);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 0xf), 0);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0xf);
	assert_int_equal(atomic_load(&e.echo->running), 1);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 0), 0);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_STATUS), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	assert_int_equal(atomic_load(&e.echo->resets), 0);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 256), EINVAL);
	finish(&e);
}

static void status_0_is_the_reset_of_who_has_no_other(void **test)
{
	uint64_t protocol = VHOST_USER_PROTOCOL_BIT(REPLY_ACK) | VHOST_USER_PROTOCOL_BIT(STATUS);
	struct end e;

	start_running(&e);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_PROTOCOL_FEATURES, protocol), 0);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_STATUS, 0), 0);
	assert_int_equal(atomic_load(&e.echo->running), 0);
	assert_int_equal(atomic_load(&e.echo->resets), 1);
	finish(&e);
}

/* State */

static uint64_t state_fd(struct end *e, uint32_t direction, int fd)
{
	struct vhost_user_device_state s = { direction, VHOST_USER_STATE_STOPPED };

	put_fds(e, VHOST_USER_SET_DEVICE_STATE_FD, 0, &s, sizeof(s), &fd, 1);
	return get_u64(e, VHOST_USER_SET_DEVICE_STATE_FD);
}

static void the_state_goes_through_a_pipe(void **test)
{
	uint8_t saved[ECHO_CONFIG + 1];
	struct end e;
	int fds[2];

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_SAVE, fds[1]), VHOST_USER_NOFD);
	fd_close(&fds[1]);
	assert_int_equal(read(fds[0], saved, sizeof(saved)), ECHO_CONFIG);
	assert_int_equal(read(fds[0], saved + ECHO_CONFIG, 1), 0);
	fd_close(&fds[0]);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), 0);
	assert_int_equal(saved[0], 0xa0);

	saved[0] = 0x55;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[0]), VHOST_USER_NOFD);
	fd_close(&fds[0]);
	assert_int_equal(write(fds[1], saved, 3), 3);
	assert_int_equal(write(fds[1], saved + 3, ECHO_CONFIG - 3), ECHO_CONFIG - 3);
	/* Not at its end yet */
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), EAGAIN);
	fd_close(&fds[1]);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), 0);
	assert_int_equal(e.echo->model.config[0], 0x55);
	finish(&e);
}

static void a_state_that_is_none_is_refused(void **test)
{
	struct end e;
	int fds[2];

	start_running(&e);
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	/* Queues are running. */
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[0]), VHOST_USER_NOFD | EBUSY);
	assert_int_equal(ack(&e, VHOST_USER_RESET_DEVICE, NULL, 0), 0);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), EINVAL);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[1]), VHOST_USER_NOFD | EINVAL);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_SAVE, fds[0]), VHOST_USER_NOFD | EINVAL);
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_SAVE, e.memfd), VHOST_USER_NOFD | EINVAL);
	assert_int_equal(state_fd(&e, 2, fds[0]), VHOST_USER_NOFD | EINVAL);
	/* Too short for the model */
	assert_int_equal(state_fd(&e, VHOST_USER_STATE_LOAD, fds[0]), VHOST_USER_NOFD);
	assert_int_equal(write(fds[1], "x", 1), 1);
	fd_close(&fds[1]);
	assert_int_equal(ask_u64(&e, VHOST_USER_CHECK_DEVICE_STATE), EINVAL);
	fd_close(&fds[0]);
	finish(&e);
}

/* Refusals */

static void what_cannot_be_answered_ends_the_connection(void **test)
{
	uint64_t odd = 1ull << 5;
	struct end e;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_FEATURES, odd), EINVAL);
	assert_int_equal(ack_u64(&e, VHOST_USER_SET_PROTOCOL_FEATURES, odd << 50), EINVAL);
	put(&e, VHOST_USER_SET_FEATURES, &odd, sizeof(odd));
	assert_dropped(&e);
	finish(&e);
}

static void requests_are_checked_before_they_are_carried_out(void **test)
{
	struct end e;
	int fds[2] = { fd_eventfd(), memory(4096) };
	uint64_t v = 0;

	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, ECHO_QUEUES, 16), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, UINT32_MAX, 16), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 0), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_NUM, 0, 65536 + 16), EINVAL);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 2), EINVAL);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 255, fds[0]), EINVAL);
	/* No descriptor, none announced; one though none was; the wrong kind; too many */
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_KICK, 0, -1), EINVAL);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, VHOST_USER_NOFD, fds[0]), EINVAL);
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, fds[1]), EINVAL);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_VRING_ERR, &v, sizeof(v), fds, 2), EPROTO);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_OWNER, NULL, 0, fds, 2), EPROTO);
	assert_int_equal(ack_fds(&e, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, fds, 1), EINVAL);
	/* Sizes, and requests that are not offered or not known */
	assert_int_equal(ack(&e, VHOST_USER_SET_VRING_NUM, &v, 4), EPROTO);
	assert_int_equal(ack_u64(&e, VHOST_USER_SEND_RARP, 0), ENOTSUP);
	assert_int_equal(ack_u64(&e, VHOST_USER_NET_SET_MTU, 1500), ENOTSUP);
	assert_int_equal(ack_u64(&e, 77, 0), EPROTO);
	finish(&e);
	fd_close(&fds[0]);
	fd_close(&fds[1]);
}

static void a_frame_that_is_lost_ends_the_connection(void **test)
{
	const struct vhost_user_header bad[] = {
		{ VHOST_USER_GET_FEATURES, 0, 0 },
		{ VHOST_USER_GET_FEATURES, VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY, 0 },
		{ VHOST_USER_SET_FEATURES, VHOST_USER_FLAG_VERSION, UINT32_MAX },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct end e;

		start(&e);
		assert_int_equal(
			send(e.sock, &bad[i], sizeof(bad[i]), MSG_NOSIGNAL), sizeof(bad[i]));
		assert_dropped(&e);
		finish(&e);
	}
}

static void a_device_that_cannot_serve_a_queue_says_so(void **test)
{
	struct end e;

	start(&e);
	e.echo->refuse_start = true;
	shake_hands(&e, VERSION_1 | PROTOCOL);
	share_memory(&e);
	set_up_queue(&e, 0, 64);
	assert_int_equal(state(&e, VHOST_USER_SET_VRING_ENABLE, 0, 1), EIO);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_QUEUE_NUM), ECHO_QUEUES);
	finish(&e);
}

/* The end */

static void a_front_end_that_leaves_is_waited_for_by_what_is_under_way(void **test)
{
	struct end e;

	start_running(&e);
	run_queue(&e, 1);
	atomic_store(&e.echo->hold, true);
	offer(&e, 0, "slow");
	fd_signal(e.kick[0]);
	while (!atomic_load(&e.echo->queues[0].held))
		ask_u64(&e, VHOST_USER_GET_STATUS);
	fd_close(&e.sock);
	/* Its memory stays until the request is done. */
	while (atomic_load(&e.echo->running) != 1)
		sched_yield();
	echo_release(e.echo);
	finish(&e);
}

static void a_front_end_may_leave_in_the_middle_of_a_stop(void **test)
{
	struct vhost_user_vring_state s = { 0, 0 };
	struct end e;

	start_running(&e);
	atomic_store(&e.echo->hold, true);
	offer(&e, 0, "slow");
	fd_signal(e.kick[0]);
	while (!atomic_load(&e.echo->queues[0].held))
		ask_u64(&e, VHOST_USER_GET_STATUS);
	put(&e, VHOST_USER_GET_VRING_BASE, &s, sizeof(s));
	fd_close(&e.sock);
	echo_release(e.echo);
	finish(&e);
}

static void quit_when_freed(void *arg)
{
	loop_quit(arg, 9);
}

static void a_port_is_free_when_its_queues_are(void **test)
{
	struct end e;
	bool freed = false;
	void *code;

	start_running(&e);
	atomic_store(&e.echo->hold, true);
	offer(&e, 0, "slow");
	fd_signal(e.kick[0]);
	while (!atomic_load(&e.echo->queues[0].held))
		ask_u64(&e, VHOST_USER_GET_STATUS);
	loop_quit(e.loop, 3);
	pthread_join(e.thread, &code);
	assert_int_equal((intptr_t)code, 3);
	vhost_user_port_free(e.port, quit_when_freed, e.loop);
	echo_release(e.echo);
	assert_int_equal(loop_run(e.loop), 9);
	assert_dropped(&e);
	fd_close(&e.sock);
	virtio_model_free(&e.echo->model);
	loop_free(e.loop);
	munmap(e.mem, MEM_SIZE);
	fd_close(&e.memfd);
	fd_close(&e.kick[0]);
	fd_close(&e.call[0]);
	assert_int_equal(fd_count(), e.fds_before);
	vhost_user_port_free(NULL, note_freed, &freed);
	assert_true(freed);
}

static void descriptors_of_a_flood_are_closed(void **test)
{
	struct end e;
	int many[SOCK_MAX_FDS], fd = fd_eventfd();

	for (size_t i = 0; i < ARRAY_SIZE(many); i++)
		many[i] = fd;
	start(&e);
	shake_hands(&e, VERSION_1 | PROTOCOL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(
			ack_fds(&e, VHOST_USER_SET_OWNER, NULL, 0, many, ARRAY_SIZE(many)), EPROTO);
	assert_int_equal(ask_u64(&e, VHOST_USER_GET_QUEUE_NUM), ECHO_QUEUES);
	finish(&e);
	fd_close(&fd);
}

static void a_full_blocking_call_descriptor_holds_up_nobody(void **test)
{
	struct end e;
	uint64_t full = UINT64_MAX - 1;

	start_running(&e);
	run_queue(&e, 1);
	fd_close(&e.call[0]);
	e.call[0] = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(write(e.call[0], &full, sizeof(full)), sizeof(full));
	assert_int_equal(vring_fd(&e, VHOST_USER_SET_VRING_CALL, 0, e.call[0]), 0);
	for (int i = 0; i < 20; i++) {
		offer(&e, 0, "unheard");
		fd_signal(e.kick[0]);
		echo_once(&e, 1, "heard");
	}
	finish(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_offers_what_model_and_port_can_do),
		cmocka_unit_test(a_request_goes_through_a_split_ring),
		cmocka_unit_test(queues_are_served_beside_each_other),
		cmocka_unit_test(a_kick_before_the_enable_is_not_lost),
		cmocka_unit_test(without_bit_30_rings_need_no_enable),
		cmocka_unit_test(the_order_of_the_set_up_does_not_matter),
		cmocka_unit_test(get_vring_base_stops_the_queue_and_says_where),
		cmocka_unit_test(get_vring_base_waits_for_what_is_under_way),
		cmocka_unit_test(a_disabled_queue_rests_and_goes_on),
		cmocka_unit_test(a_new_call_descriptor_replaces_the_old_one),
		cmocka_unit_test(a_new_kick_descriptor_works_on_a_running_queue),
		cmocka_unit_test(a_ring_without_kicks_is_watched),
		cmocka_unit_test(a_packed_ring_works_too),
		cmocka_unit_test(a_packed_ring_works_with_half_a_base),
		cmocka_unit_test(memory_may_come_and_go_in_slots),
		cmocka_unit_test(a_new_table_moves_running_queues_along),
		cmocka_unit_test(a_queue_whose_memory_goes_is_alone_in_it),
		cmocka_unit_test(a_ring_outside_the_memory_is_that_queues_trouble),
		cmocka_unit_test(a_running_ring_cannot_be_moved),
		cmocka_unit_test(truncated_memory_ends_the_connection),
		cmocka_unit_test(shared_memory_must_be_memory),
		cmocka_unit_test(writes_are_logged_while_that_is_wanted),
		cmocka_unit_test(a_request_from_before_the_log_is_logged_when_it_ends),
		cmocka_unit_test(a_log_too_small_is_no_way_out_of_it),
		cmocka_unit_test(requests_under_way_outlive_the_process),
		cmocka_unit_test(an_inflight_area_that_does_not_fit_is_refused),
		cmocka_unit_test(configuration_is_read_and_written),
		cmocka_unit_test(a_change_of_the_configuration_is_told),
		cmocka_unit_test(a_reset_stops_everything_and_keeps_the_call),
		cmocka_unit_test(status_0_stops_the_queues_and_keeps_the_model),
		cmocka_unit_test(status_0_is_the_reset_of_who_has_no_other),
		cmocka_unit_test(the_state_goes_through_a_pipe),
		cmocka_unit_test(a_state_that_is_none_is_refused),
		cmocka_unit_test(what_cannot_be_answered_ends_the_connection),
		cmocka_unit_test(requests_are_checked_before_they_are_carried_out),
		cmocka_unit_test(a_frame_that_is_lost_ends_the_connection),
		cmocka_unit_test(a_device_that_cannot_serve_a_queue_says_so),
		cmocka_unit_test(a_front_end_that_leaves_is_waited_for_by_what_is_under_way),
		cmocka_unit_test(a_front_end_may_leave_in_the_middle_of_a_stop),
		cmocka_unit_test(a_port_is_free_when_its_queues_are),
		cmocka_unit_test(descriptors_of_a_flood_are_closed),
		cmocka_unit_test(a_full_blocking_call_descriptor_holds_up_nobody),
	};

	signal(SIGPIPE, SIG_IGN);
	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
