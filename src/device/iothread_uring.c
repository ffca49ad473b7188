/*
 * iothread_uring.c - the engine of an iothread that stands on io_uring
 *
 * The ring is made disabled, restricted to the operations that are needed here, and enabled by its
 * thread, which is from then on the only one that may submit. io_uring is not subject to seccomp,
 * so the restriction is part of a device's confinement: an openat, for example, fails with EACCES.
 *
 * The submission queue has room for every operation and every watch at once, so taking an entry
 * cannot fail. Completions wait in the kernel until the thread asks (DEFER_TASKRUN), where the
 * kernel can do that: a burst of them is one visit and no interrupt of what the thread is doing.
 *
 * A watch is a multishot poll: each wake-up of the descriptor is a completion, nothing is read and
 * nothing has to be armed again.
 */
#include "device/iothread_priv.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"

/* user_data: a pointer and what it points to */
#define TAG_OP	   0ull
#define TAG_WATCH  1ull
#define TAG_IGNORE 2ull /* a removed watch tells by its own last completion */
#define TAG_MASK   3ull

/* A watch can have its poll and its removal in the queue. */
#define ENTRIES(t) ((t)->depth + 2u * IOTHREAD_MAX_WATCHES)

/* The library's functions for these two are missing in some of its shared builds. */
static int ring_register(struct io_uring *ring, unsigned opcode, const void *arg, unsigned nr)
{
	return syscall(SYS_io_uring_register, ring->ring_fd, opcode, arg, nr) < 0 ? -errno : 0;
}

static int restrict_ring(struct io_uring *ring)
{
	static const uint8_t ops[] = {
		IORING_OP_READ,
		IORING_OP_READV,
		IORING_OP_WRITE,
		IORING_OP_WRITEV,
		IORING_OP_FSYNC,
		IORING_OP_FALLOCATE,
		IORING_OP_POLL_ADD,
		IORING_OP_ASYNC_CANCEL,
	};
	struct io_uring_restriction list[ARRAY_SIZE(ops) + 1] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		list[i] = (struct io_uring_restriction){
			.opcode = IORING_RESTRICTION_SQE_OP,
			.sqe_op = ops[i],
		};
	list[ARRAY_SIZE(ops)] = (struct io_uring_restriction){
		.opcode = IORING_RESTRICTION_REGISTER_OP,
		.register_op = IORING_REGISTER_ENABLE_RINGS,
	};
	return ring_register(ring, IORING_REGISTER_RESTRICTIONS, list, ARRAY_SIZE(list));
}

static int open_ring(struct iothread *t, unsigned flags)
{
	struct io_uring_params params = {
		.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
		.cq_entries = (uint32_t)pow2_up(2 * ENTRIES(t)),
	};
	int rc = io_uring_queue_init_params((unsigned)pow2_up(ENTRIES(t)), &t->ring, &params);

	if (rc)
		return rc;
	t->ring_open = true;
	/* RSRC_TAGS came with the kernel that has multishot polls. */
	if (!(params.features & IORING_FEAT_RSRC_TAGS) || !(params.features & IORING_FEAT_NODROP) ||
		!(params.features & IORING_FEAT_EXT_ARG) || params.sq_entries < ENTRIES(t))
		rc = -ENOSYS;
	if (!rc)
		rc = restrict_ring(&t->ring);
	if (rc)
		io_uring_queue_exit(&t->ring);
	t->ring_open = !rc;
	return rc;
}

static int uring_init(struct iothread *t, struct err *err)
{
	static const unsigned flags[] = {
		/* from Linux 6.1, 5.19 and 5.13 on */
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
			IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int rc = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(flags) && rc == -EINVAL; i++)
		rc = open_ring(t, flags[i]);
	return rc ? err_set(err, rc, "io_uring: %s", strerror(-rc)) : 0;
}

static void uring_fini(struct iothread *t)
{
	if (t->ring_open)
		io_uring_queue_exit(&t->ring);
	t->ring_open = false;
}

static int uring_begin(struct iothread *t)
{
	/* Only saves looking the descriptor up each time, so it may fail. While the ring allows it:
	 */
	io_uring_register_ring_fd(&t->ring);
	return ring_register(&t->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

static struct io_uring_sqe *take_entry(struct iothread *t)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&t->ring);

	assert(sqe); /* open_ring() made room for all */
	return sqe;
}

static void set_data(struct io_uring_sqe *sqe, void *p, uint64_t tag)
{
	io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)p | tag);
}

static void prep_rw(struct io_uring_sqe *sqe, const struct iothread_op *op, bool write)
{
	/* A single piece saves the kernel fetching the list of pieces. */
	if (op->nr_iov == 1 && op->iov->iov_len <= INT32_MAX)
		io_uring_prep_rw(write ? IORING_OP_WRITE : IORING_OP_READ, sqe, op->fd,
			op->iov->iov_base, (unsigned)op->iov->iov_len, op->off);
	else
		io_uring_prep_rw(write ? IORING_OP_WRITEV : IORING_OP_READV, sqe, op->fd, op->iov,
			op->nr_iov, op->off);
	sqe->rw_flags = op->flags;
}

static void uring_submit(struct iothread *t, struct iothread_op *op)
{
	struct io_uring_sqe *sqe = take_entry(t);

	switch ((enum iothread_kind)op->kind) {
	case IOTHREAD_READ:
		prep_rw(sqe, op, false);
		break;
	case IOTHREAD_WRITE:
		prep_rw(sqe, op, true);
		break;
	case IOTHREAD_FDATASYNC:
		io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
		break;
	case IOTHREAD_FALLOCATE:
		/* The library's function has room for an int only. */
		io_uring_prep_rw(
			IORING_OP_FALLOCATE, sqe, op->fd, NULL, (unsigned)op->flags, op->off);
		sqe->addr = op->len;
		break;
	}
	set_data(sqe, op, TAG_OP);
}

static void arm(struct iothread *t, struct iothread_watch *w)
{
	struct io_uring_sqe *sqe = take_entry(t);

	io_uring_prep_poll_multishot(sqe, w->fd, w->events);
	set_data(sqe, w, TAG_WATCH);
	w->state = WATCH_ARMED;
}

static int uring_watch(struct iothread *t, struct iothread_watch *w)
{
	arm(t, w);
	return 0;
}

static void uring_unwatch(struct iothread *t, struct iothread_watch *w)
{
	struct io_uring_sqe *sqe;

	if (w->state == WATCH_BROKEN) {
		iothread_watch_gone(t, w);
		return;
	}
	sqe = take_entry(t);
	/* Not POLL_REMOVE: it gives up when an event is just being told. */
	io_uring_prep_cancel64(sqe, (uint64_t)(uintptr_t)w | TAG_WATCH, 0);
	io_uring_sqe_set_data64(sqe, TAG_IGNORE);
	w->state = WATCH_CANCELLING;
}

static void watch_completed(struct iothread *t, struct iothread_watch *w, int res, unsigned flags)
{
	bool last = !(flags & IORING_CQE_F_MORE);

	if (w->state == WATCH_CANCELLING) {
		if (last)
			iothread_watch_gone(t, w);
		return;
	}
	/* It can end by itself, as when the completion queue was full. */
	if (last && res >= 0)
		arm(t, w);
	else if (last)
		w->state = WATCH_BROKEN;
	w->ready(w, res < 0 ? EPOLLERR : (uint32_t)res);
}

static bool complete(struct iothread *t)
{
	struct io_uring_cqe *cqes[32];
	struct {
		uint64_t data;
		int res;
		unsigned flags;
	} copies[ARRAY_SIZE(cqes)];
	unsigned nr = io_uring_peek_batch_cqe(&t->ring, cqes, ARRAY_SIZE(cqes));

	/* Given back before the callbacks, which may submit and so bring in more. */
	for (unsigned i = 0; i < nr; i++) {
		copies[i].data = cqes[i]->user_data;
		copies[i].res = cqes[i]->res;
		copies[i].flags = cqes[i]->flags;
	}
	io_uring_cq_advance(&t->ring, nr);
	for (unsigned i = 0; i < nr; i++) {
		void *p = (void *)(uintptr_t)(copies[i].data & ~TAG_MASK);
		struct iothread_op *op = p;

		switch (copies[i].data & TAG_MASK) {
		case TAG_OP:
			op->done(op, copies[i].res);
			break;
		case TAG_WATCH:
			watch_completed(t, p, copies[i].res, copies[i].flags);
			break;
		}
	}
	return nr;
}

static bool uring_reap(struct iothread *t)
{
	/* Pairs with the kernel's store of the flag after it queued work for us. */
	unsigned flags = __atomic_load_n(t->ring.sq.kflags, __ATOMIC_RELAXED);

	/* What fails to be submitted now stays in the queue for the next time. */
	if (io_uring_sq_ready(&t->ring) || flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
		io_uring_submit_and_get_events(&t->ring);
	return complete(t);
}

static void uring_wait(struct iothread *t, uint64_t timeout_ns)
{
	struct __kernel_timespec ts = {
		.tv_sec = (int64_t)(timeout_ns / 1000000000u),
		.tv_nsec = (int64_t)(timeout_ns % 1000000000u),
	};
	struct io_uring_cqe *cqe;

	if (timeout_ns == IOTHREAD_FOREVER)
		io_uring_submit_and_wait(&t->ring, 1);
	else
		io_uring_submit_and_wait_timeout(&t->ring, &cqe, 1, &ts, NULL);
}

const struct iothread_engine iothread_uring = {
	.init = uring_init,
	.fini = uring_fini,
	.begin = uring_begin,
	.submit = uring_submit,
	.watch = uring_watch,
	.unwatch = uring_unwatch,
	.reap = uring_reap,
	.wait = uring_wait,
};
