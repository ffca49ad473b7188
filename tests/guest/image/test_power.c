/*
 * test_power.c - the ways a machine ends or begins anew
 *
 * "power" waits for the power button as an operating system would: the event
 * device's interrupt, its status byte, S5; with deaf=1 it stops there and ends not. "command" does
 * what lines from the host say.
 */
#include "acpi.h"
#include "apic.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

#define VECTOR_GED	 0x63
#define VECTOR_NEVER	 0x65
#define GED_PIN		 9
#define GED_POWER_BUTTON 8

void test_power(void)
{
	uint64_t ged = acpi_event_device();
	uint8_t events;

	if (!ok(ged && sys_map(ged, 1), "the event device can be reached"))
		return;
	equal(read8(ged), 0, "no event at the start");
	ioapic_route(GED_PIN, VECTOR_GED, 0);
	note("waiting for the power button");
	while (!irq_count[VECTOR_GED])
		sys_halt();
	if (boot_number("deaf", 0)) {
		note("pressed");
		for (;;)
			sys_halt();
	}
	events = read8(ged);
	equal(events, GED_POWER_BUTTON, "the event is the power button");
	equal(read8(ged), 0, "reading has cleared it");
	equal(irq_count[VECTOR_GED], 1, "by one interrupt");
}

/* The first boot and each one after a reset must find the same. */
static void report_fresh(void)
{
	unsigned segment, last_bus, masked = 0, decoding = 0;
	uint64_t base;

	for (unsigned pin = 0; pin < 24; pin++)
		masked += ioapic_read(0x10 + 2 * pin) >> 16 & 1;
	for (unsigned i = 0; (base = acpi_ecam(i, &segment, &last_bus)); i++)
		for (unsigned slot = 0; slot < 32; slot++) {
			uint64_t fn = base + (slot << 15);

			if (read32(fn) != UINT32_MAX)
				decoding += read16(fn + PCI_COMMAND) & 7 ? 1 : 0;
		}
	equal(masked, 24, "all pins of the IOAPIC are masked");
	equal(decoding, 0, "no device decodes or masters");
	equal(inl(0xcf8), 0, "the configuration address is 0");
	equal(inb(0xcf9), 0, "and the reset control register");
	equal(apic_first_base() & 0xfffff900, 0xfee00900, "the local APIC is on, on the first CPU");
	equal(apic_first_base() & 0x400, 0, "and not in x2APIC mode");
	equal(apic_first_svr() & 0x1ff, 0xff, "it is switched off by software");
}

/* Leave as much behind as a reset has to clear. */
static void make_dirty(void)
{
	unsigned segment, last_bus;
	uint64_t base;

	for (unsigned pin = 0; pin < 24; pin++)
		ioapic_route(pin, 0x70, pin & 1 ? IOAPIC_LEVEL : 0);
	for (unsigned i = 0; (base = acpi_ecam(i, &segment, &last_bus)); i++)
		for (unsigned slot = 0; slot < 32; slot++)
			if (read32(base + (slot << 15)) != UINT32_MAX)
				pci_command(base + (slot << 15), 7, 0);
	outl(0xcf8, 0x80000000);
	outb(0x3f8 + 1, 0x0f);
	apic_enable_x2apic();
	ioapic_write(0x10 + 2 * GED_PIN, IOAPIC_MASKED);
}

static void read_line(char *line, unsigned size)
{
	unsigned n = 0;

	for (;;) {
		int c = console_getc();

		if (c == '\n') {
			line[n] = 0;
			return;
		}
		if (c >= ' ' && n + 1 < size)
			line[n++] = (char)c;
	}
}

static void gpio_command(uint64_t fn, char verb)
{
	struct bar bar = pci_bar(fn, 2);

	pci_command(fn, PCI_COMMAND_IO, 0);
	if (verb == 'w')
		bar_write(&bar, 0, 1, 0x5a);
	note("gpio outputs 0x%02x inputs 0x%02x", (unsigned)bar_read(&bar, 0, 1),
		(unsigned)bar_read(&bar, 1, 1));
}

void test_command(void)
{
	static const struct {
		const char *name;
		void (*go)(void);
	} ends[] = {
		{ "acpi", sys_reset_acpi },
		{ "keyboard", sys_reset_keyboard },
		{ "cf9", sys_reset_cf9 },
		{ "triple", sys_triple_fault },
	};
	uint64_t gpio = pci_find(0x494f, 0x0dc8, 0);
	char line[32];

	report_fresh();
	for (;;) {
		note("command?");
		read_line(line, sizeof(line));
		if (!strcmp(line, "off"))
			return;
		if (!strcmp(line, "dirty"))
			make_dirty();
		if (!strcmp(line, "nmis"))
			note("nmis %u", (unsigned)irq_count[2]);
		if (gpio && (!strcmp(line, "r gpio") || !strcmp(line, "w gpio")))
			gpio_command(gpio, line[0]);
		for (unsigned i = 0; i < ARRAY_SIZE(ends); i++)
			if (!strcmp(line, ends[i].name)) {
				ends[i].go();
				/* It may take the machine a moment to stop this CPU. */
				irq_wait(VECTOR_NEVER, 1, 10000);
				note("%s did nothing", line);
			}
	}
}
