/*
 * boot_image.h - what a kernel image says about itself
 *
 * Parsers only: they read an image through a bounded reader and return checked facts. Placing
 * and loading are boot.c's. Everything in an image is somebody else's: sizes and offsets
 * that come back from here lie inside the image and do not wrap.
 */
#ifndef MACHINE_BOOT_IMAGE_H
#define MACHINE_BOOT_IMAGE_H

#include <asm/bootparam.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* A file, or bytes in memory when mem is set. */
struct image {
	int fd;
	const uint8_t *mem;
	uint64_t size;
	const char *what; /* "kernel /boot/vmlinuz", for texts; borrowed */
};

/* Exactly len bytes at off. 0; -EINVAL: not inside the image, or it became shorter; or pread's. */
int image_read(const struct image *img, uint64_t off, void *buf, size_t len);

/* Bytes of the image, followed by zeroes, that go to a guest address. */
struct image_segment {
	uint64_t off, file_size; /* inside the image */
	uint64_t gpa, mem_size;	 /* mem_size >= file_size; does not wrap */
};

#define ELF_MAX_SEGMENTS 32

struct elf_image {
	uint32_t entry; /* inside one of the segments */
	unsigned nr_segments;
	struct image_segment segments[ELF_MAX_SEGMENTS];
};

/* Starts with the bytes of an ELF file? */
bool elf_probe(const struct image *img);
/* 0, or -ENOEXEC (or image_read's) with a text that says what is missing. */
int elf_parse(const struct image *img, struct elf_image *out, struct err *err);

#define BZIMAGE_ENTRY64 0x200 /* from the start of the payload */

struct bzimage {
	struct setup_header hdr; /* bytes past the header's own length are zero */
	bool long_mode;		 /* can be entered at payload.gpa + BZIMAGE_ENTRY64 in long mode */
	uint32_t cmdline_max;	 /* without the final zero */
	uint64_t initrd_max;	 /* the highest address that the initramfs may cover */
	struct image_segment payload; /* mem_size: what the kernel needs to unpack itself */
};

bool bzimage_probe(const struct image *img);
int bzimage_parse(const struct image *img, struct bzimage *out, struct err *err);

#endif
