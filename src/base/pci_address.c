#include "base/pci_address.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Hexadecimal digits, least to most of them, followed by end. *text moves behind it. */
static bool read_part(const char **text, int least, int most, char end, uint32_t *out)
{
	int n = 0;

	for (*out = 0; n < most && digit((*text)[n]) >= 0; n++)
		*out = *out << 4 | (uint32_t)digit((*text)[n]);
	if (n < least || (*text)[n] != end)
		return false;
	*text += n + (end != '\0');
	return true;
}

int pci_address_parse(const char *text, struct pci_address *out)
{
	bool has_domain = strchr(text, ':') != strrchr(text, ':');
	uint32_t domain = 0, bus, device, function;

	if (has_domain && !read_part(&text, 4, 8, ':', &domain))
		return -EINVAL;
	if (!read_part(&text, 2, 2, ':', &bus) || !read_part(&text, 2, 2, '.', &device) ||
		!read_part(&text, 1, 1, '\0', &function))
		return -EINVAL;
	if (device > 31 || function > 7)
		return -EINVAL;
	*out = (struct pci_address){ domain, (uint8_t)bus, (uint8_t)device, (uint8_t)function };
	return 0;
}

int pci_address_of_path(const char *path, struct pci_address *out)
{
	char name[PCI_ADDRESS_ROOM];
	size_t end = strlen(path), start;

	while (end && path[end - 1] == '/')
		end--;
	for (start = end; start && path[start - 1] != '/';)
		start--;
	if (end - start >= sizeof(name))
		return -EINVAL;
	memcpy(name, path + start, end - start);
	name[end - start] = '\0';
	return pci_address_parse(name, out);
}

void pci_address_print(const struct pci_address *a, char *text)
{
	snprintf(text, PCI_ADDRESS_ROOM, "%04" PRIx32 ":%02x:%02x.%x", a->domain, a->bus,
		a->device & 31u, a->function & 7u);
}

bool pci_address_equal(const struct pci_address *a, const struct pci_address *b)
{
	return a->domain == b->domain && a->bus == b->bus && a->device == b->device &&
	       a->function == b->function;
}
