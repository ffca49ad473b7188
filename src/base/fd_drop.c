/*
 * fd_drop.c - one list of descriptors that may take their time, and the thread that closes them
 *
 * Behind one that takes for ever the others wait. So do those of all peers, but nobody waits for
 * any of them; what they cost is room in the table of descriptors.
 *
 * Owns:    the descriptors in the list.
 * Threads: "fd-drop" ends when the list is empty. The list is the process's, as its table is.
 * Trusts:  nothing about a descriptor.
 */
#include "base/fd_drop.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct waiting {
	int fd;
	struct waiting *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct waiting *list;
static bool has_thread;

/* /dev/null and its like */
#define MEM_DEVICES 1

/* SO_LINGER of the other families waits for the network. */
static bool is_local_socket(int fd)
{
	int domain = 0;
	socklen_t len = sizeof(domain);

	return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) && domain == AF_UNIX;
}

/*
 * What peers have a reason to pass: memory, eventfds (which have no type), pipes, sockets, files of
 * file systems that lie on a disk, nothing. The kernel answers from its caches here.
 */
static bool is_quick(int fd)
{
	struct statx st;

	if (fcntl(fd, F_GET_SEALS) >= 0)
		return true;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st))
		return false;
	switch (st.stx_mode & S_IFMT) {
	case 0:
	case S_IFIFO:
		return true;
	case S_IFSOCK:
		return is_local_socket(fd);
	case S_IFREG:
		return st.stx_dev_major;
	case S_IFCHR:
		return st.stx_rdev_major == MEM_DEVICES;
	}
	return false;
}

static struct waiting *next(void)
{
	struct waiting *w;

	pthread_mutex_lock(&lock);
	w = list;
	if (w)
		list = w->next;
	else
		has_thread = false;
	pthread_mutex_unlock(&lock);
	return w;
}

static void *close_all(void *arg)
{
	struct waiting *w;

	pthread_setname_np(pthread_self(), "fd-drop");
	while ((w = next())) {
		close(w->fd);
		free(w);
	}
	return NULL;
}

/* Without one the list waits for the next descriptor. Lock held. */
static void make_thread(void)
{
	sigset_t all, before;
	pthread_t thread;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	has_thread = !pthread_create(&thread, NULL, close_all, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (has_thread)
		pthread_detach(thread);
}

void fd_drop(int fd)
{
	struct waiting *w;

	if (fd < 0)
		return;
	if (is_quick(fd)) {
		close(fd);
		return;
	}
	w = malloc(sizeof(*w));
	/* It stays open, which is the lesser evil. */
	if (!w)
		return;
	pthread_mutex_lock(&lock);
	*w = (struct waiting){ .fd = fd, .next = list };
	list = w;
	if (!has_thread)
		make_thread();
	pthread_mutex_unlock(&lock);
}

void fd_drop_list(struct fd_list *fds)
{
	while (fds->nr)
		fd_drop(fds->fds[--fds->nr]);
}

void fd_list_move(struct fd_list *to, struct fd_list *from)
{
	while (from->nr && to->nr < SOCK_MAX_FDS)
		to->fds[to->nr++] = fd_list_take(from);
	fd_drop_list(from);
}
