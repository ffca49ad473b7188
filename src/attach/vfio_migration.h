/*
 * vfio_migration.h - save and load the state of a device behind VFIO (migration, version 2)
 *
 * A device that offers it moves between eight states, one arc at a time. On the way out:
 *
 *   RUNNING [-> PRE_COPY, vfio_migration_save() again and again] [-> RUNNING_P2P] -> STOP_COPY,
 *   vfio_migration_save() to the end -> STOP
 *
 * and in: STOP -> RESUMING, vfio_migration_load() -> STOP [-> RUNNING_P2P] -> RUNNING. With several
 * devices all enter RUNNING_P2P (where they have it) before one of them stops, so that none sends
 * to one that sleeps. What is saved is opaque: bytes whose order counts and whose pieces do not.
 *
 * How the device is asked is a table of operations: vfio_migration_by_transport for the kernel's,
 * messages for a device process.
 *
 * Threads: one at a time. NOT the loop thread: a change of state may take seconds in the device,
 * and the kernel gives no deadline for it. The transfer of data has one, and can be called off.
 */
#ifndef ATTACH_VFIO_MIGRATION_H
#define ATTACH_VFIO_MIGRATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* enum vfio_device_mig_state of linux/vfio.h, whose older editions end before PRE_COPY. */
enum vfio_mig_state {
	VFIO_MIG_ERROR, /* only a reset helps */
	VFIO_MIG_STOP,
	VFIO_MIG_RUNNING,
	VFIO_MIG_STOP_COPY,
	VFIO_MIG_RESUMING,
	VFIO_MIG_RUNNING_P2P,
	VFIO_MIG_PRE_COPY,
	VFIO_MIG_PRE_COPY_P2P,
	VFIO_MIG_NR_STATES
};

/* "STOP_COPY", or "?". */
const char *vfio_mig_state_name(unsigned state);

/*
 * How a device is asked. All return 0 (or a count), or -errno. fd is that of the data transfer
 * session, or -1 where there is none because messages carry the data.
 */
struct vfio_migration_ops {
	/* DEVICE_FEATURE: *feature is a struct vfio_device_feature and its data. -ENOTTY: it has it
	 * not. */
	int (*feature)(void *self, void *feature);
	/*
	 * Without blocking: -EAGAIN, where poll() of fd says when to go on. A read gives 0 at the
	 * end of a state that was saved, and -ENOMSG when there is no more for now.
	 */
	ssize_t (*read)(void *self, int fd, void *buf, size_t len);
	ssize_t (*write)(void *self, int fd, const void *buf, size_t len);
	/* Of PRE_COPY: bytes that are worth waiting for, and those that changed since. */
	int (*precopy_info)(void *self, int fd, uint64_t *initial, uint64_t *dirty);
	int (*reset)(void *self);
	/* A session has a descriptor, and one without is a mistake of the device's; else data goes
	 * by messages. */
	bool fd_needed;
};

/* For struct vfio_transport as self, the kernel's. */
extern const struct vfio_migration_ops vfio_migration_by_transport;

struct vfio_migration_params {
	const char *id; /* borrowed, as all of it */
	const struct vfio_migration_ops *ops;
	void *self;
	unsigned timeout_ms; /* for the transfer to make progress; 0: VFIO_MIGRATION_TIMEOUT_MS */
	int cancel_fd;	     /* readable: call the transfer off; -1: it can not be */
};

#define VFIO_MIGRATION_TIMEOUT_MS 10000

struct vfio_migration {
	struct vfio_migration_params p;
	bool has_precopy, has_p2p;
	enum vfio_mig_state state;
	int data_fd; /* of the session, -1: none */
};

/*
 * Ask the device whether it can be migrated, and for its state. 0; -EOPNOTSUPP it cannot; -errno;
 * with a text. After a failure nothing needs to be undone.
 */
int vfio_migration_init(
	struct vfio_migration *m, const struct vfio_migration_params *p, struct err *err);
/* End the session. The device stays in its state. A zeroed one is fine. */
void vfio_migration_fini(struct vfio_migration *m);

/*
 * Bring the device into a state, by as many arcs as it takes. Optional states are only entered
 * where the device has them: -EOPNOTSUPP else. After a failure it is in the state that m->state
 * says; VFIO_MIG_ERROR: it must be reset, and all but that fails with -EIO. With a text.
 */
int vfio_migration_enter(struct vfio_migration *m, enum vfio_mig_state state, struct err *err);

/* Reset the device, which also ends ERROR and an unfinished RESUMING: it is RUNNING then, with
 * nothing in it. */
int vfio_migration_reset(struct vfio_migration *m, struct err *err);

/* Takes len bytes. 0 or -errno, which ends the transfer. */
typedef int (*vfio_migration_sink)(void *arg, const void *buf, size_t len);

/*
 * Read the device's state in pieces, at most max bytes in all. In STOP_COPY to its end; in the
 * states of PRE_COPY as much as there is for now. *bytes: how many there were, also after a
 * failure. 0; -EFBIG more than max; -ETIMEDOUT no progress; -ECANCELED; -errno of the device or of
 * the sink; with a text. The session goes on after a failure, but its data is worth nothing then.
 */
int vfio_migration_save(struct vfio_migration *m, uint64_t max, vfio_migration_sink sink, void *arg,
	uint64_t *bytes, struct err *err);

/* In RESUMING: give the device len bytes, all of them. Errors as above. */
int vfio_migration_load(struct vfio_migration *m, const void *buf, size_t len, struct err *err);

/* How much PRE_COPY would still give. -EINVAL in other states; -ENOTTY the device does not say. */
int vfio_migration_left(struct vfio_migration *m, uint64_t *initial, uint64_t *dirty);
/* About how large its whole state is. -ENOTTY: it does not say. */
int vfio_migration_size(struct vfio_migration *m, uint64_t *bytes);

#endif
