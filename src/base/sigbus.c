/*
 * sigbus.c - one handler, one list of guarded mappings
 *
 * The handler runs on the thread that touched the lost page and needs the list. A spin lock
 * guards it: whoever holds the lock outside the handler touches no guarded memory, so the
 * thread in the handler never waits for itself.
 *
 * Owns: the process's SIGBUS action once the first area is guarded.
 */
#include "base/sigbus.h"

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include "base/fd.h"

static atomic_flag list_lock = ATOMIC_FLAG_INIT;
static struct sigbus_area *areas;
static struct sigaction before;

static void lock(void)
{
	while (atomic_flag_test_and_set_explicit(&list_lock, memory_order_acquire))
		__builtin_ia32_pause();
}

static void unlock(void)
{
	atomic_flag_clear_explicit(&list_lock, memory_order_release);
}

/* True when the address was guarded and its mapping is usable again. */
static bool patch(uintptr_t addr)
{
	bool done = false, first;

	lock();
	for (struct sigbus_area *a = areas; a && !done; a = a->next) {
		if (addr - a->start >= a->len)
			continue;
		/* Before it is gone, so that no other thread's copy ends in between unnoticed. */
		first = !atomic_exchange_explicit(&a->hit, true, memory_order_acq_rel);
		done = mmap((void *)a->start, a->len, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			       0) != MAP_FAILED;
		if (first && a->notify_fd >= 0)
			fd_signal(a->notify_fd);
	}
	unlock();
	return done;
}

static void on_sigbus(int signo, siginfo_t *info, void *context)
{
	int saved = errno;

	if (info->si_code > 0 && patch((uintptr_t)info->si_addr)) {
		errno = saved;
		return;
	}
	if (before.sa_flags & SA_SIGINFO) {
		before.sa_sigaction(signo, info, context);
	} else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
		before.sa_handler(signo);
	} else {
		/* The access runs again and ends the process the usual way. */
		signal(SIGBUS, SIG_DFL);
		if (info->si_code <= 0)
			raise(SIGBUS);
	}
	errno = saved;
}

/* Somebody else may have set a handler since: it becomes the one for what is not guarded. */
static int install(void)
{
	struct sigaction action = { .sa_sigaction = on_sigbus,
		.sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct sigaction now;
	int rc = 0;

	if (sigaction(SIGBUS, NULL, &now))
		return -errno;
	if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_sigbus)
		return 0;
	lock();
	before = now;
	if (sigaction(SIGBUS, &action, NULL))
		rc = -errno;
	unlock();
	return rc;
}

int sigbus_guard(struct sigbus_area *area, void *start, size_t len, int notify_fd)
{
	int rc = install();

	if (rc)
		return rc;
	area->start = (uintptr_t)start;
	area->len = len;
	area->notify_fd = notify_fd;
	atomic_store(&area->hit, false);
	lock();
	area->next = areas;
	area->link = &areas;
	if (areas)
		areas->link = &area->next;
	areas = area;
	unlock();
	return 0;
}

void sigbus_unguard(struct sigbus_area *area)
{
	if (!area->link)
		return;
	lock();
	*area->link = area->next;
	if (area->next)
		area->next->link = area->link;
	area->link = NULL;
	unlock();
}
