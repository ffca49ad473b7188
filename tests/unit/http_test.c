/* http_test.c - the HTTP server over real sockets: what clients send, do not send, and do not read
 */
#include "control/http.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"

#include "slow_file.h"

#define DEADLINE_MS 30u

struct world {
	struct loop *loop;
	struct http_server *server;
	char path[64];
	struct loop_timer timer;

	/* What the handler does, and what it saw. */
	struct http_request *held; /* hold: not answered yet */
	bool hold;
	unsigned nr_requests;
	char method[16], target[100], body[200];
	size_t body_len;
	int nr_fds;
	char answer[100];
	size_t answer_len; /* 0: that of answer */
	char *big_answer;
};

static struct world w;

static void answer(struct http_request *req)
{
	if (w.big_answer)
		http_reply(req, 200, "text/plain", w.big_answer, w.answer_len);
	else
		http_reply(req, w.answer[0] ? 200 : 204, "text/plain", w.answer, strlen(w.answer));
}

static void on_request(void *arg, struct http_request *req)
{
	w.nr_requests++;
	snprintf(w.method, sizeof(w.method), "%s", req->method);
	snprintf(w.target, sizeof(w.target), "%s", req->path);
	snprintf(w.body, sizeof(w.body), "%s", req->body);
	w.body_len = req->body_len;
	w.nr_fds = req->fds.nr;
	if (w.hold)
		w.held = req;
	else
		answer(req);
}

static void on_time(struct loop_timer *timer)
{
	loop_quit(w.loop, 1);
}

/* Serve until quit, or for so long. */
static void serve_for(unsigned ms)
{
	loop_timer_set(w.loop, &w.timer, clock_now_ns() + ms * NS_PER_MS, on_time);
	loop_run(w.loop);
	loop_timer_del(&w.timer);
}

/* Until nothing is left to do at once. */
static void settle(void)
{
	for (int i = 0; i < 5; i++)
		serve_for(1);
}

static int set_up_with(uint32_t deadline_ms)
{
	static unsigned nr;
	struct http_limits limits = {
		.max_clients = 4,
		.max_head = 1000,
		.max_body = 100,
		.deadline_ms = deadline_ms,
	};
	struct err err = { 0 };
	int fd;

	memset(&w, 0, sizeof(w));
	snprintf(w.path, sizeof(w.path), "/tmp/http-test-%d-%u", getpid(), nr++);
	assert_int_equal(loop_new(&w.loop), 0);
	fd = sock_listen(w.path, 8, &err);
	assert_true(fd >= 0);
	assert_int_equal(http_server_new(w.loop, fd, &limits, on_request, NULL, &w.server), 0);
	return 0;
}

static int set_up(void **state)
{
	return set_up_with(0);
}

/* For those who wait until a deadline has passed. */
static int set_up_hasty(void **state)
{
	return set_up_with(DEADLINE_MS);
}

static int tear_down(void **state)
{
	http_server_free(w.server);
	loop_free(w.loop);
	unlink(w.path);
	free(w.big_answer);
	return 0;
}

static int client(void)
{
	int fd = sock_connect(w.path, NULL);

	assert_true(fd >= 0);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static void say_with_fds(int fd, const char *text, int nr)
{
	struct iovec iov = { (void *)text, strlen(text) };
	FD_AUTO event = fd_eventfd();
	int fds[SOCK_MAX_FDS];

	for (int i = 0; i < nr; i++)
		fds[i] = event;
	assert_int_equal(sock_send(fd, &iov, 1, fds, nr), strlen(text));
}

/* What has come, as a string in a static buffer. */
static const char *heard(int fd)
{
	static char text[4096];
	ssize_t n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* Nothing more will come, and what had come was read. */
static bool is_hung_up(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static void an_answer_has_its_length_and_the_connection_stays(void **state)
{
	FD_AUTO fd = client();

	strcpy(w.answer, "hello");
	for (int i = 0; i < 3; i++) {
		say(fd, "GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n");
		settle();
		assert_string_equal(heard(fd),
			"HTTP/1.1 200 OK\r\nServer: outboard\r\nConnection: keep-alive\r\n"
			"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello");
	}
	assert_int_equal(w.nr_requests, 3);
	assert_string_equal(w.method, "GET");
	assert_string_equal(w.target, "/a");
	assert_int_equal(w.body_len, 0);
}

static void no_content_has_no_length(void **state)
{
	FD_AUTO fd = client();

	say(fd, "PUT /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
	settle();
	assert_string_equal(heard(fd),
		"HTTP/1.1 204 No Content\r\nServer: outboard\r\nConnection: keep-alive\r\n\r\n");
}

static void the_connection_closes_where_the_client_says_so(void **state)
{
	static const char *const requests[] = {
		"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
	};

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		FD_AUTO fd = client();

		say(fd, requests[i]);
		settle();
		assert_non_null(strstr(heard(fd), "Connection: close\r\n"));
		assert_true(is_hung_up(fd));
	}
}

static void a_request_may_come_byte_by_byte(void **state)
{
	static const char text[] = "PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
	FD_AUTO fd = client();

	for (const char *at = text; *at; at++) {
		char byte[] = { *at, 0 };

		assert_int_equal(w.nr_requests, 0);
		say(fd, byte);
		serve_for(0);
	}
	settle();
	assert_int_equal(w.nr_requests, 1);
	assert_string_equal(w.body, "abc");
}

static void a_body_may_come_in_chunks(void **state)
{
	FD_AUTO fd = client();

	say(fd, "PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n");
	settle();
	assert_string_equal(w.body, "abc");
	assert_int_equal(w.body_len, 3);
}

static void the_next_request_waits_for_the_first_ones_answer(void **state)
{
	FD_AUTO fd = client();

	w.hold = true;
	say(fd, "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
	settle();
	assert_int_equal(w.nr_requests, 1);
	assert_string_equal(w.target, "/1");
	say(fd, "GET /3 HTTP/1.1\r\n\r\n");
	settle();
	assert_int_equal(w.nr_requests, 1);
	for (unsigned i = 2; i <= 3; i++) {
		answer(w.held);
		/* its owner is in the middle of something */
		assert_int_equal(w.nr_requests, i - 1);
		settle();
		assert_int_equal(w.nr_requests, i);
		assert_int_equal(w.target[1], '0' + (int)i);
	}
	answer(w.held);
	settle();
}

static void the_handler_may_take_longer_than_any_deadline(void **state)
{
	FD_AUTO fd = client();

	w.hold = true;
	say(fd, "GET /1 HTTP/1.1\r\n\r\n");
	serve_for(2 * DEADLINE_MS);
	assert_string_equal(heard(fd), "");
	answer(w.held);
	settle();
	assert_non_null(strstr(heard(fd), "204 No Content"));
}

static void a_client_that_waits_is_told_to_go_on(void **state)
{
	FD_AUTO fd = client();

	say(fd, "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n");
	settle();
	assert_string_equal(heard(fd), "HTTP/1.1 100 Continue\r\n\r\n");
	say(fd, "ab");
	settle();
	assert_string_equal(w.body, "ab");
	assert_non_null(strstr(heard(fd), "204 No Content"));
}

static void a_client_with_too_much_is_not_told_to_go_on(void **state)
{
	FD_AUTO fd = client();

	say(fd, "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n");
	settle();
	assert_non_null(strstr(heard(fd), "HTTP/1.1 413 "));
}

static void refusals_have_their_status_and_end_the_connection(void **state)
{
	static char long_head[1200] = "GET / HTTP/1.1\r\nA: ";
	const char *const cases[][2] = {
		{ "nonsense\r\n\r\n", "400" },
		{ "PUT / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", "413" },
		{ "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", "" },
		{ "PUT / HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
			"400" },
		{ long_head, "431" },
		{ "GET / HTTP/2.0\r\n\r\n", "505" },
	};

	memset(long_head + strlen(long_head), 'x', 1100);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		FD_AUTO fd = client();

		say(fd, cases[i][0]);
		settle();
		if (!*cases[i][1])
			continue;
		assert_memory_equal(heard(fd) + strlen("HTTP/1.1 "), cases[i][1], 3);
		assert_true(is_hung_up(fd));
	}
	assert_int_equal(w.nr_requests, 0);
}

static void a_request_has_to_come_in_time(void **state)
{
	static const char *const beginnings[] = { "G", "GET / HTTP/1.1\r\nA", "\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc" };

	for (size_t i = 0; i < ARRAY_SIZE(beginnings); i++) {
		FD_AUTO fd = client();
		const char *got;

		say(fd, beginnings[i]);
		serve_for(3 * DEADLINE_MS);
		got = heard(fd);
		assert_non_null(strstr(got, "HTTP/1.1 408 "));
		assert_true(is_hung_up(fd));
	}
}

/* One byte now and then does not make the deadline later. */
static void dripping_does_not_help(void **state)
{
	FD_AUTO fd = client();
	uint64_t start = clock_now_ns();

	say(fd, "GET / HTTP/1.1\r\nA: ");
	while (!is_hung_up(fd)) {
		assert_true(clock_now_ns() - start < 5 * NS_PER_S);
		send(fd, "x", 1, MSG_NOSIGNAL);
		serve_for(1);
		if (strstr(heard(fd), "408"))
			return;
	}
	fail_msg("hung up without an answer");
}

static void an_idle_client_may_stay(void **state)
{
	FD_AUTO fd = client();

	serve_for(3 * DEADLINE_MS);
	say(fd, "GET / HTTP/1.1\r\n\r\n");
	settle();
	assert_non_null(strstr(heard(fd), "204"));
	serve_for(3 * DEADLINE_MS);
	say(fd, "GET / HTTP/1.1\r\n\r\n");
	settle();
	assert_non_null(strstr(heard(fd), "204"));
}

static void of_too_many_the_longest_idle_goes(void **state)
{
	int fds[6];

	for (int i = 0; i < 6; i++) {
		fds[i] = client();
		settle();
		if (i == 3) { /* the first is busy, the second the youngest now */
			say(fds[0], "GET /");
			say(fds[1], "GET / HTTP/1.1\r\n\r\n");
			settle();
			heard(fds[1]);
		}
	}
	assert_false(is_hung_up(fds[0]));
	assert_false(is_hung_up(fds[1]));
	assert_true(is_hung_up(fds[2]));
	assert_true(is_hung_up(fds[3]));
	assert_false(is_hung_up(fds[4]));
	assert_false(is_hung_up(fds[5]));
	for (int i = 0; i < 6; i++)
		close(fds[i]);
}

static void a_large_answer_goes_out_as_it_is_taken(void **state)
{
	size_t size = 4 * MIB, got = 0;
	FREE_AUTO char *room = malloc(size + 1000);
	FD_AUTO fd = client();

	w.big_answer = malloc(size);
	w.answer_len = size;
	memset(w.big_answer, 'a', size);
	say(fd, "GET / HTTP/1.1\r\n\r\n");
	while (got < size) {
		ssize_t n;

		serve_for(0);
		n = recv(fd, room + got, size + 1000 - got, MSG_DONTWAIT);
		if (n > 0)
			got += (size_t)n;
		assert_true(n > 0 || errno == EAGAIN);
	}
	settle();
	assert_int_equal(room[got - 1], 'a');
}

static void an_answer_that_is_not_taken_ends_the_connection(void **state)
{
	int fds = fd_count();
	FD_AUTO fd = client();

	w.big_answer = calloc(1, 4 * MIB);
	w.answer_len = 4 * MIB;
	say(fd, "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
	serve_for(4 * DEADLINE_MS);
	assert_int_equal(w.nr_requests, 1);
	assert_int_equal(fd_count(), fds + 1);
}

static void descriptors_belong_to_the_request_of_their_last_byte(void **state)
{
	FD_AUTO fd = client();

	/* in two reads of one request */
	say_with_fds(fd, "PUT / HTTP/1.1\r\n", 2);
	settle();
	say_with_fds(fd, "Content-Length: 1\r\n\r\nx", 3);
	settle();
	assert_int_equal(w.nr_fds, 5);
	/* a read that ends in the second of two: theirs are the second's */
	w.hold = true;
	say_with_fds(fd, "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", 1);
	settle();
	assert_string_equal(w.target, "/1");
	assert_int_equal(w.nr_fds, 0);
	answer(w.held);
	settle();
	assert_string_equal(w.target, "/2");
	assert_int_equal(w.nr_fds, 1);
	answer(w.held);
	settle();
}

static void descriptors_that_nobody_takes_are_closed(void **state)
{
	int fds;
	FD_AUTO fd = client();

	settle();
	fds = fd_count();
	say_with_fds(fd, "GET / HTTP/1.1\r\n\r\n", 100);
	settle();
	assert_int_equal(w.nr_fds, 100);
	assert_int_equal(fd_count(), fds);
	for (int i = 0; i < 3; i++) /* more than one message can bring */
		say_with_fds(fd, "GET", 253);
	settle();
	close(fd_take(&fd));
	settle();
	assert_int_equal(fd_count(), fds - 2);
}

/* Its daemon need not answer who closes it: the server waits for nobody. */
static void a_descriptor_of_a_file_with_somebody_behind_it_holds_nobody_up(void **state)
{
	struct iovec iov = { (void *)"GET / HTTP/1.1\r\n\r\n", 18 };
	struct slow_file slow;
	int file = slow_file_open(&slow);
	FD_AUTO fd = client();

	if (file < 0)
		skip();
	assert_int_equal(sock_send(fd, &iov, 1, &file, 1), iov.iov_len);
	settle();
	assert_int_equal(w.nr_fds, 1);
	assert_non_null(strstr(heard(fd), "204"));
	assert_false(atomic_load(&slow.state->late));
	slow_file_answer(&slow);
	close(file);
	slow_file_end(&slow);
}

static void a_client_may_leave_before_its_answer(void **state)
{
	int fd = client(), fds;

	w.hold = true;
	settle();
	fds = fd_count();
	say_with_fds(fd, "GET / HTTP/1.1\r\n\r\n", 1);
	settle();
	assert_non_null(w.held);
	close(fd);
	settle();
	assert_int_equal(fd_count(), fds - 2 + 1);
	answer(w.held);
	settle();
	assert_int_equal(fd_count(), fds - 2);
}

static void the_server_may_go_before_the_answer(void **state)
{
	FD_AUTO fd = client();

	w.hold = true;
	say(fd, "GET / HTTP/1.1\r\n\r\n");
	settle();
	http_server_free(w.server);
	w.server = NULL;
	assert_true(is_hung_up(fd));
	answer(w.held);
}

static bool finished;

static void on_finished(void *arg)
{
	finished = true;
	loop_quit(w.loop, 0);
}

static void finishing_waits_for_answers_on_their_way_only(void **state)
{
	FD_AUTO taker = client();
	FD_AUTO idle = client();
	size_t got = 0;

	w.big_answer = calloc(1, 4 * MIB);
	w.answer_len = 4 * MIB;
	finished = false;
	say(taker, "GET / HTTP/1.1\r\n\r\n");
	settle();
	http_server_finish(w.server, on_finished, NULL);
	assert_true(is_hung_up(idle));
	serve_for(1);
	assert_false(finished);
	assert_int_equal(sock_connect(w.path, NULL), -ECONNREFUSED);
	while (!finished) {
		static char room[65536];
		ssize_t n = recv(taker, room, sizeof(room), MSG_DONTWAIT);

		got += n > 0 ? (size_t)n : 0;
		serve_for(0);
	}
	for (ssize_t n = 1; n > 0;) {
		static char room[65536];

		n = recv(taker, room, sizeof(room), MSG_DONTWAIT);
		got += n > 0 ? (size_t)n : 0;
	}
	assert_true(got > 4 * MIB);
}

/* As a client does that asks for the end: its own answer is on its way, or already there. */
static void handler_that_finishes(void *arg, struct http_request *req)
{
	http_reply(req, 204, NULL, NULL, 0);
	http_server_finish(*(struct http_server **)arg, on_finished, NULL);
}

static void a_request_may_ask_for_the_end(void **state)
{
	struct http_server *server;
	char path[80];
	struct err err = { 0 };
	int fd;

	snprintf(path, sizeof(path), "%s-b", w.path);
	fd = sock_listen(path, 8, &err);
	assert_int_equal(
		http_server_new(w.loop, fd, NULL, handler_that_finishes, &server, &server), 0);
	fd = sock_connect(path, NULL);
	say(fd, "GET / HTTP/1.1\r\n\r\n");
	finished = false;
	loop_run(w.loop);
	assert_true(finished);
	assert_non_null(strstr(heard(fd), "204"));
	assert_true(is_hung_up(fd));
	close(fd);
	http_server_free(server);
	unlink(path);
}

#define T(name)	      cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define T_HASTY(name) cmocka_unit_test_setup_teardown(name, set_up_hasty, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(an_answer_has_its_length_and_the_connection_stays),
		T(no_content_has_no_length),
		T(the_connection_closes_where_the_client_says_so),
		T(a_request_may_come_byte_by_byte),
		T(a_body_may_come_in_chunks),
		T(the_next_request_waits_for_the_first_ones_answer),
		T_HASTY(the_handler_may_take_longer_than_any_deadline),
		T(a_client_that_waits_is_told_to_go_on),
		T(a_client_with_too_much_is_not_told_to_go_on),
		T(refusals_have_their_status_and_end_the_connection),
		T_HASTY(a_request_has_to_come_in_time),
		T_HASTY(dripping_does_not_help),
		T_HASTY(an_idle_client_may_stay),
		T(of_too_many_the_longest_idle_goes),
		T(a_large_answer_goes_out_as_it_is_taken),
		T_HASTY(an_answer_that_is_not_taken_ends_the_connection),
		T(descriptors_belong_to_the_request_of_their_last_byte),
		T(descriptors_that_nobody_takes_are_closed),
		T(a_descriptor_of_a_file_with_somebody_behind_it_holds_nobody_up),
		T(a_client_may_leave_before_its_answer),
		T(the_server_may_go_before_the_answer),
		T(finishing_waits_for_answers_on_their_way_only),
		T(a_request_may_ask_for_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
