/*
 * vhost_user_rings.c - starting and stopping the queues of a vhost-user device
 *
 * A start is two batches, because the inflight area comes from the back-end, and between them, for
 * a device behind an IOMMU, the mappings (vhost_user_iotlb.c):
 *
 *   prepare   SET_FEATURES, RAM, SET_VRING_NUM for all queues (some back-ends size the
 *             inflight area by them), GET_INFLIGHT_FD if this run of the device has none yet
 *   run       SET_INFLIGHT_FD; for each queue BASE, ADDR, CALL, ERR, KICK; SET_STATUS;
 *             SET_VRING_ENABLE for each
 *
 * and then one kick for each, since the driver may have filled a ring before; after a return of the
 * device also one call for the driver, which may have been lost with it. Only queues that the
 * driver made ready are spoken of. A stop is one batch: disable all, GET_VRING_BASE for all,
 * which drains them, RESET_DEVICE.
 *
 * Where a queue goes on. One that the driver has just turned on: at the start. One that another
 * back-end served before: a split ring at its used index, so that all it was given and has not
 * answered comes again (with the inflight area in the right order, and each once). A packed
 * ring does not tell that, without the inflight area a device with one can go on only if nothing
 * was answered yet; else the driver has to reset it.
 *
 * Everything is sent by whoever holds the socket, under want_lock, which is held for that moment.
 *
 * Spec: vhost-user, "Starting and stopping rings", "Inflight I/O tracking"; virtio 1.3, 2.7.8, 2.8.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/kick.h"
#include "base/log.h"
#include "base/util.h"

/* A packed ring at its start: both offsets 0, both wrap counters 1. */
#define PACKED_START 0x80008000u

/* The driver's status register at DRIVER_OK. */
#define DRIVER_STATUS                                                                              \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
		VIRTIO_CONFIG_S_DRIVER_OK)

static bool is_packed(uint64_t features)
{
	return features >> VIRTIO_BIT_RING_PACKED & 1;
}

static bool has_inflight(const struct vhost_user *vu)
{
	return vuf_speaks(vu, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
}

/* Is queue i among `index`, and wanted by the driver? want_lock held. */
static bool chosen(const struct vhost_user *vu, unsigned i, unsigned index)
{
	return (index == VUF_ALL_QUEUES || i == index) && vu->rings[i].on;
}

static bool nothing_to_do(const struct vhost_user *vu)
{
	return !vu->running || vu->unfit;
}

/* --- where the rings lie --- */

int vuf_ring_check(const struct vhost_user *vu, uint64_t features, unsigned index,
	const struct virtio_queue *q, struct err *err)
{
	bool packed = is_packed(features);
	const struct {
		const char *name;
		uint64_t at, len;
	} parts[] = {
		{ "descriptors", q->desc, 16ull * q->size },
		{ "driver's part", q->driver, packed ? 4 : 6 + 2ull * q->size },
		{ "device's part", q->device, packed ? 4 : 6 + 8ull * q->size },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(parts); i++)
		if (!vuf_is_ram(vu, parts[i].at, parts[i].len))
			return err_set(err, -EFAULT, "queue %u: %s at 0x%llx, which is not RAM",
				index, parts[i].name, (unsigned long long)parts[i].at);
	return 0;
}

/* --- where the rings go on --- */

/* Nothing was answered on a packed ring: its first entry is as the driver made it, or empty. */
static bool packed_untouched(const struct vhost_user *vu, const struct vuf_ring *r)
{
	struct {
		uint64_t addr;
		uint32_t len;
		uint16_t id, flags;
	} d;
	bool avail, used;

	if (vuf_ram_read(vu, r->desc, &d, sizeof(d)))
		return false;
	avail = d.flags >> 7 & 1;
	used = d.flags >> 15 & 1;
	return avail ? !used : !used && !d.addr && !d.len && !d.id;
}

/* 0; -EPROTO: nobody knows. */
static int ring_base(const struct vhost_user *vu, const struct vuf_ring *r, uint32_t *base)
{
	uint16_t used_idx;

	if (is_packed(vu->features)) {
		*base = PACKED_START;
		if (!r->ran || (has_inflight(vu) && vu->inflight_fd >= 0))
			return 0;
		return packed_untouched(vu, r) ? 0 : -EPROTO;
	}
	*base = 0;
	if (!r->ran)
		return 0;
	/* virtio 1.3, 2.7.8: used ring: flags, then idx */
	if (vuf_ram_read(vu, r->device + 2, &used_idx, sizeof(used_idx)))
		return -EPROTO;
	*base = used_idx;
	return 0;
}

/* --- the inflight area --- */

/* Ours to check: everybody who gets it maps it. */
static int check_inflight(const struct vhost_user_inflight *area, int fd, struct err *err)
{
	struct fd_memory memory;
	uint64_t size;

	if (fd_memory_identify(fd, &memory, &size, err))
		return err_prefix(err, -EPROTO, "GET_INFLIGHT_FD");
	if (!area->mmap_size || !range_ok(area->mmap_offset, area->mmap_size, size))
		return err_set(err, -EPROTO,
			"GET_INFLIGHT_FD: 0x%llx bytes at 0x%llx are not what its file has",
			(unsigned long long)area->mmap_size, (unsigned long long)area->mmap_offset);
	return 0;
}

static int inflight_reply(struct vhost_user *vu, const struct vuf_pending *p,
	const struct vuf_msg *m, struct err *err)
{
	struct vhost_user_inflight area = { 0 };
	int rc;

	memcpy(&area, m->payload, MIN(m->h.size, sizeof(area)));
	if (!m->fds || !m->fds->nr)
		return err_set(err, -EPROTO, "GET_INFLIGHT_FD: the descriptor is missing");
	/* Before it is taken: the connection can get rid of any, without being held up by it. */
	rc = check_inflight(&area, m->fds->fds[0], err);
	if (rc)
		return rc;
	pthread_mutex_lock(&vu->want_lock);
	/* The driver may have reset the device meanwhile. */
	if (p->index == vu->run && vu->running) {
		fd_close(&vu->inflight_fd);
		vu->inflight_fd = fd_list_take(m->fds);
		vu->inflight = area;
	}
	pthread_mutex_unlock(&vu->want_lock);
	return 0;
}

/* A back-end that lost its predecessor's area could not resume; asked for while nothing runs. */
static int ask_inflight(struct vhost_user *vu, struct err *err)
{
	struct vhost_user_inflight area = { .num_queues = vu->b.info.nr_queues };
	const struct vuf_request rq = {
		.request = VHOST_USER_GET_INFLIGHT_FD,
		.payload = &area,
		.len = sizeof(area),
		.reply = inflight_reply,
		.index = vu->run,
	};

	for (unsigned i = 0; i < vu->b.info.nr_queues; i++)
		if (vu->rings[i].on)
			area.queue_size = MAX(area.queue_size, vu->rings[i].size);
	return vuf_send(vu, &rq, err);
}

static int give_inflight(struct vhost_user *vu, struct err *err)
{
	const struct vuf_request rq = {
		.request = VHOST_USER_SET_INFLIGHT_FD,
		.payload = &vu->inflight,
		.len = sizeof(vu->inflight),
		.fd = vu->inflight_fd,
	};

	return vuf_send(vu, &rq, err);
}

void vuf_rings_forget(struct vhost_user *vu)
{
	fd_close(&vu->inflight_fd);
	for (unsigned i = 0; i < vu->b.info.nr_queues; i++)
		vu->rings[i].on = vu->rings[i].ran = false;
}

/* --- start --- */

static uint64_t acknowledged(const struct vhost_user *vu)
{
	uint64_t bit = 1ull << VHOST_USER_F_PROTOCOL_FEATURES;

	return (vu->features & ~(vu->features_ours & ~vu->offered)) | (vu->offered & bit);
}

static int prepare(struct vhost_user *vu, unsigned index, struct err *err)
{
	uint64_t missing = vu->features & ~(vu->offered | vu->features_ours);
	int rc = 0;

	if (missing) {
		err_set(&vu->refusal, -EINVAL,
			"the driver accepted features 0x%llx, which the back-end does not offer",
			(unsigned long long)missing);
		return 0;
	}
	if (index == VUF_ALL_QUEUES)
		rc = vuf_send_u64(vu, VHOST_USER_SET_FEATURES, acknowledged(vu), -1, err);
	if (!rc)
		rc = vuf_mem_sync(vu, err);
	if (rc == 1) {
		vu->refusal = *err;
		err->text[0] = 0;
		return 0;
	}
	for (unsigned i = 0; i < vu->b.info.nr_queues && !rc; i++)
		if (chosen(vu, i, index))
			rc = vuf_send_state(
				vu, VHOST_USER_SET_VRING_NUM, i, vu->rings[i].size, NULL, err);
	if (!rc && index == VUF_ALL_QUEUES && has_inflight(vu) && vu->inflight_fd < 0)
		rc = ask_inflight(vu, err);
	vuf_iotlb_begin(vu);
	return rc;
}

int vuf_rings_prepare(struct vhost_user *vu, unsigned index, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&vu->want_lock);
	if (!nothing_to_do(vu))
		rc = prepare(vu, index, err);
	pthread_mutex_unlock(&vu->want_lock);
	return rc;
}

static int send_addr(struct vhost_user *vu, unsigned i, struct err *err)
{
	const struct vuf_ring *r = &vu->rings[i];
	/* An IOVA is one whoever translates it. */
	uint64_t base = vuf_is_translated(vu) ? 0 : VUF_USER_BASE;
	const struct vhost_user_vring_addr addr = {
		.index = i,
		.desc = base + r->desc,
		.avail = base + r->driver,
		.used = base + r->device,
	};
	const struct vuf_request rq = {
		.request = VHOST_USER_SET_VRING_ADDR, .payload = &addr, .len = sizeof(addr)
	};

	return vuf_send(vu, &rq, err);
}

/* A queue's descriptor, or that it has none. */
static int send_fd(struct vhost_user *vu, uint32_t request, unsigned i, int fd, struct err *err)
{
	return vuf_send_u64(vu, request, i | (fd < 0 ? VHOST_USER_NOFD : 0), fd, err);
}

static int run_queue(struct vhost_user *vu, unsigned i, struct err *err)
{
	struct vuf_ring *r = &vu->rings[i];
	uint32_t base;
	int rc = ring_base(vu, r, &base);

	if (rc)
		return err_set(err, rc, "queue %u: nobody knows where it stood", i);
	rc = vuf_send_state(vu, VHOST_USER_SET_VRING_BASE, i, base, NULL, err);
	if (!rc)
		rc = send_addr(vu, i, err);
	if (!rc)
		rc = send_fd(vu, VHOST_USER_SET_VRING_CALL, i, r->call_fd, err);
	if (!rc)
		rc = send_fd(vu, VHOST_USER_SET_VRING_ERR, i, vu->err_fd, err);
	if (!rc)
		rc = send_fd(vu, VHOST_USER_SET_VRING_KICK, i, r->kick_fd, err);
	r->started = r->ran = true;
	return rc;
}

static int run(struct vhost_user *vu, unsigned index, struct err *err)
{
	int rc = 0;

	if (index == VUF_ALL_QUEUES && has_inflight(vu) && vu->inflight_fd >= 0)
		rc = give_inflight(vu, err);
	for (unsigned i = 0; i < vu->b.info.nr_queues && !rc; i++)
		if (chosen(vu, i, index))
			rc = run_queue(vu, i, err);
	if (!rc && index == VUF_ALL_QUEUES && vuf_speaks(vu, VHOST_USER_PROTOCOL_F_STATUS))
		rc = vuf_send_u64(vu, VHOST_USER_SET_STATUS, DRIVER_STATUS, -1, err);
	for (unsigned i = 0; i < vu->b.info.nr_queues && !rc && vuf_has_protocol(vu); i++)
		if (chosen(vu, i, index))
			rc = vuf_send_state(vu, VHOST_USER_SET_VRING_ENABLE, i, 1, NULL, err);
	return rc;
}

/* The driver has to start anew, because nobody can go on for it. want_lock held. */
static void run_is_lost(struct vhost_user *vu, const struct err *why)
{
	log_limited(&vu->refusal_limit, LOG_WARN, "%s: %s; the driver has to reset the device",
		vu->b.id, why->text);
	vu->unfit = true;
}

/*
 * Whether all of the run's rings can be gone on with: always, when the driver starts them.
 * want_lock held.
 */
static bool can_go_on(const struct vhost_user *vu, struct err *err)
{
	uint32_t base;

	for (unsigned i = 0; i < vu->b.info.nr_queues; i++)
		if (vu->rings[i].on && ring_base(vu, &vu->rings[i], &base)) {
			err_set(err, -EPROTO,
				"queue %u is packed and was not tracked: nobody knows where it stood",
				i);
			return false;
		}
	return true;
}

int vuf_rings_run(struct vhost_user *vu, unsigned index, struct err *err)
{
	struct err why = { 0 };
	bool lost = false;
	int rc = 0;

	pthread_mutex_lock(&vu->want_lock);
	if (!nothing_to_do(vu) && !vu->refusal.text[0]) {
		lost = index == VUF_ALL_QUEUES && !can_go_on(vu, &why);
		if (lost)
			run_is_lost(vu, &why);
		else
			rc = run(vu, index, err);
	}
	pthread_mutex_unlock(&vu->want_lock);
	if (lost)
		vu->owner->ops->needs_reset(vu->owner);
	return rc;
}

void vuf_rings_kick(struct vhost_user *vu, unsigned index)
{
	int rc = 0;

	pthread_mutex_lock(&vu->want_lock);
	for (unsigned i = 0; i < vu->b.info.nr_queues && !rc && !nothing_to_do(vu); i++)
		/* The back-end shares the eventfd and may play foul with it: see kick.h. */
		if (chosen(vu, i, index) && vu->rings[i].kick_fd >= 0)
			rc = kick(vu->rings[i].kick_fd);
	pthread_mutex_unlock(&vu->want_lock);
	if (rc)
		vuf_break(vu, "its doorbell cannot be signalled: %s", strerror(-rc));
}

/*
 * The back-end before this one may have died between an answer and the signal of it. A signal too
 * many does no harm.
 */
void vuf_rings_call(struct vhost_user *vu)
{
	pthread_mutex_lock(&vu->want_lock);
	for (unsigned i = 0; i < vu->b.info.nr_queues && !nothing_to_do(vu); i++)
		if (chosen(vu, i, VUF_ALL_QUEUES) && vu->rings[i].call_fd >= 0)
			kick(vu->rings[i].call_fd);
	pthread_mutex_unlock(&vu->want_lock);
}

/* --- stop --- */

static int base_reply(struct vhost_user *vu, const struct vuf_pending *p, const struct vuf_msg *m,
	struct err *err)
{
	struct vhost_user_vring_state state;

	memcpy(&state, m->payload, sizeof(state));
	if (state.index == p->index)
		return 0;
	return err_set(err, -EPROTO, "GET_VRING_BASE of queue %u answered for queue %u", p->index,
		state.index);
}

/* A reset that the back-end refuses is not worse than one that it does not know. */
static int ignore_reply(struct vhost_user *vu, const struct vuf_pending *p, const struct vuf_msg *m,
	struct err *err)
{
	if (vuf_u64(m))
		log_debug("%s: the back-end refused %s", vu->b.id, vhost_user_name(p->request));
	return 0;
}

static int send_reset(struct vhost_user *vu, struct err *err)
{
	const struct vuf_request rq = { .request = VHOST_USER_RESET_DEVICE, .reply = ignore_reply };
	int rc = 0;

	if (vuf_speaks(vu, VHOST_USER_PROTOCOL_F_RESET_DEVICE))
		rc = vuf_send(vu, &rq, err);
	if (!rc && vuf_speaks(vu, VHOST_USER_PROTOCOL_F_STATUS))
		rc = vuf_send_u64(vu, VHOST_USER_SET_STATUS, 0, -1, err);
	vu->reset_since_mem = true;
	return rc;
}

int vuf_rings_stop(struct vhost_user *vu, unsigned index, struct err *err)
{
	bool any = false;
	int rc = 0;

	for (unsigned i = 0; i < vu->b.info.nr_queues && !rc && vuf_has_protocol(vu); i++)
		if (vu->rings[i].started && (index == VUF_ALL_QUEUES || index == i))
			rc = vuf_send_state(vu, VHOST_USER_SET_VRING_ENABLE, i, 0, NULL, err);
	for (unsigned i = 0; i < vu->b.info.nr_queues && !rc; i++)
		if (vu->rings[i].started && (index == VUF_ALL_QUEUES || index == i)) {
			rc = vuf_send_state(vu, VHOST_USER_GET_VRING_BASE, i, 0, base_reply, err);
			vu->rings[i].started = false;
			any = true;
		}
	if (!rc && any && index == VUF_ALL_QUEUES)
		rc = send_reset(vu, err);
	return rc;
}

/* --- errors that a back-end signals --- */

/*
 * The eventfd is shared with the back-end, who can make a read of it wait. It is never read: one
 * signal, and it is replaced by another, which the next start hands over.
 */
static void on_error(struct loop_source *src, uint32_t events)
{
	struct vhost_user *vu = container_of(src, struct vhost_user, err_src);

	vuf_renew_errors(vu);
	log_limited(&vu->refusal_limit, LOG_WARN,
		"%s: the back-end cannot make sense of a queue; the driver has to reset the device",
		vu->b.id);
	vu->owner->ops->needs_reset(vu->owner);
}

int vuf_watch_errors(struct vhost_user *vu)
{
	int fd = fd_eventfd(), rc;

	if (fd < 0)
		return fd;
	rc = loop_add(vu->loop, &vu->err_src, fd, EPOLLIN, on_error);
	if (rc) {
		fd_close(&fd);
		return rc;
	}
	pthread_mutex_lock(&vu->want_lock);
	vu->err_fd = fd;
	pthread_mutex_unlock(&vu->want_lock);
	return 0;
}

void vuf_renew_errors(struct vhost_user *vu)
{
	vuf_unwatch_errors(vu);
	if (vuf_watch_errors(vu))
		log_err("%s: no descriptor for the errors of queues", vu->b.id);
}

void vuf_unwatch_errors(struct vhost_user *vu)
{
	loop_del(&vu->err_src);
	pthread_mutex_lock(&vu->want_lock);
	fd_close(&vu->err_fd);
	pthread_mutex_unlock(&vu->want_lock);
}
