/*
 * outboard.c - the virtual machine monitor's program: parse, log, run (control/vmm.h), exit status
 *
 * Exit status: 0 the guest shut down (or help was asked for), 1 something failed, 2 the command
 * line is wrong (nothing was started then).
 */
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "control/device_bind.h"
#include "control/options.h"
#include "control/run.h"
#include "control/spawner.h"
#include "control/vmm.h"

enum { EXIT_USAGE = 2 };

/* Each vector, doorbell and slot of a device is a descriptor: take what the host lets us have. */
static void raise_fd_limit(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* `outboard device ...` and `outboard remote ...` are the programs outboard-device and
 * outboard-remote that lie beside this one. */
static int exec_sibling(const char *name, char **argv)
{
	char path[PATH_MAX];
	int rc = spawner_sibling(name, path, sizeof(path));

	if (!rc) {
		argv[0] = path;
		execv(path, argv);
		rc = -errno;
	}
	fprintf(stderr, "outboard: cannot start %s: %s\n", name, strerror(-rc));
	return MACHINE_EXIT_FAILED;
}

/* vCPU threads allocate seldom: heaps of their own would cost memory, and glibc opens files to
 * count processors. */
static void share_one_heap(void)
{
	mallopt(M_ARENA_MAX, 1);
}

static int open_log(const struct vm_config *c, struct err *err)
{
	static const enum log_level levels[] = { LOG_WARN, LOG_INFO, LOG_DEBUG };
	int rc;

	log_init("outboard", levels[MIN(c->verbosity, 2u)]);
	if (!c->log_file)
		return 0;
	rc = log_open(c->log_file);
	return rc ? err_set(err, rc, "--log-file: %s: %s", c->log_file, strerror(-rc)) : 0;
}

int main(int argc, char **argv)
{
	struct vm_config config;
	struct err err = { 0 };
	int code = EXIT_USAGE, rc;

	if (fd_standard())
		return MACHINE_EXIT_FAILED; /* and nowhere to say so */
	if (argc > 1 && !strcmp(argv[1], "device"))
		return exec_sibling("outboard-device", argv + 1);
	if (argc > 1 && !strcmp(argv[1], "remote"))
		return exec_sibling("outboard-remote", argv + 1);
	if (argc > 1 && !strcmp(argv[1], "device-bind"))
		return device_bind_main(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "device-unbind"))
		return device_unbind_main(argc - 1, argv + 1);
	raise_fd_limit();
	share_one_heap();
	rc = config_init(&config);
	if (!rc && argc > 1 && !strcmp(argv[1], "run"))
		rc = run_parse(argc - 1, argv + 1, &config, &err);
	else if (!rc)
		rc = options_parse(argc, argv, &config, &err);
	if (!rc)
		rc = open_log(&config, &err);
	if (!rc)
		code = vmm_run(&config);
	else if (rc == OPTIONS_PRINTED)
		code = 0;
	else
		fprintf(stderr, "outboard: %s\n", err.text);
	config_fini(&config);
	return code;
}
