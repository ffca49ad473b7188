#include "serve/vfio_user.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"
#include "device/gpio.h"
#include "wire/vfio_user.h"

/* A GPIO card on one end of a socketpair, served by a thread; the test has the other end. */
struct server {
	struct loop *loop;
	struct pci_model *model;
	struct vfio_user_port *port;
	pthread_t thread;
	int sock;
	int fds_before;
};

static void deserted(void *arg)
{
	loop_quit(((struct server *)arg)->loop, 7);
}

static void *serve(void *arg)
{
	return (void *)(intptr_t)loop_run(((struct server *)arg)->loop);
}

static void make(struct server *s, bool no_spin)
{
	struct vfio_user_port_config config = {
		.no_spin = no_spin, .deserted = deserted, .arg = s
	};
	struct gpio_config gpio = { .loopback = true };
	struct timeval patience = { .tv_sec = 30 };
	struct err err = { 0 };
	int socks[2];

	s->fds_before = fd_count();
	assert_int_equal(loop_new(&s->loop), 0);
	assert_int_equal(gpio_new(&s->model, &gpio), 0);
	assert_int_equal(sock_pair(socks), 0);
	s->sock = socks[0];
	setsockopt(s->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(
		vfio_user_port_new(&s->port, s->loop, s->model, socks[1], &config, &err), 0);
}

static void run(struct server *s)
{
	assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void start(struct server *s, bool no_spin)
{
	make(s, no_spin);
	run(s);
}

/* Hang up; the server must end by itself, and leave nothing behind. */
static void finish(struct server *s)
{
	void *code;

	fd_close(&s->sock);
	pthread_join(s->thread, &code);
	assert_int_equal((intptr_t)code, 7);
	vfio_user_port_free(s->port);
	pci_model_free(s->model);
	loop_free(s->loop);
	assert_int_equal(fd_count(), s->fds_before);
}

static void put(struct server *s, uint16_t id, uint16_t command, uint32_t flags,
	const void *payload, size_t len)
{
	struct vfio_user_header h = { id, command, (uint32_t)(sizeof(h) + len), flags, 0 };
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)(uintptr_t)payload, len } };

	assert_int_equal(sock_send(s->sock, iov, 2, NULL, 0), h.size);
}

static void get(struct server *s, uint16_t id, uint16_t command, void *payload, size_t len)
{
	struct vfio_user_header h;

	assert_int_equal(recv(s->sock, &h, sizeof(h), MSG_WAITALL), sizeof(h));
	assert_int_equal(h.id, id);
	assert_int_equal(h.command, command);
	assert_int_equal(h.flags, VFIO_USER_TYPE_REPLY);
	assert_int_equal(h.size, sizeof(h) + len);
	if (len)
		assert_int_equal(recv(s->sock, payload, len, MSG_WAITALL), len);
}

static void shake_hands(struct server *s)
{
	struct vfio_user_version v = { 0, 1 };

	put(s, 1, VFIO_USER_VERSION, 0, &v, sizeof(v));
	get(s, 1, VFIO_USER_VERSION, &v, sizeof(v));
	assert_int_equal(v.minor, 1);
}

static uint8_t read_register(struct server *s, uint64_t off)
{
	struct vfio_user_region_access a = { off, 2, 1 };
	struct {
		struct vfio_user_region_access a;
		uint8_t value;
	} __attribute__((packed)) reply;

	put(s, 2, VFIO_USER_REGION_READ, 0, &a, sizeof(a));
	get(s, 2, VFIO_USER_REGION_READ, &reply, sizeof(reply));
	assert_memory_equal(&a, &reply.a, sizeof(a));
	return reply.value;
}

static void write_register(struct server *s, uint64_t off, uint8_t value, bool posted)
{
	struct {
		struct vfio_user_region_access a;
		uint8_t value;
	} __attribute__((packed)) w = { { off, 2, 1 }, value };

	put(s, 3, VFIO_USER_REGION_WRITE, posted ? VFIO_USER_FLAG_NO_REPLY : 0, &w, sizeof(w));
	if (!posted)
		get(s, 3, VFIO_USER_REGION_WRITE, &w.a, sizeof(w.a));
}

/* Quick enough in a row that a spinning server spins, and slow ones in between. */
static void talk(bool no_spin)
{
	struct server s;

	start(&s, no_spin);
	shake_hands(&s);
	for (int i = 0; i < 3000; i++) {
		write_register(&s, 0, (uint8_t)i, i & 1);
		assert_int_equal(read_register(&s, 1), (uint8_t)i);
		if (i % 500 == 0)
			usleep(1000); /* longer than it looks at a quiet socket */
	}
	finish(&s);
}

static void a_server_that_spins_answers_everything_in_order(void **state)
{
	talk(false);
}

static void a_server_that_sleeps_answers_everything_in_order(void **state)
{
	talk(true);
}

static void a_client_that_never_speaks_just_leaves(void **state)
{
	struct server s;

	start(&s, false);
	finish(&s);
}

static void a_port_can_be_freed_under_its_client(void **state)
{
	struct server s;

	start(&s, false);
	shake_hands(&s);
	loop_quit(s.loop, 7);
	pthread_join(s.thread, NULL);
	vfio_user_port_free(s.port);
	assert_null(s.model->port);
	assert_int_equal(recv(s.sock, &(char){ 0 }, 1, 0), 0);
	/* The same model, another port. */
	pci_model_free(s.model);
	loop_free(s.loop);
	fd_close(&s.sock);
	assert_int_equal(fd_count(), s.fds_before);
}

static void write_and_hang_up(size_t nr)
{
	struct {
		struct vfio_user_header h;
		struct vfio_user_region_access a;
		uint8_t value;
	} __attribute__((packed)) writes[600];
	struct iovec iov = { writes, nr * sizeof(writes[0]) };
	struct vfio_user_version v = { 0, 1 };
	struct vfio_user_region_access a = { 0, 2, 1 };
	struct server s;
	uint8_t last[17];

	assert_true(nr <= ARRAY_SIZE(writes));
	for (size_t i = 0; i < nr; i++) {
		writes[i].h = (struct vfio_user_header){ 2, VFIO_USER_REGION_WRITE,
			sizeof(writes[i]), VFIO_USER_FLAG_NO_REPLY, 0 };
		writes[i].a = a;
		writes[i].value = (uint8_t)i;
	}
	make(&s, true);
	put(&s, 1, VFIO_USER_VERSION, 0, &v, sizeof(v));
	assert_int_equal(sock_send(s.sock, &iov, 1, NULL, 0), iov.iov_len);
	put(&s, 3, VFIO_USER_REGION_READ, 0, &a, sizeof(a));
	assert_int_equal(shutdown(s.sock, SHUT_WR), 0);
	run(&s);
	get(&s, 1, VFIO_USER_VERSION, &v, sizeof(v));
	get(&s, 3, VFIO_USER_REGION_READ, last, sizeof(last));
	assert_int_equal(last[16], (nr - 1) & 0xff);
	assert_int_equal(recv(s.sock, last, 1, 0), 0);
	finish(&s);
}

/* The port hears of bytes and hang-up once, and there may be more than it does in one turn. */
static void what_came_before_the_hang_up_is_done_to_the_last(void **state)
{
	write_and_hang_up(10);
	write_and_hang_up(600);
}

static void what_is_no_socket_is_refused_and_closed(void **state)
{
	struct vfio_user_port_config config = { 0 };
	struct gpio_config gpio = { .loopback = true };
	int before = fd_count(), bad[3], ends[2];
	struct vfio_user_port *port;
	struct pci_model *model;
	struct loop *loop;

	assert_int_equal(loop_new(&loop), 0);
	assert_int_equal(gpio_new(&model, &gpio), 0);
	assert_int_equal(pipe(ends), 0);
	bad[0] = ends[0];
	bad[1] = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bad[2] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = { 0 };

		if (bad[i] < 0)
			continue;
		assert_true(vfio_user_port_new(&port, loop, model, bad[i], &config, &err) < 0);
		assert_true(err.text[0]);
	}
	close(ends[1]);
	pci_model_free(model);
	loop_free(loop);
	assert_int_equal(fd_count(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_server_that_spins_answers_everything_in_order),
		cmocka_unit_test(a_server_that_sleeps_answers_everything_in_order),
		cmocka_unit_test(a_client_that_never_speaks_just_leaves),
		cmocka_unit_test(a_port_can_be_freed_under_its_client),
		cmocka_unit_test(what_came_before_the_hang_up_is_done_to_the_last),
		cmocka_unit_test(what_is_no_socket_is_refused_and_closed),
	};

	log_init("test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
