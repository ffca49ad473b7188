/*
 * vfio_user.h - the vfio-user protocol, version 0.1, as both ends speak it
 *
 * A stream of messages over an AF_UNIX socket, in host byte order. Each is a
 * header and a payload; descriptors travel with the message they belong to.
 * msg_rules[] says once what a well-formed message of each command looks like;
 * client, server, tests and fuzzers read that table.
 *
 * Structures and numbers follow "vfio-user Protocol Specification" 0.9.2, section names
 * in brackets; those shared with the kernel's VFIO are in linux/vfio.h.
 */
#ifndef WIRE_VFIO_USER_H
#define WIRE_VFIO_USER_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define VFIO_USER_VERSION_MAJOR 0
#define VFIO_USER_VERSION_MINOR 1

/* Defaults of the capabilities that a peer leaves out [VFIO_USER_VERSION] */
#define VFIO_USER_DEFAULT_MSG_FDS   1
#define VFIO_USER_DEFAULT_DATA_XFER (1u << 20)
#define VFIO_USER_DEFAULT_DMA_MAPS  65535
#define VFIO_USER_DEFAULT_PGSIZES   4096

/* The largest data of one message that either of our ends takes or sends. */
#define VFIO_USER_MAX_DATA (1u << 20)
/*
 * The largest message: a header, the largest fixed payload (DMA and region accesses) and the data.
 */
#define VFIO_USER_MAX_MSG (VFIO_USER_MAX_DATA + 64)

enum vfio_user_command {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP,
	VFIO_USER_DMA_UNMAP,
	VFIO_USER_DEVICE_GET_INFO,
	VFIO_USER_DEVICE_GET_REGION_INFO,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS,
	VFIO_USER_DEVICE_GET_IRQ_INFO,
	VFIO_USER_DEVICE_SET_IRQS,
	VFIO_USER_REGION_READ,
	VFIO_USER_REGION_WRITE,
	VFIO_USER_DMA_READ,
	VFIO_USER_DMA_WRITE,
	VFIO_USER_DEVICE_RESET,
	VFIO_USER_DIRTY_PAGES, /* gone since migration v2 */
	VFIO_USER_REGION_WRITE_MULTI,
	VFIO_USER_DEVICE_FEATURE,
	VFIO_USER_MIG_DATA_READ,
	VFIO_USER_MIG_DATA_WRITE,
	VFIO_USER_COMMAND_END,
};

/* [Header] */
struct vfio_user_header {
	uint16_t id; /* chosen by the sender of the command, echoed in its reply */
	uint16_t command;
	uint32_t size;	/* of the whole message, this header included */
	uint32_t flags; /* below */
	uint32_t error; /* an errno, with VFIO_USER_FLAG_ERROR */
};
static_assert(sizeof(struct vfio_user_header) == 16, "vfio-user header");

#define VFIO_USER_FLAG_TYPE	0xfu
#define VFIO_USER_TYPE_COMMAND	0u
#define VFIO_USER_TYPE_REPLY	1u
#define VFIO_USER_FLAG_NO_REPLY (1u << 4)
#define VFIO_USER_FLAG_ERROR	(1u << 5)

/* [VFIO_USER_VERSION], followed by a JSON text with its NUL */
struct vfio_user_version {
	uint16_t major;
	uint16_t minor;
};
static_assert(sizeof(struct vfio_user_version) == 4, "VERSION");

#define VFIO_USER_DMA_MAP_READ	(1u << 0)
#define VFIO_USER_DMA_MAP_WRITE (1u << 1)

/* [VFIO_USER_DMA_MAP], with one descriptor or none */
struct vfio_user_dma_map {
	uint32_t argsz;
	uint32_t flags;
	uint64_t offset; /* in the descriptor */
	uint64_t addr;	 /* IOVA */
	uint64_t size;
};
static_assert(sizeof(struct vfio_user_dma_map) == 32, "DMA_MAP");

#define VFIO_USER_DMA_UNMAP_ALL (1u << 1)

/* [VFIO_USER_DMA_UNMAP] */
struct vfio_user_dma_unmap {
	uint32_t argsz;
	uint32_t flags;
	uint64_t addr;
	uint64_t size;
};
static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "DMA_UNMAP");

#define VFIO_USER_DEVICE_FLAG_RESET (1u << 0)
#define VFIO_USER_DEVICE_FLAG_PCI   (1u << 1)

/* [VFIO_USER_DEVICE_GET_INFO] */
struct vfio_user_device_info {
	uint32_t argsz;
	uint32_t flags;
	uint32_t num_regions;
	uint32_t num_irqs;
};
static_assert(sizeof(struct vfio_user_device_info) == 16, "GET_INFO");

#define VFIO_USER_REGION_FLAG_READ  (1u << 0)
#define VFIO_USER_REGION_FLAG_WRITE (1u << 1)
#define VFIO_USER_REGION_FLAG_MMAP  (1u << 2)
#define VFIO_USER_REGION_FLAG_CAPS  (1u << 3)

/* [VFIO_USER_DEVICE_GET_REGION_INFO], followed by a capability chain */
struct vfio_user_region_info {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t cap_offset; /* from the start of this structure */
	uint64_t size;
	uint64_t offset; /* in the descriptor for mmap */
};
static_assert(sizeof(struct vfio_user_region_info) == 32, "GET_REGION_INFO");

struct vfio_user_cap_header {
	uint16_t id;
	uint16_t version;
	uint32_t next; /* from the start of struct vfio_user_region_info; 0 ends */
};
static_assert(sizeof(struct vfio_user_cap_header) == 8, "capability header");

#define VFIO_USER_CAP_SPARSE_MMAP 1

struct vfio_user_sparse_area {
	uint64_t offset; /* in the region, and added to the region's offset in the descriptor */
	uint64_t size;
};
static_assert(sizeof(struct vfio_user_sparse_area) == 16, "sparse area");

struct vfio_user_cap_sparse {
	struct vfio_user_cap_header header;
	uint32_t nr_areas;
	uint32_t reserved;
	struct vfio_user_sparse_area areas[];
};
static_assert(sizeof(struct vfio_user_cap_sparse) == 16, "sparse capability");

/* [VFIO_USER_DEVICE_GET_REGION_IO_FDS], followed by `count` sub-regions in the reply */
struct vfio_user_region_io_fds {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t count;
};
static_assert(sizeof(struct vfio_user_region_io_fds) == 16, "GET_REGION_IO_FDS");

#define VFIO_USER_IO_FD_TYPE_IOEVENTFD 0

struct vfio_user_sub_region {
	uint64_t offset; /* in the region */
	uint64_t size;
	uint32_t fd_index;
	uint32_t type;
	uint32_t flags; /* KVM_IOEVENTFD_FLAG_* */
	uint32_t padding;
	uint64_t datamatch;
};
static_assert(sizeof(struct vfio_user_sub_region) == 40, "sub-region");

#define VFIO_USER_IRQ_FLAG_EVENTFD    (1u << 0)
#define VFIO_USER_IRQ_FLAG_MASKABLE   (1u << 1)
#define VFIO_USER_IRQ_FLAG_AUTOMASKED (1u << 2)
#define VFIO_USER_IRQ_FLAG_NORESIZE   (1u << 3)

/* [VFIO_USER_DEVICE_GET_IRQ_INFO] */
struct vfio_user_irq_info {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t count;
};
static_assert(sizeof(struct vfio_user_irq_info) == 16, "GET_IRQ_INFO");

#define VFIO_USER_IRQ_SET_DATA_NONE	 (1u << 0)
#define VFIO_USER_IRQ_SET_DATA_BOOL	 (1u << 1)
#define VFIO_USER_IRQ_SET_DATA_EVENTFD	 (1u << 2)
#define VFIO_USER_IRQ_SET_ACTION_MASK	 (1u << 3)
#define VFIO_USER_IRQ_SET_ACTION_UNMASK	 (1u << 4)
#define VFIO_USER_IRQ_SET_ACTION_TRIGGER (1u << 5)

/* [VFIO_USER_DEVICE_SET_IRQS], followed by `count` bytes with DATA_BOOL */
struct vfio_user_irq_set {
	uint32_t argsz;
	uint32_t flags;
	uint32_t index;
	uint32_t start;
	uint32_t count;
};
static_assert(sizeof(struct vfio_user_irq_set) == 20, "SET_IRQS");

/*
 * [VFIO_USER_REGION_READ], [VFIO_USER_REGION_WRITE], followed by data in a read's reply and a write
 */
struct vfio_user_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count;
};
static_assert(sizeof(struct vfio_user_region_access) == 16, "REGION_READ");

/* [VFIO_USER_DMA_READ], [VFIO_USER_DMA_WRITE], followed by data in a read's reply and a write */
struct vfio_user_dma_access {
	uint64_t addr;
	uint64_t count;
};
static_assert(sizeof(struct vfio_user_dma_access) == 16, "DMA_READ");

/* [VFIO_USER_REGION_WRITE_MULTI]: a count, then that many writes */
struct vfio_user_write_multi {
	uint64_t wr_cnt;
};

#define VFIO_USER_MULTI_DATA 8

struct vfio_user_multi_write {
	uint64_t offset;
	uint32_t region;
	uint32_t count; /* of the data bytes that count, at most 8 */
	uint8_t data[VFIO_USER_MULTI_DATA];
};
static_assert(sizeof(struct vfio_user_multi_write) == 24, "WRITE_MULTI");

#define VFIO_USER_FEATURE_MASK	0xffffu
#define VFIO_USER_FEATURE_GET	(1u << 16)
#define VFIO_USER_FEATURE_SET	(1u << 17)
#define VFIO_USER_FEATURE_PROBE (1u << 18)

/* [VFIO_USER_DEVICE_FEATURE], followed by the feature's data */
struct vfio_user_device_feature {
	uint32_t argsz;
	uint32_t flags;
};
static_assert(sizeof(struct vfio_user_device_feature) == 8, "DEVICE_FEATURE");

/* Region and interrupt indexes of a PCI device (linux/vfio.h has the same numbers). */
enum {
	VFIO_USER_REGION_BAR0 = 0,
	VFIO_USER_REGION_ROM = 6,
	VFIO_USER_REGION_CONFIG = 7,
	VFIO_USER_REGION_VGA = 8,
	VFIO_USER_REGION_COUNT = 9,
};
enum {
	VFIO_USER_IRQ_INTX,
	VFIO_USER_IRQ_MSI,
	VFIO_USER_IRQ_MSIX,
	VFIO_USER_IRQ_ERR,
	VFIO_USER_IRQ_REQ,
	VFIO_USER_IRQ_COUNT,
};

/* What one peer said in its VERSION message; what it left out has the default. */
struct vfio_user_caps {
	uint32_t max_msg_fds;
	uint64_t max_data_xfer_size;
	uint32_t max_dma_maps;
	uint64_t pgsizes;
	bool twin_socket;
	uint32_t twin_fd_index; /* in a server's reply */
	bool write_multiple;
};

/*
 * One row per command: how long its payload may be in a command and in a
 * reply, how many descriptors may come with each, and who may send it.
 * A payload longer than `min` is data or a list whose count the fixed part says.
 */
struct vfio_user_msg_rule {
	const char *name;
	bool to_server; /* a command of the client */
	bool to_client; /* a command of the server */
	uint32_t cmd_min, cmd_max;
	uint32_t cmd_fds; /* most descriptors with a command */
	uint32_t reply_min, reply_max;
	uint32_t reply_fds;
};

/* The row of a command, or NULL for a number that the protocol does not know. */
const struct vfio_user_msg_rule *vfio_user_rule(uint16_t command);
/* The name of a command for log lines; "command?" when it is unknown. */
const char *vfio_user_command_name(uint16_t command);

enum vfio_user_end { VFIO_USER_CLIENT, VFIO_USER_SERVER };

/*
 * Check the header of a message that `receiver` got, before its payload is
 * read: type, flags, and size against the rule. 0; -EINVAL with a text: the stream can
 * not be trusted any more (size below 16 or beyond VFIO_USER_MAX_MSG, or a type that is none);
 * -EPROTO with a text: this message is refused but its size can be skipped.
 */
int vfio_user_check_header(
	const struct vfio_user_header *h, enum vfio_user_end receiver, struct err *err);

/*
 * Read the JSON text of a VERSION message of len bytes (NUL included or not, or empty:
 * all defaults) into caps. 0 or -EINVAL with a text. Unknown keys are ignored; limits
 * are clamped to what our ends can use, a limit that makes work impossible is refused.
 */
int vfio_user_parse_caps(
	const char *json, size_t len, struct vfio_user_caps *caps, struct err *err);

/*
 * Write the capabilities text, NUL included, into buf: as a client's proposal, or as the
 * server's answer, which holds only keys that `proposal` (a parsed JSON text of
 * the client, its len bytes) had. Returns its length with NUL, or -ENOSPC.
 */
int vfio_user_format_proposal(const struct vfio_user_caps *caps, char *buf, size_t size);
int vfio_user_format_answer(const struct vfio_user_caps *caps, const char *proposal, size_t len,
	char *buf, size_t size);

#define VFIO_USER_MAX_SPARSE 64

/* The areas of a region that may be mmapped; nr 0: the whole region, when it has the MMAP flag. */
struct vfio_user_sparse {
	uint32_t nr;
	struct vfio_user_sparse_area areas[VFIO_USER_MAX_SPARSE];
};

/*
 * Check a GET_REGION_INFO reply of len bytes: the region's size (at most 2^62), the chain
 * of capabilities (no loops, all inside len) and the sparse areas (inside the
 * region, page-aligned, sorted here, no overlap). 0 and *info, *sparse filled; or -EINVAL with a
 * text. A reply whose argsz is larger than len says how much to ask for: -ENOSPC,
 * with info->argsz.
 */
int vfio_user_parse_region_info(const void *payload, size_t len, uint32_t index,
	struct vfio_user_region_info *info, struct vfio_user_sparse *sparse, struct err *err);

#endif
