/*
 * tty.h - the terminal on standard input, in raw mode for a while
 *
 * The mode comes back on every way out, also when this process is killed: a small
 * child stands by for that.
 */
#ifndef BASE_TTY_H
#define BASE_TTY_H

#include <stdbool.h>
#include <sys/types.h>
#include <termios.h>

#include "base/err.h"

/* Zeroed: not in raw mode. */
struct tty {
	bool raw;
	struct termios saved;
	pid_t keeper;	 /* 0: none */
	int keeper_pipe; /* valid with a keeper: this process's end */
};

/* A job in the background may neither read the terminal nor change its mode. */
bool tty_in_background(void);

/*
 * Put standard input, which is a terminal, into raw mode. Forks, so call it before threads
 * exist. 0, or -errno with a text; then too, tty_restore() is called for what was done.
 */
int tty_raw(struct tty *tty, struct err *err);

/* Put the mode back as it was and end the child. Not in raw mode: nothing happens. */
void tty_restore(struct tty *tty);

/* Every byte as it is, at once, and none of them a signal. */
void tty_raw_mode(struct termios *t);

#endif
