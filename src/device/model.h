/*
 * model.h - the table of device models that outboard-device can run
 *
 * A row says what a model is called, which options it has besides the common ones, and how to
 * make one. --help, the parser and --print-capabilities read this table.
 */
#ifndef DEVICE_MODEL_H
#define DEVICE_MODEL_H

#include <stddef.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/sandbox.h"
#include "device/pci_model.h"
#include "device/virtio_model.h"

struct device_option {
	const char *name; /* without the dashes */
	const char *arg;  /* what its value is called; NULL: it has none */
	const char *help;
};

#define DEVICE_MODEL_MAX_OPTIONS 32

struct device_model {
	const char *name;
	const char *summary;
	const struct device_option *options;
	size_t nr_options; /* at most DEVICE_MODEL_MAX_OPTIONS */
	/* System calls of its work, beyond those of the base and of the ports. */
	const struct sandbox_call *calls;
	size_t nr_calls;
	/*
	 * The option whose value is a file that the model makes, and
	 * removes at its end. NULL: none.
	 */
	const char *made_file;
	/*
	 * Make one: a PCI device (served over vfio-user) or a virtio device (served over
	 * vhost-user); the other is NULL. values[i] is what options[i] was given: NULL when it was
	 * not there, "" for one without a value. Borrowed for the call. Whatever the model needs to
	 * open it opens now: afterwards the process is confined. Gives *out. 0 or -errno with a
	 * text; -EINVAL: the options are wrong.
	 */
	int (*new_pci)(const char *const *values, struct pci_model **out, struct err *err);
	int (*new_virtio)(const char *const *values, struct loop *loop, struct virtio_model **out,
		struct err *err);
};

extern const struct device_model block_model;
extern const struct device_model console_model;
extern const struct device_model gpio_model;
extern const struct device_model net_model;
extern const struct device_model rng_model;
extern const struct device_model vsock_model;

/* The rows, nr of them. */
const struct device_model *const *device_models(size_t *nr);
/* NULL when there is no such model. */
const struct device_model *device_model_find(const char *name);

#endif
