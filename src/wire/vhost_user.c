/*
 * vhost_user.c - what a well-formed vhost-user message looks like
 *
 * The tables and the checks of vhost_user.h. Nothing here does I/O or keeps state.
 *
 * Trusts: nothing that arrives.
 * Spec:   vhost-user, "Header", "Front-end message types", "Back-end message types".
 */
#include "wire/vhost_user.h"

#include <errno.h>
#include <inttypes.h>

#include "base/util.h"

/* Where the table of inflight regions splits: what a cache line holds belongs to one queue. */
#define INFLIGHT_ALIGN 64

/* 20 bytes of content, 24 with the padding that C adds. */
#define INFLIGHT_MIN offsetof(struct vhost_user_inflight, padding)

#define F(name)	   VHOST_USER_PROTOCOL_F_##name
#define NO_FEATURE (-1)

/* The fields that most rows share */
#define TAKES(bytes)   .min = (bytes), .max = (bytes)
#define REPLIES(bytes) .replies = true, .reply_min = (bytes), .reply_max = (bytes)
#define PLAIN	       .feature = NO_FEATURE
#define GATED(name)    .feature = F(name), .needs_protocol = true

static const struct vhost_user_rule front_rules[VHOST_USER_REQUEST_END] = {
	[VHOST_USER_GET_FEATURES] = { .name = "GET_FEATURES", REPLIES(8), PLAIN },
	[VHOST_USER_SET_FEATURES] = { .name = "SET_FEATURES", TAKES(8), PLAIN },
	[VHOST_USER_SET_OWNER] = { .name = "SET_OWNER", PLAIN },
	[VHOST_USER_RESET_OWNER] = { .name = "RESET_OWNER", PLAIN },
	[VHOST_USER_SET_MEM_TABLE] = {
		.name = "SET_MEM_TABLE", .min = 8, .max = sizeof(struct vhost_user_mem_table),
		.max_fds = VHOST_USER_MAX_TABLE_REGIONS, PLAIN,
	},
	[VHOST_USER_SET_LOG_BASE] = {
		.name = "SET_LOG_BASE", TAKES(sizeof(struct vhost_user_log)),
		.min_fds = 1, .max_fds = 1,
		/* Back-ends answer with a number that means nothing, or with nothing. */
		.replies = true, .reply_max = 8, GATED(LOG_SHMFD),
	},
	[VHOST_USER_SET_LOG_FD] = {
		.name = "SET_LOG_FD", .max = 8, .min_fds = 1, .max_fds = 1, PLAIN,
	},
	[VHOST_USER_SET_VRING_NUM] = {
		.name = "SET_VRING_NUM", TAKES(sizeof(struct vhost_user_vring_state)), PLAIN,
	},
	[VHOST_USER_SET_VRING_ADDR] = {
		.name = "SET_VRING_ADDR", TAKES(sizeof(struct vhost_user_vring_addr)), PLAIN,
	},
	[VHOST_USER_SET_VRING_BASE] = {
		.name = "SET_VRING_BASE", TAKES(sizeof(struct vhost_user_vring_state)), PLAIN,
	},
	[VHOST_USER_GET_VRING_BASE] = {
		.name = "GET_VRING_BASE", TAKES(sizeof(struct vhost_user_vring_state)),
		REPLIES(sizeof(struct vhost_user_vring_state)), PLAIN,
	},
	[VHOST_USER_SET_VRING_KICK] = { .name = "SET_VRING_KICK", TAKES(8), .max_fds = 1, PLAIN },
	[VHOST_USER_SET_VRING_CALL] = { .name = "SET_VRING_CALL", TAKES(8), .max_fds = 1, PLAIN },
	[VHOST_USER_SET_VRING_ERR] = { .name = "SET_VRING_ERR", TAKES(8), .max_fds = 1, PLAIN },
	[VHOST_USER_GET_PROTOCOL_FEATURES] = {
		.name = "GET_PROTOCOL_FEATURES", REPLIES(8), PLAIN, .needs_protocol = true,
	},
	[VHOST_USER_SET_PROTOCOL_FEATURES] = {
		.name = "SET_PROTOCOL_FEATURES", TAKES(8), PLAIN, .needs_protocol = true,
	},
	[VHOST_USER_GET_QUEUE_NUM] = { .name = "GET_QUEUE_NUM", REPLIES(8), GATED(MQ) },
	[VHOST_USER_SET_VRING_ENABLE] = {
		.name = "SET_VRING_ENABLE", TAKES(sizeof(struct vhost_user_vring_state)), PLAIN,
		.needs_protocol = true,
	},
	[VHOST_USER_SEND_RARP] = { .name = "SEND_RARP", TAKES(8), GATED(RARP) },
	[VHOST_USER_NET_SET_MTU] = { .name = "NET_SET_MTU", TAKES(8), GATED(MTU) },
	[VHOST_USER_SET_BACKEND_REQ_FD] = {
		.name = "SET_BACKEND_REQ_FD", .max = 8, .min_fds = 1, .max_fds = 1,
		GATED(BACKEND_REQ),
	},
	[VHOST_USER_IOTLB_MSG] = {
		.name = "IOTLB_MSG", TAKES(sizeof(struct vhost_user_iotlb)), REPLIES(8), PLAIN,
	},
	[VHOST_USER_SET_VRING_ENDIAN] = {
		.name = "SET_VRING_ENDIAN", TAKES(sizeof(struct vhost_user_vring_state)),
		GATED(CROSS_ENDIAN),
	},
	[VHOST_USER_GET_CONFIG] = {
		.name = "GET_CONFIG", .min = VHOST_USER_CONFIG_HEADER,
		.max = sizeof(struct vhost_user_config),
		/* No payload at all is one of two ways to say that it failed. */
		.replies = true, .reply_max = sizeof(struct vhost_user_config), GATED(CONFIG),
	},
	[VHOST_USER_SET_CONFIG] = {
		.name = "SET_CONFIG", .min = VHOST_USER_CONFIG_HEADER,
		.max = sizeof(struct vhost_user_config), GATED(CONFIG),
	},
	[VHOST_USER_CREATE_CRYPTO_SESSION] = {
		.name = "CREATE_CRYPTO_SESSION", .max = VHOST_USER_MAX_PAYLOAD,
		.replies = true, .reply_max = VHOST_USER_MAX_PAYLOAD, GATED(CRYPTO_SESSION),
	},
	[VHOST_USER_CLOSE_CRYPTO_SESSION] = {
		.name = "CLOSE_CRYPTO_SESSION", TAKES(8), GATED(CRYPTO_SESSION),
	},
	[VHOST_USER_POSTCOPY_ADVISE] = {
		.name = "POSTCOPY_ADVISE", .replies = true, .reply_fds = 1, GATED(PAGEFAULT),
	},
	[VHOST_USER_POSTCOPY_LISTEN] = { .name = "POSTCOPY_LISTEN", GATED(PAGEFAULT) },
	[VHOST_USER_POSTCOPY_END] = { .name = "POSTCOPY_END", REPLIES(8), GATED(PAGEFAULT) },
	[VHOST_USER_GET_INFLIGHT_FD] = {
		.name = "GET_INFLIGHT_FD", .min = INFLIGHT_MIN,
		.max = sizeof(struct vhost_user_inflight), .replies = true,
		.reply_min = INFLIGHT_MIN, .reply_max = sizeof(struct vhost_user_inflight),
		.reply_fds = 1, GATED(INFLIGHT_SHMFD),
	},
	[VHOST_USER_SET_INFLIGHT_FD] = {
		.name = "SET_INFLIGHT_FD", .min = INFLIGHT_MIN,
		.max = sizeof(struct vhost_user_inflight), .min_fds = 1, .max_fds = 1,
		GATED(INFLIGHT_SHMFD),
	},
	[VHOST_USER_GPU_SET_SOCKET] = {
		.name = "GPU_SET_SOCKET", .max = 8, .min_fds = 1, .max_fds = 1, PLAIN,
	},
	[VHOST_USER_RESET_DEVICE] = { .name = "RESET_DEVICE", GATED(RESET_DEVICE) },
	[VHOST_USER_VRING_KICK] = {
		.name = "VRING_KICK", TAKES(sizeof(struct vhost_user_vring_state)),
		GATED(INBAND_NOTIFICATIONS),
	},
	[VHOST_USER_GET_MAX_MEM_SLOTS] = {
		.name = "GET_MAX_MEM_SLOTS", REPLIES(8), GATED(CONFIGURE_MEM_SLOTS),
	},
	[VHOST_USER_ADD_MEM_REG] = {
		.name = "ADD_MEM_REG", TAKES(sizeof(struct vhost_user_mem_reg)),
		.min_fds = 1, .max_fds = 1, GATED(CONFIGURE_MEM_SLOTS),
	},
	[VHOST_USER_REM_MEM_REG] = {
		.name = "REM_MEM_REG", TAKES(sizeof(struct vhost_user_mem_reg)),
		.max_fds = 1, /* which some send, and nobody uses */
		GATED(CONFIGURE_MEM_SLOTS),
	},
	[VHOST_USER_SET_STATUS] = { .name = "SET_STATUS", TAKES(8), GATED(STATUS) },
	[VHOST_USER_GET_STATUS] = { .name = "GET_STATUS", REPLIES(8), GATED(STATUS) },
	[VHOST_USER_GET_SHARED_OBJECT] = {
		.name = "GET_SHARED_OBJECT", TAKES(16), .replies = true, .reply_max = 16,
		.reply_fds = 1, GATED(SHARED_OBJECT),
	},
	[VHOST_USER_SET_DEVICE_STATE_FD] = {
		.name = "SET_DEVICE_STATE_FD", TAKES(sizeof(struct vhost_user_device_state)),
		.min_fds = 1, .max_fds = 1, REPLIES(8), .reply_fds = 1, GATED(DEVICE_STATE),
	},
	[VHOST_USER_CHECK_DEVICE_STATE] = {
		.name = "CHECK_DEVICE_STATE", REPLIES(8), GATED(DEVICE_STATE),
	},
	[VHOST_USER_GET_SHMEM_CONFIG] = {
		.name = "GET_SHMEM_CONFIG", .replies = true, .reply_min = 8,
		.reply_max = sizeof(struct vhost_user_shmem_config), GATED(SHMEM_MAP),
	},
};

static const struct vhost_user_rule back_rules[VHOST_USER_BACKEND_REQUEST_END] = {
	[VHOST_USER_BACKEND_IOTLB_MSG] = {
		.name = "BACKEND_IOTLB_MSG", TAKES(sizeof(struct vhost_user_iotlb)),
		GATED(BACKEND_REQ),
	},
	[VHOST_USER_BACKEND_CONFIG_CHANGE_MSG] = {
		.name = "BACKEND_CONFIG_CHANGE_MSG", GATED(CONFIG),
	},
	[VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG] = {
		.name = "BACKEND_VRING_HOST_NOTIFIER_MSG",
		TAKES(sizeof(struct vhost_user_vring_area)), .max_fds = 1, GATED(HOST_NOTIFIER),
	},
	[VHOST_USER_BACKEND_VRING_CALL] = {
		.name = "BACKEND_VRING_CALL", TAKES(sizeof(struct vhost_user_vring_state)),
		GATED(INBAND_NOTIFICATIONS),
	},
	[VHOST_USER_BACKEND_VRING_ERR] = {
		.name = "BACKEND_VRING_ERR", TAKES(sizeof(struct vhost_user_vring_state)),
		GATED(INBAND_NOTIFICATIONS),
	},
	[VHOST_USER_BACKEND_SHARED_OBJECT_ADD] = {
		.name = "BACKEND_SHARED_OBJECT_ADD", TAKES(16), GATED(SHARED_OBJECT),
	},
	[VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE] = {
		.name = "BACKEND_SHARED_OBJECT_REMOVE", TAKES(16), GATED(SHARED_OBJECT),
	},
	[VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP] = {
		.name = "BACKEND_SHARED_OBJECT_LOOKUP", TAKES(16), REPLIES(8), .reply_fds = 1,
		GATED(SHARED_OBJECT),
	},
	[VHOST_USER_BACKEND_SHMEM_MAP] = {
		.name = "BACKEND_SHMEM_MAP", TAKES(sizeof(struct vhost_user_mmap)),
		.min_fds = 1, .max_fds = 1, GATED(SHMEM_MAP),
	},
	[VHOST_USER_BACKEND_SHMEM_UNMAP] = {
		.name = "BACKEND_SHMEM_UNMAP", TAKES(sizeof(struct vhost_user_mmap)),
		GATED(SHMEM_MAP),
	},
};

static const char *const feature_names[] = {
	[F(MQ)] = "MQ",
	[F(LOG_SHMFD)] = "LOG_SHMFD",
	[F(RARP)] = "RARP",
	[F(REPLY_ACK)] = "REPLY_ACK",
	[F(MTU)] = "MTU",
	[F(BACKEND_REQ)] = "BACKEND_REQ",
	[F(CROSS_ENDIAN)] = "CROSS_ENDIAN",
	[F(CRYPTO_SESSION)] = "CRYPTO_SESSION",
	[F(PAGEFAULT)] = "PAGEFAULT",
	[F(CONFIG)] = "CONFIG",
	[F(BACKEND_SEND_FD)] = "BACKEND_SEND_FD",
	[F(HOST_NOTIFIER)] = "HOST_NOTIFIER",
	[F(INFLIGHT_SHMFD)] = "INFLIGHT_SHMFD",
	[F(RESET_DEVICE)] = "RESET_DEVICE",
	[F(INBAND_NOTIFICATIONS)] = "INBAND_NOTIFICATIONS",
	[F(CONFIGURE_MEM_SLOTS)] = "CONFIGURE_MEM_SLOTS",
	[F(STATUS)] = "STATUS",
	[F(XEN_MMAP)] = "XEN_MMAP",
	[F(SHARED_OBJECT)] = "SHARED_OBJECT",
	[F(DEVICE_STATE)] = "DEVICE_STATE",
	[F(GET_VRING_BASE_INFLIGHT)] = "GET_VRING_BASE_INFLIGHT",
	[F(GPA_ADDRESSES)] = "GPA_ADDRESSES",
	[F(SHMEM_MAP)] = "SHMEM_MAP",
};

const struct vhost_user_rule *vhost_user_rule(uint32_t request)
{
	if (request >= ARRAY_SIZE(front_rules) || !front_rules[request].name)
		return NULL;
	return &front_rules[request];
}

const struct vhost_user_rule *vhost_user_backend_rule(uint32_t request)
{
	if (request >= ARRAY_SIZE(back_rules) || !back_rules[request].name)
		return NULL;
	return &back_rules[request];
}

const char *vhost_user_name(uint32_t request)
{
	const struct vhost_user_rule *rule = vhost_user_rule(request);

	return rule ? rule->name : "request?";
}

const char *vhost_user_backend_name(uint32_t request)
{
	const struct vhost_user_rule *rule = vhost_user_backend_rule(request);

	return rule ? rule->name : "request?";
}

const char *vhost_user_feature_name(unsigned protocol_bit)
{
	return protocol_bit < ARRAY_SIZE(feature_names) ? feature_names[protocol_bit] : "feature?";
}

/* Headers */

/* What both directions share: without these nobody knows where the next message starts. */
static int check_frame(const struct vhost_user_header *h, bool reply, struct err *err)
{
	uint32_t version = h->flags & VHOST_USER_FLAG_VERSION_MASK;

	if (version != VHOST_USER_FLAG_VERSION)
		return err_set(err, -EINVAL, "message of version %u, expected %u", version,
			VHOST_USER_FLAG_VERSION);
	if (h->size > VHOST_USER_MAX_PAYLOAD)
		return err_set(err, -EINVAL, "payload of %u bytes, expected at most %zu", h->size,
			VHOST_USER_MAX_PAYLOAD);
	if (!(h->flags & VHOST_USER_FLAG_REPLY) != !reply)
		return err_set(err, -EINVAL,
			reply ? "a request where a reply was expected" : "a reply to nothing");
	return 0;
}

int vhost_user_check_request(
	const struct vhost_user_header *h, const struct vhost_user_rule *rule, struct err *err)
{
	int rc = check_frame(h, false, err);

	if (rc)
		return rc;
	if (!rule)
		return err_set(err, -EPROTO, "unknown request %u", h->request);
	if (h->size >= rule->min && h->size <= rule->max)
		return 0;
	if (rule->min == rule->max)
		return err_set(
			err, -EPROTO, "payload of %u bytes, expected %u", h->size, rule->min);
	return err_set(err, -EPROTO, "payload of %u bytes, expected %u to %u", h->size, rule->min,
		rule->max);
}

int vhost_user_check_reply(const struct vhost_user_header *h, uint32_t request,
	const struct vhost_user_rule *rule, bool ack, struct err *err)
{
	uint32_t min = ack ? 8 : rule->reply_min, max = ack ? 8 : rule->reply_max;
	int rc = check_frame(h, true, err);

	if (rc)
		return rc;
	if (h->request != request)
		return err_set(
			err, -EINVAL, "%s: the reply is to request %u", rule->name, h->request);
	if (h->size < min || h->size > max)
		return err_set(err, -EINVAL, "%s: reply of %u bytes, expected %u to %u", rule->name,
			h->size, min, max);
	return 0;
}

/* Payloads */

int vhost_user_check_region(const struct vhost_user_mem_region *r, struct err *err)
{
	if (!r->size)
		return err_set(err, -EINVAL, "region at 0x%" PRIx64 ": size 0", r->gpa);
	if (r->size > UINT64_MAX - r->gpa || r->size > UINT64_MAX - r->user_addr ||
		r->size > UINT64_MAX - r->mmap_offset)
		return err_set(err, -EINVAL,
			"region at 0x%" PRIx64 ": address 0x%" PRIx64 " or offset 0x%" PRIx64
			" plus size 0x%" PRIx64 " wraps",
			r->gpa, r->user_addr, r->mmap_offset, r->size);
	return 0;
}

int vhost_user_check_mem_table(
	const struct vhost_user_mem_table *t, size_t len, unsigned nr_fds, struct err *err)
{
	if (t->nr > VHOST_USER_MAX_TABLE_REGIONS)
		return err_set(err, -EINVAL, "%u regions, expected at most %u", t->nr,
			VHOST_USER_MAX_TABLE_REGIONS);
	if (len < offsetof(struct vhost_user_mem_table, regions) + t->nr * sizeof(t->regions[0]))
		return err_set(err, -EINVAL, "%u regions in %zu bytes", t->nr, len);
	if (nr_fds != t->nr)
		return err_set(err, -EINVAL, "%u regions with %u descriptors", t->nr, nr_fds);
	for (uint32_t i = 0; i < t->nr; i++) {
		const struct vhost_user_mem_region *r = &t->regions[i];
		int rc = vhost_user_check_region(r, err);

		if (rc)
			return rc;
		for (uint32_t k = 0; k < i; k++)
			if (ranges_overlap(r->gpa, r->size, t->regions[k].gpa, t->regions[k].size))
				return err_set(err, -EINVAL,
					"regions at 0x%" PRIx64 " and 0x%" PRIx64 " overlap",
					t->regions[k].gpa, r->gpa);
	}
	return 0;
}

int vhost_user_check_config(const struct vhost_user_config *c, size_t len, struct err *err)
{
	if (len < VHOST_USER_CONFIG_HEADER)
		return err_set(err, -EINVAL, "configuration message of %zu bytes", len);
	if (!range_ok(c->offset, c->size, VHOST_USER_MAX_CONFIG))
		return err_set(err, -EINVAL, "configuration bytes %u+%u, expected to be below %u",
			c->offset, c->size, VHOST_USER_MAX_CONFIG);
	/* Some always send room for a whole configuration, whatever they access. */
	if (len - VHOST_USER_CONFIG_HEADER < c->size)
		return err_set(err, -EINVAL, "%zu bytes for a configuration access of %u",
			len - VHOST_USER_CONFIG_HEADER, c->size);
	return 0;
}

uint64_t vhost_user_inflight_region(bool packed, uint16_t queue_size)
{
	uint64_t bytes =
		packed ? sizeof(struct vhost_user_inflight_packed) +
				 queue_size * sizeof(struct vhost_user_inflight_packed_desc)
		       : sizeof(struct vhost_user_inflight_split) +
				 queue_size * sizeof(struct vhost_user_inflight_split_desc);

	return align_up(bytes, INFLIGHT_ALIGN);
}
