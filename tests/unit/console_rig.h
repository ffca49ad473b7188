/* console_rig.h - a console on the test bench: its queues, its control messages, its socket's
 * clients */
#ifndef TESTS_CONSOLE_RIG_H
#define TESTS_CONSOLE_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include "base/sock.h"
#include "base/util.h"
#include "device/console.h"
#include "device/model.h"
#include "virtio_rig.h"
#include "wire/virtio.h"

#define COOKIE(n) ((void *)(uintptr_t)(n))
#define MULTIPORT VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT)

enum { RX0, TX0, CONTROL_RX, CONTROL_TX, RX1, TX1, RX2, TX2 };

static struct rig r;
static char dir[64];
static char path[96];
static int fds_at_start;

static inline int set_up(void **state)
{
	fds_at_start = fd_count();
	snprintf(dir, sizeof(dir), "/tmp/console-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/end", dir);
	rig_init(&r);
	return 0;
}

static inline int tear_down(void **state)
{
	rig_fini(&r);
	unlink(path);
	rmdir(dir);
	assert_int_equal(fd_count(), fds_at_start);
	return 0;
}

static struct drv_config rings = { .size = 64, .event_idx = true };

static inline void make(const struct console_port_config *ports, unsigned nr)
{
	struct console_config config = { .name = "console", .nr_ports = nr, .ports = ports };
	struct err err = { 0 };

	assert_int_equal(console_new(&r.model, r.loop, &config, &err), 0);
	for (unsigned i = 0; i < r.model->nr_queues; i++)
		rig_queue(&r, i, &rings);
}

static inline void start_all(uint64_t features)
{
	r.model->ops->set_features(r.model, features);
	for (unsigned i = 0; i < r.model->nr_queues; i++)
		assert_int_equal(rig_start(&r, i), 0);
}

static inline void make_single(struct console_end_config end)
{
	make(&(struct console_port_config){ .end = end, .name = "" }, 1);
	start_all(0);
}

/* Queues as a driver uses them */

static inline void send_bytes(unsigned queue, const void *bytes, uint32_t len, unsigned cookie)
{
	uint64_t at = drv_alloc(r.mem, len, 8);
	struct drv_buf buf = { at, len };

	memcpy(drv_at(r.mem, at), bytes, len);
	assert_int_equal(drv_add(r.q[queue].drv, &buf, 1, 0, COOKIE(cookie)), 0);
	rig_kick(&r, queue);
}

static inline void send_text(unsigned queue, const char *text, unsigned cookie)
{
	send_bytes(queue, text, (uint32_t)strlen(text), cookie);
}

static inline void give_buffer(unsigned queue, uint32_t len)
{
	uint64_t at = drv_alloc(r.mem, len, 8);
	struct drv_buf buf = { at, len };

	assert_int_equal(drv_add(r.q[queue].drv, &buf, 0, 1, drv_at(r.mem, at)), 0);
	rig_kick(&r, queue);
}

static inline void used(unsigned queue, unsigned cookie)
{
	struct rig_used u;

	assert_true(rig_take(&r, queue, &u));
	assert_ptr_equal(u.cookie, COOKIE(cookie));
}

static inline void nothing_used(unsigned queue)
{
	void *cookie;
	uint32_t written;

	rig_settle(&r);
	assert_false(drv_get(r.q[queue].drv, &cookie, &written));
	assert_null(r.q[queue].drv->error);
}

static inline void received(unsigned queue, const char *text)
{
	struct rig_used u;

	assert_true(rig_take(&r, queue, &u));
	assert_int_equal(u.written, strlen(text));
	assert_memory_equal(u.cookie, text, strlen(text));
}

/* Control messages */

static inline void tell(uint32_t id, uint16_t event, uint16_t value)
{
	struct virtio_console_control m = { .id = id, .event = event, .value = value };

	send_bytes(CONTROL_TX, &m, sizeof(m), 99);
	used(CONTROL_TX, 99);
}

static inline void told(
	uint32_t id, uint16_t event, uint16_t value, const void *more, uint32_t more_len)
{
	struct virtio_console_control m;
	struct rig_used u;

	assert_true(rig_take(&r, CONTROL_RX, &u));
	memcpy(&m, u.cookie, sizeof(m));
	assert_int_equal(m.id, id);
	assert_int_equal(m.event, event);
	if (event != VIRTIO_CONSOLE_RESIZE)
		assert_int_equal(m.value, value);
	assert_int_equal(u.written, sizeof(m) + more_len);
	assert_memory_equal((char *)u.cookie + sizeof(m), more, more_len);
}

static inline void give_control_buffers(void)
{
	for (int i = 0; i < 32; i++)
		give_buffer(CONTROL_RX, 128);
}

/* Clients of a socket */

static inline int client(void)
{
	struct err err = { 0 };
	int fd = sock_connect(path, &err);

	assert_true(fd >= 0);
	rig_settle(&r);
	return fd;
}

static inline size_t read_some(int fd, char *buf, size_t size)
{
	ssize_t n = read(fd, buf, size);

	return n < 0 ? 0 : (size_t)n;
}

static inline void client_reads(int fd, const char *text)
{
	char buf[4096];
	size_t n;

	rig_settle(&r);
	n = read_some(fd, buf, sizeof(buf));
	assert_int_equal(n, strlen(text));
	assert_memory_equal(buf, text, n);
}

static const struct console_end_config null_end = { .kind = CONSOLE_NULL };

static inline struct console_end_config socket_end(void)
{
	return (struct console_end_config){ .kind = CONSOLE_SOCKET, .path = path };
}

#endif
