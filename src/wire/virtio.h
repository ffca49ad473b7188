/*
 * virtio.h - what both ends of every virtio device agree on
 *
 * Feature bits, status bits and structures are the kernel's (linux/virtio_*.h); here is the rest:
 * the table of device types, and the limits of a queue.
 *
 * Spec: virtio 1.3; queue counts from chapter 5's sections "Virtqueues".
 */
#ifndef WIRE_VIRTIO_H
#define WIRE_VIRTIO_H

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* virtio 1.3, 2.7 and 2.8: at most 32768 elements; a split ring's number is a power of two. */
#define VIRTIO_QUEUE_MAX_SIZE 32768
/* Type ids are 6 bits: the modern PCI device id is 0x1040 plus the type, up to 0x107f. */
#define VIRTIO_TYPE_MAX 63u
/* More queues than any device has; bounds tables and foreign counts. */
#define VIRTIO_MAX_QUEUES 1024

/* Younger than the oldest kernel headers we build with (virtio 1.3, 6) */
#define VIRTIO_BIT(nr)		     (1ull << (nr))
#define VIRTIO_BIT_INDIRECT	     28 /* VIRTIO_F_INDIRECT_DESC */
#define VIRTIO_BIT_EVENT_IDX	     29
#define VIRTIO_BIT_VHOST_USER	     30 /* VHOST_USER_F_PROTOCOL_FEATURES: never shown to a guest */
#define VIRTIO_BIT_VERSION_1	     32
#define VIRTIO_BIT_ACCESS_PLATFORM   33
#define VIRTIO_BIT_RING_PACKED	     34
#define VIRTIO_BIT_IN_ORDER	     35
#define VIRTIO_BIT_ORDER_PLATFORM    36
#define VIRTIO_BIT_SR_IOV	     37
#define VIRTIO_BIT_NOTIFICATION_DATA 38
#define VIRTIO_BIT_NOTIF_CONFIG_DATA 39
#define VIRTIO_BIT_RING_RESET	     40
#define VIRTIO_BIT_ADMIN_VQ	     41

/* One device type. A type that is not in the table has no restrictions. */
struct virtio_type {
	uint16_t id;
	const char *name;	 /* that users write: net, block, fs ... */
	const char *alias;	 /* another one, or NULL */
	uint16_t min_queues;	 /* fewest that drivers bear; 0: nobody knows, any count is legal */
	uint16_t default_queues; /* when neither user nor back-end says */
	/* Legal counts are min_queues + k * step; 0: min_queues only; with extra, one more is legal
	 * too. */
	uint16_t step;
	bool extra;
	uint8_t class_code, subclass; /* of a PCI function (linux/pci_ids.h's numbers) */
	const char *refused;	      /* why it cannot be a device outside the VMM; NULL: it can */
};

/* By id or by name (or alias); NULL: not known. */
const struct virtio_type *virtio_type_find(uint32_t id);
const struct virtio_type *virtio_type_named(const char *name);
/* The name of an id, known or not, for log lines; buf holds the text of an unknown one. */
const char *virtio_type_name(uint32_t id, char buf[16]);

/*
 * "26", "fs", ...: the id, 1 to 63. 0 or -EINVAL with a text that says what was expected.
 */
int virtio_type_parse(const char *text, uint32_t *id, struct err *err);

/*
 * Whether a device of this type may have nr queues. 0 or -EINVAL with a text naming the legal
 * counts. No type may have none, or more than VIRTIO_MAX_QUEUES.
 */
int virtio_type_check_queues(uint32_t id, unsigned nr, struct err *err);

#endif
