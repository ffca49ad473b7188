/* hint.c - how far two names are from each other (see hint.h) */
#include "control/hint.h"

#include <string.h>

#include "base/util.h"

#define HINT_MAX 32 /* the longest name that hints are made for */

/*
 * How many edits turn a into b, where an edit adds, drops or replaces a character or swaps two
 * neighbours. Rows are the usual ones of dynamic programming; two back is kept for the swaps.
 */
static size_t edits(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), rows[3][HINT_MAX + 1];

	if (la > HINT_MAX || lb > HINT_MAX)
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t *row = rows[i % 3], *last = rows[(i + 2) % 3], *older = rows[(i + 1) % 3];

		row[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			row[j] = MIN(last[j], row[j - 1]) + 1;
			row[j] = MIN(row[j], last[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = MIN(row[j], older[j - 2] + 1);
		}
	}
	return rows[la % 3][lb];
}

void hint_offer(struct hint *best, const char *typed, const char *candidate)
{
	size_t len = strlen(typed), distance = edits(typed, candidate);

	if (len > 2 && !strncmp(typed, candidate, len))
		distance = 1; /* cut short */
	if (distance > len / 3 || distance >= best->distance)
		return;
	*best = (struct hint){ candidate, distance };
}
