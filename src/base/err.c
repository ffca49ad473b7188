#include "base/err.h"

#include <stdio.h>
#include <string.h>

int err_set(struct err *err, int rc, const char *fmt, ...)
{
	va_list ap;

	if (!err || err->text[0])
		return rc;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return rc;
}

int err_prefix(struct err *err, int rc, const char *fmt, ...)
{
	char old[sizeof(err->text)];
	va_list ap;
	size_t room;
	int n;

	if (!err)
		return rc;
	memcpy(old, err->text, sizeof(old));
	va_start(ap, fmt);
	n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n + 3 > sizeof(err->text))
		return rc;
	room = sizeof(err->text) - (size_t)n - 3; /* for what fits of the old text */
	snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %.*s", (int)room, old);
	return rc;
}
