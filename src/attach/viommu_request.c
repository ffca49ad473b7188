/*
 * viommu_request.c - what a request to the virtio-iommu says, and the answer
 *
 * A request is a readable part whose first byte says what follows, and a writable one that ends
 * with the status. One that is too short for what it says has no status: it is returned unwritten,
 * and so is one of a type that is not known. Longer parts than needed are fine.
 *
 * Trusts: nothing. Numbers are judged by machine/iommu.c.
 * Spec:   virtio 1.3, 5.13.6.
 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "attach/viommu_priv.h"
#include "base/util.h"

/* virtio 1.3, 5.13.6.3; younger than the kernel header that some build with. */
#ifndef VIRTIO_IOMMU_ATTACH_F_BYPASS
#define VIRTIO_IOMMU_ATTACH_F_BYPASS (1 << 0)
#endif

static_assert(sizeof(struct virtio_iommu_req_attach) == 24, "5.13.6.3");
static_assert(sizeof(struct virtio_iommu_req_map) == 40, "5.13.6.5");
static_assert(sizeof(struct virtio_iommu_req_unmap) == 32, "5.13.6.6");

union request {
	struct virtio_iommu_req_head head;
	struct virtio_iommu_req_attach attach;
	struct virtio_iommu_req_detach detach;
	struct virtio_iommu_req_map map;
	struct virtio_iommu_req_unmap unmap;
	struct virtio_iommu_req_probe probe;
};

static uint8_t status_of(int rc)
{
	switch (rc) {
	case 0:
		return VIRTIO_IOMMU_S_OK;
	case -ENOENT:
		return VIRTIO_IOMMU_S_NOENT;
	case -EINVAL:
	case -EEXIST:
		return VIRTIO_IOMMU_S_INVAL;
	case -ERANGE:
		return VIRTIO_IOMMU_S_RANGE;
	case -ENOMEM:
	case -ENOSPC:
		return VIRTIO_IOMMU_S_NOMEM;
	default:
		return VIRTIO_IOMMU_S_DEVERR;
	}
}

static int attach(struct iommu *io, const union request *rq)
{
	const struct virtio_iommu_req_attach *a = &rq->attach;
	struct {
		uint32_t flags;
		uint8_t reserved[4];
	} rest;

	/* Older headers know the flags as reserved bytes. */
	memcpy(&rest, (const char *)a + offsetof(struct virtio_iommu_req_attach, endpoint) + 4,
		sizeof(rest));
	if (le32toh(rest.flags) & ~(uint32_t)VIRTIO_IOMMU_ATTACH_F_BYPASS ||
		rest.reserved[0] | rest.reserved[1] | rest.reserved[2] | rest.reserved[3])
		return -EINVAL;
	return iommu_attach(io, le32toh(a->domain), le32toh(a->endpoint),
		le32toh(rest.flags) & VIRTIO_IOMMU_ATTACH_F_BYPASS);
}

static int detach(struct iommu *io, const union request *rq)
{
	return iommu_detach(io, le32toh(rq->detach.domain), le32toh(rq->detach.endpoint));
}

static int map(struct iommu *io, const union request *rq)
{
	const struct virtio_iommu_req_map *m = &rq->map;
	uint32_t flags = le32toh(m->flags);
	unsigned access = (flags & VIRTIO_IOMMU_MAP_F_READ ? DMA_CAN_READ : 0) |
			  (flags & VIRTIO_IOMMU_MAP_F_WRITE ? DMA_CAN_WRITE : 0);

	if (!access || flags & ~(uint32_t)(VIRTIO_IOMMU_MAP_F_READ | VIRTIO_IOMMU_MAP_F_WRITE))
		return -EINVAL;
	return iommu_map(io, le32toh(m->domain), le64toh(m->virt_start), le64toh(m->virt_end),
		le64toh(m->phys_start), access);
}

static int unmap(struct iommu *io, const union request *rq)
{
	const struct virtio_iommu_req_unmap *u = &rq->unmap;

	return iommu_unmap(io, le32toh(u->domain), le64toh(u->virt_start), le64toh(u->virt_end));
}

static_assert(IOMMU_MAX_ENDPOINT_RESV * sizeof(struct virtio_iommu_probe_resv_mem) <=
		      VIOMMU_PROBE_SIZE,
	"all that can be reserved fits");

static struct virtio_iommu_probe_resv_mem resv_property(const struct iommu_resv *resv)
{
	return (struct virtio_iommu_probe_resv_mem){
		.head = {
			.type = htole16(VIRTIO_IOMMU_PROBE_T_RESV_MEM),
			.length = htole16(sizeof(struct virtio_iommu_probe_resv_mem) -
					  sizeof(struct virtio_iommu_probe_property)),
		},
		.subtype = resv->msi ? VIRTIO_IOMMU_RESV_MEM_T_MSI :
				       VIRTIO_IOMMU_RESV_MEM_T_RESERVED,
		.start = htole64(resv->first),
		.end = htole64(resv->last),
	};
}

/* What cannot be mapped is the one property that endpoints have; the rest of the list is zero. */
static int probe(struct iommu *io, const union request *rq, const struct vq_req *req)
{
	uint8_t properties[VIOMMU_PROBE_SIZE] = { 0 };
	struct iommu_resv resv[IOMMU_MAX_ENDPOINT_RESV];
	int nr = iommu_reserved(io, le32toh(rq->probe.endpoint), resv);

	if (nr < 0)
		return nr;
	for (int i = 0; i < nr; i++) {
		const struct virtio_iommu_probe_resv_mem p = resv_property(&resv[i]);

		memcpy(properties + (size_t)i * sizeof(p), &p, sizeof(p));
	}
	vq_req_write(req, 0, properties, sizeof(properties));
	return 0;
}

static const struct kind {
	uint8_t type;
	uint32_t size; /* of the readable part */
	int (*serve)(struct iommu *io, const union request *rq);
} kinds[] = {
	{ VIRTIO_IOMMU_T_ATTACH, offsetof(struct virtio_iommu_req_attach, tail), attach },
	{ VIRTIO_IOMMU_T_DETACH, offsetof(struct virtio_iommu_req_detach, tail), detach },
	{ VIRTIO_IOMMU_T_MAP, offsetof(struct virtio_iommu_req_map, tail), map },
	{ VIRTIO_IOMMU_T_UNMAP, offsetof(struct virtio_iommu_req_unmap, tail), unmap },
	{ VIRTIO_IOMMU_T_PROBE, offsetof(struct virtio_iommu_req_probe, properties), NULL },
};

static const struct kind *find_kind(uint8_t type)
{
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].type == type)
			return &kinds[i];
	return NULL;
}

uint32_t viommu_serve(struct iommu *io, const struct vq_req *req)
{
	struct virtio_iommu_req_tail tail = { 0 };
	union request rq = { 0 };
	const struct kind *kind;
	uint64_t at = 0; /* of the tail */
	int rc;

	vq_req_read(req, 0, &rq, sizeof(rq));
	kind = req->out_len >= sizeof(rq.head) ? find_kind(rq.head.type) : NULL;
	if (!kind || req->out_len < kind->size || req->in_len < sizeof(tail))
		return 0;
	if (kind->serve) {
		rc = kind->serve(io, &rq);
	} else if (req->in_len < VIOMMU_PROBE_SIZE + sizeof(tail)) {
		rc = -EINVAL;
		at = req->in_len - sizeof(tail);
	} else {
		rc = probe(io, &rq, req);
		at = VIOMMU_PROBE_SIZE;
	}
	tail.status = status_of(rc);
	vq_req_write(req, at, &tail, sizeof(tail));
	return (uint32_t)(at + sizeof(tail));
}
