/*
 * serial_fixture.h - a serial port on a bus, its driver, and who looks at what its host end does
 */
#ifndef TESTS_SERIAL_FIXTURE_H
#define TESTS_SERIAL_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/serial_reg.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/loop.h"
#include "base/util.h"
#include "machine/layout.h"
#include "machine/serial.h"

#define MAYBE_UNUSED __attribute__((unused))
#define DEADLINE_NS  (10 * NS_PER_S)

static char dir[] = "/tmp/serial_test.XXXXXX";
static struct loop *loop;
static struct io_bus *bus;
static struct io_reader *reader;
static struct serial *serial;
static bool line;
static unsigned edges;
static int fds_at_start;

static MAYBE_UNUSED void on_irq(void *arg, bool level)
{
	assert_true(level != line); /* told of changes only */
	line = level;
	edges += level;
}

static MAYBE_UNUSED const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static MAYBE_UNUSED int start(enum serial_mode mode, const char *path, struct err *err)
{
	struct serial_params p = { .mode = mode, .path = path, .set_irq = on_irq };

	return serial_new(loop, bus, &p, &serial, err);
}

static MAYBE_UNUSED void must_start(enum serial_mode mode, const char *path)
{
	struct err err = { 0 };

	if (start(mode, path, &err))
		fail_msg("%s", err.text);
}

static MAYBE_UNUSED int setup(void **state)
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

static MAYBE_UNUSED int teardown(void **state)
{
	serial_free(serial);
	io_bus_free(bus);
	loop_free(loop);
	return fd_count() == fds_at_start ? 0 : -1;
}

static MAYBE_UNUSED uint8_t in(unsigned reg)
{
	uint64_t v = 0;

	assert_true(io_read(bus, reader, IO_PORT, PORT_COM1 + reg, 1, &v));
	return (uint8_t)v;
}

static MAYBE_UNUSED void out(unsigned reg, uint8_t v)
{
	assert_true(io_write(bus, reader, IO_PORT, PORT_COM1 + reg, 1, v));
}

static MAYBE_UNUSED void send_text(const char *s)
{
	while (*s)
		out(UART_TX, (uint8_t)*s++);
}

/* What a driver does before it receives */
static MAYBE_UNUSED void open_receiver(void)
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

static MAYBE_UNUSED void look(struct loop_timer *timer)
{
	if (waiting.done(waiting.arg))
		loop_quit(loop, 0);
	else if (clock_now_ns() > waiting.deadline)
		loop_quit(loop, 1);
	else
		loop_timer_set(loop, timer, clock_now_ns() + NS_PER_MS / 4, look);
}

static MAYBE_UNUSED void run_until(bool (*done)(void *arg), void *arg)
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

static MAYBE_UNUSED bool sink_full(void *arg)
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

static MAYBE_UNUSED void expect_output(int fd, const char *text)
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

static MAYBE_UNUSED bool source_taken(void *arg)
{
	struct source *s = arg;

	while (in(UART_LSR)&UART_LSR_DR)
		if (s->got < sizeof(s->bytes))
			s->bytes[s->got++] = (char)in(UART_RX);
	return s->got >= s->want;
}

static MAYBE_UNUSED void expect_input(const char *text)
{
	source.got = 0;
	source.want = strlen(text);
	run_until(source_taken, &source);
	assert_int_equal(source.got, source.want);
	assert_memory_equal(source.bytes, text, source.want);
}

static MAYBE_UNUSED bool data_ready(void *arg)
{
	return in(UART_LSR)&UART_LSR_DR;
}

static MAYBE_UNUSED int make_dir(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	return mkdtemp(dir) ? 0 : -1;
}

static MAYBE_UNUSED int remove_dir(void **state)
{
	return rmdir(dir);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif
