/*
 * confine.c - the lists of system calls, each with its reason
 *
 * With a machine from the command line and nothing else to come, the filter is put on between the
 * end of its building and the guest's first instruction. Where clients may ask for machines, it is
 * put on before the first request is read, and lets through what building one takes too.
 */
#include "control/confine.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/sandbox.h"
#include "base/util.h"
#include "control/config.h"

/* What the VMM does once the guest runs, beyond what the base does. */
static const struct sandbox_call run_calls[] = {
	{ SYS_ioctl, "KVM; terminals" },
	{ SYS_pread64, "images, read again at a guest reset; registers of host devices" },
	{ SYS_pwrite64, "large images go straight into guest memory's file; registers of host devices" },
	{ SYS_socket, "a device process that went away is connected to again" },
	{ SYS_connect, "likewise" },
	{ SYS_shutdown, "and hung up on" },
	{ SYS_socketpair, "what a vhost-user device asks of us comes by a socket of its own" },
	{ SYS_getsockopt, "what kind of socket a descriptor is" },
	{ SYS_sendto, "the serial port's socket" },
	{ SYS_recvfrom, "what the spawner says of device processes" },
	{ SYS_process_vm_readv, "whether a device's shared memory still has its file" },
	{ SYS_prctl, "a vCPU's thread gets its name" },
	{ SYS_sched_setaffinity, "and its processors" },
	{ SYS_clone, "a thread that gives a device back, or closes what a peer passed" },
	{ SYS_clone3, "likewise" },
	{ SYS_set_robust_list, "a thread begins" },
	{ SYS_rseq, "likewise" },
	{ SYS_tkill, "vCPUs are kicked, by older C libraries" },
	{ SYS_unlink, "the serial port's socket, at the end" },
	{ SYS_kill, "the process that looks after the terminal, at the end" },
	{ SYS_wait4, "likewise" },
	{ SYS_memfd_create, "guest memory; inflight areas of devices that our guest serves for another machine" },
	{ SYS_ftruncate, "its size" },
};

/* And what it takes to build one, from a client's request to its first instruction. */
static const struct sandbox_call boot_calls[] = {
	{ SYS_openat, "/dev/kvm, /dev/vfio, images, terminals, what sysfs says" },
	{ SYS_lseek, "images" },
	{ SYS_readlink, "where this program lies: device programs lie beside it" },
	{ SYS_bind, "the serial port's socket" },
	{ SYS_listen, "likewise" },
	{ SYS_pipe2, "the process that looks after the terminal" },
	{ SYS_dup2, "likewise" },
	{ SYS_setsid, "likewise" },
	{ SYS_close_range, "likewise" },
	{ SYS_sysinfo, "how much memory there is" },
	{ SYS_getdents64, "the devices of an IOMMU group" },
	{ SYS_capget, "how much of it may be locked for host devices" },
	{ SYS_prlimit64, "likewise" },
};

static int filter(enum confine_what what, enum sandbox_mode mode, struct err *err)
{
	struct sandbox_call all[ARRAY_SIZE(run_calls) + ARRAY_SIZE(boot_calls)];
	size_t nr = ARRAY_SIZE(run_calls);

	memcpy(all, run_calls, sizeof(run_calls));
	if (what == CONFINE_BOOT) {
		memcpy(all + nr, boot_calls, sizeof(boot_calls));
		nr += ARRAY_SIZE(boot_calls);
	}
	return sandbox_calls(all, nr, mode, err);
}

int confine(enum confine_what what, uint32_t mode, struct err *err)
{
	static const enum sandbox_mode modes[] = {
		[SECCOMP_OFF] = SANDBOX_OFF,
		[SECCOMP_KILL] = SANDBOX_KILL,
		[SECCOMP_LOG] = SANDBOX_LOG,
		[SECCOMP_ERRNO] = SANDBOX_ERRNO,
	};

	if (mode == SECCOMP_OFF)
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_set(err, -errno, "no_new_privs: %s", strerror(errno));
	return filter(what, modes[mode], err);
}
