/*
 * http.c - the HTTP server as a whole: who comes, who may stay, the end (see http.h)
 *
 * Owns:    the listening socket, the connections (http_conn.c).
 * Threads: loop thread.
 */
#include "control/http_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

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

static void on_connection(struct acceptor *acceptor)
{
	struct http_server *s = container_of(acceptor, struct http_server, acceptor);
	int fd = acceptor_take(acceptor);

	if (fd >= 0 && make_room(s))
		http_conn_new(s, fd);
	else if (fd >= 0)
		close(fd);
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
	rc = acceptor_start(&s->acceptor, loop, fd, on_connection);
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
	acceptor_stop(&s->acceptor);
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
