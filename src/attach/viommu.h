/*
 * viommu.h - the guest's IOMMU: a virtio-iommu function that the VMM serves itself
 *
 * It is no device outside but what stands between those and memory, so it lives here: a struct
 * virtio_backend whose queues are walked on a thread of its own, "viommu", never on the loop or a
 * vCPU, since an unmap waits for the devices that it is taken from. Which functions are behind it
 * the guest reads in the table VIOT.
 *
 * Spec: virtio 1.3, 5.13; ACPI 6.5, 5.2.32 (VIOT).
 */
#ifndef ATTACH_VIOMMU_H
#define ATTACH_VIOMMU_H

#include "attach/device.h"
#include "machine/iommu.h"
#include "machine/machine.h"

struct viommu;

struct viommu_params {
	const char *id;	       /* copied */
	unsigned address_bits; /* 32 to 64: of the addresses that the guest may map */
};

/* m is borrowed until viommu_free(). Gives *out. 0 or -errno with a text. Loop thread. */
int viommu_new(
	struct machine *m, const struct viommu_params *p, struct viommu **out, struct err *err);
/* Put it into a slot of segment 0, or PCI_SLOT_ANY. 0 or -errno with a text. Loop thread. */
int viommu_plug(struct viommu *v, int slot, struct err *err);
/* Unplugs. No function is behind it any more. Waits for nothing. NULL is fine. Loop thread. */
void viommu_free(struct viommu *v);
/* "0000:00:01.0". Borrowed. */
const char *viommu_bdf(const struct viommu *v);

/*
 * The function at this address ("0000:00:05.0", as device_bdf() says once it is plugged) is behind
 * it: its number as an endpoint is what VIOT makes of the address. 0 or -errno with a text. Its end
 * is iommu_remove(), after the device was stopped. Loop thread.
 */
int viommu_add(struct viommu *v, const char *bdf, struct dma_space *s, struct err *err);

#endif
