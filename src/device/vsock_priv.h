/*
 * vsock_priv.h - what the parts of the socket device share
 *
 * vsock.c serves the queues, vsock_conn.c knows what a connection is, vsock_host.c how the host's
 * programs are reached. All on the loop thread.
 */
#ifndef DEVICE_VSOCK_PRIV_H
#define DEVICE_VSOCK_PRIV_H

#include <linux/virtio_vsock.h>
#include <sys/queue.h>
#include <sys/uio.h>

#include "base/acceptor.h"
#include "base/log.h"
#include "device/loop_queue.h"
#include "device/vsock.h"

#define VSOCK_HDR	sizeof(struct virtio_vsock_hdr)
#define VSOCK_HOST_CID	2
#define VSOCK_BUCKETS	1024u
#define VSOCK_MAX_ASKED 64 /* the connector's questions under way: they fit its socket */
#define VSOCK_PIECES	128

/*
 * What a guest may send before it hears that the host has taken it. Together never more than
 * VSOCK_BUDGET, whatever the guest does: the first ones get the large window, and enough is left to
 * give everybody the small one.
 */
#define VSOCK_WINDOW	   (256 * 1024u)
#define VSOCK_SMALL_WINDOW (16 * 1024u)
#define VSOCK_BUDGET	   (128 * 1024 * 1024u)

enum vsock_state {
	VSOCK_HELLO,	  /* the host's program has not said to which port */
	VSOCK_REQUESTED,  /* the guest is asked */
	VSOCK_CONNECTING, /* the guest has asked, the connector is at work */
	VSOCK_OPEN,
	VSOCK_SHUT,   /* the host's end is gone and the guest told; its answer is awaited */
	VSOCK_DEAD,   /* nothing is left of it but a reset for the guest */
	VSOCK_ORPHAN, /* the guest's end is gone, the host still takes what it wrote */
};

/* What the guest is to be told, beside data. */
enum {
	VSOCK_TELL_REQUEST = 1u << 0,
	VSOCK_TELL_RESPONSE = 1u << 1,
	VSOCK_TELL_RESET = 1u << 2,
	VSOCK_TELL_SHUTDOWN = 1u << 3,
	VSOCK_TELL_CREDIT = 1u << 4,
	VSOCK_ASK_CREDIT = 1u << 5,
};

struct vsock_conn {
	struct vsock *v;
	LIST_ENTRY(vsock_conn) all;
	LIST_ENTRY(vsock_conn) same_hash;
	TAILQ_ENTRY(vsock_conn) turn; /* in v->ready or, while CONNECTING, in v->to_ask */
	bool hashed, ready, to_ask;

	enum vsock_state state;
	uint64_t serial;
	uint32_t guest_port, host_port;
	uint64_t deadline_ns; /* 0: none */
	unsigned tell;

	int fd; /* -1: none, yet or any more */
	struct loop_source source;
	bool readable, writable; /* until the kernel says otherwise */
	bool hup;		 /* the host's program has closed, or each side its own half */
	bool eof;		 /* and there is nothing to read any more */
	bool no_reader;		 /* what the guest writes has nowhere to go */
	bool shut_writing;

	/* To the guest */
	uint32_t peer_alloc, peer_fwd, sent;
	uint32_t told_shut; /* VIRTIO_VSOCK_SHUTDOWN_... */

	/* From the guest: received - forwarded bytes are in the buffer. */
	uint32_t window, received, forwarded, told_forwarded;
	uint32_t guest_shut;
	uint8_t *buf; /* a ring of `window` bytes while it holds some */
	uint32_t buf_at;
};

/* A reset for something that is no connection of ours. */
struct vsock_reset {
	uint64_t host_cid;
	uint32_t host_port, guest_port;
	uint16_t type;
};

#define VSOCK_MAX_RESETS 256u

struct vsock {
	struct virtio_model model;
	struct vsock_config config;
	char *made_path;
	struct loop_queue rx, tx, event;
	unsigned seen; /* queues that have run in this process */
	bool reset_event;
	struct log_limit limit;

	LIST_HEAD(, vsock_conn) all;
	LIST_HEAD(, vsock_conn) hash[VSOCK_BUCKETS];
	TAILQ_HEAD(vsock_turns, vsock_conn) ready, to_ask;
	unsigned nr_conns, nr_asked;
	uint64_t reserved; /* windows given */
	uint64_t next_serial;
	uint32_t next_port;

	struct vsock_reset resets[VSOCK_MAX_RESETS];
	unsigned first_reset, nr_resets;

	struct acceptor acceptor; /* held: no room for more connections */
	struct loop_source connector;
	struct loop_timer sweep;
};

/* --- vsock.c --- */

/* Something is to be given to the guest. */
void vsock_wake_rx(struct vsock *v);
/* The pieces without their first `skip` bytes, `len` bytes of them at most: their number. */
unsigned vsock_cut(
	const struct iovec *in, unsigned nr, uint64_t skip, uint64_t len, struct iovec *out);

/* --- vsock_conn.c --- */

/* NULL: there are too many, or no memory. fd, if there is one (-1), is taken on success. */
struct vsock_conn *vsock_conn_new(struct vsock *v, enum vsock_state state, int fd);
void vsock_conn_free(struct vsock_conn *c);
struct vsock_conn *vsock_conn_find(const struct vsock *v, uint32_t guest_port, uint32_t host_port);
/* It is the one with these ports from now on; nobody else has them. */
void vsock_conn_name(struct vsock_conn *c, uint32_t guest_port, uint32_t host_port);
/* The host's end: takes fd. 0 or -errno. */
int vsock_conn_attach(struct vsock_conn *c, int fd);
/* vsock_conn_late() is called then, or a little later, unless it is open by then. */
void vsock_conn_deadline(struct vsock_conn *c, uint64_t in_ns);
/* Both sides are there. */
void vsock_conn_open(struct vsock_conn *c);
/* Broken off: the guest is told if it knows of it. c may be gone afterwards. */
void vsock_conn_reset(struct vsock_conn *c);
/* The guest sent this about it; the header makes sense. c may be gone afterwards. */
void vsock_conn_packet(
	struct vsock_conn *c, const struct virtio_vsock_hdr *hdr, const struct vq_req *req);
/* The deadline has passed. c may be gone afterwards. */
void vsock_conn_late(struct vsock_conn *c);

/*
 * Fill a buffer of the guest's: the bytes written; 0: there is nothing to say; -ENOBUFS: there is,
 * but not in this buffer.
 */
ssize_t vsock_conn_fill(struct vsock_conn *c, const struct vq_req *req);
/* It is served when its turn comes, if it has news. */
void vsock_conn_news(struct vsock_conn *c);
/* Whether there is something to fill a buffer with. */
bool vsock_conn_has_news(const struct vsock_conn *c);
/* Its last word has been said. */
bool vsock_conn_done(const struct vsock_conn *c);

/* --- vsock_host.c --- */

/* Watch listener and connector. 0 or -errno with a text. */
int vsock_host_start(struct vsock *v, struct err *err);
void vsock_host_stop(struct vsock *v);
/* The client has written. c may be gone afterwards. */
void vsock_host_hello(struct vsock_conn *c);
/* Tell the client that it is connected. 0 or -errno. */
int vsock_host_welcome(struct vsock_conn *c);
/* Have the connector connect it. */
void vsock_host_ask(struct vsock_conn *c);
/* Look for deadlines that have passed, soon, and for as long as there are some. */
void vsock_sweep_later(struct vsock *v);
/* There may be room for further clients again. */
void vsock_host_resume(struct vsock *v);

#endif
