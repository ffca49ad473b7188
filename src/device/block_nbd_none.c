/* block_nbd_none.c - a program that was built without libnbd */
#include <errno.h>

#include "device/block_store.h"

int block_nbd_new(struct block_store **out, const char *uri, unsigned nr_threads, bool read_only,
	struct err *err)
{
	return err_set(err, -ENOTSUP, "--file: %.64s: this program was built without libnbd", uri);
}
