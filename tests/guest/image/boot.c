/*
 * boot.c - zero page and hvm_start_info
 *
 * Offsets of Linux, Documentation/arch/x86/zero-page.rst, and of Xen's start_info.h.
 */
#include "boot.h"

#include "abi.h"
#include "print.h"
#include "x86.h"

extern const char image_base[];

struct boot boot;

static void add_e820(uint64_t addr, uint64_t size, uint32_t type)
{
	if (boot.nr_e820 < E820_MAX)
		boot.e820[boot.nr_e820++] = (struct e820){ addr, size, type };
}

static void parse_zero_page(uint64_t zp)
{
	boot.cmdline = (const char *)(read32(zp + 0x228) | (uint64_t)read32(zp + 0x0c8) << 32);
	boot.rsdp = read64(zp + 0x070);
	boot.ramdisk = read32(zp + 0x218) | (uint64_t)read32(zp + 0x0c0) << 32;
	boot.ramdisk_size = read32(zp + 0x21c) | (uint64_t)read32(zp + 0x0c4) << 32;
	for (unsigned i = 0; i < read8(zp + 0x1e8); i++) {
		uint64_t e = zp + 0x2d0 + 20 * i;

		add_e820(read64(e), read64(e + 8), read32(e + 16));
	}
}

static void parse_start_info(uint64_t si)
{
	uint64_t modules = read64(si + 16), map = read64(si + 40);

	boot.cmdline = (const char *)read64(si + 24);
	boot.rsdp = read64(si + 32);
	if (read32(si + 12)) {
		boot.ramdisk = read64(modules);
		boot.ramdisk_size = read64(modules + 8);
	}
	for (unsigned i = 0; i < read32(si + 48); i++)
		add_e820(read64(map + 24 * i), read64(map + 24 * i + 8), read32(map + 24 * i + 16));
}

void boot_parse(int entry, uint64_t info)
{
	boot.entry = entry;
	boot.info = info;
	boot.load = (uint64_t)image_base;
	if (entry == ENTRY_PVH)
		parse_start_info(info);
	else
		parse_zero_page(info);
	if (!boot.cmdline)
		boot.cmdline = "";
	for (uint64_t i = 0; i < 65536 && !boot.cmdline_max; i++)
		if (!boot.cmdline[i])
			boot.cmdline_max = i + 1;
	if (!boot.cmdline_max)
		boot.cmdline = "";
}

const char *boot_option(const char *name, char *buf, size_t size, const char *otherwise)
{
	size_t len = strlen(name), n = 0;
	const char *p = boot.cmdline;

	while (*p) {
		while (*p == ' ')
			p++;
		if (!strncmp(p, name, len) && p[len] == '=') {
			for (p += len + 1; *p && *p != ' ' && n + 1 < size; p++)
				buf[n++] = *p;
			buf[n] = 0;
			return buf;
		}
		while (*p && *p != ' ')
			p++;
	}
	return otherwise;
}

uint64_t boot_number(const char *name, uint64_t otherwise)
{
	char buf[32];
	const char *s = boot_option(name, buf, sizeof(buf), NULL);
	uint64_t base = 10, v = 0;

	if (!s)
		return otherwise;
	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	for (; *s; s++) {
		unsigned digit = *s >= 'a' ? (unsigned)(*s - 'a') + 10 : (unsigned)(*s - '0');

		if (digit >= base)
			break;
		v = v * base + digit;
	}
	return v;
}
