/*
 * block_request.c - one request of a virtio disk
 *
 * A request is a header of 16 bytes that the device reads, data in one direction, and a status byte
 * at the very end of what the device may write; the driver may cut all of this into pieces as it
 * likes. The usual cut, a piece each for header and status, lets the data's pieces be used as they
 * are; any other has them copied without the two.
 *
 * Trusts:  nothing. Header and ranges are read once into locals and checked there. A request
 *          that makes no sense fails alone; one without room for a status is given back without.
 * Spec:    virtio 1.3, 5.2.6.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "device/block_priv.h"

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};
static_assert(sizeof(struct header) == 16, "virtio 1.3, 5.2.6");

struct range {
	uint64_t sector;
	uint32_t nr_sectors, flags;
};
static_assert(sizeof(struct range) == 16, "virtio 1.3, 5.2.6");

#define RANGE_UNMAP 1u

#define STATUS_OK     0
#define STATUS_IOERR  1
#define STATUS_UNSUPP 2

#define warn_limited(r, ...) log_limited(&(r)->q->limit, LOG_WARN, __VA_ARGS__)
#define NAME(r)		     (r)->q->disk->model.name, (r)->q->index

static void answer(struct block_request *r, uint8_t status)
{
	*r->status = status;
	/* The status is the last byte, so all before it count as written. */
	block_queue_answer(r->q, r, r->req.in_len);
}

static const char *verb(const struct block_request *r)
{
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
		return "read";
	case VIRTIO_BLK_T_OUT:
		return "write";
	case VIRTIO_BLK_T_FLUSH:
		return "flush";
	case VIRTIO_BLK_T_DISCARD:
		return "discard";
	}
	return "write of zeroes";
}

static void refuse(struct block_request *r, uint8_t status, const char *why)
{
	warn_limited(r, "%s queue %u: %s refused: %s", NAME(r), verb(r), why);
	answer(r, status);
}

static bool offered(const struct block_request *r, unsigned bit)
{
	return r->q->disk->model.features & VIRTIO_BIT(bit);
}

/* Pieces */

/* Copies pieces without `skip` bytes at the beginning and `cut` at the end. */
static void copy_pieces(
	struct block_request *r, const struct iovec *iov, unsigned nr, size_t skip, size_t cut)
{
	struct iovec *out = r->many ? r->many->data : r->data;
	unsigned n = 0;

	while (nr && cut && cut >= iov[nr - 1].iov_len)
		cut -= iov[--nr].iov_len;
	for (unsigned i = 0; i < nr; i++) {
		size_t len = iov[i].iov_len, drop = MIN(skip, len);

		skip -= drop;
		if (len == drop)
			continue;
		out[n++] = (struct iovec){ (uint8_t *)iov[i].iov_base + drop, len - drop };
	}
	if (n)
		out[n - 1].iov_len -= cut;
	r->io.iov = out;
	r->io.nr_iov = n;
}

static void set_data_out(struct block_request *r)
{
	const struct iovec *iov = r->req.iov;

	r->io.len = r->req.out_len - sizeof(struct header);
	if (iov->iov_len == sizeof(struct header)) {
		r->io.iov = iov + 1;
		r->io.nr_iov = r->req.nr_out - 1u;
	} else {
		copy_pieces(r, iov, r->req.nr_out, sizeof(struct header), 0);
	}
}

static void set_data_in(struct block_request *r)
{
	const struct iovec *iov = r->req.iov + r->req.nr_out;

	r->io.len = r->req.in_len - 1;
	if (iov[r->req.nr_in - 1].iov_len == 1) {
		r->io.iov = iov;
		r->io.nr_iov = r->req.nr_in - 1u;
	} else {
		copy_pieces(r, iov, r->req.nr_in, 0, 1);
	}
}

/* The store */

static void next_range(struct block_request *r);

static void io_done(struct block_io *io, int error)
{
	struct block_request *r = container_of(io, struct block_request, io);

	r->at_store = false;
	if (r->late) {
		block_queue_end_late(r->q, r);
	} else if (error == -EOPNOTSUPP) {
		answer(r, STATUS_UNSUPP);
	} else if (error) {
		warn_limited(r, "%s queue %u: %s of %" PRIu64 " bytes at %" PRIu64 ": %s", NAME(r),
			verb(r), io->len, io->off, strerror(-error));
		answer(r, STATUS_IOERR);
	} else if (++r->range < r->nr_ranges) {
		next_range(r);
	} else {
		answer(r, STATUS_OK);
	}
}

static void submit(struct block_request *r, enum block_op op)
{
	struct block_disk *disk = r->q->disk;

	r->at_store = true;
	r->io.op = op;
	r->io.dropped = false;
	r->io.done = io_done;
	r->io.t = r->q->t;
	r->io.thread = r->q->thread;
	r->io.durable = atomic_load_explicit(&disk->write_through, memory_order_relaxed);
	block_store_submit(disk->store, &r->io);
}

void block_request_give_up(struct block_request *r)
{
	r->late = guest_mem_get(r->req.mem);
	r->io.dropped = true;
	answer(r, STATUS_IOERR);
}

/* Reads and writes */

static bool check_transfer(struct block_request *r, uint64_t sector)
{
	uint64_t size = atomic_load_explicit(&r->q->disk->sectors, memory_order_relaxed);

	if (r->io.len % BLOCK_SECTOR) {
		refuse(r, STATUS_IOERR, "its length is no multiple of 512 bytes");
		return false;
	}
	if (!range_ok(sector, r->io.len / BLOCK_SECTOR, size)) {
		refuse(r, STATUS_IOERR, "it goes beyond the end of the disk");
		return false;
	}
	r->io.off = sector * BLOCK_SECTOR;
	return true;
}

static void begin_transfer(struct block_request *r, uint64_t sector)
{
	if (r->type == VIRTIO_BLK_T_IN)
		set_data_in(r);
	else
		set_data_out(r);
	if (r->type == VIRTIO_BLK_T_OUT && r->q->disk->store->read_only) {
		refuse(r, STATUS_IOERR, "the disk is read-only");
		return;
	}
	if (!check_transfer(r, sector))
		return;
	r->cost = r->io.len;
	if (block_queue_may_go(r->q, r))
		block_request_go(r);
}

/* Discards and writes of zeroes */

static uint8_t check_range(const struct block_request *r, const struct range *range)
{
	uint64_t size = atomic_load_explicit(&r->q->disk->sectors, memory_order_relaxed);
	uint32_t allowed = r->type == VIRTIO_BLK_T_WRITE_ZEROES ? RANGE_UNMAP : 0;

	if (range->flags & ~allowed)
		return STATUS_UNSUPP;
	if (range->nr_sectors > BLOCK_MAX_RANGE_SECTORS ||
		!range_ok(range->sector, range->nr_sectors, size))
		return STATUS_IOERR;
	return STATUS_OK;
}

static void read_range(const struct block_request *r, unsigned nr, struct range *range)
{
	vq_req_read(&r->req, sizeof(struct header) + nr * sizeof(*range), range, sizeof(*range));
	range->sector = le64toh(range->sector);
	range->nr_sectors = le32toh(range->nr_sectors);
	range->flags = le32toh(range->flags);
}

/* They were checked at the beginning, but the driver may have changed them since. */
static void next_range(struct block_request *r)
{
	bool zero = r->type == VIRTIO_BLK_T_WRITE_ZEROES;
	struct range range;
	uint8_t status = STATUS_OK;

	for (; r->range < r->nr_ranges; r->range++) {
		read_range(r, r->range, &range);
		status = check_range(r, &range);
		if (status || range.nr_sectors)
			break;
	}
	if (status || r->range == r->nr_ranges) {
		answer(r, status);
		return;
	}
	r->io.off = range.sector * BLOCK_SECTOR;
	r->io.len = (uint64_t)range.nr_sectors * BLOCK_SECTOR;
	r->io.unmap = range.flags & RANGE_UNMAP && r->q->disk->store->can_discard;
	submit(r, zero ? BLOCK_ZERO : BLOCK_DISCARD);
}

static void begin_ranges(struct block_request *r, unsigned feature)
{
	uint64_t len = r->req.out_len - sizeof(struct header);
	struct range range;

	if (r->q->disk->store->read_only) {
		refuse(r, STATUS_IOERR, "the disk is read-only");
		return;
	}
	if (!offered(r, feature)) {
		refuse(r, STATUS_UNSUPP, "it was not offered");
		return;
	}
	if (!len || len % sizeof(range) || len / sizeof(range) > BLOCK_MAX_RANGES) {
		refuse(r, STATUS_IOERR, "its ranges are none, too many, or no whole number");
		return;
	}
	r->range = 0;
	r->nr_ranges = (unsigned)(len / sizeof(range));
	for (unsigned i = 0; i < r->nr_ranges; i++) {
		uint8_t status;

		read_range(r, i, &range);
		status = check_range(r, &range);
		if (status) {
			refuse(r, status,
				status == STATUS_UNSUPP
					? "a flag of a range is not known"
					: "a range is too long, or beyond the end of the disk");
			return;
		}
	}
	if (block_queue_may_go(r->q, r))
		block_request_go(r);
}

/* The rest */

static void get_id(struct block_request *r)
{
	const char *serial = r->q->disk->config.serial;

	vq_req_write(&r->req, 0, serial, MIN(r->req.in_len - 1, (uint64_t)VIRTIO_BLK_ID_BYTES));
	answer(r, STATUS_OK);
}

void block_request_go(struct block_request *r)
{
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
		if (r->io.len)
			submit(r, BLOCK_READ);
		else
			answer(r, STATUS_OK);
		break;
	case VIRTIO_BLK_T_OUT:
		if (r->io.len)
			submit(r, BLOCK_WRITE);
		else
			answer(r, STATUS_OK);
		break;
	case VIRTIO_BLK_T_FLUSH:
		r->io.off = r->io.len = 0;
		submit(r, BLOCK_FLUSH);
		break;
	default:
		next_range(r);
		break;
	}
}

static void dispatch(struct block_request *r, uint64_t sector)
{
	switch (r->type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_OUT:
		begin_transfer(r, sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		if (block_queue_may_go(r->q, r))
			block_request_go(r);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(r);
		break;
	case VIRTIO_BLK_T_DISCARD:
		begin_ranges(r, VIRTIO_BLK_F_DISCARD);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		begin_ranges(r, VIRTIO_BLK_F_WRITE_ZEROES);
		break;
	default:
		/* Drivers try what they know; that is no reason for a line. */
		answer(r, STATUS_UNSUPP);
		break;
	}
}

void block_request_begin(struct block_request *r, int bad)
{
	struct header h;
	const struct iovec *last;

	r->cost = 0;
	r->range = r->nr_ranges = 0;
	if (bad || !r->req.in_len) {
		warn_limited(r, "%s queue %u: a request without a place for its status: %s",
			NAME(r),
			!bad		? "nothing in it may be written"
			: bad == -E2BIG ? "it has too many pieces"
					: "a piece is not in guest memory");
		block_queue_answer(r->q, r, 0);
		return;
	}
	last = &r->req.iov[r->req.nr_out + r->req.nr_in - 1];
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	if (vq_req_read(&r->req, 0, &h, sizeof(h)) != sizeof(h)) {
		warn_limited(r,
			"%s queue %u: a request with a header of %" PRIu64 " bytes, expected 16",
			NAME(r), r->req.out_len);
		answer(r, STATUS_IOERR);
		return;
	}
	r->type = le32toh(h.type);
	dispatch(r, le64toh(h.sector));
}
