/*
 * gpio.c - the registers of a PCI-IDIO-16, its pins, and its state as text
 *
 * An input that changes while the interrupt is enabled latches the status; the INTx line is
 * high while something is latched and the interrupt is enabled. Enabling and disabling do not clear
 * the latch, a write to register 1 does.
 *
 * Threads: the port's.
 * Trusts:  neither register accesses of any size nor a saved state. Lines for --watch are left out
 *          rather than waited for when nobody reads them.
 * Spec:    ACCES I/O PCI-IDIO-16 manual, chapter 4.
 */
#include "device/gpio.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "device/model.h"

#define BAR	 2u
#define BAR_SIZE 256u
#define NR_PINS	 16

enum {
	REG_OUT_LOW,
	REG_IN_LOW, /* write: clear interrupt */
	REG_IRQ,
	REG_FILTER_ALL,
	REG_OUT_HIGH,
	REG_IN_HIGH,
	REG_IRQ_STATUS,
	REG_FILTER_LOW,
};

#define STATUS_LOW     0x01
#define STATUS_HIGH    0x02
#define STATUS_PENDING 0x04

#define STATE_VERSION 1

struct registers {
	uint16_t outputs, inputs;
	bool irq_enabled;
	uint8_t irq_status;
	bool filter_all;
	uint8_t filters;
	uint8_t sample_writes[NR_PINS]; /* of a 1, modulo 3 */
	uint32_t sample_reads;
};

struct gpio {
	struct pci_model pci;
	struct gpio_config config;
	struct registers r;
	uint32_t lines_left_out;
};

static struct gpio *gpio_of(struct pci_model *m)
{
	return container_of(m, struct gpio, pci);
}

/* Watching */

static size_t put_changes(char *text, size_t size, const char *kind, uint16_t old, uint16_t new)
{
	size_t len = 0;

	for (int i = 0; i < NR_PINS; i++)
		if ((old ^ new) >> i & 1)
			len += (size_t)snprintf(
				text + len, size - len, "%s%d %d\n", kind, i, new >> i & 1);
	return len;
}

/* Stdout may be a pipe that nobody empties: the device does not wait for it. */
static void print(struct gpio *g, const char *text, size_t len)
{
	struct pollfd pfd = { .fd = STDOUT_FILENO, .events = POLLOUT };
	int n;

	do
		n = poll(&pfd, 1, 0);
	while (n < 0 && errno == EINTR);
	if (n != 1 || !(pfd.revents & POLLOUT)) {
		g->lines_left_out++;
		return;
	}
	if (write(STDOUT_FILENO, text, len) < 0 && errno != EAGAIN) {
		log_warn("gpio: --watch ends: stdout: %s", strerror(errno));
		g->config.watch = false;
	}
}

static void watch(struct gpio *g, uint16_t old_outputs, uint16_t old_inputs)
{
	char text[NR_PINS * 2 * sizeof("OUT15 1\n") + 64];
	size_t len = 0;

	if (!g->config.watch)
		return;
	if (g->lines_left_out) {
		len = (size_t)snprintf(
			text, sizeof(text), "# %u times nobody was reading\n", g->lines_left_out);
		g->lines_left_out = 0;
	}
	len += put_changes(text + len, sizeof(text) - len, "OUT", old_outputs, g->r.outputs);
	len += put_changes(text + len, sizeof(text) - len, "IIN", old_inputs, g->r.inputs);
	if (len)
		print(g, text, len);
}

/* Pins */

static uint16_t inputs_now(const struct gpio *g)
{
	uint16_t inputs = 0;

	if (g->config.loopback)
		return g->r.outputs;
	if (!g->config.sample)
		return g->config.inputs;
	for (int i = 0; i < NR_PINS; i++)
		inputs |= (uint16_t)((g->r.sample_writes[i] == 0) << i);
	return inputs;
}

static void update_intx(struct gpio *g)
{
	pci_model_set_intx(&g->pci, g->r.irq_enabled && g->r.irq_status & STATUS_PENDING);
}

/* After anything that inputs depend on. */
static void update_inputs(struct gpio *g)
{
	uint16_t inputs = inputs_now(g), changed = inputs ^ g->r.inputs;

	g->r.inputs = inputs;
	if (changed && g->r.irq_enabled)
		g->r.irq_status |= STATUS_PENDING | (changed & 0xff ? STATUS_LOW : 0) |
				   (changed >> 8 ? STATUS_HIGH : 0);
	update_intx(g);
}

static void write_outputs(struct gpio *g, unsigned first, uint8_t value)
{
	g->r.outputs = (uint16_t)((g->r.outputs & ~(0xff << first)) | value << first);
	for (unsigned i = 0; i < 8; i++)
		if (value >> i & 1)
			g->r.sample_writes[first + i] = (g->r.sample_writes[first + i] + 1) % 3;
}

/* Registers */

static uint8_t read_register(struct gpio *g, uint64_t off)
{
	switch (off) {
	case REG_OUT_LOW:
		if (g->config.sample)
			return (uint8_t)(g->r.sample_reads++ / 3);
		return g->r.outputs & 0xff;
	case REG_IN_LOW:
		return g->r.inputs & 0xff;
	case REG_IRQ:
		g->r.irq_enabled = true;
		update_intx(g);
		return 0;
	case REG_FILTER_ALL:
		g->r.filter_all = true;
		return 0;
	case REG_OUT_HIGH:
		return g->r.outputs >> 8;
	case REG_IN_HIGH:
		return g->r.inputs >> 8;
	case REG_IRQ_STATUS:
		return g->r.irq_status;
	case REG_FILTER_LOW:
		return g->r.filter_all ? 0xff : g->r.filters;
	default:
		return 0;
	}
}

static void write_register(struct gpio *g, uint64_t off, uint8_t value)
{
	switch (off) {
	case REG_OUT_LOW:
		write_outputs(g, 0, value);
		break;
	case REG_IN_LOW:
		g->r.irq_status = 0;
		break;
	case REG_IRQ:
		g->r.irq_enabled = false;
		break;
	case REG_FILTER_ALL:
		g->r.filter_all = false;
		g->r.filters = 0;
		break;
	case REG_OUT_HIGH:
		write_outputs(g, 8, value);
		break;
	case REG_FILTER_LOW:
		g->r.filters = value;
		break;
	default:
		break;
	}
}

/* A read changes something in three registers; the others are the common case. */
static bool read_has_effect(const struct gpio *g, uint64_t off, size_t len)
{
	return ranges_overlap(off, len, REG_IRQ, 2) ||
	       (g->config.sample && ranges_overlap(off, len, REG_OUT_LOW, 1));
}

static int region_read(struct pci_model *m, unsigned region, uint64_t off, void *buf, size_t len)
{
	struct gpio *g = gpio_of(m);
	uint8_t *out = buf;

	for (size_t i = 0; i < len; i++)
		out[i] = read_register(g, off + i);
	if (read_has_effect(g, off, len))
		pci_model_changed(m);
	return 0;
}

static int region_write(
	struct pci_model *m, unsigned region, uint64_t off, const void *buf, size_t len)
{
	struct gpio *g = gpio_of(m);
	uint16_t outputs = g->r.outputs, inputs = g->r.inputs;
	const uint8_t *in = buf;

	for (size_t i = 0; i < len; i++) {
		write_register(g, off + i, in[i]);
		update_inputs(g);
	}
	watch(g, outputs, inputs);
	pci_model_changed(m);
	return 0;
}

static void reset(struct pci_model *m)
{
	struct gpio *g = gpio_of(m);
	uint16_t outputs = g->r.outputs, inputs = g->r.inputs;

	g->r = (struct registers){ 0 };
	update_inputs(g);
	watch(g, outputs, inputs);
}

/* State */

static ssize_t save(struct pci_model *m, void *buf, size_t size)
{
	struct gpio *g = gpio_of(m);
	char config[2 * PCI_CONFIG_CONVENTIONAL + 1], counts[NR_PINS + 1];
	int n;

	pci_config_to_hex(&m->config, config);
	for (int i = 0; i < NR_PINS; i++)
		counts[i] = (char)('0' + g->r.sample_writes[i]);
	counts[NR_PINS] = 0;
	n = snprintf(buf, size,
		"{\"model\":\"gpio\",\"version\":%d,\n"
		" \"outputs\":%u,\"inputs\":%u,\"irq_enabled\":%s,\"irq_status\":%u,\n"
		" \"filter_all\":%s,\"filters\":%u,\"sample_writes\":\"%s\",\"sample_reads\":%" PRIu32
		",\n \"config\":\"%s\"}\n",
		STATE_VERSION, g->r.outputs, g->r.inputs, g->r.irq_enabled ? "true" : "false",
		g->r.irq_status, g->r.filter_all ? "true" : "false", g->r.filters, counts,
		g->r.sample_reads, config);
	return n < 0 || (size_t)n >= size ? -ENOSPC : n;
}

/* What a state says, before it is believed. */
struct state {
	json_int_t version, outputs, inputs, irq_status, filters, sample_reads;
	int irq_enabled, filter_all;
	const char *model, *sample_writes, *config;
};

static int check_state(const struct state *s, struct err *err)
{
	if (strcmp(s->model, "gpio"))
		return err_set(err, -EINVAL, "it is the state of another model");
	if (s->version != STATE_VERSION)
		return err_set(err, -EINVAL, "version %" JSON_INTEGER_FORMAT ", expected %d",
			s->version, STATE_VERSION);
	if (s->outputs < 0 || s->outputs > UINT16_MAX || s->inputs < 0 || s->inputs > UINT16_MAX)
		return err_set(err, -EINVAL, "outputs and inputs are 0 to 65535");
	if (s->irq_status < 0 || s->irq_status > 7 || s->filters < 0 || s->filters > UINT8_MAX)
		return err_set(err, -EINVAL, "irq_status is 0 to 7, filters 0 to 255");
	if (s->sample_reads < 0 || s->sample_reads > UINT32_MAX)
		return err_set(err, -EINVAL, "sample_reads is 0 to 4294967295");
	if (strlen(s->sample_writes) != NR_PINS || strspn(s->sample_writes, "012") != NR_PINS)
		return err_set(err, -EINVAL, "sample_writes is 16 digits of 0 to 2");
	return 0;
}

static int apply_state(struct gpio *g, const struct state *s, struct err *err)
{
	uint16_t outputs = g->r.outputs, inputs = g->r.inputs;
	int rc = check_state(s, err);

	if (rc)
		return rc;
	if (pci_config_from_hex(&g->pci.config, s->config))
		return err_set(err, -EINVAL, "config is %u bytes as hexadecimal digits",
			PCI_CONFIG_CONVENTIONAL);
	g->r = (struct registers){
		.outputs = (uint16_t)s->outputs,
		.inputs = (uint16_t)s->inputs,
		.irq_enabled = s->irq_enabled,
		.irq_status = (uint8_t)s->irq_status,
		.filter_all = s->filter_all,
		.filters = (uint8_t)s->filters,
		.sample_reads = (uint32_t)s->sample_reads,
	};
	for (int i = 0; i < NR_PINS; i++)
		g->r.sample_writes[i] = (uint8_t)(s->sample_writes[i] - '0');
	/* The wires may be other ones here: that is a change like any. */
	update_inputs(g);
	watch(g, outputs, inputs);
	pci_model_changed(&g->pci);
	return 0;
}

static int load(struct pci_model *m, const void *buf, size_t len, struct err *err)
{
	json_error_t why = { 0 };
	json_t *root = json_loadb(buf, len, JSON_REJECT_DUPLICATES, &why);
	struct state s;
	int rc;

	if (!root)
		return err_set(
			err, -EINVAL, "not JSON, from line %d column %d on", why.line, why.column);
	rc = json_unpack_ex(root, &why, JSON_STRICT,
		"{s:s, s:I, s:I, s:I, s:b, s:I, s:b, s:I, s:s, s:I, s:s}", "model", &s.model,
		"version", &s.version, "outputs", &s.outputs, "inputs", &s.inputs, "irq_enabled",
		&s.irq_enabled, "irq_status", &s.irq_status, "filter_all", &s.filter_all, "filters",
		&s.filters, "sample_writes", &s.sample_writes, "sample_reads", &s.sample_reads,
		"config", &s.config);
	if (rc)
		rc = err_set(
			err, -EINVAL, "a key is missing, unknown, or has a value of another kind");
	else
		rc = apply_state(gpio_of(m), &s, err);
	json_decref(root);
	return rc;
}

static void free_gpio(struct pci_model *m)
{
	free(gpio_of(m));
}

static const struct pci_model_ops ops = {
	.region_read = region_read,
	.region_write = region_write,
	.reset = reset,
	.save = save,
	.load = load,
	.free = free_gpio,
};

int gpio_new(struct pci_model **out, const struct gpio_config *config)
{
	static const struct pci_ids ids = {
		.vendor = 0x494f,
		.device = 0x0dc8,
		.subvendor = 0x494f,
		.subdevice = 0x0dc8,
		.class_code = 0xff0000, /* fits no class */
	};
	struct gpio *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	pci_model_init(&g->pci, &ops, "gpio", PCI_CONFIG_CONVENTIONAL, &ids);
	pci_config_add_bar(&g->pci.config, BAR, BAR_SIZE, PCI_BASE_ADDRESS_SPACE_IO);
	pci_config_set_pin(&g->pci.config, 1);
	g->pci.regions[BAR].size = BAR_SIZE;
	g->pci.regions[BAR].flags = PCI_REGION_READ | PCI_REGION_WRITE;
	g->pci.irq_count[PCI_IRQ_INTX] = 1;
	g->config = *config;
	g->r.inputs = inputs_now(g);
	*out = &g->pci;
	return 0;
}

/* The row of the table */

enum { OPT_LOOPBACK, OPT_INPUTS, OPT_SAMPLE, OPT_WATCH };

static const struct device_option options[] = {
	[OPT_LOOPBACK] = { "loopback", NULL, "wire each output to the input of the same number" },
	[OPT_INPUTS] = { "inputs", "HEX", "level of the 16 inputs, as in 0x00ff; default 0" },
	[OPT_SAMPLE] = { "sample", NULL, "inputs and register 0 follow libvfio-user's example" },
	[OPT_WATCH] = { "watch", NULL, "print each change of a pin to stdout, as OUT3 1" },
};

static int parse_inputs(const char *text, uint16_t *out, struct err *err)
{
	const char *digits = !strncmp(text, "0x", 2) || !strncmp(text, "0X", 2) ? text + 2 : text;
	size_t len = strlen(digits);

	if (!len || len > 4 || strspn(digits, "0123456789abcdefABCDEF") != len)
		return err_set(err, -EINVAL,
			"--inputs: '%.32s': expected one to four hexadecimal digits", text);
	*out = (uint16_t)strtoul(digits, NULL, 16);
	return 0;
}

static int new_pci(const char *const *values, struct pci_model **out, struct err *err)
{
	struct gpio_config config = {
		.loopback = values[OPT_LOOPBACK],
		.sample = values[OPT_SAMPLE],
		.watch = values[OPT_WATCH],
	};
	int rc;

	if (!!values[OPT_LOOPBACK] + !!values[OPT_INPUTS] + !!values[OPT_SAMPLE] > 1)
		return err_set(
			err, -EINVAL, "--loopback, --inputs and --sample exclude each other");
	rc = values[OPT_INPUTS] ? parse_inputs(values[OPT_INPUTS], &config.inputs, err) : 0;
	if (!rc)
		rc = gpio_new(out, &config);
	return rc ? err_set(err, rc, "%s", strerror(-rc)) : 0;
}

const struct device_model gpio_model = {
	.name = "gpio",
	.summary = "ACCES PCI-IDIO-16: 16 outputs, 16 inputs, change-of-state interrupt",
	.options = options,
	.nr_options = ARRAY_SIZE(options),
	.new_pci = new_pci,
};
