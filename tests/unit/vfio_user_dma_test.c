/* vfio_user_dma_test.c - the server is told of RAM, and reads and writes it */
#include "vfio_mini.h"

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

static bool ram_told(struct world *w, void *arg)
{
	struct fake *f = arg;

	return fake_count(f, VFIO_USER_DMA_MAP) == 2 && fake_count(f, VFIO_USER_DMA_UNMAP) == 1;
}

static void ram_that_comes_and_goes_is_told(void **state)
{
	struct fake *f = fake_new();
	struct dma_range range = { .iova = 4 * GIB, .size = 4096, .access = DMA_CAN_WRITE };
	struct vfio_user_dma_map map;
	struct mini m = { 0 };
	struct rec r;

	fake_start(f);
	mini_start(&m, f, 0);
	range.fd = memfd(4096);
	assert_int_equal(m.vu->listener.map(&m.vu->listener, &range), 0);
	m.vu->listener.unmap(&m.vu->listener, &range);
	world_until(m.w, ram_told, f);
	r = fake_wait(f, VFIO_USER_DMA_MAP, 2);
	memcpy(&map, r.data, sizeof(map));
	assert_int_equal(map.addr, 4 * GIB);
	assert_int_equal(map.size, 4096);
	assert_int_equal(map.flags, VFIO_USER_DMA_MAP_WRITE);
	assert_int_equal(r.nr_fds, 1);
	close(range.fd);
	mini_end(&m);
	fake_free(f);
}

static void ram_in_more_pieces_than_the_server_takes_is_refused(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { .may_fail = true, .translated = true };

	f->json = "{\"capabilities\":{\"max_dma_maps\":1}}";
	fake_start(f);
	mini_start(&m, f, 0);
	assert_non_null(strstr(m.err.text, "takes 1 DMA maps at most, guest RAM needs more"));
	mini_end(&m);
	fake_free(f);
}

/* --- behind an IOMMU --- */

static void the_server_hears_of_what_the_guest_maps_alone(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { .translated = true };
	struct vfio_user_dma_map map;
	char byte = 1;

	fake_start(f);
	mini_start(&m, f, 0);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 2);
	memcpy(&map, fake_wait(f, VFIO_USER_DMA_MAP, 2).data, sizeof(map));
	assert_int_equal(map.addr, 0x20000);
	assert_int_equal(map.offset, 0x1000);
	assert_int_equal(map.size, 0x1000);
	assert_int_equal(map.flags, VFIO_USER_DMA_MAP_READ);
	/* The server has answered when the guest's request is done. */
	assert_int_equal(iommu_unmap(m.io, 1, 0x20000, 0x20fff), 0);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_UNMAP), 1);
	assert_int_equal(atomic_load(&m.vu->dma_pending), 0);
	assert_int_equal(iommu_detach(m.io, 1, 8), 0);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_UNMAP), 2);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 3);
	assert_int_equal(dma_read(m.dma, 0x20000, &byte, 1), 0);
	mini_end(&m);
	fake_free(f);
}

static bool refuse_maps(struct fake *f, const struct rec *r)
{
	if (r->h.command != VFIO_USER_DMA_MAP)
		return false;
	fake_error(f, r, ENOSPC);
	return true;
}

static void a_map_that_the_server_refuses_fails_the_guest_s_request(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { .translated = true };

	fake_start(f);
	mini_start(&m, f, 0);
	fake_set_hook(f, refuse_maps, 0);
	assert_int_equal(iommu_map(m.io, 1, 0x30000, 0x30fff, 0, DMA_CAN_READ), -ENOSPC);
	assert_int_equal(dma_read(m.dma, 0x30000, &(char){ 0 }, 1), -EFAULT);
	fake_set_hook(f, NULL, 0);
	assert_int_equal(iommu_map(m.io, 1, 0x30000, 0x30fff, 0, DMA_CAN_READ), 0);
	assert_true(vfio_user_is_ready(m.vu));
	mini_end(&m);
	fake_free(f);
}

static bool swallow_unmaps(struct fake *f, const struct rec *r)
{
	return r->h.command == VFIO_USER_DMA_UNMAP;
}

static bool refuse_unmaps(struct fake *f, const struct rec *r)
{
	if (r->h.command != VFIO_USER_DMA_UNMAP)
		return false;
	fake_error(f, r, EBUSY);
	return true;
}

static bool has_come_back(struct world *w, void *arg)
{
	struct mini *m = arg;

	return m->lost && vfio_user_is_ready(m->vu);
}

/* It might write where the guest has something else by now. */
static void a_server_that_does_not_let_go_is_hung_up_on(void **state)
{
	bool (*const hooks[])(struct fake *f, const struct rec *r) = { swallow_unmaps, refuse_unmaps };

	for (unsigned i = 0; i < ARRAY_SIZE(hooks); i++) {
		struct fake *f = fake_new();
		struct mini m = { .translated = true };

		fake_start(f);
		mini_start(&m, f, 50);
		fake_set_hook(f, hooks[i], 0);
		assert_int_equal(iommu_unmap(m.io, 1, 0x20000, 0x20fff), 0);
		assert_false(vfio_user_is_ready(m.vu));
		fake_set_hook(f, NULL, 0);
		world_until(m.w, has_come_back, &m);
		/* Two at first, one after the return. */
		assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 3);
		mini_end(&m);
		fake_free(f);
	}
}

/* As many as its requests in a batch were once. */
#define MANY 9000u

static void a_server_that_comes_back_is_told_of_all_however_many(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { .translated = true };

	fake_start(f);
	mini_start(&m, f, 0);
	fake_kill(f);
	world_run(m.w);
	assert_int_equal(m.lost, 1);
	for (uint64_t at = 0x1000000, i = 0; i < MANY; i++, at += 0x2000)
		assert_int_equal(iommu_map(m.io, 1, at, at + 0xfff, 0, DMA_CAN_READ), 0);
	fake_forget(f);
	fake_start(f);
	world_until(m.w, has_come_back, &m);
	assert_int_equal(m.lost, 1);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), MANY + 2);
	mini_end(&m);
	fake_free(f);
}

/* --- a connection that ends while a change is on its way --- */

static _Thread_local void (*in_malloc)(void); /* once */

void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);

void *__wrap_malloc(size_t size)
{
	void (*fn)(void) = in_malloc;

	in_malloc = NULL;
	if (fn)
		fn();
	return __real_malloc(size);
}

static struct mini *losing;
static struct fake *dying;

static void lose_it(void)
{
	fake_kill(dying);
	world_run(losing->w);
	assert_int_equal(losing->lost, 1);
}

static void the_next_connection_hears_nothing_of_the_one_before(void **state)
{
	struct fake *f = fake_new();
	struct mini m = { .translated = true };
	struct dma_range r = { .iova = 0x30000, .size = 0x1000, .access = DMA_CAN_READ, .fd = 0 };

	fake_start(f);
	mini_start(&m, f, 0);
	losing = &m;
	dying = f;
	in_malloc = lose_it;
	m.vu->listener.map(&m.vu->listener, &r);
	assert_null(in_malloc);
	assert_int_equal(atomic_load(&m.vu->nr_mail), 0);
	assert_int_equal(atomic_load(&m.vu->dma_pending), 0);
	fake_forget(f);
	fake_start(f);
	world_until(m.w, has_come_back, &m);
	assert_int_equal(f->recs[0].h.command, VFIO_USER_VERSION);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 2);
	/* Nor is an answer awaited that was lost with it. */
	assert_int_equal(iommu_unmap(m.io, 1, 0x20000, 0x20fff), 0);
	assert_int_equal(m.lost, 1);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dma_is_served_on_the_main_socket_of_a_bus_master),
		cmocka_unit_test(dma_is_served_on_the_twin_socket),
		cmocka_unit_test(dma_is_served_while_a_vcpu_waits),
		cmocka_unit_test(the_server_hears_of_what_the_guest_maps_alone),
		cmocka_unit_test(a_map_that_the_server_refuses_fails_the_guest_s_request),
		cmocka_unit_test(a_server_that_does_not_let_go_is_hung_up_on),
		cmocka_unit_test(a_command_that_is_none_of_ours_is_refused_and_no_loss),
		cmocka_unit_test(ram_that_comes_and_goes_is_told),
		cmocka_unit_test(ram_in_more_pieces_than_the_server_takes_is_refused),
		cmocka_unit_test(a_server_that_comes_back_is_told_of_all_however_many),
		cmocka_unit_test(the_next_connection_hears_nothing_of_the_one_before),
		cmocka_unit_test(a_server_that_does_not_read_is_not_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
