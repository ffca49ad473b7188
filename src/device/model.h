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
#include "device/pci_model.h"

struct device_option {
	const char *name; /* without the dashes */
	const char *arg;  /* what its value is called; NULL: it has none */
	const char *help;
};

#define DEVICE_MODEL_MAX_OPTIONS 16

struct device_model {
	const char *name;
	const char *summary;
	const struct device_option *options;
	size_t nr_options; /* at most DEVICE_MODEL_MAX_OPTIONS */
	/*
	 * values[i] is what options[i] was given: NULL when it was not there, "" for one without a
	 * value. Borrowed for the call. Gives *out. 0 or -errno with a text.
	 */
	int (*new_pci)(const char *const *values, struct pci_model **out, struct err *err);
};

extern const struct device_model gpio_model;

/* The rows, nr of them. */
const struct device_model *const *device_models(size_t *nr);
/* NULL when there is no such model. */
const struct device_model *device_model_find(const char *name);

#endif
