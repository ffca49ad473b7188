/*
 * vhost_user_config.c - the device configuration of a vhost-user device
 *
 * A read asks for everything from 0 to the last byte that is wanted, because many back-ends do not
 * look at the offset, and for no more than that, because others refuse what is longer than they
 * have. So what has been read is always a beginning of the whole. That is kept: it is what the
 * guest sees while the device is away, and what a back-end that comes back is compared with.
 *
 * Reads beyond 256 bytes, which no message may ask for, give all-ones. A back-end without
 * CONFIG has the bytes that the user gave, or all-ones. Whatever fails, fails for that access: one
 * line is logged for a connection's first.
 *
 * Spec: vhost-user, "Virtio device config space", GET_CONFIG, SET_CONFIG.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/log.h"
#include "base/util.h"

/* --- one request --- */

/* An empty one, or one of size 0, says that it failed. */
static int config_reply(struct vhost_user *vu, const struct vuf_pending *p, const struct vuf_msg *m,
	struct err *err)
{
	struct vhost_user_config c = { 0 };
	struct vuf_config_answer *a = p->ptr;

	if (m->h.size < VHOST_USER_CONFIG_HEADER)
		return 0;
	memcpy(&c, m->payload, m->h.size);
	if (!c.size)
		return 0;
	if (c.size != a->len || m->h.size != VHOST_USER_CONFIG_HEADER + c.size)
		return err_set(err, -EPROTO, "GET_CONFIG: asked for %u bytes, answered by %u in %u",
			a->len, c.size, m->h.size);
	memcpy(a->buf, c.bytes, a->len);
	a->good = true;
	return 0;
}

static int send_get(struct vhost_user *vu, struct vuf_config_answer *a, struct err *err)
{
	const struct vhost_user_config c = { .size = a->len };
	const struct vuf_request rq = {
		.request = VHOST_USER_GET_CONFIG,
		.payload = &c,
		.len = VHOST_USER_CONFIG_HEADER + a->len,
		.reply = config_reply,
		.ptr = a,
	};

	return vuf_send(vu, &rq, err);
}

static void say_once(struct vhost_user *vu, const char *what)
{
	if (!atomic_flag_test_and_set(&vu->config_said))
		log_warn("%s: %s", vu->b.id, what);
}

/* --- what is kept --- */

static void keep(struct vhost_user *vu, const uint8_t *bytes, uint32_t len)
{
	pthread_mutex_lock(&vu->want_lock);
	memcpy(vu->config, bytes, len);
	vu->config_known = MAX(vu->config_known, len);
	pthread_mutex_unlock(&vu->want_lock);
}

/* What there is of [off, off + len) into buf. */
static void read_from(const uint8_t *bytes, uint32_t known, uint32_t off, void *buf, uint32_t len)
{
	if (off < known)
		memcpy(buf, bytes + off, MIN(len, known - off));
}

static void read_kept(struct vhost_user *vu, uint32_t off, void *buf, uint32_t len)
{
	pthread_mutex_lock(&vu->want_lock);
	read_from(vu->config, vu->config_known, off, buf, len);
	pthread_mutex_unlock(&vu->want_lock);
}

/* --- the guest's accesses --- */

static struct vhost_user *of(struct virtio_backend *b)
{
	return container_of(b, struct vhost_user, b);
}

/* Bytes 0 to len of the device's. False: the device is away. */
static bool fetch(struct vhost_user *vu, struct vuf_config_answer *a)
{
	struct err err = { 0 };
	int rc;

	if (!vuf_call_begin(vu))
		return false;
	if (!vuf_speaks(vu, VHOST_USER_PROTOCOL_F_CONFIG)) {
		/* It came back without. */
		vuf_unlock(vu);
		return false;
	}
	rc = send_get(vu, a, &err);
	if (!rc)
		rc = vuf_await(vu, vuf_deadline(vu->times.request_ms), &err);
	return !vuf_call_end(vu, rc, &err);
}

void vuf_config_read(struct virtio_backend *b, uint32_t off, void *buf, uint32_t len)
{
	struct vhost_user *vu = of(b);
	uint8_t bytes[VHOST_USER_MAX_CONFIG];
	struct vuf_config_answer a = { .buf = bytes };

	memset(buf, 0xff, len);
	if (!atomic_load(&vu->has_config)) {
		if (!vu->given_config)
			say_once(vu, "the back-end has no device configuration to read; "
				     "it reads as all-ones");
		read_from(vu->given_config, vu->given_config_size, off, buf, len);
		return;
	}
	if (off >= VHOST_USER_MAX_CONFIG)
		return;
	a.len = off + MIN(len, VHOST_USER_MAX_CONFIG - off);
	if (!fetch(vu, &a)) {
		read_kept(vu, off, buf, len);
	} else if (a.good) {
		keep(vu, bytes, a.len);
		read_from(bytes, a.len, off, buf, len);
	} else {
		say_once(vu, "the back-end refused to read its device configuration; "
			     "it reads as all-ones");
	}
}

void vuf_config_write(struct virtio_backend *b, uint32_t off, const void *buf, uint32_t len)
{
	struct vhost_user *vu = of(b);
	struct vhost_user_config c = { .offset = off, .flags = VHOST_USER_CONFIG_WRITABLE };
	struct vuf_request rq = { .request = VHOST_USER_SET_CONFIG, .payload = &c };
	bool refused;
	struct err err = { 0 };
	int rc;

	if (!range_ok(off, len, VHOST_USER_MAX_CONFIG) || !vuf_call_begin(vu))
		return;
	if (!vuf_speaks(vu, VHOST_USER_PROTOCOL_F_CONFIG)) {
		vuf_unlock(vu);
		say_once(vu, "the back-end has no device configuration to write");
		return;
	}
	c.size = len;
	memcpy(c.bytes, buf, len);
	rq.len = VHOST_USER_CONFIG_HEADER + len;
	rc = vuf_send(vu, &rq, &err);
	if (!rc)
		rc = vuf_await(vu, vuf_deadline(vu->times.request_ms), &err);
	refused = vu->refusal.text[0];
	if (!vuf_call_end(vu, rc, &err) && refused)
		say_once(vu, "the back-end refused to write its device configuration");
}

/* --- after a loss --- */

/*
 * What a driver cannot bear to see changed while it runs, by type; the rest it hears of by a
 * configuration interrupt. Offsets: virtio 1.3, chapter 5, "Device configuration layout".
 */
static const struct {
	uint16_t type, off, len;
	bool may_grow; /* a number that may become larger */
	const char *name;
} fixed[] = {
	{ VIRTIO_ID_NET, 8, 2, true, "max_virtqueue_pairs" },
	{ VIRTIO_ID_BLOCK, 8, 4, true, "size_max" },
	{ VIRTIO_ID_BLOCK, 12, 4, true, "seg_max" },
	{ VIRTIO_ID_BLOCK, 20, 4, false, "blk_size" },
	{ VIRTIO_ID_BLOCK, 34, 2, true, "num_queues" },
	{ VIRTIO_ID_CONSOLE, 4, 4, true, "max_nr_ports" },
	{ VIRTIO_ID_SCSI, 0, 4, true, "num_queues" },
	{ VIRTIO_ID_SCSI, 4, 4, true, "seg_max" },
	{ VIRTIO_ID_SCSI, 20, 4, false, "sense_size" },
	{ VIRTIO_ID_SCSI, 24, 4, false, "cdb_size" },
	{ VIRTIO_ID_FS, 0, 36, false, "tag" },
	{ VIRTIO_ID_FS, 36, 4, true, "num_request_queues" },
	{ VIRTIO_ID_GPIO, 0, 2, false, "ngpio" },
};

static uint64_t number(const uint8_t *p, uint16_t len)
{
	uint64_t v = 0;

	for (uint16_t i = 0; i < len; i++)
		v |= (uint64_t)p[i] << 8 * i;
	return v;
}

int vuf_config_ask_again(struct vhost_user *vu, struct err *err)
{
	struct vuf_attach *a = &vu->attach;

	atomic_flag_clear(&vu->config_said);
	a->config_size = 0;
	if (!vuf_speaks(vu, VHOST_USER_PROTOCOL_F_CONFIG))
		return 0;
	pthread_mutex_lock(&vu->want_lock);
	a->config_size = vu->config_known;
	pthread_mutex_unlock(&vu->want_lock);
	if (!a->config_size)
		return 0;
	a->again = (struct vuf_config_answer){ .buf = a->config, .len = a->config_size };
	return send_get(vu, &a->again, err);
}

/* The first thing that must not change and did. */
static int compare(
	const uint8_t *was, const uint8_t *is, uint32_t len, uint32_t type, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++) {
		uint32_t off = fixed[i].off, n = fixed[i].len;

		if (fixed[i].type != type || !range_ok(off, n, len) ||
			!memcmp(was + off, is + off, n))
			continue;
		if (fixed[i].may_grow &&
			number(was + off, fixed[i].len) < number(is + off, fixed[i].len))
			continue;
		return err_set(
			err, -EPROTO, "the back-end came back with another %s", fixed[i].name);
	}
	return memcmp(was, is, len) ? 1 : 0;
}

int vuf_config_compare(struct vhost_user *vu, struct err *err)
{
	struct vuf_attach *a = &vu->attach;
	int rc = 0;

	if (!a->config_size || !a->again.good)
		return 0;
	pthread_mutex_lock(&vu->want_lock);
	rc = compare(vu->config, a->config, a->config_size, vu->b.info.type, err);
	memcpy(vu->config, a->config, a->config_size);
	pthread_mutex_unlock(&vu->want_lock);
	return rc;
}
