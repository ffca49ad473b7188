/*
 * fuzz.h - what the targets share: libFuzzer's entry points, what must hold, and reading the input
 *
 * For inclusion by one source file a target.
 */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* What does not hold is a crash, and the line says where. */
#define require(holds) require_at(holds, __LINE__)

static inline void require_at(bool holds, int line)
{
	if (holds)
		return;
	fprintf(stderr, "line %d: does not hold\n", line);
	abort();
}

/* A refusal has a text of one line, and nothing else has one. */
#define require_text(rc, err) require_text_at(rc, err, __LINE__)

static inline void require_text_at(int rc, const struct err *err, int line)
{
	require_at(rc < 0 ? err->text[0] && !strchr(err->text, '\n') : !err->text[0], line);
}

/* An input that is read from its start to its end; behind that are zeros. */
struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint8_t take8(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static inline uint16_t take16(struct input *in)
{
	uint16_t low = take8(in);

	return (uint16_t)(low | take8(in) << 8);
}

static inline uint32_t take32(struct input *in)
{
	uint32_t low = take16(in);

	return low | (uint32_t)take16(in) << 16;
}

static inline uint64_t take64(struct input *in)
{
	uint64_t low = take32(in);

	return low | (uint64_t)take32(in) << 32;
}

/* The next bytes, *len of them or what is left: *len says how many. */
static inline const uint8_t *take_bytes(struct input *in, size_t *len)
{
	const uint8_t *bytes = in->at;

	*len = MIN(*len, in->left);
	in->at += *len;
	in->left -= *len;
	return bytes;
}

#endif
