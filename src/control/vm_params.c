/* vm_params.c - struct vm_config as struct machine_params (see vm_params.h) */
#include "control/vm_params.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "machine/serial.h"

static int fill_affinity(struct machine_params *params, const struct affinity_list *list)
{
	struct vcpu_cpus *affinity = calloc(MAX(list->nr, (size_t)1), sizeof(*affinity));

	if (!affinity)
		return -ENOMEM;
	for (size_t i = 0; i < list->nr; i++)
		affinity[i] = (struct vcpu_cpus){
			.vcpu = list->items[i].vcpu,
			.cpus = list->items[i].host_cpus,
			.nr = list->items[i].nr_host_cpus,
		};
	params->affinity = affinity;
	params->nr_affinity = (unsigned)list->nr;
	return 0;
}

static void fill_serial(struct machine_params *params, const struct console_config *serial)
{
	static const enum serial_mode modes[] = {
		[CONSOLE_NULL] = SERIAL_NULL,
		[CONSOLE_TTY] = SERIAL_TTY,
		[CONSOLE_PTY] = SERIAL_PTY,
		[CONSOLE_FILE] = SERIAL_FILE,
		[CONSOLE_SOCKET] = SERIAL_SOCKET,
	};

	params->has_serial = serial->mode != CONSOLE_OFF;
	params->serial_mode = modes[serial->mode];
	params->serial_path = serial->mode == CONSOLE_FILE ? serial->file : serial->socket;
}

int vm_params_init(struct machine_params *params, const struct vm_config *c)
{
	*params = (struct machine_params){
		.memory = {
			.size = c->memory.size,
			.hugepages = c->memory.hugepages,
			.hugepage_size = c->memory.hugepage_size,
			.prefault = c->memory.prefault,
			.thp = c->memory.thp,
		},
		.boot_vcpus = c->cpus.boot,
		.max_vcpus = c->cpus.max,
		.topology = {
			.threads = c->cpus.topology.threads_per_core,
			.cores = c->cpus.topology.cores_per_die,
			.dies = c->cpus.topology.dies_per_package,
			.packages = c->cpus.topology.packages,
		},
		.max_phys_bits = c->cpus.max_phys_bits,
		.nr_segments = c->platform.num_pci_segments,
		.intremap = c->platform.intremap,
		.kernel = c->payload.kernel,
		.firmware = c->payload.firmware,
		.initramfs = c->payload.initramfs,
		.cmdline = c->payload.cmdline,
	};
	fill_serial(params, &c->serial);
	return fill_affinity(params, &c->cpus.affinity);
}

void vm_params_fini(struct machine_params *params)
{
	free((void *)params->affinity);
	params->affinity = NULL;
}
