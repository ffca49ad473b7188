/*
 * test_gpio.c - drive an ACCES PCI-IDIO-16 in another process
 *
 * "gpio" wants its outputs wired to its inputs. "gpio-poll" writes and reads until it
 * is told to stop, and says when the device is lost (all ones) and when it is back.
 * Registers in BAR 2: 0 and 4 outputs, 1 and 5 inputs (a write to 1 acknowledges the
 * interrupt), 2 interrupts on when read, off when written, 6 status.
 */
#include "apic.h"
#include "boot.h"
#include "pci.h"
#include "print.h"
#include "sys.h"
#include "tests.h"

#define VENDOR_ACCES 0x494f
#define IDIO_16	     0x0dc8

enum { OUT0 = 0, IN0 = 1, IRQ_CONTROL = 2, OUT8 = 4, IN8 = 5, IRQ_STATUS = 6 };

#define VECTOR_GPIO 0x61

static struct bar gpio;
static uint64_t gpio_fn;

static bool find_gpio(void)
{
	gpio_fn = pci_find(VENDOR_ACCES, IDIO_16, 0);
	if (!ok(gpio_fn != 0, "there is a PCI-IDIO-16"))
		return false;
	gpio = pci_bar(gpio_fn, 2);
	if (!ok(gpio.io && gpio.size == 256, "its BAR 2 is 256 bytes of I/O space"))
		return false;
	pci_command(gpio_fn, PCI_COMMAND_IO, 0);
	return true;
}

static uint8_t in(unsigned reg)
{
	return (uint8_t)bar_read(&gpio, reg, 1);
}

static void out(unsigned reg, uint8_t value)
{
	bar_write(&gpio, reg, 1, value);
}

static void check_pins(void)
{
	unsigned wrong = 0;

	for (unsigned v = 0; v < 256; v++) {
		out(OUT0, (uint8_t)v);
		out(OUT8, (uint8_t)~v);
		wrong += in(OUT0) != v || in(OUT8) != (uint8_t)~v || in(IN0) != v ||
			 in(IN8) != (uint8_t)~v;
	}
	equal(wrong, 0, "outputs read back, and inputs follow");
	out(OUT0, 0x5a);
	out(OUT8, 0xa5);
	equal(bar_read(&gpio, OUT0, 2), 0x5a5a, "a word reads two registers");
	equal(bar_read(&gpio, OUT8, 2), 0xa5a5, "also the upper ones");
}

static void check_decode(void)
{
	uint64_t elsewhere = gpio.addr == 0x8000 ? 0x9000 : 0x8000, home = gpio.addr;

	out(OUT0, 0x5a);
	pci_command(gpio_fn, 0, PCI_COMMAND_IO);
	equal(in(OUT0), 0xff, "decode off: all ones");
	out(OUT0, 0x11);
	pci_command(gpio_fn, PCI_COMMAND_IO, 0);
	equal(in(OUT0), 0x5a, "decode on: as before, what was written meanwhile is lost");

	pci_bar_move(gpio_fn, 2, &gpio, elsewhere);
	equal(in(OUT0), 0xff, "after a move the old address is all ones");
	gpio.addr = elsewhere;
	equal(in(OUT0), 0x5a, "and the new one answers");
	/* Over COM1: that is not the device's to have. */
	gpio.addr = 0x300;
	pci_bar_move(gpio_fn, 2, &gpio, gpio.addr);
	ok((inb(0x3fd) & 0x20) && inb(0x3fd) != 0xff, "moved onto COM1: COM1 stays");
	gpio.addr = home;
	pci_bar_move(gpio_fn, 2, &gpio, home);
	equal(in(OUT0), 0x5a, "and back home");
}

/* Interrupts with a cause, those of which the line was low after the acknowledgement, and others */
static volatile uint32_t handled, lowered, spurious;

/* Ring 0, before the EOI: acknowledge, and the line must drop. */
static void gpio_isr(void)
{
	if (!(in(IRQ_STATUS)&4)) {
		spurious++;
		return;
	}
	out(IN0, 0);
	if (!(read16(gpio_fn + PCI_STATUS) & PCI_STATUS_INTX))
		lowered++;
	handled++;
}

static void change_and_count(unsigned changes, uint32_t *want)
{
	for (unsigned i = 0; i < changes; i++) {
		out(OUT0, (uint8_t)(in(OUT0) ^ 1u << (i & 7)));
		(*want)++;
		if (!irq_wait_for(&handled, *want, 5000))
			return;
	}
}

/* Let come what is still under way: see apic_ends_by_itself(). */
static void settle(void)
{
	uint32_t before;

	do {
		before = irq_count[VECTOR_GPIO];
	} while (irq_wait(VECTOR_GPIO, before + 1, 20));
}

static void check_masks(unsigned pin, uint32_t *want)
{
	/* A change while the line is masked waits in the line. */
	ioapic_write(0x10 + 2 * pin, VECTOR_GPIO | IOAPIC_LEVEL | IOAPIC_LOW | IOAPIC_MASKED);
	settle();
	out(OUT0, (uint8_t)~in(OUT0));
	ok(read16(gpio_fn + PCI_STATUS) & PCI_STATUS_INTX,
		"masked in the IOAPIC: the status bit shows it");
	ok(!irq_wait_for(&handled, *want + 1, 20), "and it does not come");
	ioapic_write(0x10 + 2 * pin, VECTOR_GPIO | IOAPIC_LEVEL | IOAPIC_LOW);
	ok(irq_wait_for(&handled, ++*want, 5000), "unmasked: it comes");

	/* Interrupt Disable of the command register: PCI 3.0, 6.2.2 */
	settle();
	pci_command(gpio_fn, PCI_COMMAND_NO_INTX, 0);
	out(OUT0, (uint8_t)~in(OUT0));
	ok(!irq_wait_for(&handled, *want + 1, 20), "interrupt disable bit: nothing comes");
	ok(read16(gpio_fn + PCI_STATUS) & PCI_STATUS_INTX, "but the status bit shows it");
	pci_command(gpio_fn, 0, PCI_COMMAND_NO_INTX);
	ok(irq_wait_for(&handled, ++*want, 5000), "enabled again: it comes");

	/* Off in the device. */
	settle();
	out(IRQ_CONTROL, 0);
	out(OUT0, (uint8_t)~in(OUT0));
	ok(!irq_wait_for(&handled, *want + 1, 20), "switched off in the device: nothing comes");
	out(IN0, 0);
	in(IRQ_CONTROL);
}

static void check_interrupts(void)
{
	unsigned pin = pci_intx_pin(gpio_fn);
	bool exact = !apic_ends_by_itself();
	uint32_t want = 0;

	equal(read8(gpio_fn + PCI_INT_PIN), 1, "it interrupts on INTA#");
	irq_hook[VECTOR_GPIO] = gpio_isr;
	out(IN0, 0);
	ioapic_route(pin, VECTOR_GPIO, IOAPIC_LEVEL | IOAPIC_LOW);
	in(IRQ_CONTROL);
	change_and_count(100, &want);
	equal(handled, 100, "100 changes, 100 level interrupts");
	equal(lowered, 100, "each acknowledged before its end");
	check_masks(pin, &want);
	change_and_count(10, &want);
	equal(handled, want, "and on again: ten more");
	settle();
	equal(handled, want, "no more come");
	ok(!(ioapic_read(0x10 + 2 * pin) >> 14 & 1), "none is left unfinished in the IOAPIC");
	if (exact)
		equal(spurious, 0, "none came without a cause");
	else
		skip("this KVM ends level interrupts by itself", "none came without a cause (%u)",
			spurious);
	out(IRQ_CONTROL, 0);
	ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
}

void test_gpio(void)
{
	if (!find_gpio())
		return;
	check_pins();
	check_decode();
	check_interrupts();
}

#define PM_TIMER 0x608
#define PM_HZ	 3579545ul

/* The longest single access so far, in ticks of the PM timer. */
static uint32_t longest;

static uint8_t timed_in(unsigned reg)
{
	uint32_t start = inl(PM_TIMER), ticks;
	uint8_t v = in(reg);

	ticks = inl(PM_TIMER) - start;
	if (ticks > longest)
		longest = ticks;
	return v;
}

/*
 * One value is written, then inputs are read: the value, or all ones while the device
 * is away. Anything else is wrong. Ends at the byte q.
 */
void test_gpio_poll(void)
{
	uint64_t polls = 0, losses = 0, wrong = 0;
	bool lost = false;
	uint8_t pins = 0x5a;

	if (!find_gpio())
		return;
	out(OUT0, pins);
	equal(in(IN0), pins, "inputs follow outputs");
	note("polling");
	while (console_getc() != 'q') {
		uint8_t v = timed_in(IN0);

		polls++;
		if (v == 0xff && !lost) {
			lost = true;
			losses++;
			note("lost");
		} else if (v == pins && lost) {
			lost = false;
			note("back");
		} else if (v != pins && v != 0xff && !wrong++) {
			note("wrong value 0x%02x", v);
		}
	}
	equal(wrong, 0, "nothing but the right value or all ones");
	ok(!lost, "the device is there at the end");
	out(OUT0, (uint8_t)~pins);
	equal(in(IN0), (uint8_t)~pins, "and works");
	note("polls %lu losses %lu longest %lu ms", polls, losses, longest * 1000ul / PM_HZ);
}
