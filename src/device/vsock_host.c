/*
 * vsock_host.c - the host's side: who connects to us, and whom the guest connects to
 *
 * A client of the listening socket says in one line which port it wants. The line is looked at
 * before it is taken, so that not a byte of what follows leaves the socket. There are time limits
 * for the client to say it and for the guest to answer, since each connection takes a descriptor.
 *
 * A guest's connection is the connector's work (connector.h); a bounded number of questions
 * is under way, the others wait in the order they came. Without its connector a device is half a
 * one: then the process ends, and whoever started it starts another.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"
#include "device/vsock_priv.h"

#define HELLO_MAX    32 /* "CONNECT 4294967295\r\n" and some blanks */
#define HELLO_NS     (10 * NS_PER_S)
#define REQUEST_NS   (2 * NS_PER_S)
#define TURN_CLIENTS 16
#define TURN_ANSWERS 64
#define SWEEP_NS     (250 * NS_PER_MS)
#define LOCAL_PORTS  0x40000000u /* from here on, as many; users know such numbers */

/* --- time limits --- */

static void sweep(struct loop_timer *timer)
{
	struct vsock *v = container_of(timer, struct vsock, sweep);
	struct vsock_conn *c, *next;
	uint64_t now = clock_now_ns();
	bool more = false;

	for (c = LIST_FIRST(&v->all); c; c = next) {
		next = LIST_NEXT(c, all);
		if (c->deadline_ns && c->deadline_ns <= now)
			vsock_conn_late(c);
		else
			more |= c->deadline_ns != 0;
	}
	if (more)
		vsock_sweep_later(v);
}

void vsock_sweep_later(struct vsock *v)
{
	if (!v->sweep.loop)
		loop_timer_set(v->model.loop, &v->sweep, clock_now_ns() + SWEEP_NS, sweep);
}

/* --- clients of the listening socket --- */

void vsock_host_resume(struct vsock *v)
{
	if (v->nr_conns < v->config.max_conns)
		acceptor_go_on(&v->acceptor);
}

/* True: there may be more. */
static bool accept_client(struct vsock *v)
{
	struct vsock_conn *c;
	int fd;

	if (v->nr_conns >= v->config.max_conns) {
		log_limited(&v->limit, LOG_WARN, "%s: %u connections: further ones wait",
			v->config.name, v->nr_conns);
		acceptor_hold(&v->acceptor);
		return false;
	}
	fd = acceptor_take(&v->acceptor);
	if (fd < 0 && fd != -EAGAIN)
		log_limited(&v->limit, LOG_WARN, "%s: a connection waits: %s", v->config.name,
			strerror(-fd));
	if (fd < 0)
		return false;
	c = vsock_conn_new(v, VSOCK_HELLO, fd);
	if (!c) {
		close(fd);
		return true;
	}
	vsock_conn_deadline(c, HELLO_NS);
	return true;
}

static void accept_clients(struct acceptor *acceptor)
{
	struct vsock *v = container_of(acceptor, struct vsock, acceptor);

	for (unsigned i = 0; i < TURN_CLIENTS && accept_client(v); i++)
		;
}

/* "CONNECT PORT", blanks around. */
static bool parse_hello(char *line, uint32_t *port)
{
	char *save = NULL, *word = strtok_r(line, " \t\r", &save);
	char *number = word ? strtok_r(NULL, " \t\r", &save) : NULL, *end;
	unsigned long n;

	if (!number || strcasecmp(word, "connect") || !isdigit((unsigned char)*number) ||
		strtok_r(NULL, " \t\r", &save))
		return false;
	errno = 0;
	n = strtoul(number, &end, 10);
	if (errno || *end || n > UINT32_MAX)
		return false;
	*port = (uint32_t)n;
	return true;
}

/* One that no other connection to this port of the guest's has. There are more than connections. */
static uint32_t local_port(struct vsock *v, uint32_t guest_port)
{
	uint32_t port;

	do
		port = LOCAL_PORTS | (v->next_port++ & (LOCAL_PORTS - 1));
	while (vsock_conn_find(v, guest_port, port));
	return port;
}

void vsock_host_hello(struct vsock_conn *c)
{
	char line[HELLO_MAX + 1], *end;
	ssize_t n = recv(c->fd, line, HELLO_MAX, MSG_PEEK | MSG_DONTWAIT);
	uint32_t port;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	end = n > 0 ? memchr(line, '\n', (size_t)n) : NULL;
	if (!end && n > 0 && n < HELLO_MAX && !c->hup)
		return; /* the rest of it is still to come */
	if (!end || recv(c->fd, line, (size_t)(end - line) + 1, MSG_DONTWAIT) != end - line + 1) {
		vsock_conn_free(c);
		return;
	}
	*end = '\0';
	if (memchr(line, '\0', (size_t)(end - line)) || !parse_hello(line, &port)) {
		log_limited(&c->v->limit, LOG_WARN,
			"%s: a client of the socket does not say CONNECT PORT", c->v->config.name);
		vsock_conn_free(c);
		return;
	}
	c->state = VSOCK_REQUESTED;
	c->tell = VSOCK_TELL_REQUEST;
	vsock_conn_name(c, port, local_port(c->v, port));
	vsock_conn_deadline(c, REQUEST_NS);
	vsock_conn_news(c);
}

int vsock_host_welcome(struct vsock_conn *c)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "OK %" PRIu32 "\n", c->host_port);
	struct iovec iov = { text, (size_t)len };
	ssize_t n = sock_send(c->fd, &iov, 1, NULL, 0);

	if (n < 0)
		return (int)n;
	return n == len ? 0 : -EIO; /* nothing was in its way */
}

/* --- the connector --- */

static void lost_connector(struct vsock *v)
{
	log_err("%s: the process that connects to the host's sockets is gone, ending",
		v->config.name);
	loop_del(&v->connector);
	fd_close(&v->config.connector.fd);
	loop_quit(v->model.loop, EXIT_FAILURE);
}

static void ask_next(struct vsock *v)
{
	struct vsock_conn *c;

	while (v->nr_asked < VSOCK_MAX_ASKED && (c = TAILQ_FIRST(&v->to_ask))) {
		struct connector_ask ask = {
			.serial = c->serial, .from = c->guest_port, .to = c->host_port
		};

		TAILQ_REMOVE(&v->to_ask, c, turn);
		c->to_ask = false;
		if (connector_ask(&v->config.connector, &ask))
			vsock_conn_reset(c);
		else
			v->nr_asked++;
	}
}

/* fd is -1 or taken. */
static void answered(struct vsock *v, const struct connector_answer *a, int fd_in)
{
	struct vsock_conn *c = vsock_conn_find(v, a->ask.from, a->ask.to);
	FD_AUTO fd = fd_in;

	v->nr_asked -= MIN(v->nr_asked, 1u);
	if (!c || c->serial != a->ask.serial || c->state != VSOCK_CONNECTING)
		return; /* the guest has thought better of it */
	if (a->rc || fd < 0) {
		log_debug("%s: nobody at port %" PRIu32 ": %s", v->config.name, c->host_port,
			strerror(-a->rc));
		vsock_conn_reset(c);
		return;
	}
	if (vsock_conn_attach(c, fd_take(&fd))) {
		vsock_conn_reset(c);
		return;
	}
	c->tell |= VSOCK_TELL_RESPONSE;
	vsock_conn_open(c);
}

/* False: that was all, or the end. */
static bool take_answer(struct vsock *v)
{
	struct connector_answer a;
	int fd, rc = connector_answer(&v->config.connector, &a, &fd);

	if (rc > 0)
		answered(v, &a, fd);
	else if (rc < 0)
		lost_connector(v);
	return rc > 0;
}

static void on_connector(struct loop_source *source, uint32_t events)
{
	struct vsock *v = container_of(source, struct vsock, connector);

	for (unsigned i = 0; i < TURN_ANSWERS && take_answer(v); i++)
		;
	if (v->config.connector.fd >= 0)
		ask_next(v);
}

void vsock_host_ask(struct vsock_conn *c)
{
	struct vsock *v = c->v;

	if (v->config.connector.fd < 0) {
		vsock_conn_reset(c);
		return;
	}
	c->to_ask = true;
	TAILQ_INSERT_TAIL(&v->to_ask, c, turn);
	ask_next(v);
}

/* --- both --- */

int vsock_host_start(struct vsock *v, struct err *err)
{
	int rc = 0;

	if (v->config.listen_fd >= 0)
		rc = acceptor_start(
			&v->acceptor, v->model.loop, v->config.listen_fd, accept_clients);
	if (!rc && v->config.connector.fd >= 0)
		rc = loop_add(v->model.loop, &v->connector, v->config.connector.fd, EPOLLIN,
			on_connector);
	return rc ? err_set(err, rc, "its sockets cannot be watched: %s", strerror(-rc)) : 0;
}

void vsock_host_stop(struct vsock *v)
{
	loop_timer_del(&v->sweep);
	acceptor_stop(&v->acceptor);
	loop_del(&v->connector);
	fd_close(&v->config.listen_fd);
	if (v->made_path)
		unlink(v->made_path);
	free(v->made_path);
	connector_stop(&v->config.connector);
}
