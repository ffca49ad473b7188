/*
 * vm_programs.c - options whose devices are programs of ours: --disk, --rng, --vsock, --console;
 *                 --net is vm_net.c's
 *
 * Each becomes a command line of outboard-device and the descriptors it works on. What can be
 * opened is opened here, by the user's rights and before anything is confined: so a missing image
 * is said at once, and a program that is started again finds the same file, tap and terminal,
 * whatever has become of their names since. A lock on an image is the open file's and stays, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attach/vhost_user_device.h"
#include "base/char_end.h"
#include "base/fd.h"
#include "base/sock.h"
#include "base/util.h"
#include "control/program_args.h"
#include "control/supervisor.h"
#include "control/vm_devices_priv.h"

/* A process has to be started first, which takes its time on a busy host. */
enum { START_MS = 20000 };

int vm_begin_program(struct vm_devices *d, const struct vm_program *program,
	struct program_args *a, struct err *err)
{
	const struct device_config *at = program->at;
	struct vhost_user_device_params p = {
		.kind = program->kind,
		.dev = vm_device_params(d, at),
		.vu = {
			.where = "its process",
			.type = program->type,
			.queue_sizes = program->queue_sizes,
			.nr_queues = program->nr_queues,
			.times.handshake_ms = START_MS,
		},
	};
	struct supervised_params s = {
		.id = at->id,
		.args = (const char *const *)a->args,
		.fds = a->fds,
		.nr_fds = a->nr_fds,
	};
	struct vhost_user_source *source;
	struct device *dev;
	int rc;

	if (at->iommu)
		program_arg(a, "--iommu");
	rc = program_args_check(a, err);

	if (!rc)
		rc = supervised_source_new(d->spawner, &s, &source, err);
	program_args_fini(a);
	if (rc)
		return err_prefix(err, rc, "%s", at->id);
	rc = vhost_user_device_attach(d->m, &p, source, &dev, err);
	return rc ? rc : vm_devices_add(d, dev, at, err);
}

/* --- --disk --- */

static int open_image(const struct disk_config *disk, struct err *err)
{
	int flags = (disk->readonly ? O_RDONLY : O_RDWR) | (disk->direct ? O_DIRECT : 0);
	/* A FIFO is refused by its program instead of waited for here. */
	int fd = open(disk->path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd >= 0 && fcntl(fd, F_SETFL, flags) == 0)
		return fd;
	fd_close(&fd);
	return err_set(err, -errno, "disk %s: %s: %s", disk->at.id, disk->path,
		errno == EINVAL && disk->direct ? "the file system has no direct access" :
						  strerror(errno));
}

void vm_add_rate(struct program_args *a, const struct rate_config *r)
{
	const struct {
		const char *name;
		uint64_t value;
	} options[] = {
		{ "bw-size", r->bw_size },
		{ "bw-one-time-burst", r->bw_one_time_burst },
		{ "bw-refill-time", r->bw_refill_time },
		{ "ops-size", r->ops_size },
		{ "ops-one-time-burst", r->ops_one_time_burst },
		{ "ops-refill-time", r->ops_refill_time },
	};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (options[i].value)
			program_arg(a, "--%s=%" PRIu64, options[i].name, options[i].value);
}

static int begin_disk(struct vm_devices *d, const struct disk_config *disk, struct err *err)
{
	uint16_t sizes[VM_MAX_QUEUES];
	const struct vm_program program = {
		.kind = "disk",
		.type = VIRTIO_ID_BLOCK,
		.at = &disk->at,
		.queue_sizes = sizes,
		.nr_queues = disk->num_queues,
	};
	struct program_args a;
	int fd;

	if (disk->vhost_user)
		return vm_begin_foreign_disk(d, disk, err);
	vm_fill_sizes(sizes, program.nr_queues, disk->queue_size);
	fd = open_image(disk, err);
	if (fd < 0)
		return fd;
	program_args_init(&a, "block");
	program_arg(&a, "--id=%s", disk->at.id);
	program_arg(&a, "--file-fd=%d", program_fd(&a, fd));
	program_arg(&a, "--file-name=%s", disk->path);
	program_arg(&a, "--queues=%u", disk->num_queues);
	program_arg(&a, "--queue-size=%u", disk->queue_size);
	if (disk->readonly)
		program_arg(&a, "--read-only");
	if (disk->direct)
		program_arg(&a, "--direct");
	if (disk->serial)
		program_arg(&a, "--serial=%s", disk->serial);
	vm_add_rate(&a, &disk->rate);
	return vm_begin_program(d, &program, &a, err);
}

int vm_begin_disks(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < c->disks.nr && !rc; i++)
		rc = begin_disk(d, &c->disks.items[i], err);
	return rc;
}

/* --- --rng --- */

int vm_begin_rng(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	const struct vm_program program = {
		.kind = "rng", .type = VIRTIO_ID_RNG, .at = &c->rng.at
	};
	struct program_args a;

	if (!c->rng.src)
		return 0;
	program_args_init(&a, "rng");
	program_arg(&a, "--source=%s", c->rng.src);
	return vm_begin_program(d, &program, &a, err);
}

/* --- --vsock --- */

/* Clients find the socket in its place all the time, whichever process serves it. */
static int listen_for_vsock(struct vm_devices *d, const char *path, struct err *err)
{
	d->vsock_path = strdup(path);
	if (!d->vsock_path)
		return err_set(err, -ENOMEM, "out of memory");
	d->vsock_fd = sock_listen(path, 128, err);
	return d->vsock_fd < 0 ? d->vsock_fd : 0;
}

static int open_folder(const char *path, struct err *err)
{
	FREE_AUTO char *copy = strdup(path);
	int fd = copy ? open(dirname(copy), O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;

	return fd < 0 ? err_set(err, -errno, "%s: its folder: %s", path, strerror(errno)) : fd;
}

int vm_begin_vsock(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	const struct vsock_config *v = &c->vsock;
	const struct vm_program program = {
		.kind = "vsock", .type = VIRTIO_ID_VSOCK, .at = &v->at
	};
	const char *slash = v->socket ? strrchr(v->socket, '/') : NULL;
	struct program_args a;
	int folder, rc;

	if (!v->socket)
		return 0;
	if (v->vhost_user)
		return vm_begin_foreign_vsock(d, v, err);
	rc = listen_for_vsock(d, v->socket, err);
	if (rc)
		return err_prefix(err, rc, "vsock %s", v->at.id);
	folder = open_folder(v->socket, err);
	if (folder < 0)
		return err_prefix(err, folder, "vsock %s", v->at.id);
	program_args_init(&a, "vsock");
	program_arg(&a, "--guest-cid=%" PRIu32, v->cid);
	program_arg(&a, "--listen-fd=%d", program_fd_copy(&a, d->vsock_fd));
	program_arg(&a, "--dir-fd=%d", program_fd(&a, folder));
	program_arg(&a, "--prefix=%s", slash ? slash + 1 : v->socket);
	return vm_begin_program(d, &program, &a, err);
}

/* --- --console --- */

static int open_console(
	const struct virtio_console_config *c, struct char_end *end, struct err *err)
{
	switch (c->mode) {
	case CONSOLE_TTY:
		return char_end_tty(end, err);
	case CONSOLE_PTY:
		return char_end_pty(end, err);
	case CONSOLE_FILE:
		return char_end_file(end, c->file, O_TRUNC, err);
	case CONSOLE_SOCKET:
		return char_end_listen(end, c->socket, err);
	default:
		return 0;
	}
}

int vm_begin_console(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	const struct virtio_console_config *con = &c->console;
	const struct vm_program program = {
		.kind = "console", .type = VIRTIO_ID_CONSOLE, .at = &con->at
	};
	struct char_end *end = &d->console;
	struct program_args a;
	int rc;

	if (con->mode == CONSOLE_OFF)
		return 0;
	rc = open_console(con, end, err);
	if (rc)
		return err_prefix(err, rc, "--console");
	program_args_init(&a, "console");
	if (end->listen_fd >= 0)
		program_arg(&a, "--socket-fd=%d", program_fd_copy(&a, end->listen_fd));
	if (end->in_fd >= 0)
		program_arg(&a, "--in-fd=%d", program_fd_copy(&a, end->in_fd));
	if (end->out_fd >= 0)
		program_arg(&a, "--out-fd=%d", program_fd_copy(&a, end->out_fd));
	return vm_begin_program(d, &program, &a, err);
}
