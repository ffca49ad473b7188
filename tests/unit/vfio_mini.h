/*
 * vfio_mini.h - the transport alone: an owner that is no PCI function, and calls without a guest
 */
#ifndef TESTS_VFIO_MINI_H
#define TESTS_VFIO_MINI_H

#include "vfio_world.h"

#include "attach/vfio_user_priv.h"
#include "machine/iommu.h"

struct mini {
	struct vfio_owner owner;
	struct world *w;
	struct vfio_user *vu;
	unsigned lost, rounds;
	bool stale; /* say so once */
	bool may_fail;
	struct err err;
	bool translated; /* behind `io`, where domain 1 has two pages at 0x10000 and 0x20000 */
	struct iommu *io;
	struct dma_space *dma;
};

static struct mini *mini_of(struct vfio_owner *o)
{
	return container_of(o, struct mini, owner);
}

static int mini_prepare(
	struct vfio_owner *o, const uint8_t *config, unsigned size, bool again, struct err *err)
{
	return 0;
}

static void mini_restore(struct vfio_owner *o)
{
	mini_of(o)->rounds++;
}

static bool mini_refused(struct vfio_owner *o, uint32_t index, uint32_t flags)
{
	return false;
}

static bool mini_ready(struct vfio_owner *o, bool again)
{
	struct mini *m = mini_of(o);

	if (m->stale) {
		m->stale = false;
		return false;
	}
	vu_transport_ops.open(vfio_user_transport(m->vu));
	loop_quit(m->w->m.loop, 0);
	return true;
}

static void mini_lost(struct vfio_owner *o)
{
	mini_of(o)->lost++;
	loop_quit(mini_of(o)->w->m.loop, 0);
}

static void mini_failed(struct vfio_owner *o, int rc, const struct err *err)
{
	struct mini *m = mini_of(o);

	if (!m->may_fail)
		fail_msg("%s", err->text);
	m->err = *err;
	loop_quit(m->w->m.loop, 0);
}

static const struct vfio_owner_ops mini_ops = {
	.prepare = mini_prepare,
	.restore = mini_restore,
	.irqs_refused = mini_refused,
	.ready = mini_ready,
	.lost = mini_lost,
	.failed = mini_failed,
};

static MAYBE_UNUSED void mini_translate(struct mini *m)
{
	const struct iommu_params p = { .last = UINT64_MAX };

	assert_int_equal(dma_space_new(m->w->m.memory, "dev0", &m->dma), 0);
	assert_int_equal(iommu_new(&p, &m->io), 0);
	assert_int_equal(iommu_add(m->io, 8, m->dma), 0);
	assert_int_equal(iommu_attach(m->io, 1, 8, false), 0);
	for (uint64_t at = 0x10000; at <= 0x20000; at += 0x10000)
		assert_int_equal(iommu_map(m->io, 1, at, at + 0xfff, 0x1000, DMA_CAN_READ), 0);
}

static MAYBE_UNUSED void mini_start(struct mini *m, struct fake *f, uint32_t request_ms)
{
	struct vfio_user_params p = {
		.id = "dev0",
		.socket = f->path,
		.owner = &m->owner,
		.times = { .request_ms = request_ms, .retry_min_ms = 1, .retry_max_ms = 5 },
	};
	struct err err = { 0 };

	m->owner.ops = &mini_ops;
	m->w = world_new();
	p.loop = m->w->m.loop;
	p.memory = m->w->m.memory;
	if (m->translated)
		mini_translate(m);
	p.dma = m->dma;
	assert_int_equal(vfio_user_new(&p, &m->vu), 0);
	assert_int_equal(vfio_user_start(m->vu, &err), 0);
	world_run(m->w);
}

static MAYBE_UNUSED void mini_end(struct mini *m)
{
	vfio_user_free(m->vu);
	if (m->dma)
		iommu_remove(m->dma);
	dma_space_free(m->dma);
	iommu_free(m->io);
	world_free(m->w);
}

#endif
