/*
 * vfio_rich.h - a PCIe device with one of everything, and what its server was told, as a text
 */
#ifndef TESTS_VFIO_RICH_H
#define TESTS_VFIO_RICH_H

#include "vfio_world.h"

#define MSIX_POS 0x40
#define MSI_POS	 0x50
#define PM_POS	 0x70
#define EXP_POS	 0x80

static MAYBE_UNUSED void cap(struct fake *f, unsigned pos, unsigned id, unsigned next)
{
	put16(f->config + PCI_STATUS, PCI_STATUS_CAP_LIST);
	f->config[pos] = (uint8_t)id;
	f->config[pos + 1] = (uint8_t)next;
}

/* A PCIe device with every capability we deal with, and 4 KiB of configuration space. */
static MAYBE_UNUSED struct fake *rich(void)
{
	struct fake *f = fake_new();

	f->config[PCI_CAPABILITY_LIST] = MSIX_POS;
	cap(f, MSIX_POS, PCI_CAP_ID_MSIX, MSI_POS);
	put16(f->config + MSIX_POS + 2, 7);
	put32(f->config + MSIX_POS + 4, 4 | 0x2000); /* BAR 4 */
	put32(f->config + MSIX_POS + 8, 4 | 0x3000);
	cap(f, MSI_POS, PCI_CAP_ID_MSI, PM_POS);
	put16(f->config + MSI_POS + 2, PCI_MSI_FLAGS_64BIT | 2 << 1); /* 4 vectors */
	cap(f, PM_POS, PCI_CAP_ID_PM, EXP_POS);
	cap(f, EXP_POS, PCI_CAP_ID_EXP, 0);
	put16(f->config + EXP_POS + 2, 2);
	f->regions[CONFIG].size = 4096;
	f->regions[4] = no_region();
	f->regions[4].size = 0x4000;
	f->regions[4].flags = VFIO_USER_REGION_FLAG_READ | VFIO_USER_REGION_FLAG_WRITE;
	f->config[PCI_BASE_ADDRESS_4] = 0xc; /* 64 bits, prefetchable */
	f->irqs[VFIO_USER_IRQ_MSI] = (struct vfio_user_irq_info){ .flags = 1, .count = 4 };
	f->irqs[VFIO_USER_IRQ_MSIX] = (struct vfio_user_irq_info){ .flags = 1, .count = 8 };
	return f;
}

static MAYBE_UNUSED void end(struct world *w, struct fake *f)
{
	world_free(w);
	fake_free(f);
}

/* Interrupt requests that the server got, as text: "INTx+1 MSI-X-" and so on. */
static MAYBE_UNUSED void irq_story(struct fake *f, char *text, size_t size)
{
	static const char *const names[] = { "INTx", "MSI", "MSI-X", "ERR", "REQ" };

	text[0] = 0;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_irq_set s;
		size_t at = strlen(text);

		if (f->recs[i].h.command != VFIO_USER_DEVICE_SET_IRQS)
			continue;
		memcpy(&s, f->recs[i].data, sizeof(s));
		snprintf(text + at, size - at, "%s%s%s", at ? " " : "", names[MIN(s.index, 4u)],
			s.flags & VFIO_USER_IRQ_SET_ACTION_UNMASK ? ".unmask" : "");
		at = strlen(text);
		if (s.flags & VFIO_USER_IRQ_SET_DATA_EVENTFD)
			snprintf(text + at, size - at, "+%u:%u", s.start, s.count);
		else if (!(s.flags & VFIO_USER_IRQ_SET_ACTION_UNMASK))
			snprintf(text + at, size - at, "-");
	}
	pthread_mutex_unlock(&f->lock);
}

static MAYBE_UNUSED void check_story(struct fake *f, const char *expected)
{
	char text[512];

	irq_story(f, text, sizeof(text));
	assert_string_equal(text, expected);
	fake_forget(f);
}

static MAYBE_UNUSED void config_story(struct fake *f, char *text, size_t size)
{
	text[0] = 0;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_region_access a;
		uint64_t value = 0;
		size_t at = strlen(text);

		memcpy(&a, f->recs[i].data, sizeof(a));
		if (f->recs[i].h.command != VFIO_USER_REGION_WRITE || a.region != CONFIG)
			continue;
		memcpy(&value, f->recs[i].data + sizeof(a), MIN(a.count, 8u));
		snprintf(text + at, size - at, "%s%llx:%u=%llx", at ? " " : "",
			(unsigned long long)a.offset, a.count, (unsigned long long)value);
	}
	pthread_mutex_unlock(&f->lock);
}

static MAYBE_UNUSED void program_vector(
	struct world *w, struct io_reader *r, unsigned i, uint32_t control)
{
	reg_write(w, r, 4, 0x2000 + 16 * i, 4, 0xfee00000);
	reg_write(w, r, 4, 0x2000 + 16 * i + 8, 4, 0x40 + i);
	reg_write(w, r, 4, 0x2000 + 16 * i + 12, 4, control);
}

#endif
