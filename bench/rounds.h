/*
 * rounds.h - what the measuring clients have in common: options, timing, the line they print
 *
 *   CLIENT --socket-path=PATH --op=read|posted|sync [--rounds=N] [--warm-up=N] [--cpu=N]
 *
 *   read    one round is one REGION_READ of a byte of the card's registers
 *   posted  16 writes that want no reply, then one such read
 *   sync    16 writes that wait for their reply, then one such read
 *
 * --cpu pins the thread that measures, when everything has been set up, and no other.
 */
#ifndef BENCH_ROUNDS_H
#define BENCH_ROUNDS_H

#include <stdint.h>

#define ROUNDS_WRITES 16

enum rounds_op { ROUNDS_READ, ROUNDS_POSTED, ROUNDS_SYNC };

struct rounds {
	const char *socket_path;
	enum rounds_op op;
	unsigned long nr, warm_up;
	int cpu; /* -1: not pinned */
};

/* Fill *r from the command line, or end the process with status 2. */
void rounds_options(int argc, char **argv, struct rounds *r);

/* How a client reads and writes one byte at CARD_REGISTER. 0 or -errno. */
struct rounds_ops {
	int (*read)(void *arg, uint8_t *value);
	int (*post)(void *arg, uint8_t value);
	int (*write)(void *arg, uint8_t value);
};

/*
 * Run the rounds on the calling thread and print, for one round,
 *
 *   {"usual_ns": ..., "mean_ns": ..., "p50_ns": ..., "p99_ns": ...}
 *
 * usual_ns is the mean of the fastest nine tenths: a round in which somebody else had the CPU does
 * not count, one in three that had to sleep does. The exit status of the program: 0, or 1 with a
 * line on stderr.
 */
int rounds_run(const struct rounds *r, const struct rounds_ops *ops, void *arg);

#endif
