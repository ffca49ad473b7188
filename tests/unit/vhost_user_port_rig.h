/*
 * vhost_user_port_rig.h - an echo device on one end of a socketpair, served by a thread; the test
 * is the front-end at the other
 */
#ifndef TESTS_VHOST_USER_PORT_RIG_H
#define TESTS_VHOST_USER_PORT_RIG_H

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
#include "serve/vhost_user.h"
#include "wire/vhost_user.h"

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

static inline void deserted(void *arg)
{
	loop_quit(((struct end *)arg)->loop, 7);
}

static inline void *serve(void *arg)
{
	return (void *)(intptr_t)loop_run(((struct end *)arg)->loop);
}

static inline void start(struct end *e)
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

static inline void note_freed(void *arg)
{
	*(bool *)arg = true;
}

/* Hang up; the server must end by itself, and leave nothing behind. */
static inline void finish(struct end *e)
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

static inline void put_fds(struct end *e, uint32_t request, uint32_t flags, const void *payload,
	size_t len, const int *fds, int nr)
{
	struct vhost_user_header h = { request, VHOST_USER_FLAG_VERSION | flags, (uint32_t)len };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, len } };

	assert_int_equal(sock_send(e->sock, iov, 2, fds, nr), sizeof(h) + len);
}

static inline void put(struct end *e, uint32_t request, const void *payload, size_t len)
{
	put_fds(e, request, 0, payload, len, NULL, 0);
}

static inline void await(int fd)
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
static inline size_t get_fd(struct end *e, uint32_t request, void *payload, size_t room, int *fd)
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

static inline uint64_t get_u64(struct end *e, uint32_t request)
{
	uint64_t v = ~0ull;

	assert_int_equal(get_fd(e, request, &v, sizeof(v), NULL), sizeof(v));
	return v;
}

static inline uint64_t ask_u64(struct end *e, uint32_t request)
{
	put(e, request, NULL, 0);
	return get_u64(e, request);
}

/* With REPLY_ACK: 0, or the reason. */
static inline uint64_t ack_fds(
	struct end *e, uint32_t request, const void *payload, size_t len, const int *fds, int nr)
{
	put_fds(e, request, FLAG_ACK, payload, len, fds, nr);
	return get_u64(e, request);
}

static inline uint64_t ack(struct end *e, uint32_t request, const void *payload, size_t len)
{
	return ack_fds(e, request, payload, len, NULL, 0);
}

static inline uint64_t ack_u64(struct end *e, uint32_t request, uint64_t v)
{
	return ack(e, request, &v, sizeof(v));
}

static inline uint64_t state(struct end *e, uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state s = { index, num };

	return ack(e, request, &s, sizeof(s));
}

static inline uint64_t vring_fd(struct end *e, uint32_t request, uint64_t v, int fd)
{
	return ack_fds(e, request, &v, sizeof(v), &fd, fd >= 0);
}

static inline void assert_dropped(struct end *e)
{
	uint8_t byte;
	ssize_t n = recv(e->sock, &byte, 1, 0);

	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

/* A front-end's way to a running device */

static inline void shake_hands(struct end *e, uint64_t features)
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

static inline int memory(size_t size)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static inline void share_memory(struct end *e)
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

static inline struct vhost_user_vring_addr ring_addr(unsigned q)
{
	return (struct vhost_user_vring_addr){
		.index = q,
		.desc = USER + RING(q),
		.avail = USER + RING(q) + AVAIL,
		.used = USER + RING(q) + USED,
	};
}

static inline void set_up_queue(struct end *e, unsigned q, uint16_t size)
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

static inline void run_queue(struct end *e, unsigned q)
{
	set_up_queue(e, q, 64);
	assert_int_equal(state(e, VHOST_USER_SET_VRING_ENABLE, q, 1), 0);
}

/* Up to a running queue 0 */
static inline void start_running(struct end *e)
{
	start(e);
	shake_hands(e, VERSION_1 | PROTOCOL);
	share_memory(e);
	run_queue(e, 0);
}

/* Rings */

static inline struct vring_desc *desc(struct end *e, unsigned q)
{
	return (struct vring_desc *)(e->mem + RING(q));
}

static inline uint16_t used_idx(struct end *e, unsigned q)
{
	return __atomic_load_n((uint16_t *)(e->mem + RING(q) + USED + 2), __ATOMIC_ACQUIRE);
}

/* One request: len bytes of text, and room for as many. Not kicked. */
static inline void offer(struct end *e, unsigned q, const char *text)
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

/* Queue 0 has taken a request, and does not answer it: an ask comes after the kick's event. */
static inline void offer_and_hold(struct end *e)
{
	atomic_store(&e->echo->hold, true);
	offer(e, 0, "slow");
	fd_signal(e->kick[0]);
	while (!atomic_load(&e->echo->queues[0].held))
		ask_u64(e, VHOST_USER_GET_STATUS);
}

static inline void await_call(struct end *e, unsigned q)
{
	await(e->call[q]);
	fd_clear(e->call[q]);
}

static inline void expect_echo(struct end *e, unsigned q, const char *text)
{
	/* A queue that starts anew may signal once for nothing: somebody before it may owe a
	 * signal. */
	do
		await_call(e, q);
	while (used_idx(e, q) != e->avail[q]);
	assert_string_equal((char *)e->mem + IN_AT + q * 64, text);
}

static inline void echo_once(struct end *e, unsigned q, const char *text)
{
	offer(e, q, text);
	fd_signal(e->kick[q]);
	expect_echo(e, q, text);
}

#endif
