/*
 * run_serial.c - crosvm's --serial, which is several ports, as our one serial port and one console
 *
 * There any number of ports may write to standard output; here the terminal is one port's, in both
 * directions. A port that nobody asked for is the first serial one, at the terminal if that is
 * free.
 */
#include "control/run_priv.h"

#include <errno.h>

#include "base/err.h"

static int check_serial(const struct run_serial *s, struct err *err)
{
	if (s->num != 1)
		return err_set(err, -EINVAL,
			"--serial: num: expected 1, there is one port of each hardware, got %u", s->num);
	if ((s->type == CONSOLE_FILE) != (s->path != NULL))
		return err_set(err, -EINVAL, "--serial: path: expected %s",
			s->path ? "type=file beside it" : "path=PATH beside type=file");
	if (s->input && s->type != CONSOLE_TTY)
		return err_set(err, -EINVAL, "--serial: stdin: expected type=stdout beside it");
	if (s->earlycon && s->hardware != RUN_UART)
		return err_set(err, -EINVAL, "--serial: earlycon: expected hardware=serial beside it");
	return 0;
}

/* The words that may stand once, and the terminal. */
static int check_pair(const struct run_serial *a, const struct run_serial *b, struct err *err)
{
	if (a->hardware == b->hardware)
		return err_set(err, -EINVAL, "--serial: hardware: expected one port of %s, got two",
			a->hardware == RUN_UART ? "serial" : "virtio-console");
	if (a->console && b->console)
		return err_set(err, -EINVAL, "--serial: console: expected one console, got two");
	if (a->type == CONSOLE_TTY && b->type == CONSOLE_TTY)
		return err_set(err, -EINVAL,
			"--serial: type: expected stdout for one port, got it for two");
	return 0;
}

static int check_serials(const struct run_serial_list *list, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < list->nr && !rc; i++) {
		rc = check_serial(&list->items[i], err);
		for (size_t j = 0; j < i && !rc; j++)
			rc = check_pair(&list->items[j], &list->items[i], err);
	}
	return rc;
}

static const struct run_serial *find(const struct run_config *run, uint32_t hardware)
{
	for (size_t i = 0; i < run->serials.nr; i++)
		if (run->serials.items[i].hardware == hardware)
			return &run->serials.items[i];
	return NULL;
}

int run_serials(struct run_config *run, struct err *err)
{
	struct vm_config *vm = &run->vm;
	int rc = check_serials(&run->serials, err);

	if (rc)
		return rc;
	if (find(run, RUN_VIRTIO_CONSOLE) && vm->console.mode != CONSOLE_UNSAID)
		return err_set(err, -EINVAL,
			"--serial: hardware=virtio-console: expected no --console beside it");
	for (size_t i = 0; i < run->serials.nr; i++) {
		struct run_serial *s = &run->serials.items[i];
		char **file = s->hardware == RUN_UART ? &vm->serial.file : &vm->console.file;

		*(s->hardware == RUN_UART ? &vm->serial.mode : &vm->console.mode) = s->type;
		*file = s->path;
		s->path = NULL;
	}
	if (vm->console.mode == CONSOLE_UNSAID)
		vm->console.mode = CONSOLE_OFF;
	if (!find(run, RUN_UART))
		vm->serial.mode = vm->console.mode == CONSOLE_TTY ? CONSOLE_NULL : CONSOLE_TTY;
	return 0;
}

void run_print_consoles(const struct run_config *run, FILE *out)
{
	const struct run_serial *uart = find(run, RUN_UART);
	const struct run_serial *virtio = find(run, RUN_VIRTIO_CONSOLE);

	fputs(virtio && virtio->console ? "console=hvc0" : "console=ttyS0", out);
	if (uart && uart->earlycon)
		fputs(" earlycon=uart8250,io,0x3f8", out);
}
