/*
 * supervisor.c - device processes that belong to a machine: started, and started again
 *
 * The front-end drives everything: it connects, loses the connection, connects again. Here is only
 * what a connection means for a process of ours, and when it is enough.
 *
 * Owns: arguments and descriptors for the next start, the process while it runs.
 */
#include "control/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/sock.h"
#include "base/util.h"

#define PROGRAM "outboard-device"

/* So many deaths within so long are too many. */
enum { MAX_DEATHS = 5 };
#define DEATHS_WITHIN_NS (10 * NS_PER_S)
/* How long the end of the first process is waited for: how it ended says whether to try again. */
#define FIRST_END_NS NS_PER_S

struct supervised {
	struct vhost_user_source source;
	struct spawner *spawner;
	struct spawned process;
	char *id;
	char **argv; /* NULL-terminated */
	int *fds;    /* the first is the connection's place */
	unsigned nr_fds;

	uint64_t first_ns; /* when the first was started; 0: not yet */
	uint64_t first_lost_ns; /* when it was asked for another; 0: not yet */
	bool first_ended;
	uint64_t deaths_ns[MAX_DEATHS + 1]; /* the latest, as a ring */
	unsigned nr_deaths;
	struct err given_up;
};

static bool too_many_deaths(const struct supervised *s)
{
	uint64_t oldest;

	if (s->nr_deaths <= MAX_DEATHS)
		return false;
	oldest = s->deaths_ns[s->nr_deaths % ARRAY_SIZE(s->deaths_ns)];
	return clock_now_ns() - oldest < DEATHS_WITHIN_NS;
}

static void say_how(int status, char *buf, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(buf, size, "its process was killed by signal %d (%s)", WTERMSIG(status),
			strsignal(WTERMSIG(status)));
	else
		snprintf(buf, size, "its process ended with status %d", WEXITSTATUS(status));
}

static void on_ended(struct spawned *process, uint32_t start, int status)
{
	struct supervised *s = container_of(process, struct supervised, process);
	uint64_t now = clock_now_ns();
	char how[120];

	s->first_ended = true;
	say_how(status, how, sizeof(how));
	s->deaths_ns[s->nr_deaths++ % ARRAY_SIZE(s->deaths_ns)] = now;
	if (start == 1 && WIFEXITED(status) && WEXITSTATUS(status) &&
		now - s->first_ns < DEATHS_WITHIN_NS)
		err_set(&s->given_up, -ECANCELED, "%s before it served", how);
	else if (too_many_deaths(s))
		err_set(&s->given_up, -ECANCELED,
			"%s, the %dth time within %d s: it is not started again", how,
			MAX_DEATHS + 1, (int)(DEATHS_WITHIN_NS / NS_PER_S));
	else
		log_warn("%s: %s", s->id, how);
}

/*
 * The connection is lost a moment before the process has ended. To kill it then would hide that it
 * could not begin.
 */
static bool first_is_ending(struct supervised *s)
{
	uint64_t now = clock_now_ns();

	if (!s->first_ns || s->first_ended || now - s->first_ns > DEATHS_WITHIN_NS)
		return false;
	if (!s->first_lost_ns)
		s->first_lost_ns = now;
	return now - s->first_lost_ns < FIRST_END_NS;
}

static int connect_to_new(struct vhost_user_source *source, struct err *err)
{
	struct supervised *s = container_of(source, struct supervised, source);
	int pair[2], rc;

	if (s->given_up.text[0]) {
		*err = s->given_up;
		return -ECANCELED;
	}
	if (first_is_ending(s))
		return err_set(err, -EAGAIN, "its process has not ended yet");
	rc = sock_pair(pair);
	if (rc)
		return err_set(err, rc, "socketpair: %s", strerror(-rc));
	s->fds[0] = pair[1];
	rc = spawner_start(
		s->spawner, &s->process, (const char *const *)s->argv, s->fds, s->nr_fds);
	close(pair[1]);
	if (!rc && fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0)
		rc = -errno;
	if (rc) {
		close(pair[0]);
		/*
		 * Without the spawner, or with arguments it cannot take, it will not be otherwise.
		 */
		return err_set(err, rc == -EAGAIN ? rc : -ECANCELED,
			"cannot have its process started: %s", strerror(-rc));
	}
	if (!s->first_ns)
		s->first_ns = clock_now_ns();
	return pair[0];
}

static void free_supervised(struct vhost_user_source *source)
{
	struct supervised *s = container_of(source, struct supervised, source);

	spawner_stop(s->spawner, &s->process);
	for (size_t i = 0; s->argv && s->argv[i]; i++)
		free(s->argv[i]);
	free(s->argv);
	for (unsigned i = 1; i < s->nr_fds; i++)
		fd_close(&s->fds[i]);
	free(s->fds);
	free(s->id);
	free(s);
}

/* One more argument; argv stays NULL-terminated. */
static int __attribute__((format(printf, 2, 3))) add_arg(
	struct supervised *s, const char *format, ...)
{
	size_t nr = 0;
	va_list ap;
	int n;

	while (s->argv[nr])
		nr++;
	va_start(ap, format);
	n = vasprintf(&s->argv[nr], format, ap);
	va_end(ap);
	if (n < 0)
		s->argv[nr] = NULL;
	return n < 0 ? -ENOMEM : 0;
}

/* What the process says goes where our own lines go, and is as much. */
static int add_log_args(struct supervised *s, unsigned nr_fds)
{
	int rc = 0;

	if (log_fd() != STDERR_FILENO)
		rc = add_arg(s, "--log-fd=%d", SUPERVISED_FD((int)nr_fds));
	for (enum log_level l = LOG_INFO; !rc && l <= LOG_DEBUG && log_enabled(l); l++)
		rc = add_arg(s, "--verbose");
	return rc;
}

/* The program's path, the caller's arguments, where the connection and the log are. */
static int copy_args(struct supervised *s, const struct supervised_params *p, struct err *err)
{
	const size_t own = 6; /* path, --fd, --name, --log-fd, --verbose twice */
	char path[PATH_MAX];
	size_t nr = 0;
	int rc = spawner_sibling(PROGRAM, path, sizeof(path));

	if (rc)
		return err_set(err, rc, "%s: %s", PROGRAM, strerror(-rc));
	while (p->args[nr])
		nr++;
	s->argv = calloc(nr + own + 1, sizeof(*s->argv));
	rc = s->argv ? add_arg(s, "%s", path) : -ENOMEM;
	for (size_t i = 0; !rc && i < nr; i++) {
		rc = add_arg(s, "%s", p->args[i]);
		/* Behind the model: what its lines begin with. */
		if (!rc && i == 0)
			rc = add_arg(s, "--name=%s", s->id);
	}
	if (!rc)
		rc = add_arg(s, "--fd=%d", SPAWN_FIRST_FD);
	if (!rc)
		rc = add_log_args(s, p->nr_fds);
	return rc ? err_set(err, rc, "out of memory") : 0;
}

static int keep_fd(struct supervised *s, int fd, struct err *err)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0)
		return err_set(err, -errno, "descriptor %d: %s", fd, strerror(errno));
	s->fds[s->nr_fds++] = copy;
	return 0;
}

static int copy_fds(struct supervised *s, const int *fds, unsigned nr, struct err *err)
{
	int rc = 0;

	if (nr + 2 > SPAWN_MAX_FDS)
		return err_set(err, -E2BIG, "expected at most %d descriptors, got %u",
			SPAWN_MAX_FDS - 2, nr);
	s->fds = calloc(nr + 2, sizeof(*s->fds));
	if (!s->fds)
		return err_set(err, -ENOMEM, "out of memory");
	s->fds[s->nr_fds++] = -1;
	for (unsigned i = 0; !rc && i < nr; i++)
		rc = keep_fd(s, fds[i], err);
	if (!rc && log_fd() != STDERR_FILENO)
		rc = keep_fd(s, log_fd(), err);
	return rc;
}

int supervised_source_new(struct spawner *spawner, const struct supervised_params *p,
	struct vhost_user_source **out, struct err *err)
{
	struct supervised *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return err_set(err, -ENOMEM, "out of memory");
	s->source.connect = connect_to_new;
	s->source.free = free_supervised;
	s->process.ended = on_ended;
	s->spawner = spawner;
	s->id = strdup(p->id);
	rc = s->id ? 0 : err_set(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = copy_args(s, p, err);
	if (!rc)
		rc = copy_fds(s, p->fds, p->nr_fds, err);
	if (rc) {
		free_supervised(&s->source);
		return rc;
	}
	*out = &s->source;
	return 0;
}
