/*
 * virtio.h - a small driver for virtio devices on PCI, modern ones
 *
 * Split or packed rings of requests with one readable and one writable piece. All memory is the
 * driver's own, one to one with physical addresses. Virtio 1.3, 2.7, 2.8, 3.1 and 4.1.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include "pci.h"

#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_DEVICE 0x1040 /* + type */

/* The common configuration */
#define COMMON_DEVICE_SELECT  0x00
#define COMMON_DEVICE_FEATURE 0x04
#define COMMON_DRIVER_SELECT  0x08
#define COMMON_DRIVER_FEATURE 0x0c
#define COMMON_CONFIG_VECTOR  0x10
#define COMMON_NR_QUEUES      0x12
#define COMMON_STATUS	      0x14
#define COMMON_GENERATION     0x15
#define COMMON_QUEUE_SELECT   0x16
#define COMMON_QUEUE_SIZE     0x18
#define COMMON_QUEUE_VECTOR   0x1a
#define COMMON_QUEUE_ENABLE   0x1c
#define COMMON_QUEUE_NOTIFY   0x1e
#define COMMON_QUEUE_DESC     0x20
#define COMMON_QUEUE_DRIVER   0x28
#define COMMON_QUEUE_DEVICE   0x30
#define COMMON_QUEUE_RESET    0x3a
#define COMMON_SIZE	      0x40

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER	   2
#define STATUS_DRIVER_OK   4
#define STATUS_FEATURES_OK 8
#define STATUS_NEEDS_RESET 64

#define FEATURE_VERSION_1  (1ull << 32)
#define FEATURE_PACKED	   (1ull << 34)
#define FEATURE_RING_RESET (1ull << 40)

#define NO_VECTOR 0xffff

/* Kinds of capabilities */
#define VIRTIO_CAP_COMMON 1
#define VIRTIO_CAP_NOTIFY 2
#define VIRTIO_CAP_ISR	  3
#define VIRTIO_CAP_DEVICE 4
#define VIRTIO_CAP_WINDOW 5

#define VIRTIO_MAX_QUEUES 4
#define VIRTIO_MAX_AT_ONCE 2
#define RING_MAX	  64

struct ring {
	unsigned index, size;
	uint16_t taken; /* requests whose answers were taken */
	uint16_t given; /* requests, and in a split ring the available index */
	uint64_t doorbell;
	struct ring_memory *memory;
};

struct virtio {
	uint64_t fn;
	struct bar bar; /* BAR 0, where all of the registers must lie */
	uint64_t common, isr, config, notify;
	unsigned notify_step, msix;
	uint64_t table; /* of MSI-X */
	uint64_t offered;
	bool packed; /* the rings, by what was agreed on */
	unsigned bank; /* 1: of a second device, used beside the first; where its rings lie */
	struct ring rings[VIRTIO_MAX_QUEUES];
};

/*
 * Find the n-th device of a type, and its registers. Decoding is switched on. False: there is none,
 * or it lacks a capability.
 */
bool virtio_find(struct virtio *v, unsigned type, unsigned n);
/* The n-th capability of a kind in configuration space, or 0. */
unsigned virtio_capability(uint64_t fn, unsigned kind, unsigned n);

uint8_t virtio_status(const struct virtio *v);
/* Write the status register. */
void virtio_set_status(const struct virtio *v, uint8_t status);
/* Write 0 and wait for 0, or for a device that is not there. */
void virtio_reset(struct virtio *v);
/* From a reset to FEATURES_OK. False: the device does not accept these features. */
bool virtio_negotiate(struct virtio *v, uint64_t features);
void virtio_driver_ok(const struct virtio *v);

/* MSI-X on, entry i delivers interrupt first + i. */
void virtio_msix_on(struct virtio *v, uint8_t first, unsigned nr);
void virtio_msix_off(struct virtio *v);
/* Set a queue up with an empty ring and enable it. vector: of MSI-X, or NO_VECTOR. */
void virtio_queue(struct virtio *v, unsigned index, unsigned size, uint16_t vector);

/*
 * Give a request: out is read by the device, in is written. virtio_kick() tells it. False: the ring
 * is full.
 */
bool virtio_give(struct virtio *v, unsigned queue, const void *out, uint32_t out_len, void *in,
	uint32_t in_len);
void virtio_kick(const struct virtio *v, unsigned queue);
/* How many answers wait to be taken. */
unsigned virtio_waiting(const struct virtio *v, unsigned queue);
/*
 * Take an answer: how many bytes were written. There is one. Which request it is of is known only
 * when the device answers in order, or all that were given are answered.
 */
uint32_t virtio_take(struct virtio *v, unsigned queue);

#endif
