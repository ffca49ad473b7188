#include "probe.h"

#include <errno.h>
#include <linux/kvm.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"

#define BAR0_SIZE 0x4000u
#define PAGE	  0x1000u

/* Registers of BAR0. A write to CMD carries out the command; RESULT is its errno or value. */
struct registers {
	uint64_t src, dst;
	uint32_t len, cmd, result, listeners;
};

enum {
	CMD_COPY = 1,	/* len bytes from src to dst */
	CMD_TRIGGER,	/* interrupt type src, vector dst */
	CMD_INTX,	/* level len */
	CMD_COPY_LATER, /* CMD_COPY, but from a timer */
	CMD_RINGS,	/* result: how often the doorbells' eventfds were rung */
	CMD_FILL,	/* write len bytes of 0x5a to dst */
};

struct probe {
	struct pci_model pci;
	struct registers r;
	struct loop *loop;
	struct loop_timer later;
	int rings[2];
	int memory;
	struct pci_area areas[2];
	struct pci_doorbell doorbells[3];
	uint8_t bounce[1 << 20];
};

static struct probe *probe_of(struct pci_model *m)
{
	return container_of(m, struct probe, pci);
}

static int copy(struct probe *p)
{
	size_t len = MIN(p->r.len, sizeof(p->bounce));
	int rc = guest_mem_read(p->pci.mem, p->r.src, p->bounce, len);

	return rc ? rc : guest_mem_write(p->pci.mem, p->r.dst, p->bounce, len);
}

static int fill(struct probe *p)
{
	size_t len = MIN(p->r.len, sizeof(p->bounce));

	memset(p->bounce, 0x5a, len);
	return guest_mem_write(p->pci.mem, p->r.dst, p->bounce, len);
}

static void copy_later(struct loop_timer *timer)
{
	struct probe *p = container_of(timer, struct probe, later);

	p->r.result = (uint32_t)-copy(p);
}

static uint32_t rings(const struct probe *p)
{
	uint64_t a = 0, b = 0;

	if (read(p->rings[0], &a, sizeof(a)) < 0)
		a = 0;
	if (read(p->rings[1], &b, sizeof(b)) < 0)
		b = 0;
	return (uint32_t)(a * 100 + b);
}

static void carry_out(struct probe *p)
{
	p->r.result = 0;
	switch (p->r.cmd) {
	case CMD_COPY:
		p->r.result = (uint32_t)-copy(p);
		break;
	case CMD_TRIGGER:
		if (p->r.src < PCI_IRQ_TYPES)
			pci_model_trigger(&p->pci, (enum pci_irq)p->r.src, (unsigned)p->r.dst);
		break;
	case CMD_INTX:
		pci_model_set_intx(&p->pci, p->r.len);
		break;
	case CMD_COPY_LATER:
		p->r.result = 0xffff;
		loop_timer_set(p->loop, &p->later, clock_now_ns() + NS_PER_MS, copy_later);
		break;
	case CMD_RINGS:
		p->r.result = rings(p);
		break;
	case CMD_FILL:
		p->r.result = (uint32_t)-fill(p);
		break;
	}
}

static int region_read(struct pci_model *m, unsigned region, uint64_t off, void *buf, size_t len)
{
	struct probe *p = probe_of(m);

	memset(buf, region ? 0xa5 : 0, len);
	if (region == 0 && off < sizeof(p->r))
		memcpy(buf, (uint8_t *)&p->r + off, MIN(len, sizeof(p->r) - (size_t)off));
	return 0;
}

static int region_write(
	struct pci_model *m, unsigned region, uint64_t off, const void *buf, size_t len)
{
	struct probe *p = probe_of(m);

	if (region || off >= sizeof(p->r))
		return 0;
	memcpy((uint8_t *)&p->r + off, buf, MIN(len, sizeof(p->r) - (size_t)off));
	if (ranges_overlap(off, len, offsetof(struct registers, cmd), 4))
		carry_out(p);
	return 0;
}

static void reset(struct pci_model *m)
{
	struct probe *p = probe_of(m);
	uint32_t listeners = p->r.listeners;

	p->r = (struct registers){ .listeners = listeners };
	pci_model_set_intx(m, false);
}

static void irq_state(struct pci_model *m, enum pci_irq type, unsigned vector, bool listening)
{
	probe_of(m)->r.listeners += listening ? 1u : -1u;
}

static void free_probe(struct pci_model *m)
{
	struct probe *p = probe_of(m);

	loop_timer_del(&p->later);
	fd_close(&p->rings[0]);
	fd_close(&p->rings[1]);
	fd_close(&p->memory);
	free(p);
}

static const struct pci_model_ops ops = {
	.region_read = region_read,
	.region_write = region_write,
	.reset = reset,
	.irq_state = irq_state,
	.free = free_probe,
};

static void describe(struct probe *p)
{
	static const struct pci_ids ids = { 0x1234, 0x0001, 0x1234, 0x0001, 0xff0000, 0 };
	struct pci_region *regions = p->pci.regions;

	pci_model_init(&p->pci, &ops, "probe", PCI_CONFIG_EXPRESS, &ids);
	pci_config_add_bar(&p->pci.config, 0, BAR0_SIZE, 0);
	pci_config_add_bar(&p->pci.config, 1, PAGE, 0);
	pci_config_add_bar(&p->pci.config, 5, PAGE, 0);
	p->areas[0] = (struct pci_area){ 0x1000, PAGE };
	p->areas[1] = (struct pci_area){ 0x3000, PAGE };
	for (uint32_t i = 0; i < 3; i++)
		p->doorbells[i] = (struct pci_doorbell){ 0x800 + 4 * i, 4,
			i == 1 ? 1 << kvm_ioeventfd_flag_nr_datamatch : 0, i == 1 ? 7 : 0,
			p->rings[i / 2] };
	regions[0] = (struct pci_region){ BAR0_SIZE,
		PCI_REGION_READ | PCI_REGION_WRITE | PCI_REGION_MMAP, p->memory, 0, p->areas, 2,
		p->doorbells, 3 };
	regions[1] = (struct pci_region){ .size = PAGE, .flags = PCI_REGION_READ, .fd = -1 };
	regions[5] = (struct pci_region){ .size = PAGE,
		.flags = PCI_REGION_READ | PCI_REGION_WRITE | PCI_REGION_MMAP,
		.fd = p->memory,
		.fd_offset = PAGE };
	p->pci.irq_count[PCI_IRQ_INTX] = 1;
	p->pci.irq_count[PCI_IRQ_MSI] = 4;
	p->pci.irq_count[PCI_IRQ_MSIX] = 40;
}

int probe_new(struct pci_model **out, struct loop *loop)
{
	struct probe *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->loop = loop;
	p->rings[0] = fd_eventfd();
	p->rings[1] = fd_eventfd();
	p->memory = memfd_create("probe", MFD_CLOEXEC);
	if (p->rings[0] < 0 || p->rings[1] < 0 || p->memory < 0 ||
		ftruncate(p->memory, BAR0_SIZE)) {
		free_probe(&p->pci);
		return -EMFILE;
	}
	describe(p);
	*out = &p->pci;
	return 0;
}
