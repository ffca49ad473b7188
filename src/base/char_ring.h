/*
 * char_ring.h - output that nobody takes just now: the last of it is kept
 *
 * Errors: none. Any thread, one at a time.
 */
#ifndef BASE_CHAR_RING_H
#define BASE_CHAR_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define CHAR_RING_SIZE (64u * 1024)

struct char_ring {
	uint8_t *bytes; /* CHAR_RING_SIZE, the owner's; NULL while nothing was added */
	size_t head;	/* the oldest byte */
	size_t count;
	bool dropped; /* something was, since it was empty */
};

/*
 * Put bytes behind the others; what no longer fits takes the place of the oldest. True: bytes are
 * lost, for the first time since it was empty.
 */
bool char_ring_add(struct char_ring *r, const void *bytes, size_t len);
/* The oldest bytes, as many as lie in one piece. Borrowed until the next call. */
struct iovec char_ring_piece(const struct char_ring *r);
/* len of them are gone. */
void char_ring_took(struct char_ring *r, size_t len);
/* All of them are. */
void char_ring_empty(struct char_ring *r);

#endif
