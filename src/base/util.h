/* util.h - the few helpers that every file may lean on */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))
#define KIB           1024ull
#define MIB           (1024ull * KIB)
#define GIB           (1024ull * MIB)
#define PAGE_SIZE_4K  4096ull

#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

/* True if [off, off + len) lies inside [0, size). Cannot wrap. */
static inline bool range_ok(uint64_t off, uint64_t len, uint64_t size)
{
	return len <= size && off <= size - len;
}

/* True if [a, a + a_len) and [b, b + b_len) share a byte. Neither range may wrap. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a_len && b_len && a < b + b_len && b < a + a_len;
}

static inline bool is_pow2(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* align is a power of two; align_up wraps for values in the last align bytes of the space. */
static inline uint64_t align_down(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint64_t align)
{
	return align_down(v + align - 1, align);
}

/* The smallest power of two that is >= v; 0 when there is none. */
static inline uint64_t pow2_up(uint64_t v)
{
	uint64_t p = 1;

	while (p && p < v)
		p <<= 1;
	return p;
}

static inline void free_ptr(void *p)
{
	free(*(void **)p);
}
/* A heap pointer that is freed when it leaves its scope. */
#define FREE_AUTO __attribute__((cleanup(free_ptr)))

#endif
