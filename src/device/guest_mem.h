/*
 * guest_mem.h - guest memory as a device model sees it
 *
 * The port that serves a model gives it one of these. An address is an IOVA: what the
 * guest's driver wrote into a register or a ring. The front-end may take memory away
 * or truncate it at any time, so each call translates and checks anew, and fails
 * cleanly. A model keeps no pointer into guest memory.
 */
#ifndef DEVICE_GUEST_MEM_H
#define DEVICE_GUEST_MEM_H

#include <stddef.h>
#include <stdint.h>

struct guest_mem;

struct guest_mem_ops {
	int (*read)(struct guest_mem *mem, uint64_t iova, void *buf, size_t len);
	int (*write)(struct guest_mem *mem, uint64_t iova, const void *buf, size_t len);
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

#endif
