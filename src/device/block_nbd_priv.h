/*
 * block_nbd_priv.h - what the files of a disk at an NBD server share
 *
 *	block_nbd.c	 connections: requests, what becomes of them when one is lost, the next one
 *	block_nbd_open.c the first connections, and the end
 *	block_nbd_dial.c how the next sockets come about
 */
#ifndef DEVICE_BLOCK_NBD_PRIV_H
#define DEVICE_BLOCK_NBD_PRIV_H

#include <libnbd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "device/block.h"
#include "device/block_nbd_dial.h"

/* Without any size from the server: what all of them take in one command. */
#define NBD_MAX_COMMAND (32 * MIB)
#define NBD_BOUNCE_SIZE (1 * MIB)
#define NBD_MAX_BOUNCES 16u
/* Before a connection that was lost is tried again for the first time. */
#define NBD_FIRST_DELAY_NS (50 * NS_PER_MS)

/* The functions of libnbd that are used: X(name) */
#define FUNCTIONS(X)                                                                               \
	X(create)                                                                                  \
	X(close)                                                                                   \
	X(get_error)                                                                               \
	X(get_errno)                                                                               \
	X(set_uri_allow_local_file)                                                                \
	X(connect_uri)                                                                             \
	X(get_size)                                                                                \
	X(get_block_size)                                                                          \
	X(is_read_only)                                                                            \
	X(can_flush)                                                                               \
	X(can_fua)                                                                                 \
	X(can_trim)                                                                                \
	X(can_zero)                                                                                \
	X(can_multi_conn)                                                                          \
	X(set_export_name)                                                                         \
	X(get_export_name)                                                                         \
	X(get_tls_negotiated)                                                                      \
	X(aio_connect_socket)                                                                      \
	X(aio_is_connecting)                                                                       \
	X(aio_get_fd)                                                                              \
	X(aio_get_direction)                                                                       \
	X(aio_notify_read)                                                                         \
	X(aio_notify_write)                                                                        \
	X(aio_is_ready)                                                                            \
	X(aio_is_processing)                                                                       \
	X(aio_pread)                                                                               \
	X(aio_pwrite)                                                                              \
	X(aio_flush)                                                                               \
	X(aio_trim)                                                                                \
	X(aio_zero)

#define POINTER(name) __typeof__(nbd_##name) *name;
struct nbd_functions {
	void *library;
	FUNCTIONS(POINTER)
};

struct nbd;

struct nbd_bounce {
	struct nbd_bounce *next;
	uint8_t bytes[NBD_BOUNCE_SIZE];
};

struct nbd_job {
	struct block_io *io;
	struct nbd_job *next;
	struct nbd_connection *c;
	struct nbd_bounce *bounce;
	uint64_t chunk; /* bytes of the command under way */
	uint64_t off;	/* and where */
	bool again;	/* it was under way when the connection was lost */
	bool complete;	/* it is on the list of those that are done */
	bool flushing;	/* that is what is under way, for a durable write */
	int error;
};

enum nbd_state { NBD_UP, NBD_DOWN, NBD_SHAKING };

struct nbd_connection {
	struct nbd *n;
	struct nbd_handle *h; /* NULL while it is down */
	struct iothread *t;   /* NULL before the first operation */
	enum nbd_state state;
	struct connector connector;
	struct iothread_watch answers; /* of the connector's */
	struct iothread_timer retry;   /* when to ask it; or the end of a handshake's time */
	uint64_t delay_ns;
	uint64_t serial;
	bool leaving;
	struct nbd_job *parked, **parked_end; /* until it is up again */
	struct iothread_watch watch;
	struct iothread_timer again; /* there are more events */
	struct nbd_job *free;
	struct nbd_job *done, **done_end;
	struct nbd_job *waiting, **waiting_end; /* for a bounce buffer */
	struct nbd_bounce *bounces;
	unsigned nr_bounces;
	bool answering, lost; /* lost: for good */
};

struct nbd {
	struct block_store store;
	struct nbd_functions f;
	bool can_flush, can_fua;
	uint64_t max_command;
	int64_t export_size;
	char *export; /* its name */
	unsigned nr;
	struct nbd_connection *connections;
	struct log_limit limit;
};

/* block_nbd.c */
extern const struct block_store_ops block_nbd_ops;
/* Zeroed before. */
void block_nbd_init_connection(struct nbd *n, struct nbd_connection *c);

/* block_nbd_open.c */
void block_nbd_free(struct block_store *s);

#endif
