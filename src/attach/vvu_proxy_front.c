/*
 * vvu_proxy_front.c - what has to be done for a front-end's message, and what for its answer
 *
 * A message without descriptors passes as it is. For one with descriptors the proxy does what a
 * guest cannot: it maps memory, connects doorbells and kicks, and what it did is done before the
 * driver sees the message, which may ring as soon as it has it. What the proxy cannot do the driver
 * never hears of: the front-end gets a number that is not 0 if it has asked for one, else its
 * connection ends, since it would go on as if all were well.
 *
 * Answers of the driver are looked at where they promise what a driver in a guest does not have:
 * protocol features are those that the proxy can carry, and REPLY_ACK is always among them, as the
 * proxy can answer for a driver that does not know it.
 *
 * At most one message waits for the driver's answer, and the next one waits with it: so answers
 * keep their order, whoever gives them.
 *
 * Trusts: nothing of either side.
 * Spec:   vhost-user, "Front-end message types", "Back-end message types".
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "attach/vvu_proxy_priv.h"
#include "base/fd.h"

/* What an action says beside 0 (give it to the driver) and -errno (refuse it). */
#define ANSWERED 1

/* --- actions; they change what the driver will read --- */

static int keep_protocol(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	p->protocol = m->p.u64 & (p->back_protocol | VHOST_USER_PROTOCOL_BIT(REPLY_ACK));
	/* What the driver did not offer is ours. */
	m->p.u64 = p->protocol & p->back_protocol;
	return 0;
}

static int set_table(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	unsigned nr_fds = m->fds ? (unsigned)m->fds->nr : 0;
	int rc = vhost_user_check_mem_table(&m->p.mem_table, m->h.size, nr_fds, err);

	return rc ? rc : vvu_set_table(p, &m->p.mem_table, m->fds ? m->fds->fds : NULL, err);
}

static int add_region(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	int rc = vvu_add_region(p, &m->p.mem_reg.region, m->fds->fds[0], err);

	if (rc)
		return rc;
	p->pending.adds = true;
	p->pending.at = m->p.mem_reg.region.mmap_offset;
	return 0;
}

/*
 * A driver that will answer keeps the memory until then: it may be in the midst of a request. One
 * that will not loses it now.
 */
static int remove_region(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	int rc = vvu_find_region(p, &m->p.mem_reg.region, err);

	if (rc)
		return rc;
	p->pending.removes = true;
	p->pending.at = m->p.mem_reg.region.mmap_offset;
	return 0;
}

/*
 * The eventfd of a vring's message, to take; -1: the vring is to have none. -EINVAL with a text.
 */
static int vring_fd(struct vvu_proxy *p, struct vvu_msg *m, int *fd, struct err *err)
{
	unsigned index = (unsigned)(m->p.u64 & VHOST_USER_VRING_IDX_MASK);
	bool none = m->p.u64 & VHOST_USER_NOFD;

	*fd = -1;
	if (index >= p->nr_queues)
		return err_set(err, -EINVAL, "queue %u, expected one below %u (max-queues)", index,
			p->nr_queues);
	if (none != !m->fds)
		return err_set(err, -EINVAL, none ? "a descriptor that it says is none"
						  : "no descriptor with it");
	if (none)
		return 0;
	if (!fd_is_eventfd(p->kinds, m->fds->fds[0]))
		return err_set(err, -EINVAL, "the descriptor is no eventfd");
	*fd = fd_list_take(m->fds);
	return 0;
}

static int connected(int rc, struct err *err)
{
	return rc ? err_set(err, rc, "KVM does not take the eventfd: %s", strerror(-rc)) : 0;
}

static int set_bell(struct vvu_proxy *p, struct vvu_msg *m, unsigned first, struct err *err)
{
	unsigned index = (unsigned)(m->p.u64 & VHOST_USER_VRING_IDX_MASK);
	int fd, rc = vring_fd(p, m, &fd, err);

	return rc ? rc : connected(p->owner->ops->bell(p->owner, first + index, fd), err);
}

static int set_call(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	return set_bell(p, m, VVU_DOORBELL_CALL(p->nr_queues, 0), err);
}

static int set_err(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	return set_bell(p, m, VVU_DOORBELL_ERR(p->nr_queues, 0), err);
}

static int set_kick(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	unsigned index = (unsigned)(m->p.u64 & VHOST_USER_VRING_IDX_MASK);
	int fd, rc = vring_fd(p, m, &fd, err);

	return rc ? rc : connected(p->owner->ops->notification(p->owner, index, fd), err);
}

static int set_log_base(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	return vvu_set_log(p, &m->p.log, m->fds->fds[0], err);
}

static int set_log_fd(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	if (!fd_is_eventfd(p->kinds, m->fds->fds[0]))
		return err_set(err, -EINVAL, "the descriptor is no eventfd");
	return connected(p->owner->ops->bell(p->owner, VVU_DOORBELL_LOG(p->nr_queues),
				 fd_list_take(m->fds)),
		err);
}

/* No area is what an answer of no bytes means. */
static int get_inflight(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	FD_AUTO fd = vvu_make_inflight(p, &m->p.inflight, err);

	if (fd < 0) {
		log_limited(&p->complaints, LOG_WARN, "%s: no inflight area for the sibling: %s",
			p->id, err->text);
		m->p.inflight.mmap_size = 0;
	}
	vvu_reply(p, m->h.request, &m->p.inflight, sizeof(m->p.inflight), MAX(fd, -1));
	return ANSWERED;
}

static int set_inflight(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	return vvu_set_inflight(p, &m->p.inflight, m->fds->fds[0], err);
}

static int set_back(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	int rc;

	if (!fd_is_stream(m->fds->fds[0]))
		return err_set(err, -EINVAL, "the descriptor is no stream socket");
	rc = vvu_open_back(p, fd_list_take(m->fds));
	return rc ? err_set(err, rc, "the socket cannot be listened to: %s", strerror(-rc)) : 0;
}

static const struct {
	uint32_t request;
	int (*act)(struct vvu_proxy *p, struct vvu_msg *m, struct err *err);
} actions[] = {
	{ VHOST_USER_SET_PROTOCOL_FEATURES, keep_protocol },
	{ VHOST_USER_SET_MEM_TABLE, set_table },
	{ VHOST_USER_ADD_MEM_REG, add_region },
	{ VHOST_USER_REM_MEM_REG, remove_region },
	{ VHOST_USER_SET_VRING_CALL, set_call },
	{ VHOST_USER_SET_VRING_KICK, set_kick },
	{ VHOST_USER_SET_VRING_ERR, set_err },
	{ VHOST_USER_SET_LOG_BASE, set_log_base },
	{ VHOST_USER_SET_LOG_FD, set_log_fd },
	{ VHOST_USER_GET_INFLIGHT_FD, get_inflight },
	{ VHOST_USER_SET_INFLIGHT_FD, set_inflight },
	{ VHOST_USER_SET_BACKEND_REQ_FD, set_back },
};

static int act(struct vvu_proxy *p, struct vvu_msg *m, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(actions); i++)
		if (actions[i].request == m->h.request)
			return actions[i].act(p, m, err);
	return 0;
}

/* --- requests of the front-end --- */

/* What can be told from the message alone, and the features. */
static int check(const struct vvu_proxy *p, const struct vvu_msg *m, struct err *err)
{
	int rc = vhost_user_check_request(&m->h, m->rule, err), nr_fds = m->fds ? m->fds->nr : 0;

	if (rc)
		return rc;
	if (nr_fds < m->rule->min_fds || nr_fds > m->rule->max_fds)
		return err_set(err, -EINVAL, "%d descriptors, expected %u to %u", nr_fds,
			m->rule->min_fds, m->rule->max_fds);
	if (m->rule->feature >= 0 && !vvu_speaks(p, (unsigned)m->rule->feature))
		return err_set(err, -EINVAL, "%s was not negotiated",
			vhost_user_feature_name((unsigned)m->rule->feature));
	/* Has no feature of its own, and needs a descriptor in the guest. */
	if (m->h.request == VHOST_USER_GPU_SET_SOCKET)
		return err_set(err, -ENOTSUP, "a guest cannot be given a socket");
	return 0;
}

/* The front-end waits for a number that says how it went. */
static bool wants_ack(const struct vvu_proxy *p, const struct vvu_msg *m)
{
	return m->h.flags & VHOST_USER_FLAG_NEED_REPLY && !(m->rule && m->rule->replies) &&
	       vvu_speaks(p, VHOST_USER_PROTOCOL_F_REPLY_ACK);
}

static void send_ack(struct vvu_proxy *p, uint32_t request, int rc)
{
	uint64_t value = (uint64_t)-rc;

	vvu_reply(p, request, &value, sizeof(value), -1);
}

static void refuse(struct vvu_proxy *p, const struct vvu_msg *m, int rc, const struct err *why)
{
	if (!wants_ack(p, m)) {
		vvu_hang_up(p, "%s: %s", vhost_user_name(m->h.request), why->text);
		return;
	}
	log_limited(&p->complaints, LOG_WARN, "%s: %s of the sibling refused: %s", p->id,
		vhost_user_name(m->h.request), why->text);
	send_ack(p, m->h.request, rc);
}

/* Give it to the driver, with all that was done for it. */
static void forward(struct vvu_proxy *p, struct vvu_msg *m)
{
	bool ack = wants_ack(p, m);
	bool driver_acks = ack && p->back_protocol & VHOST_USER_PROTOCOL_BIT(REPLY_ACK);
	bool removes = p->pending.removes, adds = p->pending.adds;

	m->h.flags = VHOST_USER_FLAG_VERSION | (driver_acks ? VHOST_USER_FLAG_NEED_REPLY : 0);
	if (removes && !driver_acks)
		vvu_remove_at(p, p->pending.at);
	p->pending.removes = removes && driver_acks;
	p->pending.adds = adds && driver_acks;
	if (!vvu_rx_give(p, &m->h, &m->p))
		return;
	if (m->rule->replies || driver_acks) {
		p->pending.rule = m->rule;
		p->pending.request = m->h.request;
		p->pending.ack = !m->rule->replies;
	} else if (ack) {
		send_ack(p, m->h.request, 0);
	}
}

/*
 * A front-end that comes back may accept what it was offered the last time, without asking. But
 * what the driver offers has to be known here: then it is asked from here, and the front-end's
 * message waits for the answer.
 */
static bool learn_first(struct vvu_proxy *p, const struct vvu_msg *m)
{
	const struct vhost_user_header h = {
		.request = VHOST_USER_GET_PROTOCOL_FEATURES,
		.flags = VHOST_USER_FLAG_VERSION,
	};

	if (m->h.request != VHOST_USER_SET_PROTOCOL_FEATURES || p->back_known)
		return false;
	if (vvu_rx_give(p, &h, &m->p))
		p->pending = (struct vvu_pending){
			.rule = vhost_user_rule(h.request), .request = h.request, .own = true
		};
	return true;
}

bool vvu_front_request(struct vvu_proxy *p, struct vvu_msg *m)
{
	struct err err;
	int rc;

	if (learn_first(p, m))
		return false;
	err_clear(&err);
	p->pending.removes = p->pending.adds = false;
	/* One that does not wait for the driver gets what it asks for. */
	if (p->stale && m->fds)
		vvu_clear_memory(p);
	rc = check(p, m, &err);
	if (!rc)
		rc = act(p, m, &err);
	if (rc < 0)
		refuse(p, m, rc, &err);
	else if (!rc)
		forward(p, m);
	return true;
}

/* --- messages of the driver --- */

/* What of an answer cannot be kept, or is better known here. */
static void adapt(struct vvu_proxy *p, uint32_t request, union vhost_user_payload *payload)
{
	switch (request) {
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		p->back_protocol = payload->u64 & VVU_PROTOCOL_FEATURES;
		p->back_known = true;
		payload->u64 = p->back_protocol | VHOST_USER_PROTOCOL_BIT(REPLY_ACK);
		break;
	case VHOST_USER_GET_QUEUE_NUM:
		payload->u64 = MIN(payload->u64, (uint64_t)p->nr_queues);
		break;
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		payload->u64 = MIN(payload->u64, (uint64_t)VHOST_USER_MAX_MEM_SLOTS);
		break;
	}
}

static void driver_reply(struct vvu_proxy *p, const struct vhost_user_header *h,
	union vhost_user_payload *payload)
{
	struct vvu_pending pending = p->pending;
	struct err err;

	/* To a sibling before this one, or to nothing. */
	if (!pending.rule || pending.request != h->request) {
		log_debug("%s: the driver answers %s, which nobody asked", p->id,
			vhost_user_name(h->request));
		return;
	}
	err_clear(&err);
	if (vhost_user_check_reply(h, pending.request, pending.rule, pending.ack, &err)) {
		vvu_break(p, "the driver's answer: %s", err.text);
		return;
	}
	p->pending = (struct vvu_pending){ 0 };
	if (p->stale)
		vvu_clear_memory(p);
	if (payload->u64 ? pending.adds : pending.removes)
		vvu_remove_at(p, pending.at);
	adapt(p, h->request, payload);
	if (!pending.own)
		vvu_reply(p, h->request, payload, h->size, -1);
}

/* A request that cannot travel: it needs a descriptor, or nobody listens. */
static void refuse_driver(struct vvu_proxy *p, const struct vhost_user_header *h, const char *why)
{
	const uint64_t value = EOPNOTSUPP;
	const struct vhost_user_header answer = {
		.request = h->request,
		.flags = VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY,
		.size = sizeof(value),
	};

	log_limited(&p->complaints, LOG_WARN, "%s: %s of the driver refused: %s", p->id,
		vhost_user_backend_name(h->request), why);
	if (h->flags & VHOST_USER_FLAG_NEED_REPLY && vvu_rx_ready(p))
		vvu_rx_give(p, &answer, &value);
}

static void driver_request(struct vvu_proxy *p, const struct vhost_user_header *h,
	const union vhost_user_payload *payload)
{
	const struct vhost_user_rule *rule = vhost_user_backend_rule(h->request);
	struct err err;

	err_clear(&err);
	if (vhost_user_check_request(h, rule, &err))
		refuse_driver(p, h, err.text);
	else if (rule->min_fds || rule->replies)
		refuse_driver(p, h, "it needs a descriptor, which a guest does not have");
	else if (vvu_ask(p, h, payload))
		refuse_driver(p, h, "the sibling does not listen to requests");
}

void vvu_driver_message(
	struct vvu_proxy *p, const struct vhost_user_header *h, union vhost_user_payload *payload)
{
	/* Nobody is there any more to hear it. */
	if (!p->connected)
		return;
	if (h->flags & VHOST_USER_FLAG_REPLY)
		driver_reply(p, h, payload);
	else
		driver_request(p, h, payload);
}
