/* virtio_pci_aux_test.c - a function with doorbells and notifications of others, as a guest sees it */
#include "virtio_fake.h"
#include "wire/vvu.h"

#define QUEUES 4u

static const struct virtio_pci_layout layout = {
	.class_code = VVU_CLASS,
	.subclass = VVU_SUBCLASS,
	.subsystem = 0x107d,
	.regs_size = VVU_REGS_SIZE,
	.msix = VVU_MSIX,
	.pba = VVU_PBA,
	.notify_size = 0x1000,
	.nr_vectors = VVU_NR_VECTORS(QUEUES),
	.shm = { { .bar = 1, .narrow = true }, { .bar = 1, .narrow = true }, { .bar = 4 } },
	.nr_bells = VVU_NR_DOORBELLS(QUEUES),
	.nr_notifications = QUEUES,
};

static struct world *vvu_world(bool any_length)
{
	struct world *w = world_new();

	w->m.kvm.ioeventfd_any_length = any_length;
	w->f.b.info = (struct virtio_info){
		.type = VVU_TYPE,
		.features = VERSION_1,
		.nr_queues = VVU_NR_QUEUES,
		.queue_sizes = { 64, 64 },
		.shm = { { 2, MIB }, { 3, MIB }, { 1, GIB } },
	};
	virtio_pci_set_layout(w->vp, &layout);
	world_plug(w);
	return w;
}

/* Of 32 or 64 bits. */
static uint64_t bar_at(struct world *w, unsigned bar)
{
	unsigned off = PCI_BASE_ADDRESS_0 + 4 * bar;
	uint32_t low = cfg_read(w, off, 4);

	return (low & ~15u) | (low & 4 ? (uint64_t)cfg_read(w, off + 4, 4) << 32 : 0);
}

static void wr(struct world *w, unsigned bar, uint64_t off, unsigned size, uint64_t v)
{
	io_write(w->m.bus, w->r, IO_MMIO, bar_at(w, bar) + off, size, v);
}

static uint64_t rd(struct world *w, unsigned bar, uint64_t off, unsigned size)
{
	uint64_t v;

	io_read(w->m.bus, w->r, IO_MMIO, bar_at(w, bar) + off, size, &v);
	return v;
}

static int bell(struct world *w, unsigned index, int fd)
{
	return w->owner->ops->bell(w->owner, index, fd);
}

static int notification(struct world *w, unsigned index, int fd)
{
	return w->owner->ops->notification(w->owner, index, fd);
}

static void identity_and_bars_are_those_of_the_layout(void **state)
{
	struct world *w = vvu_world(true);
	unsigned caps = 0;

	assert_int_equal(cfg_read(w, PCI_VENDOR_ID, 4), 0x107d1af4);
	assert_int_equal(cfg_read(w, PCI_REVISION_ID, 4), 0x00ff0001);
	assert_int_equal(cfg_read(w, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x107d1af4);
	assert_int_equal(cfg_read(w, PCI_BASE_ADDRESS_0, 4) & 15, 0);
	assert_int_equal(cfg_read(w, PCI_BASE_ADDRESS_0 + 8, 4) & 15, 4);
	assert_int_equal(cfg_read(w, PCI_BASE_ADDRESS_0 + 16, 4) & 15, 12);
	assert_int_equal(cfg_read(w, msix_cap(w) + PCI_MSIX_TABLE, 4), VVU_MSIX);
	assert_int_equal(cfg_read(w, msix_cap(w) + PCI_MSIX_FLAGS, 2), 2 + QUEUES);
	/* All fit into the header's 256 bytes; the last is what old drivers keep. */
	for (unsigned pos = cfg_read(w, PCI_CAPABILITY_LIST, 1); pos; caps++) {
		assert_true(pos >= 0x40 && pos + cfg_read(w, pos + 2, 1) <= 0x100);
		if (!cfg_read(w, pos + 1, 1))
			assert_int_equal(cfg_read(w, pos + 5, 1), VVU_SHM_MEMORY);
		pos = cfg_read(w, pos + 1, 1);
	}
	assert_int_equal(caps, 1 + 5 + 2 + 3);
	world_free(w);
}

static void doorbells_follow_their_bar(void **state)
{
	struct world *w = vvu_world(true);
	int fd = fd_eventfd(), other;

	assert_int_equal(bell(w, 2, fd), 0);
	assert_int_equal(doorbell_at(bar_at(w, 2) + 8, 1), fd);
	cfg_write(w, PCI_COMMAND, 2, 0);
	assert_int_equal(doorbell_at(bar_at(w, 2) + 8, 1), -1);
	/* Another one meanwhile. */
	other = fd_eventfd();
	assert_int_equal(bell(w, 2, other), 0);
	cfg_write(w, PCI_BASE_ADDRESS_0 + 8, 4, (uint32_t)bar_at(w, 2) + 0x100000);
	cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(doorbell_at(bar_at(w, 2) + 8, 1), other);
	assert_int_equal(bell(w, 2, -1), 0);
	assert_int_equal(doorbell_at(bar_at(w, 2) + 8, 1), -1);
	assert_int_equal(bell(w, VVU_NR_DOORBELLS(QUEUES), fd_eventfd()), -EINVAL);
	world_free(w);
}

static void an_old_kvm_gets_each_length(void **state)
{
	struct world *w = vvu_world(false);
	int fd = fd_eventfd();

	assert_int_equal(bell(w, 0, fd), 0);
	for (unsigned len = 1; len <= 4; len *= 2)
		assert_int_equal(doorbell_at(bar_at(w, 2), len), fd);
	assert_int_equal(bell(w, 0, fd_eventfd()), 0);
	world_free(w);
}

static void a_kvm_without_room_makes_them_slow(void **state)
{
	struct world *w = vvu_world(true);
	int fd = fd_eventfd();

	fake_kvm.refuse_ioeventfd = ENOSPC;
	assert_int_equal(bell(w, 1, fd), 0);
	wr(w, 2, 4, 1, 1);
	assert_true(signalled(fd));
	/* What is no eventfd is none. */
	fake_kvm.refuse_ioeventfd = EINVAL;
	assert_int_equal(bell(w, 1, fd_eventfd()), -EINVAL);
	wr(w, 2, 4, 1, 1);
	wr(w, 2, 0x1ffc, 4, 1);
	world_free(w);
}

static void a_kick_raises_the_vector_that_was_chosen(void **state)
{
	struct world *w = vvu_world(true);
	int kick = fd_eventfd(), other;

	cfg_write(w, msix_cap(w) + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(notification(w, 1, kick), 0);
	wr(w, 2, VVU_NOTIFY, 2, 1);
	wr(w, 2, VVU_NOTIFY + 2, 2, 5);
	assert_int_equal(rd(w, 2, VVU_NOTIFY, 4), 5 << 16 | 1);
	/* Masked: what is signalled waits, and can be seen. */
	assert_false(is_irqfd(kick));
	fd_signal(kick);
	assert_int_equal(rd(w, 0, VVU_PBA, 8), 1 << 5);
	wr(w, 0, VVU_MSIX + 5 * 16 + 12, 4, 0);
	assert_true(is_irqfd(kick));
	other = fd_eventfd();
	assert_int_equal(notification(w, 1, other), 0);
	assert_true(is_irqfd(other));
	/* Two queues may share one. */
	wr(w, 2, VVU_NOTIFY, 4, 5 << 16 | 3);
	kick = fd_eventfd();
	assert_int_equal(notification(w, 3, kick), 0);
	assert_true(is_irqfd(kick) && is_irqfd(other));
	wr(w, 0, VVU_MSIX + 5 * 16 + 12, 4, 1);
	assert_false(is_irqfd(kick) || is_irqfd(other));
	wr(w, 0, VVU_MSIX + 5 * 16 + 12, 4, 0);
	assert_true(is_irqfd(kick) && is_irqfd(other));
	/* A reset forgets the choice, not the kick. */
	wr(w, 0, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_false(is_irqfd(kick) || is_irqfd(other));
	assert_int_equal(rd(w, 2, VVU_NOTIFY, 4), 0xffff0000);
	assert_int_equal(notification(w, QUEUES, fd_eventfd()), -EINVAL);
	world_free(w);
}

static void queues_that_are_not_there_have_no_vector(void **state)
{
	struct world *w = vvu_world(true);

	for (unsigned i = 0; i < 3; i++) {
		wr(w, 2, VVU_NOTIFY, 2, (uint16_t[]){ QUEUES, 255, 65535 }[i]);
		wr(w, 2, VVU_NOTIFY + 2, 2, 1);
		assert_int_equal(rd(w, 2, VVU_NOTIFY + 2, 2), NO_VECTOR);
	}
	wr(w, 2, VVU_NOTIFY, 4, VVU_NR_VECTORS(QUEUES) << 16);
	assert_int_equal(rd(w, 2, VVU_NOTIFY, 4), 0xffff0000);
	assert_int_equal(rd(w, 2, VVU_NOTIFY + 4, 4), UINT32_MAX);
	world_free(w);
}

static void regions_lie_in_their_own_bars(void **state)
{
	struct world *w = vvu_world(true);

	assert_int_equal(map(w, VVU_SHM_INFLIGHT, 0, PIECE, memfd(PIECE), 0), 0);
	assert_int_equal(map(w, VVU_SHM_MEMORY, 0, PIECE, memfd(PIECE), 0), 0);
	assert_non_null(slot_at(bar_at(w, 1) + 2 * MIB));
	assert_non_null(slot_at(bar_at(w, 4)));
	assert_int_equal(map(w, VVU_SHM_LOG, MIB, PIECE, memfd(PIECE), 0), -EINVAL);
	/* One is moved, the other stays. */
	assert_int_equal(map(w, VVU_SHM_MEMORY, 0, PIECE, -1, 0), 0);
	assert_null(slot_at(bar_at(w, 4)));
	assert_non_null(slot_at(bar_at(w, 1) + 2 * MIB));
	cfg_write(w, PCI_COMMAND, 2, 0);
	assert_null(slot_at(bar_at(w, 1) + 2 * MIB));
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity_and_bars_are_those_of_the_layout),
		cmocka_unit_test(doorbells_follow_their_bar),
		cmocka_unit_test(an_old_kvm_gets_each_length),
		cmocka_unit_test(a_kvm_without_room_makes_them_slow),
		cmocka_unit_test(a_kick_raises_the_vector_that_was_chosen),
		cmocka_unit_test(queues_that_are_not_there_have_no_vector),
		cmocka_unit_test(regions_lie_in_their_own_bars),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
