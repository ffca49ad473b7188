/*
 * vvu.h - virtio-vhost-user: the PCI function by which a guest serves another machine's device
 *
 * The function's driver is a vhost-user back-end. Vhost-user messages travel in the buffers of two
 * queues, one message a buffer, header and payload as on a socket; what travels beside them on a
 * socket, descriptors, has become places in BARs:
 *
 *   memory, log, inflight area   shared-memory regions
 *   call, err and log eventfds   doorbells, which the driver writes
 *   kick eventfds                notifications: interrupts of the driver
 *
 * Both ends use this: the function (attach/vvu_proxy) and its driver (serve/vvu).
 *
 * No published text has all of it. The layout is that of crosvm, whose drivers find here what they
 * look for; shared-memory regions have the ids of virtio 1.2 and later drafts.
 * Spec: "Virtio vhost-user device", drafts of 2018 to 2022.
 */
#ifndef WIRE_VVU_H
#define WIRE_VVU_H

#include <assert.h>
#include <stdint.h>

#include "wire/vhost_user.h"

#define VVU_TYPE	61 /* of which no published device is in use; PCI device id 1af4:107d */
#define VVU_CLASS	0x00
#define VVU_SUBCLASS	0xff

/* Kinds of capabilities that other virtio functions do not have */
#define VVU_CAP_DOORBELL     6
#define VVU_CAP_NOTIFICATION 7

/* VVU_CAP_DOORBELL: struct virtio_pci_cap, then le32 the distance between two doorbells. */
#define VVU_DOORBELL_CAP_LEN  20
#define VVU_DOORBELL_CAP_STEP 16 /* offset of that */

/* BAR 0: registers, 32 bits */
#define VVU_BAR_REGS  0
#define VVU_REGS_SIZE 0x8000u
#define VVU_MSIX      0x6000u /* room for 256 vectors */
#define VVU_MSIX_MORE 0x4000u /* where it lies if there are more */
#define VVU_PBA	      0x7000u
/* BAR 1: log and inflight area, 32 bits, so that capabilities of the short kind reach all of it */
#define VVU_BAR_SMALL	  1
#define VVU_LOG_SIZE	  (8u << 20) /* of a quarter of a terabyte of memory */
#define VVU_INFLIGHT_SIZE (8u << 20)
/* BAR 2: doorbells and the notification configuration, 64 bits */
#define VVU_BAR_BELLS	  2
#define VVU_BELLS_SIZE	  0x4000u
#define VVU_DOORBELLS	  0x0u
#define VVU_DOORBELLS_LEN 0x2000u
#define VVU_DOORBELL_STEP 4u
#define VVU_NOTIFY	  0x2000u
#define VVU_NOTIFY_LEN	  0x1000u
/* BAR 4: the sibling's memory, 64 bits, prefetchable */
#define VVU_BAR_MEMORY 4

/* Shared-memory regions */
#define VVU_SHM_MEMORY	 1
#define VVU_SHM_LOG	 2
#define VVU_SHM_INFLIGHT 3

/*
 * The notification configuration: the driver selects a vhost queue, then reads or writes the vector
 * of its kicks. Of a queue that is not there, writes are dropped and NO_VECTOR is read.
 */
struct vvu_notify {
	uint16_t select;
	uint16_t vector;
};
static_assert(sizeof(struct vvu_notify) == 4, "notification configuration");

/* The device configuration */
struct vvu_config {
	uint32_t status;
	uint32_t max_queues; /* vhost queues */
	uint8_t uuid[16];
};
static_assert(sizeof(struct vvu_config) == 24, "device configuration");

#define VVU_STATUS_BACKEND_UP  (1u << 0) /* the driver's */
#define VVU_STATUS_FRONTEND_UP (1u << 1) /* the device's */

/* How the driver hears that its sibling has gone. */
enum vvu_disconnect {
	VVU_DISCONNECT_BOTH,
	VVU_DISCONNECT_ZERO_LEN, /* a buffer of no bytes: what crosvm's drivers know */
	/* both status bits cleared, and an interrupt: what the drafts say */
	VVU_DISCONNECT_STATUS,
};

/* Virtqueues of the function */
#define VVU_QUEUE_RX   0 /* messages for the driver: requests, and answers to what it asked */
#define VVU_QUEUE_TX   1 /* messages of the driver: likewise */
#define VVU_NR_QUEUES  2
#define VVU_QUEUE_SIZE 256
/* Configuration, two queues, and one for each vhost queue */
#define VVU_NR_VECTORS(queues) (1 + VVU_NR_QUEUES + (queues))

#define VVU_MAX_QUEUES	   256 /* a vhost-user message names a queue by 8 bits */
#define VVU_DEFAULT_QUEUES 16

static_assert(VVU_NR_VECTORS(VVU_MAX_QUEUES) * 16 <= VVU_PBA - VVU_MSIX_MORE, "vectors");

/* Doorbells, of a device with `queues` vhost queues */
#define VVU_DOORBELL_CALL(queues, i) (i)
#define VVU_DOORBELL_ERR(queues, i)  ((queues) + (i))
#define VVU_DOORBELL_LOG(queues)     (2 * (queues))
#define VVU_NR_DOORBELLS(queues)     (2 * (queues) + 1)

static_assert(VVU_NR_DOORBELLS(VVU_MAX_QUEUES) * VVU_DOORBELL_STEP <= VVU_DOORBELLS_LEN, "doorbells");

/* The largest message that any buffer may have to hold. */
#define VVU_MAX_MESSAGE (sizeof(struct vhost_user_header) + VHOST_USER_MAX_PAYLOAD)

/*
 * Protocol features that can be had through a VVU device: what remains needs descriptors that a
 * driver in a guest cannot send or receive. REPLY_ACK and INFLIGHT_SHMFD are the proxy's own.
 */
#define VVU_PROTOCOL_FEATURES                                                                      \
	(VHOST_USER_PROTOCOL_BIT(MQ) | VHOST_USER_PROTOCOL_BIT(LOG_SHMFD) |                        \
		VHOST_USER_PROTOCOL_BIT(RARP) | VHOST_USER_PROTOCOL_BIT(REPLY_ACK) |               \
		VHOST_USER_PROTOCOL_BIT(MTU) | VHOST_USER_PROTOCOL_BIT(BACKEND_REQ) |              \
		VHOST_USER_PROTOCOL_BIT(CROSS_ENDIAN) | VHOST_USER_PROTOCOL_BIT(CRYPTO_SESSION) |  \
		VHOST_USER_PROTOCOL_BIT(CONFIG) | VHOST_USER_PROTOCOL_BIT(INFLIGHT_SHMFD) |        \
		VHOST_USER_PROTOCOL_BIT(RESET_DEVICE) |                                            \
		VHOST_USER_PROTOCOL_BIT(INBAND_NOTIFICATIONS) |                                    \
		VHOST_USER_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS) | VHOST_USER_PROTOCOL_BIT(STATUS) |   \
		VHOST_USER_PROTOCOL_BIT(GET_VRING_BASE_INFLIGHT))

#endif
