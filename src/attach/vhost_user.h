/*
 * vhost_user.h - the front-end of the vhost-user protocol, for a device of any type
 *
 * A struct virtio_backend that reaches its device over a socket: the handshake, the memory table,
 * the rings, configuration; and, when the back-end goes away, the same again as often as it takes,
 * with the inflight area or from the used index, so that no request is lost or done twice.
 *
 * Spec: vhost-user.
 */
#ifndef ATTACH_VHOST_USER_H
#define ATTACH_VHOST_USER_H

#include "attach/virtio_backend.h"
#include "base/loop.h"
#include "machine/dma.h"
#include "machine/memory.h"

/*
 * Where a connection comes from. It never waits, and takes no part in the protocol.
 */
struct vhost_user_source {
	/*
	 * Gives a connected stream socket; -ECANCELED, with a text: there will never be one again
	 * (the attach fails; later, the device needs a reset and nothing is tried any more); or
	 * another -errno with a text: tried again with back-off.
	 */
	int (*connect)(struct vhost_user_source *s, struct err *err);
	/*
	 * NULL: connect() is tried again after a pause. Else the source calls `again` when trying
	 * is worthwhile (a client came, the process was started anew).
	 */
	void (*wait)(struct vhost_user_source *s, void (*again)(void *arg), void *arg);
	void (*free)(struct vhost_user_source *s);
};

/*
 * Connect to a path; listen at a path for the back-end to come (vhost_mode=server). Gives *out. 0
 * or -errno with a text.
 */
int vhost_user_source_connect(const char *path, struct vhost_user_source **out, struct err *err);
int vhost_user_source_listen(
	struct loop *loop, const char *path, struct vhost_user_source **out, struct err *err);

/* How long what may take. Zero: the default. */
struct vhost_user_times {
	uint32_t request_ms;   /* one answer, asked for by a vCPU: 2000 */
	uint32_t handshake_ms; /* all of a connection's set-up: 4000 */
	uint32_t connect_ms;   /* waiting at start for a back-end that is not there yet: 10000 */
	uint32_t retry_min_ms, retry_max_ms; /* back-off after a loss: 10 to 1000 */
	uint32_t reconnect_s;		     /* give up that long after a loss: for ever */
	bool no_reconnect;
};

struct vhost_user_params {
	const char *id;	   /* borrowed */
	const char *where; /* the socket's path, for texts; borrowed */
	uint32_t type;	   /* virtio id */
	/* As the user said; nr 0: as many as the back-end has (GET_QUEUE_NUM), or the type. */
	const uint16_t *queue_sizes;
	unsigned nr_queues;
	uint16_t default_queue_size; /* for queues without a size: 0: 256 */
	bool force;		     /* queue counts that a driver may not bear */
	/* The configuration of a back-end without CONFIG; NULL: reads give all-ones. Borrowed. */
	const uint8_t *config;
	uint32_t config_size;
	bool config_is_ours;   /* use it though the back-end has one: CONFIG is not negotiated */
	uint64_t features_off; /* not offered to the driver though the back-end has them */
	/*
	 * Bits that say what our configuration holds: offered though
	 * the back-end knows nothing of it.
	 */
	uint64_t features_ours;
	struct loop *loop;
	struct memory *memory;
	/* behind an IOMMU: what the device sees of it; NULL: all. Borrowed */
	struct dma_space *dma;
	struct virtio_owner *owner;
	struct vhost_user_times times;
};

struct vhost_user;

/*
 * Takes source, also on failure. Gives *out. Topology lock held (it becomes a memory listener). 0
 * or -errno.
 */
int vhost_user_new(const struct vhost_user_params *p, struct vhost_user_source *source,
	struct vhost_user **out);
/* Begin to connect. The owner hears attached() or failed(). 0 or -errno with a text. */
int vhost_user_start(struct vhost_user *vu, struct err *err);
/* Hang up for good; whoever waits in a call comes back. Topology lock held. */
void vhost_user_stop(struct vhost_user *vu);
/* No vCPU may be inside a call. NULL is fine. */
void vhost_user_free(struct vhost_user *vu);

struct virtio_backend *vhost_user_backend(struct vhost_user *vu);
bool vhost_user_connected(const struct vhost_user *vu);

#endif
