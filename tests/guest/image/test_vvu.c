/*
 * test_vvu.c - a vhost-user back-end in a guest, by a VVU function (vvu.h)
 *
 * "vvu": checks what the function looks like, then is the device of device/echo.h for one sibling
 * after the other, over the function's two queues. It sleeps until it is interrupted: by a message,
 * or by a sibling's kick. Commands are single bytes on the console:
 *
 *   q  end           r  reset the function and begin anew     d  BACKEND_UP off and on
 *   e  ring the err doorbells of all queues                   l  ring the log doorbell
 *   c  change the configuration (asks the sibling)            m  write marks into log and inflight
 *   i  ask the sibling what an address means                  b  ring every doorbell there could be
 *   g  send what makes no sense, until a reset is due         s  have buffers for no message, likewise
 */
#include "../device/echo.h"
#include "apic.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"
#include "vvu.h"

/* vhost-user */
#define GET_FEATURES	       1
#define SET_MEM_TABLE	       5
#define SET_LOG_BASE	       6
#define SET_VRING_NUM	       8
#define SET_VRING_ADDR	       9
#define SET_VRING_BASE	       10
#define GET_VRING_BASE	       11
#define SET_VRING_KICK	       12
#define GET_PROTOCOL_FEATURES  15
#define GET_QUEUE_NUM	       17
#define SET_VRING_ENABLE       18
#define GET_CONFIG	       24
#define SET_CONFIG	       25
#define SET_INFLIGHT_FD	       32
#define GET_MAX_MEM_SLOTS      36
#define ADD_MEM_REG	       37
#define REM_MEM_REG	       38
#define SET_FEATURES	       2
#define IOTLB_MSG	       22
#define BACKEND_IOTLB_MSG      1
#define BACKEND_CONFIG_CHANGE  2
/* MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, CONFIGURE_MEM_SLOTS */
#define PROTOCOL	       (1u << 0 | 1u << 1 | 1u << 3 | 1u << 5 | 1u << 9 | 1u << 12 | 1u << 15)
#define F_PROTOCOL	       (1ull << 30)
#define F_LOG_ALL	       (1ull << 26)

#define MAX_REGIONS 16

struct region {
	uint64_t gpa, size, user, at;
};

struct vring {
	uint32_t size;
	uint64_t desc, used, avail; /* in the BAR */
	uint16_t taken;
	bool ready, enabled;
	uint32_t kicks; /* interrupts seen */
};

static struct vvu vvu;
static struct region regions[MAX_REGIONS];
static unsigned nr_regions;
static struct vring vrings[VVU_QUEUES];
static uint8_t config[ECHO_CONFIG_SIZE];
static uint64_t features;
static uint32_t siblings, requests;
static bool was_up, may_ask, marks;

static void check_identity(void)
{
	unsigned cap = virtio_capability(vvu.dev.fn, VVU_CAP_DOORBELL, 0);

	equal(read32(vvu.dev.fn), 0x107d1af4, "device id");
	equal(read32(vvu.dev.fn + 8), 0x00ff0001, "class 00ff, revision 1");
	equal(read32(vvu.dev.fn + 0x2c), 0x107d1af4, "subsystem");
	ok(!vvu.dev.bar.wide && vvu.dev.bar.size == 0x8000, "BAR 0: 32 bits, 32 KiB");
	ok(vvu.bells.wide && !vvu.bells.prefetch && vvu.bells.size == 0x4000, "BAR 2: 64 bits, 16 KiB");
	ok(vvu.memory.wide && vvu.memory.prefetch, "BAR 4: 64 bits, prefetchable");
	equal(read16(vvu.dev.fn + vvu.dev.msix + 2) & 0x7ff, 3 + VVU_QUEUES - 1, "19 vectors");
	equal(read32(vvu.dev.fn + vvu.dev.msix + 4), 0x6000, "their table");
	equal(read32(vvu.dev.fn + vvu.dev.msix + 8), 0x7000, "their pending bits");
	equal(vvu.dev.common - vvu.dev.bar.addr, 0, "common configuration");
	equal(vvu.dev.isr - vvu.dev.bar.addr, 0x1000, "ISR");
	equal(vvu.dev.config - vvu.dev.bar.addr, 0x2000, "device configuration");
	equal(vvu.dev.notify - vvu.dev.bar.addr, 0x3000, "doorbells of queues");
	equal(read8(vvu.dev.fn + cap + 2), 20, "doorbells: length of the capability");
	equal(read8(vvu.dev.fn + cap + 4), 2, "doorbells: BAR");
	equal(read32(vvu.dev.fn + cap + 8), 0, "doorbells: offset");
	equal(vvu.bell_step, 4, "doorbells: distance");
	equal(vvu.notify - vvu.bells.addr, 0x2000, "notifications: offset");
	equal(read16(vvu.dev.common + COMMON_NR_QUEUES), 2, "queues");
	equal(read32(vvu.dev.config + 4), VVU_QUEUES, "vhost queues");
	equal(read32(vvu.dev.config), 0, "nobody is up");
}

static void forget_sibling(void)
{
	memset(vrings, 0, sizeof(vrings));
	nr_regions = 0;
	may_ask = false;
}

static void be_up(void)
{
	forget_sibling();
	write32(vvu.dev.config, VVU_BACKEND_UP);
}

/* --- messages out --- */

static void reply_u64(const struct message *m, uint64_t value)
{
	memcpy(vvu_answer.payload, &value, 8);
	vvu_send(&vvu, m->request, VVU_REPLY, 8);
}

static void change_config(void)
{
	uint32_t changes;

	memcpy(&changes, config + ECHO_CHANGES_AT, 4);
	changes++;
	memcpy(config + ECHO_CHANGES_AT, &changes, 4);
	if (may_ask)
		vvu_send(&vvu, BACKEND_CONFIG_CHANGE, 0, 0);
}

struct translation {
	uint64_t iova, size, user;
	uint8_t perm, type, pad[6];
};

/* Type 1: a miss, of a page for reading and writing. */
static void ask_translation(void)
{
	const struct translation t = { .iova = 0x1af4000, .size = 4096, .perm = 3, .type = 1 };

	memcpy(vvu_answer.payload, &t, sizeof(t));
	vvu_send(&vvu, BACKEND_IOTLB_MSG, 0, sizeof(t));
}

/* --- the sibling's memory --- */

static uint64_t by_user(uint64_t user)
{
	for (unsigned i = 0; i < nr_regions; i++)
		if (user - regions[i].user < regions[i].size)
			return vvu.memory_at + regions[i].at + (user - regions[i].user);
	return 0;
}

static uint64_t by_gpa(uint64_t gpa)
{
	for (unsigned i = 0; i < nr_regions; i++)
		if (gpa - regions[i].gpa < regions[i].size)
			return vvu.memory_at + regions[i].at + (gpa - regions[i].gpa);
	return 0;
}

static void add_region(const uint8_t *r)
{
	if (nr_regions < MAX_REGIONS)
		memcpy(&regions[nr_regions++], r, sizeof(struct region));
}

static void remove_region(const uint8_t *bytes)
{
	struct region r;

	memcpy(&r, bytes, sizeof(r));
	for (unsigned i = 0; i < nr_regions; i++)
		if (regions[i].gpa == r.gpa)
			regions[i] = regions[--nr_regions];
}

/* --- rings of the sibling's device --- */

struct piece {
	uint64_t at;
	uint32_t len;
};

/* Echo one chain. False: it makes no sense. */
static bool echo(const struct vring *v, uint16_t head, uint32_t *written)
{
	struct piece in[16], out[16];
	unsigned nr_in = 0, nr_out = 0, i = 0, o = 0;
	uint32_t in_done = 0, out_done = 0;

	for (unsigned n = 0, d = head; n < 16 && d < v->size; n++) {
		uint64_t at = v->desc + 16 * d;
		uint16_t flags = read16(at + 12);
		struct piece p = { by_gpa(read64(at)), read32(at + 8) };

		if (!p.at)
			return false;
		if (flags & 2)
			in[nr_in++] = p;
		else
			out[nr_out++] = p;
		if (!(flags & 1))
			break;
		d = read16(at + 14);
	}
	while (i < nr_in && o < nr_out) {
		if (in_done == in[i].len) {
			i++;
			in_done = 0;
		} else if (out_done == out[o].len) {
			o++;
			out_done = 0;
		} else {
			write8(in[i].at + in_done++, read8(out[o].at + out_done++));
			++*written;
		}
	}
	return true;
}

static void serve_ring(unsigned index)
{
	struct vring *v = &vrings[index];
	uint16_t used;
	unsigned done = 0;

	if (!v->ready || !v->enabled || !v->desc || !v->avail || !v->used || !v->size)
		return;
	used = read16(v->used + 2);
	while (v->taken != read16(v->avail + 2) && done < v->size) {
		uint16_t head = read16(v->avail + 4 + 2 * (v->taken % v->size));
		uint64_t entry = v->used + 4 + 8 * (used % v->size);
		uint32_t written = 0;

		echo(v, head, &written);
		write32(entry, head);
		write32(entry + 4, written);
		v->taken++;
		used++;
		done++;
		requests++;
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		write16(v->used + 2, used);
	}
	if (!done)
		return;
	memcpy(config + ECHO_SERVED_AT, &requests, 4);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!(read16(v->avail) & 1))
		vvu_ring(&vvu, index);
}

static void serve_rings(void)
{
	for (unsigned i = 0; i < VVU_QUEUES; i++)
		serve_ring(i);
}

static void start_ring(struct vring *v)
{
	uint32_t starts;

	if (!v->ready) {
		memcpy(&starts, config + ECHO_STARTS_AT, 4);
		starts++;
		memcpy(config + ECHO_STARTS_AT, &starts, 4);
	}
	v->ready = true;
}

/* --- messages in --- */

static uint32_t word(const struct message *m, unsigned i)
{
	uint32_t value;

	memcpy(&value, m->payload + 4 * i, 4);
	return value;
}

static uint64_t quad(const struct message *m, unsigned off)
{
	uint64_t value;

	memcpy(&value, m->payload + off, 8);
	return value;
}

static void get_config(const struct message *m)
{
	uint32_t off = word(m, 0), size = word(m, 1);

	memcpy(vvu_answer.payload, m->payload, 12);
	memset(vvu_answer.payload + 12, 0, 256);
	for (uint32_t i = 0; i < size && i < 256; i++)
		if (off + i < ECHO_CONFIG_SIZE)
			vvu_answer.payload[12 + i] = config[off + i];
	vvu_send(&vvu, m->request, VVU_REPLY, m->size);
}

static void set_config(const struct message *m)
{
	uint32_t off = word(m, 0), size = word(m, 1), command;

	for (uint32_t i = 0; i < size && i < 256; i++)
		if (off + i - ECHO_COMMAND_AT < 4 || off + i - ECHO_SCRATCH_AT < 4)
			config[off + i] = m->payload[12 + i];
	memcpy(&command, config + ECHO_COMMAND_AT, 4);
	if (command != ECHO_CHANGE)
		return;
	memset(config + ECHO_COMMAND_AT, 0, 4);
	change_config();
}

static struct vring *vring_of(const struct message *m)
{
	return &vrings[word(m, 0) & 0xff & (VVU_QUEUES - 1)];
}

/* True: it has been answered. */
static bool act(const struct message *m)
{
	struct vring *v = vring_of(m);

	switch (m->request) {
	case GET_FEATURES:
		reply_u64(m, FEATURE_VERSION_1 | F_PROTOCOL | F_LOG_ALL | 1ull << ECHO_FEATURE);
		return true;
	case SET_FEATURES:
		features = quad(m, 0);
		memcpy(config + ECHO_FEATURES_AT, &features, 8);
		break;
	case GET_PROTOCOL_FEATURES:
		reply_u64(m, PROTOCOL);
		return true;
	case GET_QUEUE_NUM:
		reply_u64(m, ECHO_NR_QUEUES);
		return true;
	case GET_MAX_MEM_SLOTS:
		reply_u64(m, MAX_REGIONS);
		return true;
	case SET_MEM_TABLE:
		nr_regions = 0;
		for (uint32_t i = 0; i < word(m, 0); i++)
			add_region(m->payload + 8 + 32 * i);
		break;
	case ADD_MEM_REG:
		add_region(m->payload + 8);
		break;
	case REM_MEM_REG:
		remove_region(m->payload + 8);
		break;
	case SET_VRING_NUM:
		v->size = word(m, 1);
		break;
	case SET_VRING_BASE:
		v->taken = (uint16_t)word(m, 1);
		break;
	case SET_VRING_ADDR:
		v->desc = by_user(quad(m, 8));
		v->used = by_user(quad(m, 16));
		v->avail = by_user(quad(m, 24));
		break;
	case SET_VRING_KICK:
		start_ring(v);
		if (!(features & F_PROTOCOL))
			v->enabled = true;
		break;
	case SET_VRING_ENABLE:
		v->enabled = word(m, 1);
		break;
	case GET_VRING_BASE:
		v->ready = false;
		memcpy(vvu_answer.payload, m->payload, 4);
		memset(vvu_answer.payload + 4, 0, 4);
		memcpy(vvu_answer.payload + 4, &v->taken, 2);
		vvu_send(&vvu, m->request, VVU_REPLY, 8);
		return true;
	case SET_LOG_BASE:
		if (marks)
			write64(vvu.log_at + quad(m, 8), 0x1066);
		reply_u64(m, 0);
		return true;
	case SET_INFLIGHT_FD:
		if (marks)
			write64(vvu.inflight_at + quad(m, 8), 0x1af1);
		break;
	case GET_CONFIG:
		get_config(m);
		return true;
	case SET_CONFIG:
		set_config(m);
		break;
	case IOTLB_MSG:
		note("0x%lx is 0x%lx", quad(m, 0), quad(m, 16));
		reply_u64(m, 0);
		return true;
	case 21: /* SET_BACKEND_REQ_FD */
		may_ask = true;
		break;
	}
	return false;
}

static void sibling_gone(void)
{
	note("sibling %u has gone", siblings);
	was_up = false;
	forget_sibling();
	if (!(read32(vvu.dev.config) & VVU_BACKEND_UP))
		be_up();
}

static void take_messages(void)
{
	struct message *m;
	uint32_t len;

	while ((m = vvu_receive(&vvu, &len))) {
		if (!len) {
			sibling_gone();
		} else if (len < 12 || len != 12 + m->size) {
			ok(false, "a message of %u bytes says it has %u", len, 12 + m->size);
		} else if (!(m->flags & VVU_REPLY) && !act(m) && m->flags & VVU_NEED_REPLY) {
			reply_u64(m, 0);
		}
		vvu_done(&vvu, m);
	}
}

/* Without a buffer that says so, the status does. */
static void look_at_status(void)
{
	uint32_t status = read32(vvu.dev.config);

	if (status & VVU_FRONTEND_UP && !was_up) {
		was_up = true;
		note("sibling %u has come", ++siblings);
	}
	if (!status && was_up)
		sibling_gone();
}

static void begin(void)
{
	virtio_msix_on(&vvu.dev, VVU_VECTOR_FIRST, VVU_VECTORS);
	vvu_set_up(&vvu, VVU_BUFFERS);
	be_up();
	note("up");
}

static void ring_err(void)
{
	for (unsigned i = 0; i < VVU_QUEUES; i++)
		vvu_ring(&vvu, VVU_QUEUES + i);
	note("rung");
}

static void reset_that_is_due(const char *what)
{
	if (ok(vvu_needs_reset(&vvu), "%s: needs a reset", what))
		note("a reset is due");
	virtio_reset(&vvu.dev);
	was_up = false;
	vvu.rx_size = VVU_BUF_SIZE;
	begin();
}

static void ring_all(void)
{
	vvu_ring_all(&vvu);
	write16(vvu.notify, 65535);
	write16(vvu.notify + 2, 3);
	equal(read16(vvu.notify + 2), NO_VECTOR, "a queue that is not there has no vector");
	note("rung");
}

/* What has the form of a message does no harm; then one that has not. */
static void send_garbage(void)
{
	for (uint32_t request = 0; request < 100; request++) {
		memset(vvu_answer.payload, 0xff, sizeof(vvu_answer.payload));
		vvu_send(&vvu, request, 0, request * 8);
		vvu_send(&vvu, request, VVU_REPLY, request);
	}
	equal(virtio_status(&vvu.dev), 15, "requests that nobody knows, and answers to nothing");
	note("sent");
	vvu_answer.flags = 0;
	vvu_answer.size = UINT32_MAX;
	vvu_send_raw(&vvu, 100);
	reset_that_is_due("garbage");
}

static void have_small_buffers(void)
{
	virtio_reset(&vvu.dev);
	was_up = false;
	vvu.rx_size = 8;
	begin();
	reset_that_is_due("buffers of 8 bytes");
}

static bool command(int key)
{
	switch (key) {
	case 'q':
		return false;
	case 'r':
		virtio_reset(&vvu.dev);
		was_up = false;
		begin();
		break;
	case 'd':
		write32(vvu.dev.config, 0);
		was_up = false;
		equal(read32(vvu.dev.config), 0, "both are down");
		be_up();
		note("up");
		break;
	case 'e':
		ring_err();
		break;
	case 'l':
		vvu_ring(&vvu, 2 * VVU_QUEUES);
		note("rung");
		break;
	case 'c':
		change_config();
		note("changed");
		break;
	case 'i':
		ask_translation();
		note("asked");
		break;
	case 'b':
		ring_all();
		break;
	case 'g':
		send_garbage();
		break;
	case 's':
		have_small_buffers();
		break;
	case 'm':
		marks = true;
		note("marking");
		break;
	}
	return true;
}

void test_vvu(void)
{
	uint32_t id = ECHO_ID;
	int key;

	if (!vvu_find(&vvu))
		return;
	check_identity();
	memcpy(config + ECHO_ID_AT, &id, 4);
	begin();
	do {
		take_messages();
		look_at_status();
		serve_rings();
		/* What came since is an interrupt that ends the sleep. The timer is for the console. */
		apic_timer_start(VECTOR_TIMEOUT, 20);
		sys_halt();
		apic_timer_stop();
		key = console_getc();
	} while (command(key));
	equal(virtio_status(&vvu.dev), 15, "the function is as it was");
	virtio_reset(&vvu.dev);
	equal(read32(vvu.dev.config), 0, "after a reset nobody is up");
	note("%u siblings, %u requests", siblings, requests);
	virtio_msix_off(&vvu.dev);
}
