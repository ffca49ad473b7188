/*
 * guest_mem.h - guest memory as a device model sees it
 *
 * The port that serves a model gives it one of these. An address is an IOVA: what the
 * guest's driver wrote into a register or a ring. The front-end may take memory away
 * or truncate it at any time, so each call translates and checks anew, and fails
 * cleanly. A model of registers (struct pci_model) keeps no pointer into guest memory.
 *
 * A model of virtqueues moves data in place. For it a port whose memory is shared by descriptor
 * gives a guest_mem that never changes: what the front-end maps or unmaps makes a new one, and
 * the old one lives until the last request that points into it is done (guest_mem_get(), _put()).
 * Memory that was truncated meanwhile reads as zeros or fails in the kernel with EFAULT; it never
 * faults (base/sigbus.h).
 */
#ifndef DEVICE_GUEST_MEM_H
#define DEVICE_GUEST_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guest_mem;

struct guest_mem_ops {
	int (*read)(struct guest_mem *mem, uint64_t iova, void *buf, size_t len);
	int (*write)(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len);
	/* As guest_mem_ptr(). NULL: this memory cannot be reached in place. */
	void *(*ptr)(struct guest_mem *mem, uint64_t iova, size_t *len, bool write);
	/* One more holder, one less. NULL together with ptr. Any thread. */
	void (*get)(struct guest_mem *mem);
	void (*put)(struct guest_mem *mem);
	/*
	 * As guest_mem_dirty(). NULL: nobody wants to know, and
	 * virtqueues save themselves the calls.
	 */
	void (*dirty)(struct guest_mem *mem, uint64_t iova, size_t len);
};

struct guest_mem {
	const struct guest_mem_ops *ops;
};

/*
 * Copy len bytes from guest memory at iova. The range may cross mappings that touch. 0;
 * -EFAULT: a part of it is not mapped; -EACCES: mapped, but not for this direction; -EIO:
 * the memory behind it is gone or its owner did not answer, buf is undefined. The port's own
 * thread, and any thread for memory that the front-end shares by descriptor.
 */
static inline int guest_mem_read(struct guest_mem *mem, uint64_t iova, void *buf, size_t len)
{
	return mem->ops->read(mem, iova, buf, len);
}

/* Copy len bytes to guest memory at iova. Errors as above; a part may have been written. */
static inline int guest_mem_write(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len)
{
	return mem->ops->write(mem, iova, buf, len);
}

/*
 * Where the bytes at iova lie in this process: *len of them or fewer, then *len is lowered to what
 * lies in one piece. NULL: not mapped, or not for this direction. Valid for as long as the
 * caller holds mem. Any thread.
 */
static inline void *guest_mem_ptr(struct guest_mem *mem, uint64_t iova, size_t *len, bool write)
{
	return mem->ops->ptr(mem, iova, len, write);
}

static inline struct guest_mem *guest_mem_get(struct guest_mem *mem)
{
	mem->ops->get(mem);
	return mem;
}

/* NULL is fine. */
static inline void guest_mem_put(struct guest_mem *mem)
{
	if (mem)
		mem->ops->put(mem);
}

/*
 * The device has written [iova, iova + len): for whoever copies the
 * guest's memory meanwhile. Any thread.
 */
static inline void guest_mem_dirty(struct guest_mem *mem, uint64_t iova, size_t len)
{
	if (mem->ops->dirty)
		mem->ops->dirty(mem, iova, len);
}

#endif
