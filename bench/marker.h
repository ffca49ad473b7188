/*
 * marker.h - instructions that do nothing, and that a counting emulator recognises
 *
 * An 8-byte NOP whose displacement spells "BCH" and a number: icount.c prints, each time one is
 * executed, how many instructions ran since the one before. For assembler and C.
 */
#ifndef BENCH_MARKER_H
#define BENCH_MARKER_H

#define MARK_GUEST 0x01 /* the first instruction of a guest, or of its user space */
#define MARK_BEGIN 0x02 /* what is counted begins ... */
#define MARK_END   0x03 /* ... and ends */
#define MARK_ENTRY 0x04 /* no instruction of ours: the first VMRUN after MARK_BEGIN (icount.c) */

#define MARKER_BYTES 0x0f, 0x1f, 0x84, 0x00, 0x42, 0x43, 0x48

#ifdef __ASSEMBLER__
#define MARKER(n) .byte MARKER_BYTES, n
#else
#define MARKER_STRING_(...) #__VA_ARGS__
#define MARKER_STRING(...)  MARKER_STRING_(__VA_ARGS__)
#define MARKER(n)                                                                                  \
	__asm__ volatile(".byte " MARKER_STRING(MARKER_BYTES) ", %c0" : : "i"(n) : "memory")
#endif

#endif
