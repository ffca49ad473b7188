/*
 * vhost_user_mem.h - the memory that a vhost-user front-end shares
 *
 * A struct vhu_mem is a sorted table of regions that never changes. What the front-end adds or
 * removes makes a new one, which shares the files' mappings with the old one; the old one lives
 * until its last holder lets go. So whoever works on a request may keep pointers into it.
 *
 * The dirty log is one for all of a front-end's tables: a request that began before logging did is
 * logged when it ends.
 *
 * Threads: tables are made on the loop thread and read on any.
 * Spec:    vhost-user, "Memory access", "Migration".
 */
#ifndef SERVE_VHOST_USER_MEM_H
#define SERVE_VHOST_USER_MEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/guest_mem.h"
#include "wire/vhost_user.h"

struct mem_file;
struct vhu_log_area;

struct vhu_log {
	_Atomic(struct vhu_log_area *) active; /* NULL: nobody wants to know what is written */
	struct vhu_log_area *area;	       /* what the front-end gave */
	bool wanted;			       /* F_LOG_ALL */
};

/* What a front-end's descriptors of memory are. */
struct vhu_source {
	/* becomes readable when a file was truncated; stays open as long as any table */
	int fault_fd;
	/*
	 * Descriptors of a device, which has memory where they are said to have it: each piece is
	 * mapped by itself, and not looked at. Else files, which are looked at and mapped whole.
	 */
	bool pieces;
};

struct vhu_mem {
	struct guest_mem mem;
	atomic_uint refs;
	struct vhu_log *log;
	unsigned nr;
	struct vhu_mem_region {
		uint64_t gpa, size, user;
		uint8_t *hva;
		struct mem_file *file;
	} regions[]; /* sorted by gpa, no overlap */
};

/*
 * A table of these nr regions, each with its descriptor: borrowed. Files that `old` (or NULL) has
 * mapped are shared. log is borrowed for as long as any table lives. Gives *out with one reference.
 * 0 or -errno with a text.
 */
int vhu_mem_new(struct vhu_mem **out, const struct vhu_mem *old, struct vhu_log *log,
	const struct vhost_user_mem_region *regions, const int *fds, unsigned nr,
	const struct vhu_source *source, struct err *err);
/* The regions of old (or NULL) and one more. Errors as above; -EEXIST: it overlaps one of them. */
int vhu_mem_add(struct vhu_mem **out, const struct vhu_mem *old, struct vhu_log *log,
	const struct vhost_user_mem_region *region, int fd, const struct vhu_source *source,
	struct err *err);
/* The regions of old but this one. 0, -ENOENT or -ENOMEM with a text. */
int vhu_mem_remove(struct vhu_mem **out, const struct vhu_mem *old,
	const struct vhost_user_mem_region *region, struct err *err);
/* NULL is fine. */
void vhu_mem_put(struct vhu_mem *m);

/* Where the front-end's own address lies for the guest. m may be NULL. False: nowhere. */
bool vhu_mem_from_user(const struct vhu_mem *m, uint64_t user, uint64_t *gpa);

/*
 * Another area for the log, of size bytes at offset in fd: borrowed. 0 or -errno with a text. While
 * the model pauses, as vhu_log_want().
 */
int vhu_log_set(struct vhu_log *log, uint64_t size, uint64_t offset, int fd,
	const struct vhu_source *source, struct err *err);
/* From now on, or no more. */
void vhu_log_want(struct vhu_log *log, bool wanted);
/* No table that uses it is left. */
void vhu_log_fini(struct vhu_log *log);

#endif
