/*
 * http_client.h - one request to an HTTP server on a UNIX socket, and its answer
 *
 * Waits for as long as the server takes: a boot may wait for devices.
 *
 * Threads: any.
 */
#ifndef CONTROL_HTTP_CLIENT_H
#define CONTROL_HTTP_CLIENT_H

#include <stddef.h>

#include "base/err.h"

#define HTTP_ANSWER_MAX (16u * 1024 * 1024)

struct http_answer {
	int status;
	char *body; /* NUL-terminated, never NULL after success; free() it */
	size_t len;
};

struct http_call {
	const char *socket_path;
	const char *method, *target;
	const char *body; /* NULL: none */
	size_t len;
	const int *fds; /* borrowed; they go with the body */
	int nr_fds;	/* 0 to SOCK_MAX_FDS */
};

/* Gives what is in *answer. 0 or -errno with a text. */
int http_call(const struct http_call *call, struct http_answer *answer, struct err *err);

#endif
