/* vfio_user_test.c - attaching to good, odd and hostile servers; loss and return; DMA served;
 * nothing leaks */
#include "vfio_fake.h"

#include "attach/vfio_user_priv.h"

/* --- servers that cannot be attached to: what is said, and that nothing is left over --- */

static bool on_version(const struct rec *r)
{
	return r->h.command == VFIO_USER_VERSION;
}

static bool silent(struct fake *f, const struct rec *r)
{
	return true;
}

static bool closes(struct fake *f, const struct rec *r)
{
	shutdown(f->conn, SHUT_RDWR);
	return true;
}

static bool half_a_header(struct fake *f, const struct rec *r)
{
	fake_raw(f, "\1\0\1\0", 4, NULL, 0);
	return closes(f, r);
}

static bool garbage(struct fake *f, const struct rec *r)
{
	struct vfio_user_header h = { .id = r->h.id,
		.command = r->h.command,
		.size = 100 * MIB,
		.flags = VFIO_USER_TYPE_REPLY };

	fake_raw(f, &h, sizeof(h), NULL, 0);
	return true;
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

static void send_fds(struct fake *f, const struct rec *r, int nr)
{
	int fds[16];

	for (int i = 0; i < nr; i++)
		fds[i] = f->wake;
	fake_reply(f, r, r->data, 16, fds, nr);
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

static int memfd(uint64_t size)
{
	int fd = memfd_create("bar", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static void mappable(struct fake *f, unsigned bar, uint64_t size, uint64_t file)
{
	f->regions[bar].size = size;
	f->regions[bar].flags |= VFIO_USER_REGION_FLAG_MMAP;
	f->regions[bar].fds[0] = memfd(file);
}

static void sparse(struct fake *f, unsigned i, uint64_t off, uint64_t size)
{
	f->regions[0].areas[i] = (struct vfio_user_sparse_area){ off, size };
	f->regions[0].nr_areas = i + 1;
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

static void doorbell(struct fake *f, uint64_t off, uint32_t fd_index)
{
	f->regions[0].doorbells[0] =
		(struct vfio_user_sub_region){ .offset = off, .size = 4, .fd_index = fd_index };
	f->regions[0].nr_doorbells = 1;
	f->regions[0].doorbell_fds[0] = f->wake;
	f->regions[0].nr_doorbell_fds = 1;
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

static void close_region_fds(struct fake *f)
{
	for (unsigned i = 0; i < 6; i++)
		for (unsigned k = 0; k < 4; k++)
			fd_close(&f->regions[i].fds[k]);
}

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
		close_region_fds(f);
		world_free(w);
		fake_free(f);
	}
}

static void nobody_to_connect_to_is_said_at_once(void **state)
{
	struct world *w = world_new();
	struct user_device_params p = { .id = "dev0", .socket = "/tmp/no-such-socket", .slot = 5 };
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
		p.attached = world_attached;
		p.arg = w;
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

/* --- register accesses --- */

static void job_registers(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	reg_write(w, r, 2, 4, 1, 0xa5);
	assert_int_equal(reg_read(w, r, 2, 4, 1), 0xa5);
	reg_write(w, r, 0, 8, 8, 0x1122334455667788);
	assert_int_equal(reg_read(w, r, 0, 8, 8), 0x1122334455667788);
	assert_int_equal(reg_read(w, r, 0, 10, 2), 0x5566);
	/* Across the end of a BAR nobody answers. */
	assert_int_equal(reg_read(w, r, 2, 254, 4), 0xffffffff);
}

static void registers_are_read_and_written(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_registers, NULL);
	assert_int_equal(fake_byte(f, 2, 4), 0xa5);
	world_free(w);
	fake_free(f);
}

static bool refuses_bar_reads(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	if (r->h.command != VFIO_USER_REGION_READ || a.region == CONFIG)
		return false;
	fake_error(f, r, EINVAL);
	return true;
}

static void job_read_ones(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0xff);
	assert_int_equal(reg_read(w, r, 0, 0, 8), UINT64_MAX);
}

static void a_refused_read_is_all_ones_and_no_loss(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_set_hook(f, refuses_bar_reads, 0);
	as_vcpu(w, job_read_ones, NULL);
	assert_int_equal(world_log(w, ""), 0);
	assert_int_equal(fake_count(f, VFIO_USER_VERSION), 1);
	world_free(w);
	fake_free(f);
}

/* --- loss and return --- */

static bool is_back(struct world *w, void *arg)
{
	return world_log(w, "is back after") >= *(unsigned *)arg;
}

static void until_back(struct world *w, unsigned times)
{
	world_until(w, is_back, &times);
}

static bool bad_bar_read(struct fake *f, const struct rec *r)
{
	struct {
		struct vfio_user_region_access a;
		uint8_t byte;
	} p = { .byte = 0 };

	memcpy(&p.a, r->data, sizeof(p.a));
	if (r->h.command != VFIO_USER_REGION_READ || p.a.region == CONFIG)
		return false;
	f->hook = NULL;
	switch (f->hook_arg) {
	case 0: /* too few bytes */
		fake_reply(f, r, r->data, 16, NULL, 0);
		break;
	case 1: /* the wrong count */
		p.a.count = 77;
		fake_reply(f, r, &p, 17, NULL, 0);
		break;
	case 2: /* twice */
		fake_reply(f, r, &p, 17, NULL, 0);
		fake_reply(f, r, &p, 17, NULL, 0);
		break;
	case 3:
		garbage(f, r);
		break;
	case 4:
		send_fds(f, r, 3);
		break;
	case 5:
		closes(f, r);
		break;
	case 6: /* never */
		break;
	}
	return true;
}

static void job_read_during_loss(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	reg_read(w, r, 2, 0, 1);
	/* An answer too many may only be found at the next access. */
	reg_read(w, r, 2, 0, 1);
}

static void job_reads_zero(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0);
}

static void nonsense_while_running_is_a_loss_and_then_a_return(void **state)
{
	for (unsigned i = 0; i <= 6; i++) {
		struct fake *f = fake_new();
		struct world *w = world_new();
		struct user_device_params p = world_params(f);
		struct err err = { 0 };
		int fds;

		fake_start(f);
		p.times.request_ms = i == 6 ? 100 : 0;
		assert_int_equal(world_attach_with(w, &p), 0);
		assert_int_equal(device_plug(w->dev, &err), 0);
		fds = fd_count();
		fake_set_hook(f, bad_bar_read, i);
		as_vcpu(w, job_read_during_loss, NULL);
		until_back(w, 1);
		as_vcpu(w, job_reads_zero, NULL);
		assert_int_equal(world_log(w, "is away until"), 1);
		assert_int_equal(world_log(w, ""), 2);
		/* The server holds as many of ours as before. */
		assert_int_equal(fd_count(), fds);
		world_free(w);
		fake_free(f);
	}
}

static void job_read_slow(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0xff);
}

static bool ignores_bars(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	return r->h.command == VFIO_USER_REGION_READ && a.region != CONFIG;
}

static void several_vcpus_come_back_when_a_server_hangs(void **state)
{
	struct fake *f = fake_new();
	struct world *w = world_new();
	struct user_device_params p = world_params(f);
	struct vcpu_job jobs[4];
	struct err err = { 0 };

	fake_start(f);
	p.times.request_ms = 200;
	assert_int_equal(world_attach_with(w, &p), 0);
	assert_int_equal(device_plug(w->dev, &err), 0);
	as_vcpu(w, job_decode_on, NULL);
	fake_set_hook(f, ignores_bars, 0);
	for (unsigned i = 0; i < 4; i++) {
		jobs[i] = (struct vcpu_job){ .w = w, .fn = job_read_slow, .index = i };
		assert_int_equal(pthread_create(&jobs[i].thread, NULL, vcpu_main, &jobs[i]), 0);
	}
	until_back(w, 1);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(jobs[i].thread, NULL);
	assert_true(world_log(w, "REGION_READ was not answered within 200 ms") >= 1);
	fake_set_hook(f, NULL, 0);
	world_free(w);
	fake_free(f);
}

static void job_state(struct world *w, struct io_reader *r, void *arg)
{
	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 16);
	cfg_write(w, r, PCI_INTERRUPT_LINE, 1, 9);
}

static void job_gone(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, PCI_VENDOR_ID, 4), 0x0dc8494f);
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2) & 7, 7);
	assert_int_equal(cfg_read(w, r, PCI_CACHE_LINE_SIZE, 1), 16);
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0xff);
	reg_write(w, r, 2, 0, 1, 0x33);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 8);
}

static bool is_lost(struct world *w, void *arg)
{
	return world_log(w, "is away until") >= 1;
}

static void a_server_that_comes_back_is_told_all_again(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	uint8_t fresh[256];

	memcpy(fresh, f->config, sizeof(fresh));
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_state, NULL);
	fake_kill(f);
	world_until(w, is_lost, NULL);
	as_vcpu(w, job_gone, NULL);

	memcpy(f->config, fresh, sizeof(fresh)); /* it forgot everything */
	f->bytes[2][0] = 0x77;
	f->nr_recs = 0;
	fake_start(f);
	until_back(w, 1);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 0);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 1);
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND) & 7, 7);
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 8);
	assert_int_equal(fake_byte(f, CONFIG, PCI_INTERRUPT_LINE), 9);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0) >= 0);
	assert_true(fd_clear(fake_unmask_fd(f))); /* told to look at its level again */
	assert_int_equal(fake_byte(f, 2, 0), 0x77);
	assert_int_equal(world_log(w, ""), 2);
	world_free(w);
	fake_free(f);
}

static bool is_said(struct world *w, void *arg)
{
	return world_log(w, arg) > 0;
}

static bool asked_thrice(struct world *w, void *arg)
{
	return fake_count(arg, VFIO_USER_VERSION) >= 3;
}

static void another_device_is_refused_with_one_line_until_the_right_one_is_there(void **state)
{
	char ids[] = "the device stays away: it is another device: 494f:1111, not 494f:0dc8";
	char region[] = "it is another device: region 2 has 0x200 bytes (rw), not 0x100 (rw)";
	char irqs[] = "it is another device: 0 interrupts of type 0";
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_kill(f);
	put16(f->config + PCI_DEVICE_ID, 0x1111);
	f->nr_recs = 0;
	fake_start(f);
	world_until(w, is_said, ids);
	/* Refused again and again, said once. */
	fake_forget(f);
	world_until(w, asked_thrice, f);
	assert_int_equal(world_log(w, ids), 1);
	fake_kill(f);

	put16(f->config + PCI_DEVICE_ID, 0x0dc8);
	f->regions[2].size = 512;
	fake_start(f);
	world_until(w, is_said, region);
	fake_kill(f);

	f->regions[2].size = 256;
	f->irqs[VFIO_USER_IRQ_INTX].count = 0;
	fake_start(f);
	world_until(w, is_said, irqs);
	fake_kill(f);

	f->irqs[VFIO_USER_IRQ_INTX].count = 1;
	fake_start(f);
	until_back(w, 1);
	world_free(w);
	fake_free(f);
}

static void a_hundred_returns_leak_nothing(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	int fds = 0;

	mappable(f, 0, 0x4000, 0x4000);
	doorbell(f, 8, 0);
	f->twin = true;
	f->json = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
	fake_start(f);
	w = world_with(f);
	for (unsigned i = 1; i <= 100; i++) {
		fake_hang_up(f);
		until_back(w, i);
		if (i == 3)
			fds = fd_count();
	}
	assert_int_equal(fd_count(), fds);
	assert_int_equal(world_log(w, ""), 200);
	close_region_fds(f);
	world_free(w);
	fake_free(f);
}

static void job_waits(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	reg_read(w, r, 2, 0, 1);
}

static bool asked_bar(struct world *w, void *arg)
{
	struct fake *f = arg;
	bool yes = false;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_region_access a;

		memcpy(&a, f->recs[i].data, sizeof(a));
		yes = yes || (f->recs[i].h.command == VFIO_USER_REGION_READ && a.region == 2);
	}
	pthread_mutex_unlock(&f->lock);
	return yes;
}

/* Attached with a deadline that is not the reason why anything ends. */
static struct world *patient_world(struct fake *f)
{
	struct world *w = world_new();
	struct user_device_params p = world_params(f);
	struct err err = { 0 };

	p.times.request_ms = 3600 * 1000;
	assert_int_equal(world_attach_with(w, &p), 0);
	assert_int_equal(device_plug(w->dev, &err), 0);
	return w;
}

static void freeing_a_device_wakes_the_vcpu_that_waits_for_it(void **state)
{
	struct fake *f = fake_new();
	struct vcpu_job job = { .fn = job_waits };
	struct world *w;

	fake_start(f);
	w = patient_world(f);
	job.w = w;
	fake_set_hook(f, ignores_bars, 0);
	assert_int_equal(pthread_create(&job.thread, NULL, vcpu_main, &job), 0);
	world_until(w, asked_bar, f);
	device_free(w->dev);
	w->dev = NULL;
	pthread_join(job.thread, NULL);
	pci_lock(w->m.pci);
	io_reap(w->m.bus);
	pci_unlock(w->m.pci);
	assert_int_equal(world_log(w, ""), 0);
	world_free(w);
	fake_free(f);
}

static void nonsense_on_the_twin_socket_wakes_the_vcpu_that_waits(void **state)
{
	struct fake *f = fake_new();
	struct vcpu_job job = { .fn = job_waits };
	struct world *w;

	f->json = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
	f->twin = true;
	fake_start(f);
	w = patient_world(f);
	job.w = w;
	fake_set_hook(f, ignores_bars, 0);
	assert_int_equal(pthread_create(&job.thread, NULL, vcpu_main, &job), 0);
	world_until(w, asked_bar, f);
	fake_set_hook(f, NULL, 0);
	fake_command(
		f, true, VFIO_USER_REGION_READ, 1, VFIO_USER_TYPE_REPLY, "0123456789abcdef", 16);
	until_back(w, 1);
	pthread_join(job.thread, NULL);
	assert_int_equal(world_log(w, "a reply over the socket for the server's commands"), 1);
	world_free(w);
	fake_free(f);
}

static void job_race(struct world *w, struct io_reader *r, void *arg)
{
	_Atomic bool *stop = arg;

	decode_on(w, r);
	while (!atomic_load(stop)) {
		reg_write(w, r, 2, 0, 1, 1);
		reg_read(w, r, 2, 0, 1);
		reg_write(w, r, 0, 0, 4, 1);
		cfg_read(w, r, PCI_STATUS, 2);
		cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
		cfg_write(w, r, PCI_COMMAND, 2,
			PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	}
}

static void vcpus_go_on_while_the_device_comes_and_goes(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	struct vcpu_job jobs[3];
	_Atomic bool stop = false;

	fake_start(f);
	w = world_with(f);
	for (unsigned i = 0; i < 3; i++) {
		jobs[i] = (struct vcpu_job){ .w = w, .fn = job_race, .arg = &stop, .index = i };
		assert_int_equal(pthread_create(&jobs[i].thread, NULL, vcpu_main, &jobs[i]), 0);
	}
	for (unsigned i = 1; i <= 20; i++) {
		fake_hang_up(f);
		until_back(w, i);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(jobs[i].thread, NULL);
	fake_forget(f);
	as_vcpu(w, job_registers, NULL);
	world_free(w);
	fake_free(f);
}

/* --- RAM for the server --- */

static void job_master(struct world *w, struct io_reader *r, void *arg)
{
	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static bool answered(struct world *w, void *arg)
{
	return fake_count(arg, VFIO_USER_DMA_READ) + fake_count(arg, VFIO_USER_DMA_WRITE) > 0;
}

/* One command of the server while nobody asks it anything; its answer. */
static struct rec dma(struct world *w, struct fake *f, bool twin, uint16_t command, uint64_t addr,
	const char *data, uint64_t count, uint32_t flags)
{
	struct {
		struct vfio_user_dma_access a;
		char data[32];
	} p = { .a = { addr, count } };
	uint32_t len = sizeof(p.a);

	if (data) {
		memcpy(p.data, data, strlen(data));
		len += (uint32_t)strlen(data);
	}
	fake_forget(f);
	fake_command(f, twin, command, 99, flags, &p, len);
	if (flags & VFIO_USER_FLAG_NO_REPLY)
		return (struct rec){ 0 };
	world_until(w, answered, f);
	return fake_wait(f, command, 1);
}

static bool ram_holds(struct world *w, void *arg)
{
	char buf[8] = { 0 };

	memory_read(w->m.memory, 0x3000, buf, 4);
	return !strcmp(buf, arg);
}

static void check_dma(struct world *w, struct fake *f, bool twin)
{
	struct rec r;

	r = dma(w, f, twin, VFIO_USER_DMA_WRITE, 0x2000, "hello", 5, 0);
	assert_int_equal(r.h.id, 99);
	assert_int_equal(r.h.flags, VFIO_USER_TYPE_REPLY);
	assert_int_equal(r.len, 16);
	r = dma(w, f, twin, VFIO_USER_DMA_READ, 0x2001, NULL, 4, 0);
	assert_int_equal(r.len, 20);
	assert_memory_equal(r.data + 16, "ello", 4);
	/* Not RAM, too much, a count that is not that of the data */
	r = dma(w, f, twin, VFIO_USER_DMA_READ, RAM_SIZE - 2, NULL, 4, 0);
	assert_int_equal(r.h.flags, VFIO_USER_TYPE_REPLY | VFIO_USER_FLAG_ERROR);
	assert_int_equal(r.h.error, EFAULT);
	r = dma(w, f, twin, VFIO_USER_DMA_WRITE, UINT64_MAX - 1, "hello", 5, 0);
	assert_int_equal(r.h.error, EFAULT);
	r = dma(w, f, twin, VFIO_USER_DMA_READ, 0, NULL, VFIO_USER_MAX_DATA + 1, 0);
	assert_int_equal(r.h.error, EINVAL);
	r = dma(w, f, twin, VFIO_USER_DMA_WRITE, 0, "hello", 6, 0);
	assert_int_equal(r.h.error, EINVAL);
	/* No answer wanted */
	dma(w, f, twin, VFIO_USER_DMA_WRITE, 0x3000, "post", 4, VFIO_USER_FLAG_NO_REPLY);
	world_until(w, ram_holds, (void *)"post");
	assert_int_equal(fake_count(f, VFIO_USER_DMA_WRITE), 0);
	assert_int_equal(world_log(w, ""), 0);
}

static void dma_is_served_on_the_main_socket_of_a_bus_master(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_master, NULL);
	check_dma(w, f, false);
	as_vcpu(w, job_registers, NULL);
	world_free(w);
	fake_free(f);
}

static void dma_is_served_on_the_twin_socket(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	f->json = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
	f->twin = true;
	fake_start(f);
	w = world_with(f);
	check_dma(w, f, true);
	as_vcpu(w, job_registers, NULL);
	world_free(w);
	fake_free(f);
}

/* Before it answers a register read, the server reads and writes RAM, in the same breath. */
static bool dma_first(struct fake *f, const struct rec *r)
{
	struct vfio_user_dma_access a = { 0x2000, 2 };
	struct {
		struct vfio_user_dma_access a;
		char data[2];
	} p = { { 0x2000, 2 }, "ab" };
	const struct vfio_user_header write = { .id = 1, .command = VFIO_USER_DMA_WRITE };
	const struct vfio_user_header read = { .id = 2, .command = VFIO_USER_DMA_READ };
	struct vfio_user_region_access access;

	memcpy(&access, r->data, sizeof(access));
	if (r->h.command != VFIO_USER_REGION_READ || access.region == CONFIG)
		return false;
	fake_message(f->conn, write, &p, 18, NULL, 0);
	fake_message(f->conn, read, &a, sizeof(a), NULL, 0);
	return false;
}

static void job_reads_right(struct world *w, struct io_reader *r, void *arg)
{
	for (unsigned i = 0; i < 50; i++)
		assert_int_equal(reg_read(w, r, 2, 3, 1), 0x42);
}

static void dma_is_served_while_a_vcpu_waits(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	struct rec r;

	f->bytes[2][3] = 0x42;
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_decode_on, NULL);
	fake_set_hook(f, dma_first, 0);
	as_vcpu(w, job_reads_right, NULL);
	r = fake_wait(f, VFIO_USER_DMA_READ, 50);
	assert_memory_equal(r.data + 16, "ab", 2);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_WRITE), 50);
	/* The same with the loop reading along. */
	as_vcpu(w, job_master, NULL);
	as_vcpu(w, job_reads_right, NULL);
	fake_wait(f, VFIO_USER_DMA_READ, 100);
	fake_set_hook(f, NULL, 0);
	/* And it still does when nobody waits any more. */
	check_dma(w, f, false);
	world_free(w);
	fake_free(f);
}

static void a_command_that_is_none_of_ours_is_refused_and_no_loss(void **state)
{
	const struct vfio_user_dma_access one_byte = { 0, 1 };
	struct fake *f = fake_new();
	struct world *w;
	struct rec r;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_master, NULL);
	fake_command(f, false, 1234, 7, 0, "xyz", 3);
	fake_command(f, false, VFIO_USER_DMA_READ, 8, 0, &one_byte, sizeof(one_byte));
	world_until(w, answered, f);
	r = fake_wait(f, 1234, 1);
	assert_int_equal(r.h.error, EINVAL);
	as_vcpu(w, job_registers, NULL);
	assert_int_equal(world_log(w, ""), 0);
	world_free(w);
	fake_free(f);
}

/* --- the transport alone --- */

struct mini {
	struct vfio_owner owner;
	struct world *w;
	struct vfio_user *vu;
	unsigned lost, rounds;
	bool stale; /* say so once */
	bool may_fail;
	struct err err;
	const struct mem_range *more_ram;
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
	mini_prepare,
	mini_restore,
	mini_refused,
	mini_ready,
	mini_lost,
	mini_failed,
};

static void mini_start(struct mini *m, struct fake *f, uint32_t request_ms)
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
	assert_int_equal(vfio_user_new(&p, &m->vu), 0);
	if (m->more_ram)
		m->vu->listener.add(&m->vu->listener, m->more_ram);
	assert_int_equal(vfio_user_start(m->vu, &err), 0);
	world_run(m->w);
}

static void mini_end(struct mini *m)
{
	vfio_user_free(m->vu);
	world_free(m->w);
}

static bool ram_told(struct world *w, void *arg)
{
	struct fake *f = arg;

	return fake_count(f, VFIO_USER_DMA_MAP) == 2 && fake_count(f, VFIO_USER_DMA_UNMAP) == 1;
}

static void ram_that_comes_and_goes_is_told(void **state)
{
	struct fake *f = fake_new();
	struct mem_range range = { .gpa = 4 * GIB, .size = 4096 };
	struct vfio_user_dma_map map;
	struct mini m = { 0 };
	struct rec r;

	fake_start(f);
	mini_start(&m, f, 0);
	range.fd = memfd(4096);
	m.vu->listener.add(&m.vu->listener, &range);
	m.vu->listener.remove(&m.vu->listener, &range);
	world_until(m.w, ram_told, f);
	r = fake_wait(f, VFIO_USER_DMA_MAP, 2);
	memcpy(&map, r.data, sizeof(map));
	assert_int_equal(map.addr, 4 * GIB);
	assert_int_equal(map.size, 4096);
	assert_int_equal(r.nr_fds, 1);
	close(range.fd);
	mini_end(&m);
	fake_free(f);
}

static void ram_in_more_pieces_than_the_server_takes_is_refused(void **state)
{
	const struct mem_range range = { .gpa = 4 * GIB, .size = 4096, .fd = 0 };
	struct fake *f = fake_new();
	struct mini m = { .may_fail = true, .more_ram = &range };

	f->json = "{\"capabilities\":{\"max_dma_maps\":1}}";
	fake_start(f);
	mini_start(&m, f, 0);
	assert_non_null(strstr(m.err.text, "takes 1 DMA maps at most, guest RAM needs 2"));
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 0);
	mini_end(&m);
	fake_free(f);
}

static bool answers_with_error(struct fake *f, const struct rec *r)
{
	if (r->h.command == VFIO_USER_REGION_READ)
		fake_error(f, r, (int)f->hook_arg);
	return r->h.command == VFIO_USER_REGION_READ;
}

static void an_error_of_the_device_is_never_taken_for_a_loss(void **state)
{
	static const struct {
		unsigned error;
		int rc;
	} cases[] = { { EINVAL, -EINVAL }, { ENOTCONN, -EIO }, { ETIMEDOUT, -EIO }, { 0, -EIO },
		{ 70000, -EIO } };
	struct fake *f = fake_new();
	struct mini m = { 0 };
	struct vfio_transport *t;
	uint32_t value;

	fake_start(f);
	mini_start(&m, f, 0);
	t = vfio_user_transport(m.vu);
	/* In operation the loop waits for a hang-up, not for answers. */
	assert_int_equal(m.vu->watch_wanted, EPOLLRDHUP);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		fake_set_hook(f, answers_with_error, cases[i].error);
		assert_int_equal(t->ops->region_read(t, 0, 0, &value, 4), cases[i].rc);
	}
	assert_int_equal(m.lost, 0);
	mini_end(&m);
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

/* Post writes until the socket takes no more and n are kept back. */
static void post_until_kept(struct mini *m, unsigned n)
{
	struct vfio_transport *t = vfio_user_transport(m->vu);
	uint32_t value = 0;

	while (m->vu->nr_multi < n) {
		value++;
		assert_int_equal(t->ops->region_write(t, 0, 4, &value, 4, VFIO_CALL_POST), 0);
		assert_true(value < 100000);
	}
}

static bool got_multi(struct world *w, void *arg)
{
	return fake_hook_arg(arg) > 0;
}

static bool takes_multi(struct fake *f, const struct rec *r)
{
	struct vfio_user_write_multi head;

	if (r->h.command != VFIO_USER_REGION_WRITE_MULTI)
		return false;
	memcpy(&head, r->data, sizeof(head));
	f->hook_arg = (unsigned)head.wr_cnt;
	return true;
}

static void posted_writes_are_gathered_while_the_socket_is_full(void **state)
{
	for (unsigned by_loop = 0; by_loop < 2; by_loop++) {
		struct fake *f = fake_new();
		struct mini m = { 0 };
		struct vfio_transport *t;
		uint32_t value;
		unsigned last;

		f->json = "{\"capabilities\":{\"write_multiple\":true}}";
		f->hook = takes_multi;
		fake_start(f);
		mini_start(&m, f, 0);
		t = vfio_user_transport(m.vu);
		fake_pause(f, true);
		/* What it may still read before it stops does not matter. */
		post_until_kept(&m, 3);
		fake_pause(f, false);
		/* Here it is this thread that waits, and the loop stands. */
		if (!by_loop)
			assert_int_equal(t->ops->region_read(t, 0, 0, &value, 4), 0);
		world_until(m.w, got_multi, f);
		assert_true(fake_hook_arg(f) >= 3);
		fake_kill(f);
		last = f->nr_recs - 1;
		assert_int_equal(f->recs[last].h.command,
			by_loop ? VFIO_USER_REGION_WRITE_MULTI : VFIO_USER_REGION_READ);
		for (unsigned i = 0; i < f->nr_recs; i++)
			if (f->recs[i].h.command == VFIO_USER_REGION_WRITE_MULTI ||
				f->recs[i].h.command == VFIO_USER_REGION_WRITE)
				assert_int_equal(f->recs[i].h.flags, VFIO_USER_FLAG_NO_REPLY);
		mini_end(&m);
		fake_free(f);
	}
}

static void posting_to_a_server_that_does_not_read_ends_by_the_deadline(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { 0 };
	struct vfio_transport *t;
	uint32_t value = 0;
	int rc;

	fake_start(f);
	mini_start(&m, f, 50);
	t = vfio_user_transport(m.vu);
	fake_pause(f, true);
	do
		rc = t->ops->region_write(t, 0, 4, &value, 4, VFIO_CALL_POST);
	while (!rc && ++value < 100000);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_int_equal(t->ops->region_write(t, 0, 4, &value, 4, VFIO_CALL_POST), -ENOTCONN);
	world_run(m.w);
	assert_int_equal(m.lost, 1);
	fake_pause(f, false);
	mini_end(&m);
	fake_free(f);
}

static bool out_is_full(struct world *w, void *arg)
{
	struct mini *m = arg;

	return vu_chan_out_full(&m->vu->chan) && !(m->vu->watch_wanted & EPOLLIN);
}

static bool all_answered(struct world *w, void *arg)
{
	struct fake *f = arg;

	return fake_count(f, VFIO_USER_DMA_READ) == fake_hook_arg(f);
}

/* Its commands are left alone while our answers pile up, and go on when it reads. */
static void a_server_that_does_not_read_is_not_read(void **state)
{
	const struct vfio_user_dma_access a = { 0, 65536 };
	const struct vfio_user_header h = { .command = VFIO_USER_DMA_READ, .size = 32 };
	const struct iovec iov[2] = { { (void *)&h, sizeof(h) }, { (void *)&a, sizeof(a) } };
	struct fake *f = fake_new();
	struct mini m = { 0 };
	unsigned sent = 0;

	fake_start(f);
	mini_start(&m, f, 0);
	vu_transport_ops.bus_master(vfio_user_transport(m.vu), true);
	fake_forget(f);
	fake_pause(f, true);
	while (sock_send(f->conn, iov, 2, NULL, 0) == 32)
		sent++;
	assert_true(sent * a.count > 2 * VU_CHAN_OUT_MAX);
	world_until(m.w, out_is_full, &m);
	assert_true(m.vu->chan.out_bytes <= VU_CHAN_OUT_MAX + VFIO_USER_MAX_MSG);
	fake_set_hook(f, NULL, sent);
	fake_pause(f, false);
	world_until(m.w, all_answered, f);
	assert_int_equal(m.lost, 0);
	mini_end(&m);
	fake_free(f);
}

static void put_message(uint8_t *buf, uint16_t id)
{
	const struct vfio_user_header h = {
		.id = id, .command = VFIO_USER_DEVICE_GET_REGION_INFO, .size = 48, .flags = 1
	};

	memset(buf, 0, 48);
	memcpy(buf, &h, sizeof(h));
}

static int chan_message(struct vu_chan *ch, struct vu_msg *m)
{
	struct err err = { 0 };
	int rc;

	while (!(rc = vu_chan_next(ch, m, &err)))
		if (vu_chan_recv(ch) <= 0)
			return 0;
	return rc;
}

static void descriptors_stay_with_their_message(void **state)
{
	uint8_t a[48], b[48], c[48];
	struct vu_chan ch;
	struct vu_msg m;
	int pair[2], fds = fd_count();

	put_message(a, 1);
	put_message(b, 2);
	put_message(c, 3);
	assert_int_equal(sock_pair(pair), 0);
	vu_chan_init(&ch, pair[0], &vfio_user_framing);
	/* The second begins before all of the first was read, and a third without any follows. */
	send_all(pair[1], a, 20, (int[]){ 0 }, 1);
	assert_int_equal(chan_message(&ch, &m), 0);
	send_all(pair[1], a + 20, 28, NULL, 0);
	send_all(pair[1], b, 48, (int[]){ 0, 0 }, 2);
	send_all(pair[1], c, 48, NULL, 0);
	assert_int_equal(chan_message(&ch, &m), 1);
	assert_int_equal(m.h.id, 1);
	assert_int_equal(m.fds->nr, 1);
	vu_chan_done(&ch);
	assert_int_equal(chan_message(&ch, &m), 1);
	assert_int_equal(m.h.id, 2);
	assert_int_equal(m.fds->nr, 2);
	vu_chan_done(&ch);
	assert_int_equal(chan_message(&ch, &m), 1);
	assert_int_equal(m.h.id, 3);
	assert_null(m.fds);
	vu_chan_done(&ch);
	vu_chan_fini(&ch);
	close(pair[1]);
	assert_int_equal(fd_count(), fds);
}

/* A server may take eventfds only a few at a time. */
static void eventfds_are_sent_in_batches_of_the_servers_size(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { 0 };
	struct vfio_transport *t;
	struct vfio_user_irq_set s;
	int fds[8];
	struct vfio_irq_request rq = {
		.index = VFIO_USER_IRQ_MSIX,
		.flags = VFIO_USER_IRQ_SET_DATA_EVENTFD | VFIO_USER_IRQ_SET_ACTION_TRIGGER,
		.start = 2,
		.count = 8,
		.fds = fds,
	};
	struct rec r;

	f->json = "{\"capabilities\":{\"max_msg_fds\":3}}";
	fake_start(f);
	mini_start(&m, f, 0);
	t = vfio_user_transport(m.vu);
	for (unsigned i = 0; i < 8; i++)
		fds[i] = f->wake;
	assert_int_equal(t->ops->set_irqs(t, &rq, VFIO_CALL_WAIT), 0);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_SET_IRQS), 3);
	r = fake_wait(f, VFIO_USER_DEVICE_SET_IRQS, 3);
	memcpy(&s, r.data, sizeof(s));
	assert_int_equal(s.start, 8);
	assert_int_equal(s.count, 2);
	assert_int_equal(r.nr_fds, 2);
	mini_end(&m);
	fake_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_attach_tells_ram_resets_once_and_sets_intx),
		cmocka_unit_test(a_bad_server_gets_one_line_and_leaves_nothing),
		cmocka_unit_test(nobody_to_connect_to_is_said_at_once),
		cmocka_unit_test(a_queue_that_is_full_is_waited_for),
		cmocka_unit_test(a_server_that_hangs_up_on_io_fds_is_not_asked_again),
		cmocka_unit_test(configuration_is_read_in_the_pieces_a_server_takes),
		cmocka_unit_test(a_server_without_capabilities_has_the_defaults),
		cmocka_unit_test(answers_may_come_in_pieces),
		cmocka_unit_test(registers_are_read_and_written),
		cmocka_unit_test(a_refused_read_is_all_ones_and_no_loss),
		cmocka_unit_test(nonsense_while_running_is_a_loss_and_then_a_return),
		cmocka_unit_test(several_vcpus_come_back_when_a_server_hangs),
		cmocka_unit_test(a_server_that_comes_back_is_told_all_again),
		cmocka_unit_test(
			another_device_is_refused_with_one_line_until_the_right_one_is_there),
		cmocka_unit_test(a_hundred_returns_leak_nothing),
		cmocka_unit_test(freeing_a_device_wakes_the_vcpu_that_waits_for_it),
		cmocka_unit_test(nonsense_on_the_twin_socket_wakes_the_vcpu_that_waits),
		cmocka_unit_test(vcpus_go_on_while_the_device_comes_and_goes),
		cmocka_unit_test(dma_is_served_on_the_main_socket_of_a_bus_master),
		cmocka_unit_test(dma_is_served_on_the_twin_socket),
		cmocka_unit_test(dma_is_served_while_a_vcpu_waits),
		cmocka_unit_test(a_command_that_is_none_of_ours_is_refused_and_no_loss),
		cmocka_unit_test(ram_that_comes_and_goes_is_told),
		cmocka_unit_test(ram_in_more_pieces_than_the_server_takes_is_refused),
		cmocka_unit_test(an_error_of_the_device_is_never_taken_for_a_loss),
		cmocka_unit_test(what_changed_during_an_attach_is_restored_once_more),
		cmocka_unit_test(posted_writes_are_gathered_while_the_socket_is_full),
		cmocka_unit_test(posting_to_a_server_that_does_not_read_ends_by_the_deadline),
		cmocka_unit_test(a_server_that_does_not_read_is_not_read),
		cmocka_unit_test(descriptors_stay_with_their_message),
		cmocka_unit_test(eventfds_are_sent_in_batches_of_the_servers_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
