/* boot.h - what the loader handed over, in one form for all ways in */
#ifndef GUEST_BOOT_H
#define GUEST_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define E820_MAX      128
#define E820_RAM      1
#define E820_RESERVED 2

struct e820 {
	uint64_t addr, size;
	uint32_t type;
};

struct boot {
	int entry;	      /* ENTRY_* of abi.h */
	uint64_t info;	      /* zero page or hvm_start_info */
	uint64_t load;	      /* where this image is */
	const char *cmdline;  /* never NULL */
	uint64_t cmdline_max; /* bytes up to and with its zero, or 0: not terminated */
	uint64_t rsdp;
	uint64_t ramdisk, ramdisk_size;
	unsigned nr_e820;
	struct e820 e820[E820_MAX];
};

extern struct boot boot;

void boot_parse(int entry, uint64_t info);
/* The value of "name=VALUE" on the command line in buf, else its default. */
const char *boot_option(const char *name, char *buf, size_t size, const char *otherwise);
/* A number, decimal or with 0x. */
uint64_t boot_number(const char *name, uint64_t otherwise);

#endif
