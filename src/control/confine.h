/*
 * confine.h - the VMM gives up the system calls that it does not need
 *
 * Threads: any; the filter holds for all of the process, those to come included.
 */
#ifndef CONTROL_CONFINE_H
#define CONTROL_CONFINE_H

#include <stdint.h>

#include "base/err.h"

enum confine_what {
	CONFINE_RUN,  /* a machine that stands complete is all there will ever be */
	CONFINE_BOOT, /* machines will be built, run and freed on request */
};

/* mode: enum seccomp_mode. 0 or -errno with a text. */
int confine(enum confine_what what, uint32_t mode, struct err *err);

#endif
