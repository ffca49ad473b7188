/*
 * fuzz_vsock.c - the socket device under a hostile driver and hostile programs of the host
 *
 * Beside the driver's steps (fuzz_virtio.h) the input plays both sides of the host: a client of the
 * listening socket, and the connector, which gives the guest's connections sockets whose other ends
 * the input writes to and closes. The first byte says how many connections there may be.
 */
#include "device/vsock.h"

#include "base/sock.h"
#include "device/vsock_priv.h"
#include "fuzz_virtio.h"

#define CLIENTS 4

struct fuzz_vsock {
	struct fuzz_virtio f;
	int played;	   /* the connector's end */
	int ends[CLIENTS]; /* of clients and of sockets handed over; -1: none */
	struct sockaddr_storage at;
	socklen_t at_len;
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_virtio_init();
	return 0;
}

/* A listener without a name in the file system: the kernel chooses one. */
static int listen_somewhere(struct fuzz_vsock *z)
{
	struct sockaddr_storage any = { .ss_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	require(fd >= 0 && bind(fd, (struct sockaddr *)&any, sizeof(sa_family_t)) == 0 &&
		listen(fd, CLIENTS) == 0);
	z->at_len = sizeof(z->at);
	require(getsockname(fd, (struct sockaddr *)&z->at, &z->at_len) == 0);
	return fd;
}

static void client(struct fuzz_vsock *z, unsigned i, struct input *in)
{
	static const char hello[] = "CONNECT 1\n";
	size_t len = take8(in);
	const uint8_t *bytes = take_bytes(in, &len);

	if (z->ends[i] < 0) {
		z->ends[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		require(z->ends[i] >= 0);
		if (connect(z->ends[i], (struct sockaddr *)&z->at, z->at_len))
			fd_close(&z->ends[i]);
		else if (len < 128)
			send(z->ends[i], hello, sizeof(hello) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	if (z->ends[i] >= 0)
		send(z->ends[i], bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void ends(struct fuzz_vsock *z, unsigned i, struct input *in)
{
	static uint8_t sink[65536];

	switch (take8(in) % 4) {
	case 0:
		fd_close(&z->ends[i]);
		break;
	case 1:
		shutdown(z->ends[i], SHUT_WR);
		break;
	case 2:
		shutdown(z->ends[i], SHUT_RD);
		break;
	default:
		while (recv(z->ends[i], sink, sizeof(sink), MSG_DONTWAIT) > 0)
			;
	}
}

static void answer(struct fuzz_vsock *z, unsigned i, struct input *in)
{
	struct connector_answer a = { .rc = take8(in) & 1 ? -ECONNREFUSED : 0 };
	struct iovec iov = { &a, sizeof(a) };
	int pair[2], nr_fds = a.rc ? 0 : 1;

	if (z->played < 0 || recv(z->played, &a.ask, sizeof(a.ask), MSG_DONTWAIT) <= 0)
		return;
	require(sock_pair(pair) == 0);
	sock_send(z->played, &iov, 1, pair, nr_fds);
	close(pair[0]);
	fd_close(&z->ends[i]);
	z->ends[i] = pair[1];
}

static void step(struct fuzz_vsock *z, struct input *in)
{
	unsigned what = take8(in), i = (what >> 4) % CLIENTS;

	switch (what % 8) {
	case 0:
		client(z, i, in);
		break;
	case 1:
		ends(z, i, in);
		break;
	case 2:
		answer(z, i, in);
		break;
	default:
		fuzz_step(&z->f, in);
	}
}

/* A packet of the driver's with the ids and types right, so that more of them get through. */
static void well_formed(struct fuzz_vsock *z, struct input *in)
{
	struct virtio_vsock_hdr h = {
		.src_cid = 3, .dst_cid = 2, .type = VIRTIO_VSOCK_TYPE_STREAM
	};
	struct drv *d = z->f.r.q[1].drv;
	uint16_t head = z->f.next_desc[1];
	uint8_t *at = z->f.r.mem->hva + FUZZ_MEMORY / 2 + 256u * (head % 64);
	const struct vsock_conn *c =
		LIST_FIRST(&container_of(z->f.r.model, struct vsock, model)->all);

	h.op = take8(in) % 9;
	h.src_port = c && take8(in) & 1 ? c->guest_port : take8(in) % 4;
	h.dst_port = c ? c->host_port : take8(in) % 4;
	h.len = take8(in);
	h.flags = take8(in) % 4;
	h.buf_alloc = take16(in);
	h.fwd_cnt = take8(in);
	memcpy(at, &h, sizeof(h));
	d->desc[head] = (struct vring_desc){
		.addr = DRV_IOVA + (uint64_t)(at - z->f.r.mem->hva),
		.len = (uint32_t)(sizeof(h) + h.len),
	};
	z->f.next_desc[1] = (uint16_t)((head + 1) % FUZZ_RING);
	d->avail->ring[d->avail_idx % FUZZ_RING] = head;
	__atomic_store_n(&d->avail->idx, ++d->avail_idx, __ATOMIC_RELEASE);
	fd_signal(z->f.r.q[1].kick);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct fuzz_vsock z = { .f.hosts = { -1, -1 }, .ends = { -1, -1, -1, -1 }, .played = -1 };
	struct vsock_config config = { .name = "vsock", .guest_cid = 3, .connector.fd = -1 };
	struct err err = { 0 };
	int pair[2];

	config.max_conns = 1 + take8(&in) % 8;
	config.listen_fd = listen_somewhere(&z);
	require(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
	config.connector.fd = pair[0];
	z.played = pair[1];
	rig_init(&z.f.r);
	require(vsock_new(&z.f.r.model, z.f.r.loop, &config, &err) == 0);
	z.f.nr_queues = 3;
	for (unsigned i = 0; i < 3; i++) {
		rig_queue(&z.f.r, i, &(struct drv_config){ .size = FUZZ_RING });
		z.f.r.q[i].drv->config.indirect = true;
		require(rig_start(&z.f.r, i) == 0);
	}
	for (unsigned i = 0; i < FUZZ_MAX_STEPS && in.left; i++) {
		if (*in.at & 0x80 && in.left > 1)
			well_formed(&z, &in);
		else
			step(&z, &in);
		if (i % 4 == 3)
			fuzz_settle(&z.f);
	}
	fuzz_settle(&z.f);
	for (unsigned i = 0; i < CLIENTS; i++)
		fd_close(&z.ends[i]);
	rig_fini(&z.f.r);
	fd_close(&z.played);
	return 0;
}
