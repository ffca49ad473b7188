/* sandbox_test.c - a device program that has been taken over tries to get out, under each model's own lists */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sandbox.h"
#include "base/util.h"
#include "device/model.h"
#include "serve/vhost_user.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = true };
#else
enum { SANITIZED = false };
#endif

enum { CONFINED = 42, NOT_CONFINED = 1, OUT = 2 };
#define MAX_CALLS 96

/* What somebody would try. Each gives 0 or more when it worked. */
static long try_read(void)
{
	return open("/etc/passwd", O_RDONLY);
}

static long try_write(void)
{
	return open("/tmp/outboard-sandbox-test", O_WRONLY | O_CREAT, 0600);
}

static long try_exec(void)
{
	return execl("/bin/true", "true", (char *)NULL);
}

static long try_inet(void)
{
	return socket(AF_INET, SOCK_STREAM, 0);
}

static long try_unix(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static long try_ptrace(void)
{
	return ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}

static long try_kill(void)
{
	return syscall(SYS_tgkill, getppid(), getppid(), SIGCONT);
}

static long try_namespace(void)
{
	return unshare(CLONE_NEWUSER);
}

static long try_mount(void)
{
	return mount("none", "/mnt", "tmpfs", 0, NULL);
}

static long try_memory_of_another(void)
{
	return open("/proc/1/mem", O_RDWR);
}

static long try_module(void)
{
	return syscall(SYS_finit_module, 0, "", 0);
}

static long try_setuid(void)
{
	return syscall(SYS_setuid, 0) ? -1 : geteuid() ? -1 : syscall(SYS_setgid, 0);
}

static const struct attempt {
	const char *name;
	long (*try)(void);
} attempts[] = {
	{ "reading a file", try_read },
	{ "making a file", try_write },
	{ "starting a program", try_exec },
	{ "an internet socket", try_inet },
	{ "a UNIX socket", try_unix },
	{ "ptrace", try_ptrace },
	{ "a signal to another", try_kill },
	{ "a namespace", try_namespace },
	{ "a mount", try_mount },
	{ "the memory of another", try_memory_of_another },
	{ "a kernel module", try_module },
	{ "another user", try_setuid },
};

/* The steps of outboard-device, with what it and the model ask for. */
static int confine(const struct device_model *m, enum sandbox_mode mode)
{
	static const struct sandbox_call own[] = {
		{ SYS_socketpair, "a twin socket" }, { SYS_getsockopt, "what --fd is" },
		{ SYS_openat, "a state file" },	     { SYS_renameat, "likewise" },
		{ SYS_unlinkat, "likewise" },	     { SYS_unlink, "the socket" },
	};
	struct sandbox_call all[MAX_CALLS];
	struct err err;
	size_t nr = 0;

	if (ARRAY_SIZE(own) + m->nr_calls + VHOST_USER_PORT_NR_CALLS > MAX_CALLS)
		return -E2BIG;
	for (size_t i = 0; i < ARRAY_SIZE(own); i++)
		all[nr++] = own[i];
	for (size_t i = 0; i < m->nr_calls; i++)
		all[nr++] = m->calls[i];
	for (size_t i = 0; i < VHOST_USER_PORT_NR_CALLS; i++)
		all[nr++] = vhost_user_port_calls[i];
	if (sandbox_privileges(0, &err) || sandbox_files(NULL, 0, &err))
		return -EPERM;
	return sandbox_calls(all, nr, mode, &err);
}

/* The exit status of a child that confines itself and tries; 128 + signal if it was killed. */
static int outcome(const struct device_model *m, const struct attempt *a, enum sandbox_mode mode)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		if (confine(m, mode))
			_exit(NOT_CONFINED);
		_exit(a->try() < 0 ? CONFINED : OUT);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void no_model_lets_anybody_out(void **state)
{
	size_t nr;
	const struct device_model *const *models = device_models(&nr);

	for (size_t m = 0; m < nr; m++)
		for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
			int got = outcome(models[m], &attempts[i], SANDBOX_ERRNO);

			if (got != CONFINED)
				fail_msg("%s: %s: status %d", models[m]->name, attempts[i].name,
					got);
		}
}

/* As it runs: a call that is in no list is the end. What the lists allow, Landlock and lost rights refuse. */
static void the_filter_ends_who_tries(void **state)
{
	size_t nr;
	const struct device_model *const *models = device_models(&nr);

	for (size_t m = 0; m < nr; m++)
		for (size_t i = 0; i < ARRAY_SIZE(attempts); i++) {
			int got = outcome(models[m], &attempts[i], SANDBOX_KILL);

			if (got != CONFINED && got != 128 + SIGSYS)
				fail_msg("%s: %s: status %d", models[m]->name, attempts[i].name,
					got);
		}
}

/* Without it files are not kept from a program of root's. */
static bool has_landlock(void)
{
	return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) > 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_model_lets_anybody_out),
		cmocka_unit_test(the_filter_ends_who_tries),
	};

	if (SANITIZED) {
		printf("1..0 # SKIP programs built with a sanitizer are not confined\n");
		return 0;
	}
	if (!has_landlock()) {
		printf("1..0 # SKIP this kernel has no Landlock\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
