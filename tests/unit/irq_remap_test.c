/* irq_remap_test.c - what KVM is given when a remapper stands between it and the guest's messages */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/util.h"
#include "machine/irq_priv.h"
#include "machine/msix.h"
#include "machine/pci.h"

#define MAX_ROUTES 64

/* --- KVM --- */

static struct {
	struct kvm_irq_routing_entry routes[MAX_ROUTES];
	unsigned nr_routes, tables, refusals;
	struct kvm_irqfd fds[16];
	unsigned nr_fds;
	struct kvm_msi last;
	unsigned sent;
} k;

static int fake_irqfd(const struct kvm_irqfd *a)
{
	if (!(a->flags & KVM_IRQFD_FLAG_DEASSIGN)) {
		assert_int_equal(a->flags, 0); /* no resample without KVM's own IOAPIC */
		k.fds[k.nr_fds++] = *a;
		return 0;
	}
	for (unsigned i = 0; i < k.nr_fds; i++)
		if (k.fds[i].fd == a->fd && k.fds[i].gsi == a->gsi) {
			k.fds[i] = k.fds[--k.nr_fds];
			return 0;
		}
	fail();
	return -ENOENT;
}

int kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg)
{
	const struct kvm_irq_routing *t = arg;

	switch (request) {
	case KVM_SET_GSI_ROUTING:
		if (k.refusals) {
			k.refusals--;
			return -ENOMEM;
		}
		k.tables++;
		k.nr_routes = t->nr;
		memcpy(k.routes, t->entries, t->nr * sizeof(t->entries[0]));
		return 0;
	case KVM_IRQFD:
		return fake_irqfd(arg);
	case KVM_SIGNAL_MSI:
		k.last = *(struct kvm_msi *)arg;
		k.sent++;
		return 1;
	default:
		fail();
		return -EINVAL;
	}
}

/* The route of a GSI, or NULL. */
static const struct kvm_irq_routing_msi *route(unsigned gsi)
{
	for (unsigned i = 0; i < k.nr_routes; i++)
		if (k.routes[i].gsi == gsi) {
			assert_int_equal(k.routes[i].type, KVM_IRQ_ROUTING_MSI);
			return &k.routes[i].u.msi;
		}
	return NULL;
}

/* --- the remapper: data + shift, for those of one source --- */

static struct {
	uint32_t allowed, shift;
	unsigned reports;
} table;

static bool resolve(void *arg, uint32_t source, const struct msi_message *msg,
	struct msi_message *out, bool report)
{
	if (source != table.allowed && source != IRQ_SOURCE_IOAPIC) {
		table.reports += report;
		return false;
	}
	*out = (struct msi_message){ .addr = 0x100ull << 32 | msg->addr,
		.data = msg->data + table.shift };
	return true;
}

static const struct irq_remapper remapper = { .resolve = resolve };
static struct kvm kvm;
static struct irqs *irqs;

static int setup(void **state)
{
	memset(&k, 0, sizeof(k));
	memset(&table, 0, sizeof(table));
	kvm = (struct kvm){ .nr_gsi_routes = GSI_MSI_BASE + 16, .split_irqchip = true };
	assert_int_equal(irqs_new(&kvm, &irqs), 0);
	irqs_set_remapper(irqs, &remapper);
	return 0;
}

static int teardown(void **state)
{
	irqs_free(irqs);
	assert_int_equal(k.nr_fds, 0);
	return 0;
}

/* --- vectors --- */

static struct pci_function fn = { .segment = 1, .slot = 3 };
#define SOURCE (1u << 16 | 3 << 3)

static void msix_on(struct msix *msix)
{
	*msix = (struct msix){ 0 };
	assert_int_equal(msix_init(msix, irqs, 2), 0);
	msix->fn = &fn;
	for (unsigned i = 0; i < 2; i++) {
		msix_table_write(msix, i * 16ull, 8, 0xfee00010);
		msix_table_write(msix, i * 16ull + 8, 8, 0x20 + i);
	}
	msix_set_flags(msix, PCI_MSIX_FLAGS_ENABLE);
}

static void a_vector_goes_where_its_functions_entry_says(void **state)
{
	struct msix msix;
	unsigned tables;

	table.allowed = SOURCE;
	table.shift = 0x40;
	msix_on(&msix);
	assert_int_equal(route((unsigned)msix.vectors[1].gsi)->data, 0x61);
	assert_int_equal(route((unsigned)msix.vectors[1].gsi)->address_hi, 0x100);
	table.shift = 0x50;
	tables = k.tables;
	irqs_remap(irqs);
	assert_int_equal(k.tables, tables + 1);
	assert_int_equal(route((unsigned)msix.vectors[0].gsi)->data, 0x70);
	assert_int_equal(k.nr_fds, 2);
	/* Nothing else: KVM is not asked. */
	irqs_remap(irqs);
	assert_int_equal(k.tables, tables + 1);
	msix_fini(&msix);
}

static void a_blocked_vector_interrupts_nobody_until_it_is_allowed(void **state)
{
	struct msix msix;

	table.allowed = SOURCE + 8;
	msix_on(&msix);
	assert_int_equal(table.reports, 2);
	assert_true(msix.vectors[0].live);
	assert_int_equal(route((unsigned)msix.vectors[0].gsi)->address_hi, 0x7fffff00);
	assert_int_equal(k.nr_fds, 2);
	table.allowed = SOURCE;
	irqs_remap(irqs);
	assert_int_equal(route((unsigned)msix.vectors[0].gsi)->data, 0x20);
	table.allowed = 0;
	irqs_remap(irqs);
	assert_int_equal(table.reports, 2);
	assert_int_equal(route((unsigned)msix.vectors[0].gsi)->address_hi, 0x7fffff00);
	msix_fini(&msix);
}

static void a_refused_table_is_offered_again(void **state)
{
	struct msix msix;

	table.allowed = SOURCE;
	msix_on(&msix);
	table.shift = 1;
	k.refusals = 1;
	irqs_remap(irqs);
	assert_int_equal(route((unsigned)msix.vectors[0].gsi)->data, 0x20);
	irqs_remap(irqs);
	assert_int_equal(route((unsigned)msix.vectors[0].gsi)->data, 0x21);
	msix_fini(&msix);
}

/* --- pins --- */

static void ioapic(unsigned reg, uint32_t value)
{
	pthread_mutex_lock(&irqs->lock);
	ioapic_write(&irqs->ioapic, 0, 4, reg);
	ioapic_write(&irqs->ioapic, 0x10, 4, value);
	pthread_mutex_unlock(&irqs->lock);
}

#define LEVEL  (1u << 15)
#define MASKED (1u << 16)

static void a_driven_line_is_sent_through_the_remapper(void **state)
{
	ioapic(0x10 + 8, 0x31);
	assert_true(irq_line_is_open(irqs, 4));
	table.shift = 2;
	irq_line_set(irqs, 4, true);
	assert_int_equal(k.sent, 1);
	assert_int_equal(k.last.data, 0x4033);
	assert_int_equal(k.last.address_hi, 0x100);
	irq_line_set(irqs, 4, false);
	ioapic(0x10 + 8, 0x31 | MASKED);
	irq_line_set(irqs, 4, true);
	assert_int_equal(k.sent, 1);
	assert_false(irq_line_is_open(irqs, 4));
}

static void a_shared_line_stands_while_somebody_holds_it(void **state)
{
	ioapic(0x10 + 2 * 16, 0x51 | LEVEL);
	irq_line_share(irqs, 16, true);
	irq_line_share(irqs, 16, true);
	assert_int_equal(k.sent, 1);
	irq_line_share(irqs, 16, false);
	irqs_eoi(irqs, 0x51);
	assert_int_equal(k.sent, 2);
	irq_line_share(irqs, 16, false);
	irqs_eoi(irqs, 0x51);
	assert_int_equal(k.sent, 2);
}

static void a_descriptors_line_is_kvms_while_it_is_open(void **state)
{
	int trigger[2] = { fd_eventfd(), fd_eventfd() }, resample = fd_eventfd();

	assert_int_equal(irq_line_connect(irqs, 17, trigger[0], resample), 0);
	assert_int_equal(k.nr_fds, 0);
	ioapic(0x11 + 2 * 17, 1u << 24);
	assert_null(route(17));
	ioapic(0x10 + 2 * 17, 0x61 | LEVEL);
	assert_int_equal(k.nr_fds, 1);
	assert_int_equal(k.fds[0].gsi, 17);
	assert_int_equal(route(17)->data, 0xc061);
	assert_int_equal(irq_line_connect(irqs, 17, trigger[1], -1), 0);
	assert_int_equal(k.nr_fds, 2);
	irqs_eoi(irqs, 0x61);
	assert_true(fd_clear(resample));
	/* Masked: KVM has the route, to tell of an end, but nothing to raise it by. */
	ioapic(0x10 + 2 * 17, 0x61 | LEVEL | MASKED);
	assert_int_equal(k.nr_fds, 0);
	assert_non_null(route(17));
	ioapic(0x10 + 2 * 17, 0x62 | LEVEL);
	assert_int_equal(k.nr_fds, 2);
	assert_int_equal(route(17)->data, 0xc062);
	table.shift = 1;
	irqs_remap(irqs);
	assert_int_equal(route(17)->data, 0xc063);
	irq_line_disconnect(irqs, 17, trigger[0]);
	assert_int_equal(k.nr_fds, 1);
	irq_line_disconnect(irqs, 17, trigger[0]);
	assert_int_equal(irqs_reset(irqs), 0);
	assert_int_equal(k.nr_fds, 0);
	assert_null(route(17));
	irq_line_disconnect(irqs, 17, trigger[1]);
	fd_close(&trigger[0]);
	fd_close(&trigger[1]);
	fd_close(&resample);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(a_vector_goes_where_its_functions_entry_says),
		TEST(a_blocked_vector_interrupts_nobody_until_it_is_allowed),
		TEST(a_refused_table_is_offered_again),
		TEST(a_driven_line_is_sent_through_the_remapper),
		TEST(a_shared_line_stands_while_somebody_holds_it),
		TEST(a_descriptors_line_is_kvms_while_it_is_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
