/*
 * exerciser.c - a PCI function in a process, made to be used by the test guest
 *
 * usage: exerciser FD [quiet], FD a listening UNIX socket
 *
 * It has every kind of BAR, a page that may be mapped, doorbells, INTx, MSI, MSI-X and DMA,
 * and tells its guest what has reached it. Registers: exerciser.h. Served over
 * vfio-user by the project's own port. A quiet one neither signals MSI nor does DMA: both go where
 * the guest says, which is no good when the guest writes at random.
 *
 * Threads: one.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "device/pci_model.h"
#include "exerciser.h"
#include "serve/vfio_user.h"

struct registers {
	uint32_t scratch, intx;
	uint64_t scratch64;
	uint32_t last_off, last_len;
	uint64_t last_data;
	uint32_t writes, rung, rung_match, messages;
	uint64_t dma_addr;
	uint32_t dma_len, dma_status;
};

struct doorbell {
	struct loop_source source;
	uint32_t *count;
};

struct exerciser {
	struct pci_model pci;
	struct registers r;
	uint32_t resets;
	bool quiet;
	uint8_t buffer[EXERCISER_BUFFER_SIZE];
	uint8_t ports[EXERCISER_BAR3_SIZE];
	uint8_t *shared, *whole; /* mappings of the regions' files */
	struct doorbell any, match;
	struct pci_doorbell doorbells[2];
};

static struct exerciser *exerciser_of(struct pci_model *m)
{
	return container_of(m, struct exerciser, pci);
}

/* --- registers --- */

static const struct {
	uint32_t off, size;
	size_t at;
} map[] = {
	{ EXERCISER_REG_SCRATCH, 4, offsetof(struct registers, scratch) },
	{ EXERCISER_REG_SCRATCH64, 8, offsetof(struct registers, scratch64) },
	{ EXERCISER_REG_INTX, 4, offsetof(struct registers, intx) },
	{ EXERCISER_REG_LAST_OFF, 4, offsetof(struct registers, last_off) },
	{ EXERCISER_REG_LAST_LEN, 4, offsetof(struct registers, last_len) },
	{ EXERCISER_REG_LAST_DATA, 8, offsetof(struct registers, last_data) },
	{ EXERCISER_REG_WRITES, 4, offsetof(struct registers, writes) },
	{ EXERCISER_REG_RUNG, 4, offsetof(struct registers, rung) },
	{ EXERCISER_REG_RUNG_MATCH, 4, offsetof(struct registers, rung_match) },
	{ EXERCISER_REG_MESSAGES, 4, offsetof(struct registers, messages) },
	{ EXERCISER_REG_DMA_ADDR, 8, offsetof(struct registers, dma_addr) },
	{ EXERCISER_REG_DMA_LEN, 4, offsetof(struct registers, dma_len) },
	{ EXERCISER_REG_DMA_STATUS, 4, offsetof(struct registers, dma_status) },
};

/* A doorbell's eventfd may have been rung before the message that asks for the count. */
static void count_doorbell(struct doorbell *d)
{
	uint64_t n;

	if (read(d->source.fd, &n, sizeof(n)) == sizeof(n))
		*d->count += (uint32_t)n;
}

static void rung(struct loop_source *source, uint32_t events)
{
	count_doorbell(container_of(source, struct doorbell, source));
}

static void dma(struct exerciser *e, uint32_t direction)
{
	uint32_t len = MIN(e->r.dma_len, (uint32_t)EXERCISER_BUFFER_SIZE);
	int rc = -EINVAL;

	if (direction == 1)
		rc = guest_mem_read(e->pci.mem, e->r.dma_addr, e->buffer, len);
	else if (direction == 2)
		rc = guest_mem_write(e->pci.mem, e->r.dma_addr, e->buffer, len);
	e->r.dma_status = (uint32_t)-rc;
}

static void read_registers(struct exerciser *e, uint64_t off, void *buf, size_t len)
{
	uint8_t page[EXERCISER_BUFFER] = { 0 };
	const uint32_t id = EXERCISER_ID;

	count_doorbell(&e->any);
	count_doorbell(&e->match);
	memcpy(page + EXERCISER_REG_ID, &id, sizeof(id));
	memcpy(page + EXERCISER_REG_RESETS, &e->resets, sizeof(e->resets));
	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		memcpy(page + map[i].off, (const uint8_t *)&e->r + map[i].at, map[i].size);
	memcpy(buf, page + off, len);
}

/* Whole registers, or the first bytes of one. */
static void write_register(struct exerciser *e, uint64_t off, const void *buf, size_t len)
{
	uint32_t value = 0;

	memcpy(&value, buf, MIN(len, sizeof(value)));
	for (size_t i = 0; i < ARRAY_SIZE(map); i++)
		if (map[i].off == off)
			memcpy((uint8_t *)&e->r + map[i].at, buf, MIN(len, map[i].size));
	if (off == EXERCISER_REG_INTX)
		pci_model_set_intx(&e->pci, e->r.intx);
	if (e->quiet)
		return;
	if (off == EXERCISER_REG_MSI && value < EXERCISER_NR_MSI)
		pci_model_trigger(&e->pci, PCI_IRQ_MSI, value);
	if (off == EXERCISER_REG_MSIX && value < EXERCISER_NR_MSIX)
		pci_model_trigger(&e->pci, PCI_IRQ_MSIX, value);
	if (off == EXERCISER_REG_DMA_GO)
		dma(e, value);
}

static void note_write(struct exerciser *e, uint64_t off, const void *buf, size_t len)
{
	e->r.last_off = (uint32_t)off;
	e->r.last_len = (uint32_t)len;
	e->r.last_data = 0;
	memcpy(&e->r.last_data, buf, MIN(len, sizeof(e->r.last_data)));
	e->r.writes++;
}

/* Does [off, off + len) lie inside the part that begins at first? */
static bool within(uint64_t off, size_t len, uint64_t first, uint64_t size)
{
	return off >= first && range_ok(off - first, len, size);
}

static void read_bar0(struct exerciser *e, uint64_t off, uint8_t *buf, size_t len)
{
	if (within(off, len, 0, EXERCISER_BUFFER))
		read_registers(e, off, buf, len);
	else if (within(off, len, EXERCISER_BUFFER, EXERCISER_BUFFER_SIZE))
		memcpy(buf, e->buffer + (off - EXERCISER_BUFFER), len);
	else if (within(off, len, EXERCISER_SHARED, EXERCISER_SHARED_SIZE))
		memcpy(buf, e->shared + (off - EXERCISER_SHARED), len);
	else
		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)(off + i);
}

static void write_bar0(struct exerciser *e, uint64_t off, const void *buf, size_t len)
{
	if (within(off, len, 0, EXERCISER_BUFFER))
		write_register(e, off, buf, len);
	else if (within(off, len, EXERCISER_BUFFER, EXERCISER_BUFFER_SIZE))
		memcpy(e->buffer + (off - EXERCISER_BUFFER), buf, len);
	else if (within(off, len, EXERCISER_WINDOW, EXERCISER_WINDOW_SIZE))
		note_write(e, off, buf, len);
	else if (within(off, len, EXERCISER_SHARED, EXERCISER_SHARED_SIZE))
		memcpy(e->shared + (off - EXERCISER_SHARED), buf, len);
	else if (within(off, len, EXERCISER_DOORBELL, 0x1000))
		e->r.messages++;
}

static int region_read(struct pci_model *m, unsigned region, uint64_t off, void *buf, size_t len)
{
	struct exerciser *e = exerciser_of(m);
	uint8_t *out = buf;

	if (region == 0) {
		read_bar0(e, off, buf, len);
	} else if (region == 3) {
		memcpy(buf, e->ports + off, len);
	} else if (region == 4) {
		memcpy(buf, e->whole + off, len);
	} else if (region == PCI_MODEL_ROM) {
		for (size_t i = 0; i < len; i++)
			out[i] = off + i == 0 ? 0x55 : off + i == 1 ? 0xaa : (uint8_t)(off + i);
	} else {
		memset(buf, 0, len);
	}
	return 0;
}

static int region_write(
	struct pci_model *m, unsigned region, uint64_t off, const void *buf, size_t len)
{
	struct exerciser *e = exerciser_of(m);

	if (region == 0)
		write_bar0(e, off, buf, len);
	else if (region == 3)
		memcpy(e->ports + off, buf, len);
	else if (region == 4)
		memcpy(e->whole + off, buf, len);
	return 0;
}

static void reset(struct pci_model *m)
{
	struct exerciser *e = exerciser_of(m);

	e->r = (struct registers){ 0 };
	e->resets++;
	memset(e->buffer, 0, sizeof(e->buffer));
	memset(e->ports, 0, sizeof(e->ports));
	pci_model_set_intx(m, false);
}

static const struct pci_model_ops ops = {
	.region_read = region_read,
	.region_write = region_write,
	.reset = reset,
};

/* --- construction --- */

static void add_msi(struct pci_config *c)
{
	/* Control: 4 vectors, 64-bit; address, upper address, data */
	const uint8_t body[14 - 2 + 2] = { 2 << 1 | 0x80 };
	const uint8_t mask[sizeof(body)] = { 0x71, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff };

	pci_config_add_cap(c, PCI_CAP_ID_MSI, body, mask, sizeof(body));
}

static void add_msix(struct pci_config *c)
{
	const uint32_t table = 2, pba = EXERCISER_PBA | 2;
	const uint8_t mask[10] = { 0, 0xc0 };
	uint8_t body[10] = { EXERCISER_NR_MSIX - 1 };

	memcpy(body + 2, &table, sizeof(table));
	memcpy(body + 6, &pba, sizeof(pba));
	pci_config_add_cap(c, PCI_CAP_ID_MSIX, body, mask, sizeof(body));
}

static uint8_t *shared_memory(size_t size, int *fd)
{
	void *p;

	*fd = memfd_create("exerciser", MFD_CLOEXEC);
	if (*fd < 0 || ftruncate(*fd, (off_t)size))
		return NULL;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

static int add_doorbell(struct exerciser *e, struct loop *loop, struct doorbell *d, uint32_t *count)
{
	int fd = fd_eventfd();

	if (fd < 0)
		return fd;
	d->count = count;
	return loop_add(loop, &d->source, fd, EPOLLIN, rung);
}

static void describe(struct exerciser *e)
{
	static const struct pci_area shared = { EXERCISER_SHARED, EXERCISER_SHARED_SIZE };
	static const uint32_t sizes[PCI_MODEL_REGIONS] = { EXERCISER_BAR0_SIZE, 0,
		EXERCISER_BAR2_SIZE, EXERCISER_BAR3_SIZE, EXERCISER_BAR4_SIZE, 0,
		EXERCISER_ROM_SIZE };
	struct pci_config *c = &e->pci.config;
	struct pci_region *bar0 = &e->pci.regions[0];

	pci_config_add_bar(c, 0, EXERCISER_BAR0_SIZE, PCI_BASE_ADDRESS_MEM_TYPE_64);
	pci_config_add_bar(c, 2, EXERCISER_BAR2_SIZE, 0);
	pci_config_add_bar(c, 3, EXERCISER_BAR3_SIZE, PCI_BASE_ADDRESS_SPACE_IO);
	pci_config_add_bar(c, 4, EXERCISER_BAR4_SIZE, PCI_BASE_ADDRESS_MEM_PREFETCH);
	pci_config_set_pin(c, 1);
	add_msi(c);
	add_msix(c);
	for (unsigned i = 0; i <= PCI_MODEL_ROM; i++) {
		e->pci.regions[i].size = sizes[i];
		e->pci.regions[i].flags = PCI_REGION_READ;
		if (i != PCI_MODEL_ROM)
			e->pci.regions[i].flags |= PCI_REGION_WRITE;
	}
	bar0->flags |= PCI_REGION_MMAP;
	bar0->areas = &shared;
	bar0->nr_areas = 1;
	e->doorbells[0] =
		(struct pci_doorbell){ .offset = EXERCISER_DOORBELL, .fd = e->any.source.fd };
	e->doorbells[1] = (struct pci_doorbell){ .offset = EXERCISER_DOORBELL_MATCH,
		.size = 4,
		.flags = 1, /* KVM_IOEVENTFD_FLAG_DATAMATCH */
		.datamatch = EXERCISER_MATCH,
		.fd = e->match.source.fd };
	bar0->doorbells = e->doorbells;
	bar0->nr_doorbells = ARRAY_SIZE(e->doorbells);
	e->pci.regions[4].flags |= PCI_REGION_MMAP;
	e->pci.irq_count[PCI_IRQ_INTX] = 1;
	e->pci.irq_count[PCI_IRQ_MSI] = EXERCISER_NR_MSI;
	e->pci.irq_count[PCI_IRQ_MSIX] = EXERCISER_NR_MSIX;
}

static int exerciser_init(struct exerciser *e, struct loop *loop)
{
	static const struct pci_ids ids = {
		.vendor = EXERCISER_VENDOR, .device = EXERCISER_DEVICE, .class_code = 0xff0000
	};
	int rc;

	pci_model_init(&e->pci, &ops, "exerciser", PCI_CONFIG_EXPRESS, &ids);
	/* The file's offset is the region's: what lies before the shared page is never looked at.
	 */
	e->shared = shared_memory(EXERCISER_BAR0_SIZE, &e->pci.regions[0].fd);
	e->whole = shared_memory(EXERCISER_BAR4_SIZE, &e->pci.regions[4].fd);
	if (!e->shared || !e->whole)
		return -errno;
	e->shared += EXERCISER_SHARED;
	rc = add_doorbell(e, loop, &e->any, &e->r.rung);
	if (!rc)
		rc = add_doorbell(e, loop, &e->match, &e->r.rung_match);
	if (!rc)
		describe(e);
	return rc;
}

static void on_signal(void *arg, int signo)
{
	loop_quit(arg, 0);
}

int main(int argc, char **argv)
{
	static const int signals[] = { SIGTERM, SIGINT, 0 };
	static struct exerciser e;
	const struct vfio_user_port_config config = { 0 };
	struct vfio_user_port *port = NULL;
	struct loop *loop = NULL;
	struct err err = { 0 };
	int rc;

	log_init("exerciser", LOG_INFO);
	if (argc < 2 || argc > 3 || (argc == 3 && strcmp(argv[2], "quiet"))) {
		fprintf(stderr, "usage: exerciser FD [quiet], FD a listening UNIX socket\n");
		return 2;
	}
	e.quiet = argc == 3;
	signal(SIGPIPE, SIG_IGN);
	rc = loop_new(&loop);
	if (!rc)
		rc = loop_signals(loop, signals, on_signal, loop);
	if (!rc)
		rc = exerciser_init(&e, loop);
	if (rc)
		err_set(&err, rc, "%s", strerror(-rc));
	else
		rc = vfio_user_port_new(&port, loop, &e.pci, atoi(argv[1]), &config, &err);
	if (rc)
		fprintf(stderr, "exerciser: %s\n", err.text);
	else
		rc = loop_run(loop);
	vfio_user_port_free(port);
	loop_free(loop);
	return rc ? 1 : 0;
}
