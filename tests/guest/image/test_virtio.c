/*
 * test_virtio.c - a virtio function whose device is another process (device/echo.h)
 *
 * "virtio": capabilities, negotiation, queues with MSI-X, with INTx and without interrupts,
 * doorbells, resets of the device and of one queue, changes of the configuration. "virtio-poll"
 * echoes until it is told to stop, so that the device may be killed meanwhile. Both use packed
 * rings with packed=1. "virtio-chaos" writes random values all over the registers of a device that
 * looks at no ring.
 */
#include "../device/echo.h"
#include "apic.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"
#include "virtio.h"

#define VECTOR_CONFIG 0xa0 /* then one for each queue */
#define VECTOR_LINE   0xa8
#define MESSAGE	      600 /* bytes of a request */

static struct virtio dev;
static uint64_t features = FEATURE_VERSION_1 | 1ull << ECHO_FEATURE;
static uint8_t out_buf[MESSAGE], in_buf[MESSAGE];

static uint32_t config(unsigned at)
{
	return read32(dev.config + at);
}

static void command(uint32_t what)
{
	write32(dev.config + ECHO_COMMAND_AT, what);
}

static bool find_echo(void)
{
	if (!ok(virtio_find(&dev, ECHO_TYPE, 0), "there is an echo device"))
		return false;
	if (boot_number("packed", 0))
		features |= FEATURE_PACKED;
	return equal(config(ECHO_ID_AT), ECHO_ID, "its configuration can be read");
}

/* --- what it looks like --- */

static void check_identity(void)
{
	equal(read16(dev.fn + 0x2c), VIRTIO_VENDOR, "subsystem vendor");
	ok(read16(dev.fn + 0x2e) >= 0x40, "subsystem id of no legacy device");
	ok(read8(dev.fn + 0x08) >= 1, "and so is its revision");
	ok(dev.bar.wide && !dev.bar.io && !dev.bar.prefetch, "BAR 0: 64-bit memory");
	for (unsigned kind = VIRTIO_CAP_COMMON; kind <= VIRTIO_CAP_WINDOW; kind++) {
		unsigned cap = virtio_capability(dev.fn, kind, 0);
		uint64_t off = read32(dev.fn + cap + 8), len = read32(dev.fn + cap + 12);

		ok(cap && off + len <= dev.bar.size, "capability %u lies in its BAR", kind);
	}
	equal(read16(dev.common + COMMON_NR_QUEUES), ECHO_NR_QUEUES, "queues");
	equal(read16(dev.fn + dev.msix + 2) & 0x7ff, ECHO_NR_QUEUES, "a vector each, and one");
	equal(dev.offered & features, features, "features");
}

/* Every width and place gives the same bytes. */
static void check_reads(void)
{
	uint8_t bytes[COMMON_SIZE];
	unsigned wrong = 0;

	for (unsigned i = 0; i < COMMON_SIZE; i++)
		bytes[i] = read8(dev.common + i);
	for (unsigned size = 2; size <= 8; size *= 2)
		for (unsigned off = 0; off + size <= COMMON_SIZE; off++) {
			uint64_t got = bar_read(&dev.bar, dev.common - dev.bar.addr + off, size);

			wrong += memcmp(&got, bytes + off, size) != 0;
		}
	equal(wrong, 0, "reads of every width, aligned or not");
}

static void check_window(void)
{
	unsigned cap = virtio_capability(dev.fn, VIRTIO_CAP_WINDOW, 0);

	write8(dev.fn + cap + 4, 0);
	write32(dev.fn + cap + 12, 4);
	write32(dev.fn + cap + 8, (uint32_t)(dev.config - dev.bar.addr) + ECHO_ID_AT);
	equal(read32(dev.fn + cap + 16), ECHO_ID, "the window reads the configuration");
	write32(dev.fn + cap + 8, (uint32_t)(dev.config - dev.bar.addr) + ECHO_SCRATCH_AT);
	write32(dev.fn + cap + 16, 0x600df00d);
	equal(config(ECHO_SCRATCH_AT), 0x600df00d, "and writes it");
	/* Also with decoding off: that is what it is for. */
	pci_command(dev.fn, 0, PCI_COMMAND_MEM);
	equal(config(ECHO_SCRATCH_AT), UINT32_MAX, "decode off: all ones");
	equal(read32(dev.fn + cap + 16), 0x600df00d, "but not through the window");
	pci_command(dev.fn, PCI_COMMAND_MEM, 0);
}

static void check_negotiation(void)
{
	ok(!virtio_negotiate(&dev, 0), "not without VERSION_1");
	ok(!virtio_negotiate(&dev, FEATURE_VERSION_1 | 1ull << 22),
		"nor with what was not offered");
	ok(virtio_negotiate(&dev, features), "features are agreed on");
	write32(dev.common + COMMON_DRIVER_SELECT, 0);
	write32(dev.common + COMMON_DRIVER_FEATURE, 0);
	equal(read32(dev.common + COMMON_DRIVER_FEATURE), 1u << ECHO_FEATURE, "and fixed");
	write16(dev.common + COMMON_QUEUE_SELECT, 0);
	equal(read16(dev.common + COMMON_QUEUE_SIZE), ECHO_QUEUE_SIZE, "size of a queue");
	write16(dev.common + COMMON_QUEUE_SIZE, 3);
	equal(read16(dev.common + COMMON_QUEUE_SIZE),
		features & FEATURE_PACKED ? 3 : ECHO_QUEUE_SIZE,
		"which is a power of two in a split ring");
	write16(dev.common + COMMON_QUEUE_SELECT, ECHO_NR_QUEUES);
	equal(read16(dev.common + COMMON_QUEUE_SIZE), 0, "there is no further queue");
}

/* --- requests --- */

static void fill(unsigned seed)
{
	for (unsigned i = 0; i < MESSAGE; i++) {
		out_buf[i] = (uint8_t)(i * 7 + seed);
		in_buf[i] = 0;
	}
}

static bool came_back(uint32_t len)
{
	return len == MESSAGE && !memcmp(in_buf, out_buf, MESSAGE);
}

static void set_up(unsigned nr_queues, bool vectors)
{
	virtio_negotiate(&dev, features | (dev.offered & FEATURE_RING_RESET));
	if (vectors)
		write16(dev.common + COMMON_CONFIG_VECTOR, 0);
	for (unsigned q = 0; q < nr_queues; q++)
		virtio_queue(&dev, q, ECHO_QUEUE_SIZE, (uint16_t)(vectors ? q + 1 : NO_VECTOR));
	virtio_driver_ok(&dev);
}

/* One request, the answer waited for by looking. */
static bool echo_by_looking(unsigned queue, unsigned seed)
{
	fill(seed);
	virtio_give(&dev, queue, out_buf, MESSAGE, in_buf, MESSAGE);
	virtio_kick(&dev, queue);
	while (!virtio_waiting(&dev, queue))
		cpu_relax();
	return came_back(virtio_take(&dev, queue));
}

/* One request, its interrupt waited for. `count` counts interrupts of this kind. */
static bool echo_by_interrupt(unsigned queue, unsigned seed)
{
	uint8_t vector = (uint8_t)(VECTOR_CONFIG + 1 + queue);
	uint32_t before = irq_count[vector];

	fill(seed);
	virtio_give(&dev, queue, out_buf, MESSAGE, in_buf, MESSAGE);
	virtio_kick(&dev, queue);
	return irq_wait(vector, before + 1, 5000) && virtio_waiting(&dev, queue) == 1 &&
	       came_back(virtio_take(&dev, queue));
}

static void check_polling(void)
{
	unsigned good = 0;

	set_up(ECHO_NR_QUEUES, false);
	equal(virtio_status(&dev), 15, "the driver is ready");
	equal(config(ECHO_FEATURES_AT + 4), read32(dev.config + ECHO_FEATURES_AT + 4),
		"the device was told the features");
	equal(config(ECHO_FEATURES_AT) & 0xff, 1u << ECHO_FEATURE, "its own among them");
	for (unsigned i = 0; i < 100; i++)
		good += echo_by_looking(i % ECHO_NR_QUEUES, i);
	equal(good, 100, "100 requests on three queues, without interrupts");
}

static void check_vectors(void)
{
	unsigned good = 0;
	uint32_t before;

	virtio_msix_on(&dev, VECTOR_CONFIG, ECHO_NR_QUEUES + 1);
	set_up(ECHO_NR_QUEUES, true);
	write16(dev.common + COMMON_QUEUE_VECTOR, ECHO_NR_QUEUES + 1);
	equal(read16(dev.common + COMMON_QUEUE_VECTOR), NO_VECTOR, "there is no further vector");
	write16(dev.common + COMMON_QUEUE_VECTOR, ECHO_NR_QUEUES);
	for (unsigned i = 0; i < 99; i++)
		good += echo_by_interrupt(i % ECHO_NR_QUEUES, i);
	equal(good, 99, "99 requests on three queues, each with its interrupt");

	/* Queue 0 on the vector of queue 1, while it runs. */
	write16(dev.common + COMMON_QUEUE_SELECT, 0);
	write16(dev.common + COMMON_QUEUE_VECTOR, 2);
	before = irq_count[VECTOR_CONFIG + 2];
	ok(echo_by_looking(0, 1), "another vector: the answer comes");
	ok(irq_wait(VECTOR_CONFIG + 2, before + 1, 5000), "and the interrupt there");
	write16(dev.common + COMMON_QUEUE_VECTOR, NO_VECTOR);
	before = irq_count[VECTOR_CONFIG + 2];
	ok(echo_by_looking(0, 2), "no vector: the answer comes");
	ok(!irq_wait(VECTOR_CONFIG + 2, before + 1, 20), "and no interrupt");
	write16(dev.common + COMMON_QUEUE_VECTOR, 1);

	/* A masked vector keeps it. */
	write32(dev.table + 16 + 12, 1);
	before = irq_count[VECTOR_CONFIG + 1];
	ok(echo_by_looking(0, 3), "masked: the answer comes");
	ok(!irq_wait(VECTOR_CONFIG + 1, before + 1, 20), "and no interrupt");
	write32(dev.table + 16 + 12, 0);
	ok(irq_wait(VECTOR_CONFIG + 1, before + 1, 5000), "unmasked: the interrupt comes");
}

/* The ring's size in requests at once: one kick, answers for all. */
static void check_batches(void)
{
	static uint8_t in[ECHO_QUEUE_SIZE / 2], out[ECHO_QUEUE_SIZE / 2];
	unsigned wrong = 0;

	for (unsigned round = 0; round < 50; round++) {
		unsigned n = 0;

		for (; n < ARRAY_SIZE(in); n++) {
			out[n] = (uint8_t)(round + n);
			in[n] = 0;
			/* The device may look without a kick. */
			if (!virtio_give(&dev, 1, &out[n], 1, &in[n], 1))
				break;
		}
		virtio_kick(&dev, 1);
		while (virtio_waiting(&dev, 1) < n)
			cpu_relax();
		for (unsigned i = 0; i < n; i++)
			wrong += virtio_take(&dev, 1) != 1 ||
				 *(volatile uint8_t *)&in[i] != (uint8_t)(round + i);
		wrong += n != ECHO_QUEUE_SIZE / 2;
	}
	equal(wrong, 0, "50 rings full of requests");
}

static void check_doorbells(void)
{
	uint64_t home = dev.bar.addr, doorbell = dev.rings[0].doorbell;
	struct bar bar = dev.bar;

	fill(1);
	virtio_give(&dev, 0, out_buf, MESSAGE, in_buf, MESSAGE);
	write32(doorbell, 0);
	while (!virtio_waiting(&dev, 0))
		cpu_relax();
	ok(came_back(virtio_take(&dev, 0)), "a doorbell of 32 bits");

	/* The BAR elsewhere, while the queues run. */
	sys_map(home + 0x100000, bar.size);
	pci_bar_move(dev.fn, 0, &bar, home + 0x100000);
	dev.rings[0].doorbell += 0x100000;
	ok(echo_by_looking(0, 2), "a doorbell of a BAR that was moved");
	equal(read16(home + (dev.common - dev.bar.addr) + COMMON_NR_QUEUES), 0xffff,
		"the old place is all ones");
	pci_bar_move(dev.fn, 0, &bar, home);
	dev.rings[0].doorbell = doorbell;
	ok(echo_by_looking(0, 3), "and back home");
}

static void check_config_change(void)
{
	uint8_t generation = read8(dev.common + COMMON_GENERATION);
	uint32_t before = irq_count[VECTOR_CONFIG], changes = config(ECHO_CHANGES_AT);

	command(ECHO_CHANGE);
	ok(irq_wait(VECTOR_CONFIG, before + 1, 5000), "a change of the configuration interrupts");
	equal(config(ECHO_CHANGES_AT), changes + 1, "it has changed");
	ok(read8(dev.common + COMMON_GENERATION) != generation, "and so has its generation");
	generation = read8(dev.common + COMMON_GENERATION);
	config(ECHO_CHANGES_AT);
	equal(read8(dev.common + COMMON_GENERATION), generation, "once");
}

static void check_queue_reset(void)
{
	if (!(dev.offered & FEATURE_RING_RESET)) {
		skip("the device does not offer it", "reset of one queue");
		return;
	}
	write16(dev.common + COMMON_QUEUE_SELECT, 1);
	write16(dev.common + COMMON_QUEUE_RESET, 1);
	while (read16(dev.common + COMMON_QUEUE_RESET))
		cpu_relax();
	equal(read16(dev.common + COMMON_QUEUE_ENABLE), 0, "queue 1 is reset");
	equal(read32(dev.common + COMMON_QUEUE_DESC), 0, "and knows no address");
	ok(echo_by_interrupt(0, 1) && echo_by_interrupt(2, 2), "the other queues go on");
	virtio_queue(&dev, 1, 16, 2);
	equal(read16(dev.common + COMMON_QUEUE_ENABLE), 1, "queue 1 is enabled again, smaller");
	for (unsigned i = 0; i < 40; i++)
		if (!echo_by_interrupt(1, i)) {
			ok(false, "request %u after the reset of its queue", i);
			return;
		}
	ok(true, "40 requests after the reset of their queue");
}

static void check_reset(void)
{
	uint32_t starts = config(ECHO_STARTS_AT);

	virtio_reset(&dev);
	write16(dev.common + COMMON_QUEUE_SELECT, 0);
	equal(read16(dev.common + COMMON_QUEUE_ENABLE), 0, "after a reset queues are off");
	equal(read16(dev.common + COMMON_QUEUE_VECTOR), NO_VECTOR, "and without a vector");
	equal(read16(dev.common + COMMON_CONFIG_VECTOR), NO_VECTOR, "so is the configuration");
	for (unsigned i = 0; i < 20; i++) {
		set_up(ECHO_NR_QUEUES, true);
		if (!echo_by_interrupt(i % ECHO_NR_QUEUES, i))
			ok(false, "a request after %u resets", i);
	}
	equal(config(ECHO_STARTS_AT), starts + 20 * ECHO_NR_QUEUES, "20 resets, all queues anew");
}

/* --- INTx --- */

static volatile uint32_t queue_causes, config_causes, spurious;

/* Ring 0, before the EOI: reading ISR lowers the line. */
static void line_isr(void)
{
	uint8_t isr = read8(dev.isr);

	queue_causes += isr & 1;
	config_causes += isr >> 1 & 1;
	spurious += !isr;
}

static bool echo_by_line(unsigned queue, unsigned seed)
{
	uint32_t before = queue_causes;

	fill(seed);
	virtio_give(&dev, queue, out_buf, MESSAGE, in_buf, MESSAGE);
	virtio_kick(&dev, queue);
	return irq_wait_for(&queue_causes, before + 1, 5000) && virtio_waiting(&dev, queue) == 1 &&
	       came_back(virtio_take(&dev, queue));
}

/* Let come what is still under way: see apic_ends_by_itself(). */
static void settle(void)
{
	uint32_t before;

	do {
		before = irq_count[VECTOR_LINE];
	} while (irq_wait(VECTOR_LINE, before + 1, 20));
}

static void check_intx(void)
{
	unsigned pin = pci_intx_pin(dev.fn), good = 0;
	bool exact = !apic_ends_by_itself();

	virtio_msix_off(&dev);
	irq_hook[VECTOR_LINE] = line_isr;
	ioapic_route(pin, VECTOR_LINE, IOAPIC_LEVEL | IOAPIC_LOW);
	set_up(ECHO_NR_QUEUES, false);
	for (unsigned i = 0; i < 60; i++)
		good += echo_by_line(i % ECHO_NR_QUEUES, i);
	equal(good, 60, "INTx: 60 requests on three queues, each with its interrupt");
	ok(!(read16(dev.fn + PCI_STATUS) & PCI_STATUS_INTX), "INTx: the line is low");
	command(ECHO_CHANGE);
	ok(irq_wait_for(&config_causes, 1, 5000), "INTx: a change of the configuration");

	settle();
	pci_command(dev.fn, PCI_COMMAND_NO_INTX, 0);
	ok(echo_by_looking(0, 1), "INTx disabled: the answer comes");
	ok(!irq_wait_for(&queue_causes, 61, 20), "and no interrupt");
	/* The answer is in the ring before the device's call has reached the VMM. */
	for (unsigned i = 0; i < 250 && !(read16(dev.fn + PCI_STATUS) & PCI_STATUS_INTX); i++)
		irq_wait_for(&queue_causes, 61, 20);
	ok(read16(dev.fn + PCI_STATUS) & PCI_STATUS_INTX, "but the status bit shows it");
	pci_command(dev.fn, 0, PCI_COMMAND_NO_INTX);
	ok(irq_wait_for(&queue_causes, 61, 5000), "enabled again: it comes");
	if (exact)
		equal(spurious, 0, "INTx: none without a cause");
	else
		skip("this KVM ends level interrupts by itself", "INTx: none without a cause (%u)",
			spurious);
	ioapic_write(0x10 + 2 * pin, IOAPIC_MASKED);
	irq_hook[VECTOR_LINE] = NULL;
}

/* --- what cannot work --- */

static void check_bad_queues(void)
{
	static const uint64_t nowhere[] = { 0xe8000000, 0xd0000000, 0x7ffffffffffff000 };

	for (unsigned i = 0; i < ARRAY_SIZE(nowhere); i++) {
		virtio_negotiate(&dev, features);
		write16(dev.common + COMMON_QUEUE_SELECT, 0);
		write64(dev.common + COMMON_QUEUE_DESC, nowhere[i]);
		write64(dev.common + COMMON_QUEUE_DRIVER, nowhere[i]);
		write64(dev.common + COMMON_QUEUE_DEVICE, nowhere[i]);
		write16(dev.common + COMMON_QUEUE_ENABLE, 1);
		virtio_driver_ok(&dev);
		ok(virtio_status(&dev) & STATUS_NEEDS_RESET, "a ring at 0x%lx needs a reset",
			nowhere[i]);
	}
	virtio_reset(&dev);
	equal(virtio_status(&dev), 0, "and a reset heals it");
	set_up(1, false);
	ok(echo_by_looking(0, 1), "the device works");
}

void test_virtio(void)
{
	if (!find_echo())
		return;
	check_identity();
	check_reads();
	check_window();
	check_negotiation();
	check_polling();
	check_vectors();
	check_batches();
	check_doorbells();
	check_config_change();
	check_queue_reset();
	check_reset();
	check_intx();
	check_bad_queues();
	virtio_reset(&dev);
}

/* --- a device that goes and comes back --- */

/* The machine is reset while the device is about to write into its memory. */
static void reset_in_the_middle(void)
{
	for (unsigned q = 0; q < ECHO_NR_QUEUES; q++) {
		while (virtio_give(&dev, q, out_buf, MESSAGE, in_buf, MESSAGE))
			;
		virtio_kick(&dev, q);
	}
	sys_reset_acpi();
}

/*
 * Requests one after the other until the byte q, each with its interrupt. None may be lost, however
 * long its device is away. At the byte r the machine is reset, and all of it begins anew.
 */
void test_virtio_poll(void)
{
	uint64_t requests = 0, wrong = 0, told = 0;
	int key = -1;

	if (!find_echo())
		return;
	equal(virtio_status(&dev), 0, "nobody has used it before");
	virtio_msix_on(&dev, VECTOR_CONFIG, ECHO_NR_QUEUES + 1);
	set_up(ECHO_NR_QUEUES, true);
	note("echoing");
	while (key != 'q') {
		unsigned queue = (unsigned)(requests % ECHO_NR_QUEUES);
		uint8_t vector = (uint8_t)(VECTOR_CONFIG + 1 + queue);
		uint32_t before = irq_count[vector];

		key = -1;
		fill((unsigned)requests);
		virtio_give(&dev, queue, out_buf, MESSAGE, in_buf, MESSAGE);
		virtio_kick(&dev, queue);
		while (!virtio_waiting(&dev, queue)) {
			irq_wait(vector, before + 1, 100);
			/* Also when the answer does not come. */
			if (key < 0 && (key = console_getc()) == 'r')
				reset_in_the_middle();
		}
		if (key < 0 && (key = console_getc()) == 'r')
			reset_in_the_middle();
		wrong += virtio_waiting(&dev, queue) != 1 || !came_back(virtio_take(&dev, queue));
		if (++requests - told >= 100) {
			told = requests;
			note("%lu requests", requests);
		}
	}
	equal(wrong, 0, "all answers are right");
	equal(virtio_status(&dev), 15, "the device is as it was");
	note("%lu requests", requests);
	virtio_reset(&dev);
}

/* --- random accesses --- */

static uint64_t seed;

static uint64_t next(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* As often something that means something as not. */
static uint64_t some_value(void)
{
	static const uint64_t values[] = { 0, 1, 2, 3, 4, 7, 15, 16, 64, 0xffff, 0x100000,
		UINT64_MAX };

	return next() & 1 ? next() : values[(next() >> 20) % ARRAY_SIZE(values)];
}

/* No interrupt that is none: the messages of MSI-X are left alone, only masks are written. */
static void random_access(void)
{
	unsigned size = 1u << (next() >> 30) % 4, what = (unsigned)(next() >> 20) % 16;
	uint64_t base[] = { dev.common, dev.common, dev.common, dev.isr, dev.config, dev.notify };
	uint64_t addr = base[what % ARRAY_SIZE(base)] + (next() >> 40) % (COMMON_SIZE - 8);

	if (what == 15)
		write32(dev.table + 16 * ((next() >> 20) % 4) + 12, (uint32_t)next());
	else if (what == 14)
		write16(dev.fn + dev.msix + 2, (uint16_t)next());
	else if (what == 13)
		write32(dev.fn + virtio_capability(dev.fn, VIRTIO_CAP_WINDOW, 0) + 4 +
				(next() & 12),
			(uint32_t)some_value() & 0x7fff);
	else if (next() & 0x10000)
		bar_write(&dev.bar, addr - dev.bar.addr, size, some_value());
	else
		bar_read(&dev.bar, addr - dev.bar.addr, size);
}

/*
 *   n=     how many accesses (100000)
 *   seed=  of the generator; default from the TSC
 */
void test_virtio_chaos(void)
{
	uint64_t n = boot_number("n", 100000), resets = 0;

	seed = boot_number("seed", 0);
	if (!seed)
		seed = rdtsc() | 1;
	note("virtio-chaos n %lu seed 0x%lx", n, seed);
	if (!find_echo())
		return;
	virtio_msix_on(&dev, VECTOR_CONFIG, ECHO_NR_QUEUES + 1);
	for (uint64_t i = 0; i < n; i++) {
		if (i % 50 == 0) {
			virtio_reset(&dev);
			set_up(ECHO_NR_QUEUES, next() & 0x10000);
			resets++;
		}
		random_access();
	}
	virtio_msix_off(&dev);
	virtio_reset(&dev);
	ok(true, "%lu accesses, %lu resets", n, resets);
	irq_open();
	irq_close();
	ok(virtio_negotiate(&dev, features), "features are agreed on");
	set_up(ECHO_NR_QUEUES, false);
	equal(virtio_status(&dev), 15, "queues are started");
	equal(config(ECHO_ID_AT), ECHO_ID, "the configuration can be read");
	virtio_reset(&dev);
}
