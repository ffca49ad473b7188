/*
 * block_file.c - a disk's bytes in an image file or on a block device
 *
 * With direct access there are two descriptors of the same image. O_DIRECT wants offsets, lengths
 * and memory aligned; what a guest does not align goes by the other descriptor, through the page
 * cache, which the kernel keeps coherent with direct access. So the page cache is the bounce
 * buffer: it is bounded, and writers of parts of one block are ordered by the kernel. Filesystems
 * that do not say what they want aligned are found out by their EINVAL; memory that the kernel
 * cannot hold for O_DIRECT, such as another machine's in a BAR (serve/vvu), by EFAULT. That goes
 * through the page cache from then on, and is said once.
 *
 * A transfer that ends early goes on from there. The end of an image whose size is no
 * multiple of a sector reads as zeros; a write there makes the file longer.
 *
 * Locks belong to the open file description (F_OFD_SETLK), so they hold against other processes,
 * against other disks of this one, and end with the last descriptor, however the process ends.
 * Given a descriptor, the lock is its sender's if it had one, and taken otherwise. It is only
 * kept then, and the image is opened once more.
 *
 * Turns. What a killed process had under way the kernel may carry out after its end, until it has
 * taken down the io_uring; the requests themselves are made again by the process started in its
 * place. A write of before must not come after those. So each description that is written through
 * holds a lock on a byte of its own far behind the image: an io_uring keeps it open until its last
 * request is done, and whoever comes next waits for the lock.
 *
 * Discards and zeroes are fallocate(), which does the same for block devices. A filesystem without
 * one of its modes has zeros written; one that cannot discard says so to the guest.
 *
 * Owns:    the descriptors.
 * Threads: as block_store.h; the two notes of what the filesystem cannot do are relaxed atomics.
 * Trusts:  not the size of the file: it may change at any time.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "device/block_map.h"
#include "device/block_store.h"

/* What is written where zeros have to be. */
#define ZERO_PIECES 64
static const _Alignas(4096) uint8_t zeros[4096];

/* Of interrupted system calls, in a row */
#define MAX_TRIES 16

/*
 * How long the lock of another is waited for: somebody else's, and
 * that of a process before this one.
 */
#define LOCK_PATIENCE_NS NS_PER_S
#define TURN_PATIENCE_NS (15 * NS_PER_S)

/*
 * The locked bytes: the image's before this, and one for each description that is written through.
 */
#define TURN_AT (INT64_MAX - 4096)

enum step { TRANSFER, DEALLOCATE, WRITE_ZEROS, SYNC };

struct file {
	struct block_store store;
	int fd;	      /* with O_DIRECT, if asked for */
	int buffered; /* the same image through the page cache; -1: fd does that already */
	int given;    /* the descriptor of somebody else's lock; -1: none */
	uint32_t align_mem, align_off; /* of fd, if buffered is open */
	bool device;
	bool in_memory;	      /* the filesystem keeps it there: */
	struct block_map map; /* what is moved at once in large amounts */
	atomic_bool no_direct; /* found out: the guest's memory is not for O_DIRECT */
	atomic_bool no_punch, no_zero; /* found out to be impossible */
	struct iovec zeros[ZERO_PIECES];
};

static struct file *file_of(struct block_store *s)
{
	return container_of(s, struct file, store);
}

static void on_file(struct iothread_op *op, int result);

/* Transfers */

static bool is_aligned(const struct file *f, uint64_t off, const struct iovec *iov, unsigned nr)
{
	uint64_t lens = off;

	for (unsigned i = 0; i < nr; i++) {
		if ((uintptr_t)iov[i].iov_base & (f->align_mem - 1))
			return false;
		lens |= iov[i].iov_len;
	}
	return !(lens & (f->align_off - 1));
}

static int pick_fd(
	struct file *f, struct block_io *io, uint64_t off, const struct iovec *iov, unsigned nr)
{
	if (f->buffered < 0)
		return f->fd;
	if (!io->buffered && !atomic_load_explicit(&f->no_direct, memory_order_relaxed) &&
		is_aligned(f, off, iov, nr))
		return f->fd;
	return f->buffered;
}

/*
 * A file in memory is copied here and now. io_uring would have a worker do that, as such a
 * filesystem does not tell whether it is going to wait; waking that one takes as long as the copy.
 * Much at once goes through our mapping, as far as that can be.
 */
static void copy(struct file *f, struct block_io *io, int fd, const struct iovec *iov, unsigned nr,
	uint64_t off)
{
	ssize_t n = 0;

	io->file.fd = fd;
	if (io->len - io->moved >= BLOCK_MAP_MIN && (io->op == BLOCK_READ || !io->durable))
		n = (ssize_t)block_map_copy(&f->map, iov, nr, off, io->op == BLOCK_WRITE);
	if (!n && io->op == BLOCK_READ)
		n = preadv(fd, iov, (int)nr, (off_t)off);
	else if (!n)
		n = pwritev2(fd, iov, (int)nr, (off_t)off, io->durable ? RWF_DSYNC : 0);
	on_file(&io->file, n < 0 ? -errno : (int)n);
}

static void transfer(struct file *f, struct block_io *io)
{
	const struct iovec *iov;
	unsigned nr = MIN(block_io_rest(io, &iov), (unsigned)IOV_MAX);
	uint64_t off = io->off + io->moved;
	int fd = pick_fd(f, io, off, iov, nr);

	io->step = TRANSFER;
	if (f->in_memory)
		copy(f, io, fd, iov, nr, off);
	else if (io->op == BLOCK_READ)
		iothread_readv(io->t, &io->file, fd, iov, nr, off);
	else
		iothread_writev(io->t, &io->file, fd, iov, nr, off, io->durable);
}

/* The file ends here: inside the disk's last sector that is as good as zeros. */
static void read_past_end(struct block_io *io)
{
	uint64_t at = io->off + io->moved, sector_end = align_up(at, BLOCK_SECTOR);

	if (sector_end == at || io->off + io->len != sector_end) {
		io->done(io, -EIO);
		return;
	}
	for (; io->at < io->nr_iov; io->at++, io->at_off = 0)
		memset((uint8_t *)io->iov[io->at].iov_base + io->at_off, 0,
			io->iov[io->at].iov_len - io->at_off);
	io->done(io, 0);
}

/* Memory that is gone is no good for the page cache either: only what moved by it is a finding. */
static void moved_otherwise(struct file *f, const struct block_io *io)
{
	if (io->unheld && !atomic_exchange(&f->no_direct, true))
		log_warn("the guest's memory cannot be used for direct access: through the page cache");
}

static void transferred(struct file *f, struct block_io *io, int result)
{
	if (result > 0) {
		moved_otherwise(f, io);
		block_io_advance(io, (uint64_t)result);
		if (io->moved == io->len)
			io->done(io, 0);
		else
			transfer(f, io);
	} else if (result == 0) {
		if (io->op == BLOCK_READ)
			read_past_end(io);
		else
			io->done(io, -EIO);
	} else if ((result == -EINVAL || result == -EFAULT) && io->file.fd != f->buffered &&
		   f->buffered >= 0) {
		io->buffered = true;
		io->unheld = result == -EFAULT;
		transfer(f, io);
	} else {
		io->done(io, result);
	}
}

/* Discards and zeroes */

static void sync_and_finish(struct file *f, struct block_io *io)
{
	io->step = SYNC;
	iothread_fdatasync(io->t, &io->file, f->fd);
}

static void write_zeros(struct file *f, struct block_io *io)
{
	uint64_t left = io->len - io->moved, off = io->off + io->moved;
	unsigned nr = (unsigned)MIN(left / sizeof(zeros), (uint64_t)ZERO_PIECES);
	const struct iovec *iov = f->zeros;

	if (!nr) {
		io->rest = (struct iovec){ (void *)zeros, left };
		iov = &io->rest;
		nr = 1;
	}
	io->step = WRITE_ZEROS;
	iothread_writev(io->t, &io->file, pick_fd(f, io, off, iov, nr), iov, nr, off, io->durable);
}

static void zeros_written(struct file *f, struct block_io *io, int result)
{
	if (result == -EINVAL && io->file.fd != f->buffered && f->buffered >= 0) {
		io->buffered = true;
		write_zeros(f, io);
	} else if (result <= 0) {
		io->done(io, result ? result : -EIO);
	} else {
		io->moved += (uint64_t)result;
		if (io->moved == io->len)
			io->done(io, 0);
		else
			write_zeros(f, io);
	}
}

static void deallocate(struct file *f, struct block_io *io)
{
	bool punch = io->op == BLOCK_DISCARD || io->unmap;
	int mode = FALLOC_FL_KEEP_SIZE | (punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

	if (atomic_load_explicit(punch ? &f->no_punch : &f->no_zero, memory_order_relaxed)) {
		if (io->op == BLOCK_ZERO)
			write_zeros(f, io);
		else
			io->done(io, -EOPNOTSUPP);
		return;
	}
	io->step = DEALLOCATE;
	iothread_fallocate(io->t, &io->file, f->fd, mode, io->off, io->len);
}

static void deallocated(struct file *f, struct block_io *io, int result)
{
	bool punch = io->op == BLOCK_DISCARD || io->unmap;

	if (result == -EOPNOTSUPP || result == -ENOSYS) {
		atomic_store_explicit(
			punch ? &f->no_punch : &f->no_zero, true, memory_order_relaxed);
		deallocate(f, io);
	} else if (result == -EINVAL && io->op == BLOCK_ZERO) {
		/* A block device whose blocks are larger than the range's alignment */
		write_zeros(f, io);
	} else if (!result && io->durable) {
		sync_and_finish(f, io);
	} else {
		io->done(io, result);
	}
}

/* Operations */

static void repeat(struct file *f, struct block_io *io)
{
	switch ((enum step)io->step) {
	case TRANSFER:
		transfer(f, io);
		break;
	case DEALLOCATE:
		deallocate(f, io);
		break;
	case WRITE_ZEROS:
		write_zeros(f, io);
		break;
	case SYNC:
		sync_and_finish(f, io);
		break;
	}
}

static void on_file(struct iothread_op *op, int result)
{
	struct block_io *io = container_of(op, struct block_io, file);
	struct file *f = file_of(io->store);

	if ((result == -EINTR || result == -EAGAIN) && io->tries++ < MAX_TRIES) {
		repeat(f, io);
		return;
	}
	io->tries = 0;
	switch ((enum step)io->step) {
	case TRANSFER:
		transferred(f, io, result);
		break;
	case DEALLOCATE:
		deallocated(f, io, result);
		break;
	case WRITE_ZEROS:
		zeros_written(f, io, result);
		break;
	case SYNC:
		io->done(io, result);
		break;
	}
}

static void file_submit(struct block_store *s, struct block_io *io)
{
	struct file *f = file_of(s);

	io->store = s;
	io->file.done = on_file;
	io->moved = io->at_off = 0;
	io->at = 0;
	io->tries = 0;
	io->buffered = io->unheld = false;
	switch (io->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		transfer(f, io);
		break;
	case BLOCK_FLUSH:
		sync_and_finish(f, io);
		break;
	case BLOCK_DISCARD:
	case BLOCK_ZERO:
		deallocate(f, io);
		break;
	}
}

/* Opening */

static void file_refresh(struct block_store *s)
{
	struct file *f = file_of(s);
	off_t end = lseek(f->fd, 0, SEEK_END);

	if (end >= 0)
		s->size = (uint64_t)end;
}

static void file_free(struct block_store *s)
{
	struct file *f = file_of(s);

	block_map_close(&f->map);
	fd_close(&f->buffered);
	fd_close(&f->fd);
	fd_close(&f->given);
	free(f);
}

static const struct block_store_ops file_ops = {
	.submit = file_submit,
	.refresh = file_refresh,
	.free = file_free,
};

/*
 * A process that was killed may keep its lock for some milliseconds after its end: the kernel takes
 * down its io_uring later, and that holds the descriptors. The one started in its place waits.
 */
static int try_lock(int fd, struct flock *lock, uint64_t patience_ns)
{
	const struct timespec pause = { .tv_nsec = NS_PER_MS };
	uint64_t until = clock_now_ns() + patience_ns;
	int rc;

	while ((rc = fcntl(fd, F_OFD_SETLK, lock)) && (errno == EAGAIN || errno == EACCES) &&
		clock_now_ns() < until)
		nanosleep(&pause, NULL);
	return rc;
}

static int lock_image(int fd, const char *name, bool read_only, struct err *err)
{
	struct flock lock = {
		.l_type = read_only ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
		.l_len = TURN_AT,
	};

	if (!try_lock(fd, &lock, LOCK_PATIENCE_NS))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, -EBUSY,
			"%s: the image is in use: somebody else has locked it%s", name,
			read_only ? " for writing" : "");
	if (errno == EINVAL || errno == ENOLCK || errno == EOPNOTSUPP || errno == ENOSYS) {
		log_warn("%s: this file cannot be locked (%s): see to it that it is not used twice",
			name, strerror(errno));
		return 0;
	}
	return err_set(err, -errno, "%s: lock: %s", name, strerror(errno));
}

/*
 * Wait until nothing is under way any more through the descriptor
 * that an earlier process had in fd's place.
 */
static int take_turn(
	int fd, unsigned place, const char *name, uint64_t patience_ns, struct err *err)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = TURN_AT + place, .l_len = 1
	};

	if (fd < 0 || !try_lock(fd, &lock, patience_ns))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, -EBUSY,
			"%s: the process before this one still has writes under way after %llu s",
			name, (unsigned long long)(patience_ns / NS_PER_S));
	return 0; /* it cannot be locked, which was said already */
}

static int check_kind(struct file *f, const char *name, struct err *err)
{
	struct statfs fs;
	struct stat st;

	if (fstat(f->fd, &st))
		return err_set(err, -errno, "%s: %s", name, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, -EINVAL, "%s: expected a file or a block device", name);
	f->device = S_ISBLK(st.st_mode);
	f->in_memory = !fstatfs(f->fd, &fs) && fs.f_type == TMPFS_MAGIC;
	return 0;
}

static int check_access(struct file *f, const char *name, bool read_only, struct err *err)
{
	int flags = fcntl(f->fd, F_GETFL);

	if (flags < 0)
		return err_set(err, -errno, "%s: %s", name, strerror(errno));
	if (!read_only && (flags & O_ACCMODE) != O_RDWR)
		return err_set(err, -EACCES,
			"%s: the descriptor is not open for reading and writing", name);
	if ((flags & O_ACCMODE) == O_WRONLY)
		return err_set(err, -EACCES, "%s: the descriptor is not open for reading", name);
	/* Non-blocking was for opening; on reads it would mean failing where the medium has to be
	 * asked. */
	if (fcntl(f->fd, F_SETFL, flags & ~(O_NONBLOCK | O_APPEND)))
		return err_set(err, -errno, "%s: %s", name, strerror(errno));
	return 0;
}

/* Opens the image once more: file status flags belong to the description, which fd shares with
 * others. */
static int reopen(int fd, int flags)
{
	char path[40];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, flags | O_CLOEXEC | O_NOCTTY);
	return again < 0 ? -errno : again;
}

/* fd becomes the direct one, and what it was the buffered one, which keeps the lock. */
static int go_direct(struct file *f, const char *name, bool read_only, struct err *err)
{
	int direct = reopen(f->fd, (read_only ? O_RDONLY : O_RDWR) | O_DIRECT);
	int flags = fcntl(f->fd, F_GETFL);

	if (direct < 0)
		return err_set(err, direct, "%s: cannot be opened for direct access: %s", name,
			strerror(-direct));
	f->buffered = f->fd;
	f->fd = direct;
	if (flags & O_DIRECT && fcntl(f->buffered, F_SETFL, flags & ~O_DIRECT))
		return err_set(err, -errno, "%s: %s", name, strerror(errno));
	return 0;
}

/* What was given keeps its lock; what is written goes through a description of our own. */
static void go_own(struct file *f, const char *name, bool read_only)
{
	struct flock turns = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = TURN_AT };
	int flags = fcntl(f->fd, F_GETFL);
	int own = reopen(f->fd, (read_only ? O_RDONLY : O_RDWR) | (flags & O_DIRECT));

	if (own < 0) {
		log_info("%s: cannot be opened once more (%s): used as it is", name, strerror(-own));
		return;
	}
	/* A sender's lock may be on all there could be. The turns are ours to take. */
	fcntl(f->fd, F_OFD_SETLK, &turns);
	f->given = f->fd;
	f->fd = own;
}

static void learn_device(struct file *f)
{
	unsigned physical = 0, best = 0;
	int logical = 0;

	if (!ioctl(f->fd, BLKSSZGET, &logical) && is_pow2((uint64_t)logical) && logical >= 512)
		f->store.block_size = (uint32_t)logical;
	if (!ioctl(f->fd, BLKPBSZGET, &physical) && is_pow2(physical))
		f->store.physical_size = MAX(physical, f->store.block_size);
	if (!ioctl(f->fd, BLKIOOPT, &best))
		f->store.opt_size = best;
}

static void learn_alignment(struct file *f)
{
	f->align_mem = f->align_off = f->store.block_size;
#ifdef STATX_DIOALIGN
	struct statx stx;

	if (!statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) &&
		stx.stx_mask & STATX_DIOALIGN && is_pow2(stx.stx_dio_mem_align) &&
		is_pow2(stx.stx_dio_offset_align)) {
		f->align_mem = stx.stx_dio_mem_align;
		f->align_off = stx.stx_dio_offset_align;
		f->store.block_size = MAX(f->store.block_size, f->align_off);
	}
#endif
}

static void learn_store(struct file *f, const struct block_file_config *config)
{
	f->store.block_size = BLOCK_SECTOR;
	f->store.physical_size = PAGE_SIZE_4K;
	if (f->device)
		learn_device(f);
	if (f->buffered >= 0)
		learn_alignment(f);
	f->store.physical_size = MAX(f->store.physical_size, f->store.block_size);
	f->store.read_only = config->read_only;
	f->store.can_discard = !config->read_only && config->sparse;
	f->store.can_zero = !config->read_only;
	for (unsigned i = 0; i < ZERO_PIECES; i++)
		f->zeros[i] = (struct iovec){ (void *)zeros, sizeof(zeros) };
	file_refresh(&f->store);
	if (f->in_memory)
		block_map_open(&f->map, f->fd, !config->read_only);
}

static int take_turns(
	struct file *f, const char *name, const struct block_file_config *config, struct err *err)
{
	uint64_t patience = config->turn_ms ? config->turn_ms * NS_PER_MS : TURN_PATIENCE_NS;
	int rc = take_turn(f->fd, 0, name, patience, err);

	return rc ? rc : take_turn(f->buffered, 1, name, patience, err);
}

static int open_image(
	struct file *f, const struct block_file_config *config, const char *name, struct err *err)
{
	int rc;

	/* Non-blocking, so that a FIFO is refused rather than waited for. */
	if (config->path)
		f->fd = open(config->path, (config->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC |
						   O_NOCTTY | O_NONBLOCK);
	if (f->fd < 0)
		return err_set(err, -errno, "%s: %s", name, strerror(errno));
	rc = check_kind(f, name, err);
	if (!rc)
		rc = check_access(f, name, config->read_only, err);
	if (!rc)
		rc = lock_image(f->fd, name, config->read_only, err);
	if (!rc && !config->path)
		go_own(f, name, config->read_only);
	if (!rc && config->direct)
		rc = go_direct(f, name, config->read_only, err);
	if (!rc && !config->read_only)
		rc = take_turns(f, name, config, err);
	if (!rc && lseek(f->fd, 0, SEEK_END) < 0)
		rc = err_set(err, -errno, "%s: how large it is: %s", name, strerror(errno));
	return rc;
}

int block_file_new(
	struct block_store **out, const struct block_file_config *config, struct err *err)
{
	struct file *f = calloc(1, sizeof(*f));
	FD_AUTO fd = config->path ? -1 : config->fd;
	char number[32];
	int rc;

	if (!f)
		return err_set(err, -ENOMEM, "out of memory");
	snprintf(number, sizeof(number), "descriptor %d", fd);
	f->store.ops = &file_ops;
	f->fd = fd_take(&fd);
	f->buffered = f->given = -1;
	rc = open_image(f, config,
		config->path ? config->path :
		config->name ? config->name :
			       number, err);
	if (rc) {
		file_free(&f->store);
		return rc;
	}
	learn_store(f, config);
	*out = &f->store;
	return 0;
}
