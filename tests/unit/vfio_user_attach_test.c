/* vfio_user_attach_test.c - attaching to good, odd and hostile servers */
#include "slow_file.h"
#include "vfio_mini.h"

/* --- servers that cannot be attached to: what is said, and that nothing is left over --- */

static bool on_version(const struct rec *r)
{
	return r->h.command == VFIO_USER_VERSION;
}

static bool silent(struct fake *f, const struct rec *r)
{
	return true;
}

static bool half_a_header(struct fake *f, const struct rec *r)
{
	fake_raw(f, "\1\0\1\0", 4, NULL, 0);
	return closes(f, r);
}

static bool tiny_size(struct fake *f, const struct rec *r)
{
	struct vfio_user_header h = {
		.id = r->h.id, .command = r->h.command, .size = 7, .flags = VFIO_USER_TYPE_REPLY
	};

	fake_raw(f, &h, sizeof(h), NULL, 0);
	return true;
}

static bool strange_type(struct fake *f, const struct rec *r)
{
	struct vfio_user_header h = {
		.id = r->h.id, .command = r->h.command, .size = 16, .flags = 7
	};

	fake_raw(f, &h, sizeof(h), NULL, 0);
	return true;
}

static bool wrong_id(struct fake *f, const struct rec *r)
{
	struct rec other = *r;

	if (r->h.command != VFIO_USER_DEVICE_GET_INFO)
		return false;
	other.h.id += 77;
	fake_answer(f, &other);
	return true;
}

static bool wrong_command(struct fake *f, const struct rec *r)
{
	struct rec other = *r;

	if (r->h.command != VFIO_USER_DEVICE_GET_INFO)
		return false;
	other.h.command = VFIO_USER_DEVICE_GET_IRQ_INFO;
	fake_reply(f, &other, r->data, 16, NULL, 0);
	return true;
}

static bool short_info(struct fake *f, const struct rec *r)
{
	if (r->h.command != VFIO_USER_DEVICE_GET_INFO)
		return false;
	fake_reply(f, r, r->data, 8, NULL, 0);
	return true;
}

static bool long_info(struct fake *f, const struct rec *r)
{
	static const uint8_t bytes[4096];

	if (r->h.command != VFIO_USER_DEVICE_GET_INFO)
		return false;
	fake_reply(f, r, bytes, sizeof(bytes), NULL, 0);
	return true;
}

static bool errors_at(struct fake *f, const struct rec *r)
{
	if (r->h.command != f->hook_arg)
		return false;
	fake_error(f, r, EPERM);
	return true;
}

static bool fds_unasked(struct fake *f, const struct rec *r)
{
	if (r->h.command != VFIO_USER_DEVICE_GET_IRQ_INFO)
		return false;
	send_fds(f, r, 9);
	return true;
}

static bool version_fds(struct fake *f, const struct rec *r)
{
	struct vfio_user_version v = { 0, 1 };
	int fds[3] = { f->wake, f->wake, f->wake };

	fake_reply(f, r, &v, sizeof(v), fds, (int)f->hook_arg);
	return true;
}

static bool twin_is_no_socket(struct fake *f, const struct rec *r)
{
	static const char text[] =
		"\0\0\1\0{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";

	if (!on_version(r))
		return false;
	fake_reply(f, r, text, sizeof(text), &f->wake, (int)f->hook_arg);
	return true;
}

static bool wants_more_room(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_info info;

	if (r->h.command != VFIO_USER_DEVICE_GET_REGION_INFO)
		return false;
	memcpy(&info, r->data, sizeof(info));
	info.argsz = info.argsz * 2;
	fake_reply(f, r, &info, sizeof(info), NULL, 0);
	return true;
}

static bool wants_more_doorbells(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_io_fds info;

	if (r->h.command != VFIO_USER_DEVICE_GET_REGION_IO_FDS)
		return false;
	memcpy(&info, r->data, sizeof(info));
	info.argsz *= 2;
	info.count = 1;
	fake_reply(f, r, &info, sizeof(info), NULL, 0);
	return true;
}

static bool other_region(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_info info;

	if (r->h.command != VFIO_USER_DEVICE_GET_REGION_INFO)
		return false;
	memcpy(&info, r->data, sizeof(info));
	info.index++;
	fake_reply(f, r, &info, sizeof(info), NULL, 0);
	return true;
}

static bool short_config(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	if (r->h.command != VFIO_USER_REGION_READ)
		return false;
	memcpy(&a, r->data, sizeof(a));
	fake_reply(f, r, &a, sizeof(a), NULL, 0);
	return true;
}

static bool doorbells_cut_off(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_io_fds head;

	if (r->h.command != VFIO_USER_DEVICE_GET_REGION_IO_FDS)
		return false;
	memcpy(&head, r->data, sizeof(head));
	head.argsz = sizeof(head);
	head.count = 1u << 30;
	fake_reply(f, r, &head, sizeof(head), NULL, 0);
	return true;
}

/* Commands of its own, for ever, instead of an answer; our replies stay unread. */
static bool floods(struct fake *f, const struct rec *r)
{
	struct vfio_user_dma_access a = { 0, 4096 };
	struct vfio_user_header h = { .command = VFIO_USER_DMA_READ, .size = 32 };
	struct pollfd p = { .fd = f->conn, .events = POLLOUT };

	if (r->h.command != VFIO_USER_DEVICE_GET_INFO)
		return false;
	while (poll(&p, 1, -1) == 1 && !(p.revents & (POLLERR | POLLHUP))) {
		struct iovec iov[2] = { { &h, sizeof(h) }, { &a, sizeof(a) } };

		if (sock_send(f->conn, iov, 2, NULL, 0) < 0)
			p.events = 0; /* full: only the end is waited for */
	}
	return true;
}

static void set_major_1(struct fake *f)
{
	f->major = 1;
	f->minor = 0;
}

static void set_minor_9(struct fake *f)
{
	f->minor = 9;
}

static void set_bad_json(struct fake *f)
{
	f->json = "{\"capabilities\":";
}

static void set_no_pci(struct fake *f)
{
	f->flags = 0;
}

static void set_few_regions(struct fake *f)
{
	f->nr_regions = 3;
}

static void set_huge_region(struct fake *f)
{
	f->regions[0].size = 1ull << 63;
}

static void set_huge_bar(struct fake *f)
{
	f->regions[0].size = 1ull << 40;
}

static void set_no_config(struct fake *f)
{
	f->regions[CONFIG].size = 32;
}

static void set_write_only_config(struct fake *f)
{
	f->regions[CONFIG].flags = VFIO_USER_REGION_FLAG_WRITE;
}

static void set_many_irqs(struct fake *f)
{
	f->irqs[VFIO_USER_IRQ_MSIX] = (struct vfio_user_irq_info){ .flags = 1, .count = 5000 };
}

static void set_overlap(struct fake *f)
{
	mappable(f, 0, 0x4000, 0x4000);
	sparse(f, 0, 0x1000, 0x2000);
	sparse(f, 1, 0x2000, 0x1000);
}

static void set_area_outside(struct fake *f)
{
	mappable(f, 0, 0x4000, 0x8000);
	sparse(f, 0, 0x3000, 0x2000);
}

static void set_short_file(struct fake *f)
{
	mappable(f, 0, 0x4000, 0x3000);
	sparse(f, 0, 0x1000, 0x3000);
}

static void set_two_fds_for_three(struct fake *f)
{
	mappable(f, 0, 0x4000, 0x4000);
	f->regions[0].fds[1] = memfd(0x4000);
	sparse(f, 0, 0x0000, 0x1000);
	sparse(f, 1, 0x1000, 0x1000);
	sparse(f, 2, 0x3000, 0x1000);
}

static void set_doorbell_outside(struct fake *f)
{
	doorbell(f, 4094, 0);
}

static void set_doorbell_without_fd(struct fake *f)
{
	doorbell(f, 16, 1);
}

static void set_header_type(struct fake *f)
{
	f->config[PCI_HEADER_TYPE] = 1;
}

static void set_no_vendor(struct fake *f)
{
	put16(f->config, 0xffff);
}

static void set_bar5_64(struct fake *f)
{
	f->regions[5].size = 4096;
	f->config[PCI_BASE_ADDRESS_5] = 4;
}

static void set_upper_half(struct fake *f)
{
	f->regions[1].size = 4096;
	f->config[PCI_BASE_ADDRESS_0] = 4;
}

static void msix_cap(struct fake *f, unsigned nr, uint32_t table, uint32_t pba)
{
	put16(f->config + PCI_STATUS, PCI_STATUS_CAP_LIST);
	f->config[PCI_CAPABILITY_LIST] = 0x40;
	f->config[0x40] = PCI_CAP_ID_MSIX;
	put16(f->config + 0x42, nr - 1);
	put32(f->config + 0x44, table);
	put32(f->config + 0x48, pba);
	f->irqs[VFIO_USER_IRQ_MSIX] = (struct vfio_user_irq_info){ .flags = 1, .count = nr };
}

static void set_msix_outside(struct fake *f)
{
	msix_cap(f, 256, 0x800, 0);
}

static void set_msix_no_bar(struct fake *f)
{
	msix_cap(f, 4, 3, 0);
}

static void set_msix_in_io(struct fake *f)
{
	msix_cap(f, 4, 2, 0);
}

static void set_pba_outside(struct fake *f)
{
	msix_cap(f, 4, 0, 0x1000);
}

static void set_pba_in_table(struct fake *f)
{
	msix_cap(f, 4, 0, 0x38);
}

static void set_few_maps(struct fake *f)
{
	f->json = "{\"capabilities\":{\"max_dma_maps\":0}}";
}

static const struct bad {
	const char *name;
	void (*set)(struct fake *f);
	fake_hook hook;
	unsigned arg;
	const char *text; /* part of what is said */
} bad[] = {
	{ "never answers", NULL, silent, 0, "no answer within 200 ms (VERSION)" },
	{ "closes", NULL, closes, 0, "hung up" },
	{ "sends half a header", NULL, half_a_header, 0, "hung up" },
	{ "announces 100 MB", NULL, garbage, 0, "message of 104857600 bytes" },
	{ "announces 7 bytes", NULL, tiny_size, 0, "message of 7 bytes" },
	{ "sends a strange type", NULL, strange_type, 0, "message type 7" },
	{ "major version 1", set_major_1, NULL, 0, "version 1.0, expected 0.1 or lower" },
	{ "minor version 9", set_minor_9, NULL, 0, "version 0.9, expected 0.1 or lower" },
	{ "bad JSON", set_bad_json, NULL, 0, "not JSON" },
	{ "no DMA maps", set_few_maps, NULL, 0, "max_dma_maps 0" },
	{ "refuses VERSION", NULL, errors_at, VFIO_USER_VERSION, "refused VERSION: Operation not" },
	{ "refuses GET_INFO", NULL, errors_at, VFIO_USER_DEVICE_GET_INFO,
		"refused DEVICE_GET_INFO" },
	{ "refuses RESET", NULL, errors_at, VFIO_USER_DEVICE_RESET, "refused DEVICE_RESET" },
	{ "refuses DMA_MAP", NULL, errors_at, VFIO_USER_DMA_MAP, "refused DMA_MAP of RAM at 0x0" },
	{ "refuses reads", NULL, errors_at, VFIO_USER_REGION_READ, "refused REGION_READ" },
	{ "refuses INTx", NULL, errors_at, VFIO_USER_DEVICE_SET_IRQS,
		"refused DEVICE_SET_IRQS for interrupt type 0" },
	{ "knows no region", NULL, errors_at, VFIO_USER_DEVICE_GET_REGION_INFO,
		"configuration space of 0 bytes" },
	{ "answers what was not asked", NULL, wrong_id, 0, "which was not asked" },
	{ "answers something else", NULL, wrong_command, 0,
		"reply to DEVICE_GET_IRQ_INFO where one to DEVICE_GET_INFO" },
	{ "short answer", NULL, short_info, 0, "DEVICE_GET_INFO: reply of 8 bytes" },
	{ "long answer", NULL, long_info, 0, "DEVICE_GET_INFO: reply of 4096 bytes" },
	{ "descriptors unasked", NULL, fds_unasked, 0, "9 descriptors with a reply" },
	{ "a twin unasked", NULL, version_fds, 1, "1 descriptors without a twin socket" },
	{ "many descriptors", NULL, version_fds, 3, "3 descriptors with a reply of VERSION" },
	{ "a twin that is missing", NULL, twin_is_no_socket, 0, "twin socket is missing" },
	{ "a twin that is no socket", NULL, twin_is_no_socket, 1, "twin socket is not a socket" },
	{ "not PCI", set_no_pci, NULL, 0, "not a PCI device" },
	{ "three regions", set_few_regions, NULL, 0, "3 regions, a PCI device has 8" },
	{ "a region of 2^63", set_huge_region, NULL, 0, "more than 2^62" },
	{ "a 32-bit BAR of 1 TiB", set_huge_bar, NULL, 0, "too many for a 32-bit BAR" },
	{ "always wants more room", NULL, wants_more_room, 0, "bytes of information asked for" },
	{ "always wants more room for doorbells", NULL, wants_more_doorbells, 0,
		"bytes of doorbells asked for" },
	{ "tells of another region", NULL, other_region, 0, "asked about region 0, told about" },
	{ "configuration of 32 bytes", set_no_config, NULL, 0, "configuration space of 32 bytes" },
	{ "unreadable configuration", set_write_only_config, NULL, 0, "that cannot be read" },
	{ "short configuration reads", NULL, short_config, 0, "asked for 256 bytes, got 0" },
	{ "5000 interrupts", set_many_irqs, NULL, 0, "5000 interrupts, expected at most 2048" },
	{ "areas that overlap", set_overlap, NULL, 0, "overlaps another one" },
	{ "an area past the end", set_area_outside, NULL, 0, "passes the region's end" },
	{ "a file that is too short", set_short_file, NULL, 0, "of a file of 0x3000 bytes" },
	{ "too few descriptors", set_two_fds_for_three, NULL, 0, "2 descriptors for 3 areas" },
	{ "doorbells cut off", NULL, doorbells_cut_off, 0, "1073741824 doorbells in 16 bytes" },
	{ "a doorbell past the end", set_doorbell_outside, NULL, 0, "passes the region's end" },
	{ "a doorbell without descriptor", set_doorbell_without_fd, NULL, 0,
		"descriptor 1 is missing" },
	{ "a bridge", set_header_type, NULL, 0, "header type 1" },
	{ "no vendor", set_no_vendor, NULL, 0, "vendor id 0xffff" },
	{ "BAR 5 with 64 bits", set_bar5_64, NULL, 0, "BAR 5 cannot have 64 bits" },
	{ "a region in an upper half", set_upper_half, NULL, 0, "there can be no region 1" },
	{ "MSI-X table past the end", set_msix_outside, NULL, 0,
		"table (0x1000 bytes at 0x800) passes" },
	{ "MSI-X table nowhere", set_msix_no_bar, NULL, 0, "in BAR 3, which is no memory BAR" },
	{ "MSI-X table in ports", set_msix_in_io, NULL, 0, "in BAR 2, which is no memory BAR" },
	{ "pending bits past the end", set_pba_outside, NULL, 0,
		"pending bits (0x8 bytes at 0x1000)" },
	{ "pending bits in the table", set_pba_in_table, NULL, 0, "overlap in BAR 0" },
	{ "floods and does not read", NULL, floods, 0,
		"no answer within 200 ms (DEVICE_GET_INFO)" },
};

static void a_bad_server_gets_one_line_and_leaves_nothing(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct fake *f = fake_new();
		struct world *w = world_new();
		struct user_device_params p = world_params(f);
		int fds;

		if (bad[i].set)
			bad[i].set(f);
		f->hook = bad[i].hook;
		f->hook_arg = bad[i].arg;
		fds = fd_count();
		fake_start(f);
		/* The others are given time, also on a slow machine. */
		if (strstr(bad[i].text, "200 ms"))
			p.times.attach_ms = 200;
		if (!world_attach_with(w, &p))
			fail_msg("%s: attached", bad[i].name);
		if (!strstr(w->err.text, bad[i].text) ||
			strncmp(w->err.text, "user-device dev0: ", 18) || strchr(w->err.text, '\n'))
			fail_msg("%s: said '%s', not '%s'", bad[i].name, w->err.text, bad[i].text);
		fake_kill(f);
		if (fd_count() != fds)
			fail_msg("%s: %d descriptors, not %d", bad[i].name, fd_count(), fds);
		world_free(w);
		fake_free(f);
	}
}

/* Its daemon need not answer who touches a mapping, nor who closes a descriptor. */
static void a_file_with_somebody_behind_it_is_not_mapped(void **state)
{
	struct slow_file slow;
	int fd = slow_file_open(&slow);
	struct fake *f;
	struct world *w;

	if (fd < 0)
		skip();
	f = fake_new();
	w = world_new();
	mappable(f, 0, 0x1000, 0x1000);
	close(f->regions[0].fds[0]);
	f->regions[0].fds[0] = fd;
	fake_start(f);
	assert_int_not_equal(world_attach(w, f), 0);
	if (!strstr(w->err.text, "region 0: the file is neither memory nor on a block device"))
		fail_msg("said '%s'", w->err.text);
	assert_false(atomic_load(&slow.state->late));
	slow_file_answer(&slow);
	fake_kill(f);
	world_free(w);
	fake_free(f);
	slow_file_end(&slow);
}

static void nobody_to_connect_to_is_said_at_once(void **state)
{
	struct world *w = world_new();
	struct user_device_params p = {
		.dev = { .id = "dev0", .slot = 5 },
		.socket = "/tmp/no-such-socket",
	};
	char path[64];
	int fd;

	assert_int_equal(world_attach_with(w, &p), -ENOENT);
	assert_non_null(strstr(w->err.text,
		"user-device dev0: cannot connect to /tmp/no-such-socket: no such socket"));

	/* A socket whose listener died */
	snprintf(path, sizeof(path), "/tmp/vfio-dead-%d", (int)getpid());
	w->err.text[0] = 0;
	fd = sock_listen(path, 1, &w->err);
	assert_true(fd >= 0);
	close(fd);
	p.socket = path;
	assert_int_equal(world_attach_with(w, &p), -ECONNREFUSED);
	assert_non_null(strstr(w->err.text, "nobody listens there"));
	unlink(path);
	world_free(w);
}

/* Fill the queue of a server that does not accept. Gives the connections, nr of them. */
static unsigned fill_queue(const struct fake *f, int *fds, unsigned most)
{
	unsigned nr = 0;

	while (nr < most && (fds[nr] = sock_connect(f->path, NULL)) >= 0)
		nr++;
	return nr;
}

static void a_queue_that_is_full_is_waited_for(void **state)
{
	for (unsigned in_time = 0; in_time < 2; in_time++) {
		struct fake *f = fake_new();
		struct world *w = world_new();
		struct user_device_params p = world_params(f);
		struct err err = { 0 };
		int fds[64];
		unsigned nr;

		fake_start(f);
		fake_pause(f, true);
		nr = fill_queue(f, fds, 64);
		assert_true(nr < 64);
		p.dev.attached = world_attached;
		p.dev.arg = w;
		p.times.attach_ms = in_time ? 0 : 50;
		assert_int_equal(user_device_attach(&w->m, &p, &w->dev, &err), 0);
		if (in_time)
			fake_pause(f, false);
		world_run(w);
		assert_int_equal(w->rc, in_time ? 0 : -EAGAIN);
		if (!in_time)
			assert_non_null(strstr(w->err.text, "the listener's queue is full"));
		while (nr)
			close(fds[--nr]);
		world_free(w);
		fake_free(f);
	}
}

/* --- good and odd servers --- */

static void an_attach_tells_ram_resets_once_and_sets_intx(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	struct vfio_user_dma_map map;
	struct rec r;

	fake_start(f);
	w = world_with(f);
	assert_string_equal(device_bdf(w->dev), "0000:00:05.0");
	r = fake_wait(f, VFIO_USER_DMA_MAP, 1);
	memcpy(&map, r.data, sizeof(map));
	assert_int_equal(r.nr_fds, 1);
	assert_int_equal(map.addr, 0);
	assert_int_equal(map.size, RAM_SIZE);
	assert_int_equal(map.flags, VFIO_USER_DMA_MAP_READ | VFIO_USER_DMA_MAP_WRITE);
	assert_int_equal(map.argsz, sizeof(map));
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 1);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 1);
	assert_int_equal(fake_count(f, VFIO_USER_VERSION), 1);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0) >= 0);
	assert_true(fake_unmask_fd(f) >= 0);
	assert_int_equal(world_log(w, ""), 0);
	world_free(w);
	fake_free(f);
}

static bool hangs_up_on_io_fds(struct fake *f, const struct rec *r)
{
	return r->h.command == VFIO_USER_DEVICE_GET_REGION_IO_FDS && closes(f, r);
}

static void a_server_that_hangs_up_on_io_fds_is_not_asked_again(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	f->hook = hangs_up_on_io_fds;
	fake_start(f);
	w = world_with(f);
	assert_int_equal(fake_count(f, VFIO_USER_VERSION), 2);
	world_free(w);
	fake_free(f);
}

static bool only_small_reads(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	if (r->h.command != VFIO_USER_REGION_READ || a.count <= 4)
		return false;
	fake_error(f, r, EINVAL);
	return true;
}

static void job_ids(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, PCI_VENDOR_ID, 4), 0x0dc8494f);
}

static void configuration_is_read_in_the_pieces_a_server_takes(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	f->hook = only_small_reads;
	fake_start(f);
	w = world_with(f);
	assert_int_equal(fake_count(f, VFIO_USER_REGION_READ), 1 + 64);
	as_vcpu(w, job_ids, NULL);
	world_free(w);
	fake_free(f);

	/* By its limit, here the smallest there can be */
	f = fake_new();
	f->json = "{\"capabilities\":{\"max_data_xfer_size\":8}}";
	fake_start(f);
	w = world_with(f);
	assert_int_equal(fake_count(f, VFIO_USER_REGION_READ), 32);
	as_vcpu(w, job_ids, NULL);
	world_free(w);
	fake_free(f);
}

static void a_server_without_capabilities_has_the_defaults(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	f->json = NULL;
	f->minor = 0;
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_ids, NULL);
	world_free(w);
	fake_free(f);
}

/* Answers one byte at a time. */
static bool dribbles(struct fake *f, const struct rec *r)
{
	uint8_t buf[32];
	struct vfio_user_header h = r->h;
	struct vfio_user_device_info p = { sizeof(p), f->flags, f->nr_regions, f->nr_irqs };

	if (r->h.command != VFIO_USER_DEVICE_GET_INFO)
		return false;
	h.flags = VFIO_USER_TYPE_REPLY;
	h.size = sizeof(buf);
	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), &p, sizeof(p));
	for (unsigned i = 0; i < sizeof(buf); i++)
		fake_raw(f, buf + i, 1, NULL, 0);
	return true;
}

static void answers_may_come_in_pieces(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	f->hook = dribbles;
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_ids, NULL);
	world_free(w);
	fake_free(f);
}

static void what_changed_during_an_attach_is_restored_once_more(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { .stale = true };

	fake_start(f);
	mini_start(&m, f, 0);
	assert_int_equal(m.rounds, 2);
	mini_end(&m);
	fake_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_attach_tells_ram_resets_once_and_sets_intx),
		cmocka_unit_test(a_bad_server_gets_one_line_and_leaves_nothing),
		cmocka_unit_test(a_file_with_somebody_behind_it_is_not_mapped),
		cmocka_unit_test(nobody_to_connect_to_is_said_at_once),
		cmocka_unit_test(a_queue_that_is_full_is_waited_for),
		cmocka_unit_test(a_server_that_hangs_up_on_io_fds_is_not_asked_again),
		cmocka_unit_test(configuration_is_read_in_the_pieces_a_server_takes),
		cmocka_unit_test(a_server_without_capabilities_has_the_defaults),
		cmocka_unit_test(answers_may_come_in_pieces),
		cmocka_unit_test(what_changed_during_an_attach_is_restored_once_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
