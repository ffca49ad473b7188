/* events_test.c - the stream of events, and readers that are late, slow, or gone */
#include "control/events.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"

static struct loop *loop;
static char path[64];
static struct loop_idle idle;

static int set_up(void **state)
{
	static unsigned nr;

	snprintf(path, sizeof(path), "/tmp/events-test-%d-%u", getpid(), nr++);
	return loop_new(&loop);
}

static int tear_down(void **state)
{
	loop_free(loop);
	unlink(path);
	return 0;
}

static bool nothing_to_do(struct loop_idle *unused)
{
	loop_quit(loop, 0);
	return true;
}

static void serve(void)
{
	loop_idle_set(loop, &idle, nothing_to_do);
	loop_run(loop);
	loop_idle_del(loop, &idle);
}

static struct events *open_events(const char *where, int fd)
{
	struct endpoint_config c = { (char *)where, fd < 0 ? CONFIG_NO_FD : (uint32_t)fd };
	struct events *e;
	struct err err = { 0 };

	assert_int_equal(events_new(loop, &c, &e, &err), 0);
	return e;
}

/* All that can be read now. */
static size_t read_all(int fd, char *text, size_t size)
{
	size_t len = 0;
	ssize_t n;

	while (len < size && (n = read(fd, text + len, size - len)) > 0)
		len += (size_t)n;
	return len;
}

/* Every line is an event, and the last of them is this one. How many lines. */
static unsigned check_lines(char *text, size_t len, const char *last)
{
	unsigned nr = 0;
	char *line, *rest = text;
	const char *event = NULL;
	json_t *json = NULL;

	text[len] = '\0';
	while ((line = strsep(&rest, "\n")) && *line) {
		json_decref(json);
		json = json_loads(line, 0, NULL);
		assert_non_null(json);
		assert_non_null(json_object_get(json_object_get(json, "timestamp"), "nanos"));
		assert_string_equal(json_string_value(json_object_get(json, "source")), "vm");
		event = json_string_value(json_object_get(json, "event"));
		nr++;
	}
	assert_non_null(event);
	assert_string_equal(event, last);
	json_decref(json);
	return nr;
}

static void a_file_is_made_and_appended_to(void **state)
{
	char text[4096];

	for (unsigned i = 1; i <= 2; i++) {
		struct events *e = open_events(path, -1);
		FD_AUTO fd = -1;

		events_tell(e, "vm", "booting");
		events_tell(e, "vm", "booted");
		events_free(e);
		fd = open(path, O_RDONLY);
		assert_int_equal(
			check_lines(text, read_all(fd, text, sizeof(text) - 1), "booted"), 2 * i);
	}
}

static void the_reader_of_a_fifo_may_come_later(void **state)
{
	struct events *e;
	FD_AUTO fd = -1;
	char text[4096];

	assert_int_equal(mkfifo(path, 0600), 0);
	e = open_events(path, -1);
	events_tell(e, "vm", "booting");
	fd = open(path, O_RDONLY | O_NONBLOCK);
	events_tell(e, "vm", "booted");
	assert_int_equal(check_lines(text, read_all(fd, text, sizeof(text) - 1), "booted"), 2);
	events_free(e);
}

/* The pipe holds 64 KiB and we as much; then whole events are lost, and later ones come again. */
static void a_slow_reader_loses_whole_events(void **state)
{
	static char text[512 * 1024];
	struct events *e;
	FD_AUTO fd = -1;
	size_t len = 0;
	unsigned nr;

	assert_int_equal(mkfifo(path, 0600), 0);
	e = open_events(path, -1);
	fd = open(path, O_RDONLY | O_NONBLOCK);
	for (int i = 0; i < 5000; i++)
		events_tell(e, "vm", "paused");
	for (int i = 0; i < 10; i++) {
		len += read_all(fd, text + len, sizeof(text) - 1 - len);
		serve();
	}
	nr = check_lines(text, len, "paused");
	assert_true(nr > 1000 && nr < 5000);
	events_tell(e, "vm", "resumed");
	assert_int_equal(check_lines(text, read_all(fd, text, sizeof(text) - 1), "resumed"), 1);
	events_free(e);
}

static void a_reader_that_goes_stops_nothing(void **state)
{
	struct events *e;
	int fds[2], before;

	before = fd_count();
	assert_int_equal(pipe(fds), 0);
	signal(SIGPIPE, SIG_IGN);
	e = open_events(NULL, fds[1]);
	close(fds[0]);
	for (int i = 0; i < 3; i++)
		events_tell(e, "vm", "booting");
	serve();
	events_free(e);
	assert_int_equal(fd_count(), before);
}

/* With bytes waiting for it: the loop hears of the hang-up. */
static void a_slow_reader_may_go_as_well(void **state)
{
	struct events *e;
	int fds[2], before;

	before = fd_count();
	assert_int_equal(pipe(fds), 0);
	e = open_events(NULL, fds[1]);
	for (int i = 0; i < 1000; i++)
		events_tell(e, "vm", "paused");
	close(fds[0]);
	serve();
	events_tell(e, "vm", "resumed");
	events_free(e);
	assert_int_equal(fd_count(), before);
}

static void what_cannot_be_written_to_is_refused(void **state)
{
	FD_AUTO reading = open("/dev/null", O_RDONLY);
	struct {
		struct endpoint_config where;
		const char *text;
	} cases[] = {
		{ { (char *)"/nonexistent/x", CONFIG_NO_FD },
			"--event-monitor: /nonexistent/x: No such file or directory" },
		{ { (char *)"/tmp", CONFIG_NO_FD }, "--event-monitor: /tmp: Is a directory" },
		{ { NULL, 999 },
			"--event-monitor: fd: expected a descriptor to write to, got 999" },
	};
	struct endpoint_config read_only = { NULL, (uint32_t)reading };
	struct events *e;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = { 0 };

		assert_true(events_new(loop, &cases[i].where, &e, &err) < 0);
		assert_string_equal(err.text, cases[i].text);
	}
	assert_int_equal(events_new(loop, &read_only, &e, NULL), -EBADF);
}

static void nobody_asked_for_events(void **state)
{
	events_tell(NULL, "vm", "booted");
	events_free(NULL);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_file_is_made_and_appended_to),
		T(the_reader_of_a_fifo_may_come_later),
		T(a_slow_reader_loses_whole_events),
		T(a_reader_that_goes_stops_nothing),
		T(a_slow_reader_may_go_as_well),
		T(what_cannot_be_written_to_is_refused),
		T(nobody_asked_for_events),
	};

	log_init("events_test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
