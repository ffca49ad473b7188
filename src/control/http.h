/*
 * http.h - a small HTTP/1.1 server on a UNIX socket, with descriptors beside the bytes
 *
 *   http_server_new(loop, listen_fd, &limits, handler, arg, &server);
 *   handler(arg, req):  look at req->method, path, body, fds; then, at once or later,
 * http_reply(req, ...) http_server_free(server);
 *
 * A client may keep its connection, send requests before it has its answers (they are served one
 * after the other), wait for "100 Continue", send its body in chunks. What it sends is bounded, and
 * has to come within a deadline; so have answers to be read. Nothing here waits.
 *
 * Descriptors that come with a request's bytes belong to the request which holds the last byte they
 * came with.
 *
 * Threads: loop thread, all of it.
 */
#ifndef CONTROL_HTTP_H
#define CONTROL_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/sock.h"

/* A 0 stands for the default. */
struct http_limits {
	uint32_t max_clients; /* 64; of more, the one that has been idle longest goes */
	uint32_t max_head;    /* 16 KiB: request line and headers together */
	uint32_t max_body;    /* 1 MiB */
	uint32_t deadline_ms; /* 10000: for a request to come in, for an answer to be taken */
};

struct http_request {
	const char *method; /* "GET" */
	char *path;	    /* without query; not decoded */
	char *body;	    /* NUL-terminated, which body_len does not count */
	size_t body_len;
	struct fd_list fds; /* the handler takes those it wants */
};

typedef void (*http_handler_fn)(void *arg, struct http_request *req);

struct http_server;

/*
 * Serve on a listening socket. Takes listen_fd, also on failure; loop and arg are borrowed. limits
 * may be NULL. Gives *out. 0 or -errno.
 */
int http_server_new(struct loop *loop, int listen_fd, const struct http_limits *limits,
	http_handler_fn handler, void *arg, struct http_server **out);

/*
 * Hang up on everybody. Requests without an answer stay valid and still want their http_reply().
 * Not from inside the handler. NULL is fine.
 */
void http_server_free(struct http_server *server);

/*
 * As http_server_free(), but what was answered and is not taken yet has deadline_ms to go; then
 * done(arg) is called, from the top of the loop. No further request is read. http_server_free()
 * afterwards.
 */
void http_server_finish(struct http_server *server, void (*done)(void *arg), void *arg);

/*
 * Answer, once for each request, and end its life: req is gone afterwards. type is the body's media
 * type; body may be NULL, it is copied. If the client has left meanwhile nobody hears it. The
 * handler is not called from here.
 */
void http_reply(
	struct http_request *req, int status, const char *type, const char *body, size_t len);

/* "Not Found" */
const char *http_status_text(int status);

#endif
