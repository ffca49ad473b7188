/*
 * vu_command.c - what each command of a vfio-user client does
 *
 * The header and the length of the payload have been checked against msg_rules[]; here the
 * fields are. An answer that does not fit the client's argsz is cut to its fixed part, which
 * says how much is needed.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/fd.h"
#include "base/util.h"
#include "serve/vu_port.h"

/* What this end takes. Clients exist that refuse more than 16 descriptors and 65535 maps. */
static const struct vfio_user_caps our_caps = {
	.max_msg_fds = 16,
	.max_data_xfer_size = VFIO_USER_MAX_DATA,
	.max_dma_maps = 65535,
	.pgsizes = PAGE_SIZE_4K,
	.write_multiple = true,
};

/* VERSION */

/* A second socket for our commands, when the client asked for one and takes a descriptor. */
static int offer_twin(struct vfio_user_port *p, struct vfio_user_caps *caps, struct err *err)
{
	int fds[2], rc;

	if (!p->peer.twin_socket || !p->peer.max_msg_fds)
		return 0;
	rc = sock_pair(fds);
	if (!rc) {
		p->twin_client_fd = fds[1];
		rc = vu_stream_init(&p->twin, fds[0], VFIO_USER_SERVER);
	}
	if (rc)
		return err_set(err, rc, "twin socket: %s", strerror(-rc));
	p->reply_fds[0] = p->twin_client_fd;
	p->nr_reply_fds = 1;
	caps->twin_socket = true;
	caps->twin_fd_index = 0;
	return 0;
}

static ssize_t version(struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_caps caps = our_caps;
	struct vfio_user_version v;
	const char *json = (const char *)msg->payload + sizeof(v);
	size_t len = msg->len - sizeof(v);
	int rc;

	if (p->negotiated)
		return err_set(err, -EINVAL, "a second VERSION");
	memcpy(&v, msg->payload, sizeof(v));
	if (v.major != VFIO_USER_VERSION_MAJOR)
		return err_set(err, -EINVAL, "version %u.%u, expected %u.x", v.major, v.minor,
			VFIO_USER_VERSION_MAJOR);
	rc = vfio_user_parse_caps(json, len, &p->peer, err);
	if (!rc)
		rc = offer_twin(p, &caps, err);
	if (rc)
		return rc;
	rc = vfio_user_format_answer(&caps, json, len, (char *)out + sizeof(v),
		vfio_user_rule(VFIO_USER_VERSION)->reply_max - sizeof(v));
	if (rc < 0)
		return err_set(err, rc, "version data");
	v.minor = MIN(v.minor, VFIO_USER_VERSION_MINOR);
	memcpy(out, &v, sizeof(v));
	p->negotiated = true;
	loop_timer_del(&p->deadline);
	return (ssize_t)sizeof(v) + rc;
}

/* Memory */

static ssize_t map(struct vfio_user_port *p, struct vu_msg *msg, struct err *err)
{
	struct vfio_user_dma_map m;
	int rc;

	memcpy(&m, msg->payload, sizeof(m));
	/* Bits 2 and 3 are hints of an older client on how to reach the memory. */
	if (m.flags & ~0xfu)
		return err_set(err, -EINVAL, "flags 0x%x", m.flags);
	rc = dma_map(&p->dma, m.addr, m.size, m.flags & 3, m.offset,
		msg->nr_fds ? fd_take(&msg->fds[0]) : -1, err);
	return rc ? err_prefix(err, rc, "0x%" PRIx64 "+0x%" PRIx64, m.addr, m.size) : 0;
}

static ssize_t unmap(struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_dma_unmap u;

	memcpy(&u, msg->payload, sizeof(u));
	if (u.flags == VFIO_USER_DMA_UNMAP_ALL && !u.addr && !u.size)
		dma_unmap_all(&p->dma);
	else if (u.flags)
		return err_set(err, -EINVAL, "flags 0x%x", u.flags);
	else if (dma_unmap(&p->dma, u.addr, u.size))
		return err_set(err, -ENOENT, "0x%" PRIx64 "+0x%" PRIx64 " is not a mapping", u.addr,
			u.size);
	memcpy(out, &u, sizeof(u));
	return sizeof(u);
}

/* Information */

static ssize_t device_info(struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_device_info info;

	memcpy(&info, msg->payload, sizeof(info));
	if (info.argsz < sizeof(info))
		return err_set(err, -EINVAL, "argsz %u", info.argsz);
	info = (struct vfio_user_device_info){
		.argsz = sizeof(info),
		.flags = VFIO_USER_DEVICE_FLAG_RESET | VFIO_USER_DEVICE_FLAG_PCI,
		.num_regions = PCI_MODEL_REGIONS,
		.num_irqs = PCI_IRQ_TYPES,
	};
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static uint32_t region_flags(const struct pci_region *r)
{
	return (r->flags & PCI_REGION_READ ? VFIO_USER_REGION_FLAG_READ : 0) |
	       (r->flags & PCI_REGION_WRITE ? VFIO_USER_REGION_FLAG_WRITE : 0) |
	       (r->flags & PCI_REGION_MMAP ? VFIO_USER_REGION_FLAG_MMAP : 0);
}

/* The sparse-mmap capability of a region that has areas. Returns its length. */
static size_t put_areas(const struct pci_region *r, uint8_t *out)
{
	struct vfio_user_cap_sparse cap = {
		.header = { .id = VFIO_USER_CAP_SPARSE_MMAP, .version = 1 },
		.nr_areas = r->nr_areas,
	};
	size_t len = sizeof(cap);

	memcpy(out, &cap, sizeof(cap));
	for (uint32_t i = 0; i < r->nr_areas; i++) {
		struct vfio_user_sparse_area area = { r->areas[i].offset, r->areas[i].size };

		memcpy(out + len, &area, sizeof(area));
		len += sizeof(area);
	}
	return len;
}

static ssize_t region_info(
	struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_region_info info;
	const struct pci_region *r;
	uint32_t room, full = sizeof(info);
	size_t len = sizeof(info);

	memcpy(&info, msg->payload, sizeof(info));
	if (info.argsz < sizeof(info))
		return err_set(err, -EINVAL, "argsz %u", info.argsz);
	if (info.index >= PCI_MODEL_REGIONS)
		return err_set(err, -EINVAL, "region %u", info.index);
	room = info.argsz;
	r = &p->model->regions[info.index];
	if (r->flags & PCI_REGION_MMAP && r->nr_areas)
		full += (uint32_t)(sizeof(struct vfio_user_cap_sparse) +
				   r->nr_areas * sizeof(struct vfio_user_sparse_area));
	info = (struct vfio_user_region_info){
		.argsz = full,
		.index = info.index,
		.size = r->size,
		.flags = r->size ? region_flags(r) : 0,
	};
	if (info.flags & VFIO_USER_REGION_FLAG_MMAP) {
		info.offset = r->fd_offset;
		if (!p->peer.max_msg_fds) {
			/* It cannot be given the descriptor. */
			info.flags &= ~VFIO_USER_REGION_FLAG_MMAP;
			info.argsz = full = sizeof(info);
		} else if (room >= full) {
			p->reply_fds[p->nr_reply_fds++] = r->fd;
		}
	}
	if (full > sizeof(info) && room >= full) {
		info.flags |= VFIO_USER_REGION_FLAG_CAPS;
		info.cap_offset = sizeof(info);
		len += put_areas(r, out + sizeof(info));
	}
	memcpy(out, &info, sizeof(info));
	return (ssize_t)len;
}

/* The index of fd among the reply's descriptors, added when it is new; -1: no room. */
static int reply_fd(struct vfio_user_port *p, int fd)
{
	for (int i = 0; i < p->nr_reply_fds; i++)
		if (p->reply_fds[i] == fd)
			return i;
	if ((uint32_t)p->nr_reply_fds == MIN(p->peer.max_msg_fds, ARRAY_SIZE(p->reply_fds)))
		return -1;
	p->reply_fds[p->nr_reply_fds] = fd;
	return p->nr_reply_fds++;
}

static ssize_t region_io_fds(
	struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_region_io_fds q;
	const struct pci_region *r;
	uint32_t room, max, nr = 0;

	memcpy(&q, msg->payload, sizeof(q));
	if (q.argsz < sizeof(q) || q.flags || q.count)
		return err_set(
			err, -EINVAL, "argsz %u, flags 0x%x, count %u", q.argsz, q.flags, q.count);
	if (q.index >= PCI_MODEL_REGIONS || !p->model->regions[q.index].size)
		return err_set(err, -EINVAL, "region %u", q.index);
	r = &p->model->regions[q.index];
	room = (q.argsz - (uint32_t)sizeof(q)) / sizeof(struct vfio_user_sub_region);
	max = (vfio_user_rule(VFIO_USER_DEVICE_GET_REGION_IO_FDS)->reply_max - sizeof(q)) /
	      sizeof(struct vfio_user_sub_region);
	/* All or none; doorbells whose descriptor the client cannot take stay messages. */
	for (uint32_t i = 0; i < r->nr_doorbells && nr < max; i++) {
		const struct pci_doorbell *d = &r->doorbells[i];
		struct vfio_user_sub_region s = {
			.offset = d->offset,
			.size = d->size,
			.type = VFIO_USER_IO_FD_TYPE_IOEVENTFD,
			.flags = d->flags,
			.datamatch = d->datamatch,
		};
		int fd_index = reply_fd(p, d->fd);

		if (fd_index < 0)
			break;
		s.fd_index = (uint32_t)fd_index;
		memcpy(out + sizeof(q) + nr++ * sizeof(s), &s, sizeof(s));
	}
	q.count = nr;
	q.argsz = (uint32_t)(sizeof(q) + nr * sizeof(struct vfio_user_sub_region));
	memcpy(out, &q, sizeof(q));
	if (room >= nr)
		return q.argsz;
	p->nr_reply_fds = 0;
	return sizeof(q);
}

static ssize_t irq_info(struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_irq_info info;

	memcpy(&info, msg->payload, sizeof(info));
	if (info.argsz < sizeof(info))
		return err_set(err, -EINVAL, "argsz %u", info.argsz);
	if (info.index >= PCI_IRQ_TYPES)
		return err_set(err, -EINVAL, "interrupt type %u", info.index);
	info = (struct vfio_user_irq_info){
		.argsz = sizeof(info),
		.flags = vu_irqs_flags(&p->irqs, info.index),
		.index = info.index,
		.count = p->irqs.count[info.index],
	};
	memcpy(out, &info, sizeof(info));
	return sizeof(info);
}

static ssize_t set_irqs(struct vfio_user_port *p, struct vu_msg *msg, struct err *err)
{
	struct vfio_user_irq_set set;

	memcpy(&set, msg->payload, sizeof(set));
	if (set.argsz < sizeof(set))
		return err_set(err, -EINVAL, "argsz %u", set.argsz);
	return vu_irqs_set(&p->irqs, &set, msg->payload + sizeof(set), msg->len - sizeof(set),
		msg->fds, msg->nr_fds, err);
}

/* Regions */

static int refuse_access(
	const struct vfio_user_region_access *a, const char *what, int rc, struct err *err)
{
	return err_set(err, rc, "%s of %u bytes at 0x%" PRIx64 " of region %u: %s", what, a->count,
		a->offset, a->region,
		rc == -EINVAL ? "outside of it, or not allowed" : strerror(-rc));
}

static ssize_t region_read(
	struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_region_access a;
	int rc;

	memcpy(&a, msg->payload, sizeof(a));
	if (a.count > MIN(p->peer.max_data_xfer_size, (uint64_t)VFIO_USER_MAX_DATA))
		return refuse_access(&a, "read", -EINVAL, err);
	rc = pci_model_read(p->model, a.region, a.offset, out + sizeof(a), a.count);
	if (rc)
		return refuse_access(&a, "read", rc, err);
	memcpy(out, &a, sizeof(a));
	return (ssize_t)sizeof(a) + a.count;
}

/* Once a migration has taken the state, or brings another, a write would be lost. */
static int write_region(struct vfio_user_port *p, const struct vfio_user_region_access *a,
	const void *data, struct err *err)
{
	int rc = -EBUSY;

	if (p->mig.state == VU_MIG_RUNNING || p->mig.state == VU_MIG_STOP)
		rc = pci_model_write(p->model, a->region, a->offset, data, a->count);
	return rc ? refuse_access(a, "write", rc, err) : 0;
}

static ssize_t region_write(
	struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	struct vfio_user_region_access a;
	int rc;

	memcpy(&a, msg->payload, sizeof(a));
	if (msg->len - sizeof(a) != a.count)
		return err_set(err, -EINVAL, "count %u, but %zu bytes came", a.count,
			msg->len - sizeof(a));
	rc = write_region(p, &a, msg->payload + sizeof(a), err);
	if (rc)
		return rc;
	memcpy(out, &a, sizeof(a));
	return sizeof(a);
}

static ssize_t write_multi(
	struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	const uint8_t *at = msg->payload + sizeof(struct vfio_user_write_multi);
	size_t len = msg->len - sizeof(struct vfio_user_write_multi);
	struct vfio_user_write_multi m;
	uint64_t done;
	int rc = 0;

	memcpy(&m, msg->payload, sizeof(m));
	if (!p->peer.write_multiple)
		return err_set(err, -EINVAL, "was not negotiated");
	if (len % sizeof(struct vfio_user_multi_write) ||
		m.wr_cnt != len / sizeof(struct vfio_user_multi_write))
		return err_set(err, -EINVAL, "%" PRIu64 " writes in %zu bytes", m.wr_cnt, len);
	for (done = 0; done < m.wr_cnt; done++, at += sizeof(struct vfio_user_multi_write)) {
		struct vfio_user_multi_write w;

		memcpy(&w, at, sizeof(w));
		if (w.count > sizeof(w.data))
			rc = err_set(err, -EINVAL, "write %" PRIu64 " of %u bytes", done, w.count);
		else
			rc = write_region(p,
				&(struct vfio_user_region_access){ w.offset, w.region, w.count },
				w.data, err);
		if (rc)
			break;
	}
	/* The reply counts the writes that were done; with none of them it is an error. */
	if (rc && !done)
		return rc;
	m.wr_cnt = done;
	memcpy(out, &m, sizeof(m));
	return sizeof(m);
}

static ssize_t reset(struct vfio_user_port *p)
{
	pci_model_reset(p->model);
	vu_migration_reset(p);
	return 0;
}

ssize_t vu_command(struct vfio_user_port *p, struct vu_msg *msg, uint8_t *out, struct err *err)
{
	const struct vfio_user_msg_rule *rule = vfio_user_rule(msg->h.command);

	if ((uint32_t)msg->nr_fds > rule->cmd_fds)
		return err_set(err, -EINVAL, "%d descriptors, expected at most %u", msg->nr_fds,
			rule->cmd_fds);
	if (!p->negotiated && msg->h.command != VFIO_USER_VERSION) {
		vu_doom(p, "%s before VERSION", rule->name);
		return err_set(err, -EINVAL, "before VERSION");
	}
	switch (msg->h.command) {
	case VFIO_USER_REGION_READ:
		return region_read(p, msg, out, err);
	case VFIO_USER_REGION_WRITE:
		return region_write(p, msg, out, err);
	case VFIO_USER_REGION_WRITE_MULTI:
		return write_multi(p, msg, out, err);
	case VFIO_USER_DMA_MAP:
		return map(p, msg, err);
	case VFIO_USER_DMA_UNMAP:
		return unmap(p, msg, out, err);
	case VFIO_USER_DEVICE_GET_INFO:
		return device_info(msg, out, err);
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		return region_info(p, msg, out, err);
	case VFIO_USER_DEVICE_GET_REGION_IO_FDS:
		return region_io_fds(p, msg, out, err);
	case VFIO_USER_DEVICE_GET_IRQ_INFO:
		return irq_info(p, msg, out, err);
	case VFIO_USER_DEVICE_SET_IRQS:
		return set_irqs(p, msg, err);
	case VFIO_USER_DEVICE_RESET:
		return reset(p);
	case VFIO_USER_DEVICE_FEATURE:
		return vu_migration_feature(p, msg, out, err);
	case VFIO_USER_MIG_DATA_READ:
		return vu_migration_read(p, msg, out, err);
	case VFIO_USER_MIG_DATA_WRITE:
		return vu_migration_write(p, msg, err);
	case VFIO_USER_VERSION: {
		ssize_t rc = version(p, msg, out, err);

		/* The standard's answer to a version that cannot be had is to hang up. */
		if (rc < 0 && !p->negotiated)
			vu_doom(p, "VERSION: %s", err->text);
		return rc;
	}
	default:
		return err_set(err, -EINVAL, "not a command for a server");
	}
}
