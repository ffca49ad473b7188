#include "device/model.h"

#include <string.h>

#include "base/util.h"

static const struct device_model *const models[] = {
	&block_model,
	&console_model,
	&gpio_model,
	&net_model,
	&rng_model,
	&vsock_model,
};

const struct device_model *const *device_models(size_t *nr)
{
	*nr = ARRAY_SIZE(models);
	return models;
}

const struct device_model *device_model_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(models); i++)
		if (!strcmp(models[i]->name, name))
			return models[i];
	return NULL;
}
