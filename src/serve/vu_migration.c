/*
 * vu_migration.c - stop-and-copy migration of a model that can save itself
 *
 * The states form a star around STOP: every change asked for is one or two of its arcs. The
 * state of a model is small, so it is taken whole on the way into STOP_COPY, read in
 * pieces, and on the other side collected in RESUMING and loaded whole on the way out.
 *
 * Spec: vfio-user 0.9.2, "VFIO_USER_DEVICE_FEATURE", "VFIO_USER_MIG_DATA_READ" and "_WRITE".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "serve/vu_port.h"

#define FEATURE_MIGRATION	 1
#define FEATURE_MIG_DEVICE_STATE 2
#define MIGRATION_STOP_COPY	 (1u << 0)

struct device_state {
	uint32_t state;
	int32_t data_fd; /* not used in vfio-user */
};

struct mig_data {
	uint32_t argsz, size;
};

static void drop_data(struct vu_migration *m)
{
	free(m->data);
	m->data = NULL;
	m->len = m->at = 0;
}

static bool can_migrate(const struct vfio_user_port *p)
{
	return p->model->ops->save && p->model->ops->load;
}

static void stop(struct vfio_user_port *p)
{
	if (p->model->ops->stop)
		p->model->ops->stop(p->model);
}

static void start(struct vfio_user_port *p)
{
	if (p->model->ops->start)
		p->model->ops->start(p->model);
}

void vu_migration_reset(struct vfio_user_port *p)
{
	drop_data(&p->mig);
	if (p->mig.state != VU_MIG_RUNNING)
		start(p);
	p->mig.state = VU_MIG_RUNNING;
}

/* The arcs into and out of STOP */

static int to_stop(struct vfio_user_port *p, struct err *err)
{
	struct vu_migration *m = &p->mig;
	int rc = 0;

	if (m->state == VU_MIG_RUNNING)
		stop(p);
	if (m->state == VU_MIG_RESUMING)
		rc = p->model->ops->load(p->model, m->data, m->len, err);
	drop_data(m);
	/* State that was not accepted leaves the device as it was, but the client has to notice. */
	m->state = rc ? VU_MIG_ERROR : VU_MIG_STOP;
	return rc;
}

static int from_stop(struct vfio_user_port *p, uint32_t to, struct err *err)
{
	struct vu_migration *m = &p->mig;
	ssize_t n = 0;

	if (to == VU_MIG_RUNNING) {
		start(p);
		m->state = to;
		return 0;
	}
	m->data = malloc(PCI_MODEL_STATE_MAX);
	if (!m->data)
		return err_set(err, -ENOMEM, "out of memory");
	if (to == VU_MIG_STOP_COPY)
		n = p->model->ops->save(p->model, m->data, PCI_MODEL_STATE_MAX);
	if (n < 0) {
		drop_data(m);
		return err_set(err, (int)n, "saving the device's state: %s", strerror((int)-n));
	}
	m->len = (size_t)n;
	m->state = to;
	return 0;
}

static int set_state(struct vfio_user_port *p, uint32_t to, struct err *err)
{
	struct vu_migration *m = &p->mig;
	int rc = 0;

	if (to < VU_MIG_STOP || to > VU_MIG_RESUMING)
		return err_set(err, -EINVAL, "migration state %u", to);
	if (m->state == VU_MIG_ERROR)
		return err_set(err, -EIO, "the device has failed and waits for a reset");
	if (to == m->state)
		return 0;
	if (m->state != VU_MIG_STOP)
		rc = to_stop(p, err);
	if (!rc && to != VU_MIG_STOP)
		rc = from_stop(p, to, err);
	return rc;
}

/* Which of GET and SET a feature has; 0: there is no such feature here. */
static uint32_t feature_methods(const struct vfio_user_port *p, uint32_t feature)
{
	if (!can_migrate(p))
		return 0;
	return feature == FEATURE_MIGRATION	     ? VFIO_USER_FEATURE_GET
	       : feature == FEATURE_MIG_DEVICE_STATE ? VFIO_USER_FEATURE_GET | VFIO_USER_FEATURE_SET
						     : 0;
}

static ssize_t get_feature(struct vfio_user_port *p, uint32_t feature,
	struct vfio_user_device_feature f, uint8_t *out, struct err *err)
{
	uint64_t flags = MIGRATION_STOP_COPY;
	struct device_state ds = { .state = p->mig.state, .data_fd = -1 };
	uint32_t room = f.argsz;

	f.argsz = sizeof(f) + 8;
	if (room < f.argsz)
		return err_set(err, -EINVAL, "argsz %u, expected %u", room, f.argsz);
	memcpy(out, &f, sizeof(f));
	if (feature == FEATURE_MIGRATION)
		memcpy(out + sizeof(f), &flags, sizeof(flags));
	else
		memcpy(out + sizeof(f), &ds, sizeof(ds));
	return f.argsz;
}

ssize_t vu_migration_feature(
	struct vfio_user_port *p, const struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_device_feature f;
	struct device_state ds;
	uint32_t feature, wanted, methods;
	int rc;

	memcpy(&f, msg->payload, sizeof(f));
	feature = f.flags & VFIO_USER_FEATURE_MASK;
	wanted = f.flags & (VFIO_USER_FEATURE_GET | VFIO_USER_FEATURE_SET);
	methods = feature_methods(p, feature);
	if (f.argsz < sizeof(f))
		return err_set(err, -EINVAL, "argsz %u", f.argsz);
	if (!methods || wanted & ~methods)
		return err_set(
			err, -ENOTSUP, "feature %u, flags 0x%x: not offered", feature, f.flags);
	if (f.flags & VFIO_USER_FEATURE_PROBE) {
		memcpy(out, &f, sizeof(f));
		return sizeof(f);
	}
	if (wanted == VFIO_USER_FEATURE_GET)
		return get_feature(p, feature, f, out, err);
	if (wanted != VFIO_USER_FEATURE_SET || msg->len != sizeof(f) + sizeof(ds))
		return err_set(err, -EINVAL, "feature %u, flags 0x%x, %zu bytes", feature, f.flags,
			msg->len);
	memcpy(&ds, msg->payload + sizeof(f), sizeof(ds));
	rc = set_state(p, ds.state, err);
	if (rc)
		return rc;
	memcpy(out, msg->payload, msg->len);
	return (ssize_t)msg->len;
}

ssize_t vu_migration_read(
	struct vfio_user_port *p, const struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vu_migration *m = &p->mig;
	struct mig_data d;

	memcpy(&d, msg->payload, sizeof(d));
	if (m->state != VU_MIG_STOP_COPY)
		return err_set(err, -EINVAL, "the device is not in STOP_COPY");
	if (d.size > MIN(p->peer.max_data_xfer_size, (uint64_t)VFIO_USER_MAX_DATA) ||
		d.argsz < sizeof(d) || d.argsz - sizeof(d) < d.size)
		return err_set(err, -EINVAL, "size %u, argsz %u", d.size, d.argsz);
	d.size = (uint32_t)MIN((size_t)d.size, m->len - m->at);
	d.argsz = (uint32_t)sizeof(d) + d.size;
	memcpy(out, &d, sizeof(d));
	memcpy(out + sizeof(d), m->data + m->at, d.size);
	m->at += d.size;
	return d.argsz;
}

ssize_t vu_migration_write(struct vfio_user_port *p, const struct vu_msg *msg, struct err *err)
{
	struct vu_migration *m = &p->mig;
	struct mig_data d;

	memcpy(&d, msg->payload, sizeof(d));
	if (m->state != VU_MIG_RESUMING)
		return err_set(err, -EINVAL, "the device is not in RESUMING");
	if (msg->len - sizeof(d) != d.size)
		return err_set(
			err, -EINVAL, "size %u, but %zu bytes came", d.size, msg->len - sizeof(d));
	if (d.size > PCI_MODEL_STATE_MAX - m->len)
		return err_set(err, -ENOSPC, "more state than a device has");
	memcpy(m->data + m->len, msg->payload + sizeof(d), d.size);
	m->len += d.size;
	return 0;
}
