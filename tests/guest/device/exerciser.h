/*
 * exerciser.h - registers of a PCI function that has one of everything
 *
 * For the test guest (image/test_device.c) and the program that is the function
 * (exerciser.c): nothing but numbers.
 */
#ifndef TESTS_EXERCISER_H
#define TESTS_EXERCISER_H

#define EXERCISER_VENDOR 0xfeed
#define EXERCISER_DEVICE 0x0001
#define EXERCISER_ID	 0x0b0a4d01

#define EXERCISER_NR_MSI  4
#define EXERCISER_NR_MSIX 8

/* BAR 0, 64-bit memory: registers, a page that may be mapped, a page of doorbells, a spare */
#define EXERCISER_BAR0_SIZE	0x4000
#define EXERCISER_REG_ID	0x000
#define EXERCISER_REG_SCRATCH	0x004
#define EXERCISER_REG_SCRATCH64 0x008
#define EXERCISER_REG_MSI	0x010 /* write: fire this MSI vector */
#define EXERCISER_REG_MSIX	0x014 /* write: fire this MSI-X vector */
#define EXERCISER_REG_INTX	0x018 /* level of the line */
/* The last write to the window: where, how long, what; and how many there were */
#define EXERCISER_REG_LAST_OFF	 0x020
#define EXERCISER_REG_LAST_LEN	 0x024
#define EXERCISER_REG_LAST_DATA	 0x028
#define EXERCISER_REG_WRITES	 0x030
#define EXERCISER_REG_RUNG	 0x034 /* doorbells by eventfd, by any value */
#define EXERCISER_REG_RUNG_MATCH 0x038 /* those that match EXERCISER_MATCH */
#define EXERCISER_REG_MESSAGES	 0x03c /* doorbell writes that came as messages */
#define EXERCISER_REG_DMA_ADDR	 0x040 /* 64 bits */
#define EXERCISER_REG_DMA_LEN	 0x048 /* at most the buffer's size */
#define EXERCISER_REG_DMA_GO	 0x04c /* 1: guest to buffer, 2: buffer to guest */
#define EXERCISER_REG_DMA_STATUS 0x050 /* 0, or an errno */
#define EXERCISER_REG_RESETS	 0x054 /* resets so far; not reset */
#define EXERCISER_BUFFER	 0x400
#define EXERCISER_BUFFER_SIZE	 0x400
#define EXERCISER_WINDOW	 0x800 /* reads give the low byte of the offset, writes are noted */
#define EXERCISER_WINDOW_SIZE	 0x800
#define EXERCISER_SHARED	 0x1000
#define EXERCISER_SHARED_SIZE	 0x1000
#define EXERCISER_DOORBELL	 0x2000 /* any access */
#define EXERCISER_DOORBELL_MATCH 0x2010 /* 4 bytes, this value */
#define EXERCISER_MATCH		 7

/* BAR 2, 32-bit memory: MSI-X table and pending bits */
#define EXERCISER_BAR2_SIZE 0x1000
#define EXERCISER_PBA	    0x800
/* BAR 3, I/O: bytes that keep what is written */
#define EXERCISER_BAR3_SIZE 32
/* BAR 4, 32-bit prefetchable memory: all of it may be mapped */
#define EXERCISER_BAR4_SIZE 0x10000
/* Expansion ROM: 0x55, 0xaa, then the low bytes of the offsets */
#define EXERCISER_ROM_SIZE 0x1000

#endif
