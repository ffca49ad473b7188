/*
 * boot.c - lay kernel, initramfs and what their boot protocol wants into RAM
 *
 * boot_open() parses the images; boot_load() first works out where everything
 * goes (struct plan), refuses what does not fit, and only then writes. Image bytes go from
 * the page cache to the RAM file without a detour through private memory.
 *
 * Owns:   the open image files.
 * Trusts: nothing in the images; that RAM is as struct memory says.
 * Spec:   "The Linux/x86 Boot Protocol", sections "32-bit" and "64-bit Boot Protocol";
 *         Xen, "x86/HVM direct boot ABI".
 */
#include "machine/boot.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "machine/boot_image.h"
#include "machine/layout.h"

enum kind { KIND_PVH, KIND_BZIMAGE };

struct boot {
	enum kind kind;
	struct image kernel, initramfs; /* fd -1: none */
	char *kernel_what, *initramfs_what, *cmdline;
	union {
		struct elf_image elf;
		struct bzimage bz;
	};
};

/* ---- opening ---- */

int image_read(const struct image *img, uint64_t off, void *buf, size_t len)
{
	uint8_t *p = buf;

	if (!range_ok(off, len, img->size))
		return -EINVAL;
	if (img->mem) {
		memcpy(buf, img->mem + off, len);
		return 0;
	}
	while (len) {
		ssize_t n = pread(img->fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EINVAL;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int open_image(
	struct image *img, char **what, const char *role, const char *path, struct err *err)
{
	FD_AUTO fd = -1;
	struct stat st;

	if (asprintf(what, "%s %s", role, path) < 0) {
		*what = NULL;
		return err_set(err, -ENOMEM, "%s %s: out of memory", role, path);
	}
	img->what = *what;
	/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return err_set(err, -errno, "%s: cannot be opened: %s", *what, strerror(errno));
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "%s: %s", *what, strerror(errno));
	if (S_ISDIR(st.st_mode))
		return err_set(err, -EISDIR, "%s: is a directory, expected a file", *what);
	if (!S_ISREG(st.st_mode))
		return err_set(err, -EINVAL, "%s: is no regular file", *what);
	if (!st.st_size)
		return err_set(err, -ENOEXEC, "%s: is empty", *what);
	img->size = (uint64_t)st.st_size;
	img->fd = fd_take(&fd);
	return 0;
}

/* What a file is that cannot be booted, by the signatures that users meet. */
static int refuse_unknown(const struct image *img, bool firmware, struct err *err)
{
	static const struct {
		unsigned off, len;
		const char *bytes, *text;
	} known[] = {
		{ 0x38, 4, "ARM\x64", "is a kernel Image for 64-bit ARM" },
		{ 0x30, 4, "RISC", "is a kernel Image for RISC-V" },
		{ 4, 4, "zimg", "is a compressed EFI kernel for another architecture" },
		{ 0, 2, "\x1f\x8b", "is compressed with gzip: unpack it first" },
		{ 0, 4, "\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first" },
		{ 0, 6, "\xfd\x37zXZ\0", "is compressed with xz: unpack it first" },
		{ 0, 4, "\x27\x05\x19\x56", "is a U-Boot image" },
		{ 0, 2, "MZ", "is an EFI program without a Linux boot header" },
		{ 0, 6, "070701", "is a cpio archive, perhaps the initramfs" },
		{ 0, 2, "#!", "is a script" },
	};
	const char *expected = firmware ? "an ELF64 firmware with a PVH entry note"
					: "a bzImage, or an ELF64 kernel with a PVH entry note";
	uint8_t bytes[8];

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (image_read(img, known[i].off, bytes, known[i].len) == 0 &&
			!memcmp(bytes, known[i].bytes, known[i].len))
			return err_set(err, -ENOEXEC, "%s: %s; expected %s", img->what,
				known[i].text, expected);
	return err_set(err, -ENOEXEC, "%s: lacks a boot header; expected %s", img->what, expected);
}

static int parse_kernel(struct boot *boot, bool firmware, struct err *err)
{
	if (elf_probe(&boot->kernel)) {
		boot->kind = KIND_PVH;
		return elf_parse(&boot->kernel, &boot->elf, err);
	}
	if (!firmware && bzimage_probe(&boot->kernel)) {
		boot->kind = KIND_BZIMAGE;
		return bzimage_parse(&boot->kernel, &boot->bz, err);
	}
	return refuse_unknown(&boot->kernel, firmware, err);
}

static int check_cmdline(const struct boot *boot, struct err *err)
{
	uint64_t max = LAYOUT_CMDLINE_MAX - 1, len = strlen(boot->cmdline);

	if (boot->kind == KIND_BZIMAGE)
		max = MIN(max, boot->bz.cmdline_max);
	if (len <= max)
		return 0;
	return err_set(err, -E2BIG, "kernel command line of %llu bytes: %s takes at most %llu",
		(unsigned long long)len, boot->kernel_what, (unsigned long long)max);
}

int boot_open(const struct boot_files *files, struct boot **out, struct err *err)
{
	bool firmware = !files->kernel;
	struct boot *boot;
	int rc;

	if (!files->kernel == !files->firmware)
		return err_set(err, -EINVAL,
			files->kernel
				? "both a kernel and a firmware are given, expected one of them"
				: "neither a kernel nor a firmware is given");
	boot = calloc(1, sizeof(*boot));
	if (!boot)
		return err_set(err, -ENOMEM, "out of memory");
	boot->kernel.fd = boot->initramfs.fd = -1;
	boot->cmdline = strdup(files->cmdline ? files->cmdline : "");
	rc = boot->cmdline ? 0 : err_set(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = open_image(&boot->kernel, &boot->kernel_what, firmware ? "firmware" : "kernel",
			firmware ? files->firmware : files->kernel, err);
	if (!rc)
		rc = parse_kernel(boot, firmware, err);
	if (!rc)
		rc = check_cmdline(boot, err);
	if (!rc && files->initramfs)
		rc = open_image(&boot->initramfs, &boot->initramfs_what, "initramfs",
			files->initramfs, err);
	if (rc) {
		boot_free(boot);
		return rc;
	}
	*out = boot;
	return 0;
}

void boot_free(struct boot *boot)
{
	if (!boot)
		return;
	fd_close(&boot->kernel.fd);
	fd_close(&boot->initramfs.fd);
	free(boot->kernel_what);
	free(boot->initramfs_what);
	free(boot->cmdline);
	free(boot);
}

bool boot_enters_long_mode(const struct boot *boot)
{
	return boot->kind == KIND_BZIMAGE && boot->bz.long_mode;
}

const char *boot_kind(const struct boot *boot)
{
	if (boot->kind == KIND_PVH)
		return "PVH";
	return boot->bz.long_mode ? "bzImage, 64-bit entry" : "bzImage, 32-bit entry";
}

/* ---- planning ---- */

#define MAP_MAX E820_MAX_ENTRIES_ZEROPAGE
/* Room for the tables below 1 MiB and for any kernel at all */
#define RAM_MIN (2 * MIB)

struct plan {
	const struct image_segment *segments; /* of the kernel */
	unsigned nr_segments;
	uint64_t low_end;    /* of RAM below the hole */
	uint64_t initrd_gpa; /* size 0: none */
	uint64_t initrd_size;
	unsigned nr_map;
	struct map_entry {
		uint64_t base, size;
		uint32_t type;
	} map[MAP_MAX];
};

#define MAP_RAM	     1 /* in e820 and in PVH's map alike */
#define MAP_RESERVED 2

static void map_add(struct plan *plan, uint64_t base, uint64_t size, uint32_t type)
{
	if (size && plan->nr_map < MAP_MAX)
		plan->map[plan->nr_map++] = (struct map_entry){ base, size, type };
}

static void plan_map(struct plan *plan, const struct boot_target *t)
{
	map_add(plan, 0, LAYOUT_EBDA, MAP_RAM);
	for (unsigned i = 0; i < memory_nr_ranges(t->memory); i++) {
		const struct mem_range *r = memory_range(t->memory, i);

		if (r->gpa < LAYOUT_HIGH_RAM)
			map_add(plan, LAYOUT_HIGH_RAM, r->size - LAYOUT_HIGH_RAM, MAP_RAM);
		else
			map_add(plan, r->gpa, r->size, MAP_RAM);
	}
	for (unsigned i = 0; i < t->nr_reserved; i++)
		map_add(plan, t->reserved[i].base, t->reserved[i].size, MAP_RESERVED);
}

static int plan_kernel(
	struct plan *plan, const struct boot *boot, const struct boot_target *t, struct err *err)
{
	if (boot->kind == KIND_PVH) {
		plan->segments = boot->elf.segments;
		plan->nr_segments = boot->elf.nr_segments;
	} else {
		plan->segments = &boot->bz.payload;
		plan->nr_segments = 1;
	}
	for (unsigned i = 0; i < plan->nr_segments; i++) {
		const struct image_segment *s = &plan->segments[i];

		if (s->gpa < LAYOUT_HIGH_RAM)
			return err_set(err, -ENOEXEC,
				"%s: wants to be loaded at 0x%llx, expected 0x100000 or above",
				boot->kernel_what, (unsigned long long)s->gpa);
		if (!memory_ptr(t->memory, s->gpa, s->mem_size))
			return err_set(err, -ENOMEM,
				"%s: needs RAM from 0x%llx to 0x%llx, but the guest has %llu MiB",
				boot->kernel_what, (unsigned long long)s->gpa,
				(unsigned long long)(s->gpa + s->mem_size),
				(unsigned long long)(memory_size(t->memory) / MIB));
	}
	return 0;
}

/* The initramfs goes as high as it may, out of the way of a kernel that unpacks itself. */
static int plan_initramfs(struct plan *plan, const struct boot *boot, struct err *err)
{
	uint64_t limit = plan->low_end, kernel_end = 0;

	if (boot->initramfs.fd < 0)
		return 0;
	if (boot->kind == KIND_BZIMAGE)
		limit = MIN(limit, boot->bz.initrd_max + 1);
	for (unsigned i = 0; i < plan->nr_segments; i++)
		if (plan->segments[i].gpa < plan->low_end)
			kernel_end =
				MAX(kernel_end, plan->segments[i].gpa + plan->segments[i].mem_size);
	kernel_end = align_up(kernel_end, PAGE_SIZE_4K);
	plan->initrd_size = boot->initramfs.size;
	if (limit < kernel_end || plan->initrd_size > limit - kernel_end)
		return err_set(err, -ENOMEM,
			"%s: its %llu bytes do not fit into the %llu bytes of RAM between the kernel's end and %s",
			boot->initramfs_what, (unsigned long long)plan->initrd_size,
			(unsigned long long)(limit < kernel_end ? 0 : limit - kernel_end),
			limit < plan->low_end ? "the highest address this kernel allows"
					      : "the end of RAM below 4 GiB");
	/* kernel_end is page-aligned, so rounding down cannot cross it */
	plan->initrd_gpa = align_down(limit - plan->initrd_size, PAGE_SIZE_4K);
	return 0;
}

static int make_plan(
	struct plan *plan, const struct boot *boot, const struct boot_target *t, struct err *err)
{
	int rc;

	memset(plan, 0, sizeof(*plan));
	plan->low_end = memory_range(t->memory, 0)->size;
	if (plan->low_end < RAM_MIN)
		return err_set(err, -ENOMEM, "guest RAM of %llu KiB is too small to boot from",
			(unsigned long long)(plan->low_end / KIB));
	plan_map(plan, t);
	rc = plan_kernel(plan, boot, t, err);
	return rc ? rc : plan_initramfs(plan, boot, err);
}

/* ---- writing ---- */

/* The place of gpa in the RAM file, with everything up to gpa + size in the same range. */
static bool ram_file(const struct memory *m, uint64_t gpa, uint64_t size, int *fd, uint64_t *off)
{
	for (unsigned i = 0; i < memory_nr_ranges(m); i++) {
		const struct mem_range *r = memory_range(m, i);

		if (gpa >= r->gpa && range_ok(gpa - r->gpa, size, r->size)) {
			*fd = r->fd;
			*off = r->fd_offset + (gpa - r->gpa);
			return true;
		}
	}
	return false;
}

/*
 * Write image bytes into the RAM file from a mapping of the image: one copy, and the
 * kernel need not clear or map the RAM pages first. A file that shrinks meanwhile fails the
 * write, it raises no SIGBUS. Returns the bytes written; the rest is for copy_by_read().
 */
static uint64_t copy_by_write(
	const struct image *img, uint64_t off, uint64_t size, int ram_fd, uint64_t ram_off)
{
	uint64_t start = align_down(off, PAGE_SIZE_4K), done = 0;
	size_t map_size = (size_t)(off - start + size);
	uint8_t *map = mmap(NULL, map_size, PROT_READ, MAP_SHARED, img->fd, (off_t)start);

	if (map == MAP_FAILED)
		return 0;
	while (done < size) {
		ssize_t n = pwrite(
			ram_fd, map + (off - start) + done, size - done, (off_t)(ram_off + done));

		if (n <= 0)
			break;
		done += (uint64_t)n;
	}
	munmap(map, map_size);
	return done;
}

static int copy_by_read(
	const struct image *img, uint64_t off, uint64_t size, uint8_t *to, struct err *err)
{
	int rc = image_read(img, off, to, size);

	if (rc == -EINVAL)
		return err_set(err, rc, "%s: became shorter while it was read", img->what);
	if (rc)
		return err_set(
			err, rc, "%s: cannot be read into guest RAM: %s", img->what, strerror(-rc));
	return 0;
}

static int load_bytes(const struct image *img, uint64_t off, uint64_t size, struct memory *m,
	uint64_t gpa, struct err *err)
{
	uint64_t ram_off, done = 0;
	int ram_fd;

	if (!size)
		return 0;
	if (ram_file(m, gpa, size, &ram_fd, &ram_off))
		done = copy_by_write(img, off, size, ram_fd, ram_off);
	if (done == size)
		return 0;
	return copy_by_read(
		img, off + done, size - done, memory_ptr(m, gpa + done, size - done), err);
}

static int load_images(const struct boot *boot, const struct plan *plan,
	const struct boot_target *t, struct err *err)
{
	for (unsigned i = 0; i < plan->nr_segments; i++) {
		const struct image_segment *s = &plan->segments[i];
		uint64_t zeroes = s->mem_size - s->file_size;
		int rc = load_bytes(&boot->kernel, s->off, s->file_size, t->memory, s->gpa, err);

		if (rc)
			return rc;
		/* A bzImage clears what it needs by itself. */
		if (!t->fresh && boot->kind == KIND_PVH && zeroes)
			memset(memory_ptr(t->memory, s->gpa + s->file_size, zeroes), 0, zeroes);
	}
	return load_bytes(&boot->initramfs, 0, plan->initrd_size, t->memory, plan->initrd_gpa, err);
}

/* Everything below 1 MiB is inside RAM: make_plan() has checked that. */
static void put(const struct boot_target *t, uint64_t gpa, const void *bytes, size_t size)
{
	memcpy(memory_ptr(t->memory, gpa, size), bytes, size);
}

/* Selectors as Linux' 32- and 64-bit protocols want them; PVH takes any. */
#define GDT_CODE 0x10
#define GDT_DATA 0x18
#define GDT_TSS	 0x20

static void write_gdt(const struct boot_target *t, struct boot_entry *entry)
{
	uint64_t gdt[6] = {
		[GDT_CODE / 8] =
			entry->mode == BOOT_LONG64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff,
		[GDT_DATA / 8] = 0x00cf93000000ffff,
		[GDT_TSS / 8] = 0x00008b0000000067, /* and [5]: base 63..32 of a 64-bit TSS */
	};

	put(t, LAYOUT_GDT, gdt, sizeof(gdt));
	entry->gdt_base = LAYOUT_GDT;
	entry->gdt_limit = sizeof(gdt) - 1;
	entry->cs = GDT_CODE;
	entry->ds = GDT_DATA;
	entry->tr = GDT_TSS;
}

#define PTE_PRESENT 1ull
#define PTE_WRITE   2ull
#define PTE_LARGE   0x80ull

/* PML4, PDPT and four page directories of 2 MiB pages */
static void write_page_tables(const struct boot_target *t, struct boot_entry *entry)
{
	const uint64_t pdpt = LAYOUT_PAGE_TABLES + PAGE_SIZE_4K, pd = pdpt + PAGE_SIZE_4K;
	uint64_t *table = memory_ptr(t->memory, LAYOUT_PAGE_TABLES, 6 * PAGE_SIZE_4K);

	memset(table, 0, 2 * PAGE_SIZE_4K);
	table[0] = pdpt | PTE_PRESENT | PTE_WRITE;
	for (unsigned i = 0; i < 4; i++)
		table[512 + i] = (pd + i * PAGE_SIZE_4K) | PTE_PRESENT | PTE_WRITE;
	for (uint64_t i = 0; i < 4 * 512; i++)
		table[1024 + i] = (i * 2 * MIB) | PTE_PRESENT | PTE_WRITE | PTE_LARGE;
	entry->cr3 = LAYOUT_PAGE_TABLES;
}

static void write_cmdline(const struct boot *boot, const struct boot_target *t)
{
	put(t, LAYOUT_CMDLINE, boot->cmdline, strlen(boot->cmdline) + 1);
}

/* BIOS data area: where the extended one begins, and with it the end of usable low RAM */
static void write_bda(const struct boot_target *t)
{
	uint16_t ebda_segment = LAYOUT_EBDA >> 4;

	put(t, 0x40e, &ebda_segment, sizeof(ebda_segment));
}

static void enter_bzimage(const struct boot *boot, const struct plan *plan,
	const struct boot_target *t, struct boot_entry *entry)
{
	struct boot_params *zp = memory_ptr(t->memory, LAYOUT_ZERO_PAGE, sizeof(*zp));

	static_assert(sizeof(*zp) == PAGE_SIZE_4K, "the zero page is a page");
	memset(zp, 0, sizeof(*zp));
	zp->hdr = boot->bz.hdr;
	zp->hdr.type_of_loader = 0xff;
	zp->hdr.code32_start = (uint32_t)boot->bz.payload.gpa;
	zp->hdr.cmd_line_ptr = LAYOUT_CMDLINE;
	zp->hdr.ramdisk_image = (uint32_t)plan->initrd_gpa;
	zp->hdr.ramdisk_size = (uint32_t)plan->initrd_size;
	zp->acpi_rsdp_addr = t->rsdp;
	zp->e820_entries = (uint8_t)plan->nr_map;
	for (unsigned i = 0; i < plan->nr_map; i++)
		zp->e820_table[i] = (struct boot_e820_entry){
			.addr = plan->map[i].base,
			.size = plan->map[i].size,
			.type = plan->map[i].type,
		};
	entry->rsi = LAYOUT_ZERO_PAGE;
	entry->rip = boot->bz.payload.gpa + (boot->bz.long_mode ? BZIMAGE_ENTRY64 : 0);
}

struct pvh_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modules, cmdline, rsdp, memmap;
	uint32_t memmap_entries, reserved;
};
static_assert(sizeof(struct pvh_start_info) == 56, "hvm_start_info version 1");

struct pvh_module {
	uint64_t addr, size, cmdline, reserved;
};

struct pvh_map_entry {
	uint64_t addr, size;
	uint32_t type, reserved;
};
static_assert(sizeof(struct pvh_map_entry) == 24, "hvm_memmap_table_entry");

#define PVH_MAGIC 0x336ec578

static void enter_pvh(const struct boot *boot, const struct plan *plan, const struct boot_target *t,
	struct boot_entry *entry)
{
	struct pvh_module initrd = { .addr = plan->initrd_gpa, .size = plan->initrd_size };
	struct pvh_start_info info = {
		.magic = PVH_MAGIC,
		.version = 1,
		.nr_modules = plan->initrd_size ? 1 : 0,
		.modules = plan->initrd_size ? LAYOUT_PVH_MODULES : 0,
		.cmdline = LAYOUT_CMDLINE,
		.rsdp = t->rsdp,
		.memmap = LAYOUT_ZERO_PAGE,
		.memmap_entries = plan->nr_map,
	};

	for (unsigned i = 0; i < plan->nr_map; i++) {
		struct pvh_map_entry e = {
			.addr = plan->map[i].base,
			.size = plan->map[i].size,
			.type = plan->map[i].type,
		};

		put(t, LAYOUT_ZERO_PAGE + i * sizeof(e), &e, sizeof(e));
	}
	put(t, LAYOUT_PVH_MODULES, &initrd, sizeof(initrd));
	put(t, LAYOUT_PVH_INFO, &info, sizeof(info));
	entry->rbx = LAYOUT_PVH_INFO;
	entry->rip = boot->elf.entry;
}

int boot_load(const struct boot *boot, const struct boot_target *t, struct boot_entry *entry,
	struct err *err)
{
	struct plan plan;
	int rc;

	rc = make_plan(&plan, boot, t, err);
	if (!rc)
		rc = load_images(boot, &plan, t, err);
	if (rc)
		return rc;
	memset(entry, 0, sizeof(*entry));
	entry->mode = boot_enters_long_mode(boot) ? BOOT_LONG64 : BOOT_PROTECTED32;
	entry->rsp = LAYOUT_STACK;
	write_gdt(t, entry);
	if (entry->mode == BOOT_LONG64)
		write_page_tables(t, entry);
	write_bda(t);
	write_cmdline(boot, t);
	if (boot->kind == KIND_PVH)
		enter_pvh(boot, &plan, t, entry);
	else
		enter_bzimage(boot, &plan, t, entry);
	return 0;
}
