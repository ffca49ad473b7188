/*
 * kick.c - the timer that breaks off a write to a full eventfd
 *
 * One POSIX timer per thread that ever kicked, given back when the thread ends. A timer
 * that fires between two kicks only notes that it is not armed any more. One that fires while a
 * write is under way arms itself again, because it may have come just before the write
 * began to wait; the next one then hits it.
 */
#include "base/kick.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define GRACE_NS 20000000L

/* SIGRTMIN itself kicks vCPUs out of the guest. */
static int kick_signal(void)
{
	return SIGRTMIN + 1;
}

static _Thread_local struct {
	timer_t timer;
	bool made;
	volatile sig_atomic_t armed, writing;
} own;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int install_rc;

static void arm(void)
{
	struct itimerspec t = { .it_value.tv_nsec = GRACE_NS };

	own.armed = 1;
	timer_settime(own.timer, 0, &t, NULL);
}

static void on_timer(int signo)
{
	int saved = errno;

	own.armed = 0;
	if (own.writing)
		arm();
	errno = saved;
}

static void thread_ends(void *arg)
{
	if (own.made)
		timer_delete(own.timer);
	own.made = false;
}

static void install(void)
{
	/* No SA_RESTART: the point is that write() comes back. */
	struct sigaction action = { .sa_handler = on_timer };

	install_rc = -pthread_key_create(&key, thread_ends);
	if (!install_rc && sigaction(kick_signal(), &action, NULL))
		install_rc = -errno;
}

static int make_timer(void)
{
	struct sigevent ev = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = kick_signal(),
	};
	sigset_t set;

	pthread_once(&once, install);
	if (install_rc)
		return install_rc;
	sigemptyset(&set);
	sigaddset(&set, kick_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	ev.sigev_notify_thread_id = gettid();
	if (timer_create(CLOCK_MONOTONIC, &ev, &own.timer))
		return -errno;
	own.made = true;
	return -pthread_setspecific(key, &own);
}

int kick(int eventfd)
{
	uint64_t one = 1;
	int rc = own.made ? 0 : make_timer();

	if (rc)
		return rc;
	own.writing = 1;
	atomic_signal_fence(memory_order_seq_cst);
	if (!own.armed)
		arm();
	rc = write(eventfd, &one, sizeof(one)) == (ssize_t)sizeof(one) ? 0 : -errno;
	atomic_signal_fence(memory_order_seq_cst);
	own.writing = 0;
	/* Only a write that waits is interrupted, and only a full counter makes it wait. */
	if (rc == -EINTR)
		return -ETIMEDOUT;
	return rc == -EAGAIN ? 0 : rc;
}
