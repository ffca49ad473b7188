/*
 * vfio_shared.h - what all address spaces of one machine's host devices have in common
 *
 * Devices that see RAM as it is share one address space, each one behind the guest's IOMMU has its
 * own (struct vfio_iommu). Of these things there is one for all of them:
 *
 *   KVM's list of VFIO files, of which a machine has one
 *   which IOMMU group is in which address space, since a group can be in one only
 *   how much memory is pinned, against the limit
 *
 * Threads: any, with a lock inside, which is the innermost.
 */
#ifndef ATTACH_VFIO_SHARED_H
#define ATTACH_VFIO_SHARED_H

#include <stdint.h>

#include "attach/vfio_sys.h"
#include "base/err.h"
#include "machine/kvm.h"

struct vfio_shared;

/* sys is borrowed, kvm until vfio_shared_leave_kvm(). Gives *out, which counts its users. 0 or
 * -ENOMEM. */
int vfio_shared_new(
	const struct vfio_sys *sys, const struct kvm *kvm, struct vfio_shared **out);
struct vfio_shared *vfio_shared_hold(struct vfio_shared *sh);
/* Group files of it are closed. NULL is fine. */
void vfio_shared_drop(struct vfio_shared *sh);
/* The machine ends: nothing new is told. */
void vfio_shared_leave_kvm(struct vfio_shared *sh);

/* KVM hears of a group or device file that the machine uses. That it can not is no failure. */
void vfio_shared_kvm_add(struct vfio_shared *sh, int fd);
void vfio_shared_kvm_remove(struct vfio_shared *sh, int fd);

/*
 * A device of this group comes into, and leaves, an address space (`space`, which is only
 * compared). number -1, a group that is not known, is fine. alone: no second device of the group
 * can come. name is the device's, for the text. 0; -EBUSY the group is in another address space, or
 * one device of it is to be alone, -ENOMEM; with a text.
 */
int vfio_shared_join_group(struct vfio_shared *sh, int number, const void *space, bool alone,
	const char *name, struct err *err);
void vfio_shared_leave_group(struct vfio_shared *sh, int number);

/* Bytes that are pinned for whole RAM, by all address spaces: `more` of them come, or go. */
void vfio_shared_pin(struct vfio_shared *sh, int64_t more);
uint64_t vfio_shared_pinned(struct vfio_shared *sh);

#endif
