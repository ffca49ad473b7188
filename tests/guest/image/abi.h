/*
 * abi.h - numbers that the assembler and the C parts of the test guest share
 *
 * No C in here: entry.S and traps.S include it too.
 */
#ifndef GUEST_ABI_H
#define GUEST_ABI_H

/* Where the image is linked; the ELF variant is loaded there. image.lds says the same. */
#define LINK_BASE 0x1000000

/* How the guest was entered; guest_start()'s first argument. */
#define ENTRY_BZIMAGE64 1 /* 64-bit boot protocol: zero page */
#define ENTRY_BZIMAGE32 2 /* 32-bit boot protocol: zero page */
#define ENTRY_PVH	3 /* hvm_start_info */

/* Codes on port 0x80, for whoever takes the time of a boot */
#define MARK_PORT  0x80
#define MARK_ENTRY 0x01 /* the first instruction after cli */
#define MARK_MAIN  0x02 /* in ring 3, console next */
#define MARK_DONE  0x03 /* about to switch off */

/* Selectors. Ring 0's are where the loaders have theirs, so that nothing depends on a stale SS. */
#define SEL_CODE0  0x10
#define SEL_DATA0  0x18
#define SEL_DATA3  0x23
#define SEL_CODE3  0x2b
#define SEL_TSS	   0x30
#define SEL_CODE32 0x40
#define GDT_SIZE   0x48

#define RFLAGS_IF    0x200
#define RFLAGS_RING3 0x3002 /* IOPL 3, interrupts off */

/* Vectors above the CPU's exceptions */
#define VECTOR_SPURIOUS 0xff

/* A TSS with a bit for every port and the byte of ones that ends them */
#define TSS_SIZE   (0x68 + 0x2000 + 1)
#define STACK_SIZE 0x4000
/* Where application processors start, in real mode; RAM below 640 KiB that no loader uses */
#define AP_START 0x10000

#endif
