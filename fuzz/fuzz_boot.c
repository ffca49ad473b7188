/*
 * fuzz_boot.c - the kernel image parsers, and loading what they accept, under libFuzzer
 *
 * The input is an image. It is parsed from memory as an ELF file and as a bzImage, whatever
 * it starts with, and once more as a file by boot_open(), which is then loaded into 4 MiB of RAM.
 * What must hold: no crash, no leak; a refusal has a text, of one line; what is
 * accepted lies inside the image, does not wrap, and is entered inside of RAM.
 *
 * RAM is a memfd of this program's own: it stands in for memory.c.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "machine/boot.h"
#include "machine/boot_image.h"

#define RAM_SIZE (4 * MIB)

struct memory {
	struct mem_range ram;
};

static struct memory memory;
static int image_fd = -1;
static char image_path[32];

unsigned memory_nr_ranges(const struct memory *m)
{
	return 1;
}

const struct mem_range *memory_range(const struct memory *m, unsigned i)
{
	return &m->ram;
}

uint64_t memory_size(const struct memory *m)
{
	return m->ram.size;
}

void *memory_ptr(const struct memory *m, uint64_t gpa, uint64_t len)
{
	return range_ok(gpa, len, m->ram.size) ? (uint8_t *)m->ram.hva + gpa : NULL;
}

int memory_write(struct memory *m, uint64_t gpa, const void *buf, uint64_t len)
{
	require(false); /* boot.c does not use it */
	return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	require(fd >= 0 && ftruncate(fd, RAM_SIZE) == 0);
	memory.ram = (struct mem_range){ .size = RAM_SIZE, .fd = fd };
	memory.ram.hva = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	require(memory.ram.hva != MAP_FAILED);
	image_fd = memfd_create("image", MFD_CLOEXEC);
	require(image_fd >= 0);
	snprintf(image_path, sizeof(image_path), "/proc/self/fd/%d", image_fd);
	return 0;
}

static void require_segment(const struct image *img, const struct image_segment *s)
{
	require(range_ok(s->off, s->file_size, img->size));
	require(s->mem_size >= s->file_size && s->mem_size <= UINT64_MAX - s->gpa);
}

static void fuzz_elf(const struct image *img)
{
	struct elf_image elf;
	struct err err = { 0 };
	bool inside = false;
	int rc = elf_parse(img, &elf, &err);

	require_text(rc, &err);
	if (rc)
		return;
	for (unsigned i = 0; i < elf.nr_segments; i++) {
		require_segment(img, &elf.segments[i]);
		inside |= elf.entry >= elf.segments[i].gpa &&
			  elf.entry - elf.segments[i].gpa < elf.segments[i].mem_size;
	}
	require(inside);
}

static void fuzz_bzimage(const struct image *img)
{
	struct bzimage bz;
	struct err err = { 0 };
	int rc = bzimage_parse(img, &bz, &err);

	bzimage_probe(img);
	require_text(rc, &err);
	if (rc)
		return;
	require_segment(img, &bz.payload);
	require(!bz.long_mode || bz.payload.file_size > BZIMAGE_ENTRY64);
}

static void fuzz_load(bool firmware, bool initramfs)
{
	struct boot_files files = { .cmdline = "console=ttyS0" };
	struct boot_range reserved = { 0xe8000000, 0x10000000 };
	struct boot_target target = {
		.memory = &memory, .rsdp = 0xa0000, .reserved = &reserved, .nr_reserved = 1
	};
	struct boot_entry entry;
	struct err err = { 0 };
	struct boot *boot = NULL;
	int rc;

	if (firmware)
		files.firmware = image_path;
	else
		files.kernel = image_path;
	if (initramfs)
		files.initramfs = image_path;
	rc = boot_open(&files, &boot, &err);
	require_text(rc, &err);
	if (rc)
		return;
	rc = boot_load(boot, &target, &entry, &err);
	require_text(rc, &err);
	if (!rc) {
		require(entry.rip < RAM_SIZE && entry.rsp < RAM_SIZE);
		require((entry.mode == BOOT_LONG64) == boot_enters_long_mode(boot));
	}
	boot_free(boot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image img = { .fd = -1, .mem = data, .size = size, .what = "kernel x" };

	fuzz_elf(&img);
	fuzz_bzimage(&img);
	require(ftruncate(image_fd, 0) == 0);
	require(pwrite(image_fd, data, size, 0) == (ssize_t)size);
	fuzz_load(size & 1, size & 2);
	return 0;
}
