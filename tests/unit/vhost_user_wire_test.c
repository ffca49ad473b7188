#include "wire/vhost_user.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/util.h"

/* Headers */

static struct vhost_user_header header(uint32_t request, uint32_t size)
{
	return (struct vhost_user_header){ request, VHOST_USER_FLAG_VERSION, size };
}

static struct vhost_user_header reply(uint32_t request, uint32_t size)
{
	return (struct vhost_user_header){
		request,
		VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY,
		size,
	};
}

static int check(struct vhost_user_header h, const struct vhost_user_rule *rule)
{
	struct err err = { 0 };
	int rc = vhost_user_check_request(&h, rule, &err);

	assert_int_equal(rc != 0, err.text[0] != 0);
	return rc;
}

static int check_reply(struct vhost_user_header h, uint32_t request, bool ack)
{
	struct err err = { 0 };
	int rc = vhost_user_check_reply(&h, request, vhost_user_rule(request), ack, &err);

	assert_int_equal(rc != 0, err.text[0] != 0);
	return rc;
}

static void rule_holds_at_its_bounds(uint32_t request, const struct vhost_user_rule *r)
{
	assert_true(r->min <= r->max && r->max <= VHOST_USER_MAX_PAYLOAD);
	assert_true(r->min_fds <= r->max_fds && r->max_fds <= VHOST_USER_MAX_TABLE_REGIONS);
	assert_true(r->reply_min <= r->reply_max && r->reply_max <= VHOST_USER_MAX_PAYLOAD);
	assert_true(r->replies || (!r->reply_max && !r->reply_fds));
	assert_true(r->feature >= -1 && r->feature <= VHOST_USER_PROTOCOL_F_SHMEM_MAP);
	assert_true(r->feature < 0 || r->needs_protocol);

	assert_int_equal(check(header(request, r->min), r), 0);
	assert_int_equal(check(header(request, r->max), r), 0);
	if (r->min)
		assert_int_equal(check(header(request, r->min - 1), r), -EPROTO);
	assert_int_equal(check(header(request, r->max + 1), r),
		r->max == VHOST_USER_MAX_PAYLOAD ? -EINVAL : -EPROTO);
}

/* The tables drive their own test: each bound of each row. */
static void every_rule_holds_at_its_bounds(void **state)
{
	int front = 0, back = 0;

	for (uint32_t request = 0; request < 100; request++) {
		const struct vhost_user_rule *r = vhost_user_rule(request);

		if (r) {
			rule_holds_at_its_bounds(request, r);
			assert_string_equal(vhost_user_name(request), r->name);
			front++;
		} else {
			assert_string_equal(vhost_user_name(request), "request?");
			assert_int_equal(check(header(request, 8), NULL), -EPROTO);
		}
		r = vhost_user_backend_rule(request);
		if (r) {
			rule_holds_at_its_bounds(request, r);
			assert_string_equal(vhost_user_backend_name(request), r->name);
			back++;
		} else {
			assert_string_equal(vhost_user_backend_name(request), "request?");
		}
	}
	assert_int_equal(front, 44);
	assert_int_equal(back, 10);
	assert_null(vhost_user_rule(UINT32_MAX));
	assert_null(vhost_user_backend_rule(UINT32_MAX));
}

/* Numbers of the specification, so that a row that moves is noticed. */
static void requests_have_the_specified_numbers(void **state)
{
	assert_string_equal(vhost_user_name(1), "GET_FEATURES");
	assert_string_equal(vhost_user_name(11), "GET_VRING_BASE");
	assert_string_equal(vhost_user_name(18), "SET_VRING_ENABLE");
	assert_string_equal(vhost_user_name(24), "GET_CONFIG");
	assert_string_equal(vhost_user_name(31), "GET_INFLIGHT_FD");
	assert_string_equal(vhost_user_name(34), "RESET_DEVICE");
	assert_string_equal(vhost_user_name(37), "ADD_MEM_REG");
	assert_string_equal(vhost_user_name(42), "SET_DEVICE_STATE_FD");
	assert_string_equal(vhost_user_name(44), "GET_SHMEM_CONFIG");
	assert_string_equal(vhost_user_backend_name(2), "BACKEND_CONFIG_CHANGE_MSG");
	assert_string_equal(vhost_user_backend_name(9), "BACKEND_SHMEM_MAP");
	assert_string_equal(vhost_user_feature_name(3), "REPLY_ACK");
	assert_string_equal(vhost_user_feature_name(19), "DEVICE_STATE");
	assert_string_equal(vhost_user_feature_name(22), "SHMEM_MAP");
	assert_string_equal(vhost_user_feature_name(23), "feature?");
	assert_int_equal(VHOST_USER_PROTOCOL_BIT(CONFIG), 1 << 9);
}

static void every_feature_has_a_name(void **state)
{
	for (unsigned bit = 0; bit <= VHOST_USER_PROTOCOL_F_SHMEM_MAP; bit++) {
		assert_non_null(vhost_user_feature_name(bit));
		assert_string_not_equal(vhost_user_feature_name(bit), "feature?");
	}
}

static void a_request_that_loses_the_frame_ends_the_stream(void **state)
{
	const struct vhost_user_rule *r = vhost_user_rule(VHOST_USER_SET_FEATURES);
	struct vhost_user_header h = header(VHOST_USER_SET_FEATURES, 8);

	h.flags = 0;
	assert_int_equal(check(h, r), -EINVAL);
	h.flags = 2;
	assert_int_equal(check(h, r), -EINVAL);
	h.flags = VHOST_USER_FLAG_VERSION | VHOST_USER_FLAG_REPLY;
	assert_int_equal(check(h, r), -EINVAL);
	h = header(VHOST_USER_SET_FEATURES, VHOST_USER_MAX_PAYLOAD + 1);
	assert_int_equal(check(h, r), -EINVAL);
	h.size = UINT32_MAX;
	assert_int_equal(check(h, NULL), -EINVAL);
}

static void need_reply_and_flags_to_come_are_no_fault(void **state)
{
	struct vhost_user_header h = header(VHOST_USER_SET_FEATURES, 8);

	h.flags |= VHOST_USER_FLAG_NEED_REPLY;
	assert_int_equal(check(h, vhost_user_rule(VHOST_USER_SET_FEATURES)), 0);
	h.flags |= 1u << 17;
	assert_int_equal(check(h, vhost_user_rule(VHOST_USER_SET_FEATURES)), 0);
}

static void a_reply_must_fit_its_request(void **state)
{
	assert_int_equal(check_reply(reply(1, 8), 1, false), 0);
	assert_int_equal(check_reply(reply(1, 7), 1, false), -EINVAL);
	assert_int_equal(check_reply(reply(1, 12), 1, false), -EINVAL);
	assert_int_equal(check_reply(reply(2, 8), 1, false), -EINVAL);
	assert_int_equal(check_reply(header(1, 8), 1, false), -EINVAL);
	assert_int_equal(check_reply(reply(1, UINT32_MAX), 1, false), -EINVAL);
	/* The number of REPLY_ACK, for a request without a reply of its own */
	assert_int_equal(check_reply(reply(2, 8), 2, true), 0);
	assert_int_equal(check_reply(reply(2, 0), 2, true), -EINVAL);
	/* An empty GET_CONFIG reply is a back-end's way to refuse. */
	assert_int_equal(
		check_reply(reply(VHOST_USER_GET_CONFIG, 0), VHOST_USER_GET_CONFIG, false), 0);
}

/* Memory */

static int check_table(const struct vhost_user_mem_table *t, size_t len, unsigned nr_fds)
{
	struct err err = { 0 };
	int rc = vhost_user_check_mem_table(t, len, nr_fds, &err);

	assert_int_equal(rc != 0, err.text[0] != 0);
	return rc;
}

static struct vhost_user_mem_table two_regions(void)
{
	return (struct vhost_user_mem_table){
		.nr = 2,
		.regions = {
			{ .gpa = 0, .size = 0x10000, .user_addr = 0x7f0000000000 },
			{ .gpa = 0x10000, .size = 0x1000, .user_addr = 0x7f1000000000 },
		},
	};
}

static void a_memory_table_that_touches_is_none_that_overlaps(void **state)
{
	struct vhost_user_mem_table t = two_regions();

	assert_int_equal(check_table(&t, 8 + 64, 2), 0);
	assert_int_equal(check_table(&t, sizeof(t), 2), 0);
	t.regions[1].gpa = 0xffff;
	assert_int_equal(check_table(&t, 8 + 64, 2), -EINVAL);
	t.regions[1].gpa = 0;
	assert_int_equal(check_table(&t, 8 + 64, 2), -EINVAL);
}

static void a_memory_table_is_as_long_as_it_says(void **state)
{
	struct vhost_user_mem_table t = two_regions();

	assert_int_equal(check_table(&t, 8 + 63, 2), -EINVAL);
	t.nr = 9;
	assert_int_equal(check_table(&t, sizeof(t), 9), -EINVAL);
	t.nr = UINT32_MAX;
	assert_int_equal(check_table(&t, sizeof(t), 0), -EINVAL);
	t.nr = 0;
	assert_int_equal(check_table(&t, 8, 0), 0);
}

static void each_region_brings_one_descriptor(void **state)
{
	struct vhost_user_mem_table t = two_regions();

	assert_int_equal(check_table(&t, 8 + 64, 1), -EINVAL);
	assert_int_equal(check_table(&t, 8 + 64, 3), -EINVAL);
	assert_int_equal(check_table(&t, 8 + 64, 0), -EINVAL);
}

static void a_region_may_not_wrap(void **state)
{
	const struct vhost_user_mem_region good = { 0x1000, 0x1000, 0x1000, 0x1000 };
	struct vhost_user_mem_region r = good;

	assert_int_equal(vhost_user_check_region(&r, NULL), 0);
	r.size = 0;
	assert_int_equal(vhost_user_check_region(&r, NULL), -EINVAL);
	r.size = UINT64_MAX;
	assert_int_equal(vhost_user_check_region(&r, NULL), -EINVAL);
	r = good;
	r.gpa = UINT64_MAX - 0xffe;
	assert_int_equal(vhost_user_check_region(&r, NULL), -EINVAL);
	r = good;
	r.user_addr = UINT64_MAX - 0xffe;
	assert_int_equal(vhost_user_check_region(&r, NULL), -EINVAL);
	r = good;
	r.mmap_offset = UINT64_MAX - 0xffe;
	assert_int_equal(vhost_user_check_region(&r, NULL), -EINVAL);
}

/* Configuration */

static int check_config(uint32_t offset, uint32_t size, size_t len)
{
	struct vhost_user_config c = { .offset = offset, .size = size };
	struct err err = { 0 };
	int rc = vhost_user_check_config(&c, len, &err);

	assert_int_equal(rc != 0, err.text[0] != 0);
	return rc;
}

static void configuration_stays_below_256_bytes(void **state)
{
	assert_int_equal(check_config(0, 256, 268), 0);
	assert_int_equal(check_config(255, 1, 13), 0);
	assert_int_equal(check_config(0, 0, 12), 0);
	assert_int_equal(check_config(0, 257, 268), -EINVAL);
	assert_int_equal(check_config(1, 256, 268), -EINVAL);
	assert_int_equal(check_config(UINT32_MAX, 1, 13), -EINVAL);
	assert_int_equal(check_config(1, UINT32_MAX, 13), -EINVAL);
}

static void configuration_comes_with_the_bytes_it_says(void **state)
{
	assert_int_equal(check_config(0, 8, 12), -EINVAL);
	assert_int_equal(check_config(0, 8, 19), -EINVAL);
	assert_int_equal(check_config(0, 8, 21), 0);
	assert_int_equal(check_config(0, 0, 11), -EINVAL);
}

/* Inflight */

static void inflight_regions_have_room_for_their_descriptors(void **state)
{
	assert_int_equal(vhost_user_inflight_region(false, 0), 64);
	assert_int_equal(vhost_user_inflight_region(false, 3), 64);
	assert_int_equal(vhost_user_inflight_region(false, 4), 128);
	assert_int_equal(vhost_user_inflight_region(false, 32768), 16 + 16 * 32768 + 48);
	assert_int_equal(vhost_user_inflight_region(true, 1), 64);
	assert_int_equal(vhost_user_inflight_region(true, 2), 128);
	assert_int_equal(vhost_user_inflight_region(true, 256), 32 + 32 * 256 + 32);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_rule_holds_at_its_bounds),
		cmocka_unit_test(requests_have_the_specified_numbers),
		cmocka_unit_test(every_feature_has_a_name),
		cmocka_unit_test(a_request_that_loses_the_frame_ends_the_stream),
		cmocka_unit_test(need_reply_and_flags_to_come_are_no_fault),
		cmocka_unit_test(a_reply_must_fit_its_request),
		cmocka_unit_test(a_memory_table_that_touches_is_none_that_overlaps),
		cmocka_unit_test(a_memory_table_is_as_long_as_it_says),
		cmocka_unit_test(each_region_brings_one_descriptor),
		cmocka_unit_test(a_region_may_not_wrap),
		cmocka_unit_test(configuration_stays_below_256_bytes),
		cmocka_unit_test(configuration_comes_with_the_bytes_it_says),
		cmocka_unit_test(inflight_regions_have_room_for_their_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
