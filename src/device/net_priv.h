/*
 * net_priv.h - what the parts of the network device know of each other
 *
 *	net.c		the model: features, configuration, starting and stopping
 *	net_pair.c	packets, on a thread for each pair of queues
 *	net_control.c	what the driver asks for over the control queue, and the saved state
 */
#ifndef DEVICE_NET_PRIV_H
#define DEVICE_NET_PRIV_H

#include <linux/virtio_net.h>

#include "device/iothread.h"
#include "device/loop_queue.h"
#include "device/net.h"

/* The longest packet of a tap: 64 KiB of IP, an Ethernet header with a VLAN tag, our header. */
#define NET_MAX_PACKET (TAP_HEADER_SIZE + 18 + 65535)
/* A packet is spread over at most so many buffers, and these over so many pieces. */
#define NET_MAX_BUFFERS 256
#define NET_MAX_PIECES	1000 /* below UIO_MAXIOV */
#define NET_MAX_MACS	64   /* of each table */

enum net_dir { NET_RX, NET_TX };

struct net;

struct net_stop {
	virtio_stopped_fn fn;
	void *arg;
	unsigned queue;
	unsigned watches; /* still to go; the thread's */
	struct loop_work done;
};

/*
 * One pair of queues and its tap queue. From net_pair_start() to the stop, all but the loop's part
 * belongs to the thread.
 */
struct net_pair {
	struct net *net;
	unsigned index;
	int fd; /* the tap's, borrowed */
	struct iothread *thread;
	bool serving[2],
		in_use; /* the loop's; in_use: the ring had been used when it was started */
	struct net_stop stops[2];

	struct vq *vqs[2]; /* NULL: not served */
	bool told_broken[2];
	struct iothread_poller poller;
	struct iothread_watch tap, kicks[2];
	struct iothread_timer look; /* for rings without kicks */
	bool readable, writable;    /* the tap, as far as we know */
	bool attached;		    /* packets are steered here */
	bool gone;		    /* said already that the tap is no more */
	bool mergeable, guest_csum; /* features */

	/* Buffers taken from the receive ring for the next packet */
	struct vq_req reqs[NET_MAX_BUFFERS];
	unsigned nr_reqs, nr_pieces;
	uint64_t room;
	struct iovec pieces[NET_MAX_PIECES + 1];
	uint64_t iova[NET_MAX_PIECES + 1];
	uint32_t expect;  /* how long packets are these days */
	unsigned shorter; /* how many in a row were much shorter */
	uint32_t held;	  /* bytes of a packet in spill that waits */
	uint8_t *spill;	  /* NET_MAX_PACKET */
	/* Until the limit lets the next packet pass; whether that one has been counted already. */
	bool waiting[2], counted[2];
	struct iothread_timer timers[2];
	struct log_limit limit;
};

/* What the driver wants to receive */
struct net_filter {
	uint8_t mac[TAP_MAC_SIZE];
	bool promisc, allmulti, alluni, nomulti, nouni, nobcast;
	uint8_t uni[NET_MAX_MACS][TAP_MAC_SIZE], multi[NET_MAX_MACS][TAP_MAC_SIZE];
	unsigned nr_uni, nr_multi;
	bool uni_overflow, multi_overflow; /* there were more */
};

struct net {
	struct virtio_model model;
	struct tap tap;
	uint8_t mac[TAP_MAC_SIZE]; /* as configured */
	unsigned nr_pairs;
	struct net_pair *pairs;

	uint64_t features; /* accepted */
	struct loop_queue control;
	struct rate_limit limits[2];
	unsigned active; /* pairs that the driver uses */
	struct net_filter filter;
	uint64_t offloads; /* VIRTIO_NET_F_GUEST_..., in force */
	bool announce;
	bool known; /* what the driver asked for, from its beginning or from a saved state */
	struct loop_work gone;
	struct log_limit limit;
};

static inline struct net *net_of(struct virtio_model *m)
{
	return (struct net *)m;
}

static inline bool net_has(const struct net *n, unsigned feature)
{
	return n->features & 1ull << feature;
}

/* net.c */

/* Bring these up to date with what is in n. Loop thread. */
void net_update_config(struct net *n);
void net_update_pairs(struct net *n);
/* 0 or -errno. */
int net_update_offloads(struct net *n);
/* The tap turned out to be no more. Any thread. */
void net_tap_gone(struct net *n);

/* net_pair.c. All from the loop's thread. */

int net_pair_init(struct net_pair *p, struct net *n, unsigned index, struct err *err);
/* Both queues are stopped. Zeroed is fine. */
void net_pair_fini(struct net_pair *p);
/* Serve vq. 0 or -errno. */
int net_pair_start(struct net_pair *p, enum net_dir dir, struct vq *vq);
/* fn is called from the loop when nobody touches the queue any more. */
void net_pair_stop(
	struct net_pair *p, enum net_dir dir, unsigned queue, virtio_stopped_fn fn, void *arg);
bool net_pair_serves(const struct net_pair *p, enum net_dir dir);
/* Steer packets to it, or not. */
void net_pair_attach(struct net_pair *p, bool attach);
void net_pair_pause(struct net_pair *p);
void net_pair_resume(struct net_pair *p);

/* net_control.c */

/* As after power-on. */
void net_control_reset(struct net *n);
int net_control_start(struct net *n, struct vq *vq);
/* Filter and offloads into force. */
int net_apply_filter(struct net *n);
ssize_t net_save(struct virtio_model *m, void *buf, size_t size);
int net_load(struct virtio_model *m, const void *buf, size_t len, struct err *err);

#endif
