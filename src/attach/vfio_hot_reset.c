/*
 * vfio_hot_reset.c - resetting all that is on a device's bus: what both ways into the IOMMU share
 *
 * The kernel lists the devices that it concerns. Who of them is this machine's is told apart in the
 * way's own terms: by groups in a container, by the kernel itself with iommufd.
 */
#include <errno.h>
#include <string.h>

#include "attach/vfio_iommu_priv.h"
#include "base/util.h"

int vfio_ask_bus(struct vfio_iommu *io, const struct vfio_binding *b,
	struct vfio_pci_hot_reset_info **out, struct err *err)
{
	const struct vfio_pci_hot_reset_info head = { 0 };
	FREE_AUTO void *reply = NULL;
	struct vfio_pci_hot_reset_info *info;
	uint32_t size;
	int rc = vfio_ask_list(io->sys, b->device_fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &head,
		sizeof(head), &reply, &size);

	if (rc == -ENODEV)
		return err_set(err, -ENOTTY, "it is on no bus that can be reset");
	info = reply;
	if (!rc && info->count > (size - sizeof(*info)) / sizeof(info->devices[0]))
		rc = -EPROTO;
	if (rc)
		return err_set(err, rc, "which devices a reset of its bus concerns: %s",
			strerror(-rc));
	*out = info;
	reply = NULL;
	return 0;
}

int vfio_reset_bus(struct vfio_iommu *io, const struct vfio_binding *b,
	struct vfio_pci_hot_reset *reset, struct err *err)
{
	int rc = vfio_ioctl(io, b->device_fd, VFIO_DEVICE_PCI_HOT_RESET, reset);

	return rc ? err_set(err, rc, "the reset of its bus failed: %s", strerror(-rc)) : 0;
}
