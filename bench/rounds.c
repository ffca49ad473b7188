/*
 * rounds.c - time many rounds of one kind
 *
 * Every round's time is kept, so that what the mean hides can be seen; the clock is read once a
 * round, which costs all clients the same. Each write carries another value, and the read behind
 * it must return the last one: a server that did not do the work is not fast but wrong.
 */
#include "rounds.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "marker.h"

static const char *const op_names[] = { "read", "posted", "sync" };

static void usage(void)
{
	fputs("usage: CLIENT --socket-path=PATH --op=read|posted|sync [--rounds=N] [--warm-up=N] "
	      "[--cpu=N]\n",
		stderr);
	exit(2);
}

static enum rounds_op parse_op(const char *name)
{
	for (int i = 0; i < 3; i++)
		if (!strcmp(name, op_names[i]))
			return (enum rounds_op)i;
	usage();
	return ROUNDS_READ;
}

void rounds_options(int argc, char **argv, struct rounds *r)
{
	static const struct option options[] = {
		{ "socket-path", required_argument, NULL, 's' },
		{ "op", required_argument, NULL, 'o' },
		{ "rounds", required_argument, NULL, 'n' },
		{ "warm-up", required_argument, NULL, 'w' },
		{ "cpu", required_argument, NULL, 'c' },
		{ 0 },
	};
	int opt;

	*r = (struct rounds){ .nr = 20000, .warm_up = 1000, .cpu = -1 };
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			r->socket_path = optarg;
			break;
		case 'o':
			r->op = parse_op(optarg);
			break;
		case 'n':
			r->nr = strtoul(optarg, NULL, 10);
			break;
		case 'w':
			r->warm_up = strtoul(optarg, NULL, 10);
			break;
		case 'c':
			r->cpu = atoi(optarg);
			break;
		default:
			usage();
		}
	}
	if (!r->socket_path || !r->nr || optind != argc)
		usage();
}

static int pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return 0;
	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

static int one_round(
	const struct rounds *r, const struct rounds_ops *ops, void *arg, uint8_t *written)
{
	uint8_t got;
	int rc = 0;

	for (int i = 0; i < ROUNDS_WRITES && r->op != ROUNDS_READ && !rc; i++)
		rc = (r->op == ROUNDS_POSTED ? ops->post : ops->write)(arg, ++*written);
	if (!rc)
		rc = ops->read(arg, &got);
	if (!rc && got != *written)
		rc = -EBADMSG;
	return rc;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double mean_of(const uint64_t *took, unsigned long nr)
{
	double sum = 0;

	for (unsigned long i = 0; i < nr; i++)
		sum += (double)took[i];
	return sum / (double)nr;
}

static int time_rounds(const struct rounds *r, const struct rounds_ops *ops, void *arg,
	uint64_t *took, uint64_t *total)
{
	uint8_t written = 0;
	uint64_t begin, last, now;
	int rc = ops->write(arg, written);

	for (unsigned long i = 0; i < r->warm_up && !rc; i++)
		rc = one_round(r, ops, arg, &written);
	MARKER(MARK_BEGIN);
	begin = last = clock_now_ns();
	for (unsigned long i = 0; i < r->nr && !rc; i++) {
		rc = one_round(r, ops, arg, &written);
		now = clock_now_ns();
		took[i] = now - last;
		last = now;
	}
	MARKER(MARK_END);
	*total = last - begin;
	return rc;
}

int rounds_run(const struct rounds *r, const struct rounds_ops *ops, void *arg)
{
	uint64_t *took = calloc(r->nr, sizeof(*took)), total = 0;
	int rc = took ? pin(r->cpu) : -ENOMEM;

	if (!rc) {
		memset(took, 0xff,
			r->nr * sizeof(*took)); /* its pages are there before the first round */
		rc = time_rounds(r, ops, arg, took, &total);
	}
	if (rc) {
		fprintf(stderr, "rounds of %s: %s\n", op_names[r->op],
			rc == -EBADMSG ? "read back something else than was written"
				       : strerror(-rc));
		free(took);
		return 1;
	}
	qsort(took, r->nr, sizeof(*took), by_size);
	printf("{\"usual_ns\": %.1f, \"mean_ns\": %.1f, \"p50_ns\": %llu, \"p99_ns\": %llu}\n",
		mean_of(took, (r->nr * 9 + 9) / 10), (double)total / (double)r->nr,
		(unsigned long long)took[r->nr / 2], (unsigned long long)took[r->nr * 99 / 100]);
	free(took);
	return 0;
}
