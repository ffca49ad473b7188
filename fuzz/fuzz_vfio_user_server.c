/*
 * fuzz_vfio_user_server.c - the vfio-user port against what clients may send
 *
 * The input is what a client does, one action after another. An action is a control byte and
 * what it asks for:
 *
 *   bits 0-2  0-4  a message: command, flags, then the payload: its length (2) and bytes
 *             5    bytes as they are: length (2) and bytes
 *             6    a good VERSION; first byte: with write_multiple, a twin socket, few descriptors
 *             7    an answer to a DMA_READ (or, with bit 7, a DMA_WRITE): id, address (8),
 *                  count (2)
 *   bits 3-5  that many descriptors with it, by turns of the three kinds that
 *   bit 6     says: memory, an eventfd, a full and blocking one; or a pipe, memory that is cut
 *             short, an eventfd
 *
 * All of it is in the socket before the server looks, then the client hangs up its sending side.
 * Byte 0 of the input chooses the model: the GPIO card or the probe with one of everything.
 * What must hold: no crash, no hang, no leak, no more descriptors after it than before.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../tests/wire/probe.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/sock.h"
#include "device/gpio.h"
#include "fuzz.h"
#include "serve/vfio_user.h"
#include "wire/vfio_user.h"

#define MEMORY_SIZE 65536u
#define MAX_BYTES   70000u

struct client {
	int sock;
	int fds[6]; /* see the file's head: three of the one kind, three of the other */
	bool full;  /* the socket takes no more */
};

static void say(
	struct client *c, const void *a, size_t a_len, const void *b, size_t b_len, uint8_t control)
{
	struct iovec iov[] = { { (void *)(uintptr_t)a, a_len }, { (void *)(uintptr_t)b, b_len } };
	int fds[7], nr = control >> 3 & 7;

	for (int i = 0; i < nr; i++)
		fds[i] = c->fds[(control & 0x40 ? 3 : 0) + i % 3];
	if (a_len + b_len)
		c->full |= sock_send(c->sock, iov, 2, fds, nr) < 0;
}

static void say_message(struct client *c, uint16_t id, uint16_t command, uint32_t flags,
	const void *payload, size_t len, uint8_t control)
{
	struct vfio_user_header h = {
		.id = id,
		.command = command,
		.size = (uint32_t)(sizeof(h) + len),
		.flags = flags,
	};

	say(c, &h, sizeof(h), payload, len, control);
}

static void say_version(struct client *c, struct input *in)
{
	uint8_t what = take8(in);
	char text[300] = { 0, 0, 1, 0 }; /* 0.1 */
	int len = snprintf(text + 4, sizeof(text) - 4,
		"{\"capabilities\":{\"max_msg_fds\":%d,\"twin_socket\":{\"supported\":%s},"
		"\"write_multiple\":%s}}",
		what & 4 ? 1 : 16, what & 2 ? "true" : "false", what & 1 ? "true" : "false");

	say_message(c, 1, VFIO_USER_VERSION, 0, text, (size_t)len + 5, 0);
}

static void say_answer(struct client *c, struct input *in, uint8_t control)
{
	uint8_t payload[sizeof(struct vfio_user_dma_access) + 0xffff] = { 0 };
	bool write = control & 0x80;
	uint16_t id = take8(in);
	struct vfio_user_dma_access a = { .addr = take64(in), .count = take16(in) };

	memcpy(payload, &a, sizeof(a));
	say_message(c, id, write ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ, VFIO_USER_TYPE_REPLY,
		payload, sizeof(a) + (write ? 0 : a.count), control);
}

static void act(struct client *c, struct input *in)
{
	uint8_t control = take8(in), command = 0, flags = 0;
	const uint8_t *bytes;
	size_t len;

	switch (control & 7) {
	case 6:
		say_version(c, in);
		return;
	case 7:
		say_answer(c, in, control);
		return;
	case 5:
		break;
	default:
		command = take8(in) % (VFIO_USER_COMMAND_END + 1);
		flags = take8(in);
	}
	len = take16(in);
	bytes = take_bytes(in, &len);
	if ((control & 7) == 5)
		say(c, bytes, len, NULL, 0, control);
	else
		say_message(c, flags, command, flags & (VFIO_USER_FLAG_NO_REPLY | 1), bytes, len,
			control);
}

static void open_descriptors(struct client *c)
{
	int ends[2];

	c->fds[0] = memfd_create("memory", MFD_CLOEXEC);
	require(!ftruncate(c->fds[0], MEMORY_SIZE));
	c->fds[1] = fd_eventfd();
	c->fds[2] = eventfd(0, EFD_CLOEXEC);
	require(!eventfd_write(c->fds[2], 0xfffffffffffffffe));
	require(!pipe2(ends, O_CLOEXEC | O_NONBLOCK));
	c->fds[3] = ends[0];
	fd_close(&ends[1]);
	c->fds[4] = memfd_create("short", MFD_CLOEXEC);
	require(!ftruncate(c->fds[4], MEMORY_SIZE));
	c->fds[5] = fd_eventfd();
}

static void deserted(void *arg)
{
	loop_quit(arg, 0);
}

static void serve(struct loop *loop, struct pci_model *model, int sock, struct client *c)
{
	struct vfio_user_port_config config = {
		.patience_ms = 1,
		.no_spin = true,
		.deserted = deserted,
		.arg = loop,
	};
	struct vfio_user_port *port;

	require(!vfio_user_port_new(&port, loop, model, sock, &config, NULL));
	loop_run(loop);
	vfio_user_port_free(port);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	static const struct gpio_config gpio = { .loopback = true };
	int before = fd_count(), size_of_buffers = 4 << 20, socks[2];
	struct client c = { .full = false };
	struct pci_model *model;
	struct loop *loop;

	if (!size || size > MAX_BYTES)
		return 0;
	require(!loop_new(&loop));
	require(!(take8(&in) & 1 ? gpio_new(&model, &gpio) : probe_new(&model, loop)));
	require(!sock_pair(socks));
	c.sock = socks[0];
	for (int i = 0; i < 2; i++)
		setsockopt(socks[i], SOL_SOCKET, SO_SNDBUFFORCE, &size_of_buffers,
			sizeof(size_of_buffers));
	open_descriptors(&c);
	while (in.left && !c.full)
		act(&c, &in);
	shutdown(c.sock, SHUT_WR);
	require(!ftruncate(c.fds[4], 0));
	serve(loop, model, socks[1], &c);

	fd_close(&c.sock);
	for (size_t i = 0; i < ARRAY_SIZE(c.fds); i++)
		fd_close(&c.fds[i]);
	pci_model_free(model);
	loop_free(loop);
	require(fd_count() == before);
	return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_init("fuzz", LOG_ERR);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}
