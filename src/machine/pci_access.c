/*
 * pci_access.c - configuration space as a guest reaches it: ECAM, and for segment 0 two ports
 *
 * The first of these takes dwords alone. A byte of it is a register of its own, by which a PC is
 * reset: Linux and firmware know it from all chipsets since Intel's PIIX3.
 *
 * An access runs inside its reader's epoch, so that the function it finds stays allocated.
 */
#include "machine/pci.h"

#include "base/util.h"
#include "machine/pci_priv.h"

/* Called inside the reader's epoch of an ECAM or port region, so fn stays allocated. */
static struct pci_function *function_at(struct pci *pci, unsigned segment, unsigned bus,
	unsigned devfn)
{
	if (segment >= pci->nr_segments || bus || devfn & 7)
		return NULL;
	return __atomic_load_n(&pci->segments[segment].slots[devfn >> 3], __ATOMIC_ACQUIRE);
}

static uint32_t config_read(struct pci_function *fn, unsigned off, unsigned size)
{
	if (!fn)
		return (uint32_t)io_ones(size);
	if (fn->ops->config_read)
		return fn->ops->config_read(fn, off, size);
	return pci_config_get(fn, off, size);
}

static void config_write(struct pci_function *fn, unsigned off, unsigned size, uint32_t value)
{
	if (!fn)
		return;
	if (fn->ops->config_write)
		fn->ops->config_write(fn, off, size, value);
	else
		pci_config_write_owned(fn, off, size, value);
}

/* An access that is larger than 4 bytes or not aligned reaches the function in aligned pieces. */
static unsigned piece(uint64_t off, unsigned left)
{
	unsigned size = left >= 4 ? 4 : left >= 2 ? 2 : 1;

	while (off & (size - 1))
		size >>= 1;
	return size;
}

static uint64_t config_read_any(struct pci_function *fn, unsigned off, unsigned size)
{
	uint64_t value = 0;

	for (unsigned done = 0; done < size;) {
		unsigned n = piece(off + done, size - done);

		value |= (uint64_t)config_read(fn, off + done, n) << (8 * done);
		done += n;
	}
	return value;
}

static void config_write_any(struct pci_function *fn, unsigned off, unsigned size, uint64_t value)
{
	for (unsigned done = 0; done < size;) {
		unsigned n = piece(off + done, size - done);

		config_write(fn, off + done, n, (uint32_t)((value >> (8 * done)) & io_ones(n)));
		done += n;
	}
}

/* ECAM: bus in bits 20-27, device and function in 12-19, register in 0-11. PCIe 5.0, 7.2.2 */
static struct pci_function *ecam_function(struct ecam *e, uint64_t off)
{
	return function_at(e->pci, e->segment, (unsigned)(off >> 20), (unsigned)(off >> 12) & 0xff);
}

static uint64_t ecam_read(void *self, uint64_t off, unsigned size)
{
	unsigned reg = (unsigned)off & 0xfff;

	if (!range_ok(reg, size, PCI_CONFIG_SIZE))
		return UINT64_MAX;
	return config_read_any(ecam_function(self, off), reg, size);
}

static void ecam_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	unsigned reg = (unsigned)off & 0xfff;

	if (range_ok(reg, size, PCI_CONFIG_SIZE))
		config_write_any(ecam_function(self, off), reg, size, value);
}

static const struct io_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/*
 * Reset control: the rise of RST_CPU resets, of the processors alone or of the whole machine, which
 * is the same here. Intel ICH9 datasheet, 13.7.5
 */
#define RESET_CONTROL_OFFSET 1
enum { SYS_RST = 1 << 1, RST_CPU = 1 << 2, FULL_RST = 1 << 3 };

static void reset_control_write(struct pci *pci, uint8_t value)
{
	uint8_t old;

	value &= SYS_RST | RST_CPU | FULL_RST;
	old = __atomic_exchange_n(&pci->reset_control, value, __ATOMIC_RELAXED);
	if (value & ~old & RST_CPU && pci->wants_reset)
		pci->wants_reset(pci->reset_arg);
}

/*
 * Configuration mechanism 1: the address at 0xcf8, the data at 0xcfc to 0xcff. PCI 3.0, 3.2.2.3.2
 */
static uint64_t address_read(void *self, uint64_t off, unsigned size)
{
	struct pci *pci = self;

	if (off == RESET_CONTROL_OFFSET && size == 1)
		return __atomic_load_n(&pci->reset_control, __ATOMIC_RELAXED);
	if (size != 4)
		return UINT64_MAX;
	return __atomic_load_n(&pci->config_address, __ATOMIC_RELAXED);
}

static void address_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct pci *pci = self;

	if (off == RESET_CONTROL_OFFSET && size == 1)
		reset_control_write(pci, (uint8_t)value);
	else if (size == 4)
		__atomic_store_n(&pci->config_address, (uint32_t)value & 0x80fffffc,
			__ATOMIC_RELAXED);
}

static struct pci_function *port_function(struct pci *pci, uint32_t address)
{
	if (!(address & 0x80000000))
		return NULL;
	return function_at(pci, 0, address >> 16 & 0xff, address >> 8 & 0xff);
}

static uint64_t data_read(void *self, uint64_t off, unsigned size)
{
	struct pci *pci = self;
	uint32_t address = __atomic_load_n(&pci->config_address, __ATOMIC_RELAXED);

	return config_read_any(port_function(pci, address), (address & 0xfc) + (unsigned)off, size);
}

static void data_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct pci *pci = self;
	uint32_t address = __atomic_load_n(&pci->config_address, __ATOMIC_RELAXED);

	config_write_any(
		port_function(pci, address), (address & 0xfc) + (unsigned)off, size, value);
}

static const struct io_ops address_ops = { .read = address_read, .write = address_write };
static const struct io_ops data_ops = { .read = data_read, .write = data_write };

int pci_access_register(struct pci *pci, struct err *err)
{
	const struct io_region ports[] = {
		{ PORT_PCI_ADDRESS, 4, &address_ops, pci, "pci address" },
		{ PORT_PCI_DATA, 4, &data_ops, pci, "pci data" },
	};
	int rc = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(ports) && !rc; i++)
		rc = io_add(pci->bus, IO_PORT, &ports[i]);
	for (unsigned s = 0; s < pci->nr_segments && !rc; s++) {
		struct io_region ecam = {
			.base = LAYOUT_ECAM + s * LAYOUT_ECAM_SEGMENT,
			.size = LAYOUT_ECAM_SEGMENT,
			.ops = &ecam_ops,
			.self = &pci->segments[s].ecam,
			.name = "ecam",
		};

		pci->segments[s].ecam = (struct ecam){ pci, s };
		rc = io_add(pci->bus, IO_MMIO, &ecam);
	}
	return rc ? err_set(err, rc, "PCI: cannot register configuration space") : 0;
}
