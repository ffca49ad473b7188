/*
 * vhost_user.h - the vhost-user protocol as both ends speak it
 *
 * A stream of messages over an AF_UNIX socket in host byte order: a header, a payload,
 * descriptors that travel with the message's first byte. The front-end (VMM) asks; on a
 * second socket, handed over by SET_BACKEND_REQ_FD, the back-end asks. The two rule tables say once
 * what a well-formed message of each request looks like; both ends, the tests and the
 * fuzzers read them.
 *
 * Spec: QEMU's docs/interop/vhost-user.rst, section names in brackets.
 */
#ifndef WIRE_VHOST_USER_H
#define WIRE_VHOST_USER_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* [Front-end message types] */
enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES,
	VHOST_USER_SET_OWNER,
	VHOST_USER_RESET_OWNER, /* deprecated */
	VHOST_USER_SET_MEM_TABLE,
	VHOST_USER_SET_LOG_BASE,
	VHOST_USER_SET_LOG_FD,
	VHOST_USER_SET_VRING_NUM,
	VHOST_USER_SET_VRING_ADDR,
	VHOST_USER_SET_VRING_BASE,
	VHOST_USER_GET_VRING_BASE,
	VHOST_USER_SET_VRING_KICK,
	VHOST_USER_SET_VRING_CALL,
	VHOST_USER_SET_VRING_ERR,
	VHOST_USER_GET_PROTOCOL_FEATURES,
	VHOST_USER_SET_PROTOCOL_FEATURES,
	VHOST_USER_GET_QUEUE_NUM,
	VHOST_USER_SET_VRING_ENABLE,
	VHOST_USER_SEND_RARP,
	VHOST_USER_NET_SET_MTU,
	VHOST_USER_SET_BACKEND_REQ_FD,
	VHOST_USER_IOTLB_MSG,
	VHOST_USER_SET_VRING_ENDIAN,
	VHOST_USER_GET_CONFIG,
	VHOST_USER_SET_CONFIG,
	VHOST_USER_CREATE_CRYPTO_SESSION,
	VHOST_USER_CLOSE_CRYPTO_SESSION,
	VHOST_USER_POSTCOPY_ADVISE,
	VHOST_USER_POSTCOPY_LISTEN,
	VHOST_USER_POSTCOPY_END,
	VHOST_USER_GET_INFLIGHT_FD,
	VHOST_USER_SET_INFLIGHT_FD,
	VHOST_USER_GPU_SET_SOCKET,
	VHOST_USER_RESET_DEVICE,
	VHOST_USER_VRING_KICK,
	VHOST_USER_GET_MAX_MEM_SLOTS,
	VHOST_USER_ADD_MEM_REG,
	VHOST_USER_REM_MEM_REG,
	VHOST_USER_SET_STATUS,
	VHOST_USER_GET_STATUS,
	VHOST_USER_GET_SHARED_OBJECT,
	VHOST_USER_SET_DEVICE_STATE_FD,
	VHOST_USER_CHECK_DEVICE_STATE,
	VHOST_USER_GET_SHMEM_CONFIG,
	VHOST_USER_REQUEST_END,
};

/* [Back-end message types] */
enum vhost_user_backend_request {
	VHOST_USER_BACKEND_IOTLB_MSG = 1,
	VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
	VHOST_USER_BACKEND_VRING_HOST_NOTIFIER_MSG,
	VHOST_USER_BACKEND_VRING_CALL,
	VHOST_USER_BACKEND_VRING_ERR,
	VHOST_USER_BACKEND_SHARED_OBJECT_ADD,
	VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE,
	VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP,
	VHOST_USER_BACKEND_SHMEM_MAP,
	VHOST_USER_BACKEND_SHMEM_UNMAP,
	VHOST_USER_BACKEND_REQUEST_END,
};

/* [Protocol features]: bit numbers */
enum vhost_user_protocol_feature {
	VHOST_USER_PROTOCOL_F_MQ = 0,
	VHOST_USER_PROTOCOL_F_LOG_SHMFD,
	VHOST_USER_PROTOCOL_F_RARP,
	VHOST_USER_PROTOCOL_F_REPLY_ACK,
	VHOST_USER_PROTOCOL_F_MTU,
	VHOST_USER_PROTOCOL_F_BACKEND_REQ,
	VHOST_USER_PROTOCOL_F_CROSS_ENDIAN,
	VHOST_USER_PROTOCOL_F_CRYPTO_SESSION,
	VHOST_USER_PROTOCOL_F_PAGEFAULT,
	VHOST_USER_PROTOCOL_F_CONFIG,
	VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD,
	VHOST_USER_PROTOCOL_F_HOST_NOTIFIER,
	VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
	VHOST_USER_PROTOCOL_F_RESET_DEVICE,
	VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS,
	VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
	VHOST_USER_PROTOCOL_F_STATUS,
	VHOST_USER_PROTOCOL_F_XEN_MMAP,
	VHOST_USER_PROTOCOL_F_SHARED_OBJECT,
	VHOST_USER_PROTOCOL_F_DEVICE_STATE,
	VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT,
	VHOST_USER_PROTOCOL_F_GPA_ADDRESSES,
	VHOST_USER_PROTOCOL_F_SHMEM_MAP,
};
#define VHOST_USER_PROTOCOL_BIT(name) (1ull << VHOST_USER_PROTOCOL_F_##name)

/* Feature bit of SET_FEATURES besides the device's own: log writes to guest memory [Migration] */
#define VHOST_USER_F_LOG_ALL	       26
#define VHOST_USER_F_PROTOCOL_FEATURES 30

/* [Header] */
struct vhost_user_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload */
};
static_assert(sizeof(struct vhost_user_header) == 12, "vhost-user header");

#define VHOST_USER_FLAG_VERSION_MASK 0x3u
#define VHOST_USER_FLAG_VERSION	     0x1u
#define VHOST_USER_FLAG_REPLY	     (1u << 2)
#define VHOST_USER_FLAG_NEED_REPLY   (1u << 3)

/* [A vring state description] */
struct vhost_user_vring_state {
	uint32_t index;
	uint32_t num;
};

/* In a u64 of SET_VRING_KICK, _CALL and _ERR, and in the reply of SET_DEVICE_STATE_FD */
#define VHOST_USER_VRING_IDX_MASK 0xffu
#define VHOST_USER_NOFD		  (1u << 8)

/* [A vring address description] */
struct vhost_user_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc; /* the addresses are the front-end's own, or IOVAs with an IOMMU */
	uint64_t used;
	uint64_t avail;
	uint64_t log; /* guest-physical, of the used ring, with VHOST_USER_VRING_F_LOG */
};
static_assert(sizeof(struct vhost_user_vring_addr) == 40, "SET_VRING_ADDR");
#define VHOST_USER_VRING_F_LOG (1u << 0)

/* [Memory region description] */
struct vhost_user_mem_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t user_addr; /* where the front-end has it mapped: the base of ring addresses */
	uint64_t mmap_offset;
};
static_assert(sizeof(struct vhost_user_mem_region) == 32, "memory region");

#define VHOST_USER_MAX_TABLE_REGIONS 8
/* What back-ends with CONFIGURE_MEM_SLOTS usually have room for; ours too. */
#define VHOST_USER_MAX_MEM_SLOTS 509

/* [Multiple memory regions description] */
struct vhost_user_mem_table {
	uint32_t nr;
	uint32_t padding;
	struct vhost_user_mem_region regions[VHOST_USER_MAX_TABLE_REGIONS];
};
static_assert(sizeof(struct vhost_user_mem_table) == 264, "SET_MEM_TABLE");

/* [Single memory region description] */
struct vhost_user_mem_reg {
	uint64_t padding;
	struct vhost_user_mem_region region;
};
static_assert(sizeof(struct vhost_user_mem_reg) == 40, "ADD_MEM_REG");

/* [Log description] */
struct vhost_user_log {
	uint64_t size;
	uint64_t offset;
};

#define VHOST_USER_MAX_CONFIG	    256
#define VHOST_USER_CONFIG_WRITABLE  0u
#define VHOST_USER_CONFIG_MIGRATION 1u
#define VHOST_USER_CONFIG_HEADER    12

/* [Virtio device config space] */
struct vhost_user_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t bytes[VHOST_USER_MAX_CONFIG];
};
static_assert(sizeof(struct vhost_user_config) == 268, "GET_CONFIG");

/* [Inflight description] */
struct vhost_user_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
	uint32_t padding; /* some senders leave it out: 20 bytes are a whole message */
};
static_assert(sizeof(struct vhost_user_inflight) == 24, "GET_INFLIGHT_FD");

/* [IOTLB message] */
struct vhost_user_iotlb {
	uint64_t iova;
	uint64_t size;
	uint64_t user_addr;
	uint8_t perm;
	uint8_t type;
	uint8_t padding[6];
};
static_assert(sizeof(struct vhost_user_iotlb) == 32, "IOTLB_MSG");

/* [Vring area description] */
struct vhost_user_vring_area {
	uint64_t index; /* as for SET_VRING_KICK */
	uint64_t size;
	uint64_t offset;
};

/* [Device state transfer parameters] */
struct vhost_user_device_state {
	uint32_t direction; /* 0 save, 1 load */
	uint32_t phase;	    /* 0 stopped */
};
#define VHOST_USER_STATE_SAVE	    0u
#define VHOST_USER_STATE_LOAD	    1u
#define VHOST_USER_STATE_STOPPED    0u
#define VHOST_USER_STATE_ERROR_MASK 0xffu

/* [VIRTIO Shared Memory Region configuration] */
#define VHOST_USER_MAX_SHMEM 256
struct vhost_user_shmem_config {
	uint32_t nr;
	uint32_t padding;
	uint64_t sizes[VHOST_USER_MAX_SHMEM];
};
static_assert(sizeof(struct vhost_user_shmem_config) == 2056, "GET_SHMEM_CONFIG");

/* [MMAP request] */
struct vhost_user_mmap {
	uint8_t shmid;
	uint8_t padding[7];
	uint64_t fd_offset;
	uint64_t shm_offset;
	uint64_t len;
	uint64_t flags;
};
static_assert(sizeof(struct vhost_user_mmap) == 40, "SHMEM_MAP");
#define VHOST_USER_MMAP_RW (1u << 0)

/* The largest payload of any message, either way. */
#define VHOST_USER_MAX_PAYLOAD sizeof(struct vhost_user_shmem_config)

union vhost_user_payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_addr addr;
	struct vhost_user_mem_table mem_table;
	struct vhost_user_mem_reg mem_reg;
	struct vhost_user_log log;
	struct vhost_user_config config;
	struct vhost_user_inflight inflight;
	struct vhost_user_iotlb iotlb;
	struct vhost_user_vring_area area;
	struct vhost_user_device_state device_state;
	struct vhost_user_shmem_config shmem;
	struct vhost_user_mmap mmap;
	uint8_t uuid[16];
	uint8_t bytes[VHOST_USER_MAX_PAYLOAD];
};

struct vhost_user_msg {
	struct vhost_user_header header;
	union vhost_user_payload payload;
} __attribute__((packed, aligned(4)));

/*
 * One row per request: payload sizes and descriptor counts of the request and of its own
 * reply, and the protocol feature without which it may not be sent.
 */
struct vhost_user_rule {
	const char *name;
	uint16_t min, max; /* payload of the request */
	uint8_t min_fds,
		max_fds; /* with it; what depends on the payload is checked by its reader */
	bool replies;	 /* always answered, by its own reply (not the REPLY_ACK number) */
	uint16_t reply_min, reply_max;
	uint8_t reply_fds;   /* at most */
	int8_t feature;	     /* protocol feature bit, or -1 */
	bool needs_protocol; /* only with VHOST_USER_F_PROTOCOL_FEATURES offered or acknowledged */
};

/* The row, or NULL for a number that the protocol does not know. */
const struct vhost_user_rule *vhost_user_rule(uint32_t request);
const struct vhost_user_rule *vhost_user_backend_rule(uint32_t request);
/* For log lines; "request?" when unknown. */
const char *vhost_user_name(uint32_t request);
const char *vhost_user_backend_name(uint32_t request);
const char *vhost_user_feature_name(unsigned protocol_bit);

/*
 * Check a request's header as its receiver got it (rule: of the side that sent it, NULL: unknown
 * number): version, no REPLY flag, size within the rule. 0; -EPROTO with a text: refused, its
 * size can be skipped; -EINVAL with a text: the stream cannot be trusted any more (version, a
 * reply, or a size beyond VHOST_USER_MAX_PAYLOAD).
 */
int vhost_user_check_request(
	const struct vhost_user_header *h, const struct vhost_user_rule *rule, struct err *err);
/*
 * Check a reply's header against the request it should answer (ack: the REPLY_ACK number, a u64, is
 * expected). 0 or -EINVAL with a text: the stream cannot be trusted any more.
 */
int vhost_user_check_reply(const struct vhost_user_header *h, uint32_t request,
	const struct vhost_user_rule *rule, bool ack, struct err *err);

/*
 * Payloads whose parts depend on each other, checked whole. len: payload bytes, nr_fds: descriptors
 * that came along. 0 or -EINVAL with a text.
 */
int vhost_user_check_mem_table(
	const struct vhost_user_mem_table *t, size_t len, unsigned nr_fds, struct err *err);
int vhost_user_check_region(const struct vhost_user_mem_region *r, struct err *err);
int vhost_user_check_config(const struct vhost_user_config *c, size_t len, struct err *err);

/*
 * The inflight area, one region per queue [Inflight I/O tracking]. The structures live in memory
 * that both a back-end before and a back-end after a crash write, and anybody in between.
 */
struct vhost_user_inflight_split_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};
static_assert(sizeof(struct vhost_user_inflight_split_desc) == 16, "inflight descriptor");

struct vhost_user_inflight_split {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct vhost_user_inflight_split_desc desc[];
};
static_assert(sizeof(struct vhost_user_inflight_split) == 16, "inflight region, split");

struct vhost_user_inflight_packed_desc {
	uint8_t inflight;
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};
static_assert(sizeof(struct vhost_user_inflight_packed_desc) == 32, "inflight descriptor, packed");

struct vhost_user_inflight_packed {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap_counter;
	uint8_t old_used_wrap_counter;
	uint8_t padding[7];
	struct vhost_user_inflight_packed_desc desc[];
};
static_assert(offsetof(struct vhost_user_inflight_packed, desc) == 32, "inflight region, packed");

#define VHOST_USER_INFLIGHT_VERSION 1

/* Bytes of one queue's region, a multiple of 64. */
uint64_t vhost_user_inflight_region(bool packed, uint16_t queue_size);

#endif
