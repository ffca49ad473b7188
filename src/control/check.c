/*
 * check.c - what one option cannot see alone
 *
 * Each check has one rule and one text. They run on a configuration from any source
 * (command line now, a REST body later), in an order in which what is derived is
 * complete before it is used: processors, memory, payload, then devices.
 *
 * Ids: a device without one is called _vfio_user0, _vfio_user1 and so on, as users know
 * it, skipping names that somebody has taken.
 */
#include "control/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/grammar.h"

static int check_topology(const struct cpus_config *cpus, struct err *err)
{
	const struct cpu_topology *t = &cpus->topology;
	/* each factor is at most CONFIG_MAX_CPUS */
	uint64_t product = (uint64_t)t->threads_per_core * t->cores_per_die * t->dies_per_package *
			   t->packages;

	if (!t->threads_per_core || product == cpus->max)
		return 0;
	return err_set(err, -EINVAL,
		"--cpus: topology: expected a product of %" PRIu32
		" (max), got %u:%u:%u:%u = %" PRIu64,
		cpus->max, t->threads_per_core, t->cores_per_die, t->dies_per_package, t->packages,
		product);
}

static int check_affinity(const struct cpus_config *cpus, struct err *err)
{
	bool seen[CONFIG_MAX_CPUS] = { false };

	for (size_t i = 0; i < cpus->affinity.nr; i++) {
		uint32_t vcpu = cpus->affinity.items[i].vcpu;

		if (vcpu >= cpus->max)
			return err_set(err, -EINVAL,
				"--cpus: affinity: expected processors below %" PRIu32
				" (max), got %" PRIu32,
				cpus->max, vcpu);
		if (seen[vcpu])
			return err_set(err, -EINVAL,
				"--cpus: affinity: processor %" PRIu32 " is given twice", vcpu);
		seen[vcpu] = true;
	}
	return 0;
}

static int check_cpus(struct cpus_config *cpus, struct err *err)
{
	int rc;

	if (!cpus->max)
		cpus->max = cpus->boot;
	if (cpus->boot > cpus->max)
		return err_set(err, -EINVAL,
			"--cpus: boot: expected at most max (%" PRIu32 "), got %" PRIu32, cpus->max,
			cpus->boot);
	rc = check_topology(cpus, err);
	return rc ? rc : check_affinity(cpus, err);
}

static int check_memory(const struct memory_config *memory, struct err *err)
{
	uint64_t unit =
		memory->hugepages && memory->hugepage_size ? memory->hugepage_size : PAGE_SIZE_4K;

	if (memory->hugepage_size && !memory->hugepages)
		return err_set(
			err, -EINVAL, "--memory: hugepage_size: expected hugepages=on beside it");
	if (memory->hugepage_size && memory->hugepage_size != 2 * MIB &&
		memory->hugepage_size != GIB)
		return err_set(err, -EINVAL,
			"--memory: hugepage_size: expected 2M or 1G, got %" PRIu64,
			memory->hugepage_size);
	if (memory->size < 2 * MIB)
		return err_set(err, -EINVAL, "--memory: size: expected at least 2M, got %" PRIu64,
			memory->size);
	if (memory->size % unit)
		return err_set(err, -EINVAL,
			"--memory: size: expected a multiple of %" PRIu64 " (%s), got %" PRIu64,
			unit, unit == PAGE_SIZE_4K ? "4K" : "hugepage_size", memory->size);
	return 0;
}

static int check_payload(const struct payload_config *payload, struct err *err)
{
	if (!payload->kernel && !payload->firmware)
		return err_set(err, -EINVAL, "nothing to boot: expected --kernel or --firmware");
	if (payload->firmware && payload->kernel)
		return err_set(err, -EINVAL, "--firmware: expected no --kernel beside it");
	if (payload->firmware && (payload->initramfs || payload->cmdline))
		return err_set(err, -EINVAL, "--%s: expected --kernel beside it, got --firmware",
			payload->initramfs ? "initramfs" : "cmdline");
	return 0;
}

/* What identifies device i, in a message. */
static const char *device_name(const struct user_device_config *d)
{
	return d->id ? d->id : d->socket;
}

static bool id_taken(const struct user_device_list *list, const char *id)
{
	for (size_t i = 0; i < list->nr; i++)
		if (list->items[i].id && !strcmp(list->items[i].id, id))
			return true;
	return false;
}

/* Names for the devices that have none; at most as many tries as there are devices. */
static int name_devices(struct user_device_list *list, struct err *err)
{
	size_t n = 0;

	for (size_t i = 0; i < list->nr; i++) {
		char id[40];

		if (list->items[i].id)
			continue;
		do
			snprintf(id, sizeof(id), "_vfio_user%zu", n++);
		while (id_taken(list, id));
		list->items[i].id = strdup(id);
		if (!list->items[i].id)
			return err_set(err, -ENOMEM, "--user-device: out of memory");
	}
	return 0;
}

static int check_pair(
	const struct user_device_config *a, const struct user_device_config *b, struct err *err)
{
	if (a->id && b->id && !strcmp(a->id, b->id))
		return err_set(
			err, -EEXIST, "--user-device: id: Identifier %s is not unique", a->id);
	if (!strcmp(a->socket, b->socket))
		return err_set(err, -EEXIST,
			"--user-device: socket: expected one device on each socket, got two on %s",
			grammar_show(a->socket).text);
	if (a->pci_segment == b->pci_segment && a->pci_device_id == b->pci_device_id &&
		a->pci_device_id != CONFIG_SLOT_ANY)
		return err_set(err, -EEXIST,
			"--user-device: pci_device_id: expected one device in a slot, got %s, %s "
			"in slot %u of segment %u",
			grammar_show(device_name(a)).text, grammar_show(device_name(b)).text,
			a->pci_device_id, a->pci_segment);
	return 0;
}

static int check_place(const struct user_device_config *d, const struct platform_config *platform,
	unsigned int *used, struct err *err)
{
	if (d->pci_segment >= platform->num_pci_segments)
		return err_set(err, -EINVAL,
			"--user-device: pci_segment: expected one below %u (num_pci_segments of "
			"--platform), got %u",
			platform->num_pci_segments, d->pci_segment);
	if (++used[d->pci_segment] > CONFIG_MAX_SLOT)
		return err_set(err, -ENOSPC,
			"--user-device: pci_segment: expected at most %d devices in a segment, got "
			"more in segment %u",
			CONFIG_MAX_SLOT, d->pci_segment);
	return 0;
}

static int check_user_devices(struct vm_config *config, struct err *err)
{
	struct user_device_list *list = &config->user_devices;
	unsigned int used[CONFIG_MAX_SEGMENTS] = { 0 };

	/* places first: they bound the number of devices, and so the pairs */
	for (size_t i = 0; i < list->nr; i++) {
		int rc = check_place(&list->items[i], &config->platform, used, err);

		if (rc)
			return rc;
	}
	for (size_t i = 0; i < list->nr; i++)
		for (size_t j = i + 1; j < list->nr; j++) {
			int rc = check_pair(&list->items[i], &list->items[j], err);

			if (rc)
				return rc;
		}
	return name_devices(list, err);
}

int options_check(struct vm_config *config, struct err *err)
{
	int rc = check_cpus(&config->cpus, err);

	if (!rc)
		rc = check_memory(&config->memory, err);
	if (!rc)
		rc = check_payload(&config->payload, err);
	if (!rc)
		rc = check_user_devices(config, err);
	return rc;
}
