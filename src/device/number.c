#include "device/number.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int number_option(const char *name, const char *text, uint64_t missing, uint64_t min, uint64_t max,
	uint64_t *out, struct err *err)
{
	uint64_t value = missing;
	char *end;

	if (text) {
		errno = 0;
		value = strtoull(text, &end, 10);
		if (errno || *end || text[strspn(text, "0123456789")] || !*text || value < min ||
			value > max)
			return err_set(err, -EINVAL,
				"--%s: '%.32s', expected a number from %" PRIu64 " to %" PRIu64,
				name, text, min, max);
	}
	*out = value;
	return 0;
}

int switch_option(const char *name, const char *text, bool missing, bool *out, struct err *err)
{
	*out = missing;
	if (!text)
		return 0;
	if (strcmp(text, "on") && strcmp(text, "off"))
		return err_set(err, -EINVAL, "--%s: '%.32s', expected on or off", name, text);
	*out = !strcmp(text, "on");
	return 0;
}
