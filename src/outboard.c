/*
 * outboard.c - the virtual machine monitor's program: parse, run, exit status
 *
 * Steps: options -> log -> VM made and booted (control/vm.h) -> system calls confined -> guest
 * runs -> everything freed. Exit status: 0 the guest shut down (or help was asked for), 1 something
 * failed, 2 the command line is wrong (nothing was started then).
 */
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/sandbox.h"
#include "base/util.h"
#include "control/options.h"
#include "control/vm.h"

enum { EXIT_USAGE = 2 };

struct vmm {
	struct loop *loop;
	struct vm_config config; /* empty once the VM has it */
	uint32_t seccomp;	 /* enum seccomp_mode */
	struct vm *vm;
	struct err err;	   /* why it ends, when something failed */
	bool asked_to_end; /* one signal came already */
};

/* --- signals --- */

/*
 * The first request to end presses the power button; a guest that has no driver for it cannot
 * answer and is switched off at once. The second request does not ask.
 */
static void on_signal(void *arg, int signo)
{
	struct vmm *vmm = arg;

	if (vm_state(vmm->vm) != VM_RUNNING) {
		err_set(&vmm->err, -EINTR, "ended by signal %d", signo);
		loop_quit(vmm->loop, MACHINE_EXIT_FAILED);
	} else if (vmm->asked_to_end) {
		log_warn("second request to end: the guest is stopped as it is");
		loop_quit(vmm->loop, MACHINE_EXIT_FAILED);
	} else if (vm_ask_to_end(vmm->vm)) {
		log_info("power button pressed for signal %d", signo);
		vmm->asked_to_end = true;
	} else {
		log_info("the guest does not know the power button: switched off");
		loop_quit(vmm->loop, MACHINE_EXIT_OK);
	}
}

static int take_signals(struct vmm *vmm, struct err *err)
{
	static const int signals[] = { SIGTERM, SIGINT, SIGHUP, 0 };
	int rc = loop_signals(vmm->loop, signals, on_signal, vmm);

	signal(SIGPIPE, SIG_IGN);
	return rc ? err_set(err, rc, "signals: %s", strerror(-rc)) : 0;
}

/* --- system calls --- */

/* What the VMM does once the guest runs, beyond what the base does. */
static const struct sandbox_call calls[] = {
	{ SYS_ioctl, "KVM; terminals" },
	{ SYS_pread64, "images, read again at a guest reset" },
	{ SYS_pwrite64, "large images go straight into guest memory's file" },
	{ SYS_socket, "a device process that went away is connected to again" },
	{ SYS_connect, "likewise" },
	{ SYS_shutdown, "and hung up on" },
	{ SYS_getsockopt, "what kind of socket a descriptor is" },
	{ SYS_sendto, "the serial port's socket" },
	{ SYS_process_vm_readv, "whether a device's shared memory still has its file" },
	{ SYS_prctl, "a vCPU's thread gets its name" },
	{ SYS_sched_setaffinity, "and its processors" },
	{ SYS_set_robust_list, "a thread begins" },
	{ SYS_rseq, "likewise" },
	{ SYS_tkill, "vCPUs are kicked, by older C libraries" },
	{ SYS_unlink, "the serial port's socket, at the end" },
	{ SYS_kill, "the process that looks after the terminal, at the end" },
	{ SYS_wait4, "likewise" },
};

/* Before the guest's first instruction; all threads exist by then. */
static int confine(uint32_t mode, struct err *err)
{
	static const enum sandbox_mode modes[] = {
		[SECCOMP_OFF] = SANDBOX_OFF,
		[SECCOMP_KILL] = SANDBOX_KILL,
		[SECCOMP_LOG] = SANDBOX_LOG,
		[SECCOMP_ERRNO] = SANDBOX_ERRNO,
	};
	int rc;

	if (mode == SECCOMP_OFF)
		return 0;
	rc = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ?
		     err_set(err, -errno, "no_new_privs: %s", strerror(errno)) :
		     0;
	return rc ? rc : sandbox_calls(calls, ARRAY_SIZE(calls), modes[mode], err);
}

/* --- life --- */

/* Each vector, doorbell and slot of a device is a descriptor: take what the host lets us have. */
static void raise_fd_limit(void)
{
	struct rlimit limit;

	if (!getrlimit(RLIMIT_NOFILE, &limit)) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* A new terminal is of no use to somebody who does not know its name. */
static void announce(const struct vm *vm)
{
	const char *pty = vm_serial_pty(vm);

	if (pty)
		fprintf(stderr, "outboard: --serial pty: %s\n", pty);
}

static int vm_ready(void *arg, struct err *err)
{
	struct vmm *vmm = arg;

	announce(vmm->vm);
	return confine(vmm->seccomp, err);
}

static void vm_ended(void *arg, enum machine_exit how)
{
	struct vmm *vmm = arg;

	loop_quit(vmm->loop, (int)how);
}

static const struct vm_events vm_events = { .ready = vm_ready, .ended = vm_ended };

static void booted(void *arg, int rc, const struct err *err)
{
	struct vmm *vmm = arg;

	if (rc && rc != -ECANCELED) {
		vmm->err = *err;
		loop_quit(vmm->loop, MACHINE_EXIT_FAILED);
	}
}

static int begin(struct vmm *vmm)
{
	int rc = loop_new(&vmm->loop);

	if (rc)
		return err_set(&vmm->err, rc, "event loop: %s", strerror(-rc));
	rc = take_signals(vmm, &vmm->err);
	vmm->seccomp = vmm->config.seccomp;
	if (!rc)
		rc = vm_new(vmm->loop, &vmm->config, &vm_events, vmm, &vmm->vm, &vmm->err);
	return rc ? rc : vm_boot(vmm->vm, booted, vmm, &vmm->err);
}

static int run(struct vmm *vmm)
{
	int code = begin(vmm) ? MACHINE_EXIT_FAILED : loop_run(vmm->loop);

	if (vmm->err.text[0])
		fprintf(stderr, "outboard: %s\n", vmm->err.text);
	vm_free(vmm->vm);
	loop_free(vmm->loop);
	return code;
}

/* `outboard device ...` is the program outboard-device that lies beside this one. */
static int exec_sibling(const char *name, char **argv)
{
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (n > 0) {
		self[n] = '\0';
		snprintf(path, sizeof(path), "%s/%s", dirname(self), name);
		argv[0] = path;
		execv(path, argv);
	}
	fprintf(stderr, "outboard: cannot start %s: %s\n", name, strerror(errno));
	return MACHINE_EXIT_FAILED;
}

/* vCPU threads allocate seldom: heaps of their own would cost memory, and glibc opens files to count processors. */
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
	struct vmm vmm = { 0 };
	struct err err = { 0 };
	int code = EXIT_USAGE, rc;

	if (fd_standard())
		return MACHINE_EXIT_FAILED; /* and nowhere to say so */
	if (argc > 1 && !strcmp(argv[1], "device"))
		return exec_sibling("outboard-device", argv + 1);
	raise_fd_limit();
	share_one_heap();
	rc = config_init(&vmm.config);
	if (!rc)
		rc = options_parse(argc, argv, &vmm.config, &err);
	if (!rc)
		rc = open_log(&vmm.config, &err);
	if (!rc)
		code = run(&vmm);
	else if (rc == OPTIONS_PRINTED)
		code = 0;
	else
		fprintf(stderr, "outboard: %s\n", err.text);
	config_fini(&vmm.config);
	return code;
}
