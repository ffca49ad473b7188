/*
 * vfio_user_attach.c - from a connected socket to a working device, step by step
 *
 * Each step sends its requests at once, without waiting in between, and is over when all of them
 * are answered; then its `done` looks at what came and the next one begins:
 *
 *   version    VERSION: limits, twin socket
 *   device     GET_INFO: how many regions and interrupts
 *   shape      GET_REGION_INFO and GET_IRQ_INFO for all of them
 *   doorbells  GET_REGION_IO_FDS for the BARs
 *   setup      the first time RESET; the configuration space, DMA_MAP for all RAM; then the
 *              owner's prepare()
 *   restore    a RESET that the device missed; what the owner queues in restore():
 *              configuration, interrupts; then ready()
 *
 * The first attach and each reconnect run the same steps. A reconnect leaves RESET out: the
 * server kept the device's state, or has loaded it, and the guest is to see nothing but a pause.
 * Only after a reset of the machine that the device missed is it made up for.
 *
 * One deadline holds for the whole attempt, so a server that never answers, or one byte a
 * second, ends it. Every failure has one line of text: of the first attach it is the
 * user's answer, of a reconnect it is logged when it differs from the one before.
 *
 * Threads: loop thread.
 * Trusts:  nothing that arrives; replies are checked where they are taken apart.
 * Spec:    vfio-user 0.9.2, "VFIO_USER_VERSION", "VFIO_USER_DEVICE_GET_INFO" and following.
 */
#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vfio_user_priv.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/log.h"

/* Room for a proposal; the servers' own are a third of it. */
#define MAX_PROPOSAL 512

/* Regions that a PCI device has at least: up to its configuration space. */
#define MIN_REGIONS (VFIO_USER_REGION_CONFIG + 1)
/* The standard header, without which nothing can be built. */
#define MIN_CONFIG 64u

struct step {
	const char *name;
	/* Queue this step's requests. 0 or -errno with a text. */
	int (*send)(struct vfio_user *vu, struct err *err);
	/* All are answered. 0: on to the next step; 1: more was sent; -errno with a text. May be
	 * NULL. */
	int (*done)(struct vfio_user *vu, struct err *err);
};

/* Queue one request of this step. */
static int ask(struct vfio_user *vu, uint16_t command, const void *head, uint32_t len,
	vu_reply_fn reply, uint32_t arg, struct err *err)
{
	struct vu_request rq = {
		.command = command,
		.head = head,
		.head_len = len,
		.p = { .step = true, .reply = reply, .arg = arg },
	};
	int rc = vu_async(vu, &rq);

	return rc ? err_set(err, rc, "%s: %s", vfio_user_command_name(command), strerror(-rc)) : 0;
}

static bool is_error(const struct vu_msg *m)
{
	return m->h.flags & VFIO_USER_FLAG_ERROR;
}

static int refused(const struct vu_msg *m, struct err *err)
{
	int rc = vu_reply_error(m);

	return err_set(err, rc, "the device process refused %s: %s",
		vfio_user_command_name(m->h.command), strerror(-rc));
}

/* --- version --- */

static int take_twin(struct vfio_user *vu, const struct vu_msg *m, struct err *err)
{
	uint32_t index = vu->caps.twin_fd_index;

	if (!m->fds || index >= (uint32_t)m->fds->nr)
		return err_set(
			err, -EPROTO, "VERSION: descriptor %u of a twin socket is missing", index);
	/* Before it is taken: the connection can get rid of any, without being held up by it. */
	if (!fd_is_stream(m->fds->fds[index]))
		return err_set(err, -EPROTO, "VERSION: the twin socket is not a socket");
	vu_chan_init(&vu->twin, fd_take(&m->fds->fds[index]), &vfio_user_framing);
	atomic_store(&vu->has_twin, true);
	return 0;
}

static void apply_caps(struct vfio_user *vu)
{
	const struct vfio_user_caps *c = &vu->caps;
	uint64_t multi = (c->max_data_xfer_size - sizeof(struct vfio_user_write_multi)) /
			 sizeof(struct vfio_user_multi_write);

	atomic_store(&vu->max_fds, MAX(1u, MIN(c->max_msg_fds, (uint32_t)SOCK_MAX_FDS)));
	vu->max_multi = c->write_multiple ? (unsigned)MIN(multi, (uint64_t)VU_MAX_MULTI) : 0;
}

static int version_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	struct vfio_user_version v;
	int rc;

	if (is_error(m))
		return refused(m, err);
	memcpy(&v, m->payload, sizeof(v));
	if (v.major != VFIO_USER_VERSION_MAJOR || v.minor > VFIO_USER_VERSION_MINOR)
		return err_set(err, -EPROTO,
			"the device process speaks vfio-user version %u.%u, expected %u.%u or lower",
			v.major, v.minor, VFIO_USER_VERSION_MAJOR, VFIO_USER_VERSION_MINOR);
	rc = vfio_user_parse_caps(
		(const char *)m->payload + sizeof(v), m->len - sizeof(v), &vu->caps, err);
	if (rc)
		return rc;
	apply_caps(vu);
	if (vu->caps.twin_socket)
		return take_twin(vu, m, err);
	if (m->fds)
		return err_set(
			err, -EPROTO, "VERSION: %d descriptors without a twin socket", m->fds->nr);
	return 0;
}

static int version_send(struct vfio_user *vu, struct err *err)
{
	static const struct vfio_user_caps ours = {
		.max_msg_fds = SOCK_MAX_FDS,
		.max_data_xfer_size = VFIO_USER_MAX_DATA,
		.max_dma_maps = VFIO_USER_DEFAULT_DMA_MAPS,
		.pgsizes = VFIO_USER_DEFAULT_PGSIZES,
		.twin_socket = true,
		.write_multiple = true,
	};
	struct {
		struct vfio_user_version v;
		char json[MAX_PROPOSAL];
	} head = { .v = { VFIO_USER_VERSION_MAJOR, VFIO_USER_VERSION_MINOR } };
	int len = vfio_user_format_proposal(&ours, head.json, sizeof(head.json));

	if (len < 0)
		return err_set(err, len, "VERSION: no room for the capabilities");
	return ask(vu, VFIO_USER_VERSION, &head, (uint32_t)sizeof(head.v) + (uint32_t)len,
		version_reply, 0, err);
}

static int version_done(struct vfio_user *vu, struct err *err)
{
	int rc = atomic_load(&vu->has_twin) ? vu_watch_twin(vu) : 0;

	return rc ? err_set(err, rc, "twin socket: %s", strerror(-rc)) : 0;
}

/* --- device --- */

static int device_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	struct vu_attach *a = &vu->attach;
	struct vfio_user_device_info info;

	if (is_error(m))
		return refused(m, err);
	memcpy(&info, m->payload, sizeof(info));
	if (!(info.flags & VFIO_USER_DEVICE_FLAG_PCI))
		return err_set(err, -EPROTO, "it is not a PCI device (flags 0x%x)", info.flags);
	if (info.num_regions < MIN_REGIONS)
		return err_set(err, -EPROTO, "%u regions, a PCI device has %d or more",
			info.num_regions, MIN_REGIONS);
	a->info.can_reset = info.flags & VFIO_USER_DEVICE_FLAG_RESET;
	a->nr_regions = MIN(info.num_regions, (uint32_t)VFIO_NR_REGIONS);
	a->nr_irqs = MIN(info.num_irqs, (uint32_t)VFIO_NR_IRQS);
	return 0;
}

static int device_send(struct vfio_user *vu, struct err *err)
{
	struct vfio_user_device_info head = { .argsz = sizeof(head) };

	return ask(vu, VFIO_USER_DEVICE_GET_INFO, &head, sizeof(head), device_reply, 0, err);
}

/* --- questions about a region --- */

/*
 * The answer may be longer than the fixed part, with which it is asked for at first. Then it names
 * its size, and the question is put again with room for that. Once.
 */
struct question {
	uint16_t command;
	uint32_t fixed; /* bytes of the question, and of the answer's fixed part */
	const char *about;
	int (*take)(struct vfio_user *vu, unsigned index, const struct vu_msg *m, uint32_t *argsz,
		struct err *err);
};

static const struct question region_info = { VFIO_USER_DEVICE_GET_REGION_INFO,
	sizeof(struct vfio_user_region_info), "information", vu_take_region };
static const struct question region_doorbells = { VFIO_USER_DEVICE_GET_REGION_IO_FDS,
	sizeof(struct vfio_user_region_io_fds), "doorbells", vu_take_doorbells };

/* Beside the index in vu_pending.arg. */
#define ASKED_AGAIN (1u << 31)

static int question_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err);

/* argsz: how long the answer may be. flag: 0 or ASKED_AGAIN. */
static int put_question(struct vfio_user *vu, const struct question *q, unsigned index,
	uint32_t argsz, uint32_t flag, struct err *err)
{
	/* Both begin with the same members. */
	union {
		struct vfio_user_region_info info;
		struct vfio_user_region_io_fds io_fds;
	} head = { .info = { .argsz = argsz, .index = index } };

	static_assert(offsetof(struct vfio_user_region_info, index) ==
			      offsetof(struct vfio_user_region_io_fds, index),
		"the members of a question");
	return ask(vu, q->command, &head, q->fixed, question_reply, index | flag, err);
}

static int ask_about_region(
	struct vfio_user *vu, const struct question *q, unsigned index, struct err *err)
{
	return put_question(vu, q, index, q->fixed, 0, err);
}

static int question_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	const struct question *q =
		p->command == region_info.command ? &region_info : &region_doorbells;
	unsigned index = p->arg & ~ASKED_AGAIN;
	uint32_t argsz = 0;
	int rc;

	/* Not every server knows every region, or the question: what it does not tell of is not
	 * there. */
	if (is_error(m))
		return 0;
	rc = q->take(vu, index, m, &argsz, err);
	if (rc != -ENOSPC)
		return rc;
	if (p->arg & ASKED_AGAIN)
		return err_set(err, -EPROTO, "region %u: %u bytes of %s asked for, %u sent", index,
			argsz, q->about, m->len);
	return put_question(vu, q, index, argsz, ASKED_AGAIN, err);
}

/* --- shape --- */

static int irq_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	return is_error(m) ? 0 : vu_take_irq(vu, p->arg, m, err);
}

static int shape_send(struct vfio_user *vu, struct err *err)
{
	int rc = 0;

	for (unsigned i = 0; i < vu->attach.nr_regions && !rc; i++)
		rc = ask_about_region(vu, &region_info, i, err);
	for (unsigned i = 0; i < vu->attach.nr_irqs && !rc; i++) {
		struct vfio_user_irq_info head = { .argsz = sizeof(head), .index = i };

		rc = ask(vu, VFIO_USER_DEVICE_GET_IRQ_INFO, &head, sizeof(head), irq_reply, i, err);
	}
	return rc;
}

static int shape_done(struct vfio_user *vu, struct err *err)
{
	const struct vfio_region *config = &vu->attach.info.regions[VFIO_USER_REGION_CONFIG];

	if (config->size < MIN_CONFIG || !config->readable)
		return err_set(err, -EPROTO,
			"configuration space of %llu bytes%s, expected 256 or 4096",
			(unsigned long long)config->size,
			config->size && !config->readable ? " that cannot be read" : "");
	return 0;
}

/* --- doorbells --- */

static int doorbells_send(struct vfio_user *vu, struct err *err)
{
	int rc = 0;

	if (vu->skip_io_fds)
		return 0;
	for (unsigned i = 0; i <= 5 && !rc; i++) {
		const struct vfio_region *r = &vu->attach.info.regions[i];

		if (r->size && r->writable)
			rc = ask_about_region(vu, &region_doorbells, i, err);
	}
	return rc;
}

/* --- setup --- */

static int reset_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	return is_error(m) ? refused(m, err) : 0;
}

/* A server may take only the accesses that a guest can make; then it is asked again, in small
 * pieces. */
static int config_reply(
	struct vfio_user *vu, const struct vu_pending *p, const struct vu_msg *m, struct err *err)
{
	struct vu_attach *a = &vu->attach;
	uint32_t off = p->arg, len = MIN(a->config_chunk, a->config_size - off);
	struct vfio_user_region_access got;

	if (is_error(m)) {
		if (a->config_chunk > 4)
			a->config_retry = true;
		else if (off < MIN_CONFIG)
			return refused(m, err);
		return 0;
	}
	memcpy(&got, m->payload, sizeof(got));
	if (got.count != len || m->len != sizeof(got) + len)
		return err_set(err, -EPROTO, "configuration space: asked for %u bytes, got %u", len,
			m->len - (uint32_t)sizeof(got));
	memcpy(a->config + off, m->payload + sizeof(got), len);
	return 0;
}

static int ask_config(struct vfio_user *vu, struct err *err)
{
	struct vu_attach *a = &vu->attach;
	int rc = 0;

	for (uint32_t off = 0; off < a->config_size && !rc; off += a->config_chunk) {
		struct vfio_user_region_access head = {
			.offset = off,
			.region = VFIO_USER_REGION_CONFIG,
			.count = MIN(a->config_chunk, a->config_size - off),
		};

		rc = ask(vu, VFIO_USER_REGION_READ, &head, sizeof(head), config_reply, off, err);
	}
	return rc;
}

static int setup_send(struct vfio_user *vu, struct err *err)
{
	struct vu_attach *a = &vu->attach;
	uint64_t size = a->info.regions[VFIO_USER_REGION_CONFIG].size;
	int rc = 0;

	a->config_size = (unsigned)MIN(align_down(size, 4), PAGE_SIZE_4K);
	a->config_chunk = (unsigned)MIN(align_down(vu->caps.max_data_xfer_size, 4), PAGE_SIZE_4K);
	if (a->info.can_reset && !vu->was_ready)
		rc = ask(vu, VFIO_USER_DEVICE_RESET, NULL, 0, reset_reply, 0, err);
	if (!rc)
		rc = ask_config(vu, err);
	if (!rc)
		rc = vu_dma_map_first(vu, err);
	return rc;
}

/* The parts of what we learned that only live as long as this connection. */
static void adopt_info(struct vfio_user *vu)
{
	struct vfio_info *from = &vu->attach.info, *to = &vu->t.info;

	if (!vu->was_ready)
		*to = *from;
	for (unsigned i = 0; i < VFIO_NR_REGIONS; i++) {
		to->regions[i].nr_areas = from->regions[i].nr_areas;
		to->regions[i].areas = from->regions[i].areas;
		to->regions[i].nr_doorbells = from->regions[i].nr_doorbells;
		to->regions[i].doorbells = from->regions[i].doorbells;
	}
	*from = (struct vfio_info){ 0 };
}

static int setup_done(struct vfio_user *vu, struct err *err)
{
	struct vu_attach *a = &vu->attach;
	int rc;

	if (a->config_retry) {
		a->config_retry = false;
		a->config_chunk = 4;
		rc = ask_config(vu, err);
		return rc ? rc : 1;
	}
	if (a->maps_left) {
		rc = vu_dma_map_more(vu, err);
		return rc ? rc : 1;
	}
	rc = vu->was_ready ? vu_same_shape(&vu->t.info, &a->info, err) : 0;
	if (rc)
		return rc;
	adopt_info(vu);
	return vu->owner->ops->prepare(vu->owner, a->config, a->config_size, vu->was_ready, err);
}

/* --- restore --- */

static int restore_send(struct vfio_user *vu, struct err *err)
{
	int rc = 0;

	vu->attach.nr_refused = 0;
	/* The machine may be reset at any moment, also in this step; then the step is done once
	 * more. */
	if (atomic_exchange(&vu->reset_wanted, false)) {
		vu->attach.reset_sent = true;
		rc = ask(vu, VFIO_USER_DEVICE_RESET, NULL, 0, reset_reply, 0, err);
	}
	if (!rc)
		vu->owner->ops->restore(vu->owner);
	return rc;
}

static int restore_done(struct vfio_user *vu, struct err *err)
{
	struct vu_attach *a = &vu->attach;
	int rc;

	for (unsigned i = 0; i < a->nr_refused; i++) {
		const struct vu_refused *r = &a->refused[i];

		if (!vu->owner->ops->irqs_refused(vu->owner, r->index, r->flags))
			return err_set(err, r->error,
				"the device process refused DEVICE_SET_IRQS for interrupt type %u: %s",
				r->index, strerror(-r->error));
	}
	if (vu->owner->ops->ready(vu->owner, vu->was_ready))
		return 0;
	rc = restore_send(vu, err);
	return rc ? rc : 1;
}

/* --- the engine --- */

static const struct step steps[] = {
	{ "VERSION", version_send, version_done },
	{ "DEVICE_GET_INFO", device_send, NULL },
	{ "DEVICE_GET_REGION_INFO", shape_send, shape_done },
	{ "DEVICE_GET_REGION_IO_FDS", doorbells_send, NULL },
	{ "reading its configuration", setup_send, setup_done },
	{ "setting it up", restore_send, restore_done },
};
#define STEP_VERSION   0
#define STEP_DOORBELLS 3

static void attach_over(struct vfio_user *vu)
{
	loop_timer_del(&vu->timer);
	free(vu->attach.config);
	vu->attach.config = NULL;
}

static void attached(struct vfio_user *vu)
{
	attach_over(vu);
	if (vu->was_ready)
		log_warn("%s: the device is back after %.1f s", vu->id,
			(double)(clock_now_ns() - vu->lost_ns) / NS_PER_S);
	vu->was_ready = true;
	/* From "the loop reads all" to "it watches for a hang-up". A vCPU may have the lock
	 * already. */
	vu_rewatch(vu);
}

void vu_attach_failed(struct vfio_user *vu, int rc, struct err *err)
{
	attach_over(vu);
	vu_hangup(vu);
	vu_forget_info(vu);
	if (vu->attach.reset_sent)
		atomic_store(&vu->reset_wanted, true);
	if (!vu->was_ready) {
		vu->owner->ops->failed(vu->owner, rc, err);
		return;
	}
	if (strcmp(vu->last_reason.text, err->text)) {
		vu->last_reason = *err;
		/* One that hangs up is not there yet, like one that cannot be connected to. */
		log_line(rc == -ECONNRESET ? LOG_INFO : LOG_WARN,
			"%s: %s answers, but the device stays away: %s", vu->id, vu->path,
			err->text);
	}
	vu_connect_later(vu);
}

/* Go on for as long as nothing has to be waited for. */
static void advance(struct vfio_user *vu)
{
	struct vu_attach *a = &vu->attach;
	struct err err = { 0 };

	while (!a->outstanding) {
		int rc = steps[a->step].done ? steps[a->step].done(vu, &err) : 0;

		if (!rc && ++a->step == ARRAY_SIZE(steps)) {
			attached(vu);
			return;
		}
		if (!rc)
			rc = steps[a->step].send(vu, &err);
		if (rc < 0) {
			vu_attach_failed(vu, rc, &err);
			return;
		}
	}
}

static void too_late(struct loop_timer *timer)
{
	struct vfio_user *vu = container_of(timer, struct vfio_user, timer);
	const struct step *s = &steps[vu->attach.step];
	struct err err = { 0 };

	err_set(&err, -ETIMEDOUT, "%s: no answer within %u ms (%s)%s", vu->path,
		vu->times.attach_ms, s->name,
		s == &steps[STEP_VERSION] ? "; does it serve another client?" : "");
	vu_attach_failed(vu, -ETIMEDOUT, &err);
}

/*
 * There is no capability by which a server says that it knows GET_REGION_IO_FDS, and some hang up
 * on what they do not know. Those get a second connection without the question.
 */
static bool hung_up_on_io_fds(struct vfio_user *vu, int rc)
{
	return rc == -ECONNRESET && vu->attach.step == STEP_DOORBELLS && !vu->skip_io_fds;
}

void vu_attach_event(struct vfio_user *vu)
{
	struct err err = { 0 };
	int rc;

	vu_lock(vu);
	rc = vu_pump(vu, &vu->chan, NULL, &err);
	vu_unlock(vu);
	if (!rc) {
		advance(vu);
		return;
	}
	if (hung_up_on_io_fds(vu, rc)) {
		vu->skip_io_fds = true;
		attach_over(vu);
		vu_hangup(vu);
		vu_forget_info(vu);
		vu_connect_later(vu);
		return;
	}
	vu_attach_failed(vu, rc, &err);
}

void vu_attach_begin(struct vfio_user *vu, int fd, uint64_t deadline_ns)
{
	struct vu_attach *a = &vu->attach;
	struct err err = { 0 };
	int rc;

	*a = (struct vu_attach){ .deadline_ns = deadline_ns };
	vu_lock(vu);
	vu_chan_init(&vu->chan, fd, &vfio_user_framing);
	/* Where that cannot be had, poll() waits. */
	vu->chan_waits = !sock_set_timeout(fd, vu->times.request_ms);
	atomic_store(&vu->state, VU_CONNECTING);
	vu_unlock(vu);
	loop_timer_set(vu->loop, &vu->timer, deadline_ns, too_late);
	a->config = calloc(1, PAGE_SIZE_4K);
	rc = a->config ? vu_watch(vu) : -ENOMEM;
	if (rc)
		err_set(&err, rc, "%s: %s", vu->path, strerror(-rc));
	else
		rc = steps[0].send(vu, &err);
	if (rc)
		vu_attach_failed(vu, rc, &err);
}
