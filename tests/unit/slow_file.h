/*
 * slow_file.h - a file whose file system does not answer when it is closed, until it is told to
 *
 * A FUSE mount on one file, in a mount namespace of a child that is its daemon. It answers what
 * open() asks; whoever closes a descriptor waits for slow_file_answer(), or for the deadline, so
 * that a test fails rather than hangs. The mount ends with the child, and the child with the test.
 */
#ifndef TESTS_SLOW_FILE_H
#define TESTS_SLOW_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/sock.h"

#define SLOW_FILE_DEADLINE_MS 10000
#define SLOW_FILE_MOST	      16

/* Of both processes. */
struct slow_file_state {
	atomic_uint asked; /* how often a descriptor was to be closed */
	atomic_bool late;  /* nobody said anything, and the deadline has come */
	char path[32];
};

struct slow_file {
	struct slow_file_state *state;
	int sock;
	pid_t pid;
};

/* --- the daemon; it ends with its process, and waits for nobody --- */

static inline void slow_file_reply(
	int dev, uint64_t unique, int error, const void *payload, size_t size)
{
	struct {
		struct fuse_out_header h;
		uint8_t bytes[256];
	} out;

	out.h = (struct fuse_out_header){
		.len = (uint32_t)(sizeof(out.h) + size), .error = error, .unique = unique
	};
	if (size)
		memcpy(out.bytes, payload, size);
	if (write(dev, &out, out.h.len) < 0 && errno != ENOENT)
		_exit(1);
}

static inline void slow_file_request(int dev, const struct fuse_in_header *h)
{
	const struct fuse_init_out init = {
		.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 65536 };
	const struct fuse_attr_out attr = { .attr_valid = 1000,
		.attr = { .ino = 1, .mode = S_IFREG | 0666, .nlink = 1, .size = 4096 } };
	const struct fuse_open_out opened = { .fh = 1 };

	switch (h->opcode) {
	case FUSE_INIT:
		slow_file_reply(dev, h->unique, 0, &init, sizeof(init));
		break;
	case FUSE_GETATTR:
		slow_file_reply(dev, h->unique, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
		slow_file_reply(dev, h->unique, 0, &opened, sizeof(opened));
		break;
	case FUSE_FLUSH: /* "not known" would be the last one */
	case FUSE_RELEASE:
		slow_file_reply(dev, h->unique, 0, NULL, 0);
		break;
	default:
		slow_file_reply(dev, h->unique, -ENOSYS, NULL, 0);
	}
}

/*
 * A byte at the socket: answer from now on. Its end: the test is over. The giver's own descriptor
 * is no matter of the test's.
 */
static inline void __attribute__((noreturn)) slow_file_serve(
	int dev, int sock, pid_t giver, struct slow_file_state *state)
{
	static char buf[1 << 17];
	const struct fuse_in_header *h = (const void *)buf;
	uint64_t waiting[SLOW_FILE_MOST];
	bool answers = false;
	unsigned nr = 0;
	char byte;

	for (;;) {
		struct pollfd p[2] = { { dev, POLLIN, 0 }, { sock, POLLIN, 0 } };

		if (!poll(p, 2, nr ? SLOW_FILE_DEADLINE_MS : -1)) {
			atomic_store(&state->late, true);
			answers = true;
		}
		if (p[1].revents) {
			if (read(sock, &byte, 1) != 1)
				_exit(0);
			answers = true;
		}
		if (p[0].revents && read(dev, buf, sizeof(buf)) > 0) {
			if (h->opcode == FUSE_FLUSH && h->pid != (uint32_t)giver &&
				nr < SLOW_FILE_MOST) {
				waiting[nr++] = h->unique;
				atomic_fetch_add(&state->asked, 1);
			} else {
				slow_file_request(dev, h);
			}
		}
		while (answers && nr)
			slow_file_reply(dev, waiting[--nr], 0, NULL, 0);
	}
}

/* The one that opens the file, as the daemon has to answer it. It says what it has, or ends. */
static inline void __attribute__((noreturn)) slow_file_give(const char *path, int sock)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct iovec iov = { (void *)path, 1 };

	_exit(fd < 0 || sock_send(sock, &iov, 1, &fd, 1) != 1);
}

static inline void __attribute__((noreturn)) slow_file_child(
	int sock, struct slow_file_state *state)
{
	int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	char options[96];
	pid_t giver;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (dev < 0 || unshare(CLONE_NEWNS) ||
		mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		_exit(1);
	snprintf(options, sizeof(options), "fd=%d,rootmode=100666,user_id=%u,group_id=%u", dev,
		getuid(), getgid());
	if (mount("slow", state->path, "fuse", 0, options))
		_exit(1);
	giver = fork();
	if (!giver) {
		close(dev);
		slow_file_give(state->path, sock);
	}
	slow_file_serve(dev, sock, giver, state);
}

/* --- the test --- */

static inline void slow_file_end(struct slow_file *f)
{
	fd_close(&f->sock);
	waitpid(f->pid, NULL, 0);
	unlink(f->state->path);
	munmap(f->state, sizeof(*f->state));
}

/* A descriptor of the file. -1: this system lets nobody mount one. */
static inline int slow_file_open(struct slow_file *f)
{
	struct fd_list fds = { .nr = 0 };
	int pair[2], fd;
	char byte;

	*f = (struct slow_file){ .sock = -1 };
	f->state = mmap(NULL, sizeof(*f->state), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f->state == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		abort();
	snprintf(f->state->path, sizeof(f->state->path), "/tmp/slow-file-XXXXXX");
	fd = mkostemp(f->state->path, O_CLOEXEC);
	if (fd < 0)
		abort();
	close(fd);
	f->pid = fork();
	if (!f->pid) {
		close(pair[0]);
		slow_file_child(pair[1], f->state);
	}
	close(pair[1]);
	f->sock = pair[0];
	sock_recv_wait(f->sock, &byte, 1, &fds);
	fd = fd_list_take(&fds);
	if (fd < 0)
		slow_file_end(f);
	return fd;
}

/* Those who wait, and those to come. */
static inline void slow_file_answer(struct slow_file *f)
{
	if (write(f->sock, "", 1) != 1)
		abort();
}

#endif
