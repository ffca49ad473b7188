/* serial_test.c - the 16550 through its ports, and each of its host ends */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/loop.h"
#include "base/sock.h"
#include "base/util.h"
#include "machine/layout.h"
#include "machine/serial.h"

#define DEADLINE_NS (10 * NS_PER_S)

static char dir[] = "/tmp/serial_test.XXXXXX";
static struct loop *loop;
static struct io_bus *bus;
static struct io_reader *reader;
static struct serial *serial;
static bool line;
static unsigned edges;
static int fds_at_start;

/* ---- helpers ---- */

static void on_irq(void *arg, bool level)
{
	assert_true(level != line); /* told of changes only */
	line = level;
	edges += level;
}

static const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int start(enum serial_mode mode, const char *path, struct err *err)
{
	struct serial_params p = { .mode = mode, .path = path, .set_irq = on_irq };

	return serial_new(loop, bus, &p, &serial, err);
}

static void must_start(enum serial_mode mode, const char *path)
{
	struct err err = { 0 };

	if (start(mode, path, &err))
		fail_msg("%s", err.text);
}

static int setup(void **state)
{
	line = false;
	edges = 0;
	serial = NULL;
	fds_at_start = fd_count();
	if (loop_new(&loop) || io_bus_new(2, &bus))
		return -1;
	reader = io_bus_reader(bus, 0);
	return 0;
}

static int teardown(void **state)
{
	serial_free(serial);
	io_bus_free(bus);
	loop_free(loop);
	return fd_count() == fds_at_start ? 0 : -1;
}

static uint8_t in(unsigned reg)
{
	uint64_t v = 0;

	assert_true(io_read(bus, reader, IO_PORT, PORT_COM1 + reg, 1, &v));
	return (uint8_t)v;
}

static void out(unsigned reg, uint8_t v)
{
	assert_true(io_write(bus, reader, IO_PORT, PORT_COM1 + reg, 1, v));
}

static void send_text(const char *s)
{
	while (*s)
		out(UART_TX, (uint8_t)*s++);
}

/* What a driver does before it receives */
static void open_receiver(void)
{
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR | UART_FCR_TRIGGER_8);
	out(UART_MCR, UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT2);
}

/* Serve the loop until done() or the deadline. */
static struct wait {
	struct loop_timer timer;
	uint64_t deadline;
	bool (*done)(void *arg);
	void *arg;
} waiting;

static void look(struct loop_timer *timer)
{
	if (waiting.done(waiting.arg))
		loop_quit(loop, 0);
	else if (clock_now_ns() > waiting.deadline)
		loop_quit(loop, 1);
	else
		loop_timer_set(loop, timer, clock_now_ns() + NS_PER_MS / 4, look);
}

static void run_until(bool (*done)(void *arg), void *arg)
{
	waiting =
		(struct wait){ .deadline = clock_now_ns() + DEADLINE_NS, .done = done, .arg = arg };
	loop_timer_set(loop, &waiting.timer, clock_now_ns(), look);
	assert_int_equal(loop_run(loop), 0);
}

/* Collects what a descriptor has to give. */
struct sink {
	int fd;
	size_t want, got;
	char bytes[128 * 1024];
};
static struct sink sink;

static bool sink_full(void *arg)
{
	struct sink *s = arg;
	struct pollfd pfd = { .fd = s->fd, .events = POLLIN };

	while (s->got < s->want && poll(&pfd, 1, 0) == 1) {
		ssize_t n = read(s->fd, s->bytes + s->got, s->want - s->got);

		if (n <= 0)
			break;
		s->got += (size_t)n;
	}
	return s->got == s->want;
}

static void expect_output(int fd, const char *text)
{
	sink.fd = fd;
	sink.got = 0;
	sink.want = strlen(text);
	run_until(sink_full, &sink);
	assert_memory_equal(sink.bytes, text, sink.want);
}

/* Takes received bytes as a driver does, on the interrupt. */
struct source {
	size_t want, got;
	char bytes[8192];
};
static struct source source;

static bool source_taken(void *arg)
{
	struct source *s = arg;

	while (in(UART_LSR)&UART_LSR_DR)
		if (s->got < sizeof(s->bytes))
			s->bytes[s->got++] = (char)in(UART_RX);
	return s->got >= s->want;
}

static void expect_input(const char *text)
{
	source.got = 0;
	source.want = strlen(text);
	run_until(source_taken, &source);
	assert_int_equal(source.got, source.want);
	assert_memory_equal(source.bytes, text, source.want);
}

static bool data_ready(void *arg)
{
	return in(UART_LSR)&UART_LSR_DR;
}

/* ---- registers ---- */

static void drivers_recognise_a_16550a(void **state)
{
	must_start(SERIAL_NULL, NULL);
	/* as Linux' autoconfig() does it */
	out(UART_IER, 0);
	assert_int_equal(in(UART_IER), 0);
	out(UART_IER, 0xff);
	assert_int_equal(in(UART_IER), 0x0f);
	out(UART_IER, 0);
	out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
	assert_int_equal(in(UART_MSR)&0xf0, UART_MSR_DCD | UART_MSR_CTS);
	out(UART_MCR, 0);
	assert_int_equal(in(UART_MSR)&0xf0, UART_MSR_DCD | UART_MSR_CTS | UART_MSR_DSR);
	assert_int_equal(in(UART_IIR) >> 6, 0);
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(in(UART_IIR) >> 6, 3);
	out(UART_SCR, 0xa5);
	assert_int_equal(in(UART_SCR), 0xa5);
	out(UART_LCR, UART_LCR_DLAB | 3);
	out(UART_DLL, 0x34);
	out(UART_DLM, 0x12);
	assert_int_equal(in(UART_DLL), 0x34);
	assert_int_equal(in(UART_DLM), 0x12);
	out(UART_LCR, 3);
	assert_int_equal(in(UART_IER), 0);
	assert_int_equal(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
}

static void transmitter_interrupts_once_for_each_time_it_empties(void **state)
{
	must_start(SERIAL_NULL, NULL);
	out(UART_IER, UART_IER_THRI);
	assert_int_equal(edges, 1); /* it is empty */
	assert_int_equal(in(UART_IIR), UART_IIR_THRI);
	assert_false(line); /* reading the cause takes it away */
	assert_int_equal(in(UART_IIR), UART_IIR_NO_INT);
	out(UART_TX, 'x');
	assert_int_equal(edges, 2);
	out(UART_TX, 'y');
	assert_int_equal(edges, 2); /* still not acknowledged */
	assert_int_equal(in(UART_IIR), UART_IIR_THRI);
	out(UART_IER, 0);
	out(UART_IER, UART_IER_THRI); /* Linux' test for a lost interrupt */
	assert_int_equal(edges, 3);
	assert_int_equal(in(UART_IIR), UART_IIR_THRI);
}

static void loopback_brings_bytes_and_lines_back(void **state)
{
	must_start(SERIAL_NULL, NULL);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_4);
	out(UART_IER, UART_IER_RDI | UART_IER_RLSI | UART_IER_MSI);
	out(UART_MCR, UART_MCR_LOOP);
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_MSI); /* the lines dropped */
	assert_int_equal(in(UART_MSR), UART_MSR_DDCD | UART_MSR_DDSR | UART_MSR_DCTS);
	assert_false(line);
	send_text("abc");
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_RX_TIMEOUT);
	send_text("d");
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_RDI);
	assert_int_equal(in(UART_RX), 'a');
	send_text("0123456789abcdef"); /* three too many */
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_RLSI);
	assert_int_equal(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE | UART_LSR_DR | UART_LSR_OE);
	assert_int_equal(in(UART_LSR)&UART_LSR_OE, 0);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	assert_int_equal(in(UART_LSR)&UART_LSR_DR, 0);
	assert_false(line);
}

static void reset_puts_back_the_registers_and_lowers_the_line(void **state)
{
	must_start(SERIAL_NULL, NULL);
	out(UART_IER, UART_IER_THRI);
	out(UART_LCR, 3);
	out(UART_FCR, 1);
	assert_true(line);
	serial_reset(serial);
	assert_false(line);
	assert_int_equal(in(UART_IER), 0);
	assert_int_equal(in(UART_LCR), 0);
	assert_int_equal(in(UART_IIR), UART_IIR_NO_INT);
}

static void any_access_of_any_width_is_answered(void **state)
{
	must_start(SERIAL_NULL, NULL);
	srand(1);
	for (unsigned i = 0; i < 200000; i++) {
		unsigned size = 1u << (rand() % 4), reg = (unsigned)rand() % 8;
		uint64_t v = (uint64_t)rand() << 32 | (uint64_t)rand();

		if (rand() % 2)
			io_write(bus, reader, IO_PORT, PORT_COM1 + reg, size, v);
		else
			io_read(bus, reader, IO_PORT, PORT_COM1 + reg, size, &v);
	}
}

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

/* ---- tty ---- */

/* Give standard input and output other descriptors for the time of a test. */
static int saved_std[2] = { -1, -1 };

static void redirect(int in_fd, int out_fd)
{
	for (int i = 0; i < 2; i++) {
		saved_std[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
		assert_true(saved_std[i] >= 0);
	}
	fflush(stdout);
	assert_int_equal(dup2(in_fd, 0), 0);
	assert_int_equal(dup2(out_fd, 1), 1);
}

static void restore_std(void)
{
	serial_free(serial);
	serial = NULL;
	for (int i = 0; i < 2; i++) {
		dup2(saved_std[i], i);
		fd_close(&saved_std[i]);
	}
}

static void pipes_serve_as_standard_input_and_output(void **state)
{
	int to[2], from[2];

	assert_int_equal(pipe2(to, O_CLOEXEC) | pipe2(from, O_CLOEXEC), 0);
	redirect(to[0], from[1]);
	must_start(SERIAL_TTY, NULL);
	/* the pipe is shared with others: its mode is not changed */
	assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
	open_receiver();
	send_text("hi\n");
	expect_output(from[0], "hi\n");
	assert_int_equal(write(to[1], "a longer line than the FIFO\n", 28), 28);
	expect_input("a longer line than the FIFO\n");
	close(to[1]); /* end of input: output goes on */
	send_text("on\n");
	expect_output(from[0], "on\n");
	for (unsigned i = 0; i < 300000; i++) /* nobody reads: far more than pipe and ring */
		out(UART_TX, i % 64 ? 'x' : '\n');
	close(from[0]); /* and nobody will */
	send_text("more\n");
	restore_std();
	close(to[0]);
	close(from[1]);
}

static void plain_file_serves_as_standard_input(void **state)
{
	FD_AUTO fd = open(path_of("input"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FD_AUTO null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	assert_int_equal(write(fd, "commands from a file\n", 21), 21);
	lseek(fd, 0, SEEK_SET);
	redirect(fd, null);
	must_start(SERIAL_TTY, NULL);
	open_receiver();
	expect_input("commands from a file\n");
	restore_std();
	unlink(path_of("input"));
}

static bool never(void *arg)
{
	return --*(unsigned *)arg == 0;
}

/* An ended input must not keep the loop busy. */
static void end_of_standard_input_costs_no_cpu_time(void **state)
{
	FD_AUTO null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct timespec before, after;
	unsigned looks = 400; /* of a quarter of a millisecond and more: a tenth of a second */

	redirect(null, null);
	must_start(SERIAL_TTY, NULL);
	open_receiver();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	run_until(never, &looks);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	restore_std();
	/* a busy loop would take all of it */
	assert_true(
		(after.tv_sec - before.tv_sec) * 1e3 + (after.tv_nsec - before.tv_nsec) / 1e6 < 90);
}

/* A child on a terminal of its own: it starts the serial port, says so, and does as it is told. */
enum ending { END_FREE, END_KILL, END_ABORT, END_EXIT };

static void __attribute__((noreturn)) tty_child(enum ending ending)
{
	struct err err = { 0 };
	char go;

	if (loop_new(&loop) || io_bus_new(1, &bus))
		_exit(2);
	reader = io_bus_reader(bus, 0);
	if (start(SERIAL_TTY, NULL, &err) || write(1, "r", 1) != 1)
		_exit(3);
	while (read(0, &go, 1) < 0 && errno == EINTR)
		;
	signal(SIGABRT, SIG_DFL);
	if (ending == END_KILL)
		raise(SIGKILL);
	if (ending == END_ABORT)
		abort();
	if (ending == END_EXIT)
		_exit(4);
	serial_free(serial);
	_exit(0);
}

static bool same_mode(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag;
}

/* What stands for a shell: the session's leader, whose own end would hang the terminal up. */
static void __attribute__((noreturn)) session(enum ending ending, int slave, int told, int release)
{
	int status;
	pid_t pid;
	char byte;

	if (login_tty(slave))
		_exit(1);
	pid = fork();
	if (pid == 0)
		tty_child(ending);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		_exit(1);
	byte = WIFSIGNALED(status) ? 's' : 'e';
	if (write(told, &byte, 1) != 1)
		_exit(1);
	while (read(release, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

static void terminal_after(enum ending ending)
{
	struct termios before, now;
	uint64_t deadline = clock_now_ns() + DEADLINE_NS;
	FD_AUTO slave = -1;
	FD_AUTO master = -1;
	int told[2], release[2];
	char path[64], byte = 0;
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, path, NULL, NULL), 0);
	assert_int_equal(pipe2(told, O_CLOEXEC) | pipe2(release, O_CLOEXEC), 0);
	assert_int_equal(tcgetattr(slave, &before), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(release[1]);
		session(ending, slave, told[1], release[0]);
	}
	assert_int_equal(read(master, &byte, 1), 1);
	assert_int_equal(byte, 'r');
	assert_int_equal(tcgetattr(slave, &now), 0);
	assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), 0);
	assert_int_equal(write(master, "g", 1), 1);
	assert_int_equal(read(told[0], &byte, 1), 1);
	assert_int_equal(byte, ending == END_KILL || ending == END_ABORT ? 's' : 'e');
	assert_int_equal(tcgetattr(slave, &now), 0);
	while (ending != END_FREE && !same_mode(&before, &now)) {
		struct timespec moment = { .tv_nsec = NS_PER_MS };

		assert_true(clock_now_ns() < deadline);
		nanosleep(&moment, NULL);
		assert_int_equal(tcgetattr(slave, &now), 0);
	}
	/* by serial_free() itself, before the process is gone; or by the child that stands by */
	assert_true(same_mode(&before, &now));
	close(release[0]);
	close(release[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(told[0]);
	close(told[1]);
}

static void terminal_comes_back_at_the_end(void **state)
{
	terminal_after(END_FREE);
}

static void terminal_comes_back_after_a_crash(void **state)
{
	terminal_after(END_ABORT);
}

static void terminal_comes_back_after_a_kill(void **state)
{
	terminal_after(END_KILL);
}

static void terminal_comes_back_after_an_exit_without_notice(void **state)
{
	terminal_after(END_EXIT);
}

static int make_dir(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	return rmdir(dir);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	static const struct CMUnitTest tests[] = {
		TEST(drivers_recognise_a_16550a),
		TEST(transmitter_interrupts_once_for_each_time_it_empties),
		TEST(loopback_brings_bytes_and_lines_back),
		TEST(reset_puts_back_the_registers_and_lowers_the_line),
		TEST(any_access_of_any_width_is_answered),
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
		TEST(pipes_serve_as_standard_input_and_output),
		TEST(plain_file_serves_as_standard_input),
		TEST(end_of_standard_input_costs_no_cpu_time),
		TEST(terminal_comes_back_at_the_end),
		TEST(terminal_comes_back_after_a_crash),
		TEST(terminal_comes_back_after_a_kill),
		TEST(terminal_comes_back_after_an_exit_without_notice),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
