/*
 * mem_file.c - look at a descriptor before trusting it with loads and stores, then map it
 *
 * Owns:    the mapping. The descriptor is the caller's and may be closed.
 * Trusts:  nothing about a descriptor: its kind, size, seals and access mode are looked at, without
 *          asking a file system that may not answer.
 */
#include "serve/mem_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/util.h"

/*
 * F_GET_SEALS answers for memfd, shared memory and hugetlbfs only. Another regular file must lie on
 * a block device; statx gives what the kernel has cached of it and asks nobody.
 */
int mem_file_identify(int fd, struct mem_file_id *id, uint64_t *size, struct err *err)
{
	int seals = fcntl(fd, F_GET_SEALS), mode = fcntl(fd, F_GETFL);
	struct statx st;

	if (mode < 0 || mode & O_PATH)
		return err_set(err, -EINVAL, "the descriptor is not open for reading");
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &st) < 0)
		return err_set(err, -errno, "statx: %s", strerror(errno));
	if (!S_ISREG(st.stx_mode))
		return err_set(err, -EINVAL, "the descriptor is no memory and no regular file");
	if (seals < 0 && !st.stx_dev_major)
		return err_set(err, -EINVAL, "the file is neither memory nor on a block device");
	if ((mode & O_ACCMODE) == O_WRONLY)
		return err_set(err, -EINVAL, "the descriptor is not open for reading");
	*id = (struct mem_file_id){
		.dev_major = st.stx_dev_major,
		.dev_minor = st.stx_dev_minor,
		.ino = st.stx_ino,
		.writable = (mode & O_ACCMODE) == O_RDWR &&
			    (seals < 0 || !(seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))),
	};
	*size = st.stx_size;
	return 0;
}

int mem_file_new(struct mem_file **out, int fd, const struct mem_file_id *id, uint64_t size,
	int fault_fd, struct err *err)
{
	int prot = PROT_READ | (id->writable ? PROT_WRITE : 0), rc;
	struct mem_file *f = calloc(1, sizeof(*f));

	if (!f)
		return err_set(err, -ENOMEM, "out of memory");
	f->id = *id;
	f->size = size;
	f->mapped = align_up(size, PAGE_SIZE_4K);
	atomic_init(&f->refs, 1);
	f->hva = mmap(NULL, f->mapped, prot, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (f->hva == MAP_FAILED) {
		rc = err_set(err, -errno, "mmap of the file's %" PRIu64 " bytes: %s", size,
			strerror(errno));
		goto free_file;
	}
	/* A core dump is for our own bugs, and guest memory is not ours to spill. */
	madvise(f->hva, f->mapped, MADV_DONTDUMP);
	rc = sigbus_guard(&f->guard, f->hva, f->mapped, fault_fd);
	if (rc) {
		err_set(err, rc, "SIGBUS handler: %s", strerror(-rc));
		goto unmap;
	}
	*out = f;
	return 0;
unmap:
	munmap(f->hva, f->mapped);
free_file:
	free(f);
	return rc;
}

void mem_file_put(struct mem_file *f)
{
	if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
		return;
	sigbus_unguard(&f->guard);
	munmap(f->hva, f->mapped);
	free(f);
}
