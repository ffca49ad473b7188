/*
 * http_conn.c - one connection of the HTTP server: requests in, answers out
 *
 * A connection reads, or has a request under way, or drains. While a request is under way nothing
 * more is read from its client: what has been read already stays in the buffer, the rest in the
 * socket. Answers that do not fit the socket's buffer wait for it. A connection that ends with a
 * refusal reads on for a while and forgets what it reads: a client that is still writing would
 * otherwise never see the answer.
 *
 * The parser stops at the end of each request (http_parser_pause), so that bytes of the next one
 * are not parsed before this one's answer.
 *
 * Owns:    the socket, received descriptors until a handler takes them, request bodies.
 * Threads: loop thread.
 * Trusts:  nothing that arrives.
 * Spec:    RFC 9112.
 */
#include "control/http_priv.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/fd_drop.h"
#include "base/util.h"

/* For a client that was refused to stop writing. */
#define DRAIN_MS 1000u

/* --- requests --- */

static struct http_pending *request_new(struct http_conn *c)
{
	struct http_pending *req = calloc(1, sizeof(*req));

	if (req)
		req->conn = c;
	return req;
}

static void request_free(struct http_pending *req)
{
	if (!req)
		return;
	fd_drop_list(&req->pub.fds);
	free(req->pub.path);
	free(req->pub.body);
	free(req);
}

/* Bytes at the end of a string that stays NUL-terminated. */
static int append(char **text, size_t *len, size_t *room, const char *at, size_t n)
{
	if (*len + n + 1 > *room) {
		size_t wanted = MAX(*room * 2, *len + n + 1);
		char *bigger = realloc(*text, wanted);

		if (!bigger)
			return -ENOMEM;
		*text = bigger;
		*room = wanted;
	}
	memcpy(*text + *len, at, n);
	*len += n;
	(*text)[*len] = '\0';
	return 0;
}

/* --- the parser's callbacks: non-zero stops it --- */

static struct http_conn *conn_of(http_parser *parser)
{
	return container_of(parser, struct http_conn, parser);
}

static int refuse(struct http_conn *c, int status)
{
	if (!c->refusal)
		c->refusal = status;
	return -1;
}

static int count_head(struct http_conn *c, size_t n)
{
	c->head_len += n;
	return c->head_len > c->server->limits.max_head ? refuse(c, 431) : 0;
}

static int on_begin(http_parser *parser)
{
	struct http_conn *c = conn_of(parser);

	c->head_len = 0;
	c->expects = false;
	c->header = (struct http_header){ 0 };
	c->req = request_new(c);
	return c->req ? 0 : refuse(c, 500);
}

static int on_url(http_parser *parser, const char *at, size_t n)
{
	struct http_conn *c = conn_of(parser);
	size_t room = 0;

	if (count_head(c, n))
		return -1;
	/* few and short pieces: a growing buffer is not worth it */
	return append(&c->req->pub.path, &c->req->path_len, &room, at, n) ? refuse(c, 500) : 0;
}

static void header_done(struct http_conn *c)
{
	struct http_header *h = &c->header;

	if (h->in_value && !strcasecmp(h->name, "expect") && !strcasecmp(h->value, "100-continue"))
		c->expects = true;
	*h = (struct http_header){ 0 };
}

/* What does not fit is none of the few that are looked at. */
static void keep(char *text, size_t size, size_t *len, const char *at, size_t n)
{
	for (size_t i = 0; i < n && *len < size - 1; i++)
		text[(*len)++] = at[i];
	text[*len] = '\0';
}

static int on_header_field(http_parser *parser, const char *at, size_t n)
{
	struct http_conn *c = conn_of(parser);

	if (c->header.in_value)
		header_done(c);
	keep(c->header.name, sizeof(c->header.name), &c->header.name_len, at, n);
	return count_head(c, n + 4); /* ": " and the end of the line */
}

static int on_header_value(http_parser *parser, const char *at, size_t n)
{
	struct http_conn *c = conn_of(parser);

	c->header.in_value = true;
	keep(c->header.value, sizeof(c->header.value), &c->header.value_len, at, n);
	return count_head(c, n);
}

static void conn_send(struct http_conn *c, const char *bytes, size_t len);

static int on_headers_complete(http_parser *parser)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	struct http_conn *c = conn_of(parser);

	header_done(c);
	if (parser->http_major != 1)
		return refuse(c, 505);
	parser->upgrade = 0; /* asked for, never done: the request is served as it is */
	if (parser->content_length != ULLONG_MAX &&
		parser->content_length > c->server->limits.max_body)
		return refuse(c, 413);
	if (c->expects && parser->content_length)
		conn_send(c, go_on, sizeof(go_on) - 1);
	return 0;
}

static int on_body(http_parser *parser, const char *at, size_t n)
{
	struct http_conn *c = conn_of(parser);
	struct http_pending *req = c->req;

	if (req->pub.body_len + n > c->server->limits.max_body)
		return refuse(c, 413);
	return append(&req->pub.body, &req->pub.body_len, &req->body_room, at, n) ? refuse(c, 500)
										  : 0;
}

static int on_complete(http_parser *parser)
{
	struct http_conn *c = conn_of(parser);

	c->complete = true;
	c->keep_alive = http_should_keep_alive(parser);
	http_parser_pause(parser, 1);
	return 0;
}

static const http_parser_settings settings = {
	.on_message_begin = on_begin,
	.on_url = on_url,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_complete,
};

/* --- the end of a connection --- */

void http_conn_free(struct http_conn *c)
{
	struct http_server *s = c->server;
	struct http_conn **at = &s->conns;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	s->nr_conns--;
	loop_del(&c->src);
	loop_timer_del(&c->timer);
	loop_unpost(s->loop, &c->go_on_work);
	fd_close(&c->src.fd);
	fd_drop_list(&c->late);
	if (c->state == CONN_SERVING)
		c->req->conn = NULL; /* it is the handler's */
	else
		request_free(c->req);
	free(c->out);
	free(c);
	http_finish_check(s);
}

/* conn_run() may be at work on it further up: then that one frees. */
static void conn_end(struct http_conn *c)
{
	c->hung_up = true;
	c->keep_alive = false;
	if (!c->running)
		http_conn_free(c);
}

/* --- sending --- */

static void watch(struct http_conn *c)
{
	uint32_t events = 0;

	if (c->out_len)
		events = EPOLLOUT;
	else if (c->state != CONN_SERVING && !c->hung_up)
		events = EPOLLIN;
	loop_mod(&c->src, events);
}

static void flush(struct http_conn *c)
{
	while (c->out_len) {
		struct iovec iov = { c->out + c->out_at, c->out_len };
		ssize_t n = sock_send(c->src.fd, &iov, 1, NULL, 0);

		if (n == -EAGAIN)
			return;
		if (n < 0) {
			c->hung_up = true;
			c->out_len = 0;
			return;
		}
		c->out_at += (size_t)n;
		c->out_len -= (size_t)n;
	}
	free(c->out);
	c->out = NULL;
	c->out_at = 0;
}

static void on_deadline(struct loop_timer *timer);

static void set_deadline(struct http_conn *c, uint32_t ms)
{
	loop_timer_set(c->server->loop, &c->timer, clock_now_ns() + ms * NS_PER_MS, on_deadline);
}

/* Queue and send what can be sent. Without memory the connection ends. */
static void conn_send(struct http_conn *c, const char *bytes, size_t len)
{
	char *bigger = malloc(c->out_len + len);

	if (!bigger) {
		c->hung_up = true;
		return;
	}
	if (c->out_len)
		memcpy(bigger, c->out + c->out_at, c->out_len);
	memcpy(bigger + c->out_len, bytes, len);
	free(c->out);
	c->out = bigger;
	c->out_at = 0;
	c->out_len += len;
	flush(c);
}

static void send_answer(
	struct http_conn *c, int status, const char *type, const char *body, size_t len)
{
	bool close = !c->keep_alive || c->hung_up || c->server->finishing;
	char head[256];
	int n;

	loop_timer_del(&c->timer);
	n = snprintf(head, sizeof(head), "HTTP/1.1 %d %s\r\nServer: outboard\r\nConnection: %s\r\n",
		status, http_status_text(status), close ? "close" : "keep-alive");

	if (status == 204)
		n += snprintf(head + n, sizeof(head) - (size_t)n, "\r\n");
	else if (!len)
		n += snprintf(head + n, sizeof(head) - (size_t)n, "Content-Length: 0\r\n\r\n");
	else
		n += snprintf(head + n, sizeof(head) - (size_t)n,
			"Content-Type: %s\r\nContent-Length: %zu\r\n\r\n", type, len);
	assert((size_t)n < sizeof(head));
	conn_send(c, head, (size_t)n);
	if (len && status != 204)
		conn_send(c, body, len);
	if (!close)
		return;
	c->state = CONN_DRAINING;
	if (!c->out_len)
		shutdown(c->src.fd, SHUT_WR);
}

/* --- receiving --- */

/* Forget the request and answer in its place; the connection ends with it. */
static void answer_refusal(struct http_conn *c, int status)
{
	char text[100];
	int n = snprintf(text, sizeof(text), "[\"HTTP: %s\"]", http_status_text(status));

	request_free(c->req);
	c->req = NULL;
	c->in_len = 0;
	c->keep_alive = false;
	send_answer(c, status, "application/json", text, (size_t)n);
}

static void split_query(char *path)
{
	char *query = path ? strchr(path, '?') : NULL;

	if (query)
		*query = '\0';
}

static void hand_over(struct http_conn *c)
{
	struct http_pending *req = c->req;
	bool last = !c->in_len;

	if (last)
		fd_list_move(&req->pub.fds, &c->late);
	req->pub.method = http_method_str(c->parser.method);
	if (!req->pub.body)
		req->pub.body = calloc(1, 1);
	if (!req->pub.body || !req->pub.path) {
		answer_refusal(c, 500);
		return;
	}
	split_query(req->pub.path);
	c->begun = c->complete = false;
	loop_timer_del(&c->timer);
	c->state = CONN_SERVING;
	c->server->handler(c->server->arg, &req->pub);
}

static void parse(struct http_conn *c)
{
	size_t n;

	c->begun = true;
	n = http_parser_execute(&c->parser, &settings, c->in + c->in_at, c->in_len);
	c->in_at += n;
	c->in_len -= n;
	if (c->complete) {
		http_parser_pause(&c->parser, 0);
		hand_over(c);
	} else if (HTTP_PARSER_ERRNO(&c->parser) != HPE_OK) {
		answer_refusal(c, c->refusal ? c->refusal : 400);
	} else if (c->in_len) {
		answer_refusal(c, 400);
	} else if (c->req) {
		fd_list_move(&c->req->pub.fds, &c->late);
	}
}

/* One read. */
static void fill(struct http_conn *c)
{
	struct fd_list more = { .nr = 0 };
	ssize_t n = sock_recv(c->src.fd, c->in, sizeof(c->in), &more);

	fd_list_move(&c->late, &more);
	c->in_at = c->in_len = 0;
	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		c->hung_up = true;
		return;
	}
	c->in_len = c->state == CONN_DRAINING ? 0 : (size_t)n;
	if (c->state == CONN_DRAINING)
		fd_drop_list(&c->late);
}

/* The parser has all that came: without the end of a request nothing can become of it any more. */
static bool is_over(const struct http_conn *c)
{
	if (c->state == CONN_SERVING || c->out_len)
		return false;
	return c->hung_up || c->server->finishing;
}

/* One deadline at a time: for an answer to be taken, for a request to come in, for the end of
 * draining. */
static void keep_time(struct http_conn *c)
{
	bool waits =
		c->out_len || c->state == CONN_DRAINING || (c->state == CONN_READING && c->begun);

	if (!waits)
		loop_timer_del(&c->timer);
	else if (!c->timer.loop)
		set_deadline(c, c->state == CONN_DRAINING && !c->out_len
					? DRAIN_MS
					: c->server->limits.deadline_ms);
}

/* Go on with what is there, then wait for what has to come next. May free c. */
static void conn_run(struct http_conn *c)
{
	if (c->running)
		return;
	c->running = true;
	/* A client that takes no answers gets no further ones made. */
	while (c->state == CONN_READING && c->in_len && !c->out_len && !c->server->finishing)
		parse(c);
	c->running = false;
	if (is_over(c)) {
		http_conn_free(c);
		return;
	}
	keep_time(c);
	c->idle_since_ns = clock_now_ns();
	watch(c);
}

static void on_deadline(struct loop_timer *timer)
{
	struct http_conn *c = container_of(timer, struct http_conn, timer);

	if (c->state == CONN_READING && !c->out_len) {
		answer_refusal(c, 408);
		conn_run(c);
	} else {
		conn_end(c);
	}
}

static void on_event(struct loop_source *src, uint32_t events)
{
	struct http_conn *c = container_of(src, struct http_conn, src);

	if (events & EPOLLOUT) {
		flush(c);
		if (!c->out_len) {
			loop_timer_del(&c->timer);
			if (c->state == CONN_DRAINING)
				shutdown(c->src.fd, SHUT_WR);
		}
	}
	if (events & EPOLLIN && c->state != CONN_SERVING && !c->out_len)
		fill(c);
	else if (events & (EPOLLHUP | EPOLLERR)) {
		/* Nobody is there to take an answer. */
		c->out_len = 0;
		conn_end(c);
		return;
	}
	conn_run(c);
}

static void go_on(struct loop_work *work)
{
	conn_run(container_of(work, struct http_conn, go_on_work));
}

void http_reply(
	struct http_request *pub, int status, const char *type, const char *body, size_t len)
{
	struct http_pending *req = container_of(pub, struct http_pending, pub);
	struct http_conn *c = req->conn;

	if (!c) {
		request_free(req);
		return;
	}
	assert(c->state == CONN_SERVING && c->req == req);
	c->state = CONN_READING;
	c->req = NULL;
	request_free(req);
	send_answer(c, status, type, body, len);
	/* Not from here: the handler would be called in the middle of what its owner is doing. */
	if (!c->running)
		loop_post(c->server->loop, &c->go_on_work, go_on);
}

/* --- life --- */

bool http_conn_is_idle(const struct http_conn *c)
{
	return c->state == CONN_READING && !c->begun && !c->in_len && !c->out_len;
}

void http_conn_new(struct http_server *s, int fd_in)
{
	FD_AUTO fd = fd_in;
	struct http_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return;
	c->server = s;
	c->idle_since_ns = clock_now_ns();
	http_parser_init(&c->parser, HTTP_REQUEST);
	if (loop_add(s->loop, &c->src, fd, EPOLLIN, on_event)) {
		free(c);
		return;
	}
	fd_take(&fd);
	c->next = s->conns;
	s->conns = c;
	s->nr_conns++;
}
