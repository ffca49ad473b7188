/*
 * sandbox.c - no_new_privs, capset, Landlock and seccomp by their raw system calls
 *
 * The filter is made here rather than by a library: it is a list of numbers, and
 * the library would take longer to start than the whole program.
 */
#include "base/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
	__has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Capabilities */

int sandbox_privileges(uint64_t keep, struct err *err)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_set(err, -errno, "no_new_privs: %s", strerror(errno));
	if (syscall(SYS_capget, &head, data))
		return err_set(err, -errno, "capget: %s", strerror(errno));
	for (int i = 0; i < 2; i++) {
		uint32_t mask = (uint32_t)(keep >> (32 * i));

		data[i].permitted &= mask;
		data[i].effective &= mask;
		data[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &head, data))
		return err_set(err, -errno, "capset: %s", strerror(errno));
	return 0;
}

/* Landlock; numbers of the kernel's interface: the system's header has only the first of them */

#define SYS_LANDLOCK_CREATE_RULESET 444
#define SYS_LANDLOCK_ADD_RULE	    445
#define SYS_LANDLOCK_RESTRICT_SELF  446
#define LANDLOCK_VERSION_FLAG	    (1u << 0)
#define LANDLOCK_PATH_BENEATH	    1

#define FS_EXECUTE     (1ull << 0)
#define FS_WRITE_FILE  (1ull << 1)
#define FS_READ_FILE   (1ull << 2)
#define FS_READ_DIR    (1ull << 3)
#define FS_REMOVE_FILE (1ull << 5)
#define FS_MAKE_REG    (1ull << 8)
#define FS_FIRST_ABI   ((1ull << 13) - 1) /* all up to MAKE_SYM */
#define FS_REFER       (1ull << 13)	  /* from ABI 2 on */
#define FS_TRUNCATE    (1ull << 14)	  /* from ABI 3 on */
#define FS_IOCTL_DEV   (1ull << 15)	  /* from ABI 5 on */
#define NET_TCP	       3ull		  /* bind and connect, from ABI 4 on */
#define SCOPE_ALL      3ull		  /* abstract sockets and signals, from ABI 6 on */

struct ruleset {
	uint64_t fs, net, scope;
};

struct path_beneath {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));

static struct ruleset handled(long abi)
{
	return (struct ruleset){
		.fs = FS_FIRST_ABI | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) |
			(abi >= 5 ? FS_IOCTL_DEV : 0),
		.net = abi >= 4 ? NET_TCP : 0,
		.scope = abi >= 6 ? SCOPE_ALL : 0,
	};
}

static size_t ruleset_size(long abi)
{
	return abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
}

static int add_dir(int rules, const struct ruleset *all, const struct sandbox_dir *dir,
	struct err *err)
{
	struct path_beneath rule = { .parent_fd = dir->fd };

	if (dir->allow & SANDBOX_REPLACE)
		rule.allowed |= FS_WRITE_FILE | FS_MAKE_REG | FS_REMOVE_FILE | FS_TRUNCATE;
	if (dir->allow & SANDBOX_REMOVE)
		rule.allowed |= FS_REMOVE_FILE;
	if (dir->allow & SANDBOX_READ)
		rule.allowed |= FS_READ_FILE | FS_READ_DIR;
	rule.allowed &= all->fs;
	if (syscall(SYS_LANDLOCK_ADD_RULE, rules, LANDLOCK_PATH_BENEATH, &rule, 0))
		return err_set(err, -errno, "Landlock rule: %s", strerror(errno));
	return 0;
}

int sandbox_files(const struct sandbox_dir *dirs, size_t nr, struct err *err)
{
	long abi = syscall(SYS_LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_VERSION_FLAG);
	struct ruleset all = handled(abi);
	FD_AUTO rules = -1;

	if (SANITIZED)
		return 0;
	if (abi < 1) {
		log_debug("sandbox: this kernel has no Landlock: %s", strerror(errno));
		return 0;
	}
	for (size_t i = 0; i < nr; i++)
		if (dirs[i].allow & SANDBOX_TCP)
			all.net = 0;
	rules = (int)syscall(SYS_LANDLOCK_CREATE_RULESET, &all, ruleset_size(abi), 0);
	if (rules < 0)
		return err_set(err, -errno, "Landlock ruleset: %s", strerror(errno));
	for (size_t i = 0; i < nr; i++) {
		int rc = dirs[i].fd < 0 ? 0 : add_dir(rules, &all, &dirs[i], err);

		if (rc)
			return rc;
	}
	if (syscall(SYS_LANDLOCK_RESTRICT_SELF, rules, 0))
		return err_set(err, -errno, "Landlock: %s", strerror(errno));
	return 0;
}

/* Seccomp */

static const struct sandbox_call base_calls[] = {
	{ SYS_read, "timers, signals" },
	{ SYS_preadv2, "eventfds, without waiting" },
	{ SYS_write, "eventfds, the log" },
	{ SYS_writev, "what a terminal shows" },
	{ SYS_close, "every descriptor" },
	{ SYS_recvmsg, "messages and descriptors of a peer" },
	{ SYS_sendmsg, "our own" },
	{ SYS_setsockopt, "how long to wait for what a peer sends" },
	{ SYS_accept4, "peers arrive" },
	{ SYS_poll, "is a peer still there, can it be written to" },
	{ SYS_ppoll, "likewise, as newer C libraries call it" },
	{ SYS_epoll_wait, "the event loop" },
	{ SYS_epoll_pwait, "likewise, as newer C libraries call it" },
	{ SYS_epoll_ctl, "the event loop" },
	{ SYS_timerfd_settime, "the event loop's timers" },
	{ SYS_eventfd2, "wake-ups" },
	{ SYS_timer_create, "the timer that breaks off a kick" },
	{ SYS_timer_settime, "likewise" },
	{ SYS_timer_delete, "likewise" },
	{ SYS_rt_sigaction, "the handlers of kicks and of SIGBUS" },
	{ SYS_rt_sigprocmask, "threads start with signals blocked" },
	{ SYS_rt_sigreturn, "the way out of a handler" },
	{ SYS_restart_syscall, "a call goes on after a stop" },
	{ SYS_futex, "locks" },
	{ SYS_gettid, "the timer of a thread" },
	{ SYS_getpid, "log lines, assertions" },
	{ SYS_tgkill, "abort() after a failed assertion" },
	{ SYS_sched_getaffinity, "is there a processor to spin on" },
	{ SYS_clock_gettime, "where the clock needs a system call" },
	{ SYS_brk, "malloc" },
	{ SYS_mmap, "malloc, guest memory" },
	{ SYS_munmap, "likewise" },
	{ SYS_mremap, "likewise" },
	{ SYS_madvise, "likewise" },
	{ SYS_mprotect, "malloc in threads" },
	{ SYS_getrandom, "malloc" },
	{ SYS_fcntl, "what kind of descriptor a peer sent" },
	{ SYS_statx, "likewise" },
	{ SYS_readlinkat, "likewise" },
	{ SYS_newfstatat, "stdio, fstat" },
	{ SYS_fstat, "likewise" },
	{ SYS_exit, "a thread ends" },
	{ SYS_exit_group, "the program ends" },
};

/* Architecture, then the number; two instructions a call. */
#define HEAD_LEN 4u
#define TAIL_LEN 1u
#define MAX_LEN	 1024u

static struct sock_filter *put_calls(struct sock_filter *at, const struct sandbox_call *calls,
	size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		*at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
			(uint32_t)calls[i].nr, 0, 1);
		*at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	return at;
}

/*
 * The refused call has not been made. Say which it was, which a plain kill would not, and end.
 * Only calls that the list allows, and nothing that takes a lock.
 */
static void on_refused(int signo, siginfo_t *info, void *context)
{
	static const char digits[] = "0123456789";
	char text[] = "sandbox: system call     is not one that this program makes: ended\n";
	char *at = text + sizeof("sandbox: system call ") + 1;

	for (int nr = info->si_syscall; nr > 0 && at >= text + sizeof("sandbox: system call ") - 1;
		nr /= 10)
		*at-- = digits[nr % 10];
	if (write(log_fd(), text, sizeof(text) - 1) < 0)
		_exit(128 + SIGSYS);
	_exit(128 + SIGSYS);
}

static int install(const struct sock_fprog *prog, struct err *err)
{
	struct sigaction action = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO };

	if (sigaction(SIGSYS, &action, NULL))
		return err_set(err, -errno, "SIGSYS: %s", strerror(errno));
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, prog))
		return err_set(err, -errno, "seccomp: %s", strerror(errno));
	return 0;
}

int sandbox_calls(const struct sandbox_call *calls, size_t nr, enum sandbox_mode mode,
	struct err *err)
{
	static const uint32_t refusals[] = {
		[SANDBOX_LOG] = SECCOMP_RET_LOG,
		[SANDBOX_KILL] = SECCOMP_RET_TRAP,
		[SANDBOX_ERRNO] = SECCOMP_RET_ERRNO | EPERM,
	};
	size_t len = HEAD_LEN + 2 * (ARRAY_SIZE(base_calls) + nr) + TAIL_LEN;
	FREE_AUTO struct sock_filter *filter = NULL;
	struct sock_filter *at;
	struct sock_fprog prog;

	if (mode == SANDBOX_OFF || SANITIZED)
		return 0;
	if (len > MAX_LEN)
		return err_set(err, -E2BIG, "seccomp: %zu calls are too many", nr);
	at = filter = calloc(len, sizeof(*filter));
	if (!filter)
		return err_set(err, -ENOMEM, "seccomp: out of memory");
	*at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
		offsetof(struct seccomp_data, arch));
	*at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	*at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	*at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
		offsetof(struct seccomp_data, nr));
	at = put_calls(at, base_calls, ARRAY_SIZE(base_calls));
	at = put_calls(at, calls, nr);
	*at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, refusals[mode]);
	prog = (struct sock_fprog){ .len = (unsigned short)(at - filter), .filter = filter };
	return install(&prog, err);
}

int sandbox_parse_mode(const char *text, enum sandbox_mode *mode, struct err *err)
{
	if (!strcmp(text, "true"))
		*mode = SANDBOX_KILL;
	else if (!strcmp(text, "false"))
		*mode = SANDBOX_OFF;
	else if (!strcmp(text, "log"))
		*mode = SANDBOX_LOG;
	else if (!strcmp(text, "errno"))
		*mode = SANDBOX_ERRNO;
	else
		return err_set(err, -EINVAL, "'%.32s', expected true, false, log or errno", text);
	return 0;
}
