/*
 * vfio_migration.c - migration of a VFIO device: its states, and the bytes it is made of
 *
 * The way from one state to another is a table of the next state on it (next_on_way), by the rules
 * of linux/vfio.h: the shortest way, which passes through no state of saving or loading that it was
 * not asked for. Ways lead through the P2P states; a device without them skips these. We go each
 * arc by itself, though the kernel would go a whole way at once: so after a failure it is known
 * where the device stands, and a device process need not know about ways.
 *
 * A data transfer session begins with the first of the states that save (PRE_COPY, PRE_COPY_P2P,
 * STOP_COPY), or with RESUMING, and ends with the last. Its descriptor never blocks us, if it can
 * be helped: poll() waits, with a deadline that each bit of progress renews.
 *
 * A device that does not do as it says (reports another state than it was brought into, opens no
 * session, takes 0 bytes) is not used further: the call fails.
 *
 * Owns:   the session's descriptor.
 * Trusts: nothing the device says.
 * Spec:   linux/vfio.h, "enum vfio_device_mig_state" and VFIO_MIG_GET_PRECOPY_INFO.
 */
#include "attach/vfio_migration.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "attach/vfio_transport.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"

/* Since Linux 6.2 and 6.3; older headers do not know them. */
#define MIGRATION_PRE_COPY    (1u << 2)
#define FEATURE_MIG_DATA_SIZE 9

struct precopy_info {
	__u32 argsz;
	__u32 flags;
	__aligned_u64 initial_bytes;
	__aligned_u64 dirty_bytes;
};

#define MIG_GET_PRECOPY_INFO _IO(VFIO_TYPE, VFIO_BASE + 21)

/* What is read at once. */
#define CHUNK (64 * 1024u)

static_assert((int)VFIO_MIG_STOP_COPY == VFIO_DEVICE_STATE_STOP_COPY, "states are the kernel's");
static_assert(
	(int)VFIO_MIG_RUNNING_P2P == VFIO_DEVICE_STATE_RUNNING_P2P, "states are the kernel's");

/* --- states --- */

static const char *const names[VFIO_MIG_NR_STATES] = {
	"ERROR",
	"STOP",
	"RUNNING",
	"STOP_COPY",
	"RESUMING",
	"RUNNING_P2P",
	"PRE_COPY",
	"PRE_COPY_P2P",
};

const char *vfio_mig_state_name(unsigned state)
{
	return state < VFIO_MIG_NR_STATES ? names[state] : "?";
}

#define STOP	    VFIO_MIG_STOP
#define RUNNING	    VFIO_MIG_RUNNING
#define STOP_COPY   VFIO_MIG_STOP_COPY
#define RESUMING    VFIO_MIG_RESUMING
#define RUNNING_P2P VFIO_MIG_RUNNING_P2P
#define PRE_COPY    VFIO_MIG_PRE_COPY
#define PRE_P2P	    VFIO_MIG_PRE_COPY_P2P

/* [from][to]: where to go first. */
static const uint8_t next_on_way[VFIO_MIG_NR_STATES][VFIO_MIG_NR_STATES] = {
	[STOP] = { [STOP] = STOP,
		[RUNNING] = RUNNING_P2P,
		[STOP_COPY] = STOP_COPY,
		[RESUMING] = RESUMING,
		[RUNNING_P2P] = RUNNING_P2P,
		[PRE_COPY] = RUNNING_P2P,
		[PRE_P2P] = RUNNING_P2P },
	[RUNNING] = { [STOP] = RUNNING_P2P,
		[RUNNING] = RUNNING,
		[STOP_COPY] = RUNNING_P2P,
		[RESUMING] = RUNNING_P2P,
		[RUNNING_P2P] = RUNNING_P2P,
		[PRE_COPY] = PRE_COPY,
		[PRE_P2P] = RUNNING_P2P },
	[STOP_COPY] = { [STOP] = STOP,
		[RUNNING] = STOP,
		[STOP_COPY] = STOP_COPY,
		[RESUMING] = STOP,
		[RUNNING_P2P] = STOP,
		[PRE_COPY] = STOP,
		[PRE_P2P] = STOP },
	[RESUMING] = { [STOP] = STOP,
		[RUNNING] = STOP,
		[STOP_COPY] = STOP,
		[RESUMING] = RESUMING,
		[RUNNING_P2P] = STOP,
		[PRE_COPY] = STOP,
		[PRE_P2P] = STOP },
	[RUNNING_P2P] = { [STOP] = STOP,
		[RUNNING] = RUNNING,
		[STOP_COPY] = STOP,
		[RESUMING] = STOP,
		[RUNNING_P2P] = RUNNING_P2P,
		[PRE_COPY] = RUNNING,
		[PRE_P2P] = PRE_P2P },
	/* Copying ends by going back, unless it is to go on. */
	[PRE_COPY] = { [STOP] = RUNNING,
		[RUNNING] = RUNNING,
		[STOP_COPY] = PRE_P2P,
		[RESUMING] = RUNNING,
		[RUNNING_P2P] = RUNNING,
		[PRE_COPY] = PRE_COPY,
		[PRE_P2P] = PRE_P2P },
	[PRE_P2P] = { [STOP] = RUNNING_P2P,
		[RUNNING] = RUNNING_P2P,
		[STOP_COPY] = STOP_COPY,
		[RESUMING] = RUNNING_P2P,
		[RUNNING_P2P] = RUNNING_P2P,
		[PRE_COPY] = PRE_COPY,
		[PRE_P2P] = PRE_P2P },
};

static bool has_state(const struct vfio_migration *m, enum vfio_mig_state state)
{
	switch (state) {
	case RUNNING_P2P:
		return m->has_p2p;
	case PRE_COPY:
		return m->has_precopy;
	case PRE_P2P:
		return m->has_precopy && m->has_p2p;
	default:
		return true;
	}
}

/* Only states that the device does not have are skipped, and these lead on: this ends. */
static enum vfio_mig_state next_state(const struct vfio_migration *m, enum vfio_mig_state to)
{
	enum vfio_mig_state next = next_on_way[m->state][to];

	while (!has_state(m, next))
		next = next_on_way[next][to];
	return next;
}

enum session { SESSION_NONE, SESSION_SAVING, SESSION_LOADING };

static enum session session_of(enum vfio_mig_state state)
{
	if (state == STOP_COPY || state == PRE_COPY || state == PRE_P2P)
		return SESSION_SAVING;
	return state == RESUMING ? SESSION_LOADING : SESSION_NONE;
}

/* --- asking the device --- */

/* A struct vfio_device_feature with room for any data of ours, aligned for all of it. */
struct feature {
	__u32 argsz;
	__u32 flags;
	union {
		struct vfio_device_feature_migration migration;
		struct vfio_device_feature_mig_state state;
		uint64_t size;
	};
};

static_assert(offsetof(struct feature, size) == sizeof(struct vfio_device_feature),
	"data follows the head");

static int ask(struct vfio_migration *m, uint32_t flags, size_t data, struct feature *f)
{
	f->argsz = (uint32_t)(sizeof(struct vfio_device_feature) + data);
	f->flags = flags;
	return m->p.ops->feature(m->p.self, f);
}

static int get_state(struct vfio_migration *m, uint32_t *state)
{
	struct feature f = { .state.data_fd = -1 };
	int rc = ask(m, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
		sizeof(f.state), &f);

	*state = f.state.device_state;
	if (!rc && *state >= VFIO_MIG_NR_STATES)
		return -EPROTO;
	return rc;
}

static void end_session(struct vfio_migration *m)
{
	fd_close(&m->data_fd);
}

/* After a failure: where is it? */
static void look_where(struct vfio_migration *m)
{
	uint32_t state;

	if (get_state(m, &state) || !has_state(m, state))
		state = VFIO_MIG_ERROR;
	if (session_of(state) != session_of(m->state) || session_of(state) == SESSION_NONE)
		end_session(m);
	m->state = state;
}

static int begin_session(struct vfio_migration *m, int fd_in)
{
	FD_AUTO fd = m->p.ops->fd_needed ? fd_in : -1;
	int flags;

	if (fd < 0)
		return m->p.ops->fd_needed ? -EPROTO : 0;
	flags = fcntl(fd, F_GETFL);
	/* One that takes no flags blocks as it likes; data comes all the same. */
	if (flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	m->data_fd = fd_take(&fd);
	return 0;
}

static int go(struct vfio_migration *m, enum vfio_mig_state next)
{
	struct feature f = { .state = { .device_state = next, .data_fd = -1 } };
	bool fresh = session_of(next) != session_of(m->state);
	int rc = ask(m, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
		sizeof(f.state), &f);

	if (rc)
		return rc;
	if (fresh)
		end_session(m);
	m->state = next;
	if (!fresh || session_of(next) == SESSION_NONE)
		return 0;
	return begin_session(m, f.state.data_fd);
}

static int in_error(const struct vfio_migration *m, struct err *err)
{
	return err_set(err, -EIO, "device %s: its migration failed, it has to be reset", m->p.id);
}

static int arc_failed(struct vfio_migration *m, enum vfio_mig_state from, enum vfio_mig_state next,
	int rc, struct err *err)
{
	look_where(m);
	return err_set(err, rc, "device %s: its state cannot change from %s to %s: %s; it is %s%s",
		m->p.id, names[from], names[next], strerror(-rc), names[m->state],
		m->state == VFIO_MIG_ERROR ? " and has to be reset" : "");
}

int vfio_migration_enter(struct vfio_migration *m, enum vfio_mig_state state, struct err *err)
{
	uint32_t is;
	int rc;

	assert(state > VFIO_MIG_ERROR && state < VFIO_MIG_NR_STATES);
	if (m->state == VFIO_MIG_ERROR)
		return in_error(m, err);
	if (!has_state(m, state))
		return err_set(
			err, -EOPNOTSUPP, "device %s: it has no state %s", m->p.id, names[state]);
	while (m->state != state) {
		enum vfio_mig_state from = m->state, next = next_state(m, state);

		rc = go(m, next);
		if (rc)
			return arc_failed(m, from, next, rc, err);
	}
	rc = get_state(m, &is);
	if (!rc && is == state)
		return 0;
	look_where(m);
	return err_set(err, rc ? rc : -EPROTO,
		"device %s: it was brought into %s and says it is %s", m->p.id, names[state],
		rc ? "nothing" : vfio_mig_state_name(is));
}

int vfio_migration_reset(struct vfio_migration *m, struct err *err)
{
	int rc = m->p.ops->reset(m->p.self);

	if (rc)
		return err_set(err, rc, "device %s: its reset failed: %s", m->p.id, strerror(-rc));
	end_session(m);
	m->state = RUNNING;
	look_where(m);
	if (m->state == RUNNING)
		return 0;
	return err_set(err, -EIO, "device %s: it is %s after its reset, not RUNNING", m->p.id,
		names[m->state]);
}

/* --- data --- */

static int refuse_transfer(const struct vfio_migration *m, int rc, struct err *err)
{
	if (rc == -ETIMEDOUT)
		return err_set(err, rc, "device %s: no progress in %s for %u ms", m->p.id,
			names[m->state], m->p.timeout_ms);
	if (rc == -ECANCELED)
		return err_set(err, rc, "device %s: called off in %s", m->p.id, names[m->state]);
	return err_set(
		err, rc, "device %s: transfer in %s: %s", m->p.id, names[m->state], strerror(-rc));
}

/* Until the session's descriptor is ready for events, if any. 0, -ETIMEDOUT, -ECANCELED. */
static int wait_again(const struct vfio_migration *m, short events, uint64_t deadline)
{
	for (;;) {
		struct pollfd p[2] = {
			{ .fd = m->data_fd, .events = events },
			{ .fd = m->p.cancel_fd, .events = POLLIN },
		};
		int ms = clock_ms_until(deadline), n = poll(p, 2, events ? ms : 0);

		if (p[1].revents)
			return -ECANCELED;
		if (n > 0 || (!events && ms))
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (!ms)
			return -ETIMEDOUT;
	}
}

static bool called_off(const struct vfio_migration *m)
{
	struct pollfd p = { .fd = m->p.cancel_fd, .events = POLLIN };

	return p.fd >= 0 && poll(&p, 1, 0) == 1;
}

static uint64_t deadline_of(const struct vfio_migration *m)
{
	return clock_now_ns() + m->p.timeout_ms * NS_PER_MS;
}

/* One piece. Count, 0 at the end of what there is, or -errno. */
static ssize_t read_piece(struct vfio_migration *m, void *buf, size_t len)
{
	uint64_t deadline = deadline_of(m);

	for (;;) {
		ssize_t n;
		int rc;

		if (called_off(m))
			return -ECANCELED;
		n = m->p.ops->read(m->p.self, m->data_fd, buf, len);
		if (n > (ssize_t)len)
			return -EPROTO;
		/* Only PRE_COPY may have more later. */
		if (n == -ENOMSG && m->state != STOP_COPY)
			return 0;
		if (n != -EAGAIN && n != -EINTR)
			return n;
		rc = wait_again(m, n == -EINTR ? 0 : POLLIN, deadline);
		if (rc)
			return rc;
	}
}

int vfio_migration_save(struct vfio_migration *m, uint64_t max, vfio_migration_sink sink, void *arg,
	uint64_t *bytes, struct err *err)
{
	static const char *const too_much = "device %s: its state is larger than %llu bytes";
	uint8_t buf[CHUNK];

	*bytes = 0;
	if (session_of(m->state) != SESSION_SAVING)
		return err_set(err, -EINVAL, "device %s: there is nothing to save in %s", m->p.id,
			names[m->state]);
	for (;;) {
		/* One byte more than may come shows that there is one. */
		size_t room = (size_t)MIN((uint64_t)sizeof(buf) - 1, max - *bytes) + 1;
		ssize_t n = read_piece(m, buf, room);
		int rc;

		if (n < 0)
			return refuse_transfer(m, (int)n, err);
		if (!n)
			return 0;
		if ((uint64_t)n > max - *bytes)
			return err_set(err, -EFBIG, too_much, m->p.id, (unsigned long long)max);
		rc = sink(arg, buf, (size_t)n);
		if (rc)
			return err_set(err, rc, "device %s: its state cannot be kept: %s", m->p.id,
				strerror(-rc));
		*bytes += (uint64_t)n;
	}
}

/* One piece. Count above 0, or -errno. */
static ssize_t write_piece(struct vfio_migration *m, const void *buf, size_t len)
{
	uint64_t deadline = deadline_of(m);

	for (;;) {
		ssize_t n;
		int rc;

		if (called_off(m))
			return -ECANCELED;
		n = m->p.ops->write(m->p.self, m->data_fd, buf, len);
		if (!n || n > (ssize_t)len)
			return -EPROTO;
		if (n != -EAGAIN && n != -EINTR)
			return n;
		rc = wait_again(m, n == -EINTR ? 0 : POLLOUT, deadline);
		if (rc)
			return rc;
	}
}

int vfio_migration_load(struct vfio_migration *m, const void *buf, size_t len, struct err *err)
{
	const uint8_t *at = buf;

	if (session_of(m->state) != SESSION_LOADING)
		return err_set(
			err, -EINVAL, "device %s: %s takes no state", m->p.id, names[m->state]);
	while (len) {
		ssize_t n = write_piece(m, at, MIN(len, (size_t)CHUNK));

		if (n < 0)
			return refuse_transfer(m, (int)n, err);
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int vfio_migration_left(struct vfio_migration *m, uint64_t *initial, uint64_t *dirty)
{
	*initial = *dirty = 0;
	if (m->state != PRE_COPY && m->state != PRE_P2P)
		return -EINVAL;
	if (!m->p.ops->precopy_info)
		return -ENOTTY;
	return m->p.ops->precopy_info(m->p.self, m->data_fd, initial, dirty);
}

int vfio_migration_size(struct vfio_migration *m, uint64_t *bytes)
{
	struct feature f = { 0 };
	int rc = ask(m, VFIO_DEVICE_FEATURE_GET | FEATURE_MIG_DATA_SIZE, sizeof(f.size), &f);

	*bytes = f.size;
	return rc;
}

/* --- life --- */

static int get_abilities(struct vfio_migration *m, struct err *err)
{
	struct feature f = { 0 };
	int rc = ask(m, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION,
		sizeof(f.migration), &f);

	if (rc == -ENOTTY || rc == -EOPNOTSUPP || rc == -EINVAL)
		return err_set(err, -EOPNOTSUPP,
			"device %s cannot migrate: its driver does not offer it", m->p.id);
	if (rc)
		return err_set(err, rc, "device %s: can it migrate? %s", m->p.id, strerror(-rc));
	if (!(f.migration.flags & VFIO_MIGRATION_STOP_COPY))
		return err_set(err, -EOPNOTSUPP,
			"device %s cannot migrate: it offers 0x%llx, which is not even STOP_COPY",
			m->p.id, (unsigned long long)f.migration.flags);
	m->has_p2p = f.migration.flags & VFIO_MIGRATION_P2P;
	m->has_precopy = f.migration.flags & MIGRATION_PRE_COPY;
	return 0;
}

int vfio_migration_init(
	struct vfio_migration *m, const struct vfio_migration_params *p, struct err *err)
{
	uint32_t state;
	int rc;

	*m = (struct vfio_migration){ .p = *p, .data_fd = -1 };
	if (!m->p.timeout_ms)
		m->p.timeout_ms = VFIO_MIGRATION_TIMEOUT_MS;
	rc = get_abilities(m, err);
	if (rc)
		return rc;
	rc = get_state(m, &state);
	if (rc)
		return err_set(
			err, rc, "device %s: its state of migration: %s", p->id, strerror(-rc));
	/* A session that somebody else began is not ours to go on  */
	if (session_of(state) != SESSION_NONE || !has_state(m, state))
		return err_set(err, -EBUSY, "device %s: it is %s already", p->id,
			vfio_mig_state_name(state));
	m->state = state;
	return 0;
}

void vfio_migration_fini(struct vfio_migration *m)
{
	/* Of a zeroed one, 0 is no descriptor of ours. */
	if (m->p.ops)
		end_session(m);
	*m = (struct vfio_migration){ .data_fd = -1 };
}

/* --- by the kernel --- */

static int transport_feature(void *self, void *feature)
{
	struct vfio_transport *t = self;

	return t->ops->feature ? t->ops->feature(t, feature) : -ENOTTY;
}

static ssize_t fd_read(void *self, int fd, void *buf, size_t len)
{
	ssize_t n = read(fd, buf, len);

	return n < 0 ? -errno : n;
}

static ssize_t fd_write(void *self, int fd, const void *buf, size_t len)
{
	ssize_t n = write(fd, buf, len);

	return n < 0 ? -errno : n;
}

static int fd_precopy_info(void *self, int fd, uint64_t *initial, uint64_t *dirty)
{
	struct precopy_info info = { .argsz = sizeof(info) };

	if (ioctl(fd, MIG_GET_PRECOPY_INFO, &info))
		return -errno;
	*initial = info.initial_bytes;
	*dirty = info.dirty_bytes;
	return 0;
}

static int transport_reset(void *self)
{
	struct vfio_transport *t = self;

	return t->ops->reset(t);
}

const struct vfio_migration_ops vfio_migration_by_transport = {
	.feature = transport_feature,
	.read = fd_read,
	.write = fd_write,
	.precopy_info = fd_precopy_info,
	.reset = transport_reset,
	.fd_needed = true,
};
