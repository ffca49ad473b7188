/*
 * vfio_hooks.h - what the device of a scripted server may have, and answers that are not the good
 * ones
 */
#ifndef TESTS_VFIO_HOOKS_H
#define TESTS_VFIO_HOOKS_H

#include "vfio_fake.h"

/* For a region's fds: the server's, closed by fake_free(). */
static MAYBE_UNUSED int memfd(uint64_t size)
{
	int fd = memfd_create("bar", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static MAYBE_UNUSED void mappable(struct fake *f, unsigned bar, uint64_t size, uint64_t file)
{
	f->regions[bar].size = size;
	f->regions[bar].flags |= VFIO_USER_REGION_FLAG_MMAP;
	f->regions[bar].fds[0] = memfd(file);
}

static MAYBE_UNUSED void sparse(struct fake *f, unsigned i, uint64_t off, uint64_t size)
{
	f->regions[0].areas[i] = (struct vfio_user_sparse_area){ off, size };
	f->regions[0].nr_areas = i + 1;
}

static MAYBE_UNUSED void doorbell(struct fake *f, uint64_t off, uint32_t fd_index)
{
	f->regions[0].doorbells[0] =
		(struct vfio_user_sub_region){ .offset = off, .size = 4, .fd_index = fd_index };
	f->regions[0].nr_doorbells = 1;
	f->regions[0].doorbell_fds[0] = f->wake;
	f->regions[0].nr_doorbell_fds = 1;
}

static MAYBE_UNUSED bool closes(struct fake *f, const struct rec *r)
{
	shutdown(f->conn, SHUT_RDWR);
	return true;
}

static MAYBE_UNUSED bool garbage(struct fake *f, const struct rec *r)
{
	struct vfio_user_header h = { .id = r->h.id,
		.command = r->h.command,
		.size = 100 * MIB,
		.flags = VFIO_USER_TYPE_REPLY };

	fake_raw(f, &h, sizeof(h), NULL, 0);
	return true;
}

static MAYBE_UNUSED void send_fds(struct fake *f, const struct rec *r, int nr)
{
	int fds[16];

	for (int i = 0; i < nr; i++)
		fds[i] = f->wake;
	fake_reply(f, r, r->data, 16, fds, nr);
}

/* Keeps the answer to the last request of an attach back, until it is told to go on. */
static MAYBE_UNUSED bool holds_command(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	if (r->h.command != VFIO_USER_REGION_WRITE || a.region != CONFIG || a.offset != PCI_COMMAND)
		return false;
	f->hook_arg = r->h.id + 1u;
	f->hook = NULL;
	return true;
}

static MAYBE_UNUSED void let_go(struct fake *f)
{
	struct rec r = { .h.command = VFIO_USER_REGION_WRITE };
	const struct vfio_user_region_access a = { PCI_COMMAND, CONFIG, 2 };

	pthread_mutex_lock(&f->lock);
	r.h.id = (uint16_t)(f->hook_arg - 1);
	fake_reply(f, &r, &a, sizeof(a), NULL, 0);
	pthread_mutex_unlock(&f->lock);
}

#endif
