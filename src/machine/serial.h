/*
 * serial.h - COM1, a 16550A, and the host end of its wire
 *
 * The guest's side is eight ports at PORT_COM1 and a line. The host's side is one of:
 *   null    output vanishes, no input
 *   tty     standard input and output; a terminal is put into raw mode and put back on every
 *           way out, also when the process is killed: a small process stands by for that
 *   pty     a new pseudo-terminal, raw; with nobody there the latest output is kept
 *   file    output to a file, truncated; no input
 *   socket  a listening UNIX socket; one client at a time, others are closed; the next
 *           one gets what its predecessor left
 * "off" is no struct serial at all.
 *
 * Output is collected and leaves at a newline, at 128 bytes or after 1 ms.
 * An end that takes nothing more never holds up the guest: the last 64 KiB wait, what is older is
 * dropped and that is logged once. Input is read only as fast as the guest takes it.
 *
 * The program must ignore SIGPIPE.
 *
 * Threads: ports on vCPU threads, the host's side and all calls below on the loop thread,
 * with one lock between them that is never held across anything that waits.
 */
#ifndef MACHINE_SERIAL_H
#define MACHINE_SERIAL_H

#include <stdbool.h>

#include "base/err.h"
#include "base/loop.h"
#include "machine/io.h"

enum serial_mode { SERIAL_NULL, SERIAL_TTY, SERIAL_PTY, SERIAL_FILE, SERIAL_SOCKET };

struct serial_params {
	enum serial_mode mode;
	const char *path; /* borrowed; of FILE and SOCKET */
	/* Drive the line GSI_COM1. Any thread, with the serial port's lock held. */
	void (*set_irq)(void *arg, bool level);
	void *irq_arg;
};

struct serial;

/*
 * Open the host end and put the port on the bus. loop and bus are borrowed. Forks in mode
 * tty when standard input is a terminal: call it before threads exist. 0, gives *out; or
 * -errno with a text.
 */
int serial_new(struct loop *loop, struct io_bus *bus, const struct serial_params *p,
	struct serial **out, struct err *err);
/*
 * Writes output still held, waiting up to a second for a slow reader, and puts a terminal
 * back. vCPUs must stand. NULL is fine.
 */
void serial_free(struct serial *s);

/* The guest is reset: registers and FIFOs as after power-on; output held is written. */
void serial_reset(struct serial *s);

/* "/dev/pts/7" in mode pty, else NULL. Lives as long as s. */
const char *serial_pty_path(const struct serial *s);

#endif
