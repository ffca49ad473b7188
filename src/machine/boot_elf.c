/*
 * boot_elf.c - ELF images with a PVH entry point
 *
 * A PVH kernel or firmware is an ELF64 executable whose loadable segments go to
 * their physical addresses, and which has a note of owner "Xen" and type PHYS32_ENTRY
 * with the address of its 32-bit entry point.
 *
 * Trusts: nothing in the image. Program headers and the bytes of notes that are
 * looked at are bounded.
 * Spec:   ELF-64 Object File Format; Xen, "x86/HVM direct boot ABI", elfnote.h.
 */
#include "machine/boot_image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/util.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

#define MAX_PROGRAM_HEADERS 128
#define MAX_NOTE_BYTES	    (64 * KIB) /* of each note segment; Linux has less than 1 KiB */

bool elf_probe(const struct image *img)
{
	uint8_t magic[SELFMAG];

	return image_read(img, 0, magic, sizeof(magic)) == 0 && !memcmp(magic, ELFMAG, SELFMAG);
}

static const char *machine_name(uint16_t machine)
{
	switch (machine) {
	case EM_386:
		return "32-bit x86";
	case EM_AARCH64:
		return "64-bit ARM";
	case EM_ARM:
		return "32-bit ARM";
	case EM_RISCV:
		return "RISC-V";
	case EM_PPC64:
		return "POWER";
	case EM_S390:
		return "IBM Z";
	default:
		return "another architecture";
	}
}

static int check_header(const struct image *img, Elf64_Ehdr *eh, struct err *err)
{
	if (image_read(img, 0, eh->e_ident, sizeof(eh->e_ident)))
		return err_set(err, -ENOEXEC, "%s: is cut off inside its ELF header", img->what);
	if (eh->e_ident[EI_CLASS] == ELFCLASS32)
		return err_set(err, -ENOEXEC,
			"%s: is a 32-bit ELF file, expected a 64-bit kernel (or a bzImage, which may be 32-bit)",
			img->what);
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(err, -ENOEXEC, "%s: is no little-endian 64-bit ELF file", img->what);
	if (image_read(img, 0, eh, sizeof(*eh)))
		return err_set(err, -ENOEXEC, "%s: is cut off inside its ELF header", img->what);
	if (eh->e_machine != EM_X86_64)
		return err_set(err, -ENOEXEC,
			"%s: is an ELF file for %s (machine %u), expected x86-64", img->what,
			machine_name(eh->e_machine), eh->e_machine);
	if (eh->e_type != ET_EXEC && eh->e_type != ET_DYN)
		return err_set(err, -ENOEXEC,
			"%s: is an ELF %s, expected an executable kernel image", img->what,
			eh->e_type == ET_REL ? "object file or module" : "file of another kind");
	if (eh->e_phentsize != sizeof(Elf64_Phdr) || !eh->e_phnum)
		return err_set(err, -ENOEXEC, "%s: has no ELF program headers", img->what);
	if (eh->e_phnum > MAX_PROGRAM_HEADERS)
		return err_set(err, -ENOEXEC,
			"%s: has %u ELF program headers, at most %u are supported", img->what,
			eh->e_phnum, MAX_PROGRAM_HEADERS);
	return 0;
}

static int add_segment(
	const struct image *img, const Elf64_Phdr *ph, struct elf_image *out, struct err *err)
{
	if (!ph->p_memsz)
		return 0;
	if (!range_ok(ph->p_offset, ph->p_filesz, img->size))
		return err_set(err, -ENOEXEC,
			"%s: is truncated: a segment of %llu bytes at offset %llu, the file has %llu bytes",
			img->what, (unsigned long long)ph->p_filesz,
			(unsigned long long)ph->p_offset, (unsigned long long)img->size);
	if (ph->p_filesz > ph->p_memsz || ph->p_memsz > UINT64_MAX - ph->p_paddr)
		return err_set(err, -ENOEXEC, "%s: has a segment at 0x%llx with impossible sizes",
			img->what, (unsigned long long)ph->p_paddr);
	if (out->nr_segments == ELF_MAX_SEGMENTS)
		return err_set(err, -ENOEXEC, "%s: has more than %u loadable segments", img->what,
			ELF_MAX_SEGMENTS);
	out->segments[out->nr_segments++] = (struct image_segment){
		.off = ph->p_offset,
		.file_size = ph->p_filesz,
		.gpa = ph->p_paddr,
		.mem_size = ph->p_memsz,
	};
	return 0;
}

/* The descriptor of a note is 4 or 8 bytes, little-endian. */
static bool note_entry(const struct image *img, const Elf64_Nhdr *nh, uint64_t name_off,
	uint64_t desc_off, uint64_t *entry)
{
	char name[4];
	uint64_t value = 0;

	if (nh->n_type != XEN_ELFNOTE_PHYS32_ENTRY || nh->n_namesz != sizeof(name) ||
		(nh->n_descsz != 4 && nh->n_descsz != 8))
		return false;
	if (image_read(img, name_off, name, sizeof(name)) || memcmp(name, "Xen", 4))
		return false;
	if (image_read(img, desc_off, &value, nh->n_descsz))
		return false;
	*entry = value;
	return true;
}

/* Walk the notes of one segment. */
static bool find_entry(const struct image *img, const Elf64_Phdr *ph, uint64_t *entry)
{
	/* Some linkers write p_align 8 for notes that are laid out in steps of 4 all the same. */
	uint64_t size = MIN(ph->p_filesz, MAX_NOTE_BYTES), pos = 0;

	if (!range_ok(ph->p_offset, size, img->size))
		return false;
	while (range_ok(pos, sizeof(Elf64_Nhdr), size)) {
		uint64_t name_off, desc_off;
		Elf64_Nhdr nh;

		if (image_read(img, ph->p_offset + pos, &nh, sizeof(nh)))
			return false;
		name_off = pos + sizeof(nh);
		desc_off = name_off + align_up(nh.n_namesz, 4);
		pos = desc_off + align_up(nh.n_descsz, 4);
		if (pos > align_up(size, 4))
			return false;
		if (note_entry(img, &nh, ph->p_offset + name_off, ph->p_offset + desc_off, entry))
			return true;
	}
	return false;
}

static bool entry_is_loaded(const struct elf_image *elf, uint64_t entry)
{
	for (unsigned i = 0; i < elf->nr_segments; i++) {
		const struct image_segment *s = &elf->segments[i];

		if (entry >= s->gpa && entry - s->gpa < s->mem_size)
			return true;
	}
	return false;
}

int elf_parse(const struct image *img, struct elf_image *out, struct err *err)
{
	bool has_entry = false;
	uint64_t entry = 0;
	Elf64_Ehdr eh;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = check_header(img, &eh, err);
	if (rc)
		return rc;
	if (!range_ok(eh.e_phoff, (uint64_t)eh.e_phnum * sizeof(Elf64_Phdr), img->size))
		return err_set(err, -ENOEXEC,
			"%s: is truncated: its ELF program headers are missing", img->what);
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		rc = image_read(img, eh.e_phoff + i * sizeof(ph), &ph, sizeof(ph));
		if (rc)
			return err_set(err, rc, "%s: cannot be read: %s", img->what, strerror(-rc));
		if (ph.p_type == PT_LOAD)
			rc = add_segment(img, &ph, out, err);
		else if (ph.p_type == PT_NOTE && !has_entry)
			has_entry = find_entry(img, &ph, &entry);
		if (rc)
			return rc;
	}
	if (!has_entry)
		return err_set(err, -ENOEXEC,
			"%s: is an ELF file without the PVH entry note (Xen, type 18): "
			"a Linux kernel has it with CONFIG_PVH=y, else use its bzImage",
			img->what);
	if (!entry_is_loaded(out, entry) || entry > UINT32_MAX)
		return err_set(err, -ENOEXEC,
			"%s: its PVH entry point 0x%llx lies in no loadable segment", img->what,
			(unsigned long long)entry);
	out->entry = (uint32_t)entry;
	return 0;
}
