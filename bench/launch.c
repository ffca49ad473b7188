/*
 * launch.c - start a command and print what it cost
 *
 *   launch [--runs=N] [--until=TEXT [--ram=NAME]] [--timeout=SECONDS] -- COMMAND [ARG...]
 *
 * Each run prints one line of JSON: wall time and CPU time of the process from exec to its end.
 *
 * With --until the process is ended as soon as its output shows TEXT; "text_ns" is when that was,
 * and "private_kib" the memory that it then had for itself alone: private pages, clean and dirty,
 * of all mappings but those whose name holds NAME, which are the guest's RAM.
 *
 * The last thing before exec is a marker (marker.h), so that an emulator can count instructions
 * from there.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "marker.h"

struct launch {
	unsigned long runs;
	const char *until, *ram;
	uint64_t timeout_ns;
	char **command;
};

struct run {
	pid_t pid;
	int out; /* the read end of its output */
	uint64_t start_ns, text_ns;
	char tail[65536]; /* the end of what it printed */
	size_t nr_tail;
};

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *fmt, ...)
{
	va_list ap;

	fputs("launch: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

static void start(const struct launch *l, struct run *r)
{
	int out[2], null = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (null < 0 || pipe2(out, O_CLOEXEC))
		die("%s", strerror(errno));
	r->out = out[0];
	r->nr_tail = 0;
	r->text_ns = 0;
	r->start_ns = clock_now_ns();
	/* vfork: the child's account then holds nothing of ours but these few calls. */
	r->pid = vfork();
	if (!r->pid) {
		dup2(null, 0);
		dup2(out[1], 1);
		MARKER(MARK_BEGIN);
		execvp(l->command[0], l->command);
		_exit(127);
	}
	if (r->pid < 0)
		die("vfork: %s", strerror(errno));
	close(null);
	close(out[1]);
}

/* Does the output show the text? The end of it is kept, for a text that comes in two parts. */
static bool shows(struct run *r, const char *text)
{
	if (memmem(r->tail, r->nr_tail, text, strlen(text)))
		return true;
	if (r->nr_tail > sizeof(r->tail) / 2) {
		memmove(r->tail, r->tail + r->nr_tail - 4096, 4096);
		r->nr_tail = 4096;
	}
	return false;
}

/* Until the text, or the end of the output. False: the time is over. */
static bool follow(const struct launch *l, struct run *r)
{
	uint64_t deadline = r->start_ns + l->timeout_ns;

	for (;;) {
		struct pollfd p = { .fd = r->out, .events = POLLIN };
		int n = poll(&p, 1, clock_ms_until(deadline));
		ssize_t got;

		if (!n)
			return false;
		got = read(r->out, r->tail + r->nr_tail, sizeof(r->tail) - r->nr_tail);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return true;
		r->nr_tail += (size_t)got;
		if (shows(r, l->until ? l->until : "\n") && l->until) {
			r->text_ns = clock_now_ns() - r->start_ns;
			return true;
		}
		if (!l->until)
			r->nr_tail = 0;
	}
}

/* KiB of private pages outside the guest's RAM; -1: cannot be read. */
static long private_kib(pid_t pid, const char *ram)
{
	bool skip = false;
	char path[64], line[4096];
	long sum = 0, kib;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f)) {
		/* A mapping's first line begins with its address, in lower case; the others with a
		 * name. */
		if (strchr("0123456789abcdef", line[0]))
			skip = ram && strstr(line, ram);
		else if (!skip && (sscanf(line, "Private_Clean: %ld", &kib) == 1 ||
					  sscanf(line, "Private_Dirty: %ld", &kib) == 1))
			sum += kib;
	}
	fclose(f);
	return sum;
}

static double milliseconds(struct timeval t)
{
	return (double)t.tv_sec * 1e3 + (double)t.tv_usec / 1e3;
}

static void run_once(const struct launch *l, struct run *r)
{
	long kib = -1;
	struct rusage usage;
	int status;
	bool in_time;

	start(l, r);
	in_time = follow(l, r);
	if (r->text_ns)
		kib = private_kib(r->pid, l->ram);
	if (!in_time || r->text_ns)
		kill(r->pid, SIGKILL);
	if (wait4(r->pid, &status, 0, &usage) < 0)
		die("wait4: %s", strerror(errno));
	close(r->out);
	if (!in_time)
		die("%s: not done after %llu s; its last output:\n%.*s", l->command[0],
			(unsigned long long)(l->timeout_ns / NS_PER_S), (int)r->nr_tail, r->tail);
	if (l->until ? !r->text_ns : !WIFEXITED(status) || WEXITSTATUS(status))
		die("%s: ended too early (status 0x%x); its last output:\n%.*s", l->command[0],
			status, (int)r->nr_tail, r->tail);
	printf("{\"wall_ms\": %.3f, \"user_ms\": %.3f, \"system_ms\": %.3f, \"text_ms\": %.3f, "
	       "\"private_kib\": %ld, \"max_rss_kib\": %ld}\n",
		(double)(clock_now_ns() - r->start_ns) / 1e6, milliseconds(usage.ru_utime),
		milliseconds(usage.ru_stime), (double)r->text_ns / 1e6, kib, usage.ru_maxrss);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "runs", required_argument, NULL, 'n' },
		{ "until", required_argument, NULL, 'u' },
		{ "ram", required_argument, NULL, 'r' },
		{ "timeout", required_argument, NULL, 't' },
		{ 0 },
	};
	struct launch l = { .runs = 1, .timeout_ns = 120 * NS_PER_S };
	static struct run r;
	int opt;

	while ((opt = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (opt) {
		case 'n':
			l.runs = strtoul(optarg, NULL, 10);
			break;
		case 'u':
			l.until = optarg;
			break;
		case 'r':
			l.ram = optarg;
			break;
		case 't':
			l.timeout_ns = strtoul(optarg, NULL, 10) * NS_PER_S;
			break;
		default:
			return 2;
		}
	}
	l.command = argv + optind;
	if (!*l.command)
		die("no command");
	while (l.runs--)
		run_once(&l, &r);
	return 0;
}
