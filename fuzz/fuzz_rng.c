/*
 * fuzz_rng.c - the entropy device under a hostile driver (fuzz_virtio.h)
 *
 * The first byte says what its source is, one that gives everything or one that gives nothing, and
 * how much of it there is in a period.
 */
#include "device/rng.h"

#include "fuzz_virtio.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_virtio_init();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const sources[] = { NULL, "/dev/zero", "/dev/null" };
	struct input in = { data, size };
	struct fuzz_virtio f = { .hosts = { -1, -1 } };
	struct rng_config config = { .name = "rng", .period_ms = 1 };
	struct err err = { 0 };
	uint8_t how = take8(&in);

	config.source = sources[how % ARRAY_SIZE(sources)];
	config.max_bytes = how & 0x80 ? how : 0;
	rig_init(&f.r);
	require(rng_new(&f.r.model, f.r.loop, &config, &err) == 0);
	fuzz_virtio_run(&f, UINT64_MAX, &in);
	return 0;
}
