/*
 * block_map.c - an image in memory, copied from and to without the kernel
 *
 * mincore() says which pages are there. It tells the truth only to the file's owner, so nobody else
 * maps. Should a page go between the answer and the copy, the copy makes it again, empty, and that
 * is all.
 *
 * Someone may make the file shorter under us. Then the mapping is full of zeros from one moment to
 * the next (base/sigbus.h), which is seen after the copy: it counts for nothing, and from then on
 * everything is the kernel's, which knows what to say of the part that is gone.
 *
 * A write through a mapping changes no time of the file and wakes nobody who watches it. So that
 * these go on, one write in every hundredth of a second is the kernel's.
 *
 * The pages are the filesystem's and there anyway, but accounts of a process have those that it has
 * touched as its own. What is ours is the page table, 8 bytes for each page, and the time that it
 * takes to give it up, which a process started in place of this one waits for. So no more than the
 * first part of a very large image is mapped.
 *
 * Owns:    the mapping.
 * Trusts:  not the size of the file, nor that its pages stay.
 */
#include "device/block_map.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"

/* Asked about at once */
#define WINDOW_PAGES 64u

/* A fault maps so much around it, as far as it is there. */
#define FAULT_AROUND (64 * KIB)

#define KERNEL_EVERY_NS (10 * NS_PER_MS)

/* A page table of 8 MiB, a quarter of a second */
#define MAX_SIZE (4 * GIB)

void block_map_open(struct block_map *m, int fd, bool writable)
{
	int prot = PROT_READ | (writable ? PROT_WRITE : 0);
	struct stat st;
	void *p;

	if (fstat(fd, &st) || st.st_uid != geteuid() || st.st_size < BLOCK_MAP_MIN)
		return;
	m->size = align_down(MIN((uint64_t)st.st_size, MAX_SIZE), PAGE_SIZE_4K);
	p = mmap(NULL, m->size, prot, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (p == MAP_FAILED)
		return;
	if (sigbus_guard(&m->guard, p, m->size, -1)) {
		munmap(p, m->size);
		return;
	}
	madvise(p, m->size, MADV_DONTDUMP);
	m->bytes = p;
	m->writable = writable;
}

void block_map_close(struct block_map *m)
{
	if (!m->bytes)
		return;
	sigbus_unguard(&m->guard);
	munmap(m->bytes, m->size);
	m->bytes = NULL;
}

/* How many bytes from off on are there, of `want` or of a window. */
static uint64_t present(struct block_map *m, uint64_t off, uint64_t want)
{
	uint64_t start = align_down(off, PAGE_SIZE_4K), nr;
	unsigned char pages[WINDOW_PAGES];
	unsigned n = 0;

	if (off >= m->size)
		return 0;
	want = MIN(want, m->size - off);
	nr = MIN(align_up(off + want - start, PAGE_SIZE_4K) / PAGE_SIZE_4K, (uint64_t)WINDOW_PAGES);
	if (mincore(m->bytes + start, nr * PAGE_SIZE_4K, pages))
		return 0;
	while (n < nr && pages[n] & 1)
		n++;
	return n ? MIN(n * PAGE_SIZE_4K - (off - start), want) : 0;
}

/*
 * The same, and maps them: a read does that with all around it, where a write would with one page.
 */
static uint64_t prepare(struct block_map *m, uint64_t off, uint64_t want, bool write)
{
	uint64_t len = present(m, off, want);

	for (uint64_t at = 0; write && at < len; at += FAULT_AROUND)
		(void)*(volatile uint8_t *)(m->bytes + off + at);
	return len;
}

static bool is_kernels_turn(struct block_map *m)
{
	uint64_t now = clock_now_ns();

	if (now - atomic_load_explicit(&m->kernel_ns, memory_order_relaxed) < KERNEL_EVERY_NS)
		return false;
	atomic_store_explicit(&m->kernel_ns, now, memory_order_relaxed);
	return true;
}

static uint64_t copy(
	struct block_map *m, const struct iovec *iov, uint64_t off, uint64_t total, bool write)
{
	uint64_t done = 0, ready = 0, at = 0;

	while (done < total) {
		uint8_t *mapped, *ours = (uint8_t *)iov->iov_base + at;
		uint64_t n;

		if (!ready)
			ready = prepare(m, off + done, total - done, write);
		if (!ready)
			break;
		mapped = m->bytes + off + done;
		n = MIN(ready, iov->iov_len - at);
		memcpy(write ? mapped : ours, write ? ours : mapped, n);
		done += n;
		ready -= n;
		at += n;
		if (at == iov->iov_len) {
			iov++;
			at = 0;
		}
	}
	return done;
}

uint64_t block_map_copy(
	struct block_map *m, const struct iovec *iov, unsigned nr, uint64_t off, bool write)
{
	uint64_t total = 0, done;

	if (!m->bytes || sigbus_hit(&m->guard) || (write && (!m->writable || is_kernels_turn(m))))
		return 0;
	for (unsigned i = 0; i < nr; i++)
		total += iov[i].iov_len;
	done = copy(m, iov, off, total, write);
	return sigbus_hit(&m->guard) ? 0 : done;
}
