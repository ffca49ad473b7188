/*
 * fuzz_vfio_user_client.c - the vfio-user client and the PCI function over it, against what servers
 * may say
 *
 * The input is a guest's accesses and a server's answers:
 *
 *   byte 0     bits 0-4: number of accesses n; bit 5: after them, give a lost device time to come back
 *   n * 8      accesses: kind, size, offset (2), value (4)
 *   the rest   one answer after the other: a control byte, then what it asks for
 *              (fuzz_server.h); the server's own is a DMA_READ or DMA_WRITE of its.
 *
 * No KVM: its ioctls succeed and do nothing. What must hold: no crash, no hang, no leak, a text of
 * one line for each refusal, and as many descriptors after it as before.
 */

#include "attach/user_device.h"
#include "base/log.h"
#include "fuzz_server.h"
#include "machine/layout.h"
#include "wire/vfio_user.h"

#define RAM_SIZE     (4 * MIB)
#define MAX_REPLY    8192u
#define ACCESS_SIZE  8u
#define CONFIG_SIZE  256u
#define COME_BACK_MS 5

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg)
{
	return 0;
}

/* --- the server --- */

/* A conventional device: BAR 0 of 8 KiB memory, partly mappable, BAR 2 ports, MSI-X and MSI. */
static const uint8_t *good_config(void)
{
	static uint8_t c[CONFIG_SIZE];

	if (c[0])
		return c;
	c[0] = 0x4f;
	c[1] = 0x49;
	c[2] = 0xc8;
	c[6] = 0x10;
	c[0x18] = 1;
	c[0x34] = 0x40;
	c[0x3d] = 1;
	c[0x40] = 0x11; /* MSI-X: 4 vectors, table at 0, pending bits at 0x800 of BAR 0 */
	c[0x41] = 0x50;
	c[0x42] = 3;
	c[0x49] = 0x08;
	c[0x50] = 5; /* MSI, 64 bits */
	c[0x51] = 0x70;
	c[0x52] = 0x84;
	c[0x70] = 0x10; /* PCI Express 2 */
	c[0x72] = 2;
	return c;
}

static uint32_t good_region(uint8_t *p, const uint8_t *request)
{
	struct vfio_user_region_info info;
	struct vfio_user_cap_header head = { .id = VFIO_USER_CAP_SPARSE_MMAP };
	const uint32_t nr_areas[2] = { 1, 0 };
	const struct vfio_user_sparse_area area = { 0x1000, 0x1000 };
	uint32_t room;

	memcpy(&info, request, sizeof(info));
	room = info.argsz;
	info.argsz = sizeof(info);
	info.flags = 3;
	info.size = info.index == 0   ? 0x2000
		    : info.index == 2 ? 256
		    : info.index == 7 ? CONFIG_SIZE
				      : 0;
	if (info.index) {
		memcpy(p, &info, sizeof(info));
		return sizeof(info);
	}
	info.argsz = 64;
	info.flags = 7;
	if (room >= 64) {
		info.flags = 15;
		info.cap_offset = sizeof(info);
	}
	memcpy(p, &info, sizeof(info));
	memcpy(p + 32, &head, sizeof(head));
	memcpy(p + 40, nr_areas, sizeof(nr_areas));
	memcpy(p + 48, &area, sizeof(area));
	return room >= 64 ? 64 : 32;
}

static uint32_t good_doorbells(uint8_t *p, const uint8_t *request)
{
	struct vfio_user_region_io_fds head;
	const struct vfio_user_sub_region s = { .offset = 0x10, .size = 4 };
	uint32_t room;

	memcpy(&head, request, sizeof(head));
	room = head.argsz;
	head.argsz = sizeof(head) + sizeof(s);
	head.count = 1;
	memcpy(p, &head, sizeof(head));
	memcpy(p + sizeof(head), &s, sizeof(s));
	return room >= head.argsz ? head.argsz : (uint32_t)sizeof(head);
}

static uint32_t good_read(uint8_t *p, const uint8_t *request)
{
	struct vfio_user_region_access a;

	memcpy(&a, request, sizeof(a));
	a.count = MIN(a.count, 4096u);
	memcpy(p, &a, sizeof(a));
	if (a.region == VFIO_USER_REGION_CONFIG && range_ok(a.offset, a.count, CONFIG_SIZE))
		memcpy(p + sizeof(a), good_config() + a.offset, a.count);
	return (uint32_t)sizeof(a) + a.count;
}

/* The payload that a well-meaning server answers with. p is zeroed. */
static uint32_t good_payload(const struct vfio_user_header *h, const uint8_t *request, uint8_t *p)
{
	static const char version[] =
		"\0\0\1\0{\"capabilities\":{\"max_msg_fds\":2,\"write_multiple\":true}}";
	const struct vfio_user_device_info info = { 16, 3, 9, 5 };
	struct vfio_user_irq_info irq;

	switch (h->command) {
	case VFIO_USER_VERSION:
		memcpy(p, version, sizeof(version));
		return sizeof(version);
	case VFIO_USER_DEVICE_GET_INFO:
		memcpy(p, &info, sizeof(info));
		return sizeof(info);
	case VFIO_USER_DEVICE_GET_REGION_INFO:
		return good_region(p, request);
	case VFIO_USER_DEVICE_GET_REGION_IO_FDS:
		return good_doorbells(p, request);
	case VFIO_USER_DEVICE_GET_IRQ_INFO:
		memcpy(&irq, request, sizeof(irq));
		irq.flags = 7;
		irq.count = irq.index == 0 ? 1 : irq.index < 3 ? 4 : 0;
		memcpy(p, &irq, sizeof(irq));
		return sizeof(irq);
	case VFIO_USER_REGION_READ:
		return good_read(p, request);
	case VFIO_USER_REGION_WRITE:
		memcpy(p, request, 16);
		return 16;
	default:
		return 0;
	}
}

static void send_dma(int fd, struct input *in)
{
	struct {
		struct vfio_user_header h;
		struct vfio_user_dma_access a;
		uint8_t data[64];
	} m = { 0 };
	bool write = take8(in) & 1;
	uint32_t len = write ? take_copy(in, take16(in), m.data, sizeof(m.data)) : 0;

	m.h.command = write ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ;
	m.h.size = (uint32_t)(sizeof(m.h) + sizeof(m.a)) + len;
	m.h.flags = take8(in) & 0x30;
	m.a.addr = take32(in);
	m.a.count = write ? len : take16(in);
	send_message(fd, &m, m.h.size, 0);
}

/* False: hang up. */
static bool answer(int fd, const struct vfio_user_header *h, const uint8_t *request)
{
	static uint8_t m[sizeof(*h) + MAX_REPLY];
	struct vfio_user_header reply = *h;
	struct input *in = &server.in;
	uint8_t control;
	uint32_t len;

	if (!in->left)
		return false;
	control = take8(in);
	if (control & ANSWER_OWN_BEFORE)
		send_dma(fd, in);
	memset(m, 0, sizeof(m));
	reply.flags = VFIO_USER_TYPE_REPLY;
	if (ANSWER_KIND(control) == ANSWER_BYTES) {
		len = take_copy(in, take16(in), m, sizeof(m));
		send_message(fd, m, len, ANSWER_FDS(control));
		return true;
	}
	len = ANSWER_KIND(control) == ANSWER_PAYLOAD
		      ? take_copy(in, take16(in), m + sizeof(*h), MAX_REPLY)
		      : good_payload(h, request, m + sizeof(*h));
	reply.size = (uint32_t)sizeof(*h) + len;
	memcpy(m, &reply, sizeof(reply));
	if (ANSWER_KIND(control) == ANSWER_CHANGED)
		change_bytes(in, m, reply.size);
	if (!(h->flags & VFIO_USER_FLAG_NO_REPLY) || ANSWER_KIND(control) != ANSWER_GOOD)
		send_message(fd, m, reply.size, ANSWER_FDS(control));
	return true;
}

static bool serve_one(int fd)
{
	static uint8_t request[2 * 65536]; /* a DMA_READ may ask for 64 KiB */
	struct vfio_user_header h;

	if (!recv_all(fd, &h, sizeof(h), NULL))
		return false;
	require(h.size >= sizeof(h) && h.size <= sizeof(request));
	memset(request, 0, 64);
	if (!recv_all(fd, request, h.size - sizeof(h), NULL))
		return false;
	/* What it says to our own commands is its business. */
	return (h.flags & VFIO_USER_FLAG_TYPE) == VFIO_USER_TYPE_REPLY || answer(fd, &h, request);
}

/* --- the machine --- */

static struct machine machine;
static struct io_reader *reader;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct memory_params mp = { .size = RAM_SIZE };
	struct pci_params pp = { .nr_segments = 1, .phys_bits = 40, .ram_top = RAM_SIZE };
	struct err err = { 0 };

	log_init("fuzz", LOG_ERR);
	machine.kvm.nr_slots = 64;
	machine.kvm.nr_gsi_routes = 256;
	require(!loop_new(&machine.loop) && !memory_new(&machine.kvm, &mp, &machine.memory, &err) &&
		!irqs_new(&machine.kvm, &machine.irqs) && !io_bus_new(1, &machine.bus) &&
		!pci_new(machine.bus, &pp, &machine.pci, &err));
	reader = io_bus_reader(machine.bus, 0);
	server_init("vfio-user", serve_one);
	return 0;
}

static void attached(void *arg, struct device *dev, int rc, const struct err *err)
{
	require_text(rc, err);
	*(int *)arg = rc;
	loop_quit(machine.loop, 0);
}

static uint64_t bar(unsigned n)
{
	uint64_t value;

	io_read(machine.bus, reader, IO_MMIO, LAYOUT_ECAM + (1 << 15) + 0x10 + 4 * n, 4, &value);
	return value & ~15ull;
}

static void access_once(struct input *in)
{
	uint8_t kind = take8(in);
	unsigned size = 1u << (take8(in) & 3);
	uint32_t off = take16(in);
	uint64_t value = take32(in);
	uint64_t config = LAYOUT_ECAM + (1 << 15) + (off & 0xfff);

	switch (kind & 7) {
	case 0:
		io_read(machine.bus, reader, IO_MMIO, config, size, &value);
		break;
	case 1:
		io_write(machine.bus, reader, IO_MMIO, config, size, value);
		break;
	case 2:
		io_read(machine.bus, reader, IO_MMIO, bar(0) + (off & 0x1fff), size, &value);
		break;
	case 3:
		io_write(machine.bus, reader, IO_MMIO, bar(0) + (off & 0x1fff), size, value);
		break;
	case 4:
		io_read(machine.bus, reader, IO_PORT, bar(2) + (off & 0xff), size, &value);
		break;
	case 5:
		io_write(machine.bus, reader, IO_PORT, bar(2) + (off & 0xff), size, value);
		break;
	case 6:
		pci_reset(machine.pci);
		break;
	default:
		run_for(machine.loop, 1);
	}
}

static void use(struct device *dev, struct input *accesses, bool come_back)
{
	struct err err = { 0 };

	/* A BAR may be too large for the space there is. */
	if (device_plug(dev, &err)) {
		require(err.text[0]);
		return;
	}
	io_write(machine.bus, reader, IO_MMIO, LAYOUT_ECAM + (1 << 15) + 4, 2, 3);
	while (accesses->left)
		access_once(accesses);
	if (come_back)
		run_for(machine.loop, COME_BACK_MS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	uint8_t first = take8(&in);
	struct input accesses = { in.at, MIN((size_t)(first & 31) * ACCESS_SIZE, in.left) };
	int rc = 1;
	struct user_device_params p = {
		.dev = { .id = "dev0", .slot = 1, .attached = attached, .arg = &rc },
		.socket = server.path,
		.times = { .attach_ms = 10, .request_ms = 5, .retry_min_ms = 1, .spin_us = 1 },
	};
	struct device *dev;
	struct err err = { 0 };
	int fds_before = fd_count();

	server_begin((struct input){ in.at + accesses.left, in.left - accesses.left });
	require(!user_device_attach(&machine, &p, &dev, &err));
	loop_run(machine.loop);
	require(rc <= 0);
	if (!rc)
		use(dev, &accesses, first & 32);
	device_free(dev);
	server_end();
	require(fd_count() == fds_before);
	return 0;
}
