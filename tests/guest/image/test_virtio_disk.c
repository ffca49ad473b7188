/*
 * test_virtio_disk.c - the project's own virtio devices, used for what they are
 *
 * "virtio-rng" asks for random bytes. "virtio-disk" writes and reads blocks at random places until
 * the byte q and remembers what each must hold, so that the disk's process may die meanwhile; the
 * disk is read as a whole at the end. With packed=1 its ring is a packed one. Virtio 1.3, 5.2
 * and 5.4.
 */
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"
#include "virtio.h"

#define TYPE_BLOCK   2
#define TYPE_RNG     4
#define BLOCK_FLUSH  (1ull << 9)
#define VECTOR_QUEUE 0xb1

#define BLOCK_SIZE 4096
#define MAX_BLOCKS 1024
#define BATCH	   16

enum { BLOCK_IN = 0, BLOCK_OUT = 1, BLOCK_DO_FLUSH = 4 };

struct header {
	uint32_t type, reserved;
	uint64_t sector;
};

struct request {
	unsigned block; /* MAX_BLOCKS: a flush */
	bool write;
	struct {
		struct header header;
		uint8_t data[BLOCK_SIZE];
	} out;
	uint8_t in[BLOCK_SIZE + 1]; /* what was read, and the status; of a write the status alone */
};

static struct virtio dev;
static struct request requests[BATCH];
static uint32_t versions[MAX_BLOCKS]; /* of what a block holds; 0: never written */
static unsigned nr_blocks;
static uint64_t state = 88172645463325252;

static unsigned pick(unsigned n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned)((state >> 33) % n);
}

static uint8_t pattern(unsigned block, unsigned i)
{
	uint32_t version = versions[block];

	return version ? (uint8_t)(block * 31 + version * 7 + i + (i >> 8)) : 0;
}

/* --- the disk --- */

static void give(struct request *r)
{
	bool flush = r->block == MAX_BLOCKS;

	r->out.header = (struct header){
		.type = flush	   ? BLOCK_DO_FLUSH
			: r->write ? BLOCK_OUT
				   : BLOCK_IN,
		.sector = flush ? 0 : (uint64_t)r->block * BLOCK_SIZE / 512,
	};
	memset(r->in, 0xff, sizeof(r->in));
	if (r->write) {
		versions[r->block]++;
		for (unsigned i = 0; i < BLOCK_SIZE; i++)
			r->out.data[i] = pattern(r->block, i);
	}
	virtio_give(&dev, 0, &r->out, sizeof(r->out.header) + (r->write ? BLOCK_SIZE : 0), r->in,
		r->write || flush ? 1 : BLOCK_SIZE + 1);
}

static bool is_good(const struct request *r)
{
	if (r->write || r->block == MAX_BLOCKS)
		return r->in[0] == 0;
	for (unsigned i = 0; i < BLOCK_SIZE; i++)
		if (r->in[i] != pattern(r->block, i))
			return false;
	return r->in[BLOCK_SIZE] == 0;
}

/* Have n requests carried out, in any order. How many are wrong. */
static unsigned carry_out(unsigned n)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < n; i++)
		give(&requests[i]);
	virtio_kick(&dev, 0);
	while (virtio_waiting(&dev, 0) < n)
		irq_wait(VECTOR_QUEUE, irq_count[VECTOR_QUEUE] + 1, 10);
	for (unsigned i = 0; i < n; i++)
		virtio_take(&dev, 0);
	for (unsigned i = 0; i < n; i++)
		wrong += !is_good(&requests[i]);
	return wrong;
}

/* No two of a batch on one block: their order would be anybody's. */
static unsigned random_batch(bool write)
{
	unsigned first = pick(nr_blocks), step = 1 + pick(nr_blocks / BATCH - 1);

	for (unsigned i = 0; i < BATCH; i++) {
		requests[i].block = (first + i * step) % nr_blocks;
		requests[i].write = write && pick(4);
	}
	if (write && !pick(8)) {
		requests[0].block = MAX_BLOCKS;
		requests[0].write = false;
	}
	return carry_out(BATCH);
}

static unsigned read_all(void)
{
	unsigned wrong = 0;

	for (unsigned block = 0; block < nr_blocks; block += BATCH) {
		for (unsigned i = 0; i < BATCH; i++) {
			requests[i].block = block + i;
			requests[i].write = false;
		}
		wrong += carry_out(BATCH);
	}
	return wrong;
}

static bool start_disk(void)
{
	uint64_t sectors, features = FEATURE_VERSION_1 | BLOCK_FLUSH;

	if (!ok(virtio_find(&dev, TYPE_BLOCK, 0), "there is a disk"))
		return false;
	sectors = read32(dev.config) | (uint64_t)read32(dev.config + 4) << 32;
	nr_blocks = sectors / (BLOCK_SIZE / 512) < MAX_BLOCKS
			    ? (unsigned)(sectors / (BLOCK_SIZE / 512)) / BATCH * BATCH
			    : MAX_BLOCKS;
	if (!ok(nr_blocks >= 2 * BATCH, "of %lu sectors", sectors))
		return false;
	ok(dev.offered & BLOCK_FLUSH, "that flushes");
	virtio_msix_on(&dev, VECTOR_QUEUE - 1, 2);
	if (boot_number("packed", 0))
		features |= FEATURE_PACKED;
	if (!ok(virtio_negotiate(&dev, features), "features are agreed on"))
		return false;
	virtio_queue(&dev, 0, RING_MAX, 1);
	virtio_driver_ok(&dev);
	return true;
}

void test_virtio_disk(void)
{
	uint64_t batches = 0, wrong = 0;

	if (!start_disk())
		return;
	equal(read_all(), 0, "all blocks are zeros at first");
	note("working");
	while (console_getc() != 'q') {
		wrong += random_batch(true);
		wrong += random_batch(false);
		if (++batches % 50 == 0)
			note("%lu batches", batches);
	}
	equal(wrong, 0, "all of %lu batches", batches);
	equal(read_all(), 0, "all blocks hold what was written last");
	equal(virtio_status(&dev), 15, "the device is as it was");
	virtio_reset(&dev);
}

/* --- random numbers --- */

void test_virtio_rng(void)
{
	static uint8_t bytes[2][256];

	if (!ok(virtio_find(&dev, TYPE_RNG, 0), "there is a source of random numbers"))
		return;
	virtio_msix_on(&dev, VECTOR_QUEUE - 1, 2);
	ok(virtio_negotiate(&dev, FEATURE_VERSION_1), "features are agreed on");
	virtio_queue(&dev, 0, RING_MAX, 1);
	virtio_driver_ok(&dev);
	for (unsigned i = 0; i < 2; i++) {
		uint32_t before = irq_count[VECTOR_QUEUE], len;

		/* The readable byte is of no interest to it. */
		virtio_give(&dev, 0, bytes, 1, bytes[i], sizeof(bytes[i]));
		virtio_kick(&dev, 0);
		if (!ok(irq_wait(VECTOR_QUEUE, before + 1, 5000), "an answer comes"))
			return;
		len = virtio_take(&dev, 0);
		ok(len > 16 && len <= sizeof(bytes[i]), "of %u bytes", len);
	}
	/* 1 in 2^128 */
	ok(memcmp(bytes[0], bytes[1], 16), "which are others each time");
	virtio_reset(&dev);
}
