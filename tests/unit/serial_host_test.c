/* serial_host_test.c - files, sockets and terminals as host ends of the 16550, and its flow of
 * input */
#include "serial_fixture.h"

#include <pthread.h>
#include <pty.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>

#include "base/sock.h"

/* ---- file ---- */

static void file_gets_all_output(void **state)
{
	FD_AUTO fd = -1;
	char path[128];

	snprintf(path, sizeof(path), "%s", path_of("log"));
	must_start(SERIAL_FILE, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	send_text("a line\n"); /* leaves at once */
	assert_int_equal(read(fd, sink.bytes, sizeof(sink.bytes)), 7);
	send_text("login: "); /* no newline: by the timer */
	expect_output(fd, "login: ");
	send_text("the rest"); /* at the end */
	serial_free(serial);
	serial = NULL;
	expect_output(fd, "the rest");
	unlink(path);
}

static void files_that_cannot_be_written_are_refused(void **state)
{
	struct err err = { 0 };
	char path[128];

	assert_true(start(SERIAL_FILE, dir, &err) < 0);
	assert_non_null(strstr(err.text, "Is a directory"));
	snprintf(path, sizeof(path), "%s", path_of("fifo"));
	assert_int_equal(mkfifo(path, 0600), 0);
	err.text[0] = 0;
	assert_true(start(SERIAL_FILE, path, &err) < 0);
	assert_non_null(strstr(err.text, "FIFO that nobody reads"));
	unlink(path);
}

static void full_disk_does_not_stop_the_guest(void **state)
{
	must_start(SERIAL_FILE, "/dev/full");
	for (unsigned i = 0; i < 10000; i++)
		send_text("a line\n");
}

/* ---- socket ---- */

static char socket_path[128];

static int connect_client(void)
{
	struct err err = { 0 };
	int fd = sock_connect(socket_path, &err);

	if (fd < 0)
		fail_msg("%s", err.text);
	return fd;
}

static void start_socket(void)
{
	snprintf(socket_path, sizeof(socket_path), "%s", path_of("sock"));
	must_start(SERIAL_SOCKET, socket_path);
}

static bool is_closed(void *arg)
{
	struct pollfd pfd = { .fd = *(int *)arg, .events = POLLRDHUP };

	return poll(&pfd, 1, 0) == 1 && (pfd.revents & (POLLRDHUP | POLLHUP));
}

static void socket_carries_both_directions(void **state)
{
	FD_AUTO fd = -1;

	start_socket();
	open_receiver();
	send_text("before anybody came\n");
	fd = connect_client();
	expect_output(fd, "before anybody came\n");
	send_text("$ ");
	expect_output(fd, "$ ");
	assert_int_equal(write(fd, "uname\r", 6), 6);
	expect_input("uname\r");
}

static void second_client_is_closed_and_the_first_stays(void **state)
{
	FD_AUTO first = -1;
	FD_AUTO second = -1;

	start_socket();
	first = connect_client();
	second = connect_client();
	run_until(is_closed, &second);
	send_text("hello\n");
	expect_output(first, "hello\n");
}

static void next_client_gets_what_the_last_one_left(void **state)
{
	FD_AUTO fd = -1;

	start_socket();
	fd = connect_client();
	send_text("one\n");
	expect_output(fd, "one\n");
	fd_close(&fd);
	fd = connect_client(); /* perhaps before the hang-up was seen */
	send_text("two\n");
	expect_output(fd, "two\n");
}

static void input_of_a_client_that_left_still_arrives(void **state)
{
	static const char text[] =
		"a script of more than sixteen bytes, sent by a client that does not stay\n";
	FD_AUTO fd = -1;

	start_socket();
	open_receiver();
	fd = connect_client();
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	fd_close(&fd);
	expect_input(text);
	fd = connect_client(); /* and the place is free again */
	send_text("x\n");
	expect_output(fd, "x\n");
}

static void client_that_has_finished_sending_still_reads(void **state)
{
	FD_AUTO fd = -1;

	start_socket();
	open_receiver();
	fd = connect_client();
	assert_int_equal(write(fd, "date\n", 5), 5);
	shutdown(fd, SHUT_WR);
	expect_input("date\n");
	send_text("Mon\n");
	expect_output(fd, "Mon\n");
}

static void latest_output_is_kept_for_a_client_that_comes_late(void **state)
{
	enum { LINES = 20000 }; /* of 8 bytes: more than is kept */
	FD_AUTO fd = -1;
	char last[16];

	start_socket();
	for (unsigned i = 0; i < LINES; i++) {
		snprintf(last, sizeof(last), "%06u\r\n", i);
		send_text(last);
	}
	fd = connect_client();
	sink = (struct sink){ .fd = fd, .want = 64 * 1024 };
	run_until(sink_full, &sink);
	snprintf(last, sizeof(last), "%06u\r\n", LINES - 8192);
	assert_memory_equal(sink.bytes, last, 8);
	snprintf(last, sizeof(last), "%06u\r\n", LINES - 1);
	assert_memory_equal(sink.bytes + sink.want - 8, last, 8);
}

/* Keep only the last bytes of what has been read so far. */
static bool sink_ends_with_the_end(void *arg)
{
	struct sink *s = arg;
	struct pollfd pfd = { .fd = s->fd, .events = POLLIN };

	while (poll(&pfd, 1, 0) == 1) {
		ssize_t n = read(s->fd, s->bytes + s->got, sizeof(s->bytes) - s->got);

		if (n <= 0)
			break;
		s->got += (size_t)n;
		if (s->got > 8) {
			memmove(s->bytes, s->bytes + s->got - 8, 8);
			s->got = 8;
		}
	}
	return s->got == 8 && !memcmp(s->bytes, "the end\n", 8);
}

static void client_that_reads_nothing_holds_up_nobody(void **state)
{
	FD_AUTO fd = -1;

	start_socket();
	fd = connect_client();
	send_text("x\n");
	expect_output(fd, "x\n");
	for (unsigned i = 0; i < 500000; i++)
		out(UART_TX, i % 64 ? 'x' : '\n');
	/* then it reads: first what the socket held, at the end what was written last */
	send_text("the end\n");
	sink = (struct sink){ .fd = fd };
	run_until(sink_ends_with_the_end, &sink);
}

/* A second processor: writes lines, and echoes what it receives. */
enum { ECHO_LINES = 3000 };
static _Atomic unsigned echoed;

static void *second_vcpu(void *arg)
{
	struct io_reader *own = io_bus_reader(bus, 1);
	uint64_t v;

	for (unsigned n = 0; n < ECHO_LINES; n++) {
		for (const char *c = "line\n"; *c; c++)
			io_write(bus, own, IO_PORT, PORT_COM1 + UART_TX, 1, (uint8_t)*c);
		io_read(bus, own, IO_PORT, PORT_COM1 + UART_LSR, 1, &v);
		if (v & UART_LSR_DR) {
			io_read(bus, own, IO_PORT, PORT_COM1 + UART_RX, 1, &v);
			echoed++;
		}
	}
	return NULL;
}

static void processors_and_loop_work_at_once(void **state)
{
	FD_AUTO fd = -1;
	pthread_t thread;

	start_socket();
	open_receiver();
	fd = connect_client();
	send_text("x\n");
	expect_output(fd, "x\n");
	echoed = 0;
	assert_int_equal(write(fd, "0123456789abcdefghijklmnopqrstuvwxyz", 36), 36);
	assert_int_equal(pthread_create(&thread, NULL, second_vcpu, NULL), 0);
	sink = (struct sink){ .fd = fd, .want = 5 * ECHO_LINES };
	run_until(sink_full, &sink);
	assert_int_equal(pthread_join(thread, NULL), 0);
	for (unsigned n = 0; n < ECHO_LINES; n++)
		assert_memory_equal(sink.bytes + 5 * n, "line\n", 5);
	source.got = 0;
	source.want = 36 - echoed;
	run_until(source_taken, &source);
	assert_int_equal(source.got + echoed, 36);
}

/* ---- flow of input ---- */

static void input_waits_until_somebody_receives(void **state)
{
	FD_AUTO fd = -1;

	start_socket();
	fd = connect_client();
	assert_int_equal(write(fd, "typed ahead\n", 12), 12);
	send_text("boot\n");
	expect_output(fd, "boot\n"); /* the loop has run */
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR); /* a driver starts */
	assert_int_equal(in(UART_LSR)&UART_LSR_DR, 0);
	open_receiver();
	expect_input("typed ahead\n");
}

static void polling_guest_receives_without_rts(void **state)
{
	FD_AUTO fd = -1;

	start_socket();
	fd = connect_client();
	assert_int_equal(write(fd, "abc", 3), 3);
	expect_input("abc");
}

static void long_input_is_not_lost_and_interrupts(void **state)
{
	static char text[4001];
	FD_AUTO fd = -1;

	for (unsigned i = 0; i < sizeof(text) - 1; i++)
		text[i] = (char)('a' + i % 26);
	start_socket();
	open_receiver();
	out(UART_IER, UART_IER_RDI);
	fd = connect_client();
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	run_until(data_ready, NULL);
	assert_true(line);
	expect_input(text);
	assert_false(line);
	assert_int_equal(in(UART_LSR)&UART_LSR_OE, 0);
}

/* ---- pty ---- */

static void pty_is_raw_and_carries_both_directions(void **state)
{
	struct termios t;
	FD_AUTO fd = -1;

	must_start(SERIAL_PTY, NULL);
	assert_non_null(serial_pty_path(serial));
	open_receiver();
	send_text("kept for a reader\n");
	fd = open(serial_pty_path(serial), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(tcgetattr(fd, &t), 0);
	assert_int_equal(t.c_lflag & (ECHO | ICANON | ISIG), 0);
	assert_int_equal(t.c_oflag & OPOST, 0);
	expect_output(fd, "kept for a reader\n");
	assert_int_equal(write(fd, "\003\r", 2), 2); /* Ctrl-C is the guest's */
	expect_input("\003\r");
	fd_close(&fd);
	send_text("again\n");
	fd = open(serial_pty_path(serial), O_RDWR | O_NOCTTY | O_CLOEXEC);
	expect_output(fd, "again\n");
}

static void pty_without_a_reader_holds_up_nobody(void **state)
{
	must_start(SERIAL_PTY, NULL);
	for (unsigned i = 0; i < 300000; i++)
		out(UART_TX, i % 64 ? 'x' : '\n');
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(file_gets_all_output),
		TEST(files_that_cannot_be_written_are_refused),
		TEST(full_disk_does_not_stop_the_guest),
		TEST(socket_carries_both_directions),
		TEST(second_client_is_closed_and_the_first_stays),
		TEST(next_client_gets_what_the_last_one_left),
		TEST(input_of_a_client_that_left_still_arrives),
		TEST(client_that_has_finished_sending_still_reads),
		TEST(latest_output_is_kept_for_a_client_that_comes_late),
		TEST(client_that_reads_nothing_holds_up_nobody),
		TEST(processors_and_loop_work_at_once),
		TEST(input_waits_until_somebody_receives),
		TEST(polling_guest_receives_without_rts),
		TEST(long_input_is_not_lost_and_interrupts),
		TEST(pty_is_raw_and_carries_both_directions),
		TEST(pty_without_a_reader_holds_up_nobody),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
