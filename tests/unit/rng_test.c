#include "device/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "virtio_rig.h"

static struct rig r;
static char dir[64];
static char path[96];
static int fds_at_start;

#define COOKIE(n) ((void *)(uintptr_t)(n))

static int set_up(void **state)
{
	fds_at_start = fd_count();
	snprintf(dir, sizeof(dir), "/tmp/rng-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/source", dir);
	rig_init(&r);
	return 0;
}

static int tear_down(void **state)
{
	rig_fini(&r);
	unlink(path);
	rmdir(dir);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static void make(struct rng_config config)
{
	struct err err = { 0 };

	config.name = "rng";
	assert_int_equal(rng_new(&r.model, r.loop, &config, &err), 0);
	rig_queue(&r, 0, &(struct drv_config){ .size = 16, .indirect = true });
	assert_int_equal(rig_start(&r, 0), 0);
}

static uint64_t ask(uint32_t len, unsigned cookie)
{
	uint64_t at = drv_alloc(r.mem, len, 16);
	struct drv_buf buf = { at, len };

	assert_int_equal(drv_add(r.q[0].drv, &buf, 0, 1, COOKIE(cookie)), 0);
	rig_kick(&r, 0);
	return at;
}

static uint32_t answered(unsigned cookie)
{
	struct rig_used u;

	assert_true(rig_take(&r, 0, &u));
	assert_ptr_equal(u.cookie, COOKIE(cookie));
	return u.written;
}

static void not_answered(void)
{
	void *cookie;
	uint32_t written;

	rig_settle(&r);
	assert_false(drv_get(r.q[0].drv, &cookie, &written));
	assert_null(r.q[0].drv->error);
}

static void write_source(const char *text)
{
	FD_AUTO fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static void gives_bytes_of_the_kernel(void **state)
{
	static const uint8_t zeros[64];
	uint64_t at;

	make((struct rng_config){ 0 });
	at = ask(64, 1);
	assert_int_equal(answered(1), 64);
	/* Once in 2^512 runs. */
	assert_memory_not_equal(drv_at(r.mem, at), zeros, 64);
}

static void fills_every_piece_from_a_file(void **state)
{
	uint64_t at = drv_alloc(r.mem, 64, 16);
	struct drv_buf bufs[] = { { at, 3 }, { at + 8, 4 } };

	write_source("abcdefgh");
	make((struct rng_config){ .source = path });
	assert_int_equal(drv_add(r.q[0].drv, bufs, 0, 2, COOKIE(7)), 0);
	rig_kick(&r, 0);
	assert_int_equal(answered(7), 7);
	assert_memory_equal(drv_at(r.mem, at), "abc\0\0\0\0\0defg\0", 13);
}

static void a_request_is_bounded(void **state)
{
	make((struct rng_config){ .source = "/dev/zero" });
	ask(1 * MIB, 1);
	assert_int_equal(answered(1), 64 * KIB);
}

static void many_requests_at_once_are_all_answered(void **state)
{
	make((struct rng_config){ 0 });
	for (unsigned round = 0; round < 40; round++) {
		for (unsigned i = 1; i <= 16; i++) {
			struct drv_buf buf = { DRV_IOVA + 2 * MIB, 32 * KIB };

			assert_int_equal(drv_add(r.q[0].drv, &buf, 0, 1, COOKIE(i)), 0);
		}
		rig_kick(&r, 0);
		for (unsigned i = 1; i <= 16; i++)
			assert_in_range(answered(i), 1, 32 * KIB);
	}
}

static void a_fifo_without_bytes_is_waited_for(void **state)
{
	assert_int_equal(mkfifo(path, 0600), 0);
	make((struct rng_config){ .source = path });
	ask(16, 1);
	not_answered();
	write_source("xyz");
	assert_int_equal(answered(1), 3);

	/* Its writer has gone. A source that is ready for ever would not let the loop settle. */
	ask(16, 2);
	not_answered();
	write_source("again");
	assert_int_equal(answered(2), 5);
}

static void a_file_that_ends_is_looked_at_again(void **state)
{
	write_source("ab");
	make((struct rng_config){ .source = path });
	ask(16, 1);
	assert_int_equal(answered(1), 2);
	ask(16, 2);
	not_answered();
	write_source("cdefg");
	assert_int_equal(answered(2), 5);
}

static void keeps_to_its_limit(void **state)
{
	uint64_t start = clock_now_ns();

	make((struct rng_config){ .max_bytes = 100, .period_ms = 50 });
	ask(80, 1);
	ask(80, 2);
	ask(80, 3);
	assert_int_equal(answered(1), 80);
	assert_int_equal(answered(2), 20);
	assert_int_equal(answered(3), 80);
	/* That it takes at least as long does not depend on how fast this machine is. */
	assert_true(clock_now_ns() - start >= 50 * NS_PER_MS);
}

static void a_request_without_room_is_given_back(void **state)
{
	struct drv_buf out = { DRV_IOVA + 2 * MIB, 64 };

	make((struct rng_config){ 0 });
	assert_int_equal(drv_add(r.q[0].drv, &out, 1, 0, COOKIE(1)), 0);
	rig_kick(&r, 0);
	assert_int_equal(answered(1), 0);
	ask(16, 2);
	assert_int_equal(answered(2), 16);
}

static void memory_that_is_not_there_is_given_back(void **state)
{
	struct drv_buf nowhere = { 0xdead0000, 4096 };
	struct drv_buf wraps = { UINT64_MAX - 100, 4096 };

	make((struct rng_config){ 0 });
	assert_int_equal(drv_add(r.q[0].drv, &nowhere, 0, 1, COOKIE(1)), 0);
	assert_int_equal(drv_add(r.q[0].drv, &wraps, 0, 1, COOKIE(2)), 0);
	rig_kick(&r, 0);
	assert_int_equal(answered(1), 0);
	assert_int_equal(answered(2), 0);
	ask(16, 3);
	assert_int_equal(answered(3), 16);
}

static void a_loop_of_descriptors_ends_the_queue_only(void **state)
{
	struct drv *d;

	make((struct rng_config){ 0 });
	d = r.q[0].drv;
	ask(16, 1);
	d->desc[0].flags |= VRING_DESC_F_NEXT;
	d->desc[0].next = 0;
	rig_settle(&r);
	assert_non_null(vq_broken(r.q[0].vq));
	/* A new set-up works. */
	rig_stop(&r, 0);
	drv_reset(d);
	assert_int_equal(rig_start(&r, 0), 0);
	ask(16, 2);
	assert_int_equal(answered(2), 16);
}

static void a_stop_leaves_what_waits_in_the_ring(void **state)
{
	assert_int_equal(mkfifo(path, 0600), 0);
	make((struct rng_config){ .source = path });
	ask(16, 1);
	not_answered();
	assert_int_equal(rig_stop(&r, 0), 0);
	write_source("later");
	assert_int_equal(rig_start(&r, 0), 0);
	assert_int_equal(answered(1), 5);
}

static void a_ring_without_kicks_is_watched(void **state)
{
	struct vq_setup s;

	make((struct rng_config){ 0 });
	rig_stop(&r, 0);
	fd_close(&r.q[0].kick);
	s = drv_setup(r.q[0].drv);
	assert_int_equal(rig_start_as(&r, 0, &s), 0);
	ask(16, 1);
	assert_int_equal(answered(1), 16);
}

static void refuses_a_source_that_is_none(void **state)
{
	struct rng_config config = { .name = "rng", .source = path };
	struct err err = { 0 };

	assert_int_equal(rng_new(&r.model, r.loop, &config, &err), -ENOENT);
	assert_non_null(strstr(err.text, path));
	config.source = dir;
	err.text[0] = '\0';
	assert_int_equal(rng_new(&r.model, r.loop, &config, &err), -EISDIR);
	assert_null(r.model);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(gives_bytes_of_the_kernel),
		TEST(fills_every_piece_from_a_file),
		TEST(a_request_is_bounded),
		TEST(many_requests_at_once_are_all_answered),
		TEST(a_fifo_without_bytes_is_waited_for),
		TEST(a_file_that_ends_is_looked_at_again),
		TEST(keeps_to_its_limit),
		TEST(a_request_without_room_is_given_back),
		TEST(memory_that_is_not_there_is_given_back),
		TEST(a_loop_of_descriptors_ends_the_queue_only),
		TEST(a_stop_leaves_what_waits_in_the_ring),
		TEST(a_ring_without_kicks_is_watched),
		TEST(refuses_a_source_that_is_none),
	};

	return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
