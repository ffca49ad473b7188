/*
 * vhost_user_attach.c - from a connected socket to a device that serves, step by step
 *
 * Each step sends its requests at once, without waiting in between, and is over when all of them
 * are answered; then its `done` looks at what came and the next one begins:
 *
 *   greeting   SET_OWNER, GET_FEATURES
 *   protocol   GET_PROTOCOL_FEATURES
 *   limits     SET_PROTOCOL_FEATURES; GET_QUEUE_NUM, GET_MAX_MEM_SLOTS, SET_BACKEND_REQ_FD,
 *              GET_SHMEM_CONFIG, as negotiated; of a device that was lost, the configuration it
 *              had. Then the owner's attached(), or the comparison with what was lost
 *   quiesce    nothing, or the queues of a step that the driver has overtaken
 *   prepare    what the driver accepted, RAM, queue sizes (vhost_user_rings.c)
 *   mappings   of a device behind an IOMMU: what the guest has mapped, a portion at a time, as
 *              often as it takes (vhost_user_iotlb.c)
 *   run        the queues; then the device is READY
 *
 * The first attach and each reconnect run the same steps; the last four have nothing to do until
 * the driver has started the device. The driver goes on meanwhile: when it has changed its mind
 * since `prepare`, the four are done once more.
 *
 * One deadline holds for the whole attempt, so a back-end that never answers, or one byte a
 * second, ends it; much RAM and many mappings put it off. Every failure has one line of text.
 *
 * Threads: loop thread.
 * Trusts:  nothing that arrives.
 * Spec:    vhost-user, "Starting and stopping rings", "Protocol features".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "attach/vhost_user_priv.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/util.h"

/* What we understand. HOST_NOTIFIER and PAGEFAULT, which some always offer, are not among it. */
#define PROTOCOL_FEATURES                                                                          \
	(VHOST_USER_PROTOCOL_BIT(MQ) | VHOST_USER_PROTOCOL_BIT(LOG_SHMFD) |                        \
		VHOST_USER_PROTOCOL_BIT(REPLY_ACK) | VHOST_USER_PROTOCOL_BIT(BACKEND_REQ) |        \
		VHOST_USER_PROTOCOL_BIT(CONFIG) | VHOST_USER_PROTOCOL_BIT(BACKEND_SEND_FD) |       \
		VHOST_USER_PROTOCOL_BIT(INFLIGHT_SHMFD) | VHOST_USER_PROTOCOL_BIT(RESET_DEVICE) |  \
		VHOST_USER_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS) | VHOST_USER_PROTOCOL_BIT(STATUS) |   \
		VHOST_USER_PROTOCOL_BIT(DEVICE_STATE) | VHOST_USER_PROTOCOL_BIT(SHMEM_MAP))

struct step {
	const char *name;
	/* Queue this step's requests. 0 or -errno with a text. */
	int (*send)(struct vhost_user *vu, struct err *err);
	/*
	 * All are answered. 0: on to the next step; 1: attach.step says which; -errno with a text.
	 * May be NULL.
	 */
	int (*done)(struct vhost_user *vu, struct err *err);
};

/* One request without a payload. */
static int ask(
	struct vhost_user *vu, uint32_t request, vuf_reply_fn reply, void *ptr, struct err *err)
{
	const struct vuf_request rq = { .request = request, .reply = reply, .ptr = ptr };

	return vuf_send(vu, &rq, err);
}

static int number_reply(struct vhost_user *vu, const struct vuf_pending *p, const struct vuf_msg *m,
	struct err *err)
{
	*(uint64_t *)p->ptr = vuf_u64(m);
	return 0;
}

/* --- greeting and protocol --- */

static int greeting_send(struct vhost_user *vu, struct err *err)
{
	int rc = ask(vu, VHOST_USER_SET_OWNER, NULL, NULL, err);

	return rc ? rc : ask(vu, VHOST_USER_GET_FEATURES, number_reply, &vu->offered, err);
}

/* The answer stands in vu->protocol until we have chosen. */
static int protocol_send(struct vhost_user *vu, struct err *err)
{
	if (!vuf_has_protocol(vu))
		return 0;
	return ask(vu, VHOST_USER_GET_PROTOCOL_FEATURES, number_reply, &vu->protocol, err);
}

/* --- limits --- */

static uint64_t choose_protocol(const struct vhost_user *vu)
{
	uint64_t ours = vu->protocol & PROTOCOL_FEATURES;

	if (vu->config_is_ours)
		ours &= ~VHOST_USER_PROTOCOL_BIT(CONFIG);
	/* Mappings are asked for over the back-end's socket. */
	if (!(ours & VHOST_USER_PROTOCOL_BIT(BACKEND_REQ)))
		ours &= ~(VHOST_USER_PROTOCOL_BIT(SHMEM_MAP) |
			  VHOST_USER_PROTOCOL_BIT(BACKEND_SEND_FD));
	return ours;
}

static int shmem_reply(struct vhost_user *vu, const struct vuf_pending *p, const struct vuf_msg *m,
	struct err *err)
{
	memcpy(&vu->attach.shmem, m->payload, m->h.size);
	return 0;
}

static int send_back_fd(struct vhost_user *vu, struct err *err)
{
	FD_AUTO peer = -1;
	int rc = vuf_back_open(vu, &peer);
	const struct vuf_request rq = { .request = VHOST_USER_SET_BACKEND_REQ_FD, .fd = peer };

	if (rc)
		return err_set(err, rc, "SET_BACKEND_REQ_FD: %s", strerror(-rc));
	return vuf_send(vu, &rq, err);
}

static int limits_send(struct vhost_user *vu, struct err *err)
{
	struct vuf_attach *a = &vu->attach;
	uint64_t protocol = choose_protocol(vu);
	int rc;

	vu->protocol = 0; /* nothing is acknowledged yet */
	if (!vuf_has_protocol(vu))
		return 0;
	rc = vuf_send_u64(vu, VHOST_USER_SET_PROTOCOL_FEATURES, protocol, -1, err);
	vu->protocol = protocol;
	if (!rc && vuf_speaks(vu, VHOST_USER_PROTOCOL_F_MQ))
		rc = ask(vu, VHOST_USER_GET_QUEUE_NUM, number_reply, &a->queue_num, err);
	if (!rc && vuf_speaks(vu, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
		rc = ask(vu, VHOST_USER_GET_MAX_MEM_SLOTS, number_reply, &vu->max_slots, err);
	if (!rc && vuf_speaks(vu, VHOST_USER_PROTOCOL_F_BACKEND_REQ))
		rc = send_back_fd(vu, err);
	if (!rc && vuf_speaks(vu, VHOST_USER_PROTOCOL_F_SHMEM_MAP))
		rc = ask(vu, VHOST_USER_GET_SHMEM_CONFIG, shmem_reply, NULL, err);
	if (!rc && vu->was_ready)
		rc = vuf_config_ask_again(vu, err);
	return rc;
}

/* It came back as something that the driver, as it stands, cannot go on with. */
static void unfit(struct vhost_user *vu, const char *why)
{
	bool news;

	pthread_mutex_lock(&vu->want_lock);
	news = vu->running && !vu->unfit;
	vu->unfit = vu->running;
	pthread_mutex_unlock(&vu->want_lock);
	if (!news)
		return;
	log_limited(&vu->refusal_limit, LOG_WARN, "%s: %s; the driver has to reset the device",
		vu->b.id, why);
	vu->owner->ops->needs_reset(vu->owner);
}

static void compare(struct vhost_user *vu)
{
	struct err err = { 0 };
	uint64_t missing;
	bool running;
	int rc = vuf_config_compare(vu, &err);

	pthread_mutex_lock(&vu->want_lock);
	running = vu->running;
	missing = vu->features & ~vu->offered;
	pthread_mutex_unlock(&vu->want_lock);
	if (running && missing)
		err_set(&err, -EPROTO, "the back-end that came back lacks features 0x%llx",
			(unsigned long long)missing);
	if (err.text[0])
		unfit(vu, err.text);
	else if (rc)
		vu->owner->ops->config_changed(vu->owner);
}

static int limits_done(struct vhost_user *vu, struct err *err)
{
	int rc;

	if (vu->refusal.text[0])
		return err_set(err, -EPROTO, "%s", vu->refusal.text);
	if (vuf_speaks(vu, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) && !vu->max_slots)
		return err_set(err, -EPROTO, "GET_MAX_MEM_SLOTS: 0 regions");
	if (vu->was_ready) {
		rc = vuf_same_shape(vu, err);
		if (!rc)
			compare(vu);
		return rc;
	}
	/* It answers: what is wrong from here on, waiting does not cure. */
	vu->first_deadline_ns = 0;
	rc = vuf_take_shape(vu, err);
	if (rc)
		return rc;
	atomic_store(&vu->has_config, vuf_speaks(vu, VHOST_USER_PROTOCOL_F_CONFIG));
	return vu->owner->ops->attached(vu->owner, err);
}

/* --- what the driver wants --- */

static int quiesce_send(struct vhost_user *vu, struct err *err)
{
	return vuf_rings_stop(vu, VUF_ALL_QUEUES, err);
}

static void too_late(struct loop_timer *timer);

static void set_deadline(struct vhost_user *vu, uint64_t deadline_ns)
{
	vu->attach.deadline_ns = deadline_ns;
	loop_timer_set(vu->loop, &vu->timer, deadline_ns, too_late);
	vuf_iotlb_settled_by(vu, deadline_ns);
}

static int prepare_send(struct vhost_user *vu, struct err *err)
{
	uint32_t patience = vuf_mem_patience_ms(vu);

	if (patience)
		set_deadline(vu, vuf_deadline(vu->times.handshake_ms + patience));
	vu->refusal.text[0] = 0;
	pthread_mutex_lock(&vu->want_lock);
	vu->told = vu->generation;
	pthread_mutex_unlock(&vu->want_lock);
	return vuf_rings_prepare(vu, VUF_ALL_QUEUES, err);
}

static int mappings_send(struct vhost_user *vu, struct err *err)
{
	if (!vu->iotlb_left)
		return 0;
	set_deadline(vu, vu->attach.deadline_ns + VUF_PORTION_MS * NS_PER_MS);
	return vuf_iotlb_portion(vu, err);
}

/* The same step once more, as long as there is something left. */
static int mappings_done(struct vhost_user *vu, struct err *err)
{
	return vu->iotlb_left;
}

static int run_send(struct vhost_user *vu, struct err *err)
{
	return vuf_rings_run(vu, VUF_ALL_QUEUES, err);
}

#define STEP_QUIESCE 3

static int run_done(struct vhost_user *vu, struct err *err)
{
	bool overtaken, refused = vu->refusal.text[0];

	pthread_mutex_lock(&vu->want_lock);
	overtaken = vu->generation != vu->told || vuf_iotlb_missed(vu);
	if (!overtaken && !refused)
		/* Whoever changes something from here on tells the back-end himself. */
		atomic_store(&vu->state, VUF_READY);
	vuf_iotlb_settled(vu);
	pthread_mutex_unlock(&vu->want_lock);
	if (overtaken) {
		vu->attach.step = STEP_QUIESCE;
		return 1;
	}
	return refused ? err_set(err, -EPROTO, "%s", vu->refusal.text) : 0;
}

/* --- the engine --- */

static const struct step steps[] = {
	{ "GET_FEATURES", greeting_send, NULL },
	{ "GET_PROTOCOL_FEATURES", protocol_send, NULL },
	{ "asking for its limits", limits_send, limits_done },
	[STEP_QUIESCE] = { "stopping its queues", quiesce_send, NULL },
	{ "setting it up", prepare_send, NULL },
	{ "telling it of the guest's mappings", mappings_send, mappings_done },
	{ "starting its queues", run_send, run_done },
};

static void attached(struct vhost_user *vu)
{
	/* From now on its answers belong to whoever asks; only its end is the loop's business. */
	loop_mod(&vu->src, EPOLLRDHUP);
	vuf_rings_kick(vu, VUF_ALL_QUEUES);
	vuf_rings_call(vu);
	vuf_attempt_done(vu);
	if (atomic_load(&vu->mem_stale) && !pthread_mutex_trylock(&vu->lock))
		vuf_unlock(vu);
}

static void failed(struct vhost_user *vu, int rc, struct err *err)
{
	err_prefix(err, rc, "%s", vu->where);
	vuf_attempt_failed(vu, rc, err);
}

/* Go on for as long as nothing has to be waited for. */
static void advance(struct vhost_user *vu)
{
	struct vuf_attach *a = &vu->attach;
	struct err err = { 0 };

	/* Some requests are not answered: those have to be gone, too. */
	while (!vu->nr_pending && !vu_chan_out_pending(&vu->chan)) {
		int rc = steps[a->step].done ? steps[a->step].done(vu, &err) : 0;

		if (!rc && ++a->step == ARRAY_SIZE(steps)) {
			attached(vu);
			return;
		}
		if (rc >= 0)
			rc = steps[a->step].send(vu, &err);
		if (rc < 0) {
			failed(vu, rc, &err);
			return;
		}
	}
	if (vu_chan_out_pending(&vu->chan))
		loop_mod(&vu->src, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
}

static void too_late(struct loop_timer *timer)
{
	struct vhost_user *vu = container_of(timer, struct vhost_user, timer);
	struct err err = { 0 };

	err_set(&err, -ETIMEDOUT, "no answer within %u ms (%s)%s", vu->times.handshake_ms,
		steps[vu->attach.step].name,
		vu->attach.step ? "" : "; does it serve another front-end?");
	failed(vu, -ETIMEDOUT, &err);
}

void vuf_attach_event(struct vhost_user *vu)
{
	struct err err = { 0 };
	int rc = vuf_pump(vu, &err);

	if (rc) {
		failed(vu, rc, &err);
		return;
	}
	if (!vu_chan_out_pending(&vu->chan))
		loop_mod(&vu->src, EPOLLIN | EPOLLRDHUP);
	advance(vu);
}

static void on_event(struct loop_source *src, uint32_t events)
{
	struct vhost_user *vu = container_of(src, struct vhost_user, src);

	switch (atomic_load(&vu->state)) {
	case VUF_CONNECTING:
		vuf_attach_event(vu);
		break;
	case VUF_READY:
		if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			vuf_break(vu, "the back-end hung up");
		break;
	default:
		/* Broken a moment ago by a vCPU, whose post to the loop is about to clean up. */
		loop_del(src);
	}
}

void vuf_attach_begin(struct vhost_user *vu, int fd, uint64_t deadline_ns)
{
	struct err err = { 0 };
	int rc;

	vu->attach = (struct vuf_attach){ 0 };
	pthread_mutex_lock(&vu->lock);
	vu_chan_init(&vu->chan, fd, &vuf_framing);
	vu->refusal.text[0] = 0;
	vu->max_slots = 0;
	atomic_store(&vu->state, VUF_CONNECTING);
	pthread_mutex_unlock(&vu->lock);
	set_deadline(vu, deadline_ns);
	rc = loop_add(vu->loop, &vu->src, fd, EPOLLIN | EPOLLRDHUP, on_event);
	if (rc)
		err_set(&err, rc, "%s", strerror(-rc));
	else
		rc = greeting_send(vu, &err);
	if (rc)
		failed(vu, rc, &err);
}
