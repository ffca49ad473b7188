/*
 * tap.h - a tap device of the host: made or given, set up, and its link
 *
 * One descriptor per pair of queues. Every packet begins with a virtio header of TAP_HEADER_SIZE
 * bytes, which the kernel understands, so that checksums and segmentation are passed on undone.
 *
 * A SOCK_SEQPACKET socket may stand in for a tap: whoever has its other end takes and gives the
 * same packets. It knows neither offloads nor filters, and its link is always up.
 *
 * Threads: the loop's, but tap_attach(), which is for the thread that serves the queue.
 */
#ifndef DEVICE_TAP_H
#define DEVICE_TAP_H

#include <linux/if.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"

#define TAP_MAX_QUEUES	64
#define TAP_HEADER_SIZE 12 /* struct virtio_net_hdr_v1 */
#define TAP_MAC_SIZE	6

struct tap {
	char name[IFNAMSIZ]; /* "" for a socket */
	int fds[TAP_MAX_QUEUES];
	unsigned nr;
	bool socket;
	bool filters;		   /* the kernel can filter by address */
	bool segments_udp;	   /* the kernel knows USO */
	uint16_t mtu;		   /* 0: not known */
	uint8_t mac[TAP_MAC_SIZE]; /* of the host's side; zero: not known */

	/* Its link, for as long as it is watched */
	int ifindex; /* 0: not in this network namespace */
	int netlink_fd;
	struct loop_source netlink;
	bool missed; /* messages were lost */
	bool up;     /* as last heard */
	void (*link_changed)(void *arg);
	void *arg;
};

/* What the host's side is to be; what is zero stays as it is. */
struct tap_host {
	const char *ip, *mask; /* IPv4 in dotted form; NULL: none */
	const uint8_t *mac;    /* NULL: as it is */
	uint16_t mtu;
};

/*
 * Open the device of that name with nr queues; "" or a name with %d: the kernel makes one up. Needs
 * CAP_NET_ADMIN, unless the device exists and belongs to the caller. 0 or -errno with a text.
 */
int tap_open(struct tap *t, const char *name, unsigned nr, struct err *err);
/* Descriptors that were given: taken on success. 0 or -errno with a text. */
int tap_adopt(struct tap *t, const int *fds, unsigned nr, struct err *err);
/* Zeroed is not fine; after a failure of the above nothing is to be done. */
void tap_close(struct tap *t);

/* Addresses, MTU; then bring it up. 0 or -errno with a text. Before the process is confined. */
int tap_set_up(struct tap *t, const struct tap_host *host, struct err *err);

/*
 * Call changed whenever the link goes up or down from now on; t->up is as it is now. A device that
 * cannot be watched counts as up until its queues say that it is gone. 0 or -errno with a text.
 */
int tap_watch(
	struct tap *t, struct loop *loop, void (*changed)(void *arg), void *arg, struct err *err);
/* A queue found that the device is no more. */
void tap_gone(struct tap *t);

/* What the guest can take: TUN_F_... bits. */
int tap_set_offload(struct tap *t, unsigned offload);

/*
 * Let in only frames to these addresses: `unicast` and the others one after the other, in
 * addresses; with all_multicast, all of those, too. nr 0: everything. 0 or -errno.
 */
int tap_set_filter(struct tap *t, const uint8_t *addresses, unsigned nr, bool all_multicast);

/* Whether packets are steered to this queue. 0 or -errno. */
int tap_attach(struct tap *t, unsigned queue, bool attach);

#endif
