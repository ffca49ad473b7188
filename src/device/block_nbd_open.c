/*
 * block_nbd_open.c - the first connections to an NBD server, made before the process is confined
 *
 * libnbd is loaded here, from where the system has it. What the export is and can do is learned
 * from the first connection and expected of all later ones.
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/block_nbd_priv.h"

/* The end */

static void free_connection(struct nbd_connection *c)
{
	connector_stop(&c->connector);
	if (c->h)
		c->n->f.close(c->h);
	while (c->free) {
		struct nbd_job *j = c->free;

		c->free = j->next;
		free(j);
	}
	while (c->bounces) {
		struct nbd_bounce *b = c->bounces;

		c->bounces = b->next;
		free(b);
	}
}

void block_nbd_free(struct block_store *s)
{
	struct nbd *n = container_of(s, struct nbd, store);

	for (unsigned i = 0; n->connections && i < n->nr; i++)
		free_connection(&n->connections[i]);
	free(n->connections);
	free(n->export);
	if (n->f.library)
		dlclose(n->f.library);
	free(n);
}

/* Set-up */

static int load(struct nbd_functions *f, struct err *err)
{
	f->library = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
	if (!f->library)
		return err_set(err, -ENOENT, "libnbd cannot be loaded: %s", dlerror());
#define LOOK_UP(name)                                                                              \
	f->name = (__typeof__(nbd_##name) *)dlsym(f->library, "nbd_" #name);                       \
	if (!f->name)                                                                              \
		return err_set(err, -ENOENT, "libnbd has no nbd_" #name);
	FUNCTIONS(LOOK_UP)
	return 0;
}

static int failed(struct nbd *n, struct err *err)
{
	int error = n->f.get_errno();
	const char *text = n->f.get_error();

	return err_set(err, error ? -error : -EIO, "%s", text ? text : "libnbd failed");
}

static int connect_all(struct nbd *n, const char *uri, struct err *err)
{
	for (unsigned i = 0; i < n->nr; i++) {
		struct nbd_connection *c = &n->connections[i];

		c->h = n->f.create();
		if (!c->h || n->f.set_uri_allow_local_file(c->h, true) ||
			n->f.connect_uri(c->h, uri))
			return failed(n, err);
		if (n->nr > 1 && n->f.can_multi_conn(c->h) != 1)
			return err_set(err, -ENOTSUP,
				"the server wants a single connection: expected --threads=1");
	}
	return 0;
}

/* The way to the next connection, as long as there is this one to learn it from. */
static int prepare_dialing(struct nbd *n, const char *uri, struct err *err)
{
	struct nbd_handle *h = n->connections[0].h;
	struct nbd_place place;
	int rc = nbd_place_of(&place, n->f.aio_get_fd(h), uri);

	if (rc || n->f.get_tls_negotiated(h) != 0) {
		log_info("NBD: a connection that is lost cannot be made again here");
		return 0;
	}
	n->export = n->f.get_export_name(h);
	if (!n->export)
		return failed(n, err);
	for (unsigned i = 0; !rc && i < n->nr; i++)
		rc = nbd_dialer_start(&n->connections[i].connector, &place, err);
	return rc;
}

static int learn(struct nbd *n, bool read_only, struct err *err)
{
	struct nbd_handle *h = n->connections[0].h;
	int64_t size = n->f.get_size(h);
	int64_t min = n->f.get_block_size(h, LIBNBD_SIZE_MINIMUM);
	int64_t preferred = n->f.get_block_size(h, LIBNBD_SIZE_PREFERRED);
	int64_t max = n->f.get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (size < 0)
		return failed(n, err);
	if (!read_only && n->f.is_read_only(h) != 0)
		return err_set(err, -EROFS, "the export is read-only: expected --read-only");
	n->export_size = size;
	n->can_flush = n->f.can_flush(h) == 1;
	n->can_fua = n->f.can_fua(h) == 1;
	n->max_command =
		max >= (int64_t)MIB ? MIN((uint64_t)max, NBD_MAX_COMMAND) : NBD_MAX_COMMAND;
	n->store = (struct block_store){
		.ops = &block_nbd_ops,
		.size = align_down((uint64_t)size, BLOCK_SECTOR),
		.block_size =
			min > BLOCK_SECTOR && is_pow2((uint64_t)min) ? (uint32_t)min : BLOCK_SECTOR,
		.physical_size = preferred > 0 && is_pow2((uint64_t)preferred)
					 ? (uint32_t)MIN(preferred, (int64_t)MIB)
					 : 4096,
		.read_only = read_only,
		.can_discard = !read_only && n->f.can_trim(h) == 1,
		.can_zero = !read_only && n->f.can_zero(h) == 1,
	};
	return 0;
}

int block_nbd_new(struct block_store **out, const char *uri, unsigned nr_threads, bool read_only,
	struct err *err)
{
	struct nbd *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return err_set(err, -ENOMEM, "out of memory");
	n->nr = nr_threads;
	n->connections = calloc(nr_threads, sizeof(*n->connections));
	for (unsigned i = 0; n->connections && i < nr_threads; i++)
		block_nbd_init_connection(n, &n->connections[i]);
	rc = n->connections ? load(&n->f, err) : err_set(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = connect_all(n, uri, err);
	if (!rc)
		rc = prepare_dialing(n, uri, err);
	if (!rc)
		rc = learn(n, read_only, err);
	if (rc) {
		block_nbd_free(&n->store);
		return err_prefix(err, rc, "--file %s", uri);
	}
	*out = &n->store;
	return 0;
}
