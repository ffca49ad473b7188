/*
 * acpi_dsdt.c - the DSDT: the machine's devices, and the little code that goes with them
 *
 * What stands in \_SB: motherboard, a host bridge for each PCI segment, processors, serial port,
 * clock, power button and the generic event device; and the sleep state that turns off.
 *
 * Spec: ACPI 6.3; PCI Firmware 3.3 (_OSC, _DSM).
 */
#include "machine/acpi_priv.h"

#include <stdio.h>

#include "machine/layout.h"
#include "machine/platform.h"

unsigned acpi_intx_gsi(unsigned slot)
{
	return GSI_INTX_BASE + slot % GSI_INTX_COUNT;
}

static void name_int(struct aml *a, const char *name, uint64_t v)
{
	aml_name(a, name);
	aml_int(a, v);
}

static void name_eisaid(struct aml *a, const char *name, const char *id)
{
	aml_name(a, name);
	aml_eisaid(a, id);
}

static void name_string(struct aml *a, const char *name, const char *s)
{
	aml_name(a, name);
	aml_string(a, s);
}

/* What no driver owns but nobody else may use */
static void add_motherboard(struct aml *a, const struct acpi_params *p)
{
	aml_device(a, "MBRD");
	name_eisaid(a, "_HID", "PNP0C02");
	name_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_memory32_fixed(
		a, (uint32_t)LAYOUT_ECAM, (uint32_t)(p->nr_segments * LAYOUT_ECAM_SEGMENT));
	aml_res_memory64(a, p->platform_base, LAYOUT_PLATFORM_SIZE);
	if (p->intremap)
		aml_res_memory32_fixed(a, (uint32_t)LAYOUT_INTREMAP,
			(uint32_t)(p->nr_segments * LAYOUT_INTREMAP_UNIT));
	aml_res_io(a, PORT_SLEEP, 12); /* up to the end of the PM timer */
	aml_end(a);
	aml_end(a);
}

static void add_bridge_windows(struct aml *a, unsigned segment, const struct pci_windows *w)
{
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_bus(a, 0, 0);
	if (segment == 0) {
		aml_res_io(a, PORT_PCI_ADDRESS, 8);
		aml_res_io_window(a, 0, PORT_PCI_ADDRESS);
		aml_res_io_window(a, PORT_PCI_ADDRESS + 8, 0x10000 - (PORT_PCI_ADDRESS + 8));
	}
	if (w->mmio32_size)
		aml_res_memory32_window(a, (uint32_t)w->mmio32, (uint32_t)w->mmio32_size);
	if (w->mmio64_size)
		aml_res_memory64_window(a, w->mmio64, w->mmio64_size);
	aml_end(a);
}

static void add_bridge_routes(struct aml *a)
{
	aml_name(a, "_PRT");
	aml_package(a);
	for (unsigned slot = 0; slot < LAYOUT_PCI_SLOTS; slot++) {
		aml_element(a);
		aml_package(a);
		aml_element(a);
		aml_int(a, (uint64_t)slot << 16 | 0xffff); /* any function */
		aml_element(a);
		aml_int(a, 0); /* pin A */
		aml_element(a);
		aml_int(a, 0); /* no link device: */
		aml_element(a);
		aml_int(a, acpi_intx_gsi(slot)); /* a GSI */
		aml_end(a);
	}
	aml_end(a);
}

#define OSC_PCI_UUID	 "33db4d5b-1ff7-401c-9657-7441c03dd766"
#define OSC_BAD_UUID	 0x04
#define OSC_BAD_REVISION 0x08
#define OSC_MASKED	 0x10
/*
 * What the operating system may control itself: PME, AER, the PCI Express capability. Not
 * native hotplug: there are no root ports, and slots are hot-plugged through ACPI.
 */
#define OSC_GRANTED 0x1c

static void dword_of_arg3(struct aml *a, unsigned off, const char *name)
{
	aml_create_dword_field(a);
	aml_arg(a, 3);
	aml_int(a, off);
	aml_path(a, name);
}

/* name |= bits */
static void or_into(struct aml *a, const char *name, uint64_t bits)
{
	aml_or(a);
	aml_path(a, name);
	aml_int(a, bits);
	aml_path(a, name);
}

/* PCI Firmware 3.3, 4.5.1 */
static void add_bridge_osc(struct aml *a)
{
	aml_method(a, "_OSC", 4, AML_SERIALIZED);
	dword_of_arg3(a, 0, "CDW1");
	aml_if(a);
	aml_equal(a);
	aml_arg(a, 0);
	aml_uuid(a, OSC_PCI_UUID);
	dword_of_arg3(a, 8, "CDW3");
	aml_if(a); /* revision other than 1 */
	aml_not(a);
	aml_equal(a);
	aml_arg(a, 1);
	aml_int(a, 1);
	or_into(a, "CDW1", OSC_BAD_REVISION);
	aml_end(a);
	aml_and(a); /* Local0 = CDW3 & granted */
	aml_path(a, "CDW3");
	aml_int(a, OSC_GRANTED);
	aml_local(a, 0);
	aml_if(a);
	aml_not(a);
	aml_equal(a);
	aml_path(a, "CDW3");
	aml_local(a, 0);
	or_into(a, "CDW1", OSC_MASKED);
	aml_end(a);
	aml_store(a);
	aml_local(a, 0);
	aml_path(a, "CDW3");
	aml_return(a);
	aml_arg(a, 3);
	aml_end(a);
	or_into(a, "CDW1", OSC_BAD_UUID);
	aml_return(a);
	aml_arg(a, 3);
	aml_end(a);
}

#define DSM_PCI_UUID "e5c937d0-3553-4d7a-9117-ea4d19c3434d"

static void return_buffer_byte(struct aml *a, uint8_t byte)
{
	aml_return(a);
	aml_buffer(a, &byte, 1);
}

static void if_arg_is(struct aml *a, unsigned arg, uint64_t v)
{
	aml_if(a);
	aml_equal(a);
	aml_arg(a, arg);
	aml_int(a, v);
}

/* PCI Firmware 3.3, 4.6.5: function 5 returning 0 asks to keep the BARs where they are. */
static void add_bridge_dsm(struct aml *a)
{
	aml_method(a, "_DSM", 4, AML_NOT_SERIALIZED);
	aml_if(a);
	aml_equal(a);
	aml_arg(a, 0);
	aml_uuid(a, DSM_PCI_UUID);
	if_arg_is(a, 2, 0);
	return_buffer_byte(a, 0x21); /* functions 0 and 5 */
	aml_end(a);
	if_arg_is(a, 2, 5);
	aml_return(a);
	aml_int(a, 0);
	aml_end(a);
	aml_end(a);
	return_buffer_byte(a, 0);
	aml_end(a);
}

static void add_bridge(struct aml *a, unsigned segment, const struct pci_windows *w)
{
	char name[8];

	snprintf(name, sizeof(name), "PC%02X", segment & 0xff);
	aml_device(a, name);
	name_eisaid(a, "_HID", "PNP0A08");
	name_eisaid(a, "_CID", "PNP0A03");
	name_int(a, "_SEG", segment);
	name_int(a, "_UID", segment);
	name_int(a, "_BBN", 0);
	name_int(a, "_CCA", 1);
	add_bridge_windows(a, segment, w);
	add_bridge_routes(a);
	add_bridge_osc(a);
	add_bridge_dsm(a);
	aml_end(a);
}

/* A processor device for each that is there; it belongs to the MADT entry with the same UID. */
static void add_processors(struct aml *a, const struct acpi_params *p)
{
	aml_device(a, "CPUS");
	name_string(a, "_HID", "ACPI0010");
	name_eisaid(a, "_CID", "PNP0A05");
	name_int(a, "_UID", 0);
	for (unsigned i = 0; i < p->boot_vcpus; i++) {
		char name[8];

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		aml_device(a, name);
		name_string(a, "_HID", "ACPI0007");
		name_int(a, "_UID", i);
		aml_end(a);
	}
	aml_end(a);
}

static void add_serial(struct aml *a)
{
	aml_device(a, "COM1");
	name_eisaid(a, "_HID", "PNP0501");
	name_int(a, "_UID", 0);
	name_string(a, "_DDN", "COM1");
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_io(a, PORT_COM1, 8);
	aml_res_interrupt(a, AML_EDGE, GSI_COM1);
	aml_end(a);
	aml_end(a);
}

/* Without an interrupt: alarms come from elsewhere. */
static void add_clock(struct aml *a)
{
	aml_device(a, "RTC");
	name_eisaid(a, "_HID", "PNP0B00");
	name_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_io(a, PORT_RTC_INDEX, 2);
	aml_end(a);
	aml_end(a);
}

static void add_power_button(struct aml *a)
{
	aml_device(a, "PWRB");
	name_eisaid(a, "_HID", "PNP0C0C");
	name_int(a, "_UID", 0);
	aml_end(a);
}

/* ACPI 6.3, 5.6.9. Reading GDAT takes the events away, so it is read once. */
static void add_ged(struct aml *a, const struct acpi_params *p)
{
	aml_device(a, "GED");
	name_string(a, "_HID", "ACPI0013");
	name_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	aml_resources(a);
	aml_res_interrupt(a, AML_EDGE, GSI_GED);
	aml_end(a);
	aml_region(a, "GDST", AML_SYSTEM_MEMORY, p->platform_base + LAYOUT_PLATFORM_GED, 1);
	aml_field(a, "GDST", AML_ACCESS_BYTE | AML_WRITE_AS_ZEROS);
	aml_field_unit(a, "GDAT", 8);
	aml_end(a);
	aml_method(a, "_EVT", 1, AML_SERIALIZED);
	aml_store(a);
	aml_path(a, "GDAT");
	aml_local(a, 0);
	aml_if(a);
	aml_and(a);
	aml_local(a, 0);
	aml_int(a, GED_POWER_BUTTON);
	aml_null(a);
	aml_notify(a, "\\_SB.PWRB", 0x80);
	aml_end(a);
	aml_end(a);
	aml_end(a);
}

#define SLEEP_TYPE_S5 5

static void add_s5(struct aml *a)
{
	aml_name(a, "\\_S5");
	aml_package(a);
	for (unsigned i = 0; i < 4; i++) {
		aml_element(a);
		aml_int(a, i < 2 ? SLEEP_TYPE_S5 : 0);
	}
	aml_end(a);
}

size_t acpi_add_dsdt(struct aml *a, const struct acpi_params *p)
{
	size_t start = acpi_table_begin(a, "DSDT", 6);

	aml_scope(a, "\\_SB");
	add_motherboard(a, p);
	for (unsigned i = 0; i < p->nr_segments; i++)
		add_bridge(a, i, p->windows[i]);
	add_processors(a, p);
	if (p->serial)
		add_serial(a);
	add_clock(a);
	add_power_button(a);
	add_ged(a, p);
	aml_end(a);
	add_s5(a);
	acpi_table_end(a, start);
	return start;
}
