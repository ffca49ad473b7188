/* msix_test.c - MSI-X and MSI against a real KVM: which vectors come into use, when, and what stays pending */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "machine/msix.h"

static struct kvm kvm;
static unsigned long refused; /* the request that KVM is to refuse... */
static unsigned refusals;     /* ... so many times */
static unsigned routings;     /* tables that it was sent */

int __real_kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg);
int __wrap_kvm_vm_ioctl(const struct kvm *kvm, unsigned long request, void *arg);

int __wrap_kvm_vm_ioctl(const struct kvm *k, unsigned long request, void *arg)
{
	routings += request == KVM_SET_GSI_ROUTING;
	if (request == refused && refusals) {
		refusals--;
		return -ENOMEM;
	}
	return __real_kvm_vm_ioctl(k, request, arg);
}

static void refuse(unsigned long request, unsigned times)
{
	refused = request;
	refusals = times;
}
static struct irqs *irqs;
static bool no_kvm;

static int open_kvm(void **state)
{
	struct err err = { 0 };

	no_kvm = kvm_open(&kvm, &err) != 0;
	return no_kvm ? 0 : irqs_new(&kvm, &irqs);
}

static int close_kvm(void **state)
{
	irqs_free(irqs);
	kvm_close(&kvm);
	return 0;
}

struct uses {
	struct msix msix;
	unsigned calls, first, nr, disabled;
};

static void on_used(struct msix *msix, unsigned first, unsigned nr)
{
	struct uses *u = container_of(msix, struct uses, msix);

	u->calls++;
	u->first = first;
	u->nr = nr;
	for (unsigned i = first; i < first + nr; i++) {
		assert_true(msix->vectors[i].eventfd >= 0);
		assert_false(msix->vectors[i].live);
	}
}

static void on_disabled(struct msix *msix)
{
	container_of(msix, struct uses, msix)->disabled++;
}

static void init(struct uses *u, unsigned nr)
{
	*u = (struct uses){ 0 };
	assert_int_equal(msix_init(&u->msix, irqs, nr), 0);
	u->msix.used = on_used;
	u->msix.disabled = on_disabled;
}

static void program(struct uses *u, unsigned i)
{
	msix_table_write(&u->msix, i * 16ull, 8, 0xfee00000);
	msix_table_write(&u->msix, i * 16ull + 8, 4, 0x30 + i);
}

static void unmask(struct uses *u, unsigned i)
{
	msix_table_write(&u->msix, i * 16ull + 12, 4, 0);
}

static void a_vector_comes_into_use_at_its_first_unmask_and_only_once(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 8);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	program(&u, 5);
	assert_int_equal(u.calls, 0);
	unmask(&u, 5);
	assert_int_equal(u.calls, 1);
	assert_int_equal(u.first, 5);
	assert_int_equal(u.nr, 1);
	assert_true(u.msix.vectors[5].live);
	msix_table_write(&u.msix, 5 * 16 + 12, 4, 1);
	assert_false(u.msix.vectors[5].live);
	unmask(&u, 5);
	assert_int_equal(u.calls, 1);
	assert_int_equal(u.msix.vectors[4].eventfd, -1);
	msix_fini(&u.msix);
}

static void vectors_opened_together_are_told_together(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 200);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned i = 10; i < 180; i++) {
		program(&u, i);
		unmask(&u, i);
	}
	assert_int_equal(u.calls, 0);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(u.calls, 1);
	assert_int_equal(u.first, 10);
	assert_int_equal(u.nr, 170);
	msix_fini(&u.msix);
}

static void a_signal_while_masked_is_pending_and_goes_out_with_the_unmask(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 70);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	program(&u, 66);
	unmask(&u, 66);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	fd_signal(u.msix.vectors[66].eventfd);
	assert_int_equal(msix_pba_read(&u.msix, 8, 8), 1 << 2);
	assert_int_equal(msix_pba_read(&u.msix, 8, 1), 1 << 2);
	assert_int_equal(msix_pba_read(&u.msix, 0, 8), 0);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(msix_pba_read(&u.msix, 8, 8), 0);
	assert_false(fd_clear(u.msix.vectors[66].eventfd)); /* KVM has taken it */
	msix_fini(&u.msix);
}

static void what_kvm_refuses_stays_masked_and_can_be_unmasked_later(void **state)
{
	static const unsigned long requests[] = { KVM_SET_GSI_ROUTING, KVM_IRQFD };

	if (no_kvm)
		skip();
	for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
		unsigned before;
		struct uses u;

		init(&u, 4);
		msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
		program(&u, 1);
		refuse(requests[i], 1);
		unmask(&u, 1);
		assert_int_equal(refusals, 0);
		assert_false(u.msix.vectors[1].live);
		assert_int_equal(u.msix.limit.used, 1); /* lines in the log */
		fd_signal(u.msix.vectors[1].eventfd);
		assert_int_equal(msix_pba_read(&u.msix, 0, 8), 1 << 1);
		before = routings;
		unmask(&u, 1);
		assert_int_equal(routings, before + 1);
		assert_true(u.msix.vectors[1].live);
		assert_int_equal(msix_pba_read(&u.msix, 0, 8), 0);
		assert_false(fd_clear(u.msix.vectors[1].eventfd)); /* KVM has taken it */
		msix_fini(&u.msix);
	}
}

static void a_vector_that_kvm_refuses_does_not_stop_the_others(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 4);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned i = 0; i < 4; i++) {
		program(&u, i);
		unmask(&u, i);
	}
	refuse(KVM_IRQFD, 1);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	assert_false(u.msix.vectors[0].live);
	for (unsigned i = 1; i < 4; i++)
		assert_true(u.msix.vectors[i].live);
	msix_fini(&u.msix);
}

/* Sent elsewhere by the old route it would interrupt whom the guest did not mean. */
static void a_vector_whose_new_message_kvm_refuses_is_masked(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 4);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	for (unsigned i = 0; i < 2; i++) {
		program(&u, i);
		unmask(&u, i);
	}
	refuse(KVM_SET_GSI_ROUTING, 1);
	msix_table_write(&u.msix, 8, 4, 0x77);
	assert_false(u.msix.vectors[0].live);
	assert_true(u.msix.vectors[1].live);
	fd_signal(u.msix.vectors[0].eventfd);
	assert_int_equal(msix_pba_read(&u.msix, 0, 8), 1);
	unmask(&u, 0);
	assert_true(u.msix.vectors[0].live);
	msix_fini(&u.msix);
}

static void switching_off_is_told_and_reset_masks_all(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 4);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	program(&u, 0);
	unmask(&u, 0);
	msix_set_flags(&u.msix, 0);
	assert_int_equal(u.disabled, 1);
	assert_false(u.msix.vectors[0].live);
	msix_reset(&u.msix);
	assert_int_equal(msix_table_read(&u.msix, 12, 4), PCI_MSIX_ENTRY_CTRL_MASKBIT);
	assert_int_equal(msix_table_read(&u.msix, 0, 8), 0);
	msix_fini(&u.msix);
}

static void after_a_reset_nothing_is_pending(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 4);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
	program(&u, 3);
	unmask(&u, 3);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	fd_signal(u.msix.vectors[3].eventfd);
	assert_int_equal(msix_pba_read(&u.msix, 0, 8), 1 << 3);
	msix_reset(&u.msix);
	assert_int_equal(msix_pba_read(&u.msix, 0, 8), 0);
	msix_fini(&u.msix);
}

/* More vectors than there are routes, switched on and off for ever. */
static void a_guest_does_not_fill_the_log(void **state)
{
	int fds[2], saved = dup(STDERR_FILENO);
	char buf[16384];
	unsigned lines = 0;
	struct uses u;
	ssize_t n;

	if (no_kvm)
		skip();
	init(&u, MSIX_MAX_VECTORS);
	msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned i = 0; i < MSIX_MAX_VECTORS; i++)
		unmask(&u, i);
	assert_int_equal(pipe(fds), 0);
	dup2(fds[1], STDERR_FILENO);
	for (unsigned i = 0; i < 3; i++) {
		msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
		msix_set_flags(&u.msix, 0);
	}
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fds[1]);
	while ((n = read(fds[0], buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			lines += buf[i] == '\n';
	close(fds[0]);
	assert_in_range(lines, 1, 20);
	msix_fini(&u.msix);
}

static void accesses_outside_the_table_or_unaligned_do_nothing(void **state)
{
	struct uses u;

	if (no_kvm)
		skip();
	init(&u, 2);
	assert_true(msix_table_read(&u.msix, 32, 4) == UINT64_MAX);
	assert_true(msix_table_read(&u.msix, 30, 4) == UINT64_MAX);
	msix_table_write(&u.msix, 32, 4, 0);
	msix_table_write(&u.msix, UINT64_MAX - 3, 8, 0);
	msix_table_write(&u.msix, 2, 4, 0xffffffff);
	msix_table_write(&u.msix, 0, 2, 0xffff);
	assert_int_equal(msix_table_read(&u.msix, 0, 8), 0);
	msix_table_write(&u.msix, 12, 4, 0xfffffffe); /* reserved bits stay 0 */
	assert_int_equal(msix_table_read(&u.msix, 12, 4), 0);
	msix_fini(&u.msix);
}

static void all_descriptors_and_routes_come_back(void **state)
{
	struct uses u;
	int before;

	if (no_kvm)
		skip();
	before = fd_count();
	for (unsigned round = 0; round < 20; round++) {
		init(&u, 128);
		msix_set_flags(&u.msix, PCI_MSIX_FLAGS_ENABLE);
		for (unsigned i = 0; i < 128; i++) {
			program(&u, i);
			unmask(&u, i);
			assert_true(u.msix.vectors[i].live);
		}
		msix_fini(&u.msix);
	}
	assert_int_equal(fd_count(), before);
}

static unsigned msi_used;

static void on_msi_used(struct msi *msi, unsigned nr)
{
	msi_used = nr;
}

static void msi_vectors_number_the_low_bits_and_obey_the_mask(void **state)
{
	uint8_t cap[24] = { 0 };
	uint16_t flags = PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 2 << 4;
	struct msi msi;

	if (no_kvm)
		skip();
	msi_init(&msi, irqs, 8);
	msi.used = on_msi_used;
	memcpy(cap + PCI_MSI_FLAGS, &flags, 2);
	cap[PCI_MSI_ADDRESS_LO + 2] = 0xe0;
	cap[PCI_MSI_ADDRESS_LO + 3] = 0xfe;
	cap[PCI_MSI_DATA_64] = 0x43;
	cap[PCI_MSI_MASK_64] = 1 << 2;
	msi_update(&msi, cap);
	assert_int_equal(msi_used, 4);
	assert_int_equal(msi.vectors[3].msg.data, 0x43);
	assert_int_equal(msi.vectors[1].msg.data, 0x41);
	assert_int_equal(msi.vectors[1].msg.addr, 0xfee00000);
	assert_true(msi.vectors[1].live);
	assert_false(msi.vectors[2].live);
	assert_int_equal(msi.vectors[4].eventfd, -1);
	cap[PCI_MSI_FLAGS] &= (uint8_t)~PCI_MSI_FLAGS_ENABLE;
	msi_update(&msi, cap);
	assert_false(msi.vectors[1].live);
	msi_fini(&msi);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_vector_comes_into_use_at_its_first_unmask_and_only_once),
		cmocka_unit_test(vectors_opened_together_are_told_together),
		cmocka_unit_test(a_signal_while_masked_is_pending_and_goes_out_with_the_unmask),
		cmocka_unit_test(what_kvm_refuses_stays_masked_and_can_be_unmasked_later),
		cmocka_unit_test(a_vector_that_kvm_refuses_does_not_stop_the_others),
		cmocka_unit_test(a_vector_whose_new_message_kvm_refuses_is_masked),
		cmocka_unit_test(switching_off_is_told_and_reset_masks_all),
		cmocka_unit_test(after_a_reset_nothing_is_pending),
		cmocka_unit_test(a_guest_does_not_fill_the_log),
		cmocka_unit_test(accesses_outside_the_table_or_unaligned_do_nothing),
		cmocka_unit_test(all_descriptors_and_routes_come_back),
		cmocka_unit_test(msi_vectors_number_the_low_bits_and_obey_the_mask),
	};

	return cmocka_run_group_tests(tests, open_kvm, close_kvm);
}
