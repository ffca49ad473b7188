/*
 * hint.h - "did you mean ...?": the known name that is nearest to what was typed
 *
 *   struct hint hint = HINT_NONE;
 *   for each known name: hint_offer(&hint, typed, name);
 *   if (hint.name) ...
 */
#ifndef CONTROL_HINT_H
#define CONTROL_HINT_H

#include <stddef.h>
#include <stdint.h>

struct hint {
	const char *name; /* borrowed; NULL: none is near enough to be meant */
	size_t distance;
};

#define HINT_NONE ((struct hint){ NULL, SIZE_MAX })

/* Keep candidate if it is nearer than what was offered before. Any thread. */
void hint_offer(struct hint *best, const char *typed, const char *candidate);

#endif
