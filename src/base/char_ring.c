/*
 * char_ring.c - the last 64 KiB of output that nobody takes
 *
 * When it runs empty it begins in front again, so an end that is read at once touches its first
 * pages only.
 */
#include "base/char_ring.h"

#include <assert.h>
#include <string.h>

#include "base/util.h"

bool char_ring_add(struct char_ring *r, const void *bytes, size_t len)
{
	const uint8_t *from = bytes;
	size_t at, piece, room;
	bool first = false;

	if (len > CHAR_RING_SIZE - r->count) {
		first = !r->dropped;
		r->dropped = true;
	}
	if (len > CHAR_RING_SIZE) {
		from += len - CHAR_RING_SIZE;
		len = CHAR_RING_SIZE;
	}
	room = CHAR_RING_SIZE - r->count;
	if (len > room) {
		r->head = (r->head + len - room) % CHAR_RING_SIZE;
		r->count -= len - room;
	}
	at = (r->head + r->count) % CHAR_RING_SIZE;
	piece = MIN(len, CHAR_RING_SIZE - at);
	memcpy(r->bytes + at, from, piece);
	memcpy(r->bytes, from + piece, len - piece);
	r->count += len;
	return first;
}

struct iovec char_ring_piece(const struct char_ring *r)
{
	return (struct iovec){ r->bytes + r->head, MIN(r->count, CHAR_RING_SIZE - r->head) };
}

void char_ring_took(struct char_ring *r, size_t len)
{
	assert(len <= r->count);
	r->head = (r->head + len) % CHAR_RING_SIZE;
	r->count -= len;
	if (!r->count)
		char_ring_empty(r);
}

void char_ring_empty(struct char_ring *r)
{
	r->head = r->count = 0;
	r->dropped = false;
}
