/*
 * outboard.c - the virtual machine monitor's program: parse, build, run
 *
 * Steps: options -> machine -> devices attached -> guest loaded -> system calls confined -> guest
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

#include "attach/user_device.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/sandbox.h"
#include "base/util.h"
#include "control/options.h"
#include "machine/machine.h"
#include "machine/serial.h"

enum { EXIT_USAGE = 2 };

struct vmm {
	struct loop *loop;
	struct vm_config config;
	struct machine_params params;
	struct vcpu_cpus *affinity;
	struct machine *machine;

	struct user_device **devices;
	size_t nr_devices; /* of which an attach was begun */
	size_t nr_pending; /* of which it goes on */
	struct err attach_err;

	bool running;	 /* the guest was started */
	bool asked_to_end; /* one signal came already */
};

/* --- from what the user said to what the machine wants --- */

static int fill_affinity(struct vmm *vmm)
{
	const struct affinity_list *list = &vmm->config.cpus.affinity;

	vmm->affinity = calloc(MAX(list->nr, (size_t)1), sizeof(*vmm->affinity));
	if (!vmm->affinity)
		return -ENOMEM;
	for (size_t i = 0; i < list->nr; i++)
		vmm->affinity[i] = (struct vcpu_cpus){
			.vcpu = list->items[i].vcpu,
			.cpus = list->items[i].host_cpus,
			.nr = list->items[i].nr_host_cpus,
		};
	vmm->params.affinity = vmm->affinity;
	vmm->params.nr_affinity = (unsigned)list->nr;
	return 0;
}

static void fill_serial(struct vmm *vmm)
{
	static const enum serial_mode modes[] = {
		[CONSOLE_NULL] = SERIAL_NULL, [CONSOLE_TTY] = SERIAL_TTY,
		[CONSOLE_PTY] = SERIAL_PTY,   [CONSOLE_FILE] = SERIAL_FILE,
		[CONSOLE_SOCKET] = SERIAL_SOCKET,
	};
	const struct console_config *serial = &vmm->config.serial;

	vmm->params.has_serial = serial->mode != CONSOLE_OFF;
	vmm->params.serial_mode = modes[serial->mode];
	vmm->params.serial_path = serial->mode == CONSOLE_FILE ? serial->file : serial->socket;
}

static int fill_params(struct vmm *vmm)
{
	const struct vm_config *c = &vmm->config;

	vmm->params = (struct machine_params){
		.memory = {
			.size = c->memory.size,
			.hugepages = c->memory.hugepages,
			.hugepage_size = c->memory.hugepage_size,
			.prefault = c->memory.prefault,
			.thp = c->memory.thp,
		},
		.boot_vcpus = c->cpus.boot,
		.max_vcpus = c->cpus.max,
		.topology = {
			.threads = c->cpus.topology.threads_per_core,
			.cores = c->cpus.topology.cores_per_die,
			.dies = c->cpus.topology.dies_per_package,
			.packages = c->cpus.topology.packages,
		},
		.max_phys_bits = c->cpus.max_phys_bits,
		.nr_segments = c->platform.num_pci_segments,
		.kernel = c->payload.kernel,
		.firmware = c->payload.firmware,
		.initramfs = c->payload.initramfs,
		.cmdline = c->payload.cmdline,
	};
	fill_serial(vmm);
	return fill_affinity(vmm);
}

/* --- devices --- */

static void device_attached(void *arg, struct user_device *dev, int rc, const struct err *err)
{
	struct vmm *vmm = arg;

	if (rc) {
		vmm->attach_err = *err;
		loop_quit(vmm->loop, rc);
	} else if (!--vmm->nr_pending) {
		loop_quit(vmm->loop, 0);
	}
}

static int begin_attach(struct vmm *vmm, const struct user_device_config *c, struct err *err)
{
	struct user_device_params p = {
		.id = c->id,
		.socket = c->socket,
		.segment = c->pci_segment,
		.slot = c->pci_device_id == CONFIG_SLOT_ANY ? PCI_SLOT_ANY : c->pci_device_id,
		.attached = device_attached,
		.arg = vmm,
	};
	int rc = user_device_attach(vmm->machine, &p, &vmm->devices[vmm->nr_devices], err);

	if (!rc) {
		vmm->nr_devices++;
		vmm->nr_pending++;
	}
	return rc;
}

/* Devices that name their slot come first, so that the others do not take it. */
static int plug_all(struct vmm *vmm, struct err *err)
{
	int rc = 0;

	for (int named = 1; named >= 0; named--)
		for (size_t i = 0; i < vmm->nr_devices && !rc; i++)
			if ((vmm->config.user_devices.items[i].pci_device_id != CONFIG_SLOT_ANY) ==
				named)
				rc = user_device_plug(vmm->devices[i], err);
	return rc;
}

static int attach_devices(struct vmm *vmm, struct err *err)
{
	const struct user_device_list *list = &vmm->config.user_devices;
	int rc = 0;

	if (!list->nr)
		return 0;
	vmm->devices = calloc(list->nr, sizeof(struct user_device *));
	if (!vmm->devices)
		return err_set(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < list->nr && !rc; i++)
		rc = begin_attach(vmm, &list->items[i], err);
	if (!rc)
		rc = loop_run(vmm->loop);
	if (vmm->attach_err.text[0])
		*err = vmm->attach_err;
	/* The signal came together with the last device. */
	if (!rc && vmm->attach_err.text[0])
		rc = -EINTR;
	return rc ? rc : plug_all(vmm, err);
}

/* --- signals --- */

/*
 * The first request to end presses the power button; a guest that has no driver for it cannot
 * answer and is switched off at once. The second request does not ask.
 */
static void on_signal(void *arg, int signo)
{
	struct vmm *vmm = arg;

	if (!vmm->running) {
		err_set(&vmm->attach_err, -EINTR, "ended by signal %d", signo);
		loop_quit(vmm->loop, -EINTR);
	} else if (vmm->asked_to_end) {
		log_warn("second request to end: the guest is stopped as it is");
		loop_quit(vmm->loop, MACHINE_EXIT_FAILED);
	} else if (machine_ask_to_end(vmm->machine)) {
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

static int build(struct vmm *vmm, struct err *err)
{
	int rc = loop_new(&vmm->loop);

	if (rc)
		return err_set(err, rc, "event loop: %s", strerror(-rc));
	rc = take_signals(vmm, err);
	if (!rc)
		rc = fill_params(vmm) ? err_set(err, -ENOMEM, "out of memory") : 0;
	if (!rc)
		rc = machine_new(vmm->loop, &vmm->params, &vmm->machine, err);
	if (!rc)
		rc = attach_devices(vmm, err);
	return rc;
}

/* Devices are hung up on before the vCPUs are waited for: one that does not answer delays the end no more. */
static void tear_down(struct vmm *vmm)
{
	if (vmm->machine)
		machine_halt(vmm->machine);
	for (size_t i = 0; i < vmm->nr_devices; i++)
		user_device_free(vmm->devices[i]);
	free(vmm->devices);
	machine_free(vmm->machine);
	free(vmm->affinity);
	loop_free(vmm->loop);
}

/* A new terminal is of no use to somebody who does not know its name. */
static void announce(const struct vmm *vmm)
{
	const char *pty = vmm->machine->serial ? serial_pty_path(vmm->machine->serial) : NULL;

	if (pty)
		fprintf(stderr, "outboard: --serial pty: %s\n", pty);
}

static int run(struct vmm *vmm)
{
	struct err err = { 0 };
	int rc = build(vmm, &err), code = MACHINE_EXIT_FAILED;

	if (!rc)
		announce(vmm);
	if (!rc)
		rc = machine_start(vmm->machine, &err);
	if (!rc)
		rc = confine(vmm->config.seccomp, &err);
	if (rc) {
		fprintf(stderr, "outboard: %s\n", err.text);
	} else {
		vmm->running = true;
		machine_run(vmm->machine);
		code = loop_run(vmm->loop);
	}
	tear_down(vmm);
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
