/*
 * http_client.c - one request, one answer (see http_client.h)
 *
 * Trusts: nothing in the answer; it is bounded.
 */
#include "control/http_client.h"

#include <errno.h>
#include <fcntl.h>
#include <http_parser.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"
#include "control/grammar.h"

struct exchange {
	http_parser parser;
	struct http_answer *answer;
	bool complete;
	int rc; /* why the parser was stopped */
};

static int on_body(http_parser *parser, const char *at, size_t n)
{
	struct exchange *c = container_of(parser, struct exchange, parser);
	struct http_answer *a = c->answer;
	char *bigger;

	if (a->len + n > HTTP_ANSWER_MAX) {
		c->rc = -EMSGSIZE;
		return -1;
	}
	bigger = realloc(a->body, a->len + n + 1);
	if (!bigger) {
		c->rc = -ENOMEM;
		return -1;
	}
	memcpy(bigger + a->len, at, n);
	a->body = bigger;
	a->len += n;
	a->body[a->len] = '\0';
	return 0;
}

static int on_complete(http_parser *parser)
{
	struct exchange *c = container_of(parser, struct exchange, parser);

	/* "100 Continue" comes before the answer. */
	c->complete = parser->status_code >= 200;
	return 0;
}

/* Send all of it. A server that has said no already does not read on: that is not our failure. */
static int send_all(int fd, const char *at, size_t len, const int *fds, int nr_fds)
{
	while (len) {
		struct iovec iov = { (void *)at, len };
		ssize_t n = sock_send(fd, &iov, 1, fds, nr_fds);

		if (n == -EAGAIN) {
			struct pollfd pollfd = { .fd = fd, .events = POLLOUT };

			poll(&pollfd, 1, -1);
			continue;
		}
		if (n == -EPIPE || n == -ECONNRESET)
			return 0;
		if (n < 0)
			return (int)n;
		at += n;
		len -= (size_t)n;
		nr_fds = 0;
	}
	return 0;
}

static int send_request(int fd, const struct http_call *call)
{
	char head[512];
	int n = snprintf(head, sizeof(head),
		"%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
		"Connection: close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
		call->method, call->target, call->len);
	int rc;

	if (n < 0 || (size_t)n >= sizeof(head))
		return -ENAMETOOLONG;
	rc = send_all(fd, head, (size_t)n, NULL, 0);
	return rc ? rc : send_all(fd, call->body, call->len, call->fds, call->nr_fds);
}

static int receive_answer(int fd, struct exchange *c)
{
	static const http_parser_settings settings = {
		.on_body = on_body,
		.on_message_complete = on_complete,
	};
	char buffer[16384];

	http_parser_init(&c->parser, HTTP_RESPONSE);
	while (!c->complete) {
		struct pollfd pollfd = { .fd = fd, .events = POLLIN };
		ssize_t n;

		poll(&pollfd, 1, -1);
		n = sock_recv(fd, buffer, sizeof(buffer), NULL);
		if (n == -EAGAIN)
			continue;
		if (n < 0)
			return (int)n;
		http_parser_execute(&c->parser, &settings, buffer, (size_t)n);
		if (c->rc)
			return c->rc;
		if (HTTP_PARSER_ERRNO(&c->parser) != HPE_OK)
			return -EBADMSG;
		if (!n && !c->complete)
			return -ECONNRESET;
	}
	c->answer->status = (int)c->parser.status_code;
	if (!c->answer->body)
		c->answer->body = calloc(1, 1);
	return c->answer->body ? 0 : -ENOMEM;
}

int http_call(const struct http_call *call, struct http_answer *answer, struct err *err)
{
	struct exchange c = { .answer = answer };
	FD_AUTO fd = sock_connect(call->socket_path, err);
	int rc;

	*answer = (struct http_answer){ 0 };
	if (fd < 0)
		return fd;
	rc = send_request(fd, call);
	if (!rc)
		rc = receive_answer(fd, &c);
	if (!rc)
		return 0;
	free(answer->body);
	*answer = (struct http_answer){ 0 };
	return err_set(err, rc, "%s: %s", grammar_show(call->socket_path).text,
		rc == -EBADMSG	    ? "what answers there is no HTTP server"
		: rc == -ECONNRESET ? "hung up without an answer"
		: rc == -EMSGSIZE   ? "the answer is too long"
				    : strerror(-rc));
}
