#include "device/pci_model.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/util.h"

void pci_model_init(struct pci_model *m, const struct pci_model_ops *ops, const char *name,
	uint32_t config_size, const struct pci_ids *ids)
{
	*m = (struct pci_model){ .ops = ops, .name = name };
	for (size_t i = 0; i < ARRAY_SIZE(m->regions); i++)
		m->regions[i].fd = -1;
	pci_config_init(&m->config, config_size, ids);
	m->regions[PCI_MODEL_CONFIG].size = config_size;
	m->regions[PCI_MODEL_CONFIG].flags = PCI_REGION_READ | PCI_REGION_WRITE;
}

void pci_model_free(struct pci_model *m)
{
	if (m)
		m->ops->free(m);
}

/* The line as it leaves the function: what the model drives, unless software has cut it off. */
static void update_intx(struct pci_model *m)
{
	uint16_t status = pci_config_get16(&m->config, PCI_STATUS) & ~PCI_STATUS_INTERRUPT;
	bool enabled = !(pci_config_get16(&m->config, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);

	pci_config_set16(&m->config, PCI_STATUS, m->intx ? status | PCI_STATUS_INTERRUPT : status);
	if (m->port)
		m->port->ops->set_intx(m->port, m->intx && enabled);
}

void pci_model_attach(struct pci_model *m, struct pci_port *port, struct guest_mem *mem)
{
	m->port = port;
	m->mem = mem;
	update_intx(m);
}

void pci_model_detach(struct pci_model *m)
{
	m->port = NULL;
	m->mem = NULL;
}

/* The region, when [off, off + len) lies inside it and all of `flags` are set. */
static const struct pci_region *find_region(
	const struct pci_model *m, uint32_t index, uint64_t off, size_t len, uint32_t flags)
{
	const struct pci_region *r;

	if (index >= ARRAY_SIZE(m->regions))
		return NULL;
	r = &m->regions[index];
	return range_ok(off, len, r->size) && (r->flags & flags) == flags ? r : NULL;
}

int pci_model_read(struct pci_model *m, uint32_t region, uint64_t off, void *buf, size_t len)
{
	if (!find_region(m, region, off, len, PCI_REGION_READ))
		return -EINVAL;
	if (region != PCI_MODEL_CONFIG)
		return len ? m->ops->region_read(m, region, off, buf, len) : 0;
	pci_config_read(&m->config, (uint32_t)off, buf, len);
	return 0;
}

int pci_model_write(struct pci_model *m, uint32_t region, uint64_t off, const void *buf, size_t len)
{
	if (!find_region(m, region, off, len, PCI_REGION_WRITE))
		return -EINVAL;
	if (region != PCI_MODEL_CONFIG)
		return len ? m->ops->region_write(m, region, off, buf, len) : 0;
	pci_config_write(&m->config, (uint32_t)off, buf, len);
	update_intx(m);
	pci_model_changed(m);
	return 0;
}

void pci_model_reset(struct pci_model *m)
{
	pci_config_reset(&m->config);
	m->ops->reset(m);
	update_intx(m);
	pci_model_changed(m);
}

void pci_model_set_intx(struct pci_model *m, bool level)
{
	if (m->intx == level)
		return;
	m->intx = level;
	update_intx(m);
}

void pci_model_trigger(struct pci_model *m, enum pci_irq type, unsigned vector)
{
	if (m->port)
		m->port->ops->trigger(m->port, type, vector);
}

void pci_model_changed(struct pci_model *m)
{
	if (m->on_change)
		m->on_change(m, m->on_change_arg);
}
