/*
 * smbios.c - what the machine calls itself
 *
 * An entry point, and behind it the structures that every machine has: BIOS, system, end.
 *
 * Spec: SMBIOS 3.3.
 */
#include "machine/smbios.h"

#include <string.h>

#include "base/util.h"
#include "machine/aml.h"

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
	aml_patch_u32(&a, 12, (uint32_t)(a.size - SMBIOS_TABLE_OFF));
	memcpy(a.data + 16, &table, sizeof(table));
	aml_checksum(&a, 0, SMBIOS_ENTRY_SIZE, 5);
	*out = a.data;
	*size = a.size;
	return 0;
}
