/*
 * pci_model.h - where a PCI device model and the port that serves it meet
 *
 * A model describes itself in a struct pci_model (its regions, its interrupts, its
 * configuration space) and is called through its ops. A port (vfio-user today) finds out
 * nothing else about it, and the model knows of the port only the two interfaces that
 * it is handed: struct pci_port to interrupt, struct guest_mem to reach memory.
 *
 * A model outlives its clients. Its state stays from one to the next; what belongs to a
 * client (memory, interrupt descriptors, masks) is the port's.
 *
 * Threads: the port calls all ops on its own thread, one at a time. A model may have threads of
 * its own; pci_model_trigger() and guest memory are theirs to use too. When ops->stop has returned
 * none of them touches guest memory or interrupts until ops->start.
 */
#ifndef DEVICE_PCI_MODEL_H
#define DEVICE_PCI_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "device/guest_mem.h"
#include "device/pci_config.h"

/* Indexes as in linux/vfio.h: BARs 0 to 5, then these. */
enum { PCI_MODEL_ROM = 6, PCI_MODEL_CONFIG = 7, PCI_MODEL_VGA = 8, PCI_MODEL_REGIONS = 9 };

#define PCI_REGION_READ	 (1u << 0)
#define PCI_REGION_WRITE (1u << 1)
#define PCI_REGION_MMAP	 (1u << 2) /* fd may be mapped, all of it or only `areas` */

/* A part of a region that may be mapped; whole pages. */
struct pci_area {
	uint64_t offset, size;
};

/* A part of a region whose writes may go straight to an eventfd of the model. */
struct pci_doorbell {
	uint64_t offset;
	uint64_t size;	/* of the access: 1, 2, 4, 8; 0: any */
	uint32_t flags; /* KVM_IOEVENTFD_FLAG_* */
	uint64_t datamatch;
	int fd; /* borrowed by the port */
};

/* What it points to belongs to the model and does not change while the model is served. */
struct pci_region {
	uint64_t size; /* 0: there is none */
	uint32_t flags;
	int fd; /* with PCI_REGION_MMAP; borrowed by the port */
	uint64_t fd_offset;
	const struct pci_area *areas;
	uint32_t nr_areas;
	const struct pci_doorbell *doorbells;
	uint32_t nr_doorbells;
};

enum pci_irq { PCI_IRQ_INTX, PCI_IRQ_MSI, PCI_IRQ_MSIX, PCI_IRQ_ERR, PCI_IRQ_REQ, PCI_IRQ_TYPES };

struct pci_model;

struct pci_model_ops {
	/*
	 * Access to a BAR, ROM or VGA region. [off, off + len) lies inside it and the region's
	 * flags allow it; len is what the client chose, from 1 byte to a megabyte. 0 or -errno,
	 * which the client gets.
	 */
	int (*region_read)(
		struct pci_model *m, unsigned region, uint64_t off, void *buf, size_t len);
	int (*region_write)(
		struct pci_model *m, unsigned region, uint64_t off, const void *buf, size_t len);
	/* Back to what power-on gives, INTx lowered. The configuration space has been reset. */
	void (*reset)(struct pci_model *m);
	/* Somebody listens to this interrupt now, or no longer. May be NULL. */
	void (*irq_state)(struct pci_model *m, enum pci_irq type, unsigned vector, bool listening);
	/* Finish what touches guest memory or interrupts; go on. May be NULL. */
	void (*stop)(struct pci_model *m);
	void (*start)(struct pci_model *m);
	/*
	 * Write the state, in the model's one versioned form, into buf. Returns its length, or
	 * -ENOSPC. NULL: the model cannot be saved. load() takes such a form, from a file or
	 * another machine, so it is checked like any input: 0, or -EINVAL with a text and nothing
	 * changed.
	 */
	ssize_t (*save)(struct pci_model *m, void *buf, size_t size);
	int (*load)(struct pci_model *m, const void *buf, size_t len, struct err *err);
	/* Free the model. */
	void (*free)(struct pci_model *m);
};

/* No model's state is longer. */
#define PCI_MODEL_STATE_MAX (64u << 10)

/* What a port offers to the model it serves. */
struct pci_port;
struct pci_port_ops {
	void (*set_intx)(struct pci_port *port, bool level);
	void (*trigger)(struct pci_port *port, enum pci_irq type, unsigned vector);
};
struct pci_port {
	const struct pci_port_ops *ops;
};

/* The head of every model. */
struct pci_model {
	const struct pci_model_ops *ops;
	const char *name; /* for log lines; borrowed for the model's life */
	struct pci_config config;
	struct pci_region regions[PCI_MODEL_REGIONS]; /* the configuration space's is filled in */
	uint32_t irq_count[PCI_IRQ_TYPES];

	/*
	 * Who is told when the saved form has changed, before the access that did it is answered.
	 */
	void (*on_change)(struct pci_model *m, void *arg);
	void *on_change_arg;

	struct pci_port *port; /* NULL while nobody serves it */
	struct guest_mem *mem; /* likewise */
	bool intx;	       /* level of the line as the model drives it */
};

/* Zero the head and give it its configuration space. The model fills in the rest. */
void pci_model_init(struct pci_model *m, const struct pci_model_ops *ops, const char *name,
	uint32_t config_size, const struct pci_ids *ids);
/* m->ops->free(m), or nothing for NULL. */
void pci_model_free(struct pci_model *m);

/* For the port */

/*
 * The port's two interfaces, borrowed until pci_model_detach(). The line's level is told at once.
 */
void pci_model_attach(struct pci_model *m, struct pci_port *port, struct guest_mem *mem);
void pci_model_detach(struct pci_model *m);
/*
 * Access to any region, configuration space included, as a client asked for it. 0; -EINVAL: no such
 * region, out of its bounds, or not readable (writable); or what the model said.
 */
int pci_model_read(struct pci_model *m, uint32_t region, uint64_t off, void *buf, size_t len);
int pci_model_write(
	struct pci_model *m, uint32_t region, uint64_t off, const void *buf, size_t len);
void pci_model_reset(struct pci_model *m);

/* For the model */

/*
 * Drive the INTx line. The status register shows the level; the port hears of it unless the
 * command register has INTx disabled. Port's thread.
 */
void pci_model_set_intx(struct pci_model *m, bool level);
/* Fire one MSI or MSI-X vector. Any thread. */
void pci_model_trigger(struct pci_model *m, enum pci_irq type, unsigned vector);
/* The saved form has changed. Port's thread. */
void pci_model_changed(struct pci_model *m);

#endif
