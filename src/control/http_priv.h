/*
 * http_priv.h - what the files of the HTTP server share
 *
 *   http.c       the listening socket, who may stay, the end
 *   http_conn.c  one connection: its requests and answers
 */
#ifndef CONTROL_HTTP_PRIV_H
#define CONTROL_HTTP_PRIV_H

#include <http_parser.h>

#include "base/acceptor.h"
#include "control/http.h"

#define HTTP_IN_SIZE 8192

enum http_conn_state {
	CONN_READING,
	CONN_SERVING,  /* a request is with the handler */
	CONN_DRAINING, /* the last answer is out or on its way; what comes is forgotten */
};

/* One header line as it comes in; only the beginning is kept. */
struct http_header {
	char name[24], value[24];
	size_t name_len, value_len;
	bool in_value;
};

struct http_conn {
	struct http_server *server;
	struct http_conn *next;
	struct loop_source src;
	struct loop_timer timer;
	struct loop_work go_on_work;
	enum http_conn_state state;
	bool keep_alive;
	bool hung_up; /* nothing more comes */
	bool running; /* conn_run() is at work */
	uint64_t idle_since_ns;

	char in[HTTP_IN_SIZE];
	size_t in_at, in_len;
	struct fd_list late; /* came with the latest read */

	http_parser parser;
	bool begun;    /* some byte of a request is there */
	bool complete; /* and now all of it */
	int refusal;   /* status to refuse it with, 0: none */
	size_t head_len;
	struct http_header header;
	bool expects; /* "100 Continue" */
	struct http_pending *req;

	char *out;
	size_t out_at, out_len;
};

/* A request, from its first byte to its answer. */
struct http_pending {
	struct http_request pub;
	struct http_conn *conn; /* NULL: the client has left */
	size_t path_len, body_room;
};

struct http_server {
	struct loop *loop;
	struct http_limits limits;
	http_handler_fn handler;
	void *arg;
	int listen_fd;
	struct acceptor acceptor;
	struct http_conn *conns;
	unsigned nr_conns;

	bool finishing;
	void (*finished)(void *arg);
	void *finished_arg;
	struct loop_work finished_work;
};

/* --- http_conn.c --- */

/* A client has come. Takes fd, also on failure; then nothing else has happened. */
void http_conn_new(struct http_server *s, int fd);
/* Hang up. A request that the handler has stays valid. */
void http_conn_free(struct http_conn *c);
/* It waits for nothing of ours, and nobody waits for it. */
bool http_conn_is_idle(const struct http_conn *c);

/* --- http.c --- */

/* A connection is gone: was it the last one? */
void http_finish_check(struct http_server *s);

#endif
