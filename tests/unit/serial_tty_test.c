/* serial_tty_test.c - the 16550 on standard input and output, and a terminal that comes back from
 * there */
#include "serial_fixture.h"

#include <pty.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <utmp.h>

/* Give standard input and output other descriptors for the time of a test. */
static int saved_std[2] = { -1, -1 };

static void redirect(int in_fd, int out_fd)
{
	for (int i = 0; i < 2; i++) {
		saved_std[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
		assert_true(saved_std[i] >= 0);
	}
	fflush(stdout);
	assert_int_equal(dup2(in_fd, 0), 0);
	assert_int_equal(dup2(out_fd, 1), 1);
}

static void restore_std(void)
{
	serial_free(serial);
	serial = NULL;
	for (int i = 0; i < 2; i++) {
		dup2(saved_std[i], i);
		fd_close(&saved_std[i]);
	}
}

static void pipes_serve_as_standard_input_and_output(void **state)
{
	int to[2], from[2];

	assert_int_equal(pipe2(to, O_CLOEXEC) | pipe2(from, O_CLOEXEC), 0);
	redirect(to[0], from[1]);
	must_start(SERIAL_TTY, NULL);
	/* the pipe is shared with others: its mode is not changed */
	assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
	open_receiver();
	send_text("hi\n");
	expect_output(from[0], "hi\n");
	assert_int_equal(write(to[1], "a longer line than the FIFO\n", 28), 28);
	expect_input("a longer line than the FIFO\n");
	close(to[1]); /* end of input: output goes on */
	send_text("on\n");
	expect_output(from[0], "on\n");
	for (unsigned i = 0; i < 300000; i++) /* nobody reads: far more than pipe and ring */
		out(UART_TX, i % 64 ? 'x' : '\n');
	close(from[0]); /* and nobody will */
	send_text("more\n");
	restore_std();
	close(to[0]);
	close(from[1]);
}

static bool is_over(void *arg)
{
	return clock_now_ns() > *(uint64_t *)arg;
}

/* A full FIFO that the guest empties, and nothing more typed: the loop does not wait for that. */
static void input_that_just_fills_the_fifo_holds_up_nobody(void **state)
{
	uint64_t end;
	int to[2];
	FD_AUTO null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	assert_int_equal(pipe2(to, O_CLOEXEC), 0);
	redirect(to[0], null);
	must_start(SERIAL_TTY, NULL);
	open_receiver();
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(write(to[1], "just the FIFO's.", 16), 16);
		end = clock_now_ns() + 20 * NS_PER_MS;
		run_until(is_over, &end); /* it is full, and the host end waits for room */
		expect_input("just the FIFO's.");
		end = clock_now_ns() + 20 * NS_PER_MS;
		run_until(is_over, &end);
	}
	restore_std();
	close(to[0]);
	close(to[1]);
}

static void plain_file_serves_as_standard_input(void **state)
{
	FD_AUTO fd = open(path_of("input"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FD_AUTO null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	assert_int_equal(write(fd, "commands from a file\n", 21), 21);
	lseek(fd, 0, SEEK_SET);
	redirect(fd, null);
	must_start(SERIAL_TTY, NULL);
	open_receiver();
	expect_input("commands from a file\n");
	restore_std();
	unlink(path_of("input"));
}

static bool never(void *arg)
{
	return --*(unsigned *)arg == 0;
}

/* An ended input must not keep the loop busy. */
static void end_of_standard_input_costs_no_cpu_time(void **state)
{
	FD_AUTO null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct timespec before, after;
	unsigned looks = 400; /* of a quarter of a millisecond and more: a tenth of a second */

	redirect(null, null);
	must_start(SERIAL_TTY, NULL);
	open_receiver();
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	run_until(never, &looks);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	restore_std();
	/* a busy loop would take all of it */
	assert_true(
		(after.tv_sec - before.tv_sec) * 1e3 + (after.tv_nsec - before.tv_nsec) / 1e6 < 90);
}

/* A child on a terminal of its own: it starts the serial port, says so, and does as it is told. */
enum ending { END_FREE, END_KILL, END_ABORT, END_EXIT };

static void __attribute__((noreturn)) tty_child(enum ending ending)
{
	struct err err = { 0 };
	char go;

	if (loop_new(&loop) || io_bus_new(1, &bus))
		_exit(2);
	reader = io_bus_reader(bus, 0);
	if (start(SERIAL_TTY, NULL, &err) || write(1, "r", 1) != 1)
		_exit(3);
	while (read(0, &go, 1) < 0 && errno == EINTR)
		;
	signal(SIGABRT, SIG_DFL);
	if (ending == END_KILL)
		raise(SIGKILL);
	if (ending == END_ABORT)
		abort();
	if (ending == END_EXIT)
		_exit(4);
	serial_free(serial);
	_exit(0);
}

static bool same_mode(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag;
}

/* What stands for a shell: the session's leader, whose own end would hang the terminal up. */
static void __attribute__((noreturn)) session(enum ending ending, int slave, int told, int release)
{
	int status;
	pid_t pid;
	char byte;

	if (login_tty(slave))
		_exit(1);
	pid = fork();
	if (pid == 0)
		tty_child(ending);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		_exit(1);
	byte = WIFSIGNALED(status) ? 's' : 'e';
	if (write(told, &byte, 1) != 1)
		_exit(1);
	while (read(release, &byte, 1) < 0 && errno == EINTR)
		;
	_exit(0);
}

static void terminal_after(enum ending ending)
{
	struct termios before, now;
	uint64_t deadline = clock_now_ns() + DEADLINE_NS;
	FD_AUTO slave = -1;
	FD_AUTO master = -1;
	int told[2], release[2];
	char path[64], byte = 0;
	pid_t pid;

	assert_int_equal(openpty(&master, &slave, path, NULL, NULL), 0);
	assert_int_equal(pipe2(told, O_CLOEXEC) | pipe2(release, O_CLOEXEC), 0);
	assert_int_equal(tcgetattr(slave, &before), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(release[1]);
		session(ending, slave, told[1], release[0]);
	}
	assert_int_equal(read(master, &byte, 1), 1);
	assert_int_equal(byte, 'r');
	assert_int_equal(tcgetattr(slave, &now), 0);
	assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), 0);
	assert_int_equal(write(master, "g", 1), 1);
	assert_int_equal(read(told[0], &byte, 1), 1);
	assert_int_equal(byte, ending == END_KILL || ending == END_ABORT ? 's' : 'e');
	assert_int_equal(tcgetattr(slave, &now), 0);
	while (ending != END_FREE && !same_mode(&before, &now)) {
		struct timespec moment = { .tv_nsec = NS_PER_MS };

		assert_true(clock_now_ns() < deadline);
		nanosleep(&moment, NULL);
		assert_int_equal(tcgetattr(slave, &now), 0);
	}
	/* by serial_free() itself, before the process is gone; or by the child that stands by */
	assert_true(same_mode(&before, &now));
	close(release[0]);
	close(release[1]);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(told[0]);
	close(told[1]);
}

static void terminal_comes_back_at_the_end(void **state)
{
	terminal_after(END_FREE);
}

static void terminal_comes_back_after_a_crash(void **state)
{
	terminal_after(END_ABORT);
}

static void terminal_comes_back_after_a_kill(void **state)
{
	terminal_after(END_KILL);
}

static void terminal_comes_back_after_an_exit_without_notice(void **state)
{
	terminal_after(END_EXIT);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(pipes_serve_as_standard_input_and_output),
		TEST(input_that_just_fills_the_fifo_holds_up_nobody),
		TEST(plain_file_serves_as_standard_input),
		TEST(end_of_standard_input_costs_no_cpu_time),
		TEST(terminal_comes_back_at_the_end),
		TEST(terminal_comes_back_after_a_crash),
		TEST(terminal_comes_back_after_a_kill),
		TEST(terminal_comes_back_after_an_exit_without_notice),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
