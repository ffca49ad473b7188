/*
 * err.h - the text that goes with a refused request
 *
 * A request of a user (an option, an image, a device to attach) that cannot be
 * met fails with -errno and one line of text that says what was asked, where it
 * failed and what was expected. The line travels up in a struct err and is
 * printed by main() or answered to an API client. What goes wrong later and
 * unasked is logged instead (log.h).
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

struct err {
	char text[512];
};

/*
 * An empty one, for where every message passes: `struct err err = { 0 }` would clear all the room
 * for a text that hardly ever comes.
 */
static inline void err_clear(struct err *err)
{
	err->text[0] = 0;
}

/*
 * Write the line and return rc (a negative errno), so that a caller can say
 * `return err_set(err, -EINVAL, "...")`. err may be NULL. The first text wins: it
 * comes from the deepest place, which knows most.
 */
int err_set(struct err *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put "prefix: " before the text, for callers that know whom it concerns. Returns rc. */
int err_prefix(struct err *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
