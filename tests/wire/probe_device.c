/*
 * probe_device.c - `probe_device PATH PATIENCE_MS` serves the probe on a socket until SIGTERM
 *
 * It never spins, so that a test sees every wake-up.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sock.h"
#include "probe.h"
#include "serve/vfio_user.h"

static void on_signal(void *arg, int signo)
{
	loop_quit(arg, 0);
}

int main(int argc, char **argv)
{
	static const int signals[] = { SIGTERM, 0 };
	struct vfio_user_port_config config = { .no_spin = true };
	struct vfio_user_port *port = NULL;
	struct pci_model *model = NULL;
	struct loop *loop = NULL;
	struct err err = { 0 };
	int code, fd;

	if (argc != 3)
		return 2;
	log_init("probe_device", LOG_INFO);
	signal(SIGPIPE, SIG_IGN);
	config.patience_ms = (uint32_t)atoi(argv[2]);
	if (loop_new(&loop) || loop_signals(loop, signals, on_signal, loop) ||
		probe_new(&model, loop))
		return 1;
	fd = sock_listen(argv[1], 16, &err);
	if (fd < 0 || vfio_user_port_new(&port, loop, model, fd, &config, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	code = loop_run(loop);
	vfio_user_port_free(port);
	unlink(argv[1]);
	pci_model_free(model);
	loop_free(loop);
	return code;
}
