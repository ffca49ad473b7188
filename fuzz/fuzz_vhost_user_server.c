/*
 * fuzz_vhost_user_server.c - the vhost-user port against what front-ends may do
 *
 * The input is what a front-end does, one action after another; whenever the server has nothing
 * left to do, the next one comes. An action is a control byte and what it asks for:
 *
 *   bits 0-3  0-6  a message: request, flags, descriptors, then the payload: its length and bytes
 *             7    bytes as they are: descriptors, length, bytes
 *             8    all it takes to run a queue, done well: features (1), queue and size (1)
 *             9    memory and a handshake, done well
 *             10   a kick of a queue
 *             11   bytes into guest memory: offset (2), length and bytes
 *             12   requests are kept open from now on, or let go
 *             13   a memory file is cut short
 *             14   the configuration changes
 *             15   half a message, then the end
 *
 * A byte for descriptors says how many (bits 0-3) and which comes first (bits 4-7), of those of
 * enum kind. What must hold: no crash, no hang, no leak, no more descriptors after it than before.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../tests/unit/echo_model.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/sock.h"
#include "base/util.h"
#include "fuzz.h"
#include "serve/vhost_user.h"
#include "wire/vhost_user.h"

#define MEMORY_SIZE 65536u
#define GPA	    0x10000ull
#define USER	    0x40000ull
#define MAX_BYTES   8192u
#define MAX_FDS	    15

enum kind { MEMORY, KICK, CALL, SHORT, PIPE_OUT, PIPE_IN, SOCKET, FULL, NR_KINDS };

/* A length of one byte, then that many bytes, or what is left. */
static const uint8_t *take_string(struct input *in, size_t *len)
{
	*len = take8(in);
	return take_bytes(in, len);
}

struct front {
	struct loop_idle idle;
	struct loop *loop;
	struct echo *echo;
	struct input in;
	int sock, far_end;
	int fds[NR_KINDS];
	uint8_t *mem;
	bool ended;
};

static void say(
	struct front *f, const void *a, size_t a_len, const void *b, size_t b_len, uint8_t which)
{
	struct iovec iov[] = { { (void *)(uintptr_t)a, a_len }, { (void *)(uintptr_t)b, b_len } };
	int fds[MAX_FDS], nr = which & 15;

	for (int i = 0; i < nr; i++)
		fds[i] = f->fds[((which >> 4) + i) % NR_KINDS];
	if (a_len + b_len)
		sock_send(f->sock, iov, 2, fds, nr);
}

static void say_message(struct front *f, uint32_t request, uint32_t flags, const void *payload,
	size_t len, uint8_t which)
{
	struct vhost_user_header h = { request, flags, (uint32_t)len };

	say(f, &h, sizeof(h), payload, len, which);
}

/* As it should be said */
static void say_well(struct front *f, uint32_t request, const void *payload, size_t len, int fd)
{
	say_message(f, request, VHOST_USER_FLAG_VERSION, payload, len,
		fd < 0 ? 0 : (uint8_t)(fd << 4 | 1));
}

static void say_state(struct front *f, uint32_t request, uint32_t index, uint32_t num)
{
	struct vhost_user_vring_state s = { index, num };

	say_well(f, request, &s, sizeof(s), -1);
}

static void say_handshake(struct front *f)
{
	const struct vhost_user_mem_table t = {
		.nr = 1,
		.regions = { { GPA, MEMORY_SIZE, USER, 0 } },
	};
	uint64_t all = VHOST_USER_PROTOCOL_BIT(MQ) | VHOST_USER_PROTOCOL_BIT(CONFIG) |
		       VHOST_USER_PROTOCOL_BIT(REPLY_ACK);

	say_well(f, VHOST_USER_SET_PROTOCOL_FEATURES, &all, sizeof(all), -1);
	say_well(f, VHOST_USER_SET_MEM_TABLE, &t, 8 + 32, MEMORY);
}

static void say_queue(struct front *f)
{
	static const uint64_t ring_bits[] = { VIRTIO_BIT(VIRTIO_BIT_RING_PACKED),
		VIRTIO_BIT(VIRTIO_BIT_EVENT_IDX), VIRTIO_BIT(VIRTIO_BIT_INDIRECT),
		VIRTIO_BIT(VIRTIO_BIT_IN_ORDER), VIRTIO_BIT(VHOST_USER_F_LOG_ALL) };
	uint8_t bits = take8(&f->in), what = take8(&f->in);
	uint64_t features = VIRTIO_BIT(VIRTIO_BIT_VERSION_1);
	unsigned q = what % ECHO_QUEUES, at = q * 0x2000;
	struct vhost_user_vring_addr a = { .index = q,
		.desc = USER + at,
		.avail = USER + at + 0x1000,
		.used = USER + at + 0x1400 };
	uint64_t index = q;

	for (size_t i = 0; i < ARRAY_SIZE(ring_bits); i++)
		features |= bits & 1u << i ? ring_bits[i] : 0;
	say_well(f, VHOST_USER_SET_FEATURES, &features, sizeof(features), -1);
	say_state(f, VHOST_USER_SET_VRING_NUM, q, 1u << (what >> 4) % 8);
	say_well(f, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), -1);
	say_well(f, VHOST_USER_SET_VRING_CALL, &index, sizeof(index), CALL);
	say_well(f, VHOST_USER_SET_VRING_KICK, &index, sizeof(index), KICK);
}

static void write_memory(struct front *f)
{
	size_t off = take16(&f->in), len;
	const uint8_t *bytes = take_string(&f->in, &len);

	memcpy(f->mem + off, bytes, MIN(len, MEMORY_SIZE - off));
}

static void send_something(struct front *f, bool message)
{
	uint8_t request = 0, flags = 0, which;
	const uint8_t *bytes;
	size_t len;

	if (message) {
		request = take8(&f->in) % (VHOST_USER_REQUEST_END + 1);
		flags = take8(&f->in);
	}
	which = take8(&f->in);
	bytes = take_string(&f->in, &len);
	if (message)
		say_message(f, request, flags & 15 ? flags & 15 : 1, bytes, len, which);
	else
		say(f, bytes, len, NULL, 0, which);
}

static void end(struct front *f)
{
	echo_release(f->echo);
	shutdown(f->sock, SHUT_WR);
	f->ended = true;
}

static void act(struct front *f)
{
	uint8_t control = take8(&f->in) & 15;

	switch (control) {
	case 7:
		send_something(f, false);
		break;
	case 8:
		say_queue(f);
		break;
	case 9:
		say_handshake(f);
		break;
	case 10:
		fd_signal(f->fds[KICK]);
		break;
	case 11:
		write_memory(f);
		break;
	case 12:
		if (atomic_load(&f->echo->hold))
			echo_release(f->echo);
		else
			atomic_store(&f->echo->hold, true);
		break;
	case 13:
		require(!ftruncate(f->fds[SHORT], 0));
		break;
	case 14:
		virtio_model_config_changed(&f->echo->model);
		break;
	case 15:
		say(f, "\1\0\0", 3, NULL, 0, 0);
		end(f);
		break;
	default:
		send_something(f, true);
	}
}

/* The server rests: read what it said, then go on. */
static bool next(struct loop_idle *idle)
{
	struct front *f = container_of(idle, struct front, idle);
	uint8_t reply[512];
	struct fd_list fds = { .nr = 0 };

	while (sock_recv(f->sock, reply, sizeof(reply), &fds) > 0)
		fd_list_close(&fds);
	if (f->ended)
		return true;
	if (f->in.left)
		act(f);
	else
		end(f);
	return true;
}

static void open_descriptors(struct front *f)
{
	int ends[2];

	f->fds[MEMORY] = memfd_create("memory", MFD_CLOEXEC);
	require(!ftruncate(f->fds[MEMORY], MEMORY_SIZE));
	f->mem = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fds[MEMORY], 0);
	require(f->mem != MAP_FAILED);
	f->fds[KICK] = fd_eventfd();
	f->fds[CALL] = fd_eventfd();
	f->fds[SHORT] = memfd_create("short", MFD_CLOEXEC);
	require(!ftruncate(f->fds[SHORT], MEMORY_SIZE));
	require(!pipe2(ends, O_CLOEXEC));
	f->fds[PIPE_OUT] = ends[0];
	f->fds[PIPE_IN] = ends[1];
	require(!sock_pair(ends));
	f->fds[SOCKET] = ends[0];
	f->far_end = ends[1];
	f->fds[FULL] = eventfd(0, EFD_CLOEXEC);
	require(!eventfd_write(f->fds[FULL], 0xfffffffffffffffe));
}

static void deserted(void *arg)
{
	loop_quit(arg, 0);
}

static void freed(void *arg)
{
	*(bool *)arg = true;
}

static void serve(struct front *f, int sock)
{
	struct vhost_user_port_config config = {
		.patience_ms = 1,
		.deserted = deserted,
		.arg = f->loop,
	};
	struct vhost_user_port *port;
	bool is_free = false;

	require(!vhost_user_port_new(&port, f->loop, &f->echo->model, sock, &config, NULL));
	loop_idle_set(f->loop, &f->idle, next);
	loop_run(f->loop);
	vhost_user_port_free(port, freed, &is_free);
	require(is_free);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct front f = { .in = { data, size } };
	int before = fd_count(), socks[2];

	if (!size || size > MAX_BYTES)
		return 0;
	require(!loop_new(&f.loop));
	f.echo = echo_new(f.loop);
	require(f.echo);
	require(!sock_pair(socks));
	f.sock = socks[0];
	open_descriptors(&f);
	serve(&f, socks[1]);
	require(!atomic_load(&f.echo->running) && !atomic_load(&f.echo->paused));

	fd_close(&f.sock);
	fd_close(&f.far_end);
	for (size_t i = 0; i < ARRAY_SIZE(f.fds); i++)
		fd_close(&f.fds[i]);
	munmap(f.mem, MEMORY_SIZE);
	virtio_model_free(&f.echo->model);
	loop_free(f.loop);
	require(fd_count() == before);
	return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_init("fuzz", LOG_ERR);
	signal(SIGPIPE, SIG_IGN);
	return 0;
}
