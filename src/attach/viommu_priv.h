/*
 * viommu_priv.h - what the files of the guest's IOMMU share
 *
 *   viommu.c          the device: queues, its thread, reset, who is behind it
 *   viommu_request.c  what a request says, and the answer
 */
#ifndef ATTACH_VIOMMU_PRIV_H
#define ATTACH_VIOMMU_PRIV_H

#include <linux/virtio_iommu.h>

#include "attach/viommu.h"
#include "device/virtqueue.h"

/* What a property list takes, and the room for it. */
#define VIOMMU_PROBE_SIZE 512

/* Interrupts are writes of a device to here; they are not translated. Intel SDM, 11.11.1 */
#define VIOMMU_MSI_FIRST 0xfee00000ull
#define VIOMMU_MSI_LAST	 0xfeefffffull

/*
 * Carry out the request whose readable part is req's, waiting for devices as it takes, and write
 * the answer. The bytes written.
 */
uint32_t viommu_serve(struct iommu *io, const struct vq_req *req);

#endif
