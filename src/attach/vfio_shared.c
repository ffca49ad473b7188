/*
 * vfio_shared.c - KVM's list of VFIO files, groups and their address spaces, pinned memory
 *
 * Owns: KVM's device for the list. Files in it are closed by whoever opened them.
 * Spec: linux/kvm.h, KVM_DEV_TYPE_VFIO.
 */
#include "attach/vfio_shared.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "wire/vfio_kernel.h"

struct group_use {
	int number;
	const void *space;
	bool alone;
	unsigned users;
	struct group_use *next;
};

struct vfio_shared {
	const struct vfio_sys *sys;
	atomic_uint users;
	pthread_mutex_t lock;
	const struct kvm *kvm; /* NULL: the machine has ended */
	int kvm_fd;	       /* -1: none */
	bool no_kvm_list;
	struct group_use *groups;
	uint64_t pinned;
};

/* --- KVM's list --- */

static int kvm_attr(struct vfio_shared *sh, uint64_t what, int fd)
{
	int32_t file = fd;
	struct kvm_device_attr attr = {
		.group = KVM_DEV_VFIO_FILE,
		.attr = what,
		.addr = (uintptr_t)&file,
	};

	return sh->sys->ioctl(sh->sys, sh->kvm_fd, KVM_SET_DEVICE_ATTR, &attr);
}

static bool open_kvm_list(struct vfio_shared *sh)
{
	struct kvm_create_device create = { .type = KVM_DEV_TYPE_VFIO };
	int rc;

	if (sh->kvm_fd >= 0 || sh->no_kvm_list || !sh->kvm)
		return sh->kvm_fd >= 0;
	rc = sh->sys->ioctl(sh->sys, sh->kvm->vm_fd, KVM_CREATE_DEVICE, &create);
	if (!rc)
		sh->kvm_fd = (int)create.fd;
	else
		log_debug("KVM cannot be told of VFIO's devices: %s", strerror(-rc));
	sh->no_kvm_list = rc;
	return !rc;
}

/* It looks at them for what their DMA does to caches; most devices work without. */
void vfio_shared_kvm_add(struct vfio_shared *sh, int fd)
{
	int rc;

	pthread_mutex_lock(&sh->lock);
	rc = open_kvm_list(sh) ? kvm_attr(sh, KVM_DEV_VFIO_FILE_ADD, fd) : 0;
	pthread_mutex_unlock(&sh->lock);
	if (rc && rc != -EEXIST)
		log_debug("KVM does not take a VFIO file into its list: %s", strerror(-rc));
}

void vfio_shared_kvm_remove(struct vfio_shared *sh, int fd)
{
	pthread_mutex_lock(&sh->lock);
	if (sh->kvm_fd >= 0)
		kvm_attr(sh, KVM_DEV_VFIO_FILE_DEL, fd);
	pthread_mutex_unlock(&sh->lock);
}

void vfio_shared_leave_kvm(struct vfio_shared *sh)
{
	pthread_mutex_lock(&sh->lock);
	sh->kvm = NULL;
	pthread_mutex_unlock(&sh->lock);
}

/* --- groups --- */

static struct group_use **find_group(struct vfio_shared *sh, int number)
{
	struct group_use **at = &sh->groups;

	while (*at && (*at)->number != number)
		at = &(*at)->next;
	return at;
}

static int refuse_group(int number, const char *name, struct err *err)
{
	return err_set(err, -EBUSY,
		"%s is in group %d of the host's IOMMU with another of the machine's devices, and one of the two is "
		"behind the guest's IOMMU (iommu=on): a group has one address space, so only one of its devices can be "
		"given to such a guest",
		name, number);
}

static int add_group(struct vfio_shared *sh, int number, const void *space, bool alone)
{
	struct group_use *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	*g = (struct group_use){
		.number = number, .space = space, .alone = alone, .users = 1, .next = sh->groups
	};
	sh->groups = g;
	return 0;
}

int vfio_shared_join_group(struct vfio_shared *sh, int number, const void *space, bool alone,
	const char *name, struct err *err)
{
	struct group_use *g;
	int rc = 0;

	if (number < 0)
		return 0;
	pthread_mutex_lock(&sh->lock);
	g = *find_group(sh, number);
	if (!g)
		rc = add_group(sh, number, space, alone);
	else if (g->space != space || g->alone || alone)
		rc = -EBUSY;
	else
		g->users++;
	pthread_mutex_unlock(&sh->lock);
	if (rc == -EBUSY)
		return refuse_group(number, name, err);
	return rc ? err_set(err, rc, "out of memory") : 0;
}

void vfio_shared_leave_group(struct vfio_shared *sh, int number)
{
	struct group_use **at, *g;

	if (number < 0)
		return;
	pthread_mutex_lock(&sh->lock);
	at = find_group(sh, number);
	g = *at;
	if (g && !--g->users) {
		*at = g->next;
		free(g);
	}
	pthread_mutex_unlock(&sh->lock);
}

/* --- pinned memory --- */

void vfio_shared_pin(struct vfio_shared *sh, int64_t more)
{
	pthread_mutex_lock(&sh->lock);
	sh->pinned += (uint64_t)more;
	pthread_mutex_unlock(&sh->lock);
}

uint64_t vfio_shared_pinned(struct vfio_shared *sh)
{
	uint64_t pinned;

	pthread_mutex_lock(&sh->lock);
	pinned = sh->pinned;
	pthread_mutex_unlock(&sh->lock);
	return pinned;
}

/* --- life --- */

int vfio_shared_new(
	const struct vfio_sys *sys, const struct kvm *kvm, struct vfio_shared **out)
{
	struct vfio_shared *sh = calloc(1, sizeof(*sh));

	if (!sh)
		return -ENOMEM;
	*sh = (struct vfio_shared){ .sys = sys, .users = 1, .kvm = kvm, .kvm_fd = -1 };
	pthread_mutex_init(&sh->lock, NULL);
	*out = sh;
	return 0;
}

struct vfio_shared *vfio_shared_hold(struct vfio_shared *sh)
{
	atomic_fetch_add(&sh->users, 1);
	return sh;
}

void vfio_shared_drop(struct vfio_shared *sh)
{
	if (!sh || atomic_fetch_sub(&sh->users, 1) != 1)
		return;
	if (sh->kvm_fd >= 0)
		sh->sys->close(sh->sys, sh->kvm_fd);
	pthread_mutex_destroy(&sh->lock);
	free(sh);
}
