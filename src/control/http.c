/*
 * http.c - the HTTP server as a whole: who comes, who may stay, the end (see http.h)
 *
 * Owns:    the listening socket, the connections (http_conn.c).
 * Threads: loop thread.
 */
#include "control/http_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"

#define ACCEPT_PAUSE (100 * NS_PER_MS)

const char *http_status_text(int status)
{
	switch (status) {
#define X(number, name, text)                                                                      \
	case number:                                                                               \
		return #text;
		HTTP_STATUS_MAP(X)
#undef X
	default:
		return "Unknown";
	}
}

static void on_connection(struct loop_source *src, uint32_t events);

static void accept_again(struct loop_timer *timer)
{
	struct http_server *s = container_of(timer, struct http_server, accept_timer);

	loop_mod(&s->listen_src, EPOLLIN);
}

/* No descriptors left, or the like: not a thing to spin on. */
static void pause_accepting(struct http_server *s)
{
	loop_mod(&s->listen_src, 0);
	loop_timer_set(s->loop, &s->accept_timer, clock_now_ns() + ACCEPT_PAUSE, accept_again);
}

/* True: there is room for one more. */
static bool make_room(struct http_server *s)
{
	struct http_conn *oldest = NULL;

	if (s->nr_conns < s->limits.max_clients)
		return true;
	for (struct http_conn *c = s->conns; c; c = c->next)
		if (http_conn_is_idle(c) && (!oldest || c->idle_since_ns < oldest->idle_since_ns))
			oldest = c;
	if (oldest)
		http_conn_free(oldest);
	return oldest != NULL;
}

static void on_connection(struct loop_source *src, uint32_t events)
{
	struct http_server *s = container_of(src, struct http_server, listen_src);
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0 && make_room(s))
		http_conn_new(s, fd);
	else if (fd >= 0)
		close(fd);
	else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
		pause_accepting(s);
}

static void set_defaults(struct http_limits *l)
{
	if (!l->max_clients)
		l->max_clients = 64;
	if (!l->max_head)
		l->max_head = 16 * 1024;
	if (!l->max_body)
		l->max_body = 1024 * 1024;
	if (!l->deadline_ms)
		l->deadline_ms = 10000;
}

int http_server_new(struct loop *loop, int listen_fd, const struct http_limits *limits,
	http_handler_fn handler, void *arg, struct http_server **out)
{
	FD_AUTO fd = listen_fd;
	struct http_server *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	s->loop = loop;
	s->handler = handler;
	s->arg = arg;
	if (limits)
		s->limits = *limits;
	set_defaults(&s->limits);
	rc = loop_add(loop, &s->listen_src, fd, EPOLLIN, on_connection);
	if (rc) {
		free(s);
		return rc;
	}
	s->listen_fd = fd_take(&fd);
	*out = s;
	return 0;
}

static void stop_listening(struct http_server *s)
{
	loop_del(&s->listen_src);
	loop_timer_del(&s->accept_timer);
	fd_close(&s->listen_fd);
}

void http_server_free(struct http_server *s)
{
	if (!s)
		return;
	s->finishing = false; /* nobody is told any more */
	stop_listening(s);
	while (s->conns)
		http_conn_free(s->conns);
	loop_unpost(s->loop, &s->finished_work);
	free(s);
}

static void tell_finished(struct loop_work *work)
{
	struct http_server *s = container_of(work, struct http_server, finished_work);

	s->finished(s->finished_arg);
}

void http_finish_check(struct http_server *s)
{
	if (s->finishing && !s->conns)
		loop_post(s->loop, &s->finished_work, tell_finished);
}

void http_server_finish(struct http_server *s, void (*done)(void *arg), void *arg)
{
	struct http_conn *next;

	stop_listening(s);
	s->finished = done;
	s->finished_arg = arg;
	/* Those whose answer is on its way go on until it is there, or to their deadline. */
	for (struct http_conn *c = s->conns; c; c = next) {
		next = c->next;
		if (!c->running && !c->out_len)
			http_conn_free(c);
	}
	s->finishing = true;
	http_finish_check(s);
}
