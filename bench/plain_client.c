/*
 * plain_client.c - a vfio-user client as plain as can be: sendmsg, recvmsg, both blocking
 *
 * The other half of the pair that the project's own ends are measured against (plain_server.c). It
 * says VERSION and nothing more before it measures.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/util.h"
#include "card.h"
#include "rounds.h"
#include "wire/vfio_user.h"

struct client {
	int sock;
	uint16_t next_id;
	uint8_t reply[4096];
};

static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	return fd;
}

static int send_message(
	struct client *c, uint16_t command, uint32_t flags, const void *payload, size_t len)
{
	struct vfio_user_header h = {
		.id = c->next_id++,
		.command = command,
		.size = (uint32_t)(sizeof(h) + len),
		.flags = VFIO_USER_TYPE_COMMAND | flags,
	};
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)payload, len } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov) };
	ssize_t n = sendmsg(c->sock, &m, MSG_NOSIGNAL);

	if (n < 0)
		return -errno;
	return n == (ssize_t)h.size ? 0 : -EIO;
}

/* The length of the reply's payload, which is in c->reply behind the header; or -errno. */
static ssize_t receive_reply(struct client *c)
{
	struct iovec iov = { c->reply, sizeof(c->reply) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct vfio_user_header h;
	ssize_t n = recvmsg(c->sock, &m, 0);

	if (n <= 0)
		return n ? -errno : -ECONNRESET;
	if ((size_t)n < sizeof(h))
		return -EIO;
	memcpy(&h, c->reply, sizeof(h));
	if (h.id != (uint16_t)(c->next_id - 1) || h.size != n)
		return -EIO;
	if (h.flags & VFIO_USER_FLAG_ERROR)
		return -(ssize_t)h.error;
	return n - (ssize_t)sizeof(h);
}

static int say_version(struct client *c)
{
	const struct vfio_user_version v = { VFIO_USER_VERSION_MAJOR, VFIO_USER_VERSION_MINOR };
	int rc = send_message(c, VFIO_USER_VERSION, 0, &v, sizeof(v));

	return rc ? rc : (int)MIN(receive_reply(c), 0);
}

static int read_byte(void *arg, uint8_t *value)
{
	const struct vfio_user_region_access a = { CARD_REGISTER, CARD_BAR, 1 };
	struct client *c = arg;
	int rc = send_message(c, VFIO_USER_REGION_READ, 0, &a, sizeof(a));
	ssize_t n = rc ? rc : receive_reply(c);

	if (n < 0)
		return (int)n;
	if (n != sizeof(a) + 1)
		return -EIO;
	*value = c->reply[sizeof(struct vfio_user_header) + sizeof(a)];
	return 0;
}

static int send_write(struct client *c, uint8_t value, uint32_t flags)
{
	struct {
		struct vfio_user_region_access a;
		uint8_t data;
	} w = { { CARD_REGISTER, CARD_BAR, 1 }, value };

	return send_message(c, VFIO_USER_REGION_WRITE, flags, &w, sizeof(w.a) + 1);
}

static int post_byte(void *arg, uint8_t value)
{
	return send_write(arg, value, VFIO_USER_FLAG_NO_REPLY);
}

static int write_byte(void *arg, uint8_t value)
{
	int rc = send_write(arg, value, 0);

	return rc ? rc : (int)MIN(receive_reply(arg), 0);
}

int main(int argc, char **argv)
{
	static const struct rounds_ops ops = { read_byte, post_byte, write_byte };
	static struct client c;
	struct rounds r;
	int rc;

	rounds_options(argc, argv, &r);
	c.sock = connect_to(r.socket_path);
	rc = c.sock < 0 ? c.sock : say_version(&c);
	if (rc) {
		fprintf(stderr, "plain_client: %s: %s\n", r.socket_path, strerror(-rc));
		return 1;
	}
	return rounds_run(&r, &ops, &c);
}
