/* spawner_test.c - the process that starts programs: starts, restarts, ends, and the end of the VMM */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/sock.h"
#include "base/util.h"
#include "control/spawner.h"

struct fixture {
	struct loop *loop;
	struct spawner *spawner;
	struct spawned child;
	uint32_t start;
	int status;
	int nr_ended, wanted;
	struct loop_timer guard;
};

static struct fixture f;

static void too_late(struct loop_timer *timer)
{
	loop_quit(f.loop, -1);
}

static void ended(struct spawned *child, uint32_t start, int status)
{
	f.start = start;
	f.status = status;
	if (++f.nr_ended == f.wanted)
		loop_quit(f.loop, 0);
}

static int setup(void **state)
{
	struct err err;

	memset(&f, 0, sizeof(f));
	f.child.ended = ended;
	f.wanted = 1;
	if (loop_new(&f.loop))
		return -1;
	loop_timer_set(f.loop, &f.guard, clock_now_ns() + 20 * NS_PER_S, too_late);
	return spawner_new(f.loop, &f.spawner, &err);
}

static int teardown(void **state)
{
	spawner_free(f.spawner);
	loop_free(f.loop);
	return 0;
}

static int start_shell(const char *script, const int *fds, unsigned nr)
{
	const char *argv[] = { "/bin/sh", "-c", script, NULL };

	return spawner_start(f.spawner, &f.child, argv, fds, nr);
}

/* A program that says so when it runs, and then waits for the end of its descriptor 3. */
static int start_waiting(int pair[2])
{
	char byte = 0;

	assert_int_equal(sock_pair(pair), 0);
	assert_int_equal(start_shell("echo >&3; read line <&3", &pair[1], 1), 0);
	fd_close(&pair[1]);
	assert_int_equal(read(pair[0], &byte, 1), 1);
	return byte;
}

static void a_program_runs_and_its_end_is_told(void **state)
{
	assert_int_equal(start_shell("exit 3", NULL, 0), 0);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.start, 1);
	assert_true(WIFEXITED(f.status));
	assert_int_equal(WEXITSTATUS(f.status), 3);
}

static void descriptors_are_in_their_places_and_no_others(void **state)
{
	int a[2], b[2];
	char text[16] = "";

	assert_int_equal(sock_pair(a), 0);
	assert_int_equal(sock_pair(b), 0);
	assert_int_equal(start_shell("echo 3 >&3; echo 4 >&4; [ ! -e /proc/self/fd/5 ]",
				 (int[]){ a[1], b[1] }, 2),
		0);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.status, 0);
	assert_int_equal(read(a[0], text, sizeof(text)), 2);
	assert_int_equal(text[0], '3');
	assert_int_equal(read(b[0], text, sizeof(text)), 2);
	assert_int_equal(text[0], '4');
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
}

static void a_program_that_is_not_there_ends_with_127(void **state)
{
	const char *argv[] = { "/nonexistent/program", NULL };

	assert_int_equal(spawner_start(f.spawner, &f.child, argv, NULL, 0), 0);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(WEXITSTATUS(f.status), 127);
}

static void starting_again_kills_the_one_before_first(void **state)
{
	int first[2], second[2];
	char byte;

	start_waiting(first);
	start_waiting(second); /* it runs, so ... */
	assert_int_equal(recv(first[0], &byte, 1, MSG_DONTWAIT), 0); /* ... the other is gone */
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.start, 1);
	assert_true(WIFSIGNALED(f.status));
	assert_int_equal(WTERMSIG(f.status), SIGKILL);
	close(first[0]);
	f.wanted = 2;
	close(second[0]);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.start, 2);
}

static void a_stopped_program_ends_untold(void **state)
{
	struct spawned other = { .ended = ended };
	const char *argv[] = { "/bin/sh", "-c", "exit 0", NULL };
	int pair[2];
	char byte;

	start_waiting(pair);
	spawner_stop(f.spawner, &f.child);
	assert_int_equal(read(pair[0], &byte, 1), 0);
	close(pair[0]);
	/* what comes next would come after it */
	assert_int_equal(spawner_start(f.spawner, &other, argv, NULL, 0), 0);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.nr_ended, 1);
	assert_int_equal(f.status, 0);
}

static void quit(void *arg)
{
	loop_quit(arg, 0);
}

/* Both one that lives and one that had ended by itself. */
static void the_end_of_all_that_were_stopped_is_told(void **state)
{
	struct spawned other = { .ended = ended };
	const char *argv[] = { "/bin/sh", "-c", "exit 0", NULL };
	int pair[2];
	char byte;

	start_waiting(pair);
	assert_int_equal(spawner_start(f.spawner, &other, argv, NULL, 0), 0);
	assert_int_equal(loop_run(f.loop), 0);
	assert_false(spawner_ending(f.spawner));
	spawner_stop(f.spawner, &other);
	spawner_stop(f.spawner, &f.child);
	assert_true(spawner_ending(f.spawner));
	spawner_when_ended(f.spawner, quit, f.loop);
	assert_int_equal(loop_run(f.loop), 0);
	assert_false(spawner_ending(f.spawner));
	assert_int_equal(recv(pair[0], &byte, 1, MSG_DONTWAIT), 0);
	close(pair[0]);
	assert_int_equal(f.nr_ended, 1);
}

/* A machine's disk takes its time over its end; the next machine has the same image. */
static void nothing_starts_while_a_stopped_program_lives(void **state)
{
	int first[2], second[2];
	char byte;

	assert_int_equal(sock_pair(first), 0);
	assert_int_equal(start_shell("trap '' TERM; echo >&3; read line <&3", &first[1], 1), 0);
	fd_close(&first[1]);
	assert_int_equal(read(first[0], &byte, 1), 1);
	spawner_stop(f.spawner, &f.child);
	start_waiting(second); /* it runs, so ... */
	assert_int_equal(recv(first[0], &byte, 1, MSG_DONTWAIT), 0); /* ... the other is gone */
	close(first[0]);
	close(second[0]);
	assert_int_equal(loop_run(f.loop), 0);
	assert_int_equal(f.start, 2);
	assert_int_equal(f.nr_ended, 1);
}

static void a_program_that_does_not_hear_is_killed_at_the_end(void **state)
{
	int pair[2];
	char byte = 0;

	assert_int_equal(sock_pair(pair), 0);
	assert_int_equal(start_shell("trap '' TERM; echo >&3; while :; do read line <&0 || wait; "
				     "kill -STOP $$; done",
				 &pair[1], 1),
		0);
	fd_close(&pair[1]);
	assert_int_equal(read(pair[0], &byte, 1), 1);
	spawner_free(f.spawner);
	f.spawner = NULL;
	assert_int_equal(read(pair[0], &byte, 1), 0);
	close(pair[0]);
}

/* A VMM that is killed: its programs end with it. */
static void nothing_is_left_of_a_vmm_that_was_killed(void **state)
{
	int pair[2], status;
	char byte;
	pid_t vmm;

	assert_int_equal(sock_pair(pair), 0);
	vmm = fork();
	if (!vmm) {
		struct spawner *own;
		struct err err;

		if (spawner_new(f.loop, &own, &err))
			_exit(1);
		f.spawner = own;
		if (start_shell("echo >&3; exec sleep 1000", &pair[1], 1))
			_exit(1);
		close(pair[1]);
		close(pair[0]);
		pause();
		_exit(0);
	}
	assert_true(vmm > 0);
	fd_close(&pair[1]);
	assert_int_equal(read(pair[0], &byte, 1), 1);
	kill(vmm, SIGKILL);
	assert_int_equal(waitpid(vmm, &status, 0), vmm);
	assert_int_equal(read(pair[0], &byte, 1), 0);
	close(pair[0]);
}

static void arguments_that_are_too_long_are_refused(void **state)
{
	static char text[SPAWN_MAX_TEXT];
	int fds[SPAWN_MAX_FDS + 1] = { 0 };

	memset(text, 'x', sizeof(text) - 1);
	assert_int_equal(start_shell(text, NULL, 0), -E2BIG);
	assert_int_equal(start_shell("exit 0", fds, ARRAY_SIZE(fds)), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_program_runs_and_its_end_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(
			descriptors_are_in_their_places_and_no_others, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_program_that_is_not_there_ends_with_127, setup, teardown),
		cmocka_unit_test_setup_teardown(
			starting_again_kills_the_one_before_first, setup, teardown),
		cmocka_unit_test_setup_teardown(a_stopped_program_ends_untold, setup, teardown),
		cmocka_unit_test_setup_teardown(
			the_end_of_all_that_were_stopped_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(
			nothing_starts_while_a_stopped_program_lives, setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_program_that_does_not_hear_is_killed_at_the_end, setup, teardown),
		cmocka_unit_test_setup_teardown(
			nothing_is_left_of_a_vmm_that_was_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(
			arguments_that_are_too_long_are_refused, setup, teardown),
	};

	log_init("spawner_test", LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
