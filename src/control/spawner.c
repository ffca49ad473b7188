/*
 * spawner.c - the process that starts device processes
 *
 * Two ends of one SOCK_SEQPACKET pair. Down go struct ask messages (start: arguments and
 * descriptors; stop), up come struct told messages (a program ended). A datagram is whole or
 * not there, so neither end ever waits for the rest of one.
 *
 * The spawning process has one thread, a poll() over the socket and a signalfd, and a
 * table of programs. Its end and the VMM's are the same event: when the socket hangs up it
 * kills what runs and ends. A program asks the kernel to be killed with the
 * spawning process (PR_SET_PDEATHSIG), so nothing is left when that one is killed.
 *
 * Trusts: both ends are this program's own; sizes are checked all the same.
 */
#include "control/spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"

enum { ASK_START = 1, ASK_STOP };
enum { EXIT_NOT_STARTED = 127 };
/* How long a program may take over its end. */
enum { GRACE_MS = 2000 };

struct ask {
	uint32_t kind;
	uint32_t id;
	uint32_t start_nr; /* of this id, from 1 */
	uint32_t argc;
	char args[SPAWN_MAX_TEXT]; /* argc texts, each with its NUL */
};
#define ASK_HEAD offsetof(struct ask, args)

struct told {
	uint32_t id;
	uint32_t start_nr;
	int32_t status;
	uint32_t stopped; /* the VMM has stopped it: what it held is free */
};

/* --- the spawning process --- */

struct program {
	struct program *next;
	uint32_t id;
	uint32_t start_nr;
	pid_t pid; /* 0: does not run */
	uint64_t kill_at_ns; /* it was asked to end, and has until then; 0: it was not */
	bool stopped;	     /* the VMM does not want it any more */
	/* To be started as soon as the one before is gone. */
	struct ask *waiting;
	size_t waiting_len;
	struct fd_list waiting_fds;
};

struct spawning {
	int sock;
	int signals;
	struct program *programs;
	struct ask ask; /* as received */
};

static void tell(const struct spawning *sp, const struct program *p, int status)
{
	struct told t = { p->id, p->start_nr, status, p->stopped };

	/* A VMM that does not listen is gone, or has thousands of these to read first. */
	if (send(sp->sock, &t, sizeof(t), MSG_NOSIGNAL) < 0)
		return;
}

static int split_args(struct ask *ask, size_t len, char **argv, size_t max)
{
	char *at = ask->args, *end = (char *)ask + len;

	if (!ask->argc || ask->argc >= max)
		return -EINVAL;
	for (uint32_t i = 0; i < ask->argc; i++) {
		char *nul = at < end ? memchr(at, '\0', (size_t)(end - at)) : NULL;

		if (!nul)
			return -EINVAL;
		argv[i] = at;
		at = nul + 1;
	}
	argv[ask->argc] = NULL;
	return 0;
}

/* Bring the descriptors to their places: first out of the way of these, then down. */
static int place_fds(struct fd_list *list)
{
	for (int i = 0; i < list->nr; i++) {
		int high = fcntl(list->fds[i], F_DUPFD, SPAWN_FIRST_FD + list->nr);

		if (high < 0)
			return -errno;
		list->fds[i] = high;
	}
	for (int i = 0; i < list->nr; i++)
		if (dup2(list->fds[i], SPAWN_FIRST_FD + i) < 0)
			return -errno;
	close_range((unsigned)(SPAWN_FIRST_FD + list->nr), ~0u, 0);
	return 0;
}

static void __attribute__((noreturn)) become(struct ask *ask, size_t len, struct fd_list *fds,
	pid_t parent)
{
	char *argv[256];
	sigset_t none;
	int null, rc;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_NOT_STARTED);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0)
		_exit(EXIT_NOT_STARTED);
	rc = split_args(ask, len, argv, ARRAY_SIZE(argv));
	if (!rc)
		rc = place_fds(fds);
	if (!rc) {
		execv(argv[0], argv);
		rc = -errno;
	}
	dprintf(STDERR_FILENO, "outboard: cannot start %s: %s\n", ask->args, strerror(-rc));
	_exit(EXIT_NOT_STARTED);
}

static void start_waiting(struct spawning *sp, struct program *p)
{
	pid_t self = getpid();

	p->start_nr = p->waiting->start_nr;
	p->pid = fork();
	if (!p->pid)
		become(p->waiting, p->waiting_len, &p->waiting_fds, self);
	if (p->pid < 0) {
		p->pid = 0;
		tell(sp, p, EXIT_NOT_STARTED << 8);
	}
	fd_list_close(&p->waiting_fds);
	free(p->waiting);
	p->waiting = NULL;
}

static bool any_ending(const struct spawning *sp)
{
	for (const struct program *p = sp->programs; p; p = p->next)
		if (p->stopped && p->pid)
			return true;
	return false;
}

/* Those of the last machine may still be at work on what the next one's want. */
static void start_all_waiting(struct spawning *sp)
{
	if (any_ending(sp))
		return;
	for (struct program *p = sp->programs; p; p = p->next)
		if (p->waiting && !p->pid)
			start_waiting(sp, p);
}

static struct program *program_of(struct spawning *sp, uint32_t id)
{
	struct program *p;

	for (p = sp->programs; p; p = p->next)
		if (p->id == id)
			return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->id = id;
	p->next = sp->programs;
	sp->programs = p;
	return p;
}

static void forget(struct spawning *sp, struct program *p)
{
	struct program **link = &sp->programs;

	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
	free(p);
}

static void drop_waiting(struct program *p)
{
	if (!p->waiting)
		return;
	fd_list_close(&p->waiting_fds);
	free(p->waiting);
	p->waiting = NULL;
}

static void take_start(struct spawning *sp, const struct ask *ask, size_t len, struct fd_list *fds)
{
	struct program *p = program_of(sp, ask->id);

	if (!p)
		return;
	drop_waiting(p);
	p->waiting = malloc(len);
	if (!p->waiting) {
		p->start_nr = ask->start_nr;
		tell(sp, p, EXIT_NOT_STARTED << 8);
		return;
	}
	memcpy(p->waiting, ask, len);
	p->waiting_len = len;
	p->waiting_fds = *fds;
	fds->nr = 0;
	if (p->pid)
		kill(p->pid, SIGKILL);
	start_all_waiting(sp);
}

static void ask_to_end(struct program *p)
{
	kill(p->pid, SIGTERM);
	p->kill_at_ns = clock_now_ns() + GRACE_MS * 1000000ull;
}

static void take_stop(struct spawning *sp, uint32_t id)
{
	struct program *p = program_of(sp, id);

	if (!p) {
		tell(sp, &(struct program){ .id = id, .stopped = true }, 0);
		return;
	}
	drop_waiting(p);
	p->stopped = true;
	if (p->pid) {
		ask_to_end(p);
	} else {
		tell(sp, p, 0);
		forget(sp, p);
	}
}

/* False: the VMM is gone. */
static bool take_ask(struct spawning *sp)
{
	struct fd_list fds = { .nr = 0 };
	struct ask *ask = &sp->ask;
	ssize_t n = sock_recv(sp->sock, ask, sizeof(*ask), &fds);

	if (n == -EAGAIN || n == -EINTR)
		return true;
	if (n <= 0)
		return false;
	if ((size_t)n >= ASK_HEAD && ask->kind == ASK_START)
		take_start(sp, ask, (size_t)n, &fds);
	else if ((size_t)n >= ASK_HEAD && ask->kind == ASK_STOP)
		take_stop(sp, ask->id);
	fd_list_close(&fds);
	return true;
}

static void reap(struct spawning *sp)
{
	struct signalfd_siginfo info;
	struct program *p;
	int status;
	pid_t pid;

	while (read(sp->signals, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (p = sp->programs; p && p->pid != pid; p = p->next)
			;
		if (!p)
			continue;
		p->pid = 0;
		p->kill_at_ns = 0;
		tell(sp, p, status);
		if (p->stopped)
			forget(sp, p);
	}
	start_all_waiting(sp);
}

/* Kill who took too long. How long poll() may wait for the next of them; -1: there is none. */
static int kill_overdue(struct spawning *sp)
{
	uint64_t now = clock_now_ns(), next = UINT64_MAX;

	for (struct program *p = sp->programs; p; p = p->next) {
		if (p->kill_at_ns && p->kill_at_ns <= now) {
			kill(p->pid, SIGKILL);
			p->kill_at_ns = 0;
		}
		if (p->kill_at_ns)
			next = MIN(next, p->kill_at_ns);
	}
	return next == UINT64_MAX ? -1 : (int)((next - now) / 1000000 + 1);
}

static bool any_runs(const struct spawning *sp)
{
	for (const struct program *p = sp->programs; p; p = p->next)
		if (p->pid)
			return true;
	return false;
}

/* The VMM is gone. Who was connected to it has noticed too, and may finish what it has begun. */
static void end_all(struct spawning *sp)
{
	struct pollfd fd = { .fd = sp->signals, .events = POLLIN };

	for (struct program *p = sp->programs; p; p = p->next) {
		drop_waiting(p);
		if (p->pid)
			ask_to_end(p);
	}
	while (any_runs(sp)) {
		if (poll(&fd, 1, kill_overdue(sp)) > 0)
			reap(sp);
	}
}

static void __attribute__((noreturn)) spawn_for_life(int sock)
{
	struct spawning *sp = calloc(1, sizeof(*sp));
	struct pollfd fds[2];
	sigset_t set;

	setsid(); /* what a terminal sends to the VMM's group is the VMM's to deal with */
	prctl(PR_SET_NAME, "outboard-spawn");
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (!sp)
		_exit(1);
	sp->sock = sock;
	sp->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (sp->signals < 0)
		_exit(1);
	fds[0] = (struct pollfd){ .fd = sock, .events = POLLIN };
	fds[1] = (struct pollfd){ .fd = sp->signals, .events = POLLIN };
	do {
		if (fds[1].revents)
			reap(sp);
		if (fds[0].revents && !take_ask(sp))
			break;
	} while (poll(fds, ARRAY_SIZE(fds), kill_overdue(sp)) >= 0 || errno == EINTR);
	end_all(sp);
	_exit(0);
}

/* --- the VMM's side --- */

struct spawner {
	struct loop *loop;
	struct loop_source source;
	int sock;
	pid_t pid;
	uint32_t last_id;
	struct spawned *children;
	unsigned nr_ending; /* stopped, and not ended yet as far as we were told */
	void (*all_ended)(void *arg);
	void *all_ended_arg;
	struct ask ask; /* under construction */
};

static struct spawned *child_of(struct spawner *s, const struct told *t)
{
	for (struct spawned *c = s->children; c; c = c->next)
		if (c->id == t->id)
			return c;
	return NULL;
}

static void unlink_child(struct spawner *s, struct spawned *child)
{
	struct spawned **link = &s->children;

	while (*link && *link != child)
		link = &(*link)->next;
	if (*link)
		*link = child->next;
}

static void none_is_ending(struct spawner *s)
{
	void (*fn)(void *arg) = s->all_ended;

	s->nr_ending = 0;
	s->all_ended = NULL;
	if (fn)
		fn(s->all_ended_arg);
}

static void lost(struct spawner *s)
{
	log_err("the process that starts device processes is gone: none can be started any more");
	loop_del(&s->source);
	fd_close(&s->sock);
	none_is_ending(s);
}

static void on_told(struct loop_source *src, uint32_t events)
{
	struct spawner *s = container_of(src, struct spawner, source);
	struct told t;
	struct spawned *child;
	ssize_t n = recv(s->sock, &t, sizeof(t), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != sizeof(t)) {
		lost(s);
		return;
	}
	child = child_of(s, &t);
	if (child)
		child->ended(child, t.start_nr, t.status);
	if (t.stopped && s->nr_ending && !--s->nr_ending)
		none_is_ending(s);
}

int spawner_new(struct loop *loop, struct spawner **out, struct err *err)
{
	struct spawner *s = calloc(1, sizeof(*s));
	int pair[2], rc;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		rc = err_set(err, -errno, "socketpair: %s", strerror(errno));
		goto free_s;
	}
	s->pid = fork();
	if (s->pid < 0) {
		rc = err_set(err, -errno, "fork: %s", strerror(errno));
		goto close_pair;
	}
	if (!s->pid) {
		int sock = dup2(pair[1], SPAWN_FIRST_FD);

		close_range(SPAWN_FIRST_FD + 1, ~0u, 0);
		if (sock < 0 || fcntl(sock, F_SETFD, FD_CLOEXEC) < 0)
			_exit(1);
		spawn_for_life(sock);
	}
	close(pair[1]);
	s->sock = pair[0];
	s->loop = loop;
	rc = loop_add(loop, &s->source, s->sock, EPOLLIN, on_told);
	if (rc) {
		err_set(err, rc, "event loop: %s", strerror(-rc));
		spawner_free(s);
		return rc;
	}
	*out = s;
	return 0;
close_pair:
	close(pair[0]);
	close(pair[1]);
free_s:
	free(s);
	return rc;
}

void spawner_free(struct spawner *s)
{
	if (!s)
		return;
	loop_del(&s->source);
	fd_close(&s->sock);
	while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
		;
	free(s);
}

static int send_ask(struct spawner *s, size_t len, const int *fds, unsigned nr_fds)
{
	struct iovec iov = { &s->ask, len };
	ssize_t n;

	if (s->sock < 0)
		return -EPIPE;
	n = sock_send(s->sock, &iov, 1, fds, (int)nr_fds);
	return n < 0 ? (int)n : 0;
}

static int put_args(struct ask *ask, const char *const *argv, size_t *len)
{
	size_t used = 0;

	ask->argc = 0;
	for (; argv[ask->argc]; ask->argc++) {
		size_t n = strlen(argv[ask->argc]) + 1;

		if (n > sizeof(ask->args) - used)
			return -E2BIG;
		memcpy(ask->args + used, argv[ask->argc], n);
		used += n;
	}
	*len = ASK_HEAD + used;
	return 0;
}

int spawner_start(struct spawner *s, struct spawned *child, const char *const *argv,
	const int *fds, unsigned nr_fds)
{
	size_t len;
	int rc = nr_fds > SPAWN_MAX_FDS ? -E2BIG : put_args(&s->ask, argv, &len);

	if (rc)
		return rc;
	if (!child->id) {
		child->id = ++s->last_id;
		child->next = s->children;
		s->children = child;
	}
	s->ask.kind = ASK_START;
	s->ask.id = child->id;
	s->ask.start_nr = ++child->starts;
	return send_ask(s, len, fds, nr_fds);
}

void spawner_stop(struct spawner *s, struct spawned *child)
{
	int rc;

	if (!child->id)
		return;
	s->ask.kind = ASK_STOP;
	s->ask.id = child->id;
	s->ask.argc = 0;
	rc = send_ask(s, ASK_HEAD, NULL, 0);
	if (!rc)
		s->nr_ending++;
	else if (rc == -EAGAIN)
		log_warn("a device process could not be ended; it ends with the VMM");
	unlink_child(s, child);
	child->id = 0;
}

bool spawner_ending(const struct spawner *s)
{
	return s->nr_ending;
}

void spawner_when_ended(struct spawner *s, void (*fn)(void *arg), void *arg)
{
	s->all_ended = fn;
	s->all_ended_arg = arg;
}

int spawner_sibling(const char *name, char *buf, size_t size)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n < 0)
		return -errno;
	self[n] = '\0';
	return (size_t)snprintf(buf, size, "%s/%s", dirname(self), name) < size ? 0 : -ENAMETOOLONG;
}
