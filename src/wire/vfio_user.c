/*
 * vfio_user.c - what a well-formed vfio-user message looks like
 *
 * The table and the checks of vfio_user.h. Nothing here does I/O or keeps state.
 *
 * Trusts: nothing that arrives. Every length is checked against the bytes that
 *         are there, each walk is bounded by them.
 * Spec:   vfio-user 0.9.2, "Header", "Commands", "VFIO_USER_VERSION", "VFIO region capabilities".
 */
#include "wire/vfio_user.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/sock.h"
#include "base/util.h"

#define HEADER_SIZE ((uint32_t)sizeof(struct vfio_user_header))

/* Room for a JSON text, far above what any peer sends. */
#define MAX_JSON 4096u
/* A request for information may be longer than today's structure, as the kernel's did grow. */
#define MAX_INFO 64u
/* A region's capabilities, or the sub-regions behind descriptors, in one reply. */
#define MAX_REGION_CAPS 65536u
/* One bool byte per interrupt: MSI-X has at most 2048 vectors. */
#define MAX_IRQ_BOOLS 2048u

#define REGION_SIZE_MAX (1ull << 62)

static const struct vfio_user_msg_rule msg_rules[VFIO_USER_COMMAND_END] = {
	[VFIO_USER_VERSION] = {
		.name = "VERSION", .to_server = true,
		.cmd_min = 4, .cmd_max = 4 + MAX_JSON,
		.reply_min = 4, .reply_max = 4 + MAX_JSON, .reply_fds = 1, /* the twin socket */
	},
	[VFIO_USER_DMA_MAP] = {
		.name = "DMA_MAP", .to_server = true,
		.cmd_min = 32, .cmd_max = 32, .cmd_fds = 1,
	},
	[VFIO_USER_DMA_UNMAP] = {
		.name = "DMA_UNMAP", .to_server = true,
		.cmd_min = 24, .cmd_max = 24,
		.reply_min = 24, .reply_max = 24,
	},
	[VFIO_USER_DEVICE_GET_INFO] = {
		.name = "DEVICE_GET_INFO", .to_server = true,
		.cmd_min = 16, .cmd_max = MAX_INFO,
		.reply_min = 16, .reply_max = MAX_INFO,
	},
	[VFIO_USER_DEVICE_GET_REGION_INFO] = {
		.name = "DEVICE_GET_REGION_INFO", .to_server = true,
		.cmd_min = 32, .cmd_max = 32 + MAX_REGION_CAPS,
		.reply_min = 32, .reply_max = 32 + MAX_REGION_CAPS,
		.reply_fds = VFIO_USER_MAX_SPARSE,
	},
	[VFIO_USER_DEVICE_GET_REGION_IO_FDS] = {
		.name = "DEVICE_GET_REGION_IO_FDS", .to_server = true,
		.cmd_min = 16, .cmd_max = MAX_INFO,
		.reply_min = 16, .reply_max = 16 + MAX_REGION_CAPS,
		.reply_fds = SOCK_MAX_FDS,
	},
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = {
		.name = "DEVICE_GET_IRQ_INFO", .to_server = true,
		.cmd_min = 16, .cmd_max = MAX_INFO,
		.reply_min = 16, .reply_max = MAX_INFO,
	},
	[VFIO_USER_DEVICE_SET_IRQS] = {
		.name = "DEVICE_SET_IRQS", .to_server = true,
		.cmd_min = 20, .cmd_max = 20 + MAX_IRQ_BOOLS,
		/* Clients send batches of their own choice, whatever max_msg_fds said. */
		.cmd_fds = SOCK_MAX_FDS,
	},
	[VFIO_USER_REGION_READ] = {
		.name = "REGION_READ", .to_server = true,
		.cmd_min = 16, .cmd_max = 16,
		.reply_min = 16, .reply_max = 16 + VFIO_USER_MAX_DATA,
	},
	[VFIO_USER_REGION_WRITE] = {
		.name = "REGION_WRITE", .to_server = true,
		.cmd_min = 16, .cmd_max = 16 + VFIO_USER_MAX_DATA,
		.reply_min = 16, .reply_max = 16,
	},
	[VFIO_USER_DMA_READ] = {
		.name = "DMA_READ", .to_client = true,
		.cmd_min = 16, .cmd_max = 16,
		.reply_min = 16, .reply_max = 16 + VFIO_USER_MAX_DATA,
	},
	[VFIO_USER_DMA_WRITE] = {
		.name = "DMA_WRITE", .to_client = true,
		.cmd_min = 16, .cmd_max = 16 + VFIO_USER_MAX_DATA,
		/* The specification's table prints a count of 4 bytes, peers send 8. */
		.reply_min = 12, .reply_max = 16,
	},
	[VFIO_USER_DEVICE_RESET] = {
		.name = "DEVICE_RESET", .to_server = true,
	},
	[VFIO_USER_REGION_WRITE_MULTI] = {
		.name = "REGION_WRITE_MULTI", .to_server = true,
		.cmd_min = 8, .cmd_max = 8 + VFIO_USER_MAX_DATA,
		.reply_min = 8, .reply_max = 8,
	},
	[VFIO_USER_DEVICE_FEATURE] = {
		.name = "DEVICE_FEATURE", .to_server = true,
		.cmd_min = 8, .cmd_max = 8 + VFIO_USER_MAX_DATA,
		.reply_min = 8, .reply_max = 8 + VFIO_USER_MAX_DATA,
	},
	[VFIO_USER_MIG_DATA_READ] = {
		.name = "MIG_DATA_READ", .to_server = true,
		.cmd_min = 8, .cmd_max = 8,
		.reply_min = 8, .reply_max = 8 + VFIO_USER_MAX_DATA,
	},
	[VFIO_USER_MIG_DATA_WRITE] = {
		.name = "MIG_DATA_WRITE", .to_server = true,
		.cmd_min = 8, .cmd_max = 8 + VFIO_USER_MAX_DATA,
		.reply_min = 0, .reply_max = 8,
	},
};

const struct vfio_user_msg_rule *vfio_user_rule(uint16_t command)
{
	if (command >= VFIO_USER_COMMAND_END || !msg_rules[command].name)
		return NULL;
	return &msg_rules[command];
}

const char *vfio_user_command_name(uint16_t command)
{
	const struct vfio_user_msg_rule *rule = vfio_user_rule(command);

	return rule ? rule->name : "command?";
}

static int check_command(const struct vfio_user_header *h, const struct vfio_user_msg_rule *rule,
	enum vfio_user_end receiver, struct err *err)
{
	uint32_t payload = h->size - HEADER_SIZE;

	if (!(receiver == VFIO_USER_SERVER ? rule->to_server : rule->to_client))
		return err_set(err, -EPROTO, "%s is not a command for a %s", rule->name,
			receiver == VFIO_USER_SERVER ? "server" : "client");
	if (h->flags & VFIO_USER_FLAG_ERROR)
		return err_set(err, -EPROTO, "%s: a command with the error flag", rule->name);
	if (payload < rule->cmd_min || payload > rule->cmd_max)
		return err_set(err, -EPROTO, "%s: payload of %u bytes, expected %u to %u",
			rule->name, payload, rule->cmd_min, rule->cmd_max);
	return 0;
}

static int check_reply(const struct vfio_user_header *h, const struct vfio_user_msg_rule *rule,
	enum vfio_user_end receiver, struct err *err)
{
	uint32_t payload = h->size - HEADER_SIZE;

	if (!(receiver == VFIO_USER_CLIENT ? rule->to_server : rule->to_client))
		return err_set(err, -EPROTO, "%s: a %s sends no replies to this", rule->name,
			receiver == VFIO_USER_CLIENT ? "server" : "client");
	if (h->flags & VFIO_USER_FLAG_ERROR) {
		if (payload)
			return err_set(err, -EPROTO, "%s: error reply with %u bytes of payload",
				rule->name, payload);
		return 0;
	}
	if (payload < rule->reply_min || payload > rule->reply_max)
		return err_set(err, -EPROTO, "%s: reply of %u bytes, expected %u to %u", rule->name,
			payload, rule->reply_min, rule->reply_max);
	return 0;
}

int vfio_user_check_header(
	const struct vfio_user_header *h, enum vfio_user_end receiver, struct err *err)
{
	uint32_t type = h->flags & VFIO_USER_FLAG_TYPE;
	const struct vfio_user_msg_rule *rule = vfio_user_rule(h->command);

	if (h->size < HEADER_SIZE || h->size > VFIO_USER_MAX_MSG)
		return err_set(err, -EINVAL, "message of %u bytes, expected %u to %u", h->size,
			HEADER_SIZE, VFIO_USER_MAX_MSG);
	if (type != VFIO_USER_TYPE_COMMAND && type != VFIO_USER_TYPE_REPLY)
		return err_set(
			err, -EINVAL, "message type %u, expected 0 (command) or 1 (reply)", type);
	if (h->flags & ~(VFIO_USER_FLAG_TYPE | VFIO_USER_FLAG_NO_REPLY | VFIO_USER_FLAG_ERROR))
		return err_set(err, -EPROTO, "unknown flags 0x%x", h->flags);
	if (!rule)
		return err_set(err, -EPROTO, "unknown command %u", h->command);
	return type == VFIO_USER_TYPE_COMMAND ? check_command(h, rule, receiver, err)
					      : check_reply(h, rule, receiver, err);
}

/* Capabilities: {"capabilities": {key: value, ...}} */

/* The object of capabilities in a parsed text; NULL in *caps when there is none. */
static int find_caps(json_t *root, json_t **caps, struct err *err)
{
	if (!json_is_object(root))
		return err_set(err, -EINVAL, "version data: expected a JSON object");
	*caps = json_object_get(root, "capabilities");
	if (*caps && !json_is_object(*caps))
		return err_set(err, -EINVAL, "version data: capabilities: expected an object");
	return 0;
}

static json_t *load_json(const char *json, size_t len, struct err *err)
{
	json_error_t why;
	json_t *root;

	while (len && !json[len - 1])
		len--;
	root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
	if (!root)
		err_set(err, -EINVAL, "version data: not JSON, from byte %d on", why.position);
	return root;
}

/* Leaves *out alone when the key is absent. */
static int get_number(json_t *obj, const char *key, uint64_t *out, struct err *err)
{
	json_t *v = json_object_get(obj, key);

	if (!v)
		return 0;
	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return err_set(err, -EINVAL, "version data: %s: expected a number, 0 or more", key);
	*out = (uint64_t)json_integer_value(v);
	return 0;
}

static int get_bool(json_t *obj, const char *key, bool *out, struct err *err)
{
	json_t *v = json_object_get(obj, key);

	if (!v)
		return 0;
	if (!json_is_boolean(v))
		return err_set(err, -EINVAL, "version data: %s: expected true or false", key);
	*out = json_is_true(v);
	return 0;
}

static int get_twin(json_t *obj, struct vfio_user_caps *caps, struct err *err)
{
	json_t *twin = json_object_get(obj, "twin_socket");
	uint64_t index = 0;
	int rc;

	if (!twin)
		return 0;
	if (!json_is_object(twin))
		return err_set(err, -EINVAL, "version data: twin_socket: expected an object");
	rc = get_bool(twin, "supported", &caps->twin_socket, err);
	if (!rc)
		rc = get_number(twin, "fd_index", &index, err);
	if (rc)
		return rc;
	if (index >= SOCK_MAX_FDS)
		return err_set(err, -EINVAL, "version data: fd_index %" PRIu64 ", expected 0 to %d",
			index, SOCK_MAX_FDS - 1);
	caps->twin_fd_index = (uint32_t)index;
	return 0;
}

static int get_limits(json_t *obj, struct vfio_user_caps *caps, struct err *err)
{
	uint64_t fds = caps->max_msg_fds, maps = caps->max_dma_maps;
	int rc;

	if ((rc = get_number(obj, "max_msg_fds", &fds, err)) ||
		(rc = get_number(obj, "max_data_xfer_size", &caps->max_data_xfer_size, err)) ||
		(rc = get_number(obj, "max_dma_maps", &maps, err)) ||
		(rc = get_number(obj, "pgsizes", &caps->pgsizes, err)))
		return rc;

	if (caps->max_data_xfer_size < 8)
		return err_set(err, -EINVAL,
			"version data: max_data_xfer_size %" PRIu64 ", expected 8 or more",
			caps->max_data_xfer_size);
	if (!maps)
		return err_set(err, -EINVAL, "version data: max_dma_maps 0, expected 1 or more");
	if (!(caps->pgsizes & PAGE_SIZE_4K))
		return err_set(err, -EINVAL,
			"version data: pgsizes 0x%" PRIx64 " does not include 4096", caps->pgsizes);

	caps->max_msg_fds = (uint32_t)MIN(fds, (uint64_t)SOCK_MAX_FDS);
	caps->max_data_xfer_size = MIN(caps->max_data_xfer_size, (uint64_t)VFIO_USER_MAX_DATA);
	caps->max_dma_maps = (uint32_t)MIN(maps, (uint64_t)UINT32_MAX);
	return 0;
}

int vfio_user_parse_caps(const char *json, size_t len, struct vfio_user_caps *caps, struct err *err)
{
	json_t *root, *obj;
	int rc;

	*caps = (struct vfio_user_caps){
		.max_msg_fds = VFIO_USER_DEFAULT_MSG_FDS,
		.max_data_xfer_size = VFIO_USER_DEFAULT_DATA_XFER,
		.max_dma_maps = VFIO_USER_DEFAULT_DMA_MAPS,
		.pgsizes = VFIO_USER_DEFAULT_PGSIZES,
	};
	if (!len)
		return 0;
	root = load_json(json, len, err);
	if (!root)
		return -EINVAL;
	rc = find_caps(root, &obj, err);
	if (!rc && obj) {
		rc = get_limits(obj, caps, err);
		if (!rc)
			rc = get_twin(obj, caps, err);
		if (!rc)
			rc = get_bool(obj, "write_multiple", &caps->write_multiple, err);
	}
	json_decref(root);
	return rc;
}

/* A text being put together; `full` once something did not fit. */
struct text {
	char *buf;
	size_t size, len;
	bool full;
	bool comma; /* a key was written before */
};

static void __attribute__((format(printf, 2, 3))) put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(t->buf + t->len, t->size - t->len, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= t->size - t->len)
		t->full = true;
	else
		t->len += (size_t)n;
}

static void put_key(struct text *t, const char *key)
{
	put(t, "%s\"%s\":", t->comma ? "," : "", key);
	t->comma = true;
}

/* The keys of `wanted` (NULL: all) that caps has something to say about. */
static int format_caps(const struct vfio_user_caps *caps, const json_t *wanted, bool answer,
	char *buf, size_t size)
{
	struct text t = { .buf = buf, .size = size };
	const struct {
		const char *key;
		uint64_t value;
	} numbers[] = {
		{ "max_msg_fds", caps->max_msg_fds },
		{ "max_data_xfer_size", caps->max_data_xfer_size },
		{ "max_dma_maps", caps->max_dma_maps },
		{ "pgsizes", caps->pgsizes },
	};

	if (!size)
		return -ENOSPC;
	put(&t, "{\"capabilities\":{");
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		if (answer && !json_object_get(wanted, numbers[i].key))
			continue;
		put_key(&t, numbers[i].key);
		put(&t, "%" PRIu64, numbers[i].value);
	}
	if (caps->twin_socket && (!answer || json_object_get(wanted, "twin_socket"))) {
		put_key(&t, "twin_socket");
		if (answer)
			put(&t, "{\"supported\":true,\"fd_index\":%u}", caps->twin_fd_index);
		else
			put(&t, "{\"supported\":true}");
	}
	if (caps->write_multiple && (!answer || json_object_get(wanted, "write_multiple"))) {
		put_key(&t, "write_multiple");
		put(&t, "true");
	}
	put(&t, "}}");
	return t.full ? -ENOSPC : (int)t.len + 1;
}

int vfio_user_format_proposal(const struct vfio_user_caps *caps, char *buf, size_t size)
{
	return format_caps(caps, NULL, false, buf, size);
}

int vfio_user_format_answer(
	const struct vfio_user_caps *caps, const char *proposal, size_t len, char *buf, size_t size)
{
	json_t *root, *obj;
	int rc;

	if (!len)
		return 0;
	root = load_json(proposal, len, NULL);
	if (!root)
		return -EINVAL;
	rc = find_caps(root, &obj, NULL);
	if (!rc)
		rc = format_caps(caps, obj, true, buf, size);
	json_decref(root);
	return rc;
}

/* GET_REGION_INFO */

static void sort_areas(struct vfio_user_sparse *sparse)
{
	for (uint32_t i = 1; i < sparse->nr; i++) {
		struct vfio_user_sparse_area a = sparse->areas[i];
		uint32_t j = i;

		for (; j && sparse->areas[j - 1].offset > a.offset; j--)
			sparse->areas[j] = sparse->areas[j - 1];
		sparse->areas[j] = a;
	}
}

static int check_areas(const struct vfio_user_sparse *sparse,
	const struct vfio_user_region_info *info, struct err *err)
{
	uint64_t end = 0;

	for (uint32_t i = 0; i < sparse->nr; i++) {
		const struct vfio_user_sparse_area *a = &sparse->areas[i];

		if (!a->size || (a->offset | a->size) & (PAGE_SIZE_4K - 1))
			return err_set(err, -EINVAL,
				"region %u: sparse area 0x%" PRIx64 "+0x%" PRIx64
				" is not made of whole pages",
				info->index, a->offset, a->size);
		if (!range_ok(a->offset, a->size, info->size))
			return err_set(err, -EINVAL,
				"region %u: sparse area 0x%" PRIx64 "+0x%" PRIx64
				" passes the region's end 0x%" PRIx64,
				info->index, a->offset, a->size, info->size);
		if (a->offset < end)
			return err_set(err, -EINVAL,
				"region %u: sparse area 0x%" PRIx64 "+0x%" PRIx64
				" overlaps another one",
				info->index, a->offset, a->size);
		end = a->offset + a->size;
	}
	return 0;
}

/* One sparse capability at p, of which `room` bytes are there. */
static int read_sparse(const uint8_t *p, size_t room, const struct vfio_user_region_info *info,
	struct vfio_user_sparse *sparse, struct err *err)
{
	struct vfio_user_cap_sparse cap;

	if (room < sizeof(cap))
		return err_set(
			err, -EINVAL, "region %u: sparse capability is cut off", info->index);
	memcpy(&cap, p, sizeof(cap));
	if (cap.nr_areas > VFIO_USER_MAX_SPARSE)
		return err_set(err, -EINVAL, "region %u: %u sparse areas, expected at most %u",
			info->index, cap.nr_areas, VFIO_USER_MAX_SPARSE);
	if (cap.nr_areas * sizeof(sparse->areas[0]) > room - sizeof(cap))
		return err_set(
			err, -EINVAL, "region %u: list of sparse areas is cut off", info->index);
	sparse->nr = cap.nr_areas;
	memcpy(sparse->areas, p + sizeof(cap), cap.nr_areas * sizeof(sparse->areas[0]));
	sort_areas(sparse);
	return check_areas(sparse, info, err);
}

/*
 * Walk the chain. Each hop must lead to another header inside the reply; there can not be more
 * of those than headers fit, so a longer walk is a loop. *has_sparse: one was there.
 */
static int read_caps(const uint8_t *payload, size_t len, const struct vfio_user_region_info *info,
	struct vfio_user_sparse *sparse, bool *has_sparse, struct err *err)
{
	size_t hops = 0, max_hops = len / sizeof(struct vfio_user_cap_header);
	uint32_t at = info->cap_offset;

	while (at) {
		struct vfio_user_cap_header cap;
		int rc;

		if (at < sizeof(*info) || !range_ok(at, sizeof(cap), len))
			return err_set(err, -EINVAL,
				"region %u: capability at byte %u, the reply has %zu", info->index,
				at, len);
		if (hops++ == max_hops)
			return err_set(
				err, -EINVAL, "region %u: capability chain is a loop", info->index);
		memcpy(&cap, payload + at, sizeof(cap));
		if (cap.id == VFIO_USER_CAP_SPARSE_MMAP) {
			if (*has_sparse)
				return err_set(err, -EINVAL,
					"region %u: more than one sparse capability", info->index);
			rc = read_sparse(payload + at, len - at, info, sparse, err);
			if (rc)
				return rc;
			*has_sparse = true;
		}
		at = cap.next;
	}
	return 0;
}

int vfio_user_parse_region_info(const void *payload, size_t len, uint32_t index,
	struct vfio_user_region_info *info, struct vfio_user_sparse *sparse, struct err *err)
{
	bool has_sparse = false;
	int rc;

	sparse->nr = 0;
	if (len < sizeof(*info))
		return err_set(err, -EINVAL, "region %u: information of %zu bytes, expected %zu",
			index, len, sizeof(*info));
	memcpy(info, payload, sizeof(*info));
	if (info->index != index)
		return err_set(err, -EINVAL, "asked about region %u, told about region %u", index,
			info->index);
	if (info->size > REGION_SIZE_MAX)
		return err_set(err, -EINVAL, "region %u: size 0x%" PRIx64 " is more than 2^62",
			index, info->size);
	if (info->argsz > len) {
		if (info->argsz > sizeof(*info) + MAX_REGION_CAPS)
			return err_set(err, -EINVAL, "region %u: information needs %u bytes", index,
				info->argsz);
		return -ENOSPC;
	}
	if (info->flags & VFIO_USER_REGION_FLAG_CAPS) {
		rc = read_caps(payload, len, info, sparse, &has_sparse, err);
		if (rc)
			return rc;
	}
	/* A sparse capability without areas: nothing may be mapped. */
	if (has_sparse && !sparse->nr)
		info->flags &= ~VFIO_USER_REGION_FLAG_MMAP;
	if (info->flags & VFIO_USER_REGION_FLAG_MMAP &&
		!range_ok(info->offset, info->size, INT64_MAX))
		return err_set(err, -EINVAL,
			"region %u: descriptor offset 0x%" PRIx64 " is out of range", index,
			info->offset);
	return 0;
}
