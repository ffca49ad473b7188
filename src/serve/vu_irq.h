/*
 * vu_irq.h - the interrupts of a served model: who listens, what is masked, when to fire
 *
 * A client gives an eventfd per interrupt. MSI and MSI-X vectors fire once per trigger; one that
 * is masked, or has no listener yet, stays pending and fires when that ends.
 * INTx is a level: it fires when it is high and not masked, and masks itself by firing; an unmask,
 * by message or through an eventfd of the client, fires again if the level is still high.
 *
 * An eventfd of the client is only ever written (base/kick.h) and watched, never read: watched for
 * edges, its counter needs no clearing, and a read could be made to wait.
 *
 * Threads: vu_irqs_trigger() and vu_irqs_set_intx() on any; the rest on the loop thread.
 */
#ifndef SERVE_VU_IRQ_H
#define SERVE_VU_IRQ_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "device/pci_model.h"
#include "wire/vfio_user.h"

struct vu_vector {
	int fd; /* -1: nobody listens */
	bool masked, pending;
};

/* An eventfd by which the client masks or unmasks INTx. */
struct vu_irq_watch {
	struct loop_source src;
	struct vu_irqs *irqs;
	int fd;
};

struct vu_irqs {
	pthread_mutex_t lock; /* guards vectors and intx_level */
	struct vu_vector *vectors[PCI_IRQ_TYPES];
	uint32_t count[PCI_IRQ_TYPES];
	bool intx_level;

	struct vu_irq_watch unmask, mask;
	struct loop *loop;
	struct pci_model *model;
	int self_fds; /* fd_kind_open()'s */
	void (*foul)(void *arg);
	void *foul_arg;
};

/*
 * foul is called, on any thread and with the lock held, when an eventfd turns out to be a trap; it
 * should arrange for the client to be dropped. 0 or -errno with a text; vu_irqs_fini() is due in
 * both cases.
 */
int vu_irqs_init(struct vu_irqs *q, struct loop *loop, struct pci_model *model,
	void (*foul)(void *arg), void *arg, struct err *err);
void vu_irqs_fini(struct vu_irqs *q);

/* The client has gone: close its descriptors, forget masks and what is pending. */
void vu_irqs_reset(struct vu_irqs *q);

/* The fields of an answer to GET_IRQ_INFO. type is below PCI_IRQ_TYPES. */
uint32_t vu_irqs_flags(const struct vu_irqs *q, enum pci_irq type);

/*
 * Do what a SET_IRQS message asks: its fixed part, len bytes behind it, its descriptors, of which
 * those that are kept are taken. 0 or -EINVAL with a text and nothing done.
 */
int vu_irqs_set(struct vu_irqs *q, const struct vfio_user_irq_set *set, const uint8_t *bools,
	size_t len, int *fds, int nr_fds, struct err *err);

void vu_irqs_set_intx(struct vu_irqs *q, bool level);
void vu_irqs_trigger(struct vu_irqs *q, enum pci_irq type, unsigned vector);

#endif
