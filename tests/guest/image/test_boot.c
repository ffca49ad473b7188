/* test_boot.c - what the loader must have left behind; options size= and text= say what to expect
 */
#include "abi.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

static void check_zero_page(uint64_t zp)
{
	ok(read32(zp + 0x202) == 0x53726448, "the setup header has its magic");
	equal(read16(zp + 0x206), 0x020f, "and the image's protocol version");
	ok(read8(zp + 0x210) != 0, "type_of_loader is set");
	ok(read8(zp + 0x211) & 1, "loadflags keep LOADED_HIGH");
	equal(read32(zp + 0x214), boot.load, "code32_start is where the image is");
	equal(read16(zp + 0x1fe), 0xaa55, "boot_flag was copied");
}

static void check_start_info(uint64_t si)
{
	equal(read32(si), 0x336ec578, "hvm_start_info has its magic");
	ok(read32(si + 4) >= 1, "and version 1 or later");
	equal(boot.load, LINK_BASE, "the segments are at their p_paddr");
}

static bool in_ram(uint64_t addr, uint64_t size)
{
	for (unsigned i = 0; i < boot.nr_e820; i++) {
		const struct e820 *e = &boot.e820[i];

		if (e->type == E820_RAM && addr >= e->addr && size <= e->size &&
			addr - e->addr <= e->size - size)
			return true;
	}
	return false;
}

static void check_e820(void)
{
	uint64_t ram = 0, want = boot_number("size", 0);
	bool disjoint = true, ecam = false, sane = true;

	for (unsigned i = 0; i < boot.nr_e820; i++) {
		const struct e820 *a = &boot.e820[i];

		note("e820 0x%lx + 0x%lx type %u", a->addr, a->size, a->type);
		sane = sane && a->size && a->addr + a->size > a->addr;
		if (a->type == E820_RAM)
			ram += a->size;
		if (a->type == E820_RESERVED && a->addr <= 0xe8000000 &&
			a->addr + a->size >= 0xe8100000)
			ecam = true;
		for (unsigned j = 0; j < i; j++) {
			const struct e820 *b = &boot.e820[j];

			if (a->addr < b->addr + b->size && b->addr < a->addr + a->size)
				disjoint = false;
		}
	}
	ok(boot.nr_e820 >= 3, "there is a memory map");
	ok(sane, "no range is empty or wraps");
	ok(disjoint, "the ranges are disjoint");
	ok(ecam, "ECAM is reserved");
	ok(!in_ram(0xa0000, 1), "the EBDA and what follows it is no RAM");
	ok(in_ram(boot.load, 1), "the image is in RAM");
	ok(in_ram(boot.info, 0x1000), "the loader's block is in RAM");
	/* Below 1 MiB all of 384 KiB is not RAM. */
	if (want)
		equal(ram, want - 0x60000, "the RAM ranges add up to the size given");
}

/* Each end of each RAM range keeps what is written there; ends may be shared by nothing else. */
static void check_ram(void)
{
	for (unsigned i = 0; i < boot.nr_e820; i++) {
		const struct e820 *e = &boot.e820[i];
		uint64_t last = e->addr + e->size - 8;

		if (e->type != E820_RAM || e->addr < 0x100000)
			continue;
		if (!ok(sys_map(e->addr, e->size < 0x200000 ? e->size : 0x200000) &&
				    sys_map(last, 8),
			    "range %u can be mapped", i))
			continue;
		write64(last, 0x1122334455667788 + i);
		equal(read64(last), 0x1122334455667788 + i, "the last bytes of range %u are RAM",
			i);
		if (e->addr != 0x100000) {
			write64(e->addr, 0x8877665544332211 + i);
			equal(read64(e->addr), 0x8877665544332211 + i,
				"the first bytes of range %u are RAM", i);
		}
	}
}

/* The runner's ramdisk holds bytes of a known rule: byte i is (i * 7 + i / 256) mod 256. */
static void check_ramdisk(void)
{
	uint64_t want = boot_number("ramdisk", 0), bad = UINT64_MAX;

	if (!want) {
		equal(boot.ramdisk_size, 0, "there is no ramdisk");
		return;
	}
	if (!equal(boot.ramdisk_size, want, "the ramdisk has the size given"))
		return;
	ok(in_ram(boot.ramdisk, boot.ramdisk_size), "it is in RAM");
	ok(boot.ramdisk + boot.ramdisk_size <= 0x80000000, "and below initrd_addr_max");
	for (uint64_t i = 0; i < want && bad == UINT64_MAX; i++)
		if (read8(boot.ramdisk + i) != (uint8_t)(i * 7 + i / 256))
			bad = i;
	equal(bad, UINT64_MAX, "its bytes are right (the first wrong one)");
}

void test_boot(void)
{
	char text[64];

	note("entry %d, info at 0x%lx, image at 0x%lx", boot.entry, boot.info, boot.load);
	if (boot.entry == ENTRY_PVH)
		check_start_info(boot.info);
	else
		check_zero_page(boot.info);
	ok(boot.cmdline_max > 0, "the command line ends");
	equal(boot.cmdline_max - 1, boot_number("length", boot.cmdline_max - 1),
		"the command line has its whole length");
	ok(!strcmp(boot_option("last", text, sizeof(text), "word"), "word"), "and its last word");
	check_e820();
	check_ramdisk(); /* which check_ram() may overwrite */
	check_ram();
	if (ok(boot.rsdp != 0, "there is an RSDP"))
		ok(!memcmp((const void *)boot.rsdp, "RSD PTR ", 8), "with its signature");
}
