/*
 * vhost_user_mem.c - the table of a front-end's memory regions, and the log of what is written
 *
 * Owns:    references on the files' mappings (mem_file.h). Descriptors stay the caller's.
 * Trusts:  nothing: a region must lie inside its file, no two may overlap, and who shortens a file
 *          afterwards turns it into zeros for us.
 */
#include "serve/vhost_user_mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "serve/mem_file.h"

/* [Migration]: one bit for each 4096 bytes. */
#define LOG_PAGE_SHIFT 12

struct vhu_log_area {
	struct mem_file *file;
	uint8_t *bits;
	uint64_t size; /* bytes of bits */
};

/* Access */

/* The region that holds iova, or NULL. */
static const struct vhu_mem_region *find(const struct vhu_mem *m, uint64_t iova)
{
	unsigned lo = 0, hi = m->nr;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;
		const struct vhu_mem_region *r = &m->regions[mid];

		if (iova < r->gpa)
			hi = mid;
		else if (iova - r->gpa >= r->size)
			lo = mid + 1;
		else
			return r;
	}
	return NULL;
}

static struct vhu_mem *mem_of(struct guest_mem *mem)
{
	return container_of(mem, struct vhu_mem, mem);
}

static void *mem_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	const struct vhu_mem_region *r = find(mem_of(mem), iova);

	if (!r || (write && !r->file->id.writable))
		return NULL;
	*len = (size_t)MIN((uint64_t)*len, r->size - (iova - r->gpa));
	return r->hva + (iova - r->gpa);
}

/* Up to len bytes, as far as one region goes: how many, or -errno. */
static ssize_t copy_some(struct vhu_mem *m, bool write, uint64_t iova, uint8_t *buf, size_t len)
{
	const struct vhu_mem_region *r = find(m, iova);
	uint8_t *hva;

	if (!r)
		return -EFAULT;
	if (write && !r->file->id.writable)
		return -EACCES;
	hva = r->hva + (iova - r->gpa);
	len = (size_t)MIN((uint64_t)len, r->size - (iova - r->gpa));
	if (write)
		memcpy(hva, buf, len);
	else
		memcpy(buf, hva, len);
	return sigbus_hit(&r->file->guard) ? -EIO : (ssize_t)len;
}

static int copy_all(struct vhu_mem *m, bool write, uint64_t iova, uint8_t *buf, size_t len)
{
	while (len) {
		ssize_t n = copy_some(m, write, iova, buf, MIN(len, (size_t)INT64_MAX));

		if (n < 0)
			return (int)n;
		buf += n;
		len -= (size_t)n;
		iova += (uint64_t)n;
	}
	return 0;
}

static int mem_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	return copy_all(mem_of(mem), false, iova, buf, len);
}

static int mem_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	/* A write only reads from buf, all the way down. */
	int rc = copy_all(mem_of(mem), true, iova, (void *)(uintptr_t)buf, len);

	guest_mem_dirty(mem, iova, len);
	return rc;
}

static void mem_get(struct guest_mem *mem)
{
	atomic_fetch_add_explicit(&mem_of(mem)->refs, 1, memory_order_relaxed);
}

static void mem_put(struct guest_mem *mem)
{
	vhu_mem_put(mem_of(mem));
}

/* Set the bits of the pages from first to last, both included, as far as the log goes. */
static void mark(struct vhu_log_area *a, uint64_t first, uint64_t last)
{
	for (uint64_t at = first / 8; at <= last / 8 && at < a->size; at++) {
		uint8_t bits = 0xff;

		if (at == first / 8)
			bits &= (uint8_t)(0xff << first % 8);
		if (at == last / 8)
			bits &= (uint8_t)(0xff >> (7 - last % 8));
		/* A page is written many times between two looks at the log. */
		if ((__atomic_load_n(&a->bits[at], __ATOMIC_RELAXED) & bits) != bits)
			__atomic_fetch_or(&a->bits[at], bits, __ATOMIC_RELEASE);
	}
}

static void mem_dirty(struct guest_mem *mem, uint64_t iova, size_t len)
{
	struct vhu_log_area *a =
		atomic_load_explicit(&mem_of(mem)->log->active, memory_order_acquire);

	if (a && len && len - 1 <= UINT64_MAX - iova)
		mark(a, iova >> LOG_PAGE_SHIFT, (iova + (len - 1)) >> LOG_PAGE_SHIFT);
}

static const struct guest_mem_ops mem_ops = {
	.read = mem_read,
	.write = mem_write,
	.ptr = mem_ptr,
	.get = mem_get,
	.put = mem_put,
	.dirty = mem_dirty,
};

bool vhu_mem_from_user(const struct vhu_mem *m, uint64_t user, uint64_t *gpa)
{
	for (unsigned i = 0; m && i < m->nr; i++) {
		const struct vhu_mem_region *r = &m->regions[i];

		if (user >= r->user && user - r->user < r->size) {
			*gpa = r->gpa + (user - r->user);
			return true;
		}
	}
	return false;
}

/* Making */

static struct vhu_mem *mem_alloc(struct vhu_log *log, unsigned room)
{
	struct vhu_mem *m = calloc(1, sizeof(*m) + room * sizeof(m->regions[0]));

	if (!m)
		return NULL;
	m->mem.ops = &mem_ops;
	m->log = log;
	atomic_init(&m->refs, 1);
	return m;
}

void vhu_mem_put(struct vhu_mem *m)
{
	if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned i = 0; i < m->nr; i++)
		mem_file_put(m->regions[i].file);
	free(m);
}

/* A mapping of that file that reaches to `end`, among those that m (or NULL) has. */
static struct mem_file *find_file(
	const struct vhu_mem *m, const struct fd_memory *id, uint64_t end)
{
	for (unsigned i = 0; m && i < m->nr; i++) {
		struct mem_file *f = m->regions[i].file;

		if (f->size >= end && fd_memory_same(&f->id, id) && !sigbus_hit(&f->guard))
			return f;
	}
	return NULL;
}

/* [offset, offset + size) of fd, from what one of two tables has mapped or anew. */
static int get_file(struct mem_file **out, const struct vhu_mem *a, const struct vhu_mem *b,
	uint64_t offset, uint64_t size, int fd, const struct vhu_source *source, struct err *err)
{
	struct fd_memory id;
	struct mem_file *f;
	uint64_t file_size;
	int rc;

	if (source->pieces)
		return mem_file_new_piece(out, fd, offset, size, source->fault_fd, err);
	rc = fd_memory_identify(fd, &id, &file_size, err);
	if (rc)
		return rc;
	if (!range_ok(offset, size, file_size))
		return err_set(err, -EINVAL,
			"offset 0x%" PRIx64 " + size 0x%" PRIx64
			" is past the file's end 0x%" PRIx64,
			offset, size, file_size);
	f = find_file(a, &id, offset + size);
	if (!f)
		f = find_file(b, &id, offset + size);
	if (!f)
		return mem_file_new(out, fd, &id, file_size, source->fault_fd, err);
	*out = mem_file_get(f);
	return 0;
}

/* Put r in its place; m has room for it. Takes the file when it returns 0. */
static int insert(struct vhu_mem *m, const struct vhost_user_mem_region *r, struct mem_file *file,
	struct err *err)
{
	unsigned at = 0;

	while (at < m->nr && m->regions[at].gpa < r->gpa)
		at++;
	if ((at && r->gpa - m->regions[at - 1].gpa < m->regions[at - 1].size) ||
		(at < m->nr && m->regions[at].gpa - r->gpa < r->size))
		return err_set(err, -EEXIST, "region at 0x%" PRIx64 " overlaps another", r->gpa);
	memmove(&m->regions[at + 1], &m->regions[at], (m->nr - at) * sizeof(m->regions[0]));
	m->regions[at] = (struct vhu_mem_region){
		.gpa = r->gpa,
		.size = r->size,
		.user = r->user_addr,
		.hva = mem_file_at(file, r->mmap_offset),
		.file = file,
	};
	m->nr++;
	return 0;
}

static int map(struct vhu_mem *m, const struct vhu_mem *old, const struct vhost_user_mem_region *r,
	int fd, const struct vhu_source *source, struct err *err)
{
	struct mem_file *file;
	int rc = get_file(&file, m, old, r->mmap_offset, r->size, fd, source, err);

	if (rc)
		return err_prefix(err, rc, "region at 0x%" PRIx64, r->gpa);
	rc = insert(m, r, file, err);
	if (rc)
		mem_file_put(file);
	return rc;
}

int vhu_mem_new(struct vhu_mem **out, const struct vhu_mem *old, struct vhu_log *log,
	const struct vhost_user_mem_region *regions, const int *fds, unsigned nr,
	const struct vhu_source *source, struct err *err)
{
	struct vhu_mem *m = mem_alloc(log, nr);
	int rc = 0;

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; !rc && i < nr; i++)
		rc = map(m, old, &regions[i], fds[i], source, err);
	if (rc) {
		vhu_mem_put(m);
		return rc;
	}
	*out = m;
	return 0;
}

/* The regions of old (or NULL), `skip` left out, with room for one more. NULL: out of memory. */
static struct vhu_mem *copy(
	const struct vhu_mem *old, struct vhu_log *log, const struct vhu_mem_region *skip)
{
	struct vhu_mem *m = mem_alloc(log, old ? old->nr + 1 : 1);

	for (unsigned i = 0; m && old && i < old->nr; i++) {
		if (&old->regions[i] == skip)
			continue;
		m->regions[m->nr] = old->regions[i];
		mem_file_get(m->regions[m->nr++].file);
	}
	return m;
}

int vhu_mem_add(struct vhu_mem **out, const struct vhu_mem *old, struct vhu_log *log,
	const struct vhost_user_mem_region *region, int fd, const struct vhu_source *source,
	struct err *err)
{
	struct vhu_mem *m;
	int rc;

	if (old && old->nr == VHOST_USER_MAX_MEM_SLOTS)
		return err_set(err, -ENOSPC, "already %u regions", old->nr);
	m = copy(old, log, NULL);
	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	rc = map(m, NULL, region, fd, source, err);
	if (rc) {
		vhu_mem_put(m);
		return rc;
	}
	*out = m;
	return 0;
}

int vhu_mem_remove(struct vhu_mem **out, const struct vhu_mem *old,
	const struct vhost_user_mem_region *region, struct err *err)
{
	const struct vhu_mem_region *r = old ? find(old, region->gpa) : NULL;

	if (!r || r->gpa != region->gpa || r->size != region->size || r->user != region->user_addr)
		return err_set(err, -ENOENT,
			"no region at 0x%" PRIx64 " of size 0x%" PRIx64
			" with the front-end's address 0x%" PRIx64,
			region->gpa, region->size, region->user_addr);
	*out = copy(old, old->log, r);
	return *out ? 0 : err_set(err, -ENOMEM, "out of memory");
}

/* The log */

static void area_free(struct vhu_log_area *a)
{
	if (!a)
		return;
	mem_file_put(a->file);
	free(a);
}

static void activate(struct vhu_log *log)
{
	atomic_store_explicit(&log->active, log->wanted ? log->area : NULL, memory_order_release);
}

int vhu_log_set(struct vhu_log *log, uint64_t size, uint64_t offset, int fd,
	const struct vhu_source *source, struct err *err)
{
	struct vhu_log_area *a, *old = log->area;
	int rc;

	if (!size)
		return err_set(err, -EINVAL, "a log of size 0");
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(err, -ENOMEM, "out of memory");
	rc = get_file(&a->file, NULL, NULL, offset, size, fd, source, err);
	if (!rc && !a->file->id.writable)
		rc = err_set(err, -EACCES, "the log cannot be written");
	if (rc) {
		area_free(a);
		return rc;
	}
	a->bits = mem_file_at(a->file, offset);
	a->size = size;
	log->area = a;
	activate(log);
	area_free(old);
	return 0;
}

void vhu_log_want(struct vhu_log *log, bool wanted)
{
	log->wanted = wanted;
	activate(log);
}

void vhu_log_fini(struct vhu_log *log)
{
	atomic_store(&log->active, NULL);
	area_free(log->area);
	log->area = NULL;
	log->wanted = false;
}
