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

/* A reply's payload: its length, and a descriptor (or -1) into *fd if that is wanted. */
static size_t get_fd(struct end *e, uint32_t request, void *payload, size_t room, int *fd)
{
	struct fd_list fds = { .nr = 0 };
	struct vhost_user_header h;
	struct pollfd pfd = { .fd = e->sock, .events = POLLIN };

	assert_int_equal(poll(&pfd, 1, DEADLINE_S * 1000), 1);
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
	struct pollfd pfd = { .fd = e->call[q], .events = POLLIN };

	assert_int_equal(poll(&pfd, 1, DEADLINE_S * 1000), 1);
	fd_clear(e->call[q]);
}

static void expect_echo(struct end *e, unsigned q, const char *text)
{
	await_call(e, q);
	assert_int_equal(used_idx(e, q), e->avail[q]);
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
	while (e.echo->queues[0].held == false)
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
	};

	signal(SIGPIPE, SIG_IGN);
	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
