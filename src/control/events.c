/*
 * events.c - the stream of events (see events.h)
 *
 * A FIFO is opened for reading and writing: that succeeds without a reader, and the bytes stay
 * until there is one.
 *
 * Owns:   the descriptor. Trusts: nothing; a reader that is slow, or gone, delays nobody.
 */
#include "control/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "control/grammar.h"

struct events {
	struct loop *loop;
	int fd;			/* -1: its reader is gone */
	struct loop_source src; /* added while something waits */
	uint64_t start_ns;
	char kept[EVENTS_ROOM];
	size_t nr_kept;
	bool losing;
};

static int open_path(const char *path)
{
	struct stat st;
	int mode = O_WRONLY | O_APPEND | O_CREAT;

	if (!stat(path, &st) && S_ISFIFO(st.st_mode))
		mode = O_RDWR;
	return open(path, mode | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600);
}

static int take_fd(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -1;
	if ((flags & O_ACCMODE) == O_RDONLY) {
		errno = EBADF;
		return -1;
	}
	return fd;
}

int events_new(struct loop *loop, const struct endpoint_config *where, struct events **out,
	struct err *err)
{
	struct events *e = calloc(1, sizeof(*e));

	if (!e)
		return err_set(err, -ENOMEM, "--event-monitor: out of memory");
	e->loop = loop;
	e->start_ns = clock_now_ns();
	e->fd = where->path ? open_path(where->path) : take_fd((int)where->fd);
	if (e->fd < 0) {
		int rc = -errno;

		free(e);
		if (where->path)
			return err_set(err, rc, "--event-monitor: %s: %s",
				grammar_show(where->path).text, strerror(-rc));
		return err_set(err, rc,
			"--event-monitor: fd: expected a descriptor to write to, got %u",
			where->fd);
	}
	*out = e;
	return 0;
}

void events_free(struct events *e)
{
	if (!e)
		return;
	loop_del(&e->src);
	fd_close(&e->fd);
	free(e);
}

static void give_up(struct events *e, const char *why)
{
	log_warn("--event-monitor: %s: no more events are told", why);
	loop_del(&e->src);
	fd_close(&e->fd);
	e->nr_kept = 0;
}

static void write_kept(struct events *e)
{
	while (e->nr_kept) {
		ssize_t n = write(e->fd, e->kept, e->nr_kept);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			give_up(e, n ? strerror(errno) : "nothing can be written");
			return;
		}
		e->nr_kept -= (size_t)n;
		memmove(e->kept, e->kept + n, e->nr_kept);
	}
	e->losing = false;
}

static void on_writable(struct loop_source *src, uint32_t events)
{
	struct events *e = container_of(src, struct events, src);

	if (events & (EPOLLERR | EPOLLHUP)) {
		give_up(e, "the reader is gone");
		return;
	}
	write_kept(e);
	if (!e->nr_kept)
		loop_del(&e->src);
}

void events_tell(struct events *e, const char *source, const char *event)
{
	uint64_t since;
	size_t room;
	int n;

	if (!e || e->fd < 0)
		return;
	since = clock_now_ns() - e->start_ns;
	room = sizeof(e->kept) - e->nr_kept;
	n = snprintf(e->kept + e->nr_kept, room,
		"{\"timestamp\":{\"secs\":%llu,\"nanos\":%llu},\"source\":\"%s\","
		"\"event\":\"%s\",\"properties\":null}\n",
		(unsigned long long)(since / NS_PER_S), (unsigned long long)(since % NS_PER_S),
		source, event);
	if (n < 0 || (size_t)n >= room) {
		if (!e->losing)
			log_warn("--event-monitor: nobody reads: events are lost");
		e->losing = true;
		return;
	}
	e->nr_kept += (size_t)n;
	write_kept(e);
	/* A file or terminal that cannot be watched is tried again with the next event. */
	if (e->nr_kept && !e->src.loop)
		loop_add(e->loop, &e->src, e->fd, EPOLLOUT, on_writable);
}
