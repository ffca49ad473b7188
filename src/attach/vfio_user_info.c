/*
 * vfio_user_info.c - what the device says it is made of, checked once
 *
 * Regions, the parts of them that may be mmapped, interrupts, and registers with an eventfd
 * behind them. What passes here can be used without further checks; what can not be used but does
 * no harm (a kind of doorbell we do not know) is left out, what contradicts itself is refused.
 *
 * A GET_REGION_INFO reply brings one descriptor for all areas, or one for each.
 *
 * Owns:   the descriptors taken from replies (vu->fds), until the connection ends.
 * Trusts: nothing.
 * Spec:   vfio-user 0.9.2, "VFIO_USER_DEVICE_GET_REGION_INFO", "..._GET_REGION_IO_FDS",
 *         "..._GET_IRQ_INFO".
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_user_priv.h"
#include "base/fd.h"
#include "base/fd_drop.h"
#include "base/fd_kind.h"
#include "base/log.h"

/* MSI-X has the most. */
#define MAX_IRQS 2048u
/* The largest GET_REGION_IO_FDS reply we ask for. */
#define MAX_IO_FDS_REPLY 65536u

int vu_keep_fd(struct vfio_user *vu, int fd)
{
	int *more = realloc(vu->fds, (vu->nr_fds + 1) * sizeof(*more));

	if (!more) {
		fd_drop(fd);
		return -1;
	}
	vu->fds = more;
	more[vu->nr_fds++] = fd;
	return fd;
}

/* Each descriptor of a message is kept at most once, however often it is referred to. */
struct kept {
	struct vfio_user *vu;
	struct fd_list *from;
	int fds[SOCK_MAX_FDS];
};

static void kept_init(struct kept *k, struct vfio_user *vu, struct fd_list *from)
{
	k->vu = vu;
	k->from = from;
	for (unsigned i = 0; i < ARRAY_SIZE(k->fds); i++)
		k->fds[i] = -1;
}

static int keep(struct kept *k, unsigned index)
{
	if (!k->from || index >= (unsigned)k->from->nr)
		return -1;
	if (k->fds[index] < 0)
		k->fds[index] = vu_keep_fd(k->vu, fd_take(&k->from->fds[index]));
	return k->fds[index];
}

/* --- regions --- */

/*
 * Beyond the end of a file there is nothing to map, and behind some files there is somebody who need
 * not answer: a guest that touched it would stop its vCPU. What is no file is a device's memory.
 */
static int check_file(unsigned index, const struct vfio_area *a, struct err *err)
{
	struct fd_memory memory;
	uint64_t size;
	int rc;

	if (!fd_is_regular(a->fd))
		return 0;
	rc = fd_memory_identify(a->fd, &memory, &size, err);
	if (rc)
		return err_prefix(err, rc, "region %u", index);
	if (range_ok(a->fd_offset, a->size, size))
		return 0;
	return err_set(err, -EPROTO,
		"region %u: bytes 0x%llx to 0x%llx of a file of 0x%llx bytes cannot be mapped",
		index, (unsigned long long)a->fd_offset,
		(unsigned long long)(a->fd_offset + a->size), (unsigned long long)size);
}

static int add_areas(struct vfio_user *vu, unsigned index, const struct vfio_user_region_info *info,
	const struct vfio_user_sparse *sparse, struct fd_list *fds, struct err *err)
{
	struct vfio_region *r = &vu->attach.info.regions[index];
	unsigned nr = sparse->nr ? sparse->nr : 1;
	struct kept kept;

	if (fds->nr != 1 && (unsigned)fds->nr != nr)
		return err_set(
			err, -EPROTO, "region %u: %d descriptors for %u areas", index, fds->nr, nr);
	kept_init(&kept, vu, fds);
	r->areas = calloc(nr, sizeof(*r->areas));
	if (!r->areas)
		return err_set(err, -ENOMEM, "region %u: out of memory", index);
	for (unsigned i = 0; i < nr; i++) {
		struct vfio_area *a = &r->areas[i];
		int rc;

		a->offset = sparse->nr ? sparse->areas[i].offset : 0;
		a->size = sparse->nr ? sparse->areas[i].size : align_down(info->size, PAGE_SIZE_4K);
		a->fd_offset = info->offset + a->offset;
		a->fd = keep(&kept, fds->nr == 1 ? 0 : i);
		if (a->fd < 0)
			return err_set(err, -ENOMEM, "region %u: out of memory", index);
		rc = check_file(index, a, err);
		if (rc)
			return rc;
	}
	r->nr_areas = nr;
	return 0;
}

int vu_take_region(struct vfio_user *vu, unsigned index, const struct vu_msg *m, uint32_t *argsz,
	struct err *err)
{
	struct vfio_region *r = &vu->attach.info.regions[index];
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;
	int rc = vfio_user_parse_region_info(m->payload, m->len, index, &info, &sparse, err);

	if (rc == -ENOSPC)
		*argsz = info.argsz;
	if (rc)
		return rc;
	r->size = info.size;
	r->readable = info.flags & VFIO_USER_REGION_FLAG_READ;
	r->writable = info.flags & VFIO_USER_REGION_FLAG_WRITE;
	/* Without a descriptor the flag is of no use; only BARs have a place in guest memory. */
	if (!(info.flags & VFIO_USER_REGION_FLAG_MMAP) || !m->fds ||
		index >= VFIO_USER_REGION_ROM || info.size < PAGE_SIZE_4K)
		return 0;
	return add_areas(vu, index, &info, &sparse, m->fds, err);
}

void vu_info_fini(struct vfio_info *info)
{
	for (unsigned i = 0; i < VFIO_NR_REGIONS; i++) {
		struct vfio_region *r = &info->regions[i];

		free(r->areas);
		free(r->doorbells);
		r->areas = NULL;
		r->doorbells = NULL;
		r->nr_areas = r->nr_doorbells = 0;
	}
}

/* --- doorbells --- */

static bool known_doorbell(const struct vfio_user_sub_region *s)
{
	return s->type == VFIO_USER_IO_FD_TYPE_IOEVENTFD &&
	       !(s->flags & ~(KVM_IOEVENTFD_FLAG_DATAMATCH | KVM_IOEVENTFD_FLAG_PIO)) &&
	       (!s->size || (s->size <= 8 && is_pow2(s->size)));
}

static int add_doorbells(struct vfio_user *vu, unsigned index, const struct vu_msg *m,
	uint32_t count, struct err *err)
{
	struct vfio_region *r = &vu->attach.info.regions[index];
	const uint8_t *at = m->payload + sizeof(struct vfio_user_region_io_fds);
	struct kept kept;

	kept_init(&kept, vu, m->fds);
	r->doorbells = calloc(count, sizeof(*r->doorbells));
	if (!r->doorbells)
		return err_set(err, -ENOMEM, "region %u: out of memory", index);
	for (uint32_t i = 0; i < count; i++, at += sizeof(struct vfio_user_sub_region)) {
		struct vfio_user_sub_region s;
		int fd;

		memcpy(&s, at, sizeof(s));
		if (!known_doorbell(&s))
			continue;
		if (!range_ok(s.offset, MAX(s.size, (uint64_t)1), r->size))
			return err_set(err, -EPROTO,
				"region %u: doorbell at 0x%llx passes the region's end 0x%llx",
				index, (unsigned long long)s.offset, (unsigned long long)r->size);
		fd = keep(&kept, s.fd_index);
		if (fd < 0)
			return err_set(err, -EPROTO,
				"region %u: doorbell at 0x%llx: descriptor %u is missing", index,
				(unsigned long long)s.offset, s.fd_index);
		r->doorbells[r->nr_doorbells++] = (struct vfio_doorbell){
			.offset = s.offset,
			.size = (uint32_t)s.size,
			.match = s.flags & KVM_IOEVENTFD_FLAG_DATAMATCH,
			.value = s.datamatch,
			.fd = fd,
		};
	}
	return 0;
}

int vu_take_doorbells(struct vfio_user *vu, unsigned index, const struct vu_msg *m, uint32_t *argsz,
	struct err *err)
{
	struct vfio_user_region_io_fds info;

	memcpy(&info, m->payload, sizeof(info));
	if (info.index != index)
		return err_set(err, -EPROTO,
			"asked about doorbells of region %u, told of region %u", index, info.index);
	if (!info.count)
		return 0;
	if (info.argsz > MAX_IO_FDS_REPLY)
		return err_set(err, -EPROTO, "region %u: list of doorbells needs %u bytes", index,
			info.argsz);
	*argsz = info.argsz;
	if (info.argsz > m->len)
		return -ENOSPC;
	if (info.count > (m->len - sizeof(info)) / sizeof(struct vfio_user_sub_region))
		return err_set(err, -EPROTO, "region %u: %u doorbells in %u bytes", index,
			info.count, m->len);
	return add_doorbells(vu, index, m, info.count, err);
}

/* --- interrupts --- */

int vu_take_irq(struct vfio_user *vu, unsigned index, const struct vu_msg *m, struct err *err)
{
	struct vfio_user_irq_info info;

	memcpy(&info, m->payload, sizeof(info));
	if (info.index != index)
		return err_set(err, -EPROTO, "asked about interrupt type %u, told of type %u",
			index, info.index);
	if (info.count > MAX_IRQS)
		return err_set(err, -EPROTO,
			"interrupt type %u: %u interrupts, expected at most %u", index, info.count,
			MAX_IRQS);
	/* One that cannot be signalled by an eventfd can not be signalled at all. */
	if (info.flags & VFIO_USER_IRQ_FLAG_EVENTFD)
		vu->attach.info.irqs[index] = (struct vfio_irq){ info.flags, info.count };
	return 0;
}

/* --- the same device again? --- */

int vu_same_shape(const struct vfio_info *was, const struct vfio_info *is, struct err *err)
{
	for (unsigned i = 0; i < VFIO_NR_REGIONS; i++) {
		const struct vfio_region *a = &was->regions[i], *b = &is->regions[i];

		if (a->size != b->size || a->readable != b->readable || a->writable != b->writable)
			return err_set(err, -EPROTO,
				"it is another device: region %u has 0x%llx bytes (%s%s), not 0x%llx "
				"(%s%s)",
				i, (unsigned long long)b->size, b->readable ? "r" : "",
				b->writable ? "w" : "", (unsigned long long)a->size,
				a->readable ? "r" : "", a->writable ? "w" : "");
	}
	for (unsigned i = 0; i < VFIO_NR_IRQS; i++) {
		const struct vfio_irq *a = &was->irqs[i], *b = &is->irqs[i];

		if (a->count != b->count || a->flags != b->flags)
			return err_set(err, -EPROTO,
				"it is another device: %u interrupts of type %u (flags 0x%x), not %u "
				"(flags 0x%x)",
				b->count, i, b->flags, a->count, a->flags);
	}
	return 0;
}
