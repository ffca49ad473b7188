#include "base/sigbus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

#define PAGE 4096u

/* A shared mapping of two pages whose file has none left. */
static volatile uint8_t *lost_mapping(void)
{
	FD_AUTO fd = memfd_create("lost", MFD_CLOEXEC);
	uint8_t *p;

	assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	p[0] = p[PAGE] = 7;
	assert_int_equal(ftruncate(fd, 0), 0);
	return p;
}

static void a_guarded_mapping_reads_as_zeros_and_says_so(void **state)
{
	volatile uint8_t *p = lost_mapping();
	struct sigbus_area area = { 0 };
	FD_AUTO notify = fd_eventfd();

	assert_int_equal(sigbus_guard(&area, (void *)p, 2 * PAGE, notify), 0);
	assert_false(sigbus_hit(&area));
	assert_int_equal(p[PAGE + 5], 0);
	assert_true(sigbus_hit(&area));
	assert_true(fd_clear(notify));
	/* All of it is usable now, and says nothing more. */
	p[0] = 9;
	assert_int_equal(p[0], 9);
	assert_false(fd_clear(notify));
	sigbus_unguard(&area);
	munmap((void *)p, 2 * PAGE);
}

static void a_write_is_survived_too(void **state)
{
	volatile uint8_t *p = lost_mapping();
	struct sigbus_area area = { 0 };

	assert_int_equal(sigbus_guard(&area, (void *)p, 2 * PAGE, -1), 0);
	p[2 * PAGE - 1] = 1;
	assert_true(sigbus_hit(&area));
	sigbus_unguard(&area);
	munmap((void *)p, 2 * PAGE);
}

static void only_the_area_that_was_hit_says_so(void **state)
{
	volatile uint8_t *p[3];
	struct sigbus_area areas[3] = { 0 };

	for (int i = 0; i < 3; i++) {
		p[i] = lost_mapping();
		assert_int_equal(sigbus_guard(&areas[i], (void *)p[i], 2 * PAGE, -1), 0);
	}
	assert_int_equal(p[1][0], 0);
	assert_false(sigbus_hit(&areas[0]));
	assert_true(sigbus_hit(&areas[1]));
	assert_false(sigbus_hit(&areas[2]));
	for (int i = 0; i < 3; i++) {
		sigbus_unguard(&areas[i]);
		sigbus_unguard(&areas[i]); /* once more does nothing */
		munmap((void *)p[i], 2 * PAGE);
	}
}

static void *touch(void *arg)
{
	return (void *)(uintptr_t) * (volatile uint8_t *)arg;
}

static void any_thread_may_be_the_one(void **state)
{
	volatile uint8_t *p = lost_mapping();
	struct sigbus_area area = { 0 };
	pthread_t threads[4];

	assert_int_equal(sigbus_guard(&area, (void *)p, 2 * PAGE, -1), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, touch, (void *)(p + i)), 0);
	for (int i = 0; i < 4; i++) {
		void *value;

		pthread_join(threads[i], &value);
		assert_null(value);
	}
	assert_true(sigbus_hit(&area));
	sigbus_unguard(&area);
	munmap((void *)p, 2 * PAGE);
}

/* A fault of our own is not covered up. */
static void an_unguarded_one_still_ends_the_process(void **state)
{
	volatile uint8_t *p = lost_mapping();
	struct sigbus_area area = { 0 };
	int status;
	pid_t pid;

	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		signal(SIGBUS, SIG_DFL); /* not the test framework's */
		if (sigbus_guard(&area, (void *)p, 2 * PAGE, -1))
			_exit(0);
		sigbus_unguard(&area);
		_exit(p[0]);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	munmap((void *)p, 2 * PAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guarded_mapping_reads_as_zeros_and_says_so),
		cmocka_unit_test(a_write_is_survived_too),
		cmocka_unit_test(only_the_area_that_was_hit_says_so),
		cmocka_unit_test(any_thread_may_be_the_one),
		cmocka_unit_test(an_unguarded_one_still_ends_the_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
