#include "device/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"

struct state_file {
	struct pci_model *model;
	int dir;
	char *name, *fresh; /* the file's name, and that of the one being written */
	struct log_limit complaints;
	size_t len; /* of what is in the file */
	char written[PCI_MODEL_STATE_MAX];
	char now[PCI_MODEL_STATE_MAX];
};

/* All of the file, which must be a plain one. Returns its length. */
static ssize_t read_whole(int fd, char *buf, size_t size, struct err *err)
{
	struct stat st;
	size_t len = 0;
	ssize_t n;

	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s", strerror(errno));
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "not a regular file");
	while ((n = read(fd, buf + len, size - len)) > 0)
		len += (size_t)n;
	if (n < 0)
		return err_set(err, -errno, "%s", strerror(errno));
	if (len == size)
		return err_set(err, -EFBIG, "too long for a saved state");
	return (ssize_t)len;
}

static int load(struct state_file *f, struct err *err)
{
	/* O_NONBLOCK: a FIFO is refused, not waited for. */
	FD_AUTO fd = openat(f->dir, f->name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t len;

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return err_set(err, -errno, "%s", strerror(errno));
	len = read_whole(fd, f->now, sizeof(f->now), err);
	if (len < 0)
		return (int)len;
	return f->model->ops->load(f->model, f->now, (size_t)len, err);
}

static int replace(struct state_file *f, size_t len)
{
	FD_AUTO fd = openat(
		f->dir, f->fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	size_t done = 0;
	int rc;

	if (fd < 0)
		return -errno;
	while (done < len) {
		ssize_t n = write(fd, f->now + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			rc = n ? -errno : -EIO;
			goto remove;
		}
		done += (size_t)n;
	}
	if (!renameat(f->dir, f->fresh, f->dir, f->name))
		return 0;
	rc = -errno;
remove:
	unlinkat(f->dir, f->fresh, 0);
	return rc;
}

int state_file_write(struct state_file *f, struct err *err)
{
	ssize_t len = f->model->ops->save(f->model, f->now, sizeof(f->now));
	int rc;

	if (len < 0)
		return err_set(err, (int)len, "saving the state: %s", strerror((int)-len));
	if ((size_t)len == f->len && !memcmp(f->now, f->written, f->len))
		return 0;
	rc = replace(f, (size_t)len);
	if (rc)
		return err_set(err, rc, "%s: cannot be written: %s", f->name, strerror(-rc));
	memcpy(f->written, f->now, (size_t)len);
	f->len = (size_t)len;
	return 0;
}

static void changed(struct pci_model *m, void *arg)
{
	struct state_file *f = arg;
	struct err err = { 0 };

	/* The device goes on: its pins are right, only a successor would not know them. */
	if (state_file_write(f, &err))
		log_limited(&f->complaints, LOG_ERR, "%s: state file %s", m->name, err.text);
}

static int split_path(struct state_file *f, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	FREE_AUTO char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");

	if (!*name)
		return err_set(err, -EINVAL, "is a directory, expected a file");
	f->name = strdup(name);
	if (!dir || !f->name || asprintf(&f->fresh, ".%s.new", name) < 0) {
		f->fresh = NULL;
		return err_set(err, -ENOMEM, "out of memory");
	}
	f->dir = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (f->dir < 0)
		return err_set(err, -errno, "directory: %s", strerror(errno));
	return 0;
}

int state_file_open(struct state_file **out, const char *path, struct pci_model *m, struct err *err)
{
	struct state_file *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return err_set(err, -ENOMEM, "out of memory");
	f->model = m;
	f->dir = -1;
	if (m->ops->save && m->ops->load)
		rc = split_path(f, path, err);
	else
		rc = err_set(err, -ENOTSUP, "this model's state can not be saved");
	if (!rc)
		rc = load(f, err);
	if (rc) {
		state_file_close(f);
		return err_prefix(err, rc, "state file %s", path);
	}
	m->on_change = changed;
	m->on_change_arg = f;
	*out = f;
	return 0;
}

int state_file_dir(const struct state_file *f)
{
	return f->dir;
}

void state_file_close(struct state_file *f)
{
	if (!f)
		return;
	if (f->model->on_change_arg == f)
		f->model->on_change = NULL;
	fd_close(&f->dir);
	free(f->name);
	free(f->fresh);
	free(f);
}
