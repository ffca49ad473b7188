/*
 * fuzz_console.c - the console under a hostile driver and hostile host ends (fuzz_virtio.h)
 *
 * Three ports: a console and a generic one, each wired to a socket, and one without an end. The
 * first byte says whether the driver uses more than the first.
 */
#include "device/console.h"

#include <linux/virtio_console.h>

#include "fuzz_virtio.h"
#include "wire/virtio.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_virtio_init();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct fuzz_virtio f = { .hosts = { -1, -1 } };
	struct console_port_config ports[3] = {
		{ .end.kind = CONSOLE_FDS, .name = "" },
		{ .end.kind = CONSOLE_FDS, .name = "org.example.port" },
		{ .end.kind = CONSOLE_NULL, .name = "", .console = true },
	};
	const struct console_config config = { .name = "console", .nr_ports = 3, .ports = ports };
	uint64_t multiport = take8(&in) & 1 ? 0 : VIRTIO_BIT(VIRTIO_CONSOLE_F_MULTIPORT);
	struct err err = { 0 };

	for (int i = 0; i < 2; i++) {
		int fds[2];

		require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
		ports[i].end.in_fd = ports[i].end.out_fd = fds[0];
		f.hosts[i] = fds[1];
	}
	rig_init(&f.r);
	require(console_new(&f.r.model, f.r.loop, &config, &err) == 0);
	fuzz_virtio_run(&f, multiport, &in);
	return 0;
}
