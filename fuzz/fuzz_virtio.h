/*
 * fuzz_virtio.h - a virtio model under a hostile driver and a hostile host
 *
 * The input is a list of steps: make a request available, write anywhere in guest memory (the rings
 * lie there as well), kick, let the device work, stop and start a queue, write the
 * configuration, load a state, and bytes for and from the model's host end. What must hold: no
 * crash, no leak, no hang; a queue that is stopped has no request open; a refused state has a text.
 *
 * A queue's ring is split; what rings may do to the virtqueue has targets of its own.
 */
#ifndef FUZZ_FUZZ_VIRTIO_H
#define FUZZ_FUZZ_VIRTIO_H

#include <signal.h>
#include <sys/socket.h>

#include "../tests/unit/virtio_rig.h"
#include "base/log.h"
#include "fuzz.h"

#define FUZZ_RING      64
#define FUZZ_MEMORY    (128 * KIB)
#define FUZZ_MAX_STEPS 200

struct fuzz_virtio {
	struct rig r;
	unsigned nr_queues;
	bool threads; /* the model has some: settling takes a pause */
	int hosts[2]; /* the other ends of what the model is wired to; -1: none */
	uint16_t next_desc[RIG_QUEUES];
};

static inline void fuzz_virtio_init(void)
{
	log_init("fuzz", LOG_ERR);
	signal(SIGPIPE, SIG_IGN);
}

static inline void fuzz_settle(struct fuzz_virtio *f)
{
	struct virtio_model *m = f->r.model;

	if (f->threads) {
		m->ops->pause(m);
		m->ops->resume(m);
	}
	rig_settle(&f->r);
}

/* Pieces with bytes of the input in them, anywhere in memory. */
static inline void fuzz_add(struct fuzz_virtio *f, unsigned queue, struct input *in)
{
	struct drv *d = f->r.q[queue].drv;
	unsigned nr = 1 + take8(in) % 4, nr_out = take8(in) % (nr + 1);
	uint16_t head = f->next_desc[queue];

	for (unsigned i = 0; i < nr; i++) {
		uint16_t at = (uint16_t)((head + i) % FUZZ_RING);
		uint32_t len = take8(in), off = take16(in) % (FUZZ_MEMORY / 2) + FUZZ_MEMORY / 2;
		size_t n = MIN(len, FUZZ_MEMORY - off);
		const uint8_t *bytes = i < nr_out ? take_bytes(in, &n) : NULL;

		if (bytes)
			memcpy(f->r.mem->hva + off, bytes, n);
		d->desc[at] = (struct vring_desc){
			.addr = DRV_IOVA + off,
			.len = len == 255 ? 4096 : len,
			.flags = (uint16_t)((i >= nr_out ? VRING_DESC_F_WRITE : 0) |
					    (i + 1 < nr ? VRING_DESC_F_NEXT : 0)),
			.next = (uint16_t)((at + 1) % FUZZ_RING),
		};
	}
	f->next_desc[queue] = (uint16_t)((head + nr) % FUZZ_RING);
	d->avail->ring[d->avail_idx % FUZZ_RING] = head;
	__atomic_store_n(&d->avail->idx, ++d->avail_idx, __ATOMIC_RELEASE);
	fd_signal(f->r.q[queue].kick);
}

static inline void fuzz_poke(struct fuzz_virtio *f, struct input *in)
{
	uint32_t off = take32(in) % FUZZ_MEMORY;
	size_t len = take8(in) % 64;
	const uint8_t *bytes;

	len = MIN(len, FUZZ_MEMORY - off);
	bytes = take_bytes(in, &len);
	memcpy(f->r.mem->hva + off, bytes, len);
}

static inline void fuzz_restart(struct fuzz_virtio *f, unsigned queue, struct input *in)
{
	struct rig_queue *q = &f->r.q[queue];
	bool anew = take8(in) & 1;
	struct vq_setup s = drv_setup(q->drv);

	if (q->running)
		s.base = rig_stop(&f->r, queue);
	if (anew) {
		drv_reset(q->drv);
		f->next_desc[queue] = 0;
		s.base = 0;
	}
	rig_start_as(&f->r, queue, &s);
}

static inline void fuzz_config(struct fuzz_virtio *f, struct input *in)
{
	struct virtio_model *m = f->r.model;
	size_t off = take8(in), len = take8(in);
	const uint8_t *bytes = take_bytes(in, &len);

	if (m->ops->config_read)
		m->ops->config_read(m);
	if (m->ops->config_write && len && range_ok(off, len, m->config_size))
		m->ops->config_write(m, off, bytes, len);
}

static inline void fuzz_state(struct fuzz_virtio *f, struct input *in)
{
	struct virtio_model *m = f->r.model;
	struct err err = { 0 };
	size_t len = take16(in);
	const uint8_t *bytes;
	char own[16384];
	ssize_t n;

	if (!m->ops->save)
		return;
	n = m->ops->save(m, own, sizeof(own));
	require(n > 0);
	bytes = take_bytes(in, &len);
	if (len)
		require_text(m->ops->load(m, bytes, len, &err), &err);
	err.text[0] = '\0';
	require(m->ops->load(m, own, (size_t)n, &err) == 0);
}

static inline void fuzz_host(struct fuzz_virtio *f, struct input *in)
{
	int fd = f->hosts[take8(in) & 1];
	size_t len = take16(in) % 20000;
	static uint8_t buf[20000];
	size_t given = MIN(len, (size_t)64);
	const uint8_t *bytes = take_bytes(in, &given);

	if (fd < 0)
		return;
	if (len & 1) {
		while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
			;
		return;
	}
	memset(buf, 'x', len);
	memcpy(buf, bytes, given);
	send(fd, buf, len, MSG_DONTWAIT);
}

static inline void fuzz_step(struct fuzz_virtio *f, struct input *in)
{
	uint8_t op = take8(in);
	unsigned queue = take8(in) % f->nr_queues;

	switch (op % 12) {
	case 0:
	case 1:
	case 2:
	case 3:
		fuzz_add(f, queue, in);
		break;
	case 4:
		fuzz_poke(f, in);
		break;
	case 5:
		fd_signal(f->r.q[queue].kick);
		break;
	case 6:
		fuzz_settle(f);
		break;
	case 7:
		fuzz_restart(f, queue, in);
		break;
	case 8:
		fuzz_config(f, in);
		break;
	case 9:
		fuzz_state(f, in);
		break;
	default:
		fuzz_host(f, in);
	}
}

/* The model is made: run the input against it, and free everything. */
static inline void fuzz_virtio_run(struct fuzz_virtio *f, uint64_t features, struct input *in)
{
	struct virtio_model *m = f->r.model;

	f->nr_queues = m->nr_queues;
	if (m->ops->set_features)
		m->ops->set_features(m, m->features & features);
	for (unsigned i = 0; i < f->nr_queues; i++) {
		rig_queue(&f->r, i, &(struct drv_config){ .size = FUZZ_RING });
		f->r.q[i].drv->config.indirect = true; /* without tables for it: pokes make them */
		require(rig_start(&f->r, i) == 0);
	}
	require(f->r.mem->next <= FUZZ_MEMORY / 2);
	for (unsigned i = 0; i < FUZZ_MAX_STEPS && in->left; i++)
		fuzz_step(f, in);
	fuzz_settle(f);
	/* First: at the end a console waits for whoever reads its output. */
	fd_close(&f->hosts[0]);
	fd_close(&f->hosts[1]);
	rig_fini(&f->r);
}

#endif
