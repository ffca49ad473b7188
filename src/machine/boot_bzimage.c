/*
 * boot_bzimage.c - the bzImage format of Linux for x86
 *
 * A bzImage is a real-mode part, of which only the setup header matters here, and a
 * protected-mode part, which goes to the kernel's preferred address and is entered there.
 *
 * Trusts: nothing in the image.
 * Spec:   Documentation/arch/x86/boot.rst, "The Linux/x86 Boot Protocol".
 */
#include "machine/boot_image.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/util.h"
#include "machine/layout.h"

#define SETUP_OFFSET	    offsetof(struct boot_params, hdr) /* 0x1f1 */
#define SETUP_HEADER_MAGIC  0x53726448			      /* "HdrS" */
#define SETUP_BOOT_FLAG	    0xaa55
#define SETUP_JUMP_TARGET   0x202 /* the jump at 0x200 leads from here over the header */
#define SECTOR_SIZE	    512ull
#define DEFAULT_SETUP_SECTS 4

#define VERSION_MIN	   0x206 /* cmdline_size; Linux 2.6.22 */
#define VERSION_INIT_SIZE  0x20a /* pref_address and init_size; Linux 2.6.31 */
#define VERSION_XLOADFLAGS 0x20c /* Linux 3.8 */

bool bzimage_probe(const struct image *img)
{
	struct setup_header hdr;

	return image_read(img, SETUP_OFFSET, &hdr, offsetof(struct setup_header, version)) == 0 &&
	       hdr.boot_flag == SETUP_BOOT_FLAG && hdr.header == SETUP_HEADER_MAGIC;
}

/* How much is header: the byte at 0x201 is the length of the jump over its rest. */
static size_t header_size(const struct setup_header *hdr)
{
	return MIN(sizeof(*hdr), SETUP_JUMP_TARGET - SETUP_OFFSET + (hdr->jump >> 8));
}

static int read_header(const struct image *img, struct setup_header *hdr, struct err *err)
{
	size_t size;
	int rc;

	memset(hdr, 0, sizeof(*hdr));
	rc = image_read(img, SETUP_OFFSET, hdr, offsetof(struct setup_header, realmode_swtch));
	size = header_size(hdr);
	if (!rc)
		rc = image_read(img, SETUP_OFFSET, hdr, size);
	if (rc)
		return err_set(err, -ENOEXEC, "%s: is truncated inside the bzImage setup header",
			img->what);
	if (hdr->version < VERSION_MIN)
		return err_set(err, -ENOEXEC,
			"%s: has boot protocol %u.%02u, expected at least 2.06 (Linux 2.6.22)",
			img->what, hdr->version >> 8, hdr->version & 0xff);
	if (!(hdr->loadflags & LOADED_HIGH))
		return err_set(err, -ENOEXEC, "%s: is a zImage, expected a bzImage", img->what);
	return 0;
}

static int find_payload(const struct image *img, const struct setup_header *hdr,
	struct image_segment *payload, struct err *err)
{
	uint64_t sects = hdr->setup_sects ? hdr->setup_sects : DEFAULT_SETUP_SECTS;
	uint64_t off = (sects + 1) * SECTOR_SIZE, size = (uint64_t)hdr->syssize * 16;

	if (!size)
		return err_set(err, -ENOEXEC,
			"%s: is a bzImage without a kernel (its syssize is 0)", img->what);
	/* The last 16 bytes may be cut short: the size is rounded up. */
	if (off >= img->size || img->size - off + 15 < size)
		return err_set(err, -ENOEXEC,
			"%s: is truncated: its header promises %llu bytes, the file has %llu",
			img->what, (unsigned long long)(off + size), (unsigned long long)img->size);
	*payload = (struct image_segment){
		.off = off,
		.file_size = MIN(size, img->size - off),
		.gpa = LAYOUT_HIGH_RAM,
	};
	payload->mem_size = payload->file_size;
	if (hdr->version >= VERSION_INIT_SIZE) {
		payload->gpa = hdr->pref_address;
		payload->mem_size = MAX(payload->file_size, hdr->init_size);
	}
	if (payload->gpa < LAYOUT_HIGH_RAM || payload->gpa >= LAYOUT_4G)
		return err_set(err, -ENOEXEC,
			"%s: wants to be loaded at 0x%llx, expected an address from 1 MiB to 4 GiB",
			img->what, (unsigned long long)payload->gpa);
	return 0;
}

int bzimage_parse(const struct image *img, struct bzimage *out, struct err *err)
{
	struct setup_header *hdr = &out->hdr;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = read_header(img, hdr, err);
	if (!rc)
		rc = find_payload(img, hdr, &out->payload, err);
	if (rc)
		return rc;
	out->cmdline_max = hdr->cmdline_size;
	out->initrd_max = hdr->initrd_addr_max;
	out->long_mode = hdr->version >= VERSION_XLOADFLAGS && (hdr->xloadflags & XLF_KERNEL_64) &&
			 out->payload.file_size > BZIMAGE_ENTRY64;
	return 0;
}
