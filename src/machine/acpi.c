/*
 * acpi.c - the tables by which the guest learns what the machine consists of
 *
 * Everything is appended to one buffer that is an image of guest memory from `base` on:
 * a table's address is base plus its offset. Checksums are filled in when a table ends.
 *
 * The platform is hardware-reduced: no PM1 registers, no SCI, no PIC or PIT
 * promised. Events come through the generic event device (GED), sleep and reset through
 * one port each.
 *
 * Spec: ACPI 6.3; PCI Firmware 3.3 (MCFG, _OSC, _DSM); SMBIOS 3.3.
 */
#include "machine/acpi.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/acpi_priv.h"
#include "machine/aml.h"
#include "machine/layout.h"
#include "machine/platform.h"

#define OEM_ID	     "OUTBRD"
#define OEM_TABLE_ID "OUTBOARD"
#define CREATOR_ID   "OBRD"

unsigned acpi_intx_gsi(unsigned slot)
{
	return GSI_INTX_BASE + slot % GSI_INTX_COUNT;
}

/* ---- tables in general ---- */

static void pad(struct aml *a, size_t align)
{
	while (!a->status && a->size % align)
		aml_u8(a, 0);
}

static void put_checksum(struct aml *a, size_t start, size_t size, size_t at)
{
	uint8_t sum = 0;

	if (a->status)
		return;
	a->data[start + at] = 0;
	for (size_t i = 0; i < size; i++)
		sum = (uint8_t)(sum + a->data[start + i]);
	a->data[start + at] = (uint8_t)-sum;
}

static void put_u32(struct aml *a, size_t at, uint32_t v)
{
	if (!a->status)
		memcpy(a->data + at, &v, sizeof(v));
}

size_t acpi_table_begin(struct aml *a, const char *signature, uint8_t revision)
{
	size_t start;

	pad(a, 16);
	start = a->size;
	aml_bytes(a, signature, 4);
	aml_u32(a, 0); /* length */
	aml_u8(a, revision);
	aml_u8(a, 0); /* checksum */
	aml_bytes(a, OEM_ID, 6);
	aml_bytes(a, OEM_TABLE_ID, 8);
	aml_u32(a, 1);
	aml_bytes(a, CREATOR_ID, 4);
	aml_u32(a, 1);
	return start;
}

void acpi_table_end(struct aml *a, size_t start)
{
	put_u32(a, start + 4, (uint32_t)(a->size - start));
	put_checksum(a, start, a->size - start, 9);
}

/* ---- DSDT ---- */

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

static size_t add_dsdt(struct aml *a, const struct acpi_params *p)
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

/* ---- the other tables ---- */

struct gas { /* generic address structure */
	uint8_t space, width, offset, access;
	uint64_t addr;
} __attribute__((packed));

#define GAS_IO(bits, access_size, port)                                                            \
	{                                                                                          \
		1, bits, 0, access_size, port                                                      \
	}

struct fadt {
	uint8_t header[36];
	uint32_t firmware_ctrl, dsdt;
	uint8_t reserved0, preferred_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base,
		cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0,
		x_gpe1;
	struct gas sleep_control, sleep_status;
	char hypervisor[8];
} __attribute__((packed));
static_assert(sizeof(struct fadt) == 276, "FADT of ACPI 6.3");
static_assert(offsetof(struct fadt, iapc_boot_arch) == 109, "FADT of ACPI 6.3");
static_assert(offsetof(struct fadt, sleep_control) == 244, "FADT of ACPI 6.3");

#define FADT_WBINVD	     (1u << 0)
#define FADT_PWR_BUTTON	     (1u << 4) /* none, or a control method device */
#define FADT_SLP_BUTTON	     (1u << 5)
#define FADT_FIX_RTC	     (1u << 6) /* no wake-up from it in fixed registers */
#define FADT_TMR_VAL_EXT     (1u << 8)
#define FADT_RESET_REG_SUP   (1u << 10)
#define FADT_HW_REDUCED_ACPI (1u << 20)

/* No keyboard controller (bit 1), so that nobody waits for one; no VGA; no ASPM to be had */
#define IAPC_LEGACY_DEVICES (1u << 0)
#define IAPC_NO_VGA	    (1u << 2)
#define IAPC_NO_ASPM	    (1u << 4)

static size_t add_fadt(struct aml *a, uint64_t dsdt)
{
	struct fadt t = {
		.dsdt = (uint32_t)dsdt,
		.p_lvl2_lat = 101, /* above 100 and 1000: no such C-states */
		.p_lvl3_lat = 1001,
		.century = 0x32,
		.iapc_boot_arch = IAPC_LEGACY_DEVICES | IAPC_NO_VGA | IAPC_NO_ASPM,
		.flags = FADT_WBINVD | FADT_PWR_BUTTON | FADT_SLP_BUTTON | FADT_FIX_RTC |
			 FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP | FADT_HW_REDUCED_ACPI,
		.reset_reg = GAS_IO(8, 1, PORT_SLEEP),
		.reset_value = 1,
		.minor_version = 3,
		.x_dsdt = dsdt,
		.x_pm_tmr = GAS_IO(32, 3, PORT_PM_TIMER),
		.sleep_control = GAS_IO(8, 1, PORT_SLEEP),
		.sleep_status = GAS_IO(8, 1, PORT_SLEEP_STATUS),
		.hypervisor = "OUTBOARD", /* eight bytes, no final zero */
	};
	size_t start = acpi_table_begin(a, "FACP", 6);

	assert(a->status || a->size - start == sizeof(t.header));
	aml_bytes(a, (uint8_t *)&t + sizeof(t.header), sizeof(t) - sizeof(t.header));
	acpi_table_end(a, start);
	return start;
}

enum { MADT_LOCAL_APIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_NMI = 4, MADT_X2APIC = 9 };

#define MADT_ENABLED	    1u
#define MADT_ONLINE_CAPABLE 2u
#define MADT_EDGE_HIGH	    0x5

/* Ids below 255 as xAPIC entries, which every guest reads; ACPI 6.3, 5.2.12.12 wants it so. */
static void add_madt_cpu(struct aml *a, uint32_t uid, uint32_t apic_id, uint32_t flags)
{
	if (apic_id < 255 && uid < 255) {
		aml_u8(a, MADT_LOCAL_APIC);
		aml_u8(a, 8);
		aml_u8(a, (uint8_t)uid);
		aml_u8(a, (uint8_t)apic_id);
		aml_u32(a, flags);
	} else {
		aml_u8(a, MADT_X2APIC);
		aml_u8(a, 16);
		aml_u16(a, 0);
		aml_u32(a, apic_id);
		aml_u32(a, flags);
		aml_u32(a, uid);
	}
}

/* ISA interrupts that are no PCI ones: edge-triggered, active high */
static void add_madt_override(struct aml *a, unsigned gsi)
{
	aml_u8(a, MADT_OVERRIDE);
	aml_u8(a, 10);
	aml_u8(a, 0); /* ISA */
	aml_u8(a, (uint8_t)gsi);
	aml_u32(a, gsi);
	aml_u16(a, MADT_EDGE_HIGH);
}

static size_t add_madt(struct aml *a, const struct acpi_params *p)
{
	size_t start = acpi_table_begin(a, "APIC", 5);

	aml_u32(a, (uint32_t)LAYOUT_LAPIC);
	aml_u32(a, 0); /* no 8259 */
	for (unsigned i = 0; i < p->max_vcpus; i++)
		add_madt_cpu(a, i, p->apic_ids ? p->apic_ids[i] : i,
			i < p->boot_vcpus ? MADT_ENABLED : MADT_ONLINE_CAPABLE);
	aml_u8(a, MADT_IOAPIC);
	aml_u8(a, 12);
	aml_u8(a, 0); /* id */
	aml_u8(a, 0);
	aml_u32(a, (uint32_t)LAYOUT_IOAPIC);
	aml_u32(a, 0); /* first GSI */
	if (p->serial)
		add_madt_override(a, GSI_COM1);
	add_madt_override(a, GSI_GED);
	aml_u8(a, MADT_NMI);
	aml_u8(a, 6);
	aml_u8(a, 0xff); /* all processors */
	aml_u16(a, 0);
	aml_u8(a, 1); /* LINT1 */
	acpi_table_end(a, start);
	return start;
}

static size_t add_mcfg(struct aml *a, const struct acpi_params *p)
{
	size_t start = acpi_table_begin(a, "MCFG", 1);

	aml_u64(a, 0);
	for (unsigned i = 0; i < p->nr_segments; i++) {
		aml_u64(a, LAYOUT_ECAM + i * LAYOUT_ECAM_SEGMENT);
		aml_u16(a, (uint16_t)i);
		aml_u8(a, 0); /* first bus */
		aml_u8(a, 0); /* last bus */
		aml_u32(a, 0);
	}
	acpi_table_end(a, start);
	return start;
}

#define RSDP_SIZE    36
#define RSDP_V1_SIZE 20

static void fill_rsdp(struct aml *a, uint64_t xsdt)
{
	struct {
		char signature[8];
		uint8_t checksum;
		char oem_id[6];
		uint8_t revision;
		uint32_t rsdt, length;
		uint64_t xsdt;
		uint8_t ext_checksum, reserved[3];
	} __attribute__((packed)) t = {
		.signature = "RSD PTR ",
		.oem_id = OEM_ID,
		.revision = 2,
		.length = RSDP_SIZE,
		.xsdt = xsdt,
	};

	static_assert(sizeof(t) == RSDP_SIZE, "RSDP of ACPI 2 and later");
	if (a->status)
		return;
	memcpy(a->data, &t, sizeof(t));
	put_checksum(a, 0, RSDP_V1_SIZE, offsetof(typeof(t), checksum));
	put_checksum(a, 0, RSDP_SIZE, offsetof(typeof(t), ext_checksum));
}

int acpi_build(const struct acpi_params *p, uint64_t base, uint8_t **out, size_t *size)
{
	static const uint8_t rsdp[RSDP_SIZE];
	struct aml a = { 0 };
	size_t dsdt, tables[5], xsdt, nr = 3;
	int rc;

	aml_bytes(&a, rsdp, sizeof(rsdp)); /* filled at the end */
	dsdt = add_dsdt(&a, p);
	tables[0] = add_fadt(&a, base + dsdt);
	tables[1] = add_madt(&a, p);
	tables[2] = add_mcfg(&a, p);
	if (p->viot)
		tables[nr++] = acpi_add_viot(&a, p->viot);
	if (p->intremap)
		tables[nr++] = acpi_add_dmar(&a, p);
	xsdt = acpi_table_begin(&a, "XSDT", 1);
	for (size_t i = 0; i < nr; i++)
		aml_u64(&a, base + tables[i]);
	acpi_table_end(&a, xsdt);
	fill_rsdp(&a, base + xsdt);
	rc = aml_status(&a);
	if (rc) {
		aml_fini(&a);
		return rc;
	}
	*out = a.data;
	*size = a.size;
	return 0;
}

/* ---- SMBIOS ---- */

#define SMBIOS_ENTRY_SIZE 24
#define SMBIOS_TABLE_OFF  32

static void smbios_strings(struct aml *a, const char *const *s, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		aml_bytes(a, s[i], strlen(s[i]) + 1);
	if (!nr)
		aml_u8(a, 0);
	aml_u8(a, 0);
}

static void smbios_header(struct aml *a, uint8_t type, uint8_t size, uint16_t handle)
{
	aml_u8(a, type);
	aml_u8(a, size);
	aml_u16(a, handle);
}

/* SMBIOS 3.3, 7.1 and 7.2 */
static void smbios_structures(struct aml *a)
{
	static const char *const bios[] = { "outboard", "1" };
	static const char *const system[] = { "outboard", "outboard" };
	static const uint8_t uuid[16];

	smbios_header(a, 0, 24, 0);
	aml_u8(a, 1);		/* vendor */
	aml_u8(a, 2);		/* version */
	aml_u16(a, 0);		/* start segment: none */
	aml_u8(a, 0);		/* date */
	aml_u8(a, 0);		/* ROM size */
	aml_u64(a, 1 << 3);	/* characteristics are not given */
	aml_u8(a, 1);		/* ACPI */
	aml_u8(a, 0x14);	/* a virtual machine; the tables may be relied on */
	aml_u32(a, 0xffffffff); /* releases of BIOS and embedded controller: none */
	smbios_strings(a, bios, ARRAY_SIZE(bios));

	smbios_header(a, 1, 27, 1);
	aml_u8(a, 1);			  /* manufacturer */
	aml_u8(a, 2);			  /* product */
	aml_u16(a, 0);			  /* no version, no serial number */
	aml_bytes(a, uuid, sizeof(uuid)); /* not set */
	aml_u8(a, 6);			  /* woken by the power switch */
	aml_u16(a, 0);			  /* no SKU, no family */
	smbios_strings(a, system, ARRAY_SIZE(system));

	smbios_header(a, 127, 4, 2);
	smbios_strings(a, NULL, 0);
}

int smbios_build(uint64_t base, uint8_t **out, size_t *size)
{
	static const uint8_t head[SMBIOS_TABLE_OFF] = { '_', 'S', 'M', '3', '_', 0,
		SMBIOS_ENTRY_SIZE, 3, 3, 0, 1 };
	struct aml a = { 0 };
	uint64_t table = base + SMBIOS_TABLE_OFF;
	int rc;

	aml_bytes(&a, head, sizeof(head));
	smbios_structures(&a);
	rc = aml_status(&a);
	if (rc) {
		aml_fini(&a);
		return rc;
	}
	put_u32(&a, 12, (uint32_t)(a.size - SMBIOS_TABLE_OFF));
	memcpy(a.data + 16, &table, sizeof(table));
	put_checksum(&a, 0, SMBIOS_ENTRY_SIZE, 5);
	*out = a.data;
	*size = a.size;
	return 0;
}

/* ---- into the guest ---- */

int acpi_install(
	const struct acpi_params *p, struct memory *memory, uint64_t *rsdp, struct err *err)
{
	FREE_AUTO uint8_t *acpi = NULL, *smbios = NULL;
	size_t acpi_size = 0, smbios_size = 0;
	int rc = acpi_build(p, LAYOUT_RSDP, &acpi, &acpi_size);

	if (!rc)
		rc = smbios_build(LAYOUT_SMBIOS, &smbios, &smbios_size);
	if (rc)
		return err_set(err, rc, "ACPI tables: %s", strerror(-rc));
	if (acpi_size > LAYOUT_ACPI_MAX)
		return err_set(err, -E2BIG, "ACPI tables take %zu bytes, there is room for %llu",
			acpi_size, LAYOUT_ACPI_MAX);
	rc = memory_write(memory, LAYOUT_RSDP, acpi, acpi_size);
	if (!rc)
		rc = memory_write(memory, LAYOUT_SMBIOS, smbios, smbios_size);
	if (rc)
		return err_set(err, rc, "ACPI tables: guest RAM does not reach up to 1 MiB");
	*rsdp = LAYOUT_RSDP;
	return 0;
}
