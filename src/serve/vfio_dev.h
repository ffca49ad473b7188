/*
 * vfio_dev.h - a PCI device that this program drives itself, through VFIO
 *
 * By the device's own character device and iommufd where the kernel has both, else by its group and
 * a container. A device without an IOMMU, where the kernel allows that, works with addresses of
 * physical memory: then nothing keeps the device from other memory, which is said.
 *
 * After vfio_dev_open(), vfio_dev_map_dma() and vfio_dev_vectors() nothing is opened and no ioctl
 * made.
 *
 * Threads: any, one at a time.
 */
#ifndef SERVE_VFIO_DEV_H
#define SERVE_VFIO_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/pci_address.h"

/* The system calls by which VFIO is used: a test can be the kernel. */
struct vfio_calls {
	const char *root; /* before every path of sysfs: "" */
	/* For reading and writing, close-on-exec. A descriptor or -errno. */
	int (*open)(const struct vfio_calls *c, const char *path);
	/* What it returns (0 or above), or -errno. */
	int (*ioctl)(const struct vfio_calls *c, int fd, unsigned long request, void *arg);
	/* How many bytes, or -errno. */
	ssize_t (*pread)(const struct vfio_calls *c, int fd, void *buf, size_t len, uint64_t off);
	ssize_t (*pwrite)(
		const struct vfio_calls *c, int fd, const void *buf, size_t len, uint64_t off);
};

extern const struct vfio_calls vfio_calls_kernel;

#define VFIO_DEV_BARS	6
#define VFIO_DEV_CONFIG 6 /* the configuration space, behind the BARs */

struct vfio_dev {
	const struct vfio_calls *calls;
	char name[PCI_ADDRESS_ROOM];
	int fd;		      /* the device; its BARs can be mapped from it */
	int group, container; /* or -1, and iommufd */
	int iommufd;
	uint32_t ioas;
	bool physical; /* no IOMMU */
	struct vfio_dev_region {
		uint64_t at, size; /* in fd; size 0: it is not there */
		bool mappable;
	} regions[VFIO_DEV_CONFIG + 1];
	unsigned nr_vectors; /* of MSI-X */
};

/*
 * All of it is set. 0 or -errno with a text; vfio_dev_close() in any case. Decoding and DMA are on.
 */
int vfio_dev_open(struct vfio_dev *d, const struct vfio_calls *calls,
	const struct pci_address *address, struct err *err);
/* Never opened, but zeroed: fine. */
void vfio_dev_close(struct vfio_dev *d);

/*
 * 1, 2 or 4 bytes of a register, or any of the configuration space. 0
 * or -errno: -ERANGE beyond its end.
 */
int vfio_dev_read(const struct vfio_dev *d, unsigned region, uint64_t off, void *buf, size_t len);
int vfio_dev_write(
	const struct vfio_dev *d, unsigned region, uint64_t off, const void *buf, size_t len);

/*
 * Let the device reach [mem, mem + size), whole pages that stay mapped. pages[i] is where it finds
 * the i-th of them. 0 or -errno with a text.
 */
int vfio_dev_map_dma(
	struct vfio_dev *d, void *mem, size_t size, uint64_t *pages, struct err *err);

/*
 * The first vectors signal these eventfds, which are borrowed: as many as can be had. How many (1
 * or more), or -errno with a text.
 */
int vfio_dev_vectors(struct vfio_dev *d, const int *eventfds, unsigned nr, struct err *err);
/* Signalled when the host wants the device back. Borrowed. A kernel that never asks: fine. */
void vfio_dev_on_request(struct vfio_dev *d, int eventfd);

#endif
