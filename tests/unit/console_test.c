#include "console_rig.h"

#include <sys/mman.h>

#include "base/log.h"

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

static void who_is_turned_away_from_a_given_listener_is_told_of(void **state)
{
	struct err err = { 0 };
	int fd = sock_listen(path, 4, &err);
	FD_AUTO first = -1;
	FD_AUTO second = -1;
	FD_AUTO log = memfd_create("log", MFD_CLOEXEC);
	char lines[256] = "", byte;

	make_single((struct console_end_config){ .kind = CONSOLE_SOCKET, .in_fd = fd });
	first = client();
	log_to(dup(log));
	log_init("test", LOG_INFO);
	second = client();
	log_init("test", LOG_WARN);
	log_to(STDERR_FILENO);
	assert_int_equal(read(second, &byte, 1), 0);
	assert_true(pread(log, lines, sizeof(lines) - 1, 0) > 0);
	assert_non_null(strstr(lines, ": its socket: has a client already"));
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
		TEST(who_is_turned_away_from_a_given_listener_is_told_of),
		TEST(options_make_ports),
		TEST(bad_options_are_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("console", tests, NULL, NULL);
}
