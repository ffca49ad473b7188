/*
 * disk_guest.c - the first process of a Linux guest that does nothing but read and write its disk
 *
 * Each pass is a number of requests of 4 KiB, past the page cache, at places that follow no order, with
 * `depth` of them open at a time, and stands between two markers (marker.h). What it took is told
 * in a line of JSON. The last pass waits for a line of input before, so that somebody can look at
 * what the machine does meanwhile, and has no markers.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "marker.h"

#define BLOCK	  4096u
#define BLOCKS	  4096u /* 16 MiB */
#define MAX_DEPTH 32u

static aio_context_t aio;
static int disk;
static uint8_t *buffers;
static struct iocb iocbs[MAX_DEPTH];

static void fail(const char *what)
{
	printf("disk_guest: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	reboot(RB_POWER_OFF);
	exit(EXIT_FAILURE);
}

/* The n-th place: each once before any comes again. */
static uint64_t place(unsigned n)
{
	return (uint64_t)(n * 1789u % BLOCKS) * BLOCK;
}

static void submit(unsigned slot, int op, unsigned n)
{
	struct iocb *io = &iocbs[slot];

	*io = (struct iocb){
		.aio_data = slot,
		.aio_lio_opcode = (uint16_t)op,
		.aio_fildes = (uint32_t)disk,
		.aio_buf = (uintptr_t)(buffers + (size_t)slot * BLOCK),
		.aio_nbytes = BLOCK,
		.aio_offset = (int64_t)place(n),
	};
	if (syscall(SYS_io_submit, aio, 1, &io) != 1)
		fail("io_submit");
}

static void work(int op, unsigned depth, unsigned requests)
{
	struct io_event events[MAX_DEPTH];
	unsigned begun = 0, done = 0;

	while (begun < depth) {
		submit(begun, op, begun);
		begun++;
	}
	while (done < requests) {
		long n = syscall(SYS_io_getevents, aio, 1, depth, events, NULL);

		if (n < 1)
			fail("io_getevents");
		for (long i = 0; i < n; i++) {
			if (events[i].res != BLOCK) {
				errno = (int)-events[i].res;
				fail("a request");
			}
			if (begun < requests)
				submit((unsigned)events[i].data, op, begun++);
		}
		done += (unsigned)n;
	}
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pass(int op, unsigned depth, unsigned requests)
{
	uint64_t begin;

	work(op, depth, requests / 4); /* to warm up */
	begin = now_ns();
	MARKER(MARK_BEGIN);
	work(op, depth, requests);
	MARKER(MARK_END);
	printf("{\"op\": \"%s\", \"depth\": %u, \"requests\": %u, \"ns\": %llu}\n",
		op == IOCB_CMD_PREAD ? "read" : "write", depth, requests,
		(unsigned long long)(now_ns() - begin));
	fflush(stdout);
}

static void watched_pass(unsigned requests)
{
	char line[16];

	printf("{\"watch\": %u}\n", requests);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		fail("no word");
	work(IOCB_CMD_PREAD, 1, requests / 2);
	work(IOCB_CMD_PWRITE, MAX_DEPTH, requests / 2);
	printf("{\"watched\": %u}\n", requests);
	fflush(stdout);
}

static void open_disk(void)
{
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	disk = open("/dev/vda", O_RDWR | O_DIRECT);
	if (disk < 0)
		fail("/dev/vda");
	if (syscall(SYS_io_setup, MAX_DEPTH, &aio))
		fail("io_setup");
	if (posix_memalign((void **)&buffers, BLOCK, (size_t)MAX_DEPTH * BLOCK))
		fail("memory");
	memset(buffers, 0x5a, (size_t)MAX_DEPTH * BLOCK);
}

/* The kernel hands words of its command line on: "requests=N". */
static unsigned requests_of(char **argv)
{
	for (; *argv; argv++)
		if (!strncmp(*argv, "requests=", 9))
			return (unsigned)strtoul(*argv + 9, NULL, 10);
	return 400;
}

int main(int argc, char **argv, char **environment)
{
	unsigned requests = requests_of(environment);

	open_disk();
	for (unsigned depth = 1; depth <= MAX_DEPTH; depth *= MAX_DEPTH) {
		/* Those that were never written are read in no time. */
		work(IOCB_CMD_PWRITE, MAX_DEPTH, BLOCKS);
		pass(IOCB_CMD_PREAD, depth, depth == 1 ? requests : 4 * requests);
		pass(IOCB_CMD_PWRITE, depth, depth == 1 ? requests : 4 * requests);
	}
	watched_pass(4 * requests);
	reboot(RB_POWER_OFF);
	return EXIT_FAILURE;
}
