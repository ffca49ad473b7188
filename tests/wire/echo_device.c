/*
 * echo_device.c - `echo_device PATH PATIENCE_MS` serves the echo model over vhost-user until
 * SIGTERM
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../unit/echo_model.h"
#include "base/log.h"
#include "base/sock.h"
#include "serve/vhost_user.h"

static void on_signal(void *arg, int signo)
{
	loop_quit(arg, 0);
}

static void freed(void *arg)
{
	loop_quit(arg, 0);
}

int main(int argc, char **argv)
{
	static const int signals[] = { SIGTERM, 0 };
	struct vhost_user_port_config config = { 0 };
	struct vhost_user_port *port = NULL;
	struct loop *loop = NULL;
	struct echo *echo;
	struct err err = { 0 };
	int fd;

	if (argc != 3)
		return 2;
	log_init("echo_device", LOG_INFO);
	signal(SIGPIPE, SIG_IGN);
	config.patience_ms = (uint32_t)atoi(argv[2]);
	if (loop_new(&loop) || loop_signals(loop, signals, on_signal, loop))
		return 1;
	echo = echo_new(loop);
	fd = sock_listen(argv[1], 16, &err);
	if (!echo || fd < 0 || vhost_user_port_new(&port, loop, &echo->model, fd, &config, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	loop_run(loop);
	vhost_user_port_free(port, freed, loop);
	loop_run(loop);
	unlink(argv[1]);
	virtio_model_free(&echo->model);
	loop_free(loop);
	return 0;
}
