/* boot_test.c - kernel images: what is refused and why, and what a guest finds in its RAM */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "fake_memory.h"
#include "machine/boot.h"
#include "machine/boot_image.h"

static char dir[] = "/tmp/boot_test.XXXXXX";
static int fds_at_start;

/* ---- images ---- */

static const char *path_of(const char *name)
{
	static char path[8][128]; /* a test has the path of more than one file in hand */
	static unsigned turn;

	turn = (turn + 1) % ARRAY_SIZE(path);
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
	return path[turn];
}

static const char *write_file(const char *name, const void *bytes, size_t size)
{
	const char *path = path_of(name);
	FD_AUTO fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, size), size);
	return path;
}

#define ELF_TEXT_OFF  0x1000
#define ELF_TEXT_SIZE 0x800
#define ELF_DATA_OFF  0x2345 /* not aligned: the copy must not rely on it */
#define ELF_DATA_SIZE 0x400
#define ELF_DATA_MEM  0x2400
#define ELF_NOTE_OFF  0x3000
#define ELF_SIZE      0x4000
#define ELF_TEXT_GPA  0x1000000ull
#define ELF_DATA_GPA  0x1200000ull
#define ELF_ENTRY     (ELF_TEXT_GPA + 0x10)

struct elf_file {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[3]; /* text, data, notes */
	uint8_t rest[ELF_SIZE - sizeof(Elf64_Ehdr) - 3 * sizeof(Elf64_Phdr)];
};

static size_t put_note(
	uint8_t *to, const char *owner, uint32_t type, const void *desc, uint32_t size)
{
	Elf64_Nhdr nh = {
		.n_namesz = (uint32_t)strlen(owner) + 1, .n_descsz = size, .n_type = type
	};
	size_t name_size = align_up(nh.n_namesz, 4);

	memcpy(to, &nh, sizeof(nh));
	memcpy(to + sizeof(nh), owner, nh.n_namesz);
	memcpy(to + sizeof(nh) + name_size, desc, size);
	return sizeof(nh) + name_size + align_up(size, 4);
}

static struct elf_file *elf(void)
{
	struct elf_file *e = test_calloc(1, sizeof(*e));
	uint8_t *bytes = (uint8_t *)e, *note = bytes + ELF_NOTE_OFF;
	uint64_t entry = ELF_ENTRY;

	memcpy(e->eh.e_ident, ELFMAG, SELFMAG);
	e->eh.e_ident[EI_CLASS] = ELFCLASS64;
	e->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	e->eh.e_type = ET_EXEC;
	e->eh.e_machine = EM_X86_64;
	e->eh.e_phoff = sizeof(e->eh);
	e->eh.e_phentsize = sizeof(Elf64_Phdr);
	e->eh.e_phnum = 3;
	e->ph[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
		.p_offset = ELF_TEXT_OFF,
		.p_paddr = ELF_TEXT_GPA,
		.p_filesz = ELF_TEXT_SIZE,
		.p_memsz = ELF_TEXT_SIZE };
	e->ph[1] = (Elf64_Phdr){ .p_type = PT_LOAD,
		.p_offset = ELF_DATA_OFF,
		.p_paddr = ELF_DATA_GPA,
		.p_filesz = ELF_DATA_SIZE,
		.p_memsz = ELF_DATA_MEM };
	memset(bytes + ELF_TEXT_OFF, 0x90, ELF_TEXT_SIZE);
	memset(bytes + ELF_DATA_OFF, 0xdd, ELF_DATA_SIZE);
	note += put_note(note, "Linux", 257, "\1\2\3", 3); /* odd size: padded */
	note += put_note(note, "Xen", 19, "012345678901", 12);
	note += put_note(note, "Xen", 18, &entry, sizeof(entry));
	e->ph[2] = (Elf64_Phdr){ .p_type = PT_NOTE,
		.p_offset = ELF_NOTE_OFF,
		.p_filesz = (uint64_t)(note - (bytes + ELF_NOTE_OFF)),
		.p_align = 4 };
	return e;
}

#define BZ_SETUP_SECTS 3
#define BZ_PAYLOAD_OFF ((BZ_SETUP_SECTS + 1) * 512)
#define BZ_PAYLOAD     0x1234 /* the last 16 bytes are cut short */
#define BZ_GPA	       0x1000000ull
#define BZ_INIT_SIZE   0x800000u

struct bz_file {
	uint8_t before[0x1f1];
	struct setup_header hdr;
	uint8_t rest[BZ_PAYLOAD_OFF + BZ_PAYLOAD - 0x1f1 - sizeof(struct setup_header)];
};

static struct bz_file *bz(void)
{
	struct bz_file *b = test_calloc(1, sizeof(*b));

	b->hdr.setup_sects = BZ_SETUP_SECTS;
	b->hdr.syssize = (BZ_PAYLOAD + 15) / 16;
	b->hdr.boot_flag = 0xaa55;
	b->hdr.jump = (0x6a << 8) | 0xeb;
	b->hdr.header = 0x53726448;
	b->hdr.version = 0x20f;
	b->hdr.loadflags = LOADED_HIGH;
	b->hdr.initrd_addr_max = 0x7fffffff;
	b->hdr.xloadflags = XLF_KERNEL_64;
	b->hdr.cmdline_size = 100;
	b->hdr.pref_address = BZ_GPA;
	b->hdr.init_size = BZ_INIT_SIZE;
	b->hdr.handover_offset = 0x77;
	memset((uint8_t *)b + BZ_PAYLOAD_OFF, 0xcc, BZ_PAYLOAD);
	return b;
}

/* ---- helpers ---- */

static struct boot *must_open(const struct boot_files *files)
{
	struct err err = { 0 };
	struct boot *boot = NULL;

	if (boot_open(files, &boot, &err))
		fail_msg("%s", err.text);
	return boot;
}

static void must_load(
	const struct boot *boot, const struct boot_target *t, struct boot_entry *entry)
{
	struct err err = { 0 };

	if (boot_load(boot, t, entry, &err))
		fail_msg("%s", err.text);
}

static void refused(const struct boot_files *files, const char *text)
{
	struct err err = { 0 };
	struct boot *boot = NULL;

	assert_true(boot_open(files, &boot, &err) < 0);
	assert_null(boot);
	if (!strstr(err.text, text) || strchr(err.text, '\n'))
		fail_msg("expected \"%s\" in \"%s\"", text, err.text);
}

static void kernel_refused(const void *bytes, size_t size, const char *text)
{
	struct boot_files files = { .kernel = write_file("refused", bytes, size) };

	refused(&files, text);
	assert_int_equal(fd_count(), fds_at_start);
}

static void load_refused(const struct boot *boot, struct memory *m, const char *text)
{
	struct boot_target t = { .memory = m, .fresh = true };
	struct boot_entry entry;
	struct err err = { 0 };

	assert_true(boot_load(boot, &t, &entry, &err) < 0);
	if (!strstr(err.text, text) || strchr(err.text, '\n'))
		fail_msg("expected \"%s\" in \"%s\"", text, err.text);
}

static void assert_bytes(const struct memory *m, uint64_t gpa, uint8_t value, uint64_t size)
{
	const uint8_t *p = memory_ptr(m, gpa, size);

	assert_non_null(p);
	for (uint64_t i = 0; i < size; i++)
		if (p[i] != value)
			fail_msg("0x%llx: 0x%02x, expected 0x%02x", (unsigned long long)(gpa + i),
				p[i], value);
}

static uint64_t u64_at(const struct memory *m, uint64_t gpa)
{
	uint64_t v;

	memcpy(&v, memory_ptr(m, gpa, 8), 8);
	return v;
}

static uint32_t u32_at(const struct memory *m, uint64_t gpa)
{
	uint32_t v;

	memcpy(&v, memory_ptr(m, gpa, 4), 4);
	return v;
}

/* ---- ELF ---- */

static void pvh_kernel_finds_its_start_info(void **state)
{
	struct elf_file *e = elf();
	struct boot_files files = { .kernel = write_file("elf", e, sizeof(*e)),
		.initramfs = write_file("initrd", "initrd!", 7),
		.cmdline = "console=ttyS0 quiet" };
	struct boot *boot = must_open(&files);
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot_range reserved = { LAYOUT_ECAM, LAYOUT_ECAM_SIZE };
	struct boot_target t = {
		.memory = m, .rsdp = 0xa0000, .reserved = &reserved, .nr_reserved = 1, .fresh = true
	};
	struct boot_entry entry;

	assert_string_equal(boot_kind(boot), "PVH");
	assert_false(boot_enters_long_mode(boot));
	must_load(boot, &t, &entry);
	assert_int_equal(entry.mode, BOOT_PROTECTED32);
	assert_int_equal(entry.rip, ELF_ENTRY);
	assert_int_equal(entry.rbx, LAYOUT_PVH_INFO);

	assert_bytes(m, ELF_TEXT_GPA, 0x90, ELF_TEXT_SIZE);
	assert_bytes(m, ELF_DATA_GPA, 0xdd, ELF_DATA_SIZE);
	assert_bytes(m, ELF_DATA_GPA + ELF_DATA_SIZE, 0, ELF_DATA_MEM - ELF_DATA_SIZE);

	assert_int_equal(u32_at(m, LAYOUT_PVH_INFO), 0x336ec578);
	assert_int_equal(u32_at(m, LAYOUT_PVH_INFO + 4), 1);
	assert_int_equal(u32_at(m, LAYOUT_PVH_INFO + 12), 1); /* modules */
	assert_string_equal(
		memory_ptr(m, u64_at(m, LAYOUT_PVH_INFO + 24), 20), "console=ttyS0 quiet");
	assert_int_equal(u64_at(m, LAYOUT_PVH_INFO + 32), 0xa0000);

	/* the initramfs ends at the end of RAM, rounded to a page */
	assert_int_equal(u64_at(m, u64_at(m, LAYOUT_PVH_INFO + 16)), 64 * MIB - 4096);
	assert_int_equal(u64_at(m, u64_at(m, LAYOUT_PVH_INFO + 16) + 8), 7);
	assert_memory_equal(memory_ptr(m, 64 * MIB - 4096, 7), "initrd!", 7);

	boot_free(boot);
	fake_memory_free(m);
	test_free(e);
}

static void pvh_memory_map_has_the_hole_and_what_is_reserved(void **state)
{
	static const uint64_t expected[][3] = {
		{ 0, 0xa0000, 1 },
		{ 0x100000, 0xc0000000 - 0x100000, 1 },
		{ 0x100000000, 0x40000000, 1 },
		{ 0xe8000000, 0x10000000, 2 },
	};
	struct elf_file *e = elf();
	struct boot_files files = { .firmware = write_file("elf", e, sizeof(*e)) };
	struct boot *boot = must_open(&files);
	struct memory *m = fake_memory_new(4 * GIB);
	struct boot_range reserved = { LAYOUT_ECAM, LAYOUT_ECAM_SIZE };
	struct boot_target t = {
		.memory = m, .reserved = &reserved, .nr_reserved = 1, .fresh = true
	};
	struct boot_entry entry;
	uint64_t map;

	must_load(boot, &t, &entry);
	map = u64_at(m, LAYOUT_PVH_INFO + 40);
	assert_int_equal(u32_at(m, LAYOUT_PVH_INFO + 48), ARRAY_SIZE(expected));
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		assert_int_equal(u64_at(m, map + 24 * i), expected[i][0]);
		assert_int_equal(u64_at(m, map + 24 * i + 8), expected[i][1]);
		assert_int_equal(u32_at(m, map + 24 * i + 16), expected[i][2]);
	}
	assert_int_equal(u32_at(m, LAYOUT_PVH_INFO + 12), 0); /* no module */
	boot_free(boot);
	fake_memory_free(m);
	test_free(e);
}

static void gdt_holds_what_the_entry_selects(void **state)
{
	struct elf_file *e = elf();
	struct bz_file *b = bz();
	struct boot_files pvh = { .kernel = write_file("elf", e, sizeof(*e)) };
	struct boot_files linux64 = { .kernel = write_file("bz", b, sizeof(*b)) };
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot_target t = { .memory = m, .fresh = true };
	struct boot_entry entry;
	struct boot *boot = must_open(&pvh);

	must_load(boot, &t, &entry);
	assert_true(range_ok(entry.tr, 8, (uint64_t)entry.gdt_limit + 1));
	assert_int_equal(u64_at(m, entry.gdt_base), 0);
	assert_int_equal(u64_at(m, entry.gdt_base + entry.cs), 0x00cf9b000000ffff);
	assert_int_equal(u64_at(m, entry.gdt_base + entry.ds), 0x00cf93000000ffff);
	assert_int_equal(u64_at(m, entry.gdt_base + entry.tr), 0x00008b0000000067);
	boot_free(boot);

	boot = must_open(&linux64);
	must_load(boot, &t, &entry);
	/* boot.rst: __BOOT_CS is 0x10, __BOOT_DS is 0x18 */
	assert_int_equal(entry.cs, 0x10);
	assert_int_equal(entry.ds, 0x18);
	assert_int_equal(u64_at(m, entry.gdt_base + entry.cs), 0x00af9b000000ffff);
	boot_free(boot);
	fake_memory_free(m);
	test_free(e);
	test_free(b);
}

static void every_load_starts_from_the_file_again(void **state)
{
	struct elf_file *e = elf();
	struct boot_files files = { .kernel = write_file("elf", e, sizeof(*e)),
		.initramfs = write_file("initrd", "initrd!", 7),
		.cmdline = "a=b" };
	struct boot *boot = must_open(&files);
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot_target t = { .memory = m, .fresh = true };
	struct boot_entry first, second;

	must_load(boot, &t, &first);
	memset(m->hva, 0xff, m->size); /* the guest used all of it */
	assert_int_equal(unlink(path_of("elf")), 0);
	t.fresh = false;
	must_load(boot, &t, &second);
	assert_memory_equal(&first, &second, sizeof(first));
	assert_bytes(m, ELF_TEXT_GPA, 0x90, ELF_TEXT_SIZE);
	assert_bytes(m, ELF_DATA_GPA + ELF_DATA_SIZE, 0, ELF_DATA_MEM - ELF_DATA_SIZE);
	assert_memory_equal(memory_ptr(m, 64 * MIB - 4096, 7), "initrd!", 7);
	assert_string_equal(memory_ptr(m, LAYOUT_CMDLINE, 4), "a=b");
	boot_free(boot);
	fake_memory_free(m);
	test_free(e);
}

static void images_that_shrink_are_noticed_at_the_next_load(void **state)
{
	struct elf_file *e = elf();
	struct boot_files files = { .kernel = write_file("elf", e, sizeof(*e)) };
	struct boot *boot = must_open(&files);
	struct memory *m = fake_memory_new(64 * MIB);

	assert_int_equal(truncate(path_of("elf"), ELF_TEXT_OFF + 16), 0);
	load_refused(boot, m, "became shorter while it was read");
	boot_free(boot);
	fake_memory_free(m);
	test_free(e);
}

static void elf_files_say_what_they_lack(void **state)
{
	struct elf_file *e;

#define REFUSE(change, text)                                                                       \
	e = elf();                                                                                 \
	change;                                                                                    \
	kernel_refused(e, sizeof(*e), text);                                                       \
	test_free(e)

	REFUSE(e->eh.e_ident[EI_CLASS] = ELFCLASS32, "32-bit ELF file");
	REFUSE(e->eh.e_ident[EI_DATA] = ELFDATA2MSB, "no little-endian 64-bit ELF");
	REFUSE(e->eh.e_machine = EM_AARCH64,
		"ELF file for 64-bit ARM (machine 183), expected x86-64");
	REFUSE(e->eh.e_type = ET_REL, "object file or module");
	REFUSE(e->eh.e_type = ET_CORE, "file of another kind");
	REFUSE(e->eh.e_phnum = 0, "no ELF program headers");
	REFUSE(e->eh.e_phentsize = 32, "no ELF program headers");
	REFUSE(e->eh.e_phnum = 129, "129 ELF program headers");
	REFUSE(e->eh.e_phoff = UINT64_MAX - 8, "truncated");
	REFUSE(e->eh.e_phoff = ELF_SIZE - 8, "truncated");
	REFUSE(e->ph[0].p_filesz = ELF_SIZE, "truncated: a segment of 16384 bytes");
	REFUSE(e->ph[0].p_offset = UINT64_MAX - 15, "truncated");
	REFUSE(e->ph[1].p_memsz = 1, "impossible sizes");
	REFUSE(e->ph[1].p_paddr = UINT64_MAX - 100, "impossible sizes");
	REFUSE(e->ph[2].p_type = PT_NULL, "without the PVH entry note");
	REFUSE(e->ph[2].p_filesz = 20, "without the PVH entry note");
	REFUSE(e->ph[2].p_offset = UINT64_MAX, "without the PVH entry note");
	REFUSE(e->ph[0].p_type = PT_NULL, "lies in no loadable segment");
	REFUSE(e->ph[0].p_paddr = 0x2000000, "lies in no loadable segment");
#undef REFUSE
}

static void notes_of_hostile_sizes_end_the_search(void **state)
{
	static const Elf64_Nhdr bad[] = {
		{ .n_namesz = UINT32_MAX, .n_descsz = UINT32_MAX, .n_type = 18 },
		{ .n_namesz = 4, .n_descsz = UINT32_MAX - 2, .n_type = 18 },
		{ .n_namesz = UINT32_MAX - 3, .n_descsz = 8, .n_type = 18 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct elf_file *e = elf();

		memcpy((uint8_t *)e + ELF_NOTE_OFF, &bad[i], sizeof(bad[i]));
		kernel_refused(e, sizeof(*e), "without the PVH entry note");
		test_free(e);
	}
}

static void kernel_outside_of_ram_is_refused_at_load(void **state)
{
	struct elf_file *e = elf();
	struct memory *m = fake_memory_new(17 * MIB);
	struct boot_files files = { .kernel = write_file("elf", e, sizeof(*e)) };
	struct boot *boot = must_open(&files);

	load_refused(boot, m, "needs RAM from 0x1200000 to 0x1202400, but the guest has 17 MiB");
	boot_free(boot);

	e->ph[1].p_paddr = 0x9f000;
	write_file("elf", e, sizeof(*e));
	boot = must_open(&files);
	load_refused(boot, m, "wants to be loaded at 0x9f000");
	boot_free(boot);
	fake_memory_free(m);

	m = fake_memory_new(MIB);
	boot = must_open(&files);
	load_refused(boot, m, "too small to boot");
	boot_free(boot);
	fake_memory_free(m);
	test_free(e);
}

/* ---- bzImage ---- */

static void bzimage_is_entered_in_long_mode_with_a_zero_page(void **state)
{
	struct bz_file *b = bz();
	struct boot_files files = { .kernel = write_file("bz", b, sizeof(*b)),
		.initramfs = write_file("initrd", "initrd!", 7),
		.cmdline = "root=/dev/vda" };
	struct boot *boot = must_open(&files);
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot_target t = { .memory = m, .rsdp = 0xa0000, .fresh = true };
	const struct boot_params *zp = memory_ptr(m, LAYOUT_ZERO_PAGE, 4096);
	struct boot_entry entry;

	assert_true(boot_enters_long_mode(boot));
	must_load(boot, &t, &entry);
	assert_int_equal(entry.mode, BOOT_LONG64);
	assert_int_equal(entry.rip, BZ_GPA + 0x200);
	assert_int_equal(entry.rsi, LAYOUT_ZERO_PAGE);
	assert_bytes(m, BZ_GPA, 0xcc, BZ_PAYLOAD);
	assert_int_equal(zp->hdr.header, 0x53726448);
	assert_int_equal(zp->hdr.handover_offset, 0x77);
	assert_int_equal(zp->hdr.type_of_loader, 0xff);
	assert_true(zp->hdr.loadflags & LOADED_HIGH);
	assert_string_equal(memory_ptr(m, zp->hdr.cmd_line_ptr, 14), "root=/dev/vda");
	assert_int_equal(zp->hdr.ramdisk_image, 64 * MIB - 4096);
	assert_int_equal(zp->hdr.ramdisk_size, 7);
	assert_int_equal(zp->acpi_rsdp_addr, 0xa0000);
	assert_int_equal(zp->e820_entries, 2);
	assert_int_equal(zp->e820_table[1].addr, 0x100000);
	assert_int_equal(zp->e820_table[1].size, 63 * MIB);
	assert_int_equal(zp->e820_table[1].type, 1);
	boot_free(boot);
	fake_memory_free(m);
	test_free(b);
}

/* Walk the page tables as the processor would. */
static uint64_t translate(const struct memory *m, uint64_t cr3, uint64_t va)
{
	uint64_t e = cr3;

	for (int shift = 39; shift >= 21; shift -= 9) {
		e = u64_at(m, (e & ~0xfffull) + ((va >> shift) & 511) * 8);
		if (!(e & 1))
			return UINT64_MAX;
		if (shift == 21)
			assert_true(e & 0x80); /* a large page */
	}
	return (e & ~0x1fffffull) | (va & 0x1fffff);
}

static void page_tables_map_the_first_4_gib_to_themselves(void **state)
{
	static const uint64_t samples[] = { 0, 0x1000, 0x1fffff, 0x200000, 0x1000200, 0x3fffffff,
		0x40000000, 0xc0000000, 0xfee00000, 0xffffffff };
	struct bz_file *b = bz();
	struct boot_files files = { .kernel = write_file("bz", b, sizeof(*b)) };
	struct boot *boot = must_open(&files);
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot_target t = { .memory = m };
	struct boot_entry entry;

	memset(m->hva, 0xff, m->size);
	must_load(boot, &t, &entry);
	for (size_t i = 0; i < ARRAY_SIZE(samples); i++)
		assert_int_equal(translate(m, entry.cr3, samples[i]), samples[i]);
	assert_int_equal(translate(m, entry.cr3, 4 * GIB), UINT64_MAX);
	assert_int_equal(translate(m, entry.cr3, 1ull << 39), UINT64_MAX);
	boot_free(boot);
	fake_memory_free(m);
	test_free(b);
}

static void older_bzimages_take_the_32_bit_entry(void **state)
{
	static const struct {
		uint16_t version, xloadflags;
		uint64_t rip;
	} cases[] = {
		{ 0x206, XLF_KERNEL_64, 0x100000 }, /* no preferred address, no such flags yet */
		{ 0x20b, XLF_KERNEL_64, BZ_GPA },
		{ 0x20f, 0, BZ_GPA },
	};
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot_target t = { .memory = m, .fresh = true };

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bz_file *b = bz();
		struct boot_files files;
		struct boot_entry entry;
		struct boot *boot;

		b->hdr.version = cases[i].version;
		b->hdr.xloadflags = cases[i].xloadflags;
		files = (struct boot_files){ .kernel = write_file("bz", b, sizeof(*b)) };
		boot = must_open(&files);
		must_load(boot, &t, &entry);
		assert_int_equal(entry.mode, BOOT_PROTECTED32);
		assert_int_equal(entry.rip, cases[i].rip);
		assert_int_equal(entry.rsi, LAYOUT_ZERO_PAGE);
		boot_free(boot);
		test_free(b);
	}
	fake_memory_free(m);
}

static void bzimages_say_what_they_lack(void **state)
{
	struct bz_file *b;

#define REFUSE(change, text)                                                                       \
	b = bz();                                                                                  \
	change;                                                                                    \
	kernel_refused(b, sizeof(*b), text);                                                       \
	test_free(b)

	REFUSE(b->hdr.version = 0x205, "boot protocol 2.05, expected at least 2.06");
	REFUSE(b->hdr.loadflags = 0, "is a zImage");
	REFUSE(b->hdr.syssize = 0, "without a kernel");
	REFUSE(b->hdr.syssize++, "is truncated: its header promises");
	REFUSE(b->hdr.syssize = UINT32_MAX, "is truncated");
	REFUSE(b->hdr.setup_sects = 64, "is truncated");
	REFUSE(b->hdr.pref_address = 0x1000, "wants to be loaded at 0x1000");
	REFUSE(b->hdr.pref_address = UINT64_MAX, "wants to be loaded at 0xffffffffffffffff");
#undef REFUSE
	b = bz();
	kernel_refused(b, 0x220, "is truncated inside the bzImage setup header");
	test_free(b);
}

static void header_shorter_than_ours_is_padded_with_zeroes(void **state)
{
	struct bz_file *b = bz();
	struct image img = { .mem = (uint8_t *)b, .size = sizeof(*b), .what = "kernel x" };
	struct bzimage parsed;
	struct err err = { 0 };

	b->hdr.jump = (0x20 << 8) | 0xeb; /* up to 0x222: ends before ramdisk's neighbours */
	b->hdr.version = 0x206;
	assert_int_equal(bzimage_parse(&img, &parsed, &err), 0);
	assert_int_equal(parsed.hdr.version, 0x206);
	assert_int_equal(parsed.hdr.pref_address, 0);
	assert_int_equal(parsed.hdr.handover_offset, 0);
	test_free(b);
}

static void kernel_that_unpacks_beyond_ram_is_refused(void **state)
{
	struct bz_file *b = bz();
	struct boot_files files = { .kernel = write_file("bz", b, sizeof(*b)) };
	struct boot *boot = must_open(&files);
	struct memory *m = fake_memory_new(20 * MIB);

	load_refused(boot, m, "needs RAM from 0x1000000 to 0x1800000");
	boot_free(boot);
	fake_memory_free(m);
	test_free(b);
}

/* ---- initramfs and command line ---- */

static void initramfs_stays_out_of_the_kernels_way(void **state)
{
	struct bz_file *b = bz();
	struct boot_files files = { .kernel = write_file("bz", b, sizeof(*b)),
		.initramfs = write_file("initrd", "x", 1) };
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot *boot;
	struct boot_target t = { .memory = m, .fresh = true };
	const struct boot_params *zp = memory_ptr(m, LAYOUT_ZERO_PAGE, 4096);
	struct boot_entry entry;
	uint64_t room = 64 * MIB - BZ_GPA - BZ_INIT_SIZE;

	/* exactly what there is */
	assert_int_equal(truncate(path_of("initrd"), (off_t)room), 0);
	boot = must_open(&files);
	must_load(boot, &t, &entry);
	assert_int_equal(zp->hdr.ramdisk_image, BZ_GPA + BZ_INIT_SIZE);
	boot_free(boot);

	/* one byte more */
	assert_int_equal(truncate(path_of("initrd"), (off_t)room + 1), 0);
	boot = must_open(&files);
	load_refused(boot, m, "do not fit into the 41943040 bytes of RAM");
	boot_free(boot);

	/* more than there is RAM: a sparse file */
	assert_int_equal(truncate(path_of("initrd"), 1ll << 40), 0);
	boot = must_open(&files);
	load_refused(boot, m, "its 1099511627776 bytes do not fit");
	boot_free(boot);
	fake_memory_free(m);
	test_free(b);
}

static void initramfs_keeps_below_the_kernels_limit(void **state)
{
	struct bz_file *b = bz();
	struct boot_files files;
	struct memory *m = fake_memory_new(64 * MIB);
	struct boot_target t = { .memory = m, .fresh = true };
	const struct boot_params *zp = memory_ptr(m, LAYOUT_ZERO_PAGE, 4096);
	struct boot_entry entry;
	struct boot *boot;

	b->hdr.initrd_addr_max = 0x1ffffff;
	files = (struct boot_files){ .kernel = write_file("bz", b, sizeof(*b)),
		.initramfs = write_file("initrd", "initrd!", 7) };
	boot = must_open(&files);
	must_load(boot, &t, &entry);
	assert_int_equal(zp->hdr.ramdisk_image, 0x2000000 - 4096);
	boot_free(boot);

	b->hdr.initrd_addr_max = 0x1000;
	write_file("bz", b, sizeof(*b));
	boot = must_open(&files);
	load_refused(boot, m,
		"do not fit into the 0 bytes of RAM between the kernel's end and the highest");
	boot_free(boot);
	fake_memory_free(m);
	test_free(b);
}

static void command_line_longer_than_the_kernel_takes_is_refused(void **state)
{
	struct bz_file *b = bz();
	char cmdline[102];
	struct boot_files files = { .kernel = write_file("bz", b, sizeof(*b)), .cmdline = cmdline };

	memset(cmdline, 'x', sizeof(cmdline));
	cmdline[101] = 0;
	refused(&files, "kernel command line of 101 bytes");
	cmdline[100] = 0;
	boot_free(must_open(&files));
	test_free(b);
}

/* ---- files of all kinds ---- */

static void what_is_no_kernel_is_named(void **state)
{
	static const struct {
		size_t off;
		const char *bytes;
		size_t len;
		const char *text;
	} cases[] = {
		{ 0x38, "ARM\x64", 4, "kernel Image for 64-bit ARM" },
		{ 0, "\x1f\x8b", 2, "compressed with gzip" },
		{ 0, "\x28\xb5\x2f\xfd", 4, "compressed with zstd" },
		{ 0, "MZ", 2, "EFI program without a Linux boot header" },
		{ 0, "070701", 6, "cpio archive" },
		{ 0, "#!/bin/sh", 9, "script" },
		{ 0, "hello", 5, "lacks a boot header; expected a bzImage, or an ELF64 kernel" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char file[1024] = { 0 };

		memcpy(file + cases[i].off, cases[i].bytes, cases[i].len);
		kernel_refused(file, sizeof(file), cases[i].text);
	}
	kernel_refused("", 0, "is empty");
	kernel_refused("x", 1, "lacks a boot header");
	kernel_refused(ELFMAG, 4, "cut off inside its ELF header");
}

static void what_is_no_file_is_refused_without_waiting(void **state)
{
	struct boot_files files = { .kernel = dir };
	struct elf_file *e = elf();

	refused(&files, "is a directory, expected a file");
	files.kernel = path_of("missing");
	refused(&files, "No such file");
	files.kernel = "/dev/null";
	refused(&files, "no regular file");
	assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
	files.kernel = path_of("fifo");
	refused(&files, "no regular file");

	files = (struct boot_files){ .kernel = write_file("elf", e, sizeof(*e)), .initramfs = dir };
	refused(&files, "initramfs /tmp/boot_test");
	files.initramfs = write_file("empty", "", 0);
	refused(&files, "is empty");
	assert_int_equal(fd_count(), fds_at_start);
	test_free(e);
}

static void kernel_or_firmware_but_not_both(void **state)
{
	struct boot_files both = { .kernel = "a", .firmware = "b" }, none = { 0 };
	struct bz_file *b = bz();
	struct boot_files bz_firmware = { .firmware = write_file("bz", b, sizeof(*b)) };

	refused(&both, "both a kernel and a firmware");
	refused(&none, "neither a kernel nor a firmware");
	refused(&bz_firmware, "expected an ELF64 firmware with a PVH entry note");
	test_free(b);
}

static int make_dir(void **state)
{
	fds_at_start = fd_count();
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = { "elf", "bz", "initrd", "refused", "fifo", "empty" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		unlink(path_of(names[i]));
	return rmdir(dir);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(pvh_kernel_finds_its_start_info),
		cmocka_unit_test(pvh_memory_map_has_the_hole_and_what_is_reserved),
		cmocka_unit_test(gdt_holds_what_the_entry_selects),
		cmocka_unit_test(every_load_starts_from_the_file_again),
		cmocka_unit_test(images_that_shrink_are_noticed_at_the_next_load),
		cmocka_unit_test(elf_files_say_what_they_lack),
		cmocka_unit_test(notes_of_hostile_sizes_end_the_search),
		cmocka_unit_test(kernel_outside_of_ram_is_refused_at_load),
		cmocka_unit_test(bzimage_is_entered_in_long_mode_with_a_zero_page),
		cmocka_unit_test(page_tables_map_the_first_4_gib_to_themselves),
		cmocka_unit_test(older_bzimages_take_the_32_bit_entry),
		cmocka_unit_test(bzimages_say_what_they_lack),
		cmocka_unit_test(header_shorter_than_ours_is_padded_with_zeroes),
		cmocka_unit_test(kernel_that_unpacks_beyond_ram_is_refused),
		cmocka_unit_test(initramfs_stays_out_of_the_kernels_way),
		cmocka_unit_test(initramfs_keeps_below_the_kernels_limit),
		cmocka_unit_test(command_line_longer_than_the_kernel_takes_is_refused),
		cmocka_unit_test(what_is_no_kernel_is_named),
		cmocka_unit_test(what_is_no_file_is_refused_without_waiting),
		cmocka_unit_test(kernel_or_firmware_but_not_both),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
