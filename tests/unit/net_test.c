#include "device/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "device/model.h"
#include "virtio_rig.h"
#include "wire/virtio.h"

/*
 * The tap's place is taken by a packet socket: `peer` is its other end. What needs a real tap is in
 * net_tap_test.c.
 */

#define COOKIE(n) ((void *)(uintptr_t)(n))
#define HEADER	  TAP_HEADER_SIZE
#define MRG	  VIRTIO_BIT(VIRTIO_NET_F_MRG_RXBUF)
#define CVQ	  (VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) | VIRTIO_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR))

enum { RX, TX };

static struct rig r;
static int peers[2];
static int fds_at_start;
static const uint8_t mac[6] = { 0x52, 0x54, 0, 1, 2, 3 };

static int set_up(void **state)
{
	fds_at_start = fd_count();
	peers[0] = peers[1] = -1;
	rig_init(&r);
	return 0;
}

static int tear_down(void **state)
{
	rig_fini(&r);
	fd_close(&peers[0]);
	fd_close(&peers[1]);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static void make(unsigned pairs, const struct drv_config *config)
{
	const struct net_config net = {
		.name = "net",
		.mac = mac,
		.queue_size = 256,
		.csum = true,
		.tso = true,
		.ufo = true,
	};
	struct err err = { 0 };
	struct tap tap;
	int fds[2], ours[2];

	for (unsigned i = 0; i < pairs; i++) {
		assert_int_equal(
			socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds),
			0);
		ours[i] = fds[0];
		peers[i] = fds[1];
	}
	assert_int_equal(tap_adopt(&tap, ours, pairs, &err), 0);
	assert_int_equal(net_new(&r.model, r.loop, &net, &tap, &err), 0);
	assert_int_equal(r.model->nr_queues, 2 * pairs + 1);
	for (unsigned i = 0; i < r.model->nr_queues; i++)
		rig_queue(&r, i, config);
}

static const struct drv_config plain = { .size = 64 };

static void start(uint64_t features, unsigned queues)
{
	r.model->ops->set_features(r.model, features);
	for (unsigned i = 0; i < queues; i++)
		assert_int_equal(rig_start(&r, i), 0);
}

static void make_and_start(uint64_t features)
{
	make(1, &plain);
	start(features, 3);
}

/* A packet of the guest in two pieces: header, frame. */
static void send_frame(unsigned queue, const void *frame, uint32_t len, unsigned cookie)
{
	uint64_t at = drv_alloc(r.mem, HEADER + len, 8);
	struct drv_buf bufs[] = { { at, HEADER }, { at + HEADER, len } };

	memset(drv_at(r.mem, at), 0, HEADER);
	memcpy(drv_at(r.mem, at + HEADER), frame, len);
	assert_int_equal(drv_add(r.q[queue].drv, bufs, 2, 0, COOKIE(cookie)), 0);
	rig_kick(&r, queue);
}

static void *give_buffer(unsigned queue, uint32_t len)
{
	uint64_t at = drv_alloc(r.mem, len, 8);
	struct drv_buf buf = { at, len };
	void *place = drv_at(r.mem, at);

	memset(place, 0xee, len);
	assert_int_equal(drv_add(r.q[queue].drv, &buf, 0, 1, place), 0);
	rig_kick(&r, queue);
	return place;
}

static void used(unsigned queue, unsigned cookie)
{
	struct rig_used u;

	assert_true(rig_take(&r, queue, &u));
	assert_ptr_equal(u.cookie, COOKIE(cookie));
}

static ssize_t peer_read(int fd, void *buf, size_t size)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 10000) == 1 ? read(fd, buf, size) : -1;
}

/* A packet for the guest: len bytes behind the header, each made from its place and `seed`. */
static void peer_send(int fd, uint32_t len, uint8_t seed)
{
	static uint8_t packet[HEADER + 70000];

	memset(packet, 0, HEADER);
	packet[0] = VIRTIO_NET_HDR_F_DATA_VALID;
	packet[10] = 0xaa; /* num_buffers is not the tap's to say */
	for (uint32_t i = 0; i < len; i++)
		packet[HEADER + i] = (uint8_t)(seed + i * 13 + i / 256);
	assert_int_equal(write(fd, packet, HEADER + len), HEADER + len);
}

/* A packet of one or more buffers comes and is the one that was sent. Its flags. */
static uint8_t received(unsigned queue, uint32_t len, uint8_t seed, unsigned nr_buffers)
{
	uint32_t at = 0, total = 0;
	uint8_t head[HEADER];
	struct rig_used u;

	for (unsigned b = 0; b < nr_buffers; b++) {
		const uint8_t *bytes;

		assert_true(rig_take(&r, queue, &u));
		bytes = u.cookie;
		total += u.written;
		if (!b) {
			assert_true(u.written >= HEADER);
			memcpy(head, bytes, HEADER);
			bytes += HEADER;
			u.written -= HEADER;
		}
		for (uint32_t i = 0; i < u.written; i++, at++)
			assert_int_equal(bytes[i], (uint8_t)(seed + at * 13 + at / 256));
	}
	assert_int_equal(total, HEADER + len);
	assert_int_equal(head[10] | head[11] << 8, nr_buffers);
	return head[0];
}

static bool thread_sleeps(struct rig *rig, void *arg)
{
	DIR *dir = opendir("/proc/self/task");
	struct dirent *entry;
	bool sleeps = true;

	while ((entry = readdir(dir))) {
		char path[300], text[256] = "", *at;
		FD_AUTO fd = -1;

		snprintf(path, sizeof(path), "/proc/self/task/%s/stat", entry->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
			continue;
		at = strrchr(text, ')');
		if (strstr(text, "_net_qp") && at && at[2] != 'S')
			sleeps = false;
	}
	closedir(dir);
	return sleeps;
}

/* All threads of the model have nothing to do. One that spins never gets there. */
static void all_quiet(void)
{
	assert_true(rig_until(&r, thread_sleeps, NULL));
}

static void nothing_used(unsigned queue)
{
	void *cookie;
	uint32_t written;

	all_quiet();
	assert_false(drv_get(r.q[queue].drv, &cookie, &written));
	assert_null(r.q[queue].drv->error);
}

/* Packets */

static void a_frame_is_sent_as_it_is(void **state)
{
	uint8_t got[256];

	make_and_start(MRG);
	send_frame(TX, "0123456789abcdef", 16, 1);
	used(TX, 1);
	assert_int_equal(peer_read(peers[0], got, sizeof(got)), HEADER + 16);
	assert_memory_equal(got + HEADER, "0123456789abcdef", 16);
}

static void a_frame_is_received(void **state)
{
	make_and_start(MRG);
	give_buffer(RX, 1526);
	peer_send(peers[0], 1500, 3);
	/* Without GUEST_CSUM nothing is said of checksums. */
	assert_int_equal(received(RX, 1500, 3, 1), 0);
}

static void flags_pass_with_guest_csum(void **state)
{
	make_and_start(MRG | VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM));
	give_buffer(RX, 1526);
	peer_send(peers[0], 60, 9);
	assert_int_equal(received(RX, 60, 9, 1), VIRTIO_NET_HDR_F_DATA_VALID);
}

static void packets_wait_for_buffers(void **state)
{
	make_and_start(MRG);
	for (unsigned i = 0; i < 5; i++)
		peer_send(peers[0], 100 + i, (uint8_t)i);
	nothing_used(RX);
	for (unsigned i = 0; i < 5; i++) {
		give_buffer(RX, 1526);
		received(RX, 100 + i, (uint8_t)i, 1);
	}
	nothing_used(RX);
}

static void a_large_packet_is_spread_over_buffers(void **state)
{
	make_and_start(MRG);
	for (unsigned round = 0; round < 50; round++) {
		/* The first is held and put together, the others go straight into the buffers. */
		for (unsigned i = 0; i < 44; i++)
			give_buffer(RX, 1526);
		peer_send(peers[0], 65535, (uint8_t)round);
		received(RX, 65535, (uint8_t)round, 43);
		peer_send(peers[0], 42, 7);
		received(RX, 42, 7, 1);
		r.mem->next -= 44 * 1528;
	}
	nothing_used(RX);
}

static void a_large_packet_waits_for_all_its_buffers(void **state)
{
	make_and_start(MRG);
	peer_send(peers[0], 10000, 1);
	for (unsigned i = 0; i < 9; i++) {
		give_buffer(RX, 1024);
		nothing_used(RX);
	}
	give_buffer(RX, 1024);
	received(RX, 10000, 1, 10);
}

static void a_packet_that_the_ring_cannot_hold_is_dropped(void **state)
{
	make(1, &(struct drv_config){ .size = 4 });
	start(MRG, 2);
	for (unsigned i = 0; i < 4; i++)
		give_buffer(RX, 1024);
	peer_send(peers[0], 10000, 1);
	peer_send(peers[0], 2000, 2);
	received(RX, 2000, 2, 2);
}

static void without_merging_a_packet_that_does_not_fit_is_dropped(void **state)
{
	make_and_start(0);
	give_buffer(RX, 512);
	peer_send(peers[0], 1000, 1);
	peer_send(peers[0], 500, 2);
	received(RX, 500, 2, 1);
}

static void buffers_taken_for_long_packets_come_back_for_short_ones(void **state)
{
	make_and_start(MRG);
	for (unsigned i = 0; i < 48; i++)
		give_buffer(RX, 1526);
	peer_send(peers[0], 60000, 1);
	received(RX, 60000, 1, 40);
	for (unsigned i = 0; i < 8; i++) {
		peer_send(peers[0], 100, (uint8_t)i);
		received(RX, 100, (uint8_t)i, 1);
	}
	nothing_used(RX);
}

/* The peer takes nothing: packets wait in the ring, in order, and nothing spins. */
static void a_full_tap_is_waited_for(void **state)
{
	uint8_t got[4096], frame[2048];
	unsigned sent = 0, taken = 0;
	ssize_t n;

	make(1, &(struct drv_config){ .size = 256 });
	start(MRG, 2);
	for (unsigned round = 0;
		round < 20 &&
		drv_add(r.q[TX].drv, (struct drv_buf[]){ { DRV_IOVA, 1 } }, 1, 0, COOKIE(1)) == 0;
		round++)
		sent++; /* cut short: all of these are dropped */
	rig_kick(&r, TX);
	while (taken < sent) {
		used(TX, 1);
		taken++;
	}
	sent = taken = 0;
	for (; sent < 128; sent++) {
		memset(frame, (int)sent, sizeof(frame));
		if (r.mem->next > 3 * MIB)
			break;
		send_frame(TX, frame, sizeof(frame), sent + 1);
	}
	for (unsigned extra = 0; extra < 2; extra++)
		all_quiet();
	assert_true(r.q[TX].drv->nr_open > 0);
	while (taken < sent) {
		n = peer_read(peers[0], got, sizeof(got));
		assert_int_equal(n, HEADER + sizeof(frame));
		assert_int_equal(got[HEADER], (uint8_t)taken);
		taken++;
	}
	for (unsigned i = 1; i <= sent; i++)
		used(TX, i);
}

/* Hostile drivers */

static void bad_frames_are_dropped(void **state)
{
	struct drv_buf short_header = { DRV_IOVA + 2 * MIB, HEADER - 1 };
	struct drv_buf huge[] = { { DRV_IOVA + 2 * MIB, 1 * MIB } };
	struct drv_buf wrong_way = { DRV_IOVA + 2 * MIB, 100 };
	struct drv_buf nowhere = { 0xdeadbeef000, 100 };
	struct drv_buf length = { DRV_IOVA, UINT32_MAX };
	uint8_t got[256];

	make_and_start(MRG);
	assert_int_equal(drv_add(r.q[TX].drv, &short_header, 1, 0, COOKIE(1)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, huge, 1, 0, COOKIE(2)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, &wrong_way, 0, 1, COOKIE(3)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, &nowhere, 1, 0, COOKIE(4)), 0);
	assert_int_equal(drv_add(r.q[TX].drv, &length, 1, 0, COOKIE(5)), 0);
	rig_kick(&r, TX);
	for (unsigned i = 1; i <= 5; i++)
		used(TX, i);
	send_frame(TX, "good", 4, 6);
	used(TX, 6);
	assert_int_equal(peer_read(peers[0], got, sizeof(got)), HEADER + 4);
}

static bool is_broken(struct rig *rig, void *arg)
{
	struct pollfd pfd = { .fd = rig->q[*(unsigned *)arg].err, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

/* As a driver does that resets the queue. */
static void start_anew(unsigned queue)
{
	rig_stop(&r, queue);
	drv_reset(r.q[queue].drv);
	fd_clear(r.q[queue].err);
	assert_int_equal(rig_start(&r, queue), 0);
}

/* Behind good buffers that are taken already, or first of all. */
static void a_bad_receive_buffer_ends_its_queue(void **state)
{
	static const struct {
		struct drv_buf buf[2];
		unsigned nr_out, nr_in;
	} bad[] = {
		{ { { DRV_IOVA + 2 * MIB, 100 }, { DRV_IOVA + 2 * MIB, 100 } }, 1, 1 },
		{ { { DRV_IOVA + 2 * MIB, 100 } }, 1, 0 },
		{ { { DRV_IOVA + 2 * MIB, HEADER - 1 } }, 0, 1 },
		{ { { 0xdeadbeef000, 1526 } }, 0, 1 },
		{ { { UINT64_MAX - 10, 1526 } }, 0, 1 },
		{ { { DRV_IOVA, UINT32_MAX } }, 0, 1 },
	};
	unsigned rx = RX;

	make_and_start(MRG);
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(bad); i++) {
		unsigned b = i / 2;

		if (i & 1)
			give_buffer(RX, 1526);
		assert_int_equal(
			drv_add(r.q[RX].drv, bad[b].buf, bad[b].nr_out, bad[b].nr_in, COOKIE(1)),
			0);
		peer_send(peers[0], 5000, 1);
		rig_kick(&r, RX);
		assert_true(rig_until(&r, is_broken, &rx));
		all_quiet();
		send_frame(TX, "others go on", 12, i + 1);
		used(TX, i + 1);
		start_anew(RX);
		for (unsigned n = 0; n < 10; n++)
			give_buffer(RX, 1526);
		/* What had begun to be received went with the stop. */
		if (!(i & 1))
			received(RX, 5000, 1, 4);
		peer_send(peers[0], 77, 2);
		received(RX, 77, 2, 1);
		start_anew(RX);
	}
}

static void a_broken_queue_leaves_the_others(void **state)
{
	unsigned tx = TX;

	make_and_start(MRG);
	/* A chain that is a ring of its own. */
	r.q[TX].drv->desc[0] = (struct vring_desc){ DRV_IOVA, 16, VRING_DESC_F_NEXT, 0 };
	r.q[TX].drv->avail->ring[0] = 0;
	__atomic_store_n(&r.q[TX].drv->avail->idx, 1, __ATOMIC_RELEASE);
	fd_signal(r.q[TX].kick);
	assert_true(rig_until(&r, is_broken, &tx));
	give_buffer(RX, 1526);
	peer_send(peers[0], 100, 1);
	received(RX, 100, 1, 1);
	all_quiet();
	/* And it works again when it is set up again. */
	start_anew(TX);
	send_frame(TX, "again", 5, 1);
	used(TX, 1);
}

/* Stops, pauses, hang-ups */

static void a_stop_gives_taken_buffers_back(void **state)
{
	struct vq_setup s;

	make_and_start(MRG);
	for (unsigned i = 0; i < 8; i++)
		give_buffer(RX, 1526);
	peer_send(peers[0], 100, 1);
	received(RX, 100, 1, 1);
	all_quiet();
	s = drv_setup(r.q[RX].drv);
	s.base = rig_stop(&r, RX);
	assert_int_equal(s.base, 1);
	peer_send(peers[0], 200, 2);
	assert_int_equal(rig_start_as(&r, RX, &s), 0);
	received(RX, 200, 2, 1);
}

static void memory_can_be_mapped_anew_while_it_runs(void **state)
{
	struct err err = { 0 };

	make_and_start(MRG);
	for (unsigned i = 0; i < 40; i++)
		give_buffer(RX, 1526);
	for (unsigned i = 0; i < 30; i++) {
		peer_send(peers[0], 100, (uint8_t)i);
		r.model->ops->pause(r.model);
		assert_int_equal(vq_set_mem(r.q[RX].vq, &r.mem->mem, &err), 0);
		assert_int_equal(vq_set_mem(r.q[TX].vq, &r.mem->mem, &err), 0);
		/* Whoever held the memory before has let go of it: one hold for each queue. */
		assert_int_equal(r.mem->refs, 3);
		r.model->ops->resume(r.model);
		received(RX, 100, (uint8_t)i, 1);
	}
}

static void a_peer_that_hangs_up_takes_the_link_down(void **state)
{
	struct virtio_net_config config;

	make_and_start(MRG | VIRTIO_BIT(VIRTIO_NET_F_STATUS));
	memcpy(&config, r.model->config, r.model->config_size);
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
	give_buffer(RX, 1526);
	fd_close(&peers[0]);
	all_quiet();
	rig_settle(&r);
	memcpy(&config, r.model->config, r.model->config_size);
	assert_int_equal(config.status, 0);
	assert_int_equal(r.config_changes, 1);
	/* What is sent without a link is lost; the guest does not wait for it. */
	send_frame(TX, "lost", 4, 1);
	used(TX, 1);
	nothing_used(RX);
}

/* The control queue */

static uint8_t command(uint8_t class, uint8_t cmd, const void *data, uint32_t len)
{
	unsigned queue = r.model->nr_queues - 1u;
	uint64_t at = drv_alloc(r.mem, len + 16, 8);
	uint8_t *place = drv_at(r.mem, at);
	struct drv_buf bufs[] = { { at, 2 }, { at + 8, len }, { at + 2, 1 } };
	struct rig_used u;

	place[0] = class;
	place[1] = cmd;
	place[2] = 0x55;
	memcpy(place + 8, data, len);
	if (len) {
		assert_int_equal(drv_add(r.q[queue].drv, bufs, 2, 1, place), 0);
	} else {
		bufs[1] = bufs[2];
		assert_int_equal(drv_add(r.q[queue].drv, bufs, 1, 1, place), 0);
	}
	rig_kick(&r, queue);
	assert_true(rig_take(&r, queue, &u));
	assert_ptr_equal(u.cookie, place);
	assert_int_equal(u.written, 1);
	return place[2];
}

static void the_address_can_be_set(void **state)
{
	static const uint8_t group[6] = { 1, 2, 3, 4, 5, 6 }, fine[6] = { 2, 2, 3, 4, 5, 6 };

	make_and_start(CVQ);
	assert_memory_equal(r.model->config, mac, 6);
	assert_int_equal(
		command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, fine, 6), VIRTIO_NET_OK);
	assert_memory_equal(r.model->config, fine, 6);
	assert_int_equal(command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, group, 6),
		VIRTIO_NET_ERR);
	assert_memory_equal(r.model->config, fine, 6);
	/* A driver that begins anew finds the first address. */
	rig_stop(&r, 2);
	drv_reset(r.q[2].drv);
	assert_int_equal(rig_start(&r, 2), 0);
	assert_memory_equal(r.model->config, mac, 6);
}

static void bad_commands_are_refused(void **state)
{
	static const uint8_t zeros[64];
	static const uint16_t pairs[] = { 0, 3, 0x8000, 0xffff };
	static const uint64_t offloads = VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM);

	make(2, &plain);
	start(CVQ | VIRTIO_BIT(VIRTIO_NET_F_MQ), 5);
	for (unsigned class = 0; class < 256; class += class < 8 ? 1 : 61)
		for (unsigned cmd = 0; cmd < 8; cmd++)
			for (uint32_t len = 0; len < 12; len++)
				if (class != VIRTIO_NET_CTRL_MAC &&
					class != VIRTIO_NET_CTRL_ANNOUNCE)
					assert_int_equal(
						command((uint8_t) class, (uint8_t)cmd, zeros, len),
						VIRTIO_NET_ERR);
	for (unsigned i = 0; i < ARRAY_SIZE(pairs); i++)
		assert_int_equal(
			command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs[i], 2),
			VIRTIO_NET_ERR);
	/* Not accepted, so it cannot be switched on. */
	assert_int_equal(command(VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
				 &offloads, 8),
		VIRTIO_NET_ERR);
}

static void a_command_without_an_answer_is_not_run(void **state)
{
	uint64_t at;
	struct drv_buf buf;
	static const uint8_t other[6] = { 2, 2, 3, 4, 5, 6 };

	make_and_start(CVQ);
	at = drv_alloc(r.mem, 16, 8);
	buf = (struct drv_buf){ at, 8 };
	memcpy(drv_at(r.mem, at), (uint8_t[]){ VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET },
		2);
	memcpy(drv_at(r.mem, at + 2), other, 6);
	assert_int_equal(drv_add(r.q[2].drv, &buf, 1, 0, COOKIE(1)), 0);
	rig_kick(&r, 2);
	used(2, 1);
	assert_memory_equal(r.model->config, mac, 6);
}

static void pairs_are_switched_on_and_off(void **state)
{
	uint16_t two = 2, one = 1;

	make(2, &plain);
	start(CVQ | MRG | VIRTIO_BIT(VIRTIO_NET_F_MQ), 5);
	assert_int_equal(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &two, 2),
		VIRTIO_NET_OK);
	give_buffer(2, 1526);
	peer_send(peers[1], 300, 4);
	received(2, 300, 4, 1);
	send_frame(3, "two", 3, 1);
	used(3, 1);
	assert_int_equal(command(VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &one, 2),
		VIRTIO_NET_OK);
}

static void the_control_queue_is_the_third_without_mq(void **state)
{
	uint64_t at;
	struct drv_buf bufs[2];
	uint8_t *place;

	make(2, &plain);
	start(CVQ, 3);
	at = drv_alloc(r.mem, 16, 8);
	place = drv_at(r.mem, at);
	memcpy(place,
		(uint8_t[]){
			VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 2, 0, 0, 0, 0, 9, 0x55 },
		9);
	bufs[0] = (struct drv_buf){ at, 8 };
	bufs[1] = (struct drv_buf){ at + 8, 1 };
	assert_int_equal(drv_add(r.q[2].drv, bufs, 1, 1, COOKIE(1)), 0);
	rig_kick(&r, 2);
	used(2, 1);
	assert_int_equal(place[8], VIRTIO_NET_OK);
	assert_int_equal(r.model->config[5], 9);
}

static void state_is_saved_and_loaded(void **state)
{
	static const uint8_t fine[6] = { 2, 2, 3, 4, 5, 6 };
	uint64_t features =
		CVQ | VIRTIO_BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) | VIRTIO_BIT(VIRTIO_NET_F_STATUS);
	struct virtio_net_config config;
	struct err err = { 0 };
	char buf[4096];
	ssize_t n;

	make_and_start(features);
	assert_int_equal(
		command(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, fine, 6), VIRTIO_NET_OK);
	n = r.model->ops->save(r.model, buf, sizeof(buf));
	assert_in_range(n, 1, sizeof(buf));
	assert_int_equal(r.model->ops->save(r.model, buf + n, 10), -ENOSPC);
	r.model->ops->reset(r.model);
	assert_memory_equal(r.model->config, mac, 6);
	assert_int_equal(r.model->ops->load(r.model, buf, (size_t)n, &err), 0);
	memcpy(&config, r.model->config, r.model->config_size);
	assert_memory_equal(config.mac, fine, 6);
	/* At a new place the guest is to make itself known; it says when it has. */
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
	assert_int_equal(command(VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0),
		VIRTIO_NET_OK);
	memcpy(&config, r.model->config, r.model->config_size);
	assert_int_equal(config.status, VIRTIO_NET_S_LINK_UP);
}

static void bad_state_is_refused(void **state)
{
	static const char format[] =
		"{\"model\":\"%s\",\"version\":%d,\"mac\":\"%s\",\"pairs\":%d,"
		"\"modes\":1,\"unicast\":\"%s\",\"multicast\":\"\",\"offloads\":0}";
	static const struct {
		const char *model;
		int version;
		const char *mac;
		int pairs;
		const char *unicast;
	} bad[] = {
		{ "nut", 1, "525400010203", 1, "" },
		{ "net", 2, "525400010203", 1, "" },
		{ "net", 1, "52540001020", 1, "" },
		{ "net", 1, "52540001020g", 1, "" },
		{ "net", 1, "", 1, "" },
		{ "net", 1, "525400010203", 0, "" },
		{ "net", 1, "525400010203", 2, "" },
		{ "net", 1, "525400010203", 1, "5254000102" },
	};
	char text[512];
	struct err err;

	make_and_start(CVQ);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		int n = snprintf(text, sizeof(text), format, bad[i].model, bad[i].version,
			bad[i].mac, bad[i].pairs, bad[i].unicast);

		err.text[0] = '\0';
		assert_int_equal(r.model->ops->load(r.model, text, (size_t)n, &err), -EINVAL);
		assert_true(err.text[0]);
	}
	assert_int_equal(r.model->ops->load(r.model, "{", 1, &err), -EINVAL);
	assert_memory_equal(r.model->config, mac, 6);
}

/* The row */

static void bad_options_are_refused(void **state)
{
	static const char *const bad[][7] = {
		{ NULL },
		{ "tap", "t0", "tap-fd", "5" },
		{ "tap-fd", "1" },
		{ "tap-fd", "777" },
		{ "tap-fd", "" },
		{ "tap-fd", "5,5" },
		{ "tap-fd", "5,6", "queues", "3" },
		{ "tap-fd", "5", "ip", "10.0.0.1" },
		{ "tap", "t0", "mac", "52:54:00:12:34" },
		{ "tap", "t0", "mac", "52:54:00:12:34:5" },
		{ "tap", "t0", "mac", "52:54:00:12:34:567" },
		{ "tap", "t0", "mac", "53:54:00:12:34:56" },
		{ "tap", "t0", "mac", "52-54-00-12-34-56" },
		{ "tap", "t0", "mtu", "67" },
		{ "tap", "t0", "mtu", "65536" },
		{ "tap", "t0", "queues", "0" },
		{ "tap", "t0", "queue-size", "100" },
		{ "tap", "t0", "ip", "10.0.0" },
		{ "tap", "t0", "mask", "24" },
		{ "tap", "t0", "offload-tso", "yes" },
		{ "tap", "a-name-that-is-too-long" },
	};
	struct err err;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *values[DEVICE_MODEL_MAX_OPTIONS] = { 0 };

		for (const char *const *pair = bad[i]; *pair; pair += 2)
			for (size_t o = 0; o < net_model.nr_options; o++)
				if (!strcmp(net_model.options[o].name, pair[0]))
					values[o] = pair[1];
		err.text[0] = '\0';
		assert_true(net_model.new_virtio(values, r.loop, &r.model, &err) < 0);
		assert_true(err.text[0]);
		assert_null(strchr(err.text, '\n'));
	}
	assert_null(r.model);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(a_frame_is_sent_as_it_is),
		TEST(a_frame_is_received),
		TEST(flags_pass_with_guest_csum),
		TEST(packets_wait_for_buffers),
		TEST(a_large_packet_is_spread_over_buffers),
		TEST(a_large_packet_waits_for_all_its_buffers),
		TEST(a_packet_that_the_ring_cannot_hold_is_dropped),
		TEST(without_merging_a_packet_that_does_not_fit_is_dropped),
		TEST(buffers_taken_for_long_packets_come_back_for_short_ones),
		TEST(a_full_tap_is_waited_for),
		TEST(bad_frames_are_dropped),
		TEST(a_bad_receive_buffer_ends_its_queue),
		TEST(a_broken_queue_leaves_the_others),
		TEST(a_stop_gives_taken_buffers_back),
		TEST(memory_can_be_mapped_anew_while_it_runs),
		TEST(a_peer_that_hangs_up_takes_the_link_down),
		TEST(the_address_can_be_set),
		TEST(bad_commands_are_refused),
		TEST(a_command_without_an_answer_is_not_run),
		TEST(pairs_are_switched_on_and_off),
		TEST(the_control_queue_is_the_third_without_mq),
		TEST(state_is_saved_and_loaded),
		TEST(bad_state_is_refused),
		TEST(bad_options_are_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("net", tests, NULL, NULL);
}
