/*
 * fake_kvm.h - KVM, as far as the attach side uses it: what it was asked is written down
 *
 * kvm_vm_ioctl() stands here instead of the machine's, so no /dev/kvm is needed. To take away what
 * is not there is a mistake of whoever does.
 */
#ifndef TESTS_FAKE_KVM_H
#define TESTS_FAKE_KVM_H

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/kvm.h"
#include "machine/layout.h"

#define MAYBE_UNUSED __attribute__((unused))

#define KVM_MAX 512

static struct fake_kvm {
	pthread_mutex_t lock;
	struct kvm_userspace_memory_region slots[KVM_MAX];
	struct kvm_ioeventfd io[KVM_MAX];
	unsigned nr_io;
	struct kvm_irqfd irq[KVM_MAX];
	unsigned nr_irq;
	int line[GSI_IOAPIC_COUNT];
	unsigned line_changes;
	int refuse_ioeventfd, refuse_slot; /* errno */
	/* Called before a memory slot comes (memory_size > 0) or goes. */
	void (*on_slot)(const struct kvm_userspace_memory_region *r);
} fake_kvm = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* On whatever thread this is. */
static int fake_kvm_wrong(const char *what)
{
	fprintf(stderr, "KVM: %s\n", what);
	abort();
}

static int fake_ioeventfd(const struct kvm_ioeventfd *a)
{
	struct fake_kvm *k = &fake_kvm;

	if (!(a->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)) {
		if (k->refuse_ioeventfd)
			return -k->refuse_ioeventfd;
		if (k->nr_io == KVM_MAX)
			return fake_kvm_wrong("too many ioeventfds");
		k->io[k->nr_io++] = *a;
		return 0;
	}
	for (unsigned i = 0; i < k->nr_io; i++)
		if (k->io[i].addr == a->addr && k->io[i].fd == a->fd &&
			k->io[i].datamatch == a->datamatch && k->io[i].len == a->len) {
			k->io[i] = k->io[--k->nr_io];
			return 0;
		}
	return fake_kvm_wrong("an ioeventfd is taken away that is not there");
}

static int fake_irqfd(const struct kvm_irqfd *a)
{
	struct fake_kvm *k = &fake_kvm;

	if (!(a->flags & KVM_IRQFD_FLAG_DEASSIGN)) {
		if (k->nr_irq == KVM_MAX)
			return fake_kvm_wrong("too many irqfds");
		k->irq[k->nr_irq++] = *a;
		return 0;
	}
	for (unsigned i = 0; i < k->nr_irq; i++)
		if (k->irq[i].fd == a->fd && k->irq[i].gsi == a->gsi) {
			k->irq[i] = k->irq[--k->nr_irq];
			return 0;
		}
	return fake_kvm_wrong("an irqfd is taken away that is not there");
}

static int fake_slot(const struct kvm_userspace_memory_region *r)
{
	if (r->memory_size && fake_kvm.refuse_slot)
		return -fake_kvm.refuse_slot;
	if (fake_kvm.on_slot)
		fake_kvm.on_slot(r);
	fake_kvm.slots[r->slot] = *r;
	return 0;
}

static int fake_ioctl(unsigned long request, void *arg)
{
	const struct kvm_irq_level *level = arg;

	switch (request) {
	case KVM_SET_USER_MEMORY_REGION:
		return fake_slot(arg);
	case KVM_IOEVENTFD:
		return fake_ioeventfd(arg);
	case KVM_IRQFD:
		return fake_irqfd(arg);
	case KVM_IRQ_LINE:
		fake_kvm.line[level->irq] = (int)level->level;
		fake_kvm.line_changes++;
		return 0;
	default:
		return 0;
	}
}

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg)
{
	int rc;

	pthread_mutex_lock(&fake_kvm.lock);
	rc = fake_ioctl(request, arg);
	pthread_mutex_unlock(&fake_kvm.lock);
	return rc;
}

/* For a new machine: nothing is there, nothing refused. */
static MAYBE_UNUSED void fake_kvm_reset(void)
{
	fake_kvm = (struct fake_kvm){ .lock = PTHREAD_MUTEX_INITIALIZER };
}

/* The slot that begins at an address; NULL: none. */
static MAYBE_UNUSED const struct kvm_userspace_memory_region *slot_at(uint64_t gpa)
{
	for (unsigned i = 0; i < KVM_MAX; i++)
		if (fake_kvm.slots[i].memory_size && fake_kvm.slots[i].guest_phys_addr == gpa)
			return &fake_kvm.slots[i];
	return NULL;
}

static MAYBE_UNUSED unsigned kvm_nr_slots(void)
{
	unsigned n = 0;

	pthread_mutex_lock(&fake_kvm.lock);
	for (unsigned i = 0; i < KVM_MAX; i++)
		n += fake_kvm.slots[i].memory_size != 0;
	pthread_mutex_unlock(&fake_kvm.lock);
	return n;
}

static MAYBE_UNUSED bool kvm_has_slot(uint64_t gpa, uint64_t size)
{
	bool found = false;

	pthread_mutex_lock(&fake_kvm.lock);
	for (unsigned i = 0; i < KVM_MAX; i++)
		found = found || (fake_kvm.slots[i].guest_phys_addr == gpa &&
					 fake_kvm.slots[i].memory_size == size);
	pthread_mutex_unlock(&fake_kvm.lock);
	return found;
}

static MAYBE_UNUSED unsigned kvm_nr_ioeventfds(void)
{
	unsigned n;

	pthread_mutex_lock(&fake_kvm.lock);
	n = fake_kvm.nr_io;
	pthread_mutex_unlock(&fake_kvm.lock);
	return n;
}

/* The irqfd of a line with resample, or NULL. */
static MAYBE_UNUSED const struct kvm_irqfd *kvm_line(void)
{
	for (unsigned i = 0; i < fake_kvm.nr_irq; i++)
		if (fake_kvm.irq[i].flags & KVM_IRQFD_FLAG_RESAMPLE)
			return &fake_kvm.irq[i];
	return NULL;
}

#endif
