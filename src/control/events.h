/*
 * events.h - --event-monitor: what happens to the machine, told as JSON objects
 *
 *   {"timestamp":{"secs":0,"nanos":4217000},"source":"vm","event":"booted","properties":null}
 *
 * The time is since the program's start. An object a line. What the reader does not take at once is
 * kept, up to EVENTS_ROOM bytes; then events are lost, and the log says so once.
 *
 * Threads: loop thread.
 */
#ifndef CONTROL_EVENTS_H
#define CONTROL_EVENTS_H

#include "base/err.h"
#include "base/loop.h"
#include "control/config.h"

#define EVENTS_ROOM 65536u

struct events;

/*
 * Open what the user named. A FIFO need not have its reader yet: what is told meanwhile waits in
 * it. A file is appended to, and made. An inherited descriptor becomes ours. Gives *out. 0 or
 * -errno with a text.
 */
int events_new(struct loop *loop, const struct endpoint_config *where, struct events **out,
	struct err *err);
/* NULL is fine. */
void events_free(struct events *e);

/* source: "vm" or "vmm". Nothing happens with e NULL. */
void events_tell(struct events *e, const char *source, const char *event);

#endif
