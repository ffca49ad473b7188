/*
 * vsock_options.c - the socket device's row in the table of models
 *
 * --uds-path=PATH says it all: the socket is made there, and the guest reaches PATH_PORT. Who
 * starts the program over and over gives it the listening socket and the folder as descriptors
 * instead, so that clients find the socket in its place all the time.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"
#include "device/model.h"
#include "device/number.h"
#include "device/vsock.h"

/* What the program needs besides, and then some. */
#define OTHER_FDS 128

enum { OPT_CID, OPT_PATH, OPT_LISTEN_FD, OPT_DIR_FD, OPT_PREFIX };

static const struct device_option options[] = {
	[OPT_CID] = { "guest-cid", "N", "the guest's context id, 3 to 4294967294" },
	[OPT_PATH] = { "uds-path", "PATH",
		"listen at PATH for the host's programs; the guest reaches PATH_PORT" },
	[OPT_LISTEN_FD] = { "listen-fd", "N", "listen on descriptor N instead" },
	[OPT_DIR_FD] = { "dir-fd", "N", "the folder that the guest reaches, as descriptor N" },
	[OPT_PREFIX] = { "prefix", "NAME", "and NAME_PORT are its sockets" },
};

static const struct sandbox_call calls[] = {
	{ SYS_recvfrom, "the first line of a client" },
	{ SYS_shutdown, "one side has finished writing" },
	{ SYS_wait4, "the connector's end" },
	{ SYS_unlink, "the socket, at the end" },
};

static int parse_fd(const char *const *values, int option, int *fd, struct err *err)
{
	uint64_t number;
	int rc = number_option(options[option].name, values[option], 0, 3, INT32_MAX, &number, err);

	if (rc)
		return rc;
	if (fcntl((int)number, F_SETFD, FD_CLOEXEC) < 0)
		return err_set(err, -errno, "--%s: descriptor %d: %s", options[option].name,
			(int)number, strerror(errno));
	*fd = (int)number;
	return 0;
}

static int check_listener(int fd, struct err *err)
{
	int is = 0, flags = fcntl(fd, F_GETFL);
	socklen_t len = sizeof(is);

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is, &len) || !is)
		return err_set(err, -ENOTSOCK,
			"--listen-fd: descriptor %d: expected a listening socket", fd);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_set(err, -errno, "--listen-fd: %s", strerror(errno));
	return 0;
}

static int from_fds(const char *const *values, struct vsock_config *config, struct err *err)
{
	FD_AUTO dir = -1;
	int rc;

	if (!values[OPT_DIR_FD] != !values[OPT_PREFIX])
		return err_set(err, -EINVAL, "expected --dir-fd and --prefix together");
	rc = values[OPT_DIR_FD] ? parse_fd(values, OPT_DIR_FD, &dir, err) : 0;
	if (!rc && dir >= 0)
		rc = vsock_connector_start(&config->connector, dir, values[OPT_PREFIX], err);
	if (!rc && values[OPT_LISTEN_FD])
		rc = parse_fd(values, OPT_LISTEN_FD, &config->listen_fd, err);
	if (!rc && config->listen_fd >= 0)
		rc = check_listener(config->listen_fd, err);
	return rc;
}

static int from_path(const char *path, struct vsock_config *config, struct err *err)
{
	FREE_AUTO char *dir_copy = strdup(path);
	FREE_AUTO char *name_copy = strdup(path);
	FD_AUTO dir = -1;
	int rc;

	if (!dir_copy || !name_copy)
		return err_set(err, -ENOMEM, "out of memory");
	dir = open(dirname(dir_copy), O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return err_set(err, -errno, "--uds-path %s: %s", path, strerror(errno));
	rc = vsock_connector_start(&config->connector, dir, basename(name_copy), err);
	if (rc)
		return err_prefix(err, rc, "--uds-path");
	config->made_path = path;
	config->listen_fd = sock_listen(path, 128, err);
	return config->listen_fd < 0 ? err_prefix(err, config->listen_fd, "--uds-path") : 0;
}

/* Each connection takes a descriptor: as many as this program may have. */
static unsigned max_conns(void)
{
	struct rlimit r = { 0 };

	if (getrlimit(RLIMIT_NOFILE, &r))
		return 1;
	r.rlim_cur = MIN(r.rlim_max, (rlim_t)(VSOCK_MAX_CONNS + OTHER_FDS));
	setrlimit(RLIMIT_NOFILE, &r);
	if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur <= OTHER_FDS)
		return 1;
	return (unsigned)MIN(r.rlim_cur - OTHER_FDS, (rlim_t)VSOCK_MAX_CONNS);
}

static int new_virtio(
	const char *const *values, struct loop *loop, struct virtio_model **out, struct err *err)
{
	struct vsock_config config = { .name = "vsock", .listen_fd = -1, .connector.fd = -1 };
	bool fds = values[OPT_LISTEN_FD] || values[OPT_DIR_FD] || values[OPT_PREFIX];
	uint64_t cid;
	int rc;

	if (!values[OPT_CID])
		return err_set(err, -EINVAL, "expected --guest-cid=N");
	if (!values[OPT_PATH] == !fds)
		return err_set(err, -EINVAL,
			"expected either --uds-path=PATH or descriptors (--listen-fd, --dir-fd)");
	rc = number_option(
		"guest-cid", values[OPT_CID], 0, VSOCK_CID_MIN, VSOCK_CID_MAX, &cid, err);
	if (rc)
		return rc;
	config.guest_cid = (uint32_t)cid;
	config.max_conns = max_conns();
	rc = fds ? from_fds(values, &config, err) : from_path(values[OPT_PATH], &config, err);
	if (!rc)
		return vsock_new(out, loop, &config, err);
	fd_close(&config.listen_fd);
	connector_stop(&config.connector);
	return rc;
}

const struct device_model vsock_model = {
	.name = "vsock",
	.summary = "virtio socket device: streams between the guest and UNIX sockets",
	.options = options,
	.nr_options = ARRAY_SIZE(options),
	.calls = calls,
	.nr_calls = ARRAY_SIZE(calls),
	.made_file = "uds-path",
	.new_virtio = new_virtio,
};
