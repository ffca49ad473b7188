/*
 * vhost_user_command.c - what each request of a front-end does
 *
 * One function per request, found by its number. The header, the payload's size and the number of
 * descriptors have been checked against the rule table before; what they mean is checked here.
 * A request that needs a queue to rest first stops it and goes on when it does.
 *
 * Spec: vhost-user, "Front-end message types".
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <string.h>

#include "base/fd.h"
#include "base/fd_kind.h"
#include "base/util.h"
#include "serve/vhost_user_port.h"
#include "wire/virtio.h"

/* What this port does for every model. */
#define PORT_FEATURES                                                                              \
	(VIRTIO_BIT(VIRTIO_BIT_VERSION_1) | VIRTIO_BIT(VIRTIO_BIT_RING_RESET) |                    \
		VIRTIO_BIT(VHOST_USER_F_LOG_ALL) | VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES))
/* Between front-end and port; the model does not hear of them. */
#define LINK_FEATURES                                                                              \
	(VIRTIO_BIT(VHOST_USER_F_LOG_ALL) | VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES))
/* The port's affair, too, but not to be changed under running queues. */
#define PORT_ALONE VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM)

uint64_t vhu_features(const struct vhost_user_port *p)
{
	uint64_t iommu = p->config.iommu ? VIRTIO_BIT(VIRTIO_BIT_ACCESS_PLATFORM) : 0;

	return p->model->features | PORT_FEATURES | iommu;
}

void vhu_tell_features(struct vhost_user_port *p)
{
	if (!p->features_told && p->model->ops->set_features)
		p->model->ops->set_features(p->model, p->features & ~(LINK_FEATURES | PORT_ALONE));
	p->features_told = true;
}

uint64_t vhu_protocol_features(const struct vhost_user_port *p)
{
	uint64_t f = VHOST_USER_PROTOCOL_BIT(MQ) | VHOST_USER_PROTOCOL_BIT(LOG_SHMFD) |
		     VHOST_USER_PROTOCOL_BIT(REPLY_ACK) | VHOST_USER_PROTOCOL_BIT(BACKEND_REQ) |
		     VHOST_USER_PROTOCOL_BIT(INFLIGHT_SHMFD) |
		     VHOST_USER_PROTOCOL_BIT(RESET_DEVICE) |
		     VHOST_USER_PROTOCOL_BIT(CONFIGURE_MEM_SLOTS) | VHOST_USER_PROTOCOL_BIT(STATUS);

	if (p->model->config_size)
		f |= VHOST_USER_PROTOCOL_BIT(CONFIG);
	if (p->model->ops->save && p->model->ops->load)
		f |= VHOST_USER_PROTOCOL_BIT(DEVICE_STATE);
	return f;
}

/* Helpers */

static void reply_u64(struct vhost_user_port *p, uint64_t v)
{
	p->reply.u64 = v;
	p->reply_len = sizeof(v);
}

static struct vhu_queue *queue_of(struct vhost_user_port *p, uint32_t index, struct err *err)
{
	if (index < p->nr_queues)
		return &p->queues[index];
	err_set(err, -EINVAL, "queue %u, there are %u", index, p->nr_queues);
	return NULL;
}

/* Stop these queues, then do the rest of the request. */
static int after_stop(
	struct vhost_user_port *p, unsigned first, unsigned nr, vhu_then_fn then, struct err *err)
{
	return vhu_queues_stop(p, first, nr) ? then(p, err) : vhu_wait_then(p, then);
}

/*
 * Start a queue if that is due. When it does not work, the guest may be the one to blame: who asked
 * to hear of it does, but the front-end is not dropped for it.
 */
static int try_start(struct vhu_queue *q, struct err *err)
{
	int rc = vhu_queue_start(q, err);

	q->port->forgiven = rc != 0;
	return rc;
}

static int do_nothing(struct vhost_user_port *p, struct err *err)
{
	return 0;
}

/* Features */

static int get_features(struct vhost_user_port *p, struct err *err)
{
	reply_u64(p, vhu_features(p));
	return 0;
}

static int set_features(struct vhost_user_port *p, struct err *err)
{
	uint64_t f = p->main.payload.u64, unknown = f & ~vhu_features(p);
	uint64_t changed = (f ^ p->features) & ~LINK_FEATURES;

	if (unknown)
		return err_set(err, -EINVAL, "features 0x%" PRIx64 " were not offered", unknown);
	if (changed && !vhu_queues_rest(p))
		return err_set(
			err, -EBUSY, "features 0x%" PRIx64 " change under running queues", changed);
	p->features = f;
	if (changed & PORT_ALONE && vhu_queues_see(p))
		return err_set(err, -ENOMEM, "out of memory");
	p->features_set = true;
	if (changed)
		p->features_told = false;
	vhu_tell_features(p);
	vhu_pause(p);
	vhu_log_want(&p->log, f & VIRTIO_BIT(VHOST_USER_F_LOG_ALL));
	vhu_resume(p);
	vhu_queues_start(p);
	return 0;
}

static int get_protocol_features(struct vhost_user_port *p, struct err *err)
{
	reply_u64(p, vhu_protocol_features(p));
	return 0;
}

static int set_protocol_features(struct vhost_user_port *p, struct err *err)
{
	uint64_t unknown = p->main.payload.u64 & ~vhu_protocol_features(p);

	if (unknown)
		return err_set(
			err, -EINVAL, "protocol features 0x%" PRIx64 " were not offered", unknown);
	p->protocol_features = p->main.payload.u64;
	return 0;
}

static int get_queue_num(struct vhost_user_port *p, struct err *err)
{
	reply_u64(p, p->nr_queues);
	return 0;
}

/* Memory */

static int change_mem(struct vhost_user_port *p, int rc, struct vhu_mem *mem)
{
	if (rc)
		return rc;
	vhu_queues_set_mem(p, mem);
	vhu_queues_start(p);
	return 0;
}

static int set_mem_table(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_mem_table *t = &p->main.payload.mem_table;
	struct vhu_mem *mem = NULL;
	int rc = vhost_user_check_mem_table(t, p->main.header.size, (unsigned)p->main.fds.nr, err);

	if (!rc)
		rc = vhu_mem_new(&mem, p->mem, &p->log, t->regions, p->main.fds.fds, t->nr,
			&p->source, err);
	return change_mem(p, rc, mem);
}

static int get_max_mem_slots(struct vhost_user_port *p, struct err *err)
{
	reply_u64(p, VHOST_USER_MAX_MEM_SLOTS);
	return 0;
}

static int add_mem_reg(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_mem_region *r = &p->main.payload.mem_reg.region;
	struct vhu_mem *mem = NULL;
	int rc = vhost_user_check_region(r, err);

	if (!rc)
		rc = vhu_mem_add(&mem, p->mem, &p->log, r, p->main.fds.fds[0], &p->source, err);
	return change_mem(p, rc, mem);
}

static int rem_mem_reg(struct vhost_user_port *p, struct err *err)
{
	struct vhu_mem *mem = NULL;
	int rc = vhu_mem_remove(&mem, p->mem, &p->main.payload.mem_reg.region, err);

	return change_mem(p, rc, mem);
}

static int set_log_base(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_log *l = &p->main.payload.log;
	int rc;

	vhu_pause(p);
	rc = vhu_log_set(&p->log, l->size, l->offset, p->main.fds.fds[0], &p->source, err);
	vhu_resume(p);
	reply_u64(p, 0);
	return rc;
}

static int iotlb_msg(struct vhost_user_port *p, struct err *err)
{
	struct err why = { 0 };
	int rc = p->config.iommu ? vhu_iotlb_message(&p->iotlb, &p->main.payload.iotlb, &why) :
				   err_set(&why, -ENOTSUP, "no device behind an IOMMU");

	reply_u64(p, (uint64_t)-rc);
	if (rc) {
		vhu_complain(p, "IOTLB_MSG refused: %s", why.text);
		return 0;
	}
	/* What lacked it may start. */
	if (p->main.payload.iotlb.type == VHOST_IOTLB_UPDATE)
		vhu_queues_start(p);
	return 0;
}

/* Queues */

static int set_vring_num(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_vring_state *s = &p->main.payload.state;
	struct vhu_queue *q = queue_of(p, s->index, err);

	if (!q)
		return -EINVAL;
	/* The front-end chooses: a back-end has no way to tell what its model is made for. */
	if (!s->num || s->num > VIRTIO_QUEUE_MAX_SIZE)
		return err_set(err, -EINVAL, "queue %u: size %u, expected 1 to %u", s->index,
			s->num, VIRTIO_QUEUE_MAX_SIZE);
	if (q->state != VHU_IDLE && s->num != q->num)
		return err_set(err, -EBUSY, "queue %u is running with size %u", s->index, q->num);
	q->num = (uint16_t)s->num;
	return try_start(q, err);
}

static int set_vring_addr(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_vring_addr *a = &p->main.payload.addr;
	struct vhu_queue *q = queue_of(p, a->index, err);
	int rc = q ? vhu_queue_set_addr(q, a, err) : -EINVAL;

	return rc ? rc : try_start(q, err);
}

static int set_vring_base(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_vring_state *s = &p->main.payload.state;
	struct vhu_queue *q = queue_of(p, s->index, err);

	if (!q)
		return -EINVAL;
	if (q->state != VHU_IDLE)
		return err_set(err, -EBUSY, "queue %u is running", s->index);
	q->base = s->num;
	q->has_base = true;
	return 0;
}

static int give_vring_base(struct vhost_user_port *p, struct err *err)
{
	struct vhu_queue *q = &p->queues[p->main.payload.state.index];

	/* It starts again with the next SET_VRING_KICK. */
	fd_close(&q->kick_fd);
	q->kicked = false;
	p->reply.state = (struct vhost_user_vring_state){ q->index, q->base };
	p->reply_len = sizeof(p->reply.state);
	return 0;
}

static int get_vring_base(struct vhost_user_port *p, struct err *err)
{
	struct vhu_queue *q = queue_of(p, p->main.payload.state.index, err);

	return q ? after_stop(p, q->index, 1, give_vring_base, err) : -EINVAL;
}

static int set_vring_enable(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_vring_state *s = &p->main.payload.state;
	struct vhu_queue *q = queue_of(p, s->index, err);

	if (!q)
		return -EINVAL;
	if (s->num > 1)
		return err_set(err, -EINVAL, "queue %u: %u, expected 0 or 1", s->index, s->num);
	q->enabled = s->num;
	if (q->enabled)
		return try_start(q, err);
	return after_stop(p, q->index, 1, do_nothing, err);
}

/*
 * The queue that a SET_VRING_KICK, _CALL or _ERR is about, and the eventfd that came with it: -1
 * when there is none, and none was announced. NULL with a text: refused.
 */
static struct vhu_queue *queue_with_fd(struct vhost_user_port *p, int *fd, struct err *err)
{
	uint64_t v = p->main.payload.u64;
	struct vhu_queue *q = queue_of(p, v & VHOST_USER_VRING_IDX_MASK, err);
	int nr = p->main.fds.nr;
	bool none = v & VHOST_USER_NOFD;

	*fd = -1;
	if (!q)
		return NULL;
	if (none != !nr) {
		err_set(err, -EINVAL, "queue %u: %d descriptors, flags 0x%" PRIx64, q->index, nr,
			v & ~(uint64_t)VHOST_USER_VRING_IDX_MASK);
		return NULL;
	}
	if (nr && !fd_is_eventfd(p->kinds, p->main.fds.fds[0])) {
		err_set(err, -EINVAL, "queue %u: the descriptor is not an eventfd", q->index);
		return NULL;
	}
	if (nr)
		*fd = fd_list_take(&p->main.fds);
	return q;
}

static int restart_with_kick(struct vhost_user_port *p, struct err *err)
{
	struct vhu_queue *q = &p->queues[p->main.payload.u64 & VHOST_USER_VRING_IDX_MASK];

	vhu_queue_set_kick(q, fd_list_take(&p->main.fds));
	return try_start(q, err);
}

static int set_vring_kick(struct vhost_user_port *p, struct err *err)
{
	int fd;
	struct vhu_queue *q = queue_with_fd(p, &fd, err);

	if (!q)
		return -EINVAL;
	/* Back into the message, for as long as the queue may take to stop. */
	if (fd >= 0)
		p->main.fds.fds[p->main.fds.nr++] = fd;
	return after_stop(p, q->index, 1, restart_with_kick, err);
}

static int set_vring_call(struct vhost_user_port *p, struct err *err)
{
	int fd;
	struct vhu_queue *q = queue_with_fd(p, &fd, err);

	if (!q)
		return -EINVAL;
	vhu_queue_set_call(q, fd);
	return 0;
}

static int set_vring_err(struct vhost_user_port *p, struct err *err)
{
	int fd;
	struct vhu_queue *q = queue_with_fd(p, &fd, err);

	if (!q)
		return -EINVAL;
	vhu_queue_set_err(q, fd);
	return 0;
}

/* The device */

/*
 * Forget the queues. The call descriptors stay: a front-end that resets the device between two
 * drivers does not send them again.
 */
static int reset_queues(struct vhost_user_port *p, struct err *err)
{
	for (unsigned i = 0; i < p->nr_queues; i++) {
		vhu_inflight_clear(&p->queues[i]);
		vhu_queue_reset(&p->queues[i]);
	}
	p->status = 0;
	return 0;
}

/* Queues and model as at power-on. */
static int reset(struct vhost_user_port *p, struct err *err)
{
	reset_queues(p, err);
	if (p->model->ops->reset)
		p->model->ops->reset(p->model);
	p->features_told = false;
	return 0;
}

static int reset_device(struct vhost_user_port *p, struct err *err)
{
	return after_stop(p, 0, p->nr_queues, reset, err);
}

static int set_status(struct vhost_user_port *p, struct err *err)
{
	uint64_t status = p->main.payload.u64;

	if (status > UINT8_MAX)
		return err_set(err, -EINVAL, "status 0x%" PRIx64, status);
	p->status = (uint8_t)status;
	if (status)
		return 0;
	/*
	 * QEMU says 0 whenever it stops the queues, also for a pause and before it has the state
	 * saved. A front-end that means a reset and has a message for it uses that.
	 */
	if (p->protocol_features & VHOST_USER_PROTOCOL_BIT(RESET_DEVICE))
		return after_stop(p, 0, p->nr_queues, reset_queues, err);
	return reset_device(p, err);
}

static int get_status(struct vhost_user_port *p, struct err *err)
{
	reply_u64(p, p->status);
	return 0;
}

static int get_config(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_config *c = &p->main.payload.config;
	struct virtio_model *m = p->model;
	int rc = vhost_user_check_config(c, p->main.header.size, err);

	if (rc)
		return rc;
	if (m->ops->config_read)
		m->ops->config_read(m);
	p->reply.config = (struct vhost_user_config){ c->offset, c->size, c->flags };
	/* A front-end may know of fields that this device does not have: they are 0. */
	if (c->offset < m->config_size)
		memcpy(p->reply.config.bytes, m->config + c->offset,
			MIN(c->size, m->config_size - c->offset));
	p->reply_len = p->main.header.size;
	return 0;
}

static int set_config(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_config *c = &p->main.payload.config;
	struct virtio_model *m = p->model;
	int rc = vhost_user_check_config(c, p->main.header.size, err);

	if (rc)
		return rc;
	if (!range_ok(c->offset, c->size, m->config_size))
		return err_set(err, -EINVAL, "bytes %u+%u of a configuration of %u", c->offset,
			c->size, m->config_size);
	/* Whatever the flags say: the model knows what may be written. */
	if (c->size && m->ops->config_write)
		m->ops->config_write(m, c->offset, c->bytes, c->size);
	return 0;
}

static int set_backend_req_fd(struct vhost_user_port *p, struct err *err)
{
	return vhu_channel_set(p, fd_list_take(&p->main.fds), err);
}

static int get_inflight_fd(struct vhost_user_port *p, struct err *err)
{
	p->reply.inflight = p->main.payload.inflight;
	p->reply.inflight.padding = 0;
	p->reply_len = p->main.header.size;
	return vhu_inflight_new(p, &p->reply.inflight, &p->reply_fd, err);
}

static int set_inflight_fd(struct vhost_user_port *p, struct err *err)
{
	return vhu_inflight_set(p, &p->main.payload.inflight, p->main.fds.fds[0], err);
}

static int set_device_state_fd(struct vhost_user_port *p, struct err *err)
{
	reply_u64(p, VHOST_USER_NOFD);
	return vhu_state_begin(p, &p->main.payload.device_state, fd_list_take(&p->main.fds), err);
}

static int check_device_state(struct vhost_user_port *p, struct err *err)
{
	reply_u64(p, 0);
	return vhu_state_check(p, err);
}

/* What is not here is not offered, and refused. */
static const vhu_then_fn handlers[VHOST_USER_REQUEST_END] = {
	[VHOST_USER_GET_FEATURES] = get_features,
	[VHOST_USER_SET_FEATURES] = set_features,
	[VHOST_USER_SET_OWNER] = do_nothing,
	/* Deprecated, and there are two opinions on what it did. */
	[VHOST_USER_RESET_OWNER] = do_nothing,
	[VHOST_USER_SET_MEM_TABLE] = set_mem_table,
	[VHOST_USER_SET_LOG_BASE] = set_log_base,
	/* To hear of each change of the log: nobody waits for that. */
	[VHOST_USER_SET_LOG_FD] = do_nothing,
	[VHOST_USER_SET_VRING_NUM] = set_vring_num,
	[VHOST_USER_SET_VRING_ADDR] = set_vring_addr,
	[VHOST_USER_SET_VRING_BASE] = set_vring_base,
	[VHOST_USER_GET_VRING_BASE] = get_vring_base,
	[VHOST_USER_SET_VRING_KICK] = set_vring_kick,
	[VHOST_USER_SET_VRING_CALL] = set_vring_call,
	[VHOST_USER_SET_VRING_ERR] = set_vring_err,
	[VHOST_USER_GET_PROTOCOL_FEATURES] = get_protocol_features,
	[VHOST_USER_SET_PROTOCOL_FEATURES] = set_protocol_features,
	[VHOST_USER_GET_QUEUE_NUM] = get_queue_num,
	[VHOST_USER_SET_VRING_ENABLE] = set_vring_enable,
	[VHOST_USER_SET_BACKEND_REQ_FD] = set_backend_req_fd,
	[VHOST_USER_IOTLB_MSG] = iotlb_msg,
	[VHOST_USER_GET_CONFIG] = get_config,
	[VHOST_USER_SET_CONFIG] = set_config,
	[VHOST_USER_GET_INFLIGHT_FD] = get_inflight_fd,
	[VHOST_USER_SET_INFLIGHT_FD] = set_inflight_fd,
	[VHOST_USER_RESET_DEVICE] = reset_device,
	[VHOST_USER_GET_MAX_MEM_SLOTS] = get_max_mem_slots,
	[VHOST_USER_ADD_MEM_REG] = add_mem_reg,
	[VHOST_USER_REM_MEM_REG] = rem_mem_reg,
	[VHOST_USER_SET_STATUS] = set_status,
	[VHOST_USER_GET_STATUS] = get_status,
	[VHOST_USER_SET_DEVICE_STATE_FD] = set_device_state_fd,
	[VHOST_USER_CHECK_DEVICE_STATE] = check_device_state,
};

int vhu_command(struct vhost_user_port *p, struct err *err)
{
	const struct vhost_user_header *h = &p->main.header;
	const struct vhost_user_rule *rule = vhost_user_rule(h->request);
	int rc = vhost_user_check_request(h, rule, err), nr = p->main.fds.nr;

	p->reply_len = 0;
	p->reply_fd = -1;
	p->forgiven = false;
	if (rc)
		return rc;
	if (nr < rule->min_fds || nr > rule->max_fds)
		return err_set(err, -EPROTO, "%d descriptors, expected %u to %u", nr, rule->min_fds,
			rule->max_fds);
	/*
	 * Offered is enough: some front-ends ask for the number of queues before they acknowledge
	 * that they may.
	 */
	if (!handlers[h->request] ||
		(rule->feature >= 0 && !(vhu_protocol_features(p) & 1ull << rule->feature)))
		return err_set(err, -ENOTSUP, "not offered");
	return handlers[h->request](p, err);
}

bool vhu_regret(struct vhost_user_port *p, int rc)
{
	fd_close(&p->reply_fd);
	switch (p->main.header.request) {
	case VHOST_USER_GET_CONFIG:
		p->reply_len = 0;
		return true;
	case VHOST_USER_GET_INFLIGHT_FD:
		memset(&p->reply.inflight, 0, sizeof(p->reply.inflight));
		p->reply_len = sizeof(p->reply.inflight);
		return true;
	case VHOST_USER_SET_DEVICE_STATE_FD:
		reply_u64(p, VHOST_USER_NOFD | ((unsigned)-rc & VHOST_USER_STATE_ERROR_MASK));
		return true;
	case VHOST_USER_CHECK_DEVICE_STATE:
		reply_u64(p, (uint64_t)-rc);
		return true;
	}
	return false;
}
