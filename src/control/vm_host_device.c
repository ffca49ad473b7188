/*
 * vm_host_device.c - --device: devices of the host, all in one address space
 *
 * The first of them makes the address space; it opens nothing before that device attaches, and
 * holds nothing after the last one has left.
 */
#include <errno.h>
#include <fcntl.h>

#include "attach/host_device.h"
#include "base/util.h"
#include "control/vm_devices_priv.h"

/* CONFIG_NO_FD is not meant to be one. */
static int check_fd(const char *what, uint32_t fd, struct err *err)
{
	if (fd == CONFIG_NO_FD || fcntl((int)fd, F_GETFD) >= 0)
		return 0;
	return err_set(err, -EBADF, "%s: descriptor %u is not open", what, fd);
}

static int begin_iommu(struct vm_devices *d, const struct platform_config *c, struct err *err)
{
	const struct vfio_iommu_params p = {
		.kvm = &d->m->kvm,
		.memory = d->m->memory,
		.iommufd = c->iommufd,
		.iommufd_fd = c->iommufd_fd == CONFIG_NO_FD ? -1 : (int)c->iommufd_fd,
		.no_p2p = !c->vfio_p2p_dma,
		.worker = d->closer,
		.unsafe_noiommu = c->vfio_unsafe_noiommu,
	};
	int rc = check_fd("--platform: iommufd_fd", c->iommufd_fd, err);

	if (rc)
		return rc;
	pci_lock(d->m->pci);
	rc = vfio_iommu_new(&p, &d->iommu, err);
	pci_unlock(d->m->pci);
	return rc;
}

static int begin_device(struct vm_devices *d, const struct platform_config *c,
	const struct host_device_config *h, struct err *err)
{
	struct host_device_params p = {
		.dev = vm_device_params(d, &h->at),
		.path = h->path,
		.vf_token = h->vf_token,
		.fd = h->fd == CONFIG_NO_FD ? -1 : (int)h->fd,
		.gpudirect_clique = h->x_nv_gpudirect_clique == CONFIG_NO_CLIQUE
					    ? VFIO_PCI_NO_CLIQUE
					    : h->x_nv_gpudirect_clique,
		.unsafe_noiommu = c->vfio_unsafe_noiommu,
		.iommu = d->iommu,
		.closer = d->closer,
	};
	struct device *dev;
	int rc = check_fd("fd", h->fd, err);

	if (rc)
		return err_prefix(err, rc, "device %s", h->at.id);
	for (size_t i = 0; i < h->x_exclude_mmap_bars.nr; i++)
		p.unmapped_bars |= 1u << h->x_exclude_mmap_bars.items[i];
	rc = host_device_attach(d->m, &p, &dev, err);
	return rc ? rc : vm_devices_add(d, dev, &h->at, err);
}

int vm_begin_host_devices(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	const struct host_device_list *list = &c->devices;
	int rc = list->nr ? begin_iommu(d, &c->platform, err) : 0;

	for (size_t i = 0; i < list->nr && !rc; i++)
		rc = begin_device(d, &c->platform, &list->items[i], err);
	return rc;
}

void vm_end_host_devices(struct vm_devices *d)
{
	pci_lock(d->m->pci);
	vfio_iommu_free(d->iommu);
	pci_unlock(d->m->pci);
	d->iommu = NULL;
}
