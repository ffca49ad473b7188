/*
 * acpi_iommu.c - the tables of what stands between devices and the rest: VIOT and DMAR
 *
 * VIOT names the functions whose addresses a virtio-iommu translates. DMAR names interrupt
 * remapping units, one for each segment and all that is in it; to the first belongs the IOAPIC,
 * under the address of a function that no segment has.
 *
 * Spec: ACPI 6.5, 5.2.32 (VIOT); Intel VT-d 3.3, 8 (DMAR).
 */
#include "machine/acpi_priv.h"

/* ACPI 6.5, 5.2.32: the IOMMU first, then a range of one function for each endpoint */
size_t acpi_add_viot(struct aml *a, const struct acpi_viot *v)
{
	enum { HEAD = 48, PCI_RANGE = 1, VIRTIO_PCI_IOMMU = 3 };
	size_t start = acpi_table_begin(a, "VIOT", 0);

	aml_u16(a, (uint16_t)(v->nr_endpoints + 1));
	aml_u16(a, HEAD);
	aml_u64(a, 0);
	aml_u8(a, VIRTIO_PCI_IOMMU);
	aml_u8(a, 0);
	aml_u16(a, 16); /* length */
	aml_u16(a, 0);	/* segment */
	aml_u16(a, v->bdf);
	aml_u64(a, 0);
	for (unsigned i = 0; i < v->nr_endpoints; i++) {
		aml_u8(a, PCI_RANGE);
		aml_u8(a, 0);
		aml_u16(a, 24); /* length */
		aml_u32(a, v->endpoints[i]);
		for (int last = 0; last <= 1; last++)
			aml_u16(a, (uint16_t)(v->endpoints[i] >> 16));
		for (int last = 0; last <= 1; last++)
			aml_u16(a, (uint16_t)v->endpoints[i]);
		aml_u16(a, HEAD); /* translated by that one */
		aml_u16(a, 0);
		aml_u32(a, 0);
	}
	acpi_table_end(a, start);
	return start;
}

/* 8.3.1: the only scope that has to be named is the IOAPIC's. */
static void add_ioapic_scope(struct aml *a)
{
	aml_u8(a, 3); /* an IOAPIC */
	aml_u8(a, 8); /* length */
	aml_u16(a, 0);
	aml_u8(a, 0); /* its id in the MADT */
	aml_u8(a, IRQ_SOURCE_IOAPIC >> 8);
	aml_u8(a, IRQ_SOURCE_IOAPIC >> 3 & 0x1f);
	aml_u8(a, IRQ_SOURCE_IOAPIC & 7);
}

size_t acpi_add_dmar(struct aml *a, const struct acpi_params *p)
{
	enum { INTR_REMAP = 1, INCLUDE_PCI_ALL = 1, DRHD_SIZE = 16, IOAPIC_SCOPE = 8 };
	size_t start = acpi_table_begin(a, "DMAR", 1);

	aml_u8(a, (uint8_t)(p->phys_bits - 1));
	aml_u8(a, INTR_REMAP); /* x2APIC mode is welcome */
	for (unsigned i = 0; i < 10; i++)
		aml_u8(a, 0);
	for (unsigned i = 0; i < p->nr_segments; i++) {
		aml_u16(a, 0); /* a DRHD */
		aml_u16(a, i ? DRHD_SIZE : DRHD_SIZE + IOAPIC_SCOPE);
		aml_u8(a, INCLUDE_PCI_ALL);
		aml_u8(a, 0); /* a page of registers */
		aml_u16(a, (uint16_t)i);
		aml_u64(a, LAYOUT_INTREMAP + i * LAYOUT_INTREMAP_UNIT);
		if (!i)
			add_ioapic_scope(a);
	}
	acpi_table_end(a, start);
	return start;
}
