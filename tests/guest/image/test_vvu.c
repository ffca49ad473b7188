/*
 * test_vvu.c - a vhost-user back-end in a guest: the driver of a VVU function (src/wire/vvu.h)
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
 *
 * "vvu-hostile": does what a driver may not. Nothing but a refusal or DEVICE_NEEDS_RESET comes of it,
 * and after a reset all is as before.
 */
#include "../device/echo.h"
#include "apic.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"
#include "virtio.h"

#define VVU_TYPE 61
#define RX	 0
#define TX	 1
#define QUEUES	 16 /* --vvu-proxy's default */

#define VECTOR_FIRST 0xa0 /* configuration, rx, tx, then one for each vhost queue */
#define VECTOR_KICK  (VECTOR_FIRST + 3)

#define CAP_DOORBELL	 6
#define CAP_NOTIFICATION 7
#define CAP_SHM		 8

#define BACKEND_UP  1u
#define FRONTEND_UP 2u

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
#define REPLY		       4u
#define NEED_REPLY	       8u
/* MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, CONFIGURE_MEM_SLOTS */
#define PROTOCOL	       (1u << 0 | 1u << 1 | 1u << 3 | 1u << 5 | 1u << 9 | 1u << 12 | 1u << 15)
#define F_PROTOCOL	       (1ull << 30)
#define F_LOG_ALL	       (1ull << 26)

#define BUFFERS	 16
#define BUF_SIZE 4096
#define MAX_REGIONS 16

struct message {
	uint32_t request, flags, size;
	uint8_t payload[BUF_SIZE - 12];
} __attribute__((packed));

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

static struct virtio dev;
static struct bar bells, memory, small;
static uint64_t log_at, inflight_at, memory_at; /* addresses */
static uint32_t bell_step;
static uint64_t notify;
static uint8_t rx_buf[BUFFERS][BUF_SIZE] __attribute__((aligned(16)));
static struct message answer __attribute__((aligned(16)));
static uint8_t nothing[16], tx_dummy[16];
static unsigned rx_next;
static struct region regions[MAX_REGIONS];
static unsigned nr_regions;
static struct vring vrings[QUEUES];
static uint8_t config[ECHO_CONFIG_SIZE];
static uint64_t features;
static uint32_t siblings, requests;
static bool was_up, may_ask, marks;
static uint32_t rx_size = BUF_SIZE;

/* --- the function --- */

static bool find_shm(unsigned id, struct bar *bar, uint64_t *at)
{
	for (unsigned n = 0;; n++) {
		unsigned cap = virtio_capability(dev.fn, CAP_SHM, n);

		if (!cap)
			return false;
		if (read8(dev.fn + cap + 5) != id)
			continue;
		if (!bar->size)
			*bar = pci_bar(dev.fn, read8(dev.fn + cap + 4));
		*at = bar->addr + read32(dev.fn + cap + 8);
		return true;
	}
}

static bool find(void)
{
	unsigned cap, note_cap;

	if (!ok(virtio_find(&dev, VVU_TYPE, 0), "there is a VVU function"))
		return false;
	cap = virtio_capability(dev.fn, CAP_DOORBELL, 0);
	note_cap = virtio_capability(dev.fn, CAP_NOTIFICATION, 0);
	if (!ok(cap && note_cap, "with doorbells and notifications"))
		return false;
	bells = pci_bar(dev.fn, read8(dev.fn + cap + 4));
	bell_step = read32(dev.fn + cap + 16);
	notify = bells.addr + read32(dev.fn + note_cap + 8);
	return ok(find_shm(1, &memory, &memory_at) && find_shm(2, &small, &log_at) &&
			  find_shm(3, &small, &inflight_at),
		"and three regions of shared memory");
}

static void check_identity(void)
{
	unsigned cap = virtio_capability(dev.fn, CAP_DOORBELL, 0);

	equal(read32(dev.fn), 0x107d1af4, "device id");
	equal(read32(dev.fn + 8), 0x00ff0001, "class 00ff, revision 1");
	equal(read32(dev.fn + 0x2c), 0x107d1af4, "subsystem");
	ok(!dev.bar.wide && dev.bar.size == 0x8000, "BAR 0: 32 bits, 32 KiB");
	ok(bells.wide && !bells.prefetch && bells.size == 0x4000, "BAR 2: 64 bits, 16 KiB");
	ok(memory.wide && memory.prefetch, "BAR 4: 64 bits, prefetchable");
	equal(read16(dev.fn + dev.msix + 2) & 0x7ff, 3 + QUEUES - 1, "19 vectors");
	equal(read32(dev.fn + dev.msix + 4), 0x6000, "their table");
	equal(read32(dev.fn + dev.msix + 8), 0x7000, "their pending bits");
	equal(dev.common - dev.bar.addr, 0, "common configuration");
	equal(dev.isr - dev.bar.addr, 0x1000, "ISR");
	equal(dev.config - dev.bar.addr, 0x2000, "device configuration");
	equal(dev.notify - dev.bar.addr, 0x3000, "doorbells of queues");
	equal(read8(dev.fn + cap + 2), 20, "doorbells: length of the capability");
	equal(read8(dev.fn + cap + 4), 2, "doorbells: BAR");
	equal(read32(dev.fn + cap + 8), 0, "doorbells: offset");
	equal(bell_step, 4, "doorbells: distance");
	equal(notify - bells.addr, 0x2000, "notifications: offset");
	equal(read16(dev.common + COMMON_NR_QUEUES), 2, "queues");
	equal(read32(dev.config + 4), QUEUES, "vhost queues");
	equal(read32(dev.config), 0, "nobody is up");
}

static void give_rx(unsigned i)
{
	virtio_give(&dev, RX, nothing, 1, rx_buf[i], rx_size);
}

static void set_up_queues(unsigned buffers)
{
	virtio_negotiate(&dev, FEATURE_VERSION_1);
	write16(dev.common + COMMON_CONFIG_VECTOR, 0);
	virtio_queue(&dev, RX, 2 * BUFFERS, 1);
	virtio_queue(&dev, TX, 2 * BUFFERS, NO_VECTOR);
	for (unsigned i = 0; i < QUEUES; i++) {
		write16(notify, (uint16_t)i);
		write16(notify + 2, (uint16_t)(3 + i));
	}
	virtio_driver_ok(&dev);
	rx_next = 0;
	for (unsigned i = 0; i < buffers; i++)
		give_rx(i);
	virtio_kick(&dev, RX);
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
	write32(dev.config, BACKEND_UP);
}

/* --- messages out --- */

static void send(uint32_t request, uint32_t flags, uint32_t size)
{
	answer.request = request;
	answer.flags = 1 | flags;
	answer.size = size;
	virtio_give(&dev, TX, &answer, 12 + size, tx_dummy, 1);
	virtio_kick(&dev, TX);
	/* The buffer is used again for the next one. */
	while (!virtio_waiting(&dev, TX) && virtio_status(&dev) == 15)
		cpu_relax();
	if (virtio_waiting(&dev, TX))
		virtio_take(&dev, TX);
}

static void reply_u64(const struct message *m, uint64_t value)
{
	memcpy(answer.payload, &value, 8);
	send(m->request, REPLY, 8);
}

static void change_config(void)
{
	uint32_t changes;

	memcpy(&changes, config + ECHO_CHANGES_AT, 4);
	changes++;
	memcpy(config + ECHO_CHANGES_AT, &changes, 4);
	if (may_ask)
		send(BACKEND_CONFIG_CHANGE, 0, 0);
}

struct translation {
	uint64_t iova, size, user;
	uint8_t perm, type, pad[6];
};

/* Type 1: a miss, of a page for reading and writing. */
static void ask_translation(void)
{
	const struct translation t = { .iova = 0x1af4000, .size = 4096, .perm = 3, .type = 1 };

	memcpy(answer.payload, &t, sizeof(t));
	send(BACKEND_IOTLB_MSG, 0, sizeof(t));
}

/* --- the sibling's memory --- */

static uint64_t by_user(uint64_t user)
{
	for (unsigned i = 0; i < nr_regions; i++)
		if (user - regions[i].user < regions[i].size)
			return memory_at + regions[i].at + (user - regions[i].user);
	return 0;
}

static uint64_t by_gpa(uint64_t gpa)
{
	for (unsigned i = 0; i < nr_regions; i++)
		if (gpa - regions[i].gpa < regions[i].size)
			return memory_at + regions[i].at + (gpa - regions[i].gpa);
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

static void ring_bell(unsigned i)
{
	write8(bells.addr + bell_step * i, 1);
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
		ring_bell(index);
}

static void serve_rings(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
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

	memcpy(answer.payload, m->payload, 12);
	memset(answer.payload + 12, 0, 256);
	for (uint32_t i = 0; i < size && i < 256; i++)
		if (off + i < ECHO_CONFIG_SIZE)
			answer.payload[12 + i] = config[off + i];
	send(m->request, REPLY, m->size);
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
	return &vrings[word(m, 0) & 0xff & (QUEUES - 1)];
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
		memcpy(answer.payload, m->payload, 4);
		memset(answer.payload + 4, 0, 4);
		memcpy(answer.payload + 4, &v->taken, 2);
		send(m->request, REPLY, 8);
		return true;
	case SET_LOG_BASE:
		if (marks)
			write64(log_at + quad(m, 8), 0x1066);
		reply_u64(m, 0);
		return true;
	case SET_INFLIGHT_FD:
		if (marks)
			write64(inflight_at + quad(m, 8), 0x1af1);
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
	if (!(read32(dev.config) & BACKEND_UP))
		be_up();
}

static void take_messages(void)
{
	while (virtio_waiting(&dev, RX)) {
		unsigned i = rx_next++ % BUFFERS;
		uint32_t len = virtio_take(&dev, RX);
		struct message *m = (struct message *)rx_buf[i];

		if (!len) {
			sibling_gone();
		} else if (len < 12 || len != 12 + m->size) {
			ok(false, "a message of %u bytes says it has %u", len, 12 + m->size);
		} else if (!(m->flags & REPLY) && !act(m) && m->flags & NEED_REPLY) {
			reply_u64(m, 0);
		}
		give_rx(i);
	}
	virtio_kick(&dev, RX);
}

/* Without a buffer that says so, the status does. */
static void look_at_status(void)
{
	uint32_t status = read32(dev.config);

	if (status & FRONTEND_UP && !was_up) {
		was_up = true;
		note("sibling %u has come", ++siblings);
	}
	if (!status && was_up)
		sibling_gone();
}

static void begin(void)
{
	virtio_msix_on(&dev, VECTOR_FIRST, 3 + QUEUES);
	set_up_queues(BUFFERS);
	be_up();
	note("up");
}

static void ring_err(void)
{
	for (unsigned i = 0; i < QUEUES; i++)
		ring_bell(QUEUES + i);
	note("rung");
}

/* The proxy's thread finds out in its own time; the status register says when. */
static bool needs_reset(void)
{
	for (unsigned i = 0; i < 1000 && !(virtio_status(&dev) & STATUS_NEEDS_RESET); i++) {
		apic_timer_start(VECTOR_TIMEOUT, 10);
		sys_halt();
		apic_timer_stop();
	}
	return virtio_status(&dev) & STATUS_NEEDS_RESET;
}

static void reset_that_is_due(const char *what)
{
	if (ok(needs_reset(), "%s: needs a reset", what))
		note("a reset is due");
	virtio_reset(&dev);
	was_up = false;
	rx_size = BUF_SIZE;
	begin();
}

static void ring_all(void)
{
	for (uint64_t off = 0; off < bells.size; off += 4)
		if (off < 0x2000 || off >= 0x2004)
			bar_write(&bells, off, 4, UINT32_MAX);
	write16(notify, 65535);
	write16(notify + 2, 3);
	equal(read16(notify + 2), NO_VECTOR, "a queue that is not there has no vector");
	note("rung");
}

/* What has the form of a message does no harm; then one that has not. */
static void send_garbage(void)
{
	for (uint32_t request = 0; request < 100; request++) {
		memset(answer.payload, 0xff, sizeof(answer.payload));
		send(request, 0, request * 8);
		send(request, REPLY, request);
	}
	equal(virtio_status(&dev), 15, "requests that nobody knows, and answers to nothing");
	note("sent");
	answer.flags = 0;
	answer.size = UINT32_MAX;
	virtio_give(&dev, TX, &answer, 100, tx_dummy, 1);
	virtio_kick(&dev, TX);
	reset_that_is_due("garbage");
}

static void have_small_buffers(void)
{
	virtio_reset(&dev);
	was_up = false;
	rx_size = 8;
	begin();
	reset_that_is_due("buffers of 8 bytes");
}

static bool command(int key)
{
	switch (key) {
	case 'q':
		return false;
	case 'r':
		virtio_reset(&dev);
		was_up = false;
		begin();
		break;
	case 'd':
		write32(dev.config, 0);
		was_up = false;
		equal(read32(dev.config), 0, "both are down");
		be_up();
		note("up");
		break;
	case 'e':
		ring_err();
		break;
	case 'l':
		ring_bell(2 * QUEUES);
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

	if (!find())
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
	equal(virtio_status(&dev), 15, "the function is as it was");
	virtio_reset(&dev);
	equal(read32(dev.config), 0, "after a reset nobody is up");
	note("%u siblings, %u requests", siblings, requests);
	virtio_msix_off(&dev);
}

/* --- a driver that does what it may not --- */

static void check_notify(void)
{
	for (unsigned i = 0; i < QUEUES; i++) {
		write16(notify, (uint16_t)i);
		equal(read16(notify + 2), 3 + i, "vector of queue %u", i);
	}
	write16(notify, 65535);
	equal(read16(notify), 65535, "any queue can be selected");
	equal(read16(notify + 2), NO_VECTOR, "one that is not there has no vector");
	write16(notify + 2, 1);
	equal(read16(notify + 2), NO_VECTOR, "and gets none");
	write16(notify, 0);
	write16(notify + 2, 3 + QUEUES);
	equal(read16(notify + 2), NO_VECTOR, "no queue gets a vector that is not there");
	write32(notify, 5 << 16 | 2);
	equal(read32(notify), 5 << 16 | 2, "both at once");
	write8(notify, 7);
	write8(notify + 3, 7);
	equal(read32(notify), 5 << 16 | 2, "half a field is none");
}

static void check_bells(void)
{
	for (uint64_t off = 0; off < bells.size; off += 4)
		if (off < 0x2000 || off >= 0x2004)
			bar_write(&bells, off, 4, UINT32_MAX);
	for (unsigned size = 1; size <= 8; size *= 2)
		bar_write(&bells, 0, size, 1);
	equal(read32(bells.addr), 0, "doorbells read as 0");
	equal(virtio_status(&dev), 15, "doorbells that are nobody's do nothing");
}

static void check_config(void)
{
	uint32_t queues = read32(dev.config + 4);

	write32(dev.config, UINT32_MAX & ~BACKEND_UP);
	equal(read32(dev.config), 0, "bits of others are not written");
	write32(dev.config + 4, 77);
	write32(dev.config + 8, 77);
	equal(read32(dev.config + 4), queues, "nor are other fields");
	equal(read32(dev.config + 8), 0, "nor are these");
	write8(dev.config, BACKEND_UP);
	equal(read8(dev.config), BACKEND_UP, "one byte is enough to be up");
	write32(dev.config, 0);
}

static void check_tx(const char *what, uint32_t request, uint32_t flags, uint32_t size, uint32_t len)
{
	set_up_queues(BUFFERS);
	answer.request = request;
	answer.flags = flags;
	answer.size = size;
	virtio_give(&dev, TX, &answer, len, tx_dummy, 1);
	virtio_kick(&dev, TX);
	ok(needs_reset(), "tx: %s: needs a reset", what);
	virtio_reset(&dev);
	equal(virtio_status(&dev), 0, "and gets it");
}

static void check_ring(const char *what, uint64_t at)
{
	virtio_negotiate(&dev, FEATURE_VERSION_1);
	virtio_queue(&dev, RX, 2 * BUFFERS, 1);
	virtio_queue(&dev, TX, 2 * BUFFERS, NO_VECTOR);
	virtio_set_status(&dev, 0);
	virtio_negotiate(&dev, FEATURE_VERSION_1);
	write16(dev.common + COMMON_QUEUE_SELECT, TX);
	for (unsigned i = 0; i < 3; i++) {
		write32(dev.common + COMMON_QUEUE_DESC + 8 * i, (uint32_t)at);
		write32(dev.common + COMMON_QUEUE_DESC + 8 * i + 4, (uint32_t)(at >> 32));
	}
	write16(dev.common + COMMON_QUEUE_ENABLE, 1);
	virtio_driver_ok(&dev);
	ok(needs_reset(), "ring at %s: needs a reset", what);
	virtio_reset(&dev);
}

void test_vvu_hostile(void)
{
	uint64_t resets;

	if (!find())
		return;
	virtio_msix_on(&dev, VECTOR_FIRST, 3 + QUEUES);
	set_up_queues(BUFFERS);
	check_notify();
	check_bells();
	check_config();
	virtio_reset(&dev);
	check_tx("nothing", 1, 1, 0, 0);
	check_tx("half a header", 1, 1, 0, 8);
	check_tx("a payload that is not there", 1, 1 | REPLY, 8, 12);
	check_tx("more than there should be", 1, 1 | REPLY, 8, 28);
	check_tx("more than any message has", 1, 1 | REPLY, 4072, 4084);
	check_tx("no version", 1, 0, 0, 12);
	check_tx("4 GiB", 1, 1, UINT32_MAX, 12);
	check_ring("no memory", 0x700000000000);
	check_ring("its own BAR", memory_at);
	for (resets = 0; resets < 200; resets++) {
		set_up_queues(resets % BUFFERS);
		write32(dev.config, BACKEND_UP);
		virtio_reset(&dev);
	}
	equal(resets, 200, "resets, each right after the start");
	set_up_queues(BUFFERS);
	be_up();
	equal(read32(dev.config), BACKEND_UP, "up again");
	equal(virtio_status(&dev), 15, "and well");
	/* Unanswered and unasked, but well-formed. */
	reply_u64(&(struct message){ .request = GET_FEATURES }, 0);
	send(BACKEND_CONFIG_CHANGE, 0, 0);
	equal(virtio_status(&dev), 15, "what nobody hears does no harm");
	virtio_reset(&dev);
}
