/*
 * vfio_fake_kernel.h - the kernel's VFIO and IOMMUFD, as far as outboard uses them, behind struct
 * vfio_sys
 *
 * It keeps to the order the kernel asks for (a group is in a container before its device is handed
 * out, an address space has a device before it can be mapped, ...) and fails a test that does not.
 * What is open, mapped and known to KVM is counted, so that a test can ask for nothing to be left.
 * Any call can be made to fail: the nth of one kind, or the nth of all.
 *
 * Descriptors are real ones (of memory files), so a device's regions can be mapped, and a leak can
 * also be seen in /proc/self/fd.
 */
#ifndef TESTS_VFIO_FAKE_KERNEL_H
#define TESTS_VFIO_FAKE_KERNEL_H

#include "vfio_fake_kernel_device.h"

/* --- accesses --- */

static ssize_t fk_access(
	struct fake_kernel *k, int fd, void *buf, size_t len, uint64_t off, bool write)
{
	struct fk_device *d = fk_device(k, fd);
	uint64_t region = off >> FK_OFFSET, at = off & ((1ull << FK_OFFSET) - 1);

	assert_true(region < FK_REGIONS);
	if (d->gone || (d->bar_eio && region != VFIO_PCI_CONFIG_REGION_INDEX))
		return -EIO;
	if (!range_ok(at, len, d->regions[region].size))
		return -EINVAL;
	if (region != VFIO_PCI_CONFIG_REGION_INDEX)
		return write ? pwrite(fd, buf, len, (off_t)off) : pread(fd, buf, len, (off_t)off);
	if (write)
		memcpy(d->config + at, buf, len);
	else
		memcpy(buf, d->config + at, len);
	return (ssize_t)len;
}

static ssize_t fk_pread(const struct vfio_sys *sys, int fd, void *buf, size_t len, uint64_t off)
{
	struct fake_kernel *k = fk_of(sys);
	ssize_t n = fk_call(k, FK_PREAD);

	if (!n)
		n = fk_access(k, fd, buf, len, off, false);
	pthread_mutex_unlock(&k->lock);
	return n;
}

static ssize_t fk_pwrite(
	const struct vfio_sys *sys, int fd, const void *buf, size_t len, uint64_t off)
{
	struct fake_kernel *k = fk_of(sys);
	ssize_t n = fk_call(k, FK_PWRITE);

	if (!n)
		n = fk_access(k, fd, (void *)buf, len, off, true);
	pthread_mutex_unlock(&k->lock);
	return n;
}

static uint64_t fk_memlock(const struct vfio_sys *sys)
{
	return fk_of(sys)->memlock;
}

/* --- setting it up --- */

static FK_UNUSED void fk_init(struct fake_kernel *k)
{
	*k = (struct fake_kernel){
		.sys = { fk_open, fk_close, fk_ioctl, fk_pread, fk_pwrite, fk_memlock },
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.memlock = UINT64_MAX,
	};
}

/*
 * A device like a simple network card: BAR 0 of 16 KiB that can be mmapped, MSI-X, a reset of its
 * own.
 */
static FK_UNUSED struct fk_device *fk_add_device(
	struct fake_kernel *k, const char *name, int group, const char *cdev)
{
	struct fk_device *d = &k->devices[k->nr_devices++];
	const uint32_t rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

	assert_true(k->nr_devices <= FK_DEVICES);
	*d = (struct fk_device){
		.name = name,
		.cdev = cdev,
		.group = group,
		.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
		.num_regions = 9,
		.num_irqs = 5,
	};
	d->regions[0] =
		(struct fk_region){ .flags = rw | VFIO_REGION_INFO_FLAG_MMAP, .size = 0x4000 };
	d->regions[VFIO_PCI_CONFIG_REGION_INDEX] = (struct fk_region){ .flags = rw, .size = 256 };
	d->irqs[VFIO_PCI_INTX_IRQ_INDEX] = (struct vfio_irq_info){ .count = 1,
		.flags =
			VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED };
	d->irqs[VFIO_PCI_MSIX_IRQ_INDEX] =
		(struct vfio_irq_info){ .count = 4, .flags = VFIO_IRQ_INFO_EVENTFD };
	for (unsigned i = VFIO_PCI_ERR_IRQ_INDEX; i <= VFIO_PCI_REQ_IRQ_INDEX; i++)
		d->irqs[i] = (struct vfio_irq_info){ .count = 1, .flags = VFIO_IRQ_INFO_EVENTFD };
	memcpy(d->config, "\x86\x80\xd3\x10", 4);
	d->config[PCI_CLASS_DEVICE + 1] = 2;
	d->config[PCI_INTERRUPT_PIN] = 1;
	return d;
}

/* Nothing of it is left. */
static FK_UNUSED void fk_check_empty(const struct fake_kernel *k)
{
	for (unsigned i = 0; i < FK_FILES; i++)
		assert_int_equal(k->files[i].kind, FK_CLOSED);
	assert_int_equal(k->nr_maps, 0);
}

#endif
