#include "wire/vfio_user.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/util.h"

/* Headers */

static struct vfio_user_header command(uint16_t cmd, uint32_t payload)
{
	return (struct vfio_user_header){ .id = 1, .command = cmd, .size = 16 + payload };
}

static struct vfio_user_header reply(uint16_t cmd, uint32_t payload)
{
	struct vfio_user_header h = command(cmd, payload);

	h.flags = VFIO_USER_TYPE_REPLY;
	return h;
}

static int check(struct vfio_user_header h, enum vfio_user_end receiver)
{
	struct err err = { 0 };
	int rc = vfio_user_check_header(&h, receiver, &err);

	assert_int_equal(rc != 0, err.text[0] != 0);
	return rc;
}

/* The table drives its own test: each bound of each row, on both ends. */
static void every_rule_holds_at_its_bounds(void **state)
{
	int rows = 0;

	for (uint16_t cmd = 0; cmd < 100; cmd++) {
		const struct vfio_user_msg_rule *r = vfio_user_rule(cmd);
		enum vfio_user_end to, from;

		if (!r) {
			assert_int_equal(check(command(cmd, 16), VFIO_USER_SERVER), -EPROTO);
			assert_string_equal(vfio_user_command_name(cmd), "command?");
			continue;
		}
		rows++;
		assert_true(r->to_server != r->to_client);
		to = r->to_server ? VFIO_USER_SERVER : VFIO_USER_CLIENT;
		from = r->to_server ? VFIO_USER_CLIENT : VFIO_USER_SERVER;
		assert_true(16 + r->cmd_max <= VFIO_USER_MAX_MSG);
		assert_true(16 + r->reply_max <= VFIO_USER_MAX_MSG);

		assert_int_equal(check(command(cmd, r->cmd_min), to), 0);
		assert_int_equal(check(command(cmd, r->cmd_max), to), 0);
		assert_int_equal(check(command(cmd, r->cmd_max + 1), to), -EPROTO);
		assert_int_equal(check(command(cmd, r->cmd_min), from), -EPROTO);
		assert_int_equal(check(reply(cmd, r->reply_min), from), 0);
		assert_int_equal(check(reply(cmd, r->reply_max), from), 0);
		assert_int_equal(check(reply(cmd, r->reply_max + 1), from), -EPROTO);
		assert_int_equal(check(reply(cmd, r->reply_min), to), -EPROTO);
		if (r->cmd_min)
			assert_int_equal(check(command(cmd, r->cmd_min - 1), to), -EPROTO);
		if (r->reply_min)
			assert_int_equal(check(reply(cmd, r->reply_min - 1), from), -EPROTO);
	}
	assert_int_equal(rows, 17); /* DIRTY_PAGES is none any more */
}

static void a_size_that_loses_the_frame_ends_the_stream(void **state)
{
	struct vfio_user_header h = command(VFIO_USER_DEVICE_RESET, 0);

	h.size = 15;
	assert_int_equal(check(h, VFIO_USER_SERVER), -EINVAL);
	h.size = 0;
	assert_int_equal(check(h, VFIO_USER_SERVER), -EINVAL);
	h.size = VFIO_USER_MAX_MSG + 1;
	assert_int_equal(check(h, VFIO_USER_SERVER), -EINVAL);
	h.size = UINT32_MAX;
	assert_int_equal(check(h, VFIO_USER_SERVER), -EINVAL);
}

static void a_type_that_is_none_ends_the_stream(void **state)
{
	struct vfio_user_header h = command(VFIO_USER_DEVICE_RESET, 0);

	h.flags = 2;
	assert_int_equal(check(h, VFIO_USER_SERVER), -EINVAL);
	h.flags = 0xf;
	assert_int_equal(check(h, VFIO_USER_CLIENT), -EINVAL);
}

static void unknown_flags_refuse_the_message_only(void **state)
{
	struct vfio_user_header h = command(VFIO_USER_DEVICE_RESET, 0);

	h.flags = VFIO_USER_FLAG_NO_REPLY;
	assert_int_equal(check(h, VFIO_USER_SERVER), 0);
	h.flags = 1u << 6;
	assert_int_equal(check(h, VFIO_USER_SERVER), -EPROTO);
	h.flags = VFIO_USER_FLAG_ERROR;
	assert_int_equal(check(h, VFIO_USER_SERVER), -EPROTO);
}

static void an_error_reply_is_the_header_alone(void **state)
{
	struct vfio_user_header h = reply(VFIO_USER_REGION_READ, 0);

	assert_int_equal(check(h, VFIO_USER_CLIENT), -EPROTO);
	h.flags |= VFIO_USER_FLAG_ERROR;
	assert_int_equal(check(h, VFIO_USER_CLIENT), 0);
	h.size = 17;
	assert_int_equal(check(h, VFIO_USER_CLIENT), -EPROTO);
}

/* Capabilities */

static int parse(const char *json, struct vfio_user_caps *caps)
{
	struct err err = { 0 };
	int rc = vfio_user_parse_caps(json, strlen(json), caps, &err);

	assert_int_equal(rc != 0, err.text[0] != 0);
	assert_null(strchr(err.text, '\n'));
	return rc;
}

static void what_a_peer_leaves_out_has_the_default(void **state)
{
	static const char *const texts[] = { "", "{}", "{\"capabilities\":{}}",
		"{\"capabilities\":{\"later\":[1]},\"more\":2}" };

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct vfio_user_caps caps;

		assert_int_equal(parse(texts[i], &caps), 0);
		assert_int_equal(caps.max_msg_fds, 1);
		assert_int_equal(caps.max_data_xfer_size, 1 << 20);
		assert_int_equal(caps.max_dma_maps, 65535);
		assert_int_equal(caps.pgsizes, 4096);
		assert_false(caps.twin_socket);
		assert_false(caps.write_multiple);
	}
}

static void capabilities_are_read_with_and_without_the_nul(void **state)
{
	static const char text[] =
		"{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":65536,"
		"\"max_dma_maps\":7,\"pgsizes\":12288,\"write_multiple\":true,"
		"\"twin_socket\":{\"supported\":true,\"fd_index\":3}}}";

	for (size_t len = sizeof(text) - 1; len <= sizeof(text); len++) {
		struct vfio_user_caps caps;

		assert_int_equal(vfio_user_parse_caps(text, len, &caps, NULL), 0);
		assert_int_equal(caps.max_msg_fds, 8);
		assert_int_equal(caps.max_data_xfer_size, 65536);
		assert_int_equal(caps.max_dma_maps, 7);
		assert_int_equal(caps.pgsizes, 12288);
		assert_true(caps.write_multiple);
		assert_true(caps.twin_socket);
		assert_int_equal(caps.twin_fd_index, 3);
	}
}

static void limits_are_clamped_to_what_we_use(void **state)
{
	struct vfio_user_caps caps;

	assert_int_equal(parse("{\"capabilities\":{\"max_msg_fds\":9000000000,"
			       "\"max_data_xfer_size\":9000000000,\"max_dma_maps\":9000000000}}",
				 &caps),
		0);
	assert_int_equal(caps.max_msg_fds, 253);
	assert_int_equal(caps.max_data_xfer_size, VFIO_USER_MAX_DATA);
	assert_int_equal(caps.max_dma_maps, UINT32_MAX);
}

static void capabilities_that_make_no_sense_are_refused(void **state)
{
	static const char *const texts[] = {
		"{",
		"[]",
		"1",
		"\"capabilities\"",
		"{\"capabilities\":[]}",
		"{\"capabilities\":{},\"capabilities\":{}}",
		"{\"capabilities\":{\"max_msg_fds\":\"8\"}}",
		"{\"capabilities\":{\"max_msg_fds\":-1}}",
		"{\"capabilities\":{\"max_msg_fds\":1.5}}",
		"{\"capabilities\":{\"max_msg_fds\":99999999999999999999}}",
		"{\"capabilities\":{\"max_data_xfer_size\":0}}",
		"{\"capabilities\":{\"max_data_xfer_size\":7}}",
		"{\"capabilities\":{\"max_dma_maps\":0}}",
		"{\"capabilities\":{\"max_dma_maps\":null}}",
		"{\"capabilities\":{\"pgsizes\":2097152}}",
		"{\"capabilities\":{\"pgsizes\":{}}}",
		"{\"capabilities\":{\"write_multiple\":1}}",
		"{\"capabilities\":{\"twin_socket\":true}}",
		"{\"capabilities\":{\"twin_socket\":{\"supported\":\"yes\"}}}",
		"{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":253}}}",
		"{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":-1}}}",
		"{} {}",
		"{\"capabilities\":{}}\n\"x\ny\"",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct vfio_user_caps caps;

		assert_int_equal(parse(texts[i], &caps), -EINVAL);
	}
}

static void deep_nesting_is_refused_not_followed(void **state)
{
	struct vfio_user_caps caps;
	char text[4096];

	memset(text, '[', sizeof(text));
	assert_int_equal(vfio_user_parse_caps(text, sizeof(text), &caps, NULL), -EINVAL);
}

static const struct vfio_user_caps ours = {
	.max_msg_fds = 16,
	.max_data_xfer_size = 1 << 20,
	.max_dma_maps = 65535,
	.pgsizes = 4096,
	.write_multiple = true,
};

static void a_proposal_reads_back_as_what_was_proposed(void **state)
{
	struct vfio_user_caps caps = ours, back;
	char buf[300];
	int len;

	caps.twin_socket = true;
	len = vfio_user_format_proposal(&caps, buf, sizeof(buf));
	assert_int_equal(len, strlen(buf) + 1);
	assert_int_equal(vfio_user_parse_caps(buf, (size_t)len, &back, NULL), 0);
	/* By field: what lies between them is anybody's. */
	assert_int_equal(back.max_msg_fds, caps.max_msg_fds);
	assert_int_equal(back.max_data_xfer_size, caps.max_data_xfer_size);
	assert_int_equal(back.max_dma_maps, caps.max_dma_maps);
	assert_int_equal(back.pgsizes, caps.pgsizes);
	assert_int_equal(back.twin_socket, caps.twin_socket);
	assert_int_equal(back.twin_fd_index, caps.twin_fd_index);
	assert_int_equal(back.write_multiple, caps.write_multiple);
	assert_null(strstr(buf, "fd_index"));
}

static void an_answer_holds_only_what_was_proposed(void **state)
{
	static const struct {
		const char *proposal, *answer;
	} pairs[] = {
		{ "{}", "{\"capabilities\":{}}" },
		{ "{\"capabilities\":{\"max_msg_fds\":1}}",
			"{\"capabilities\":{\"max_msg_fds\":16}}" },
		{ "{\"capabilities\":{\"write_multiple\":true,\"pgsizes\":4096,\"new\":{}}}",
			"{\"capabilities\":{\"pgsizes\":4096,\"write_multiple\":true}}" },
		{ "{\"capabilities\":{\"twin_socket\":{\"supported\":true}}}",
			"{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}" },
	};
	struct vfio_user_caps caps = ours;
	char buf[300];

	caps.twin_socket = true;
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		int len = vfio_user_format_answer(
			&caps, pairs[i].proposal, strlen(pairs[i].proposal), buf, sizeof(buf));

		assert_int_equal(len, strlen(pairs[i].answer) + 1);
		assert_string_equal(buf, pairs[i].answer);
	}
	assert_int_equal(vfio_user_format_answer(&caps, "", 0, buf, sizeof(buf)), 0);
	assert_int_equal(vfio_user_format_answer(&caps, "{", 1, buf, sizeof(buf)), -EINVAL);
}

/* What QEMU's client sends; it takes a longer reply, or 17 descriptors, for an attack. */
static void an_answer_fits_where_qemu_keeps_its_request(void **state)
{
	static const char proposal[] =
		"{\"capabilities\":{\"pgsizes\":4096,\"max_msg_fds\":16,\"max_dma_maps\":65535,"
		"\"max_data_xfer_size\":1048576,"
		"\"migration\":{\"max_bitmap_size\":268435456,\"pgsize\":4096},"
		"\"write_multiple\":true}}";
	char buf[300];
	int len = vfio_user_format_answer(&ours, proposal, sizeof(proposal), buf, sizeof(buf));

	assert_in_range(len, 1, 214 - 20);
	assert_null(strstr(buf, "migration"));
	assert_null(strstr(buf, "twin_socket"));
}

static void a_text_that_does_not_fit_says_so(void **state)
{
	char buf[300];
	int full = vfio_user_format_proposal(&ours, buf, sizeof(buf));

	assert_int_equal(vfio_user_format_proposal(&ours, buf, (size_t)full), full);
	for (int size = 0; size < full; size++)
		assert_int_equal(vfio_user_format_proposal(&ours, buf, (size_t)size), -ENOSPC);
}

/* Region information */

struct region {
	struct vfio_user_region_info info;
	uint8_t caps[1200];
};

static struct region region(uint32_t caps_len)
{
	return (struct region){ .info = {
					.argsz = (uint32_t)sizeof(struct vfio_user_region_info) +
						 caps_len,
					.flags = 7 | (caps_len ? VFIO_USER_REGION_FLAG_CAPS : 0),
					.index = 2,
					.cap_offset =
						caps_len ? sizeof(struct vfio_user_region_info) : 0,
					.size = 0x10000,
				} };
}

static void put_sparse(struct region *r, size_t at, uint32_t next,
	const struct vfio_user_sparse_area *areas, uint32_t nr)
{
	struct vfio_user_cap_sparse cap = { { VFIO_USER_CAP_SPARSE_MMAP, 1, next }, nr, 0 };

	memcpy(r->caps + at, &cap, sizeof(cap));
	if (nr)
		memcpy(r->caps + at + sizeof(cap), areas, nr * sizeof(*areas));
}

static int parse_region(
	const struct region *r, struct vfio_user_region_info *info, struct vfio_user_sparse *sparse)
{
	struct err err = { 0 };
	int rc = vfio_user_parse_region_info(r, r->info.argsz, 2, info, sparse, &err);

	assert_int_equal(rc == -EINVAL, err.text[0] != 0);
	return rc;
}

static int parse_areas(
	const struct vfio_user_sparse_area *areas, uint32_t nr, struct vfio_user_sparse *sparse)
{
	struct region r = region((uint32_t)(16 + nr * sizeof(*areas)));
	struct vfio_user_region_info info;

	put_sparse(&r, 0, 0, areas, nr);
	return parse_region(&r, &info, sparse);
}

static void sparse_areas_come_sorted(void **state)
{
	static const struct vfio_user_sparse_area areas[] = { { 0x8000, 0x1000 }, { 0, 0x1000 },
		{ 0x1000, 0x2000 } };
	struct vfio_user_sparse sparse;

	assert_int_equal(parse_areas(areas, 3, &sparse), 0);
	assert_int_equal(sparse.nr, 3);
	assert_int_equal(sparse.areas[0].offset, 0);
	assert_int_equal(sparse.areas[1].offset, 0x1000);
	assert_int_equal(sparse.areas[2].offset, 0x8000);
}

static void bad_sparse_areas_are_refused(void **state)
{
	static const struct vfio_user_sparse_area bad[][2] = {
		{ { 0, 0x2000 }, { 0x1000, 0x1000 } },		   /* overlap */
		{ { 0, 0x1000 }, { 0, 0x1000 } },		   /* twice */
		{ { 0, 0x1000 }, { 0x10000, 0x1000 } },		   /* behind the end */
		{ { 0, 0x1000 }, { 0xf000, 0x2000 } },		   /* across the end */
		{ { 0, 0x1000 }, { 0xfffffffffffff000, 0x2000 } }, /* wraps */
		{ { 0, 0x1000 }, { 0x1000, 0xfffffffffffff000 } }, /* wraps */
		{ { 0, 0x1000 }, { 0x1800, 0x1000 } },		   /* no pages */
		{ { 0, 0x1000 }, { 0x2000, 0x800 } },		   /* no pages */
		{ { 0, 0x1000 }, { 0x2000, 0 } },		   /* empty */
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vfio_user_sparse sparse;

		assert_int_equal(parse_areas(bad[i], 2, &sparse), -EINVAL);
	}
}

static void a_sparse_list_longer_than_its_reply_is_refused(void **state)
{
	struct region r = region(32);
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;
	uint32_t counts[] = { 2, 64, 65, UINT32_MAX, 0x10000000 };

	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		put_sparse(&r, 0, 0, &(struct vfio_user_sparse_area){ 0, 0x1000 }, 1);
		memcpy(r.caps + 8, &counts[i], 4);
		assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	}
}

static void a_sparse_capability_without_areas_forbids_mapping(void **state)
{
	struct region r = region(16);
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;

	put_sparse(&r, 0, 0, NULL, 0);
	assert_int_equal(parse_region(&r, &info, &sparse), 0);
	assert_int_equal(info.flags & VFIO_USER_REGION_FLAG_MMAP, 0);
}

static void capability_chains_are_bounded(void **state)
{
	struct region r = region(64);
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;
	struct vfio_user_cap_header cap = { .id = 9, .version = 1, .next = 32 };

	/* To itself; in a circle of two; before the capabilities; behind the end. */
	memcpy(r.caps, &cap, sizeof(cap));
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	cap.next = 40;
	memcpy(r.caps, &cap, sizeof(cap));
	cap.next = 32;
	memcpy(r.caps + 8, &cap, sizeof(cap));
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	cap.next = 8;
	memcpy(r.caps + 8, &cap, sizeof(cap));
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	cap.next = 89;
	memcpy(r.caps + 8, &cap, sizeof(cap));
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	cap.next = UINT32_MAX;
	memcpy(r.caps + 8, &cap, sizeof(cap));
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	/* An unknown one, then the end. */
	cap.next = 0;
	memcpy(r.caps + 8, &cap, sizeof(cap));
	assert_int_equal(parse_region(&r, &info, &sparse), 0);
}

static void two_sparse_capabilities_are_refused(void **state)
{
	static const struct vfio_user_sparse_area area = { 0, 0x1000 };
	struct region r = region(64);
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;

	put_sparse(&r, 0, 64, &area, 1);
	put_sparse(&r, 32, 0, &area, 1);
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
}

static void region_information_that_cannot_be_is_refused(void **state)
{
	struct region r = region(0);
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;

	assert_int_equal(parse_region(&r, &info, &sparse), 0);
	assert_int_equal(vfio_user_parse_region_info(&r, 31, 2, &info, &sparse, NULL), -EINVAL);
	assert_int_equal(vfio_user_parse_region_info(&r, 32, 3, &info, &sparse, NULL), -EINVAL);
	r.info.size = (1ull << 62) + 1;
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	r.info.size = 1ull << 63;
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
	r.info.size = 0x1000;
	r.info.offset = INT64_MAX;
	assert_int_equal(parse_region(&r, &info, &sparse), -EINVAL);
}

static void a_reply_cut_short_says_how_much_to_ask_for(void **state)
{
	struct region r = region(0);
	struct vfio_user_region_info info;
	struct vfio_user_sparse sparse;

	r.info.argsz = 48;
	assert_int_equal(vfio_user_parse_region_info(&r, 32, 2, &info, &sparse, NULL), -ENOSPC);
	assert_int_equal(info.argsz, 48);
	r.info.argsz = UINT32_MAX;
	assert_int_equal(vfio_user_parse_region_info(&r, 32, 2, &info, &sparse, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_rule_holds_at_its_bounds),
		cmocka_unit_test(a_size_that_loses_the_frame_ends_the_stream),
		cmocka_unit_test(a_type_that_is_none_ends_the_stream),
		cmocka_unit_test(unknown_flags_refuse_the_message_only),
		cmocka_unit_test(an_error_reply_is_the_header_alone),
		cmocka_unit_test(what_a_peer_leaves_out_has_the_default),
		cmocka_unit_test(capabilities_are_read_with_and_without_the_nul),
		cmocka_unit_test(limits_are_clamped_to_what_we_use),
		cmocka_unit_test(capabilities_that_make_no_sense_are_refused),
		cmocka_unit_test(deep_nesting_is_refused_not_followed),
		cmocka_unit_test(a_proposal_reads_back_as_what_was_proposed),
		cmocka_unit_test(an_answer_holds_only_what_was_proposed),
		cmocka_unit_test(an_answer_fits_where_qemu_keeps_its_request),
		cmocka_unit_test(a_text_that_does_not_fit_says_so),
		cmocka_unit_test(sparse_areas_come_sorted),
		cmocka_unit_test(bad_sparse_areas_are_refused),
		cmocka_unit_test(a_sparse_list_longer_than_its_reply_is_refused),
		cmocka_unit_test(a_sparse_capability_without_areas_forbids_mapping),
		cmocka_unit_test(capability_chains_are_bounded),
		cmocka_unit_test(two_sparse_capabilities_are_refused),
		cmocka_unit_test(region_information_that_cannot_be_is_refused),
		cmocka_unit_test(a_reply_cut_short_says_how_much_to_ask_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
