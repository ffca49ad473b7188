/*
 * serial_host.h - where the wire of the serial port ends on the host
 *
 * Bytes from the guest go into a ring and leave in larger pieces; bytes for the
 * guest are read when it has room. The lock is the serial port's: functions marked
 * [locked] are called with it held, from any thread; the two callbacks are, too, on the loop
 * thread. Everything else runs on the loop thread.
 */
#ifndef MACHINE_SERIAL_HOST_H
#define MACHINE_SERIAL_HOST_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "machine/serial.h"

struct serial_host;

struct serial_host_guest {
	/* [locked] How many bytes the guest takes now; 0: serial_host_resume() will be called. */
	size_t (*room)(void *arg);
	/* [locked] size is at most what room() said. */
	void (*input)(void *arg, const uint8_t *bytes, size_t size);
	void *arg;
};

/* Borrows loop, lock and what guest points at. path: see serial.h. 0 or -errno with a text. */
int serial_host_new(struct loop *loop, enum serial_mode mode, const char *path,
	pthread_mutex_t *lock, const struct serial_host_guest *guest, struct serial_host **out,
	struct err *err);
/* Writes what is left, waiting up to a second for a slow reader. NULL is fine. */
void serial_host_free(struct serial_host *h);

/* [locked] A byte from the guest. */
void serial_host_put(struct serial_host *h, uint8_t byte);
/* [locked] Write what can be written without waiting. */
void serial_host_flush(struct serial_host *h);
/* [locked] The guest has room again. Costs nothing when it always had. */
void serial_host_resume(struct serial_host *h);

/* NULL when it is none. */
const char *serial_host_pty_path(const struct serial_host *h);

#endif
