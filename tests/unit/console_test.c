#include "device/console.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/sock.h"
#include "base/util.h"
#include "device/model.h"
#include "virtio_rig.h"
#include "wire/virtio.h"

#define COOKIE(n) ((void *)(uintptr_t)(n))
#define MULTIPORT VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT)

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, RX2, TX2 };

static struct rig r;
static char dir[64];
static char path[96];
static int fds_at_start;

static int set_up(void **state)
{
	fds_at_start = fd_count();
	snprintf(dir, sizeof(dir), "/tmp/console-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/end", dir);
	rig_init(&r);
	return 0;
}

static int tear_down(void **state)
{
	rig_fini(&r);
	unlink(path);
	rmdir(dir);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static void make(const struct console_port_config *ports, unsigned nr)
{
	struct console_config config = { .name = "console", .nr_ports = nr, .ports = ports };
	struct err err = { 0 };

	assert_int_equal(console_new(&r.model, r.loop, &config, &err), 0);
	for (unsigned i = 0; i < r.model->nr_queues; i++)
		rig_queue(&r, i, &(struct drv_config){ .size = 64, .event_idx = true });
}

static void start_all(uint64_t features)
{
	r.model->ops->set_features(r.model, features);
	for (unsigned i = 0; i < r.model->nr_queues; i++)
		assert_int_equal(rig_start(&r, i), 0);
}

static void make_single(struct console_end_config end)
{
	make(&(struct console_port_config){ .end = end, .name = "" }, 1);
	start_all(0);
}

/* Queues as a driver uses them */

static void send_bytes(unsigned queue, const void *bytes, uint32_t len, unsigned cookie)
{
	uint64_t at = drv_alloc(r.mem, len, 8);
	struct drv_buf buf = { at, len };

	memcpy(drv_at(r.mem, at), bytes, len);
	assert_int_equal(drv_add(r.q[queue].drv, &buf, 1, 0, COOKIE(cookie)), 0);
	rig_kick(&r, queue);
}

static void send_text(unsigned queue, const char *text, unsigned cookie)
{
	send_bytes(queue, text, (uint32_t)strlen(text), cookie);
}

static void give_buffer(unsigned queue, uint32_t len)
{
	uint64_t at = drv_alloc(r.mem, len, 8);
	struct drv_buf buf = { at, len };

	assert_int_equal(drv_add(r.q[queue].drv, &buf, 0, 1, drv_at(r.mem, at)), 0);
	rig_kick(&r, queue);
}

static void used(unsigned queue, unsigned cookie)
{
	struct rig_used u;

	assert_true(rig_take(&r, queue, &u));
	assert_ptr_equal(u.cookie, COOKIE(cookie));
}

static void nothing_used(unsigned queue)
{
	void *cookie;
	uint32_t written;

	rig_settle(&r);
	assert_false(drv_get(r.q[queue].drv, &cookie, &written));
	assert_null(r.q[queue].drv->error);
}

static void received(unsigned queue, const char *text)
{
	struct rig_used u;

	assert_true(rig_take(&r, queue, &u));
	assert_int_equal(u.written, strlen(text));
	assert_memory_equal(u.cookie, text, strlen(text));
}

/* Control messages */

static void tell(uint32_t id, uint16_t event, uint16_t value)
{
	struct virtio_console_control m = { .id = id, .event = event, .value = value };

	send_bytes(CONTROL_TX, &m, sizeof(m), 99);
	used(CONTROL_TX, 99);
}

static void told(uint32_t id, uint16_t event, uint16_t value, const void *more, uint32_t more_len)
{
	struct virtio_console_control m;
	struct rig_used u;

	assert_true(rig_take(&r, CONTROL_RX, &u));
	memcpy(&m, u.cookie, sizeof(m));
	assert_int_equal(m.id, id);
	assert_int_equal(m.event, event);
	if (event != VIRTIO_CONSOLE_RESIZE)
		assert_int_equal(m.value, value);
	assert_int_equal(u.written, sizeof(m) + more_len);
	assert_memory_equal((char *)u.cookie + sizeof(m), more, more_len);
}

static void give_control_buffers(void)
{
	for (int i = 0; i < 32; i++)
		give_buffer(CONTROL_RX, 128);
}

/* Clients of a socket */

static int client(void)
{
	struct err err = { 0 };
	int fd = sock_connect(path, &err);

	assert_true(fd >= 0);
	rig_settle(&r);
	return fd;
}

static size_t read_some(int fd, char *buf, size_t size)
{
	ssize_t n = read(fd, buf, size);

	return n < 0 ? 0 : (size_t)n;
}

static void client_reads(int fd, const char *text)
{
	char buf[4096];
	size_t n;

	rig_settle(&r);
	n = read_some(fd, buf, sizeof(buf));
	assert_int_equal(n, strlen(text));
	assert_memory_equal(buf, text, n);
}

static const struct console_end_config null_end = { .kind = CONSOLE_NULL };

static struct console_end_config socket_end(void)
{
	return (struct console_end_config){ .kind = CONSOLE_SOCKET, .path = path };
}

/* One port */

static void output_is_appended_to_a_file(void **state)
{
	FD_AUTO fd = open(path, O_RDWR | O_CREAT, 0600);
	char buf[64] = "";

	assert_int_equal(write(fd, "before ", 7), 7);
	make_single((struct console_end_config){ .kind = CONSOLE_FILE, .path = path });
	send_text(TX0, "Hello, ", 1);
	send_text(TX0, "world\n", 2);
	used(TX0, 1);
	used(TX0, 2);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), 20);
	assert_string_equal(buf, "before Hello, world\n");
}

static void output_to_null_vanishes(void **state)
{
	make_single(null_end);
	for (unsigned i = 1; i <= 200; i++) {
		send_text(TX0, "x", i);
		used(TX0, i);
	}
	give_buffer(RX0, 16);
	nothing_used(RX0);
}

static void a_pty_works_both_ways(void **state)
{
	FD_AUTO slave = -1;
	char buf[64];

	make_single((struct console_end_config){ .kind = CONSOLE_PTY });
	slave = open(console_pty_path(r.model, 0), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	assert_true(slave >= 0);
	send_text(TX0, "login: ", 1);
	used(TX0, 1);
	assert_int_equal(read_some(slave, buf, sizeof(buf)), 7);
	assert_memory_equal(buf, "login: ", 7);

	assert_int_equal(write(slave, "root\r", 5), 5);
	give_buffer(RX0, 3);
	received(RX0, "roo");
	give_buffer(RX0, 16);
	received(RX0, "t\r");
	give_buffer(RX0, 16);
	nothing_used(RX0);
}

static void input_waits_for_buffers_without_spinning(void **state)
{
	FD_AUTO slave = -1;

	make_single((struct console_end_config){ .kind = CONSOLE_PTY });
	slave = open(console_pty_path(r.model, 0), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	give_buffer(RX0, 2);
	assert_int_equal(write(slave, "abcdef", 6), 6);
	received(RX0, "ab");
	nothing_used(RX0);
	give_buffer(RX0, 2);
	received(RX0, "cd");
	give_buffer(RX0, 2);
	received(RX0, "ef");
}

/* A console's guest spins until its output is used: it is never made to wait. */
static void a_console_that_nobody_reads_keeps_the_latest(void **state)
{
	char chunk[4096], last[16];
	FD_AUTO fd = -1;
	size_t total = 0, n;
	static char got[256 * 1024];

	make_single(socket_end());
	for (unsigned i = 1; i <= 64; i++) {
		memset(chunk, 'a' + i % 26, sizeof(chunk));
		snprintf(chunk, sizeof(chunk), "<%u>", i);
		memcpy(drv_at(r.mem, DRV_IOVA + 3 * MIB), chunk, sizeof(chunk));
		assert_int_equal(drv_add(r.q[TX0].drv,
					 &(struct drv_buf){ DRV_IOVA + 3 * MIB, sizeof(chunk) }, 1,
					 0, COOKIE(i)),
			0);
		rig_kick(&r, TX0);
		used(TX0, i);
	}
	fd = client();
	do {
		rig_settle(&r);
		n = read_some(fd, got + total, sizeof(got) - total - 1);
		total += n;
	} while (n);
	assert_int_equal(total, 64 * KIB);
	snprintf(last, sizeof(last), "<64>");
	assert_memory_equal(got + total - sizeof(chunk), last, 4);
	assert_memory_equal(got, "<49>", 4);
}

static void the_emergency_byte_is_written_without_queues(void **state)
{
	FD_AUTO fd = open(path, O_RDWR | O_CREAT, 0600);
	struct console_end_config end = { .kind = CONSOLE_FILE, .path = path };
	size_t at = offsetof(struct virtio_console_config, emerg_wr);
	uint32_t word = 'A';
	uint8_t all[12] = { [8] = 'B' };
	char buf[8] = "";

	make(&(struct console_port_config){ .end = end, .name = "" }, 1);
	assert_true(r.model->features & VIRTIO_BIT(VIRTIO_CONSOLE_F_EMERG_WRITE));
	r.model->ops->config_write(r.model, at, &word, 4);
	r.model->ops->config_write(r.model, 0, all, sizeof(all));
	r.model->ops->config_write(r.model, at, "C", 1);
	r.model->ops->config_write(r.model, at + 1, "D", 1);
	r.model->ops->config_write(r.model, 0, all, 8);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), 3);
	assert_string_equal(buf, "ABC");
}

static void the_size_follows_the_terminal(void **state)
{
	struct winsize size = { .ws_col = 132, .ws_row = 43 };
	struct virtio_console_config config;
	FD_AUTO slave = -1;

	make_single((struct console_end_config){ .kind = CONSOLE_PTY });
	slave = open(console_pty_path(r.model, 0), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	give_buffer(RX0, 8);
	rig_settle(&r);
	assert_int_equal(ioctl(slave, TIOCSWINSZ, &size), 0);
	assert_int_equal(write(slave, "x", 1), 1);
	received(RX0, "x");
	memcpy(&config, r.model->config, sizeof(config));
	assert_int_equal(config.cols, 132);
	assert_int_equal(config.rows, 43);
	assert_int_equal(r.config_changes, 1);
}

static void an_end_that_closes_does_not_spin(void **state)
{
	int in[2], out[2];

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	make_single((struct console_end_config){
		.kind = CONSOLE_FDS, .in_fd = in[0], .out_fd = out[1] });
	give_buffer(RX0, 8);
	assert_int_equal(write(in[1], "last", 4), 4);
	close(in[1]);
	received(RX0, "last");
	give_buffer(RX0, 8);
	nothing_used(RX0);
	close(out[0]);
	send_text(TX0, "lost", 1);
	used(TX0, 1);
	send_text(TX0, "too", 2);
	used(TX0, 2);
	nothing_used(TX0);
}

static void one_client_at_a_time(void **state)
{
	FD_AUTO first = -1;
	FD_AUTO second = -1;
	char byte;

	make_single(socket_end());
	first = client();
	second = client();
	assert_int_equal(read(second, &byte, 1), 0); /* closed at once */
	send_text(TX0, "for the first", 1);
	client_reads(first, "for the first");
	fd_close(&first);
	fd_close(&second);
	rig_settle(&r);
	second = client();
	send_text(TX0, "for the next", 2);
	client_reads(second, "for the next");
}

static void a_client_that_finished_sending_may_read(void **state)
{
	FD_AUTO fd = -1;

	make_single(socket_end());
	give_buffer(RX0, 16);
	fd = client();
	assert_int_equal(send(fd, "bye", 3, 0), 3);
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	received(RX0, "bye");
	give_buffer(RX0, 16);
	nothing_used(RX0);
	send_text(TX0, "still here", 1);
	client_reads(fd, "still here");
}

/* Others share what was given: their view of it must not change. */
static void given_descriptors_stay_as_they_are(void **state)
{
	int in[2], out[2];
	char buf[8192];
	unsigned taken = 0;
	FD_AUTO shared_in = -1;
	FD_AUTO shared_out = -1;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	shared_in = dup(in[0]);
	shared_out = dup(out[1]);
	make_single((struct console_end_config){
		.kind = CONSOLE_FDS, .in_fd = in[0], .out_fd = out[1] });
	assert_false(fcntl(shared_in, F_GETFL) & O_NONBLOCK);
	assert_false(fcntl(shared_out, F_GETFL) & O_NONBLOCK);
	/* More than the pipe holds: nobody waits. */
	for (unsigned i = 1; i <= 40; i++) {
		memset(buf, 'a', sizeof(buf));
		memcpy(drv_at(r.mem, DRV_IOVA + 3 * MIB), buf, sizeof(buf));
		assert_int_equal(
			drv_add(r.q[TX0].drv, &(struct drv_buf){ DRV_IOVA + 3 * MIB, sizeof(buf) },
				1, 0, COOKIE(i)),
			0);
		rig_kick(&r, TX0);
		used(TX0, i);
		taken++;
	}
	assert_int_equal(taken, 40);
	give_buffer(RX0, 8);
	nothing_used(RX0);
	assert_int_equal(write(in[1], "typed", 5), 5);
	received(RX0, "typed");
	close(in[1]);
	close(out[0]);
}

static void a_given_pty_is_not_made_anew(void **state)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	char name[64], buf[64];
	FD_AUTO slave = -1;

	assert_true(master >= 0);
	assert_int_equal(grantpt(master) | unlockpt(master), 0);
	assert_int_equal(ptsname_r(master, name, sizeof(name)), 0);
	make_single((struct console_end_config){
		.kind = CONSOLE_FDS, .in_fd = master, .out_fd = master });
	slave = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	send_text(TX0, "hello\n", 1);
	used(TX0, 1);
	assert_int_equal(read_some(slave, buf, sizeof(buf)), 6);
	/* Nobody has it open for a while: input and output go on afterwards. */
	fd_close(&slave);
	give_buffer(RX0, 8);
	nothing_used(RX0);
	slave = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	assert_int_equal(write(slave, "yes", 3), 3);
	received(RX0, "yes");
}

static void a_given_listener_has_clients(void **state)
{
	struct err err = { 0 };
	int fd = sock_listen(path, 4, &err);
	FD_AUTO peer = -1;

	make_single((struct console_end_config){ .kind = CONSOLE_SOCKET, .in_fd = fd });
	peer = client();
	send_text(TX0, "hello", 1);
	client_reads(peer, "hello");
}

/* Several ports */

static void make_ports(void)
{
	const struct console_port_config ports[] = {
		{ .end = null_end, .name = "" },
		{ .end = socket_end(), .name = "org.example.agent" },
		{ .end = null_end, .name = "", .console = true },
	};

	make(ports, 3);
	assert_int_equal(r.model->nr_queues, 8);
	assert_true(r.model->features & MULTIPORT);
}

static void shake_hands(void)
{
	start_all(MULTIPORT);
	give_control_buffers();
	nothing_used(CONTROL_RX);
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	for (unsigned i = 0; i < 3; i++)
		told(i, VIRTIO_CONSOLE_PORT_ADD, 0, NULL, 0);
	tell(1, VIRTIO_CONSOLE_PORT_READY, 1);
	told(1, VIRTIO_CONSOLE_PORT_NAME, 1, "org.example.agent", 17);
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL, 0);
}

static void ports_are_announced(void **state)
{
	make_ports();
	shake_hands();
	tell(2, VIRTIO_CONSOLE_PORT_READY, 1);
	told(2, VIRTIO_CONSOLE_CONSOLE_PORT, 1, NULL, 0);
	told(2, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
	/* A second time: nothing is added twice. */
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	nothing_used(CONTROL_RX);
}

static void clients_are_announced(void **state)
{
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	fd = client();
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
	fd_close(&fd);
	rig_settle(&r);
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 0, NULL, 0);
	nothing_used(CONTROL_RX);
}

static void a_flood_of_clients_takes_no_memory(void **state)
{
	unsigned told_of = 0;
	struct rig_used u;
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	/* As many as the driver has buffers for, then no more. */
	for (unsigned i = 0; i < 100; i++) {
		fd = client();
		fd_close(&fd);
		rig_settle(&r);
	}
	fd = client();
	while (r.q[CONTROL_RX].drv->nr_open) {
		assert_true(rig_take(&r, CONTROL_RX, &u));
		told_of++;
	}
	give_buffer(CONTROL_RX, 64);
	assert_in_range(told_of, 20, 32);
	/* The next thing it hears is how it is now. */
	told(1, VIRTIO_CONSOLE_PORT_OPEN, 1, NULL, 0);
}

static void input_waits_until_the_guest_opens_the_port(void **state)
{
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	fd = client();
	give_buffer(RX1, 16);
	assert_int_equal(send(fd, "early", 5, 0), 5);
	nothing_used(RX1);
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	received(RX1, "early");
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 0);
	give_buffer(RX1, 16);
	assert_int_equal(send(fd, "late", 4, 0), 4);
	nothing_used(RX1);
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	received(RX1, "late");
}

/* 1 MiB to a client that reads now and then: every byte, in order, while another port goes on. */
static void a_slow_client_slows_its_port_alone(void **state)
{
	const uint32_t piece = 16 * KIB;
	unsigned sent = 0, taken = 0, other = 0;
	size_t got = 0, n;
	char buf[8192];
	FD_AUTO fd = -1;
	void *cookie;
	uint32_t written;

	make_ports();
	shake_hands();
	fd = client();
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	for (uint32_t i = 0; i < 64 * piece / 4; i++)
		((uint32_t *)drv_at(r.mem, DRV_IOVA + 2 * MIB))[i] = i;
	for (; sent < 64; sent++) {
		struct drv_buf piece_buf = { DRV_IOVA + 2 * MIB + sent * (uint64_t)piece, piece };

		assert_int_equal(drv_add(r.q[TX1].drv, &piece_buf, 1, 0, COOKIE(sent + 1)), 0);
	}
	rig_kick(&r, TX1);
	rig_settle(&r);
	while (drv_get(r.q[TX1].drv, &cookie, &written))
		taken++;
	assert_true(taken < 64); /* the socket is full */
	while (got < 64 * (size_t)piece) {
		send_text(TX2, "z", ++other);
		used(TX2, other);
		rig_settle(&r);
		n = read_some(fd, buf, sizeof(buf) - got % 4);
		for (size_t i = 0; i < n; i++)
			assert_int_equal((uint8_t)buf[i],
				*((uint8_t *)drv_at(r.mem, DRV_IOVA + 2 * MIB) + got + i));
		got += n;
		assert_int_not_equal(n, 0);
		if (other > 60)
			other = 0;
	}
	rig_settle(&r);
	while (drv_get(r.q[TX1].drv, &cookie, &written))
		taken++;
	assert_int_equal(taken, 64);
}

static void what_waits_for_a_client_that_leaves_is_dropped(void **state)
{
	struct drv_buf big = { DRV_IOVA + 2 * MIB, 1 * MIB };
	FD_AUTO fd = -1;

	make_ports();
	shake_hands();
	fd = client();
	assert_int_equal(drv_add(r.q[TX1].drv, &big, 1, 0, COOKIE(1)), 0);
	rig_kick(&r, TX1);
	nothing_used(TX1);
	fd_close(&fd);
	used(TX1, 1);
	/* The next client gets what is sent to it, and no rest. */
	fd = client();
	send_text(TX1, "fresh", 2);
	used(TX1, 2);
	client_reads(fd, "fresh");
}

static void a_stop_in_the_middle_loses_nothing(void **state)
{
	const size_t size = 1 * MIB;
	struct drv_buf big = { DRV_IOVA + 2 * MIB, (uint32_t)size };
	struct vq_setup s;
	FD_AUTO fd = -1;
	char buf[8192];
	size_t got = 0, n;

	make_ports();
	shake_hands();
	fd = client();
	for (size_t i = 0; i < size; i++)
		*((uint8_t *)drv_at(r.mem, DRV_IOVA + 2 * MIB) + i) = (uint8_t)(i * 7 + i / 251);
	send_text(TX1, "!", 2);
	used(TX1, 2);
	client_reads(fd, "!");
	assert_int_equal(drv_add(r.q[TX1].drv, &big, 1, 0, COOKIE(1)), 0);
	rig_kick(&r, TX1);
	nothing_used(TX1);
	s = drv_setup(r.q[TX1].drv);
	s.base = rig_stop(&r, TX1);
	assert_int_equal(s.base, 1);
	assert_int_equal(rig_start_as(&r, TX1, &s), 0);
	while (got < size) {
		rig_settle(&r);
		n = read_some(fd, buf, sizeof(buf));
		assert_int_not_equal(n, 0);
		for (size_t i = 0; i < n; i++)
			assert_int_equal(
				(uint8_t)buf[i], (uint8_t)((got + i) * 7 + (got + i) / 251));
		got += n;
	}
	used(TX1, 1);
	rig_settle(&r);
	assert_int_equal(read_some(fd, buf, sizeof(buf)), 0);
}

static void bad_control_messages_are_ignored(void **state)
{
	static const struct virtio_console_control bad[] = {
		{ .id = 3, .event = VIRTIO_CONSOLE_PORT_READY, .value = 1 },
		{ .id = UINT32_MAX, .event = VIRTIO_CONSOLE_PORT_OPEN, .value = 1 },
		{ .id = 1, .event = VIRTIO_CONSOLE_PORT_ADD },
		{ .id = 1, .event = 4711, .value = 3 },
		{ .id = 0, .event = VIRTIO_CONSOLE_DEVICE_READY, .value = 0 },
	};
	struct rig_used u;

	make_ports();
	start_all(MULTIPORT);
	give_control_buffers();
	/* Before the device is ready there are no ports. */
	tell(1, VIRTIO_CONSOLE_PORT_READY, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		tell(bad[i].id, bad[i].event, bad[i].value);
	send_bytes(CONTROL_TX, "short", 5, 1);
	used(CONTROL_TX, 1);
	give_buffer(CONTROL_TX, 64);
	assert_true(rig_take(&r, CONTROL_TX, &u));
	assert_int_equal(u.written, 0);
	nothing_used(CONTROL_RX);
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	told(0, VIRTIO_CONSOLE_PORT_ADD, 0, NULL, 0);
}

static void control_buffers_that_are_too_small_are_given_back(void **state)
{
	struct rig_used u;

	make_ports();
	start_all(MULTIPORT);
	give_buffer(CONTROL_RX, 7);
	give_buffer(CONTROL_RX, 64);
	tell(0, VIRTIO_CONSOLE_DEVICE_READY, 1);
	assert_true(rig_take(&r, CONTROL_RX, &u));
	assert_int_equal(u.written, 0);
	told(0, VIRTIO_CONSOLE_PORT_ADD, 0, NULL, 0);
}

static void a_driver_that_begins_anew_is_told_anew(void **state)
{
	make_ports();
	shake_hands();
	for (unsigned i = 0; i < r.model->nr_queues; i++) {
		rig_stop(&r, i);
		drv_reset(r.q[i].drv);
	}
	shake_hands();
}

/* The process before this one has heard it all: the messages do not come again. */
static void after_a_restart_ports_are_open(void **state)
{
	FD_AUTO fd = -1;

	make_ports();
	r.model->ops->set_features(r.model, MULTIPORT);
	for (unsigned i = 0; i < r.model->nr_queues; i++) {
		r.q[i].drv->used->idx = r.q[i].drv->avail->idx = 5;
		r.q[i].drv->avail_idx = r.q[i].drv->used_idx = 5;
		assert_int_equal(rig_start(&r, i), 0);
	}
	give_buffer(RX1, 16);
	fd = client();
	assert_int_equal(send(fd, "hello", 5, 0), 5);
	received(RX1, "hello");
	send_text(TX1, "answer", 1);
	client_reads(fd, "answer");
}

static void state_is_saved_and_loaded(void **state)
{
	struct err err = { 0 };
	char buf[4096];
	FD_AUTO fd = -1;
	ssize_t n;

	make_ports();
	shake_hands();
	tell(1, VIRTIO_CONSOLE_PORT_OPEN, 1);
	n = r.model->ops->save(r.model, buf, sizeof(buf));
	assert_in_range(n, 1, sizeof(buf));
	assert_int_equal(r.model->ops->save(r.model, buf, 10), -ENOSPC);
	r.model->ops->reset(r.model);
	assert_int_equal(r.model->ops->load(r.model, buf, (size_t)n, &err), 0);
	give_buffer(RX1, 16);
	fd = client();
	assert_int_equal(send(fd, "kept", 4, 0), 4);
	received(RX1, "kept");
}

static void bad_state_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"{}",
		"[]",
		"{\"model\":\"console\",\"version\":2,\"multiport\":true,\"ready\":true,\"ports\":[]}",
		"{\"model\":\"console\",\"version\":1,\"multiport\":true,\"ready\":true,\"ports\":[]}",
		"{\"model\":\"console\",\"version\":1,\"multiport\":true,\"ready\":true,\"ports\":"
		"[{},{},{}]}",
		"{\"model\":\"console\",\"version\":1,\"multiport\":true,\"ready\":true,\"ports\":3}",
	};

	make_ports();
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = { 0 };

		assert_int_equal(
			r.model->ops->load(r.model, bad[i], strlen(bad[i]), &err), -EINVAL);
		assert_true(err.text[0]);
	}
}

/* The row */

static int make_by(const char *const *pairs, struct err *err)
{
	const char *values[DEVICE_MODEL_MAX_OPTIONS] = { 0 };

	for (; *pairs; pairs += 2)
		for (size_t i = 0; i < console_model.nr_options; i++)
			if (!strcmp(console_model.options[i].name, pairs[0]))
				values[i] = pairs[1];
	err->text[0] = '\0';
	return console_model.new_virtio(values, r.loop, &r.model, err);
}

static void options_make_ports(void **state)
{
	char ports[256];
	struct virtio_console_config config;
	struct err err;

	snprintf(ports, sizeof(ports), "agent=socket:%s,console=null", path);
	assert_int_equal(
		make_by((const char *[]){ "size", "100x37", "ports", ports, NULL }, &err), 0);
	memcpy(&config, r.model->config, sizeof(config));
	assert_int_equal(config.cols, 100);
	assert_int_equal(config.rows, 37);
	assert_int_equal(config.max_nr_ports, 3);
	assert_true(r.model->features & MULTIPORT);
}

static void bad_options_are_refused(void **state)
{
	static const char *const bad[][5] = {
		{ "pty", "", "file", "/x" },
		{ "size", "80" },
		{ "size", "0x25" },
		{ "size", "80x25x" },
		{ "size", "80x70000" },
		{ "socket-fd", "x" },
		{ "socket-fd", "777" },
		{ "socket", "/x", "socket-fd", "5" },
		{ "in-fd", "-1" },
		{ "in-fd", "x" },
		{ "in-fd", "1" },
		{ "out-fd", "777" },
		{ "ports", "" },
		{ "ports", "a" },
		{ "ports", "=pty" },
		{ "ports", "a=ptx" },
		{ "ports", "a=fd:x" },
		{ "ports", "a=fd:-1" },
		{ "ports", "a=fd:3:4:5" },
		{ "ports", "a=file:" },
		{ "ports", "a=null,,b=null" },
		{ "file", "/nonexistent/x" },
		{ "socket", "/nonexistent/x" },
	};
	char many[1024] = "a=null", name[160];
	struct err err;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(make_by(bad[i], &err) < 0);
		assert_true(err.text[0]);
		assert_null(strchr(err.text, '\n'));
	}
	for (unsigned i = 0; i < CONSOLE_MAX_PORTS; i++)
		strcat(many, ",a=null");
	assert_int_equal(make_by((const char *[]){ "ports", many, NULL }, &err), -E2BIG);
	memset(name, 'n', 64);
	strcpy(name + 64, "=null");
	assert_int_equal(make_by((const char *[]){ "ports", name, NULL }, &err), -EINVAL);
	assert_null(r.model);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(output_is_appended_to_a_file),
		TEST(output_to_null_vanishes),
		TEST(a_pty_works_both_ways),
		TEST(input_waits_for_buffers_without_spinning),
		TEST(a_console_that_nobody_reads_keeps_the_latest),
		TEST(the_emergency_byte_is_written_without_queues),
		TEST(the_size_follows_the_terminal),
		TEST(an_end_that_closes_does_not_spin),
		TEST(one_client_at_a_time),
		TEST(a_client_that_finished_sending_may_read),
		TEST(given_descriptors_stay_as_they_are),
		TEST(a_given_pty_is_not_made_anew),
		TEST(a_given_listener_has_clients),
		TEST(ports_are_announced),
		TEST(clients_are_announced),
		TEST(a_flood_of_clients_takes_no_memory),
		TEST(input_waits_until_the_guest_opens_the_port),
		TEST(a_slow_client_slows_its_port_alone),
		TEST(what_waits_for_a_client_that_leaves_is_dropped),
		TEST(a_stop_in_the_middle_loses_nothing),
		TEST(bad_control_messages_are_ignored),
		TEST(control_buffers_that_are_too_small_are_given_back),
		TEST(a_driver_that_begins_anew_is_told_anew),
		TEST(after_a_restart_ports_are_open),
		TEST(state_is_saved_and_loaded),
		TEST(bad_state_is_refused),
		TEST(options_make_ports),
		TEST(bad_options_are_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("console", tests, NULL, NULL);
}
