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
 * Here are the tables in general and those of a fixed form; the DSDT (acpi_dsdt.c) and what an
 * IOMMU adds (acpi_iommu.c) have files of their own.
 *
 * Spec: ACPI 6.3; PCI Firmware 3.3 (MCFG).
 */
#include "machine/acpi.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "machine/acpi_priv.h"
#include "machine/aml.h"
#include "machine/layout.h"
#include "machine/platform.h"
#include "machine/smbios.h"

#define OEM_ID	     "OUTBRD"
#define OEM_TABLE_ID "OUTBOARD"
#define CREATOR_ID   "OBRD"

/* ---- tables in general ---- */

static void pad(struct aml *a, size_t align)
{
	while (!a->status && a->size % align)
		aml_u8(a, 0);
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
	aml_patch_u32(a, start + 4, (uint32_t)(a->size - start));
	aml_checksum(a, start, a->size - start, 9);
}

/* ---- tables of fixed form ---- */

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
	aml_checksum(a, 0, RSDP_V1_SIZE, offsetof(typeof(t), checksum));
	aml_checksum(a, 0, RSDP_SIZE, offsetof(typeof(t), ext_checksum));
}

int acpi_build(const struct acpi_params *p, uint64_t base, uint8_t **out, size_t *size)
{
	static const uint8_t rsdp[RSDP_SIZE];
	struct aml a = { 0 };
	size_t dsdt, tables[5], xsdt, nr = 3;
	int rc;

	aml_bytes(&a, rsdp, sizeof(rsdp)); /* filled at the end */
	dsdt = acpi_add_dsdt(&a, p);
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
