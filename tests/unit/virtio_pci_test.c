/* virtio_pci_test.c - the virtio function's registers as a guest sees them */
#include "virtio_fake.h"

/* --- configuration space --- */

static void identity_is_that_of_its_type(void **state)
{
	struct world *w = world_plugged();

	assert_int_equal(cfg_read(w, PCI_VENDOR_ID, 4), 0x10421af4);
	assert_int_equal(cfg_read(w, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x00421af4);
	assert_int_equal(cfg_read(w, PCI_REVISION_ID, 4), 0x01000001);
	assert_int_equal(cfg_read(w, PCI_INTERRUPT_PIN, 1), 1);
	assert_true(cfg_read(w, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
	world_free(w);
}

static void capabilities_name_places_inside_their_bars(void **state)
{
	static const unsigned types[] = { VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_PCI_CAP_NOTIFY_CFG,
		VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_PCI_CAP_PCI_CFG };
	struct world *w = world_plugged();

	for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
		unsigned pos = cap_find(w, types[i], 0);
		uint32_t off = cfg_read(w, pos + VIRTIO_PCI_CAP_OFFSET, 4);
		uint32_t len = cfg_read(w, pos + VIRTIO_PCI_CAP_LENGTH, 4);

		assert_true(pos);
		assert_int_equal(cap_find(w, types[i], 1), 0);
		assert_true(range_ok(off, len, 0x10000));
		assert_true(len || types[i] == VIRTIO_PCI_CAP_PCI_CFG);
		assert_int_equal(off % 4, 0);
	}
	assert_int_equal(cap_find(w, VIRTIO_PCI_CAP_SHARED_MEMORY_CFG, 0), 0);
	assert_int_equal(
		cfg_read(w, cap_find(w, VIRTIO_PCI_CAP_NOTIFY_CFG, 0) + VIRTIO_PCI_NOTIFY_CAP_MULT,
			4),
		4);
	/* A vector for each queue and one for the configuration. */
	assert_int_equal(cfg_read(w, msix_cap(w) + PCI_MSIX_FLAGS, 2), 2);
	world_free(w);
}

static void the_window_reaches_registers(void **state)
{
	struct world *w = world_plugged();
	unsigned pos = cap_find(w, VIRTIO_PCI_CAP_PCI_CFG, 0);
	uint64_t common = cap_place(w, VIRTIO_PCI_CAP_COMMON_CFG);

	cfg_write(w, pos + VIRTIO_PCI_CAP_BAR, 1, 0);
	cfg_write(w, pos + VIRTIO_PCI_CAP_OFFSET, 4, (uint32_t)common + VIRTIO_PCI_COMMON_NUMQ);
	cfg_write(w, pos + VIRTIO_PCI_CAP_LENGTH, 4, 2);
	assert_int_equal(cfg_read(w, pos + 16, 2), 2);
	cfg_write(w, pos + VIRTIO_PCI_CAP_OFFSET, 4, (uint32_t)common + VIRTIO_PCI_COMMON_STATUS);
	cfg_write(w, pos + VIRTIO_PCI_CAP_LENGTH, 4, 1);
	cfg_write(w, pos + 16, 1, 3);
	assert_int_equal(status(w), 3);
	world_free(w);
}

static void the_window_refuses_what_is_no_access(void **state)
{
	static const struct {
		uint32_t bar, off, len;
	} bad[] = { { 1, 0x14, 1 }, { 0, 0x14, 3 }, { 0, 0x14, 0 }, { 0, 0x13, 2 },
		{ 0, 0xffff, 2 }, { 0, 0x10000, 1 }, { 0, 0xfffffffc, 4 }, { 6, 0, 4 },
		{ 255, 0, 4 } };
	struct world *w = world_plugged();
	unsigned pos = cap_find(w, VIRTIO_PCI_CAP_PCI_CFG, 0);

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		cfg_write(w, pos + VIRTIO_PCI_CAP_BAR, 1, bad[i].bar);
		cfg_write(w, pos + VIRTIO_PCI_CAP_OFFSET, 4, bad[i].off);
		cfg_write(w, pos + VIRTIO_PCI_CAP_LENGTH, 4, bad[i].len);
		cfg_write(w, pos + 16, 4, 0x01010101);
		assert_int_equal(cfg_read(w, pos + 16, 4), 0x01010101);
		assert_int_equal(status(w), 0);
	}
	world_free(w);
}

/* --- features and status --- */

static void features_are_shown_in_words(void **state)
{
	struct world *w = world_new();
	uint64_t features;

	/* Of the old interface, the protocol's, virtual functions: not for the driver. */
	w->f.b.info.features |= VIRTIO_BIT(24) | VIRTIO_BIT(27) | VIRTIO_BIT(30) | VIRTIO_BIT(37) |
				VIRTIO_BIT(41) | VIRTIO_BIT(63);
	world_plug(w);
	com_write(w, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	features = com_read(w, VIRTIO_PCI_COMMON_DF, 4);
	com_write(w, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	features |= com_read(w, VIRTIO_PCI_COMMON_DF, 4) << 32;
	assert_true(features ==
		    (VERSION_1 | VIRTIO_BIT(34) | VIRTIO_BIT(40) | VIRTIO_BIT(5) | VIRTIO_BIT(63)));
	com_write(w, VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_DF, 4), 0);
	com_write(w, VIRTIO_PCI_COMMON_DFSELECT, 4, UINT32_MAX);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_DF, 4), 0);
	world_free(w);
}

static bool features_accepted(uint64_t features)
{
	struct world *w = world_plugged();
	bool accepted;

	accept_features(w, features);
	accepted = status(w) & VIRTIO_CONFIG_S_FEATURES_OK;
	assert_int_equal(world_log(w, "the driver"), !accepted);
	set_status(w, DRIVER_OK);
	/* Without an agreement nothing starts. */
	assert_int_equal(w->f.starts, accepted);
	world_free(w);
	return accepted;
}

static void features_ok_is_for_what_was_offered(void **state)
{
	assert_true(features_accepted(VERSION_1));
	assert_true(features_accepted(VERSION_1 | VIRTIO_BIT(5)));
	assert_false(features_accepted(VERSION_1 | VIRTIO_BIT(6)));
	assert_false(features_accepted(VERSION_1 | VIRTIO_BIT(63)));
	assert_false(features_accepted(VIRTIO_BIT(5)));
	assert_false(features_accepted(0));
}

static void features_are_fixed_by_features_ok(void **state)
{
	struct world *w = world_plugged();

	accept_features(w, VERSION_1 | VIRTIO_BIT(6));
	accept_features(w, VERSION_1);
	assert_true(status(w) & VIRTIO_CONFIG_S_FEATURES_OK);
	accept_features(w, VERSION_1 | VIRTIO_BIT(5));
	com_write(w, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_GF, 4), 0);
	com_write(w, VIRTIO_PCI_COMMON_GFSELECT, 4, 7);
	com_write(w, VIRTIO_PCI_COMMON_GF, 4, 1);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_GF, 4), 0);
	set_status(w, DRIVER_OK);
	assert_true(w->f.features == VERSION_1);
	world_free(w);
}

static void status_bits_stay_until_the_reset(void **state)
{
	struct world *w = world_driven();

	set_status(w, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(status(w), DRIVER_OK);
	set_status(w, VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED);
	assert_int_equal(status(w), DRIVER_OK | VIRTIO_CONFIG_S_FAILED);
	assert_int_equal(w->f.status, DRIVER_OK | VIRTIO_CONFIG_S_FAILED);
	assert_int_equal(w->f.starts, 1);
	set_status(w, 0);
	assert_int_equal(status(w), 0);
	assert_int_equal(w->f.status, 0);
	assert_int_equal(w->f.stops, 1);
	set_status(w, 0);
	assert_int_equal(w->f.stops, 1);
	world_free(w);
}

static void a_start_that_is_refused_needs_a_reset(void **state)
{
	struct world *w = world_plugged();

	w->f.start_rc = -EINVAL;
	accept_features(w, VERSION_1);
	set_queue(w, 0, NO_VECTOR);
	set_status(w, DRIVER_OK);
	assert_int_equal(status(w), DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET);
	/* And says so. */
	assert_int_equal(isr_read(w), VIRTIO_PCI_ISR_CONFIG);
	set_status(w, 0);
	assert_int_equal(status(w), 0);
	assert_int_equal(w->f.stops, 0);
	w->f.start_rc = 0;
	accept_features(w, VERSION_1);
	set_status(w, DRIVER_OK);
	assert_int_equal(status(w), DRIVER_OK);
	world_free(w);
}

/* --- queues --- */

static void a_started_queue_is_what_the_driver_wrote(void **state)
{
	struct world *w = world_driven();
	const struct virtio_queue *q = w->f.queues;

	assert_int_equal(w->f.starts, 1);
	assert_true(w->f.features == (VERSION_1 | VIRTIO_BIT(VIRTIO_BIT_RING_RESET)));
	for (unsigned i = 0; i < 2; i++) {
		assert_true(q[i].enabled);
		assert_int_equal(q[i].size, 64);
		assert_int_equal(q[i].desc, 0x10000 * (i + 1));
		assert_int_equal(q[i].driver, 0x10000 * (i + 1) + 0x1000);
		assert_int_equal(q[i].device, 0x10000 * (i + 1) + 0x2000);
		assert_true(q[i].kick_fd >= 0 && q[i].call_fd >= 0);
	}
	assert_int_not_equal(q[0].kick_fd, q[1].kick_fd);
	world_free(w);
}

static uint16_t resized(struct world *w, uint32_t size)
{
	com_write(w, VIRTIO_PCI_COMMON_Q_SIZE, 2, size);
	return (uint16_t)com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2);
}

static void sizes_of_split_rings_are_powers_of_two(void **state)
{
	struct world *w = world_plugged();

	accept_features(w, VERSION_1);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2), 256);
	assert_int_equal(resized(w, 0), 256);
	assert_int_equal(resized(w, 3), 256);
	assert_int_equal(resized(w, 512), 256);
	assert_int_equal(resized(w, 0xffff), 256);
	assert_int_equal(resized(w, 1), 1);
	assert_int_equal(resized(w, 256), 256);
	/* The device has room for 200. */
	com_write(w, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	assert_int_equal(resized(w, 200), 128);
	world_free(w);
}

static void sizes_of_packed_rings_are_any(void **state)
{
	struct world *w = world_plugged();

	com_write(w, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	accept_features(w, VERSION_1 | VIRTIO_BIT(VIRTIO_BIT_RING_PACKED));
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2), 200);
	assert_int_equal(resized(w, 7), 7);
	assert_int_equal(resized(w, 0), 7);
	assert_int_equal(resized(w, 201), 7);
	world_free(w);
}

static void an_enabled_queue_is_fixed(void **state)
{
	struct world *w = world_plugged();

	accept_features(w, VERSION_1);
	set_queue(w, 0, NO_VECTOR);
	assert_int_equal(resized(w, 32), 64);
	com_write(w, VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x123400);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x10000);
	com_write(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	world_free(w);
}

static void a_misaligned_queue_is_not_enabled(void **state)
{
	static const struct {
		unsigned off, by;
		bool split, packed; /* is it fine? */
	} cases[] = {
		{ VIRTIO_PCI_COMMON_Q_DESCLO, 8, false, false },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, 16, true, true },
		{ VIRTIO_PCI_COMMON_Q_AVAILLO, 1, false, false },
		{ VIRTIO_PCI_COMMON_Q_AVAILLO, 2, true, false },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, 2, false, false },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, 4, true, true },
	};

	for (unsigned i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		bool packed = i % 2, fine = packed ? cases[i / 2].packed : cases[i / 2].split;
		struct world *w = world_plugged();

		accept_features(w, VERSION_1 | (packed ? VIRTIO_BIT(VIRTIO_BIT_RING_PACKED) : 0));
		com_write(w, cases[i / 2].off, 4, 0x10000 + cases[i / 2].by);
		com_write(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), fine);
		assert_int_equal(world_log(w, "not aligned"), !fine);
		world_free(w);
	}
}

static void a_queue_waits_for_features_ok(void **state)
{
	struct world *w = world_plugged();

	set_queue(w, 0, NO_VECTOR);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(world_log(w, "FEATURES_OK"), 1);
	world_free(w);
}

static void queues_that_are_not_there_have_no_size(void **state)
{
	static const unsigned absent[] = { 1, 2, 3, 0x7fff, 0xffff };
	struct world *w = world_new();

	w->f.b.info.queue_sizes[1] = 0;
	world_plug(w);
	accept_features(w, VERSION_1);
	for (unsigned i = 0; i < ARRAY_SIZE(absent); i++) {
		set_queue(w, absent[i], 0);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SELECT, 2), absent[i]);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_MSIX, 2), NO_VECTOR);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0);
	}
	world_free(w);
}

static void a_queue_may_come_while_others_run(void **state)
{
	struct world *w = world_plugged();

	accept_features(w, VERSION_1);
	set_queue(w, 0, NO_VECTOR);
	set_status(w, DRIVER_OK);
	assert_false(w->f.queues[1].enabled);
	set_queue(w, 1, NO_VECTOR);
	assert_int_equal(w->f.queue_starts, 1);
	assert_int_equal(w->f.index, 1);
	assert_int_equal(w->f.queues[1].desc, 0x20000);
	world_free(w);
}

static void a_queue_is_reset_alone(void **state)
{
	struct world *w = world_driven();

	com_write(w, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	com_write(w, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
	assert_int_equal(w->f.queue_stops, 1);
	assert_int_equal(w->f.index, 1);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_RESET, 2), 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 2), 128);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0);
	assert_int_equal(status(w), DRIVER_OK);
	set_queue(w, 1, NO_VECTOR);
	assert_int_equal(w->f.queue_starts, 1);
	assert_int_equal(w->f.queues[1].size, 64);
	assert_true(w->f.queues[1].call_fd >= 0);
	assert_int_equal(w->f.starts, 1);
	world_free(w);
}

static void a_queue_is_not_reset_without_the_feature(void **state)
{
	struct world *w = world_driven_with(world_new(), VERSION_1);

	com_write(w, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
	assert_int_equal(w->f.queue_stops, 0);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	world_free(w);
}

static void a_queue_that_the_device_refuses_needs_a_reset(void **state)
{
	struct world *w = world_driven();

	w->f.queue_rc = -EIO;
	com_write(w, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
	assert_int_equal(status(w), DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET);
	set_status(w, 0);
	accept_features(w, VERSION_1);
	set_status(w, DRIVER_OK);
	set_queue(w, 0, NO_VECTOR);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(status(w), DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET);
	world_free(w);
}

/* --- accesses --- */

static void every_read_gives_the_same_bytes(void **state)
{
	struct world *w = world_driven();
	uint8_t bytes[64];

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)com_read(w, i, 1);
	for (unsigned size = 2; size <= 8; size *= 2)
		for (unsigned off = 0; off + size <= sizeof(bytes); off++) {
			uint64_t want = 0;

			memcpy(&want, bytes + off, size);
			assert_int_equal(com_read(w, off, size), want);
		}
	/* Over the end: nothing is there. */
	assert_true(com_read(w, 60, 8) == UINT64_MAX);
	world_free(w);
}

static void a_write_acts_on_whole_fields(void **state)
{
	struct world *w = world_plugged();

	accept_features(w, VERSION_1);
	com_write(w, VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x1122334455667780);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x1122334455667780);
	/* Upper half of one and lower half of the next */
	com_write(w, VIRTIO_PCI_COMMON_Q_DESCHI, 8, 0xaabbccdd00000001);
	assert_true(com_read(w, VIRTIO_PCI_COMMON_Q_DESCLO, 8) == 0x0000000155667780);
	assert_true(com_read(w, VIRTIO_PCI_COMMON_Q_AVAILLO, 8) == 0xaabbccdd);
	/* Size and vector together; the vector is none. */
	com_write(w, VIRTIO_PCI_COMMON_Q_SIZE, 4, 0x00010020);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_SIZE, 4), 0x00010020);
	for (unsigned off = VIRTIO_PCI_COMMON_Q_DESCLO; off < VIRTIO_PCI_COMMON_Q_NDATA; off++) {
		uint64_t before = com_read(w, off & ~7u, 8);

		com_write(w, off, 1, 0xee);
		assert_true(com_read(w, off & ~7u, 8) == before);
	}
	com_write(w, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 1);
	assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	world_free(w);
}

static void what_the_driver_may_not_write_stays(void **state)
{
	static const unsigned fixed[] = { VIRTIO_PCI_COMMON_DF, VIRTIO_PCI_COMMON_NUMQ,
		VIRTIO_PCI_COMMON_CFGGENERATION, VIRTIO_PCI_COMMON_Q_NOFF,
		VIRTIO_PCI_COMMON_Q_NDATA };
	struct world *w = world_plugged();

	for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++) {
		unsigned size = fixed[i] == VIRTIO_PCI_COMMON_DF	      ? 4
				: fixed[i] == VIRTIO_PCI_COMMON_CFGGENERATION ? 1
									      : 2;
		uint64_t before = com_read(w, fixed[i], size);

		com_write(w, fixed[i], size, ~before);
		assert_int_equal(com_read(w, fixed[i], size), before);
	}
	world_free(w);
}

static void the_configuration_is_the_devices(void **state)
{
	struct world *w = world_plugged();
	uint64_t at = cap_place(w, VIRTIO_PCI_CAP_DEVICE_CFG);

	for (unsigned i = 0; i < VIRTIO_CONFIG_ROOM; i++)
		w->f.config[i] = (uint8_t)(i * 7);
	assert_int_equal(reg_read(w, at, 4), 0x150e0700);
	assert_int_equal(reg_read(w, at + 3, 2), 0x1c15);
	assert_int_equal(reg_read(w, at + 8, 8), 0x69625b544d463f38);
	assert_int_equal(reg_read(w, at + 4095, 1), (uint8_t)(4095 * 7));
	reg_write(w, at + 5, 2, 0xbeef);
	assert_int_equal(w->f.config[5], 0xef);
	assert_int_equal(w->f.config[6], 0xbe);
	assert_int_equal(w->f.config[7], 49);
	/* An access that leaves it is none. */
	assert_int_equal(reg_read(w, at + 4095, 2), 0xffff);
	world_free(w);
}

/* --- attach --- */

static void attach_fails_with(void (*change)(struct virtio_info *info), const char *text)
{
	struct world *w = world_new();

	change(&w->f.b.info);
	assert_int_equal(w->owner->ops->attached(w->owner, &w->err), -EPROTO);
	assert_int_equal(w->reports, 0);
	if (!strstr(w->err.text, text))
		fail_msg("\"%s\" has no \"%s\"", w->err.text, text);
	w->owner->ops->failed(w->owner, -EPROTO, &w->err);
	assert_int_equal(w->rc, -EPROTO);
	world_free(w);
}

static void make_legacy(struct virtio_info *info)
{
	info->features = VIRTIO_BIT(5);
}

static void make_type_0(struct virtio_info *info)
{
	info->type = 0;
}

static void make_type_64(struct virtio_info *info)
{
	info->type = 64;
}

static void make_many_queues(struct virtio_info *info)
{
	info->nr_queues = VIRTIO_MAX_QUEUES + 1;
}

static void make_large_queue(struct virtio_info *info)
{
	info->queue_sizes[1] = 32769;
}

static void attach_refuses_what_cannot_be_a_function(void **state)
{
	attach_fails_with(make_legacy, "VERSION_1");
	attach_fails_with(make_type_0, "virtio type 0");
	attach_fails_with(make_type_64, "virtio type 64");
	attach_fails_with(make_many_queues, "1025 queues");
	attach_fails_with(make_large_queue, "32769");
}

static void a_device_may_have_no_queue_or_all(void **state)
{
	static const unsigned counts[] = { 0, 1, VIRTIO_MAX_QUEUES / 4 };

	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		struct world *w = world_new();

		w->f.b.info.nr_queues = (uint16_t)counts[i];
		for (unsigned q = 0; q < counts[i]; q++)
			w->f.b.info.queue_sizes[q] = 1024;
		world_plug(w);
		assert_int_equal(com_read(w, VIRTIO_PCI_COMMON_NUMQ, 2), counts[i]);
		assert_int_equal(fake_kvm.nr_io, counts[i]);
		accept_features(w, VERSION_1);
		set_status(w, DRIVER_OK);
		assert_int_equal(w->f.starts, 1);
		world_free(w);
	}
}

static void a_device_without_a_type_row_is_other(void **state)
{
	struct world *w = world_new();

	w->f.b.info.type = 63;
	world_plug(w);
	assert_int_equal(cfg_read(w, PCI_DEVICE_ID, 2), 0x107f);
	assert_int_equal(cfg_read(w, PCI_CLASS_DEVICE, 2), 0xff00);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(identity_is_that_of_its_type),
		cmocka_unit_test(capabilities_name_places_inside_their_bars),
		cmocka_unit_test(the_window_reaches_registers),
		cmocka_unit_test(the_window_refuses_what_is_no_access),
		cmocka_unit_test(features_are_shown_in_words),
		cmocka_unit_test(features_ok_is_for_what_was_offered),
		cmocka_unit_test(features_are_fixed_by_features_ok),
		cmocka_unit_test(status_bits_stay_until_the_reset),
		cmocka_unit_test(a_start_that_is_refused_needs_a_reset),
		cmocka_unit_test(a_started_queue_is_what_the_driver_wrote),
		cmocka_unit_test(sizes_of_split_rings_are_powers_of_two),
		cmocka_unit_test(sizes_of_packed_rings_are_any),
		cmocka_unit_test(an_enabled_queue_is_fixed),
		cmocka_unit_test(a_misaligned_queue_is_not_enabled),
		cmocka_unit_test(a_queue_waits_for_features_ok),
		cmocka_unit_test(queues_that_are_not_there_have_no_size),
		cmocka_unit_test(a_queue_may_come_while_others_run),
		cmocka_unit_test(a_queue_is_reset_alone),
		cmocka_unit_test(a_queue_is_not_reset_without_the_feature),
		cmocka_unit_test(a_queue_that_the_device_refuses_needs_a_reset),
		cmocka_unit_test(every_read_gives_the_same_bytes),
		cmocka_unit_test(a_write_acts_on_whole_fields),
		cmocka_unit_test(what_the_driver_may_not_write_stays),
		cmocka_unit_test(the_configuration_is_the_devices),
		cmocka_unit_test(attach_refuses_what_cannot_be_a_function),
		cmocka_unit_test(a_device_may_have_no_queue_or_all),
		cmocka_unit_test(a_device_without_a_type_row_is_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
