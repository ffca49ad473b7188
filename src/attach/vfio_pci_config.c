/*
 * vfio_pci_config.c - configuration space: what is ours, what is the device's
 *
 * local[] says for each bit where a guest's read comes from. Ours are identity, BARs, the
 * command register, links between capabilities, MSI and MSI-X; they cost no message. The rest
 * (status, power management, PCI Express, what we do not know) is read from the device. config[]
 * keeps the last known value of that too.
 *
 * Writes: ours change config[] (pci_config_write_owned). The device hears of the command register
 * and, if another process has it, of the control words of MSI and MSI-X as well, as servers look at
 * bus master, INTx disable and the enable bits; BAR addresses are of no use to it. Each write
 * reaches the device in pieces that lie in one register of its own, as servers tell registers by
 * their offset.
 *
 * Memory of the device's is laid into the guest's only while the device answers for it: a device
 * that begins to decode or wakes is told before, one that ends or goes to sleep after. The kernel
 * stops who touches the memory of hardware that does not answer, and does not let it be mapped for
 * other devices.
 *
 * While the device is away, all reads come from config[]: the guest sees a device that is there
 * and does not change. All-ones, as a removed device gives, would make a driver (or the power
 * management of a Linux guest) give the device up for good, and it will be back soon. Accesses to
 * its BARs do read all-ones.
 *
 * A device process that comes back may have forgotten what the guest wrote. The registers in
 * kept[] are written again: command, cache line, latency, interrupt line, the control registers
 * of power management and PCI Express. Not more: of unknown registers nobody knows whether
 * writing them twice does harm.
 *
 * Capability lists are walked with a bound; a list that loops or leaves the space ends there.
 * Which of them a guest does not see, and why, is a table: vfio_pci_quirks.c.
 *
 * A reset of the function that the guest asks for, by PCI Express, by Advanced Features or by a
 * wakening from D3 that is one, leaves our half as it is, as VFIO's kernel side leaves its own; the
 * device is told it again.
 *
 * Spec: PCI Local Bus 3.0, 6.1, 6.2 and 6.7; PCI Express 5.0, 7.5 and 7.6; PCI Bus Power
 * Management 1.2, 3.2.4 and 5.4.1; Advanced Capabilities for Conventional PCI, "AF Control".
 */
#include <errno.h>
#include <string.h>

#include "attach/vfio_pci_priv.h"

#define HEADER_SIZE    0x40u
#define STANDARD_SIZE  0x100u
#define CAP_MSIX_LEN   12u
#define CAP_EXP_V1_LEN 0x14u
#define CAP_PM_LEN     8u
#define COMMAND_BITS                                                                               \
	(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INVALIDATE |       \
		PCI_COMMAND_PARITY | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE)

static void set16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

static unsigned get16(const uint8_t *p)
{
	return p[0] | (unsigned)p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
	return get16(p) | (uint32_t)get16(p + 2) << 16;
}

/* --- building: the standard header --- */

static void keep_register(struct vfio_pci *vp, unsigned off, unsigned size, uint16_t mask)
{
	if (vp->nr_kept < VP_MAX_KEPT)
		vp->kept[vp->nr_kept++] = (struct vp_kept){ off, size, mask, false };
}

static void build_header(struct vfio_pci *vp)
{
	uint8_t *c = vp->fn.config;

	memset(vp->local, 0xff, HEADER_SIZE);
	memset(vp->fixed, 0xff, HEADER_SIZE);
	/* Status but for "has a capability list", BIST */
	set16(vp->local + PCI_STATUS, PCI_STATUS_CAP_LIST);
	vp->local[PCI_BIST] = 0;
	set16(vp->fixed + PCI_COMMAND, 0);
	set16(vp->fixed + PCI_STATUS, PCI_STATUS_CAP_LIST);
	vp->fixed[PCI_CACHE_LINE_SIZE] = vp->fixed[PCI_LATENCY_TIMER] = 0;
	vp->fixed[PCI_BIST] = 0;
	vp->fixed[PCI_INTERRUPT_LINE] = 0;
	memset(vp->fixed + PCI_ROM_ADDRESS, 0, 4);
	/* Of a BAR register its kind; vp_bars_build() clears upper halves. */
	for (unsigned bar = 0; bar < 6; bar++) {
		unsigned off = PCI_BASE_ADDRESS_0 + 4 * bar;

		memset(vp->fixed + off, 0, 4);
		vp->fixed[off] = c[off] & PCI_BASE_ADDRESS_SPACE_IO ? 3 : 0xf;
	}

	set16(c + PCI_COMMAND, 0);
	memset(c + PCI_BASE_ADDRESS_0, 0, 24);
	memset(c + PCI_ROM_ADDRESS, 0, 4);
	/* One function a slot, and its only pin is A. */
	c[PCI_HEADER_TYPE] &= 0x7f;
	if (c[PCI_INTERRUPT_PIN])
		c[PCI_INTERRUPT_PIN] = 1;
	set16(vp->fn.wmask + PCI_COMMAND, COMMAND_BITS);
	vp->fn.wmask[PCI_CACHE_LINE_SIZE] = 0xff;
	vp->fn.wmask[PCI_LATENCY_TIMER] = 0xff;
	vp->fn.wmask[PCI_INTERRUPT_LINE] = 0xff;
	keep_register(vp, PCI_CACHE_LINE_SIZE, 1, 0xff);
	keep_register(vp, PCI_LATENCY_TIMER, 1, 0xff);
	keep_register(vp, PCI_INTERRUPT_LINE, 1, 0xff);
}

/* --- building: capabilities --- */

/* Bytes that the device is not asked about and not told of. */
static void make_local(struct vfio_pci *vp, unsigned off, unsigned len)
{
	memset(vp->local + off, 0xff, len);
}

static unsigned standard_end(const struct vfio_pci *vp)
{
	return MIN(vp->config_size, STANDARD_SIZE);
}

static bool take_msi(struct vfio_pci *vp, unsigned pos)
{
	uint8_t *c = vp->fn.config + pos, *w = vp->fn.wmask + pos;
	unsigned flags, data, len;

	if (pos + PCI_MSI_FLAGS + 2 > standard_end(vp))
		return false;
	flags = get16(c + PCI_MSI_FLAGS);
	data = flags & PCI_MSI_FLAGS_64BIT ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32;
	len = data + (flags & PCI_MSI_FLAGS_MASKBIT ? 12 : 2);
	if (pos + len > standard_end(vp))
		return false;
	make_local(vp, pos, len);
	if (vp->msi_pos || !vp->t->info.irqs[VFIO_USER_IRQ_MSI].count)
		return false;
	vp->msi_pos = pos;
	vp->msi_len = len;
	set16(vp->fixed + pos + PCI_MSI_FLAGS,
		PCI_MSI_FLAGS_QMASK | PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT);
	memset(c + PCI_MSI_ADDRESS_LO, 0, len - PCI_MSI_ADDRESS_LO);
	set16(c + PCI_MSI_FLAGS, flags & ~(PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE));
	set16(w + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
	memset(w + PCI_MSI_ADDRESS_LO, 0xff, data - PCI_MSI_ADDRESS_LO + 2);
	w[PCI_MSI_ADDRESS_LO] = 0xfc;
	if (flags & PCI_MSI_FLAGS_MASKBIT)
		memset(w + data + 4, 0xff, 4);
	return true;
}

static bool take_msix(struct vfio_pci *vp, unsigned pos)
{
	uint8_t *c = vp->fn.config + pos;
	unsigned flags;

	if (pos + CAP_MSIX_LEN > standard_end(vp))
		return false;
	make_local(vp, pos, CAP_MSIX_LEN);
	if (vp->msix_pos || !vp->t->info.irqs[VFIO_USER_IRQ_MSIX].count)
		return false;
	vp->msix_pos = pos;
	flags = get16(c + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE;
	set16(vp->fixed + pos + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_QSIZE);
	memset(vp->fixed + pos + PCI_MSIX_TABLE, 0xff, 8);
	set16(c + PCI_MSIX_FLAGS, flags);
	set16(vp->fn.wmask + pos + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	return true;
}

static bool take_exp(struct vfio_pci *vp, unsigned pos)
{
	const uint8_t *c = vp->fn.config + pos;

	if (pos + CAP_EXP_V1_LEN > standard_end(vp))
		return false;
	if (vp->exp_pos)
		return true;
	vp->exp_pos = pos;
	keep_register(vp, pos + PCI_EXP_DEVCTL, 2, (uint16_t)~PCI_EXP_DEVCTL_BCR_FLR);
	keep_register(vp, pos + PCI_EXP_LNKCTL, 2, (uint16_t)~PCI_EXP_LNKCTL_RL);
	if ((c[PCI_EXP_FLAGS] & PCI_EXP_FLAGS_VERS) < 2 ||
		pos + VP_CAP_EXP_V2_LEN > standard_end(vp))
		return true;
	keep_register(vp, pos + PCI_EXP_DEVCTL2, 2, 0xffff);
	keep_register(vp, pos + PCI_EXP_LNKCTL2, 2, 0xffff);
	return true;
}

static void take_pm(struct vfio_pci *vp, unsigned pos)
{
	if (pos + CAP_PM_LEN > standard_end(vp))
		return;
	keep_register(vp, pos + PCI_PM_CTRL, 2, (uint16_t)~PCI_PM_CTRL_PME_STATUS);
	if (!vp->pm_pos)
		vp->pm_pos = pos;
}

/* False: the guest must not see it. */
static bool take_cap(struct vfio_pci *vp, unsigned pos)
{
	switch (vp->fn.config[pos]) {
	case PCI_CAP_ID_MSI:
		return take_msi(vp, pos);
	case PCI_CAP_ID_MSIX:
		return take_msix(vp, pos);
	case PCI_CAP_ID_EXP:
		return take_exp(vp, pos);
	case PCI_CAP_ID_PM:
		take_pm(vp, pos);
		return true;
	case PCI_CAP_ID_AF:
		if (!vp->af_pos && pos + PCI_CAP_AF_SIZEOF <= standard_end(vp))
			vp->af_pos = pos;
		return true;
	default:
		return !vp_hidden_cap(false, vp->fn.config[pos]);
	}
}

static void build_caps(struct vfio_pci *vp)
{
	uint8_t *c = vp->fn.config;
	unsigned link = PCI_CAPABILITY_LIST, pos = c[link] & ~3u;
	uint64_t seen = 0;

	if (!(get16(c + PCI_STATUS) & PCI_STATUS_CAP_LIST))
		pos = 0;
	c[link] = (uint8_t)pos;
	while (pos) {
		unsigned next;

		if (pos < HEADER_SIZE || pos + 4 > standard_end(vp) || seen & 1ull << pos / 4) {
			log_warn("%s: its capability list %s at 0x%02x and is cut there", vp->id,
				pos >= HEADER_SIZE && pos + 4 <= standard_end(vp)
					? "loops"
					: "leaves the configuration space",
				link);
			c[link] = 0;
			break;
		}
		seen |= 1ull << pos / 4;
		next = c[pos + 1] & ~3u;
		set16(vp->local + pos, 0xffff);
		set16(vp->fixed + pos, 0xffff);
		if (take_cap(vp, pos))
			link = pos + 1;
		c[link] = (uint8_t)next;
		pos = next;
	}
	if (!c[PCI_CAPABILITY_LIST])
		set16(c + PCI_STATUS, get16(c + PCI_STATUS) & ~PCI_STATUS_CAP_LIST);
}

/* The list stays linked through a capability that is none (id 0). */
static void hide_ext_cap(
	struct vfio_pci *vp, unsigned pos, uint32_t header, const struct vp_hidden *hidden)
{
	unsigned len = MIN(hidden->len, vp->config_size - pos);

	make_local(vp, pos, len);
	memset(vp->fn.config + pos, 0, len);
	pci_config_set(&vp->fn, pos, 4, header & 0xffff0000);
}

static void build_ext_caps(struct vfio_pci *vp)
{
	uint8_t *c = vp->fn.config, seen[PCI_CONFIG_SIZE / 4] = { 0 };
	unsigned pos = STANDARD_SIZE, prev = 0;

	while (pos && pos + 4 <= vp->config_size) {
		uint32_t header = get32(c + pos);
		const struct vp_hidden *hidden = vp_hidden_cap(true, PCI_EXT_CAP_ID(header));
		unsigned next = PCI_EXT_CAP_NEXT(header);

		if (pos == STANDARD_SIZE && (!header || header == UINT32_MAX))
			break;
		memset(vp->local + pos, 0xff, 4);
		memset(vp->fixed + pos, 0xff, 4);
		seen[pos / 4] = 1;
		if (hidden)
			hide_ext_cap(vp, pos, header, hidden);
		prev = pos;
		pos = next;
		if (pos && (pos < STANDARD_SIZE || pos + 4 > vp->config_size || seen[pos / 4])) {
			log_warn("%s: its extended capability list %s at 0x%03x and is cut there",
				vp->id,
				pos >= STANDARD_SIZE && pos + 4 <= vp->config_size
					? "loops"
					: "leaves the configuration space",
				prev);
			pci_config_set(&vp->fn, prev, 4, get32(c + prev) & 0x000fffff);
			break;
		}
	}
}

int vp_config_build(struct vfio_pci *vp, const uint8_t *config, unsigned size, struct err *err)
{
	uint8_t *c = vp->fn.config;
	unsigned vendor = get16(config + PCI_VENDOR_ID);

	if (vendor == 0 || vendor == 0xffff)
		return err_set(
			err, -EPROTO, "configuration space: vendor id 0x%04x is none", vendor);
	if ((config[PCI_HEADER_TYPE] & 0x7f) != PCI_HEADER_TYPE_NORMAL)
		return err_set(err, -EPROTO,
			"configuration space: header type %u, expected 0 (an endpoint)",
			config[PCI_HEADER_TYPE] & 0x7f);
	memset(c, 0xff, PCI_CONFIG_SIZE);
	memset(vp->local, 0xff, PCI_CONFIG_SIZE);
	memcpy(c, config, size);
	memcpy(vp->first, config, size);
	memset(vp->local, 0, size);
	vp->config_size = size;
	build_header(vp);
	build_caps(vp);
	build_ext_caps(vp);
	return vp_add_clique(vp, err);
}

int vp_config_same(const struct vfio_pci *vp, const uint8_t *config, unsigned size, struct err *err)
{
	if (size != vp->config_size)
		return err_set(err, -EPROTO,
			"it is another device: configuration space of %u bytes, not %u", size,
			vp->config_size);
	if (memcmp(config, vp->first, 4))
		return err_set(err, -EPROTO, "it is another device: %04x:%04x, not %04x:%04x",
			get16(config), get16(config + 2), get16(vp->first), get16(vp->first + 2));
	for (unsigned i = 0; i < size; i++)
		if ((config[i] ^ vp->first[i]) & vp->fixed[i])
			return err_set(err, -EPROTO,
				"it is another device: configuration byte 0x%03x is 0x%02x, not 0x%02x",
				i, config[i], vp->first[i]);
	return 0;
}

/* --- access --- */

/* Who guards these bytes of config[]: the core guards command and BARs by the topology lock. */
static bool by_topology(unsigned off, unsigned size)
{
	return ranges_overlap(off, size, PCI_COMMAND, 2) ||
	       ranges_overlap(off, size, PCI_BASE_ADDRESS_0, 24) ||
	       ranges_overlap(off, size, PCI_ROM_ADDRESS, 4);
}

static uint32_t get_shadow(struct vfio_pci *vp, unsigned off, unsigned size)
{
	struct pci *pci = __atomic_load_n(&vp->fn.pci, __ATOMIC_ACQUIRE);
	bool topology = pci && by_topology(off, size);
	uint32_t value;

	if (topology)
		pci_lock(pci);
	pthread_mutex_lock(&vp->fn.lock);
	value = pci_config_get(&vp->fn, off, size);
	pthread_mutex_unlock(&vp->fn.lock);
	if (topology)
		pci_unlock(pci);
	return value;
}

static uint32_t mask_at(const uint8_t *mask, unsigned off, unsigned size)
{
	uint32_t value = 0;

	memcpy(&value, mask + off, size);
	return value;
}

uint32_t vp_config_read(struct pci_function *fn, unsigned off, unsigned size)
{
	struct vfio_pci *vp = vp_of(fn);
	uint32_t local = mask_at(vp->local, off, size);
	uint32_t value = get_shadow(vp, off, size), got = 0;

	if (atomic_load(&vp->gone))
		return (uint32_t)io_ones(size);
	if (local == (uint32_t)io_ones(size))
		return value;
	if (vp->t->ops->region_read(vp->t, VFIO_USER_REGION_CONFIG, off, &got, size))
		return value;
	value = (value & local) | (got & ~local);
	/* No byte that the core guards is the device's, but status is read together with command.
	 */
	pthread_mutex_lock(&fn->lock);
	for (unsigned i = 0; i < size; i++)
		if (vp->local[off + i] != 0xff)
			fn->config[off + i] = (uint8_t)(value >> (8 * i));
	pthread_mutex_unlock(&fn->lock);
	return value;
}

static void send_config(
	struct vfio_pci *vp, unsigned off, unsigned size, uint32_t value, enum vfio_call call)
{
	int rc = vp->t->ops->region_write(vp->t, VFIO_USER_REGION_CONFIG, off, &value, size, call);

	if (vp_note(vp, rc) && rc != -ENOTCONN)
		log_debug("%s: write of %u bytes 0x%x to configuration register 0x%x: %s", vp->id,
			size, value, off, strerror(-rc));
}

static void send_command(struct vfio_pci *vp, uint32_t command, enum vfio_call call)
{
	vp->t->ops->bus_master(vp->t, command & PCI_COMMAND_MASTER);
	send_config(vp, PCI_COMMAND, 2, command, call);
}

/* A register of ours as it will be after the write. */
static uint32_t value_after(
	struct vfio_pci *vp, unsigned reg, unsigned off, unsigned size, uint32_t value)
{
	uint32_t result = get_shadow(vp, reg, 2);

	for (unsigned i = 0; i < size; i++) {
		unsigned shift = 8 * (off + i - reg);
		uint32_t mask;

		if (off + i < reg || off + i > reg + 1)
			continue;
		mask = (uint32_t)vp->fn.wmask[off + i] << shift;
		result = (result & ~mask) | ((value >> (8 * i) & 0xff) << shift & mask);
	}
	return result;
}

static void write_command(struct vfio_pci *vp, unsigned off, unsigned size, uint32_t value)
{
	uint32_t command = value_after(vp, PCI_COMMAND, off, size, value);

	if (command & PCI_COMMAND_MEMORY)
		send_command(vp, command, VFIO_CALL_WAIT);
	pci_config_write_owned(&vp->fn, off, size, value);
	if (!(command & PCI_COMMAND_MEMORY))
		send_command(vp, command, VFIO_CALL_WAIT);
}

/* Ours, but the device is told. */
static bool mirrored(unsigned off)
{
	return off == PCI_CACHE_LINE_SIZE || off == PCI_LATENCY_TIMER || off == PCI_INTERRUPT_LINE;
}

static bool forwarded(const struct vfio_pci *vp, unsigned off)
{
	return vp->local[off] != 0xff || mirrored(off);
}

static void note_kept(struct vfio_pci *vp, unsigned off, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < vp->nr_kept; i++) {
		struct vp_kept *k = &vp->kept[i];

		if (!ranges_overlap(off, size, k->off, k->size))
			continue;
		k->written = true;
		pthread_mutex_lock(&vp->fn.lock);
		for (unsigned b = 0; b < size; b++)
			if (off + b >= k->off && off + b < k->off + k->size)
				vp->fn.config[off + b] = (uint8_t)(value >> (8 * b));
		pthread_mutex_unlock(&vp->fn.lock);
	}
}

/* The bytes that are the device's, in aligned pieces. */
static void forward(struct vfio_pci *vp, unsigned off, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size;) {
		unsigned at = off + i, len = 1;

		if (!forwarded(vp, at)) {
			i++;
			continue;
		}
		while (2 * len <= size - i && !(at & (2 * len - 1)) && forwarded(vp, at + len) &&
			forwarded(vp, at + 2 * len - 1))
			len *= 2;
		note_kept(vp, at, len, value >> (8 * i));
		send_config(vp, at, len, value >> (8 * i) & (uint32_t)io_ones(len), VFIO_CALL_WAIT);
		i += len;
	}
}

/* The kernel switches MSI and MSI-X of real hardware itself, with the eventfds. */
static void send_control_word(struct vfio_pci *vp, unsigned off, enum vfio_call call)
{
	if (!vp->t->info.host)
		send_config(vp, off, 2, get_shadow(vp, off, 2), call);
}

/* If the write reaches the byte at reg: its new value, else -1. */
static int byte_written(unsigned reg, unsigned off, unsigned size, uint32_t value)
{
	return reg >= off && reg - off < size ? (int)(value >> (8 * (reg - off)) & 0xff) : -1;
}

static bool starts_reset(const struct vfio_pci *vp, unsigned off, unsigned size, uint32_t value)
{
	int control = -1;

	if (vp->exp_pos)
		control = byte_written(vp->exp_pos + PCI_EXP_DEVCTL + 1, off, size, value);
	if (control >= 0 && control & PCI_EXP_DEVCTL_BCR_FLR >> 8)
		return true;
	control = vp->af_pos ? byte_written(vp->af_pos + PCI_AF_CTRL, off, size, value) : -1;
	return control >= 0 && control & PCI_AF_CTRL_FLR;
}

static bool resets_as_it_wakes(struct vfio_pci *vp)
{
	return !(get16(vp->first + vp->pm_pos + PCI_PM_CTRL) & PCI_PM_CTRL_NO_SOFT_RESET);
}

/*
 * The bytes of the write that are the device's. True: it was reset by them. Only in D0 does a
 * device answer for its memory; a wakening from D3hot is a reset for those that do not say
 * otherwise.
 */
static bool forward_and_follow(struct vfio_pci *vp, unsigned off, unsigned size, uint32_t value)
{
	int power = vp->pm_pos ? byte_written(vp->pm_pos + PCI_PM_CTRL, off, size, value) : -1;
	unsigned was = vp->power;

	if (power < 0) {
		forward(vp, off, size, value);
		return starts_reset(vp, off, size, value);
	}
	vp->power = (unsigned)power & PCI_PM_CTRL_STATE_MASK;
	if (vp->power)
		vp_bars_sleep(vp, true);
	forward(vp, off, size, value);
	if (!vp->power)
		vp_bars_sleep(vp, false);
	return was == VP_D3HOT && !vp->power && resets_as_it_wakes(vp);
}

void vp_config_write(struct pci_function *fn, unsigned off, unsigned size, uint32_t value)
{
	struct vfio_pci *vp = vp_of(fn);
	bool command = ranges_overlap(off, size, PCI_COMMAND, 2);
	bool msi = vp->msi_pos && ranges_overlap(off, size, vp->msi_pos, vp->msi_len);
	bool msix = vp->msix_pos && ranges_overlap(off, size, vp->msix_pos, CAP_MSIX_LEN);
	bool reset;

	if (atomic_load(&vp->gone))
		return;
	pthread_mutex_lock(&vp->lock);
	if (command)
		write_command(vp, off, size, value);
	else
		pci_config_write_owned(fn, off, size, value);
	reset = forward_and_follow(vp, off, size, value);
	/* Interrupts first: a server that sees the enable bit has the eventfds by then. */
	if (command || msi || msix)
		vp_irqs_update(vp);
	if (msi && ranges_overlap(off, size, vp->msi_pos + PCI_MSI_FLAGS, 2))
		send_control_word(vp, vp->msi_pos + PCI_MSI_FLAGS, VFIO_CALL_WAIT);
	if (msix)
		send_control_word(vp, vp->msix_pos + PCI_MSIX_FLAGS, VFIO_CALL_WAIT);
	if (reset) {
		vp_config_push(vp, VFIO_CALL_WAIT);
		vp_irqs_push(vp, false, VFIO_CALL_WAIT);
	}
	pthread_mutex_unlock(&vp->lock);
	vp_bars_settle(vp);
}

void vp_config_push(struct vfio_pci *vp, enum vfio_call call)
{
	for (unsigned i = 0; i < vp->nr_kept; i++) {
		const struct vp_kept *k = &vp->kept[i];

		if (k->written)
			send_config(vp, k->off, k->size, get_shadow(vp, k->off, k->size) & k->mask,
				call);
	}
	if (vp->msi_pos)
		send_control_word(vp, vp->msi_pos + PCI_MSI_FLAGS, call);
	if (vp->msix_pos)
		send_control_word(vp, vp->msix_pos + PCI_MSIX_FLAGS, call);
	/* Last, so that a device is bus master only when the rest stands. */
	send_command(vp, get_shadow(vp, PCI_COMMAND, 2), call);
}

void vp_config_reset(struct vfio_pci *vp)
{
	struct pci_function *fn = &vp->fn;

	pci_lock(vp->m->pci);
	pthread_mutex_lock(&fn->lock);
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
		if (!ranges_overlap(i, 1, PCI_BASE_ADDRESS_0, 24) &&
			!ranges_overlap(i, 1, PCI_ROM_ADDRESS, 4))
			fn->config[i] = vp->initial[i];
	pthread_mutex_unlock(&fn->lock);
	/* The reset woke it; what was taken away comes back when the guest lets it decode. */
	vp->asleep = false;
	pci_unlock(vp->m->pci);
	vp->power = 0;
}
