/* net_rig.h - a network device on the test bench, on packet sockets */
#ifndef TESTS_NET_RIG_H
#define TESTS_NET_RIG_H

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
#include "device/net.h"
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

static inline int set_up(void **state)
{
	fds_at_start = fd_count();
	peers[0] = peers[1] = -1;
	rig_init(&r);
	return 0;
}

static inline int tear_down(void **state)
{
	rig_fini(&r);
	fd_close(&peers[0]);
	fd_close(&peers[1]);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static inline void make_limited(
	unsigned pairs, const struct drv_config *config, const struct rate_limit_config *limit)
{
	const struct net_config net = {
		.name = "net",
		.mac = mac,
		.queue_size = 256,
		.csum = true,
		.tso = true,
		.ufo = true,
		.limit = *limit,
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

static inline void make(unsigned pairs, const struct drv_config *config)
{
	make_limited(pairs, config, &(struct rate_limit_config){ 0 });
}

static const struct drv_config plain = { .size = 64 };

static inline void start(uint64_t features, unsigned queues)
{
	r.model->ops->set_features(r.model, features);
	for (unsigned i = 0; i < queues; i++)
		assert_int_equal(rig_start(&r, i), 0);
}

static inline void make_and_start(uint64_t features)
{
	make(1, &plain);
	start(features, 3);
}

/* A packet of the guest in two pieces: header, frame. */
static inline void send_frame(unsigned queue, const void *frame, uint32_t len, unsigned cookie)
{
	uint64_t at = drv_alloc(r.mem, HEADER + len, 8);
	struct drv_buf bufs[] = { { at, HEADER }, { at + HEADER, len } };

	memset(drv_at(r.mem, at), 0, HEADER);
	memcpy(drv_at(r.mem, at + HEADER), frame, len);
	assert_int_equal(drv_add(r.q[queue].drv, bufs, 2, 0, COOKIE(cookie)), 0);
	rig_kick(&r, queue);
}

static inline void *give_buffer(unsigned queue, uint32_t len)
{
	uint64_t at = drv_alloc(r.mem, len, 8);
	struct drv_buf buf = { at, len };
	void *place = drv_at(r.mem, at);

	memset(place, 0xee, len);
	assert_int_equal(drv_add(r.q[queue].drv, &buf, 0, 1, place), 0);
	rig_kick(&r, queue);
	return place;
}

static inline void used(unsigned queue, unsigned cookie)
{
	struct rig_used u;

	assert_true(rig_take(&r, queue, &u));
	assert_ptr_equal(u.cookie, COOKIE(cookie));
}

static inline ssize_t peer_read(int fd, void *buf, size_t size)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	return poll(&pfd, 1, 10000) == 1 ? read(fd, buf, size) : -1;
}

/* A packet for the guest: len bytes behind the header, each made from its place and `seed`. */
static inline void peer_send(int fd, uint32_t len, uint8_t seed)
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
static inline uint8_t received(unsigned queue, uint32_t len, uint8_t seed, unsigned nr_buffers)
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

static inline bool thread_sleeps(struct rig *rig, void *arg)
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
static inline void all_quiet(void)
{
	assert_true(rig_until(&r, thread_sleeps, NULL));
}

static inline void nothing_used(unsigned queue)
{
	void *cookie;
	uint32_t written;

	all_quiet();
	assert_false(drv_get(r.q[queue].drv, &cookie, &written));
	assert_null(r.q[queue].drv->error);
}

#endif
