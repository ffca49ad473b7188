/*
 * check.c - what one option cannot see alone
 *
 * Each check has one rule and one text. They run on a configuration from any source
 * (command line, REST body), in an order in which what is derived is
 * complete before it is used: processors, memory, payload, then devices (check_devices.c).
 */
#include "control/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/check_devices.h"

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

/* Only a body can say the mode and leave out the place. A path beside another mode means nothing.
 */
static int check_terminal(
	const char *option, uint32_t mode, const char *file, const char *socket, struct err *err)
{
	if (mode == CONSOLE_FILE && !file)
		return err_set(err, -EINVAL, "--%s: file: expected a path, got none", option);
	if (mode == CONSOLE_SOCKET && !socket)
		return err_set(err, -EINVAL, "--%s: socket: expected a path, got none", option);
	return 0;
}

static int check_terminals(
	const struct console_config *serial, struct virtio_console_config *console, struct err *err)
{
	int rc;

	if (console->mode == CONSOLE_UNSAID)
		console->mode = serial->mode == CONSOLE_TTY ? CONSOLE_OFF : CONSOLE_TTY;
	rc = check_terminal("serial", serial->mode, serial->file, serial->socket, err);

	if (!rc)
		rc = check_terminal("console", console->mode, console->file, console->socket, err);
	if (!rc && serial->mode == CONSOLE_TTY && console->mode == CONSOLE_TTY)
		rc = err_set(err, -EINVAL,
			"--console: tty: expected another mode, --serial has the terminal");
	return rc;
}

int options_check(struct vm_config *config, struct err *err)
{
	int rc = check_cpus(&config->cpus, err);

	if (!rc)
		rc = check_memory(&config->memory, err);
	if (!rc)
		rc = check_payload(&config->payload, err);
	if (!rc)
		rc = check_terminals(&config->serial, &config->console, err);
	if (!rc)
		rc = check_devices(config, err);
	return rc;
}
