/*
 * vfio_dma.h - our memory in a device's address space, by each of the ways there are; for
 * vfio_dev.c
 *
 * [mem, mem + size) is whole pages. 0 or -errno with a text.
 */
#ifndef SERVE_VFIO_DMA_H
#define SERVE_VFIO_DMA_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "serve/vfio_dev.h"

/* Somewhere in the ranges that the IOMMU allows; *iova says where. */
int vfio_dma_container(const struct vfio_calls *c, int container, void *mem, size_t size,
	uint64_t *iova, struct err *err);
int vfio_dma_iommufd(const struct vfio_calls *c, int iommufd, uint32_t ioas, void *mem, size_t size,
	uint64_t *iova, struct err *err);
/* Without an IOMMU: where each page lies, which needs CAP_SYS_ADMIN. */
int vfio_dma_physical(void *mem, size_t size, uint64_t *pages, struct err *err);

#endif
