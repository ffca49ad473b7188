/*
 * run_priv.h - what run_table's rows fill, shared by the files of `outboard run`
 */
#ifndef CONTROL_RUN_PRIV_H
#define CONTROL_RUN_PRIV_H

#include "control/run.h"

enum run_hardware { RUN_UART, RUN_VIRTIO_CONSOLE, RUN_DEBUGCON };

/* One --serial. */
struct run_serial {
	uint32_t type;	   /* enum console_mode */
	uint32_t hardware; /* enum run_hardware */
	uint8_t num;
	char *path;
	bool console;
	bool earlycon;
	bool input; /* "stdin" */
};

struct run_serial_list {
	struct run_serial *items;
	size_t nr;
};

/* vm is filled by most rows at once; the rest is brought there when all is said. */
struct run_config {
	struct vm_config vm; /* first: offsets of option_table's rows hold here too */
	struct string_list params;
	struct run_serial_list serials;
	uint32_t connect_timeout_ms; /* 0: not given */
};

/* Bring the list to vm.serial and vm.console. 0 or -errno with a text. */
int run_serials(struct run_config *run, struct err *err);
/* What the kernel is told of them: console=..., earlycon=... */
void run_print_consoles(const struct run_config *run, FILE *out);

#endif
