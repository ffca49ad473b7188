/*
 * virtio_pci_config.c - configuration space: identity, capabilities, the access window
 *
 * All of it is ours: the core keeps what the driver writes. Two places do something:
 * the control words of MSI-X and INTx, and the window, a capability through which a driver that
 * cannot reach a BAR (firmware, early in a boot) reads and writes the registers. An access of the
 * window's data is carried out as one of BAR 0, by the same code.
 *
 * Capabilities lie one after the other from 0x40 on. The header's 256 bytes have room for
 * VIRTIO_MAX_SHM shared-memory capabilities after the others.
 *
 * Spec: virtio 1.3, 4.1.2 and 4.1.4; PCI Local Bus 3.0, 6.1, 6.7 and 6.8.2.
 */
#include <string.h>

#include "attach/virtio_pci_priv.h"
#include "wire/vvu.h"

#define VENDOR	     0x1af4u
#define DEVICE_BASE  0x1040u /* + type */
#define FIRST_CAP    0x40u
#define CAPS_END     0x100u
#define MSIX_CAP_LEN 12u
#define WINDOW_DATA  16u /* in its capability */

static_assert(sizeof(struct virtio_pci_cap) == 16, "4.1.4");
static_assert(sizeof(struct virtio_pci_notify_cap) == VVU_DOORBELL_CAP_LEN, "doorbells of others");
static_assert(FIRST_CAP + MSIX_CAP_LEN + 3 * sizeof(struct virtio_pci_cap) +
			      sizeof(struct virtio_pci_notify_cap) +
			      sizeof(struct virtio_pci_cfg_cap) +
			      VIRTIO_MAX_SHM * sizeof(struct virtio_pci_cap64) <=
		      CAPS_END,
	"room for all capabilities");
/* Two regions of the short kind and one of the long. */
static_assert(FIRST_CAP + MSIX_CAP_LEN + 6 * sizeof(struct virtio_pci_cap) +
			      2 * sizeof(struct virtio_pci_notify_cap) +
			      sizeof(struct virtio_pci_cfg_cap) + sizeof(struct virtio_pci_cap64) <=
		      CAPS_END,
	"room for all capabilities of a function with doorbells of others");

/* --- building --- */

/* Where the next capability goes, and the byte that will point at it. */
struct chain {
	unsigned link, pos;
};

static unsigned add_cap(
	struct virtio_pci *v, struct chain *at, uint8_t id, const void *body, unsigned len)
{
	uint8_t *c = v->fn.config;
	unsigned pos = at->pos;

	memcpy(c + pos, body, len);
	c[pos] = id;
	c[pos + 1] = 0;
	c[at->link] = (uint8_t)pos;
	at->link = pos + 1;
	at->pos += len;
	return pos;
}

static void add_msix(struct virtio_pci *v, struct chain *at)
{
	uint8_t body[MSIX_CAP_LEN] = { 0 };
	unsigned pos = v->msix_pos = add_cap(v, at, PCI_CAP_ID_MSIX, body, sizeof(body));

	pci_config_set(&v->fn, pos + PCI_MSIX_FLAGS, 2, v->msix.nr - 1);
	pci_config_set(&v->fn, pos + PCI_MSIX_TABLE, 4, v->layout.msix | VIO_BAR_REGS);
	pci_config_set(&v->fn, pos + PCI_MSIX_PBA, 4, v->layout.pba | VIO_BAR_REGS);
	v->fn.wmask[pos + PCI_MSIX_FLAGS + 1] =
		(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;
}

static struct virtio_pci_cap virtio_cap(unsigned type, unsigned len, uint32_t off, uint32_t size)
{
	return (struct virtio_pci_cap){
		.cap_len = (uint8_t)len,
		.cfg_type = (uint8_t)type,
		.bar = VIO_BAR_REGS,
		.offset = off,
		.length = size,
	};
}

static void add_registers(
	struct virtio_pci *v, struct chain *at, unsigned type, uint32_t off, uint32_t size)
{
	struct virtio_pci_cap cap = virtio_cap(type, sizeof(cap), off, size);

	add_cap(v, at, PCI_CAP_ID_VNDR, &cap, sizeof(cap));
}

static void add_notify(struct virtio_pci *v, struct chain *at)
{
	struct virtio_pci_notify_cap cap = {
		.cap = virtio_cap(VIRTIO_PCI_CAP_NOTIFY_CFG, sizeof(cap), VIO_NOTIFY,
			v->layout.notify_size),
		.notify_off_multiplier = VIO_NOTIFY_STEP,
	};

	add_cap(v, at, PCI_CAP_ID_VNDR, &cap, sizeof(cap));
}

static void add_window(struct virtio_pci *v, struct chain *at)
{
	struct virtio_pci_cfg_cap cap = {
		.cap = virtio_cap(VIRTIO_PCI_CAP_PCI_CFG, sizeof(cap), 0, 0),
	};
	unsigned pos = v->window_pos = add_cap(v, at, PCI_CAP_ID_VNDR, &cap, sizeof(cap));

	v->fn.wmask[pos + VIRTIO_PCI_CAP_BAR] = 0xff;
	memset(v->fn.wmask + pos + VIRTIO_PCI_CAP_OFFSET, 0xff, 8 + 4);
}

static void add_shm(struct virtio_pci *v, struct chain *at, unsigned i)
{
	uint64_t off = v->shm_at[i], size = v->b->info.shm[i].size;
	struct virtio_pci_cap64 cap = {
		.cap = virtio_cap(VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, sizeof(cap), (uint32_t)off,
			(uint32_t)size),
		.offset_hi = (uint32_t)(off >> 32),
		.length_hi = (uint32_t)(size >> 32),
	};

	if (v->layout.shm[i].narrow)
		cap.cap.cap_len = sizeof(cap.cap);
	cap.cap.bar = v->layout.shm[i].bar;
	cap.cap.id = v->b->info.shm[i].id;
	add_cap(v, at, PCI_CAP_ID_VNDR, &cap, cap.cap.cap_len);
}

/* Of the same form as that for doorbells of queues. */
static void add_aux(struct virtio_pci *v, struct chain *at)
{
	struct virtio_pci_notify_cap bells = {
		.cap = virtio_cap(
			VVU_CAP_DOORBELL, sizeof(bells), VVU_DOORBELLS, VVU_DOORBELLS_LEN),
		.notify_off_multiplier = VVU_DOORBELL_STEP,
	};
	struct virtio_pci_cap notifications = virtio_cap(
		VVU_CAP_NOTIFICATION, sizeof(notifications), VVU_NOTIFY, VVU_NOTIFY_LEN);

	bells.cap.bar = notifications.bar = VVU_BAR_BELLS;
	add_cap(v, at, PCI_CAP_ID_VNDR, &bells, sizeof(bells));
	add_cap(v, at, PCI_CAP_ID_VNDR, &notifications, sizeof(notifications));
}

static void build_header(struct virtio_pci *v)
{
	uint32_t id = v->b->info.type;
	struct pci_function *fn = &v->fn;

	pci_config_set(fn, PCI_VENDOR_ID, 2, VENDOR);
	pci_config_set(fn, PCI_DEVICE_ID, 2, DEVICE_BASE + id);
	pci_config_set(fn, PCI_SUBSYSTEM_VENDOR_ID, 2, VENDOR);
	pci_config_set(fn, PCI_SUBSYSTEM_ID, 2, v->layout.subsystem);
	pci_config_set(fn, PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	/* 4.1.2.1: a revision of 1 keeps drivers of the old interface away. */
	fn->config[PCI_REVISION_ID] = 1;
	fn->config[PCI_CLASS_DEVICE + 1] = v->layout.class_code;
	fn->config[PCI_CLASS_DEVICE] = v->layout.subclass;
	fn->config[PCI_INTERRUPT_PIN] = 1;
}

void vio_config_build(struct virtio_pci *v)
{
	struct chain at = { PCI_CAPABILITY_LIST, FIRST_CAP };

	build_header(v);
	add_msix(v, &at);
	add_registers(v, &at, VIRTIO_PCI_CAP_COMMON_CFG, VIO_COMMON, VIO_COMMON_SIZE);
	add_notify(v, &at);
	add_registers(v, &at, VIRTIO_PCI_CAP_ISR_CFG, VIO_ISR, VIO_ISR_SIZE);
	add_registers(v, &at, VIRTIO_PCI_CAP_DEVICE_CFG, VIO_DEVICE, VIRTIO_CONFIG_ROOM);
	add_window(v, &at);
	if (v->layout.nr_bells)
		add_aux(v, &at);
	for (unsigned i = 0; i < VIRTIO_MAX_SHM; i++)
		if (v->b->info.shm[i].size)
			add_shm(v, &at, i);
}

void vio_config_reset(struct virtio_pci *v)
{
	struct pci_function *fn = &v->fn;

	pci_lock(v->m->pci);
	pthread_mutex_lock(&fn->lock);
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		if (!ranges_overlap(i, 1, PCI_BASE_ADDRESS_0, 24) &&
			!ranges_overlap(i, 1, PCI_ROM_ADDRESS, 4))
			fn->config[i] = v->initial[i];
	pthread_mutex_unlock(&fn->lock);
	pci_unlock(v->m->pci);
}

/* --- access --- */

/* Who guards these bytes of config[]: the core guards command and BARs by the topology lock. */
static bool by_topology(unsigned off, unsigned size)
{
	return ranges_overlap(off, size, PCI_COMMAND, 2) ||
	       ranges_overlap(off, size, PCI_BASE_ADDRESS_0, 24) ||
	       ranges_overlap(off, size, PCI_ROM_ADDRESS, 4);
}

static uint32_t get(struct virtio_pci *v, unsigned off, unsigned size)
{
	bool topology = by_topology(off, size);
	uint32_t value;

	if (topology)
		pci_lock(v->m->pci);
	pthread_mutex_lock(&v->fn.lock);
	value = pci_config_get(&v->fn, off, size);
	pthread_mutex_unlock(&v->fn.lock);
	if (topology)
		pci_unlock(v->m->pci);
	return value;
}

static bool in_window(const struct virtio_pci *v, unsigned off, unsigned size)
{
	return ranges_overlap(off, size, v->window_pos + WINDOW_DATA, 4);
}

/* What the window shows: an access of `len` bytes at `off` of BAR 0. False: nothing. */
static bool window_place(struct virtio_pci *v, uint32_t *off, uint32_t *len)
{
	uint32_t bar = get(v, v->window_pos + VIRTIO_PCI_CAP_BAR, 1);

	*off = get(v, v->window_pos + VIRTIO_PCI_CAP_OFFSET, 4);
	*len = get(v, v->window_pos + VIRTIO_PCI_CAP_LENGTH, 4);
	return bar == VIO_BAR_REGS && (*len == 1 || *len == 2 || *len == 4) && !(*off % *len) &&
	       range_ok(*off, *len, v->layout.regs_size);
}

static void window_read(struct virtio_pci *v)
{
	uint32_t off, len, value;

	if (!window_place(v, &off, &len))
		return;
	value = (uint32_t)vio_bar_read(&v->fn, VIO_BAR_REGS, off, len);
	pthread_mutex_lock(&v->fn.lock);
	pci_config_set(&v->fn, v->window_pos + WINDOW_DATA, len, value);
	pthread_mutex_unlock(&v->fn.lock);
}

static void window_write(struct virtio_pci *v)
{
	uint32_t off, len;

	if (window_place(v, &off, &len))
		vio_bar_write(
			&v->fn, VIO_BAR_REGS, off, len, get(v, v->window_pos + WINDOW_DATA, len));
}

uint32_t vio_config_read(struct pci_function *fn, unsigned off, unsigned size)
{
	struct virtio_pci *v = vio_of(fn);
	uint32_t value;

	if (in_window(v, off, size))
		window_read(v);
	value = get(v, off, size);
	if (ranges_overlap(off, size, PCI_STATUS, 1) && vio_intx_pending(v))
		value |= (uint32_t)PCI_STATUS_INTERRUPT << (8 * (PCI_STATUS - off));
	return value;
}

void vio_config_write(struct pci_function *fn, unsigned off, unsigned size, uint32_t value)
{
	struct virtio_pci *v = vio_of(fn);

	pthread_mutex_lock(&v->lock);
	pci_config_write_owned(fn, off, size, value);
	if (ranges_overlap(off, size, PCI_COMMAND, 2) ||
		ranges_overlap(off, size, v->msix_pos + PCI_MSIX_FLAGS, 2))
		vio_irqs_update(v);
	pthread_mutex_unlock(&v->lock);
	if (in_window(v, off, size))
		window_write(v);
}
