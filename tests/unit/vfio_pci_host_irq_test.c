/* vfio_pci_host_irq_test.c - MSI-X, MSI and INTx of real hardware, by the rules of the kernel */
#include "vfio_host_fake.h"

#define NO_FD (-1)

static void msix_on(struct host *h)
{
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
}

static void msix_is_on_with_one_vector_and_grows(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	msix_on(h);
	host_story(h, "INTx- MSI-X+0:1(none)");
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "");
	host_open_vector(h, 0);
	host_open_vector(h, 1);
	host_open_vector(h, 6);
	host_story(h, "MSI-X+0:1 MSI-X+1:1 MSI-X+6:1");
	/* The same eventfd at KVM's end */
	assert_int_equal(h->fds[VFIO_USER_IRQ_MSIX][6], fake_kvm.irq[fake_kvm.nr_irq - 1].fd);
	assert_int_equal(h->fds[VFIO_USER_IRQ_MSIX][3], NO_FD);
	hcfg_set(h, MSIX_POS + 2, 2, 0);
	host_story(h, "MSI-X- INTx+0:1 INTx.unmask");
	/* Again: what is open is known. */
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "INTx- MSI-X+0:1 MSI-X+0:2 MSI-X+6:1");
	host_end(h);
}

static void msix_that_cannot_grow_is_made_anew_and_loses_nothing(void **state)
{
	struct host *h = host_new();
	int first;

	h->t.info.irqs[VFIO_USER_IRQ_MSIX].flags |= VFIO_USER_IRQ_FLAG_NORESIZE;
	host_attach(h);
	hdecode(h);
	msix_on(h);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "INTx- MSI-X+0:1(none)");
	host_open_vector(h, 0);
	host_story(h, "MSI-X+0:1");
	first = h->fds[VFIO_USER_IRQ_MSIX][0];
	assert_false(fd_clear(first));
	host_open_vector(h, 2);
	host_story(h, "MSI-X- MSI-X+3:1(none) MSI-X+0:1 MSI-X+2:1");
	/* What it signalled while it was off is made up for. */
	assert_int_equal(h->fds[VFIO_USER_IRQ_MSIX][0], first);
	assert_true(fd_clear(first));
	host_open_vector(h, 3);
	host_story(h, "MSI-X+3:1");
	assert_false(fd_clear(first));
	host_open_vector(h, 7);
	host_story(h, "MSI-X- MSI-X+7:1 MSI-X+0:1 MSI-X+2:2 MSI-X+7:1");
	host_end(h);
}

static void a_host_short_of_vectors_gives_what_is_needed(void **state)
{
	struct host *h = host_new();

	h->t.info.irqs[VFIO_USER_IRQ_MSIX].flags |= VFIO_USER_IRQ_FLAG_NORESIZE;
	h->host_vectors = 3;
	host_attach(h);
	hdecode(h);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	h->story[0] = 0;
	host_open_vector(h, 2);
	host_story(h, "MSI-X- MSI-X+3:1! MSI-X+2:1 MSI-X+2:1");
	host_open_vector(h, 3);
	assert_int_equal(world_log(h->w, "refused to set MSI-X interrupts 0 to 3"), 1);
	host_end(h);
}

static void enable_msi(struct host *h, unsigned log2)
{
	hcfg_set(h, MSI_POS + PCI_MSI_ADDRESS_LO, 4, 0xfee00000);
	hcfg_set(h, MSI_POS + PCI_MSI_DATA_64, 2, 0x60);
	hcfg_set(h, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | log2 << 4);
}

static void msi_comes_all_at_once_and_is_made_anew(void **state)
{
	struct host *h = host_attach(host_new());

	hdecode(h);
	enable_msi(h, 1);
	/* The kernel writes the device's control word itself. */
	host_story(h, "INTx- MSI+0:2");
	hcfg_set(h, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | 2 << 4);
	host_story(h, "MSI- MSI+0:4");
	hcfg_set(h, MSI_POS + 2, 2, 0);
	host_story(h, "MSI- INTx+0:1 INTx.unmask");
	host_end(h);
}

static void msi_takes_what_the_host_has(void **state)
{
	struct host *h = host_new();

	h->host_vectors = 1;
	host_attach(h);
	hdecode(h);
	enable_msi(h, 2);
	host_story(h, "INTx- MSI+0:4! MSI+0:2! MSI+0:1");
	assert_int_equal(world_log(h->w, "the host has 1 MSI vectors for it, not the 4"), 1);
	host_end(h);
}

static void intx_is_unmasked_by_the_guests_end_of_interrupt_alone(void **state)
{
	struct host *h = host_attach(host_new());
	const struct kvm_irqfd *line = kvm_line();

	hdecode(h);
	assert_non_null(line);
	assert_int_equal(h->fds[VFIO_USER_IRQ_INTX][0], line->fd);
	assert_int_equal(h->unmask_fd, line->resamplefd);
	fd_signal(h->fds[VFIO_USER_IRQ_INTX][0]);
	hreg(h, 0, 0x2ffc, 4);
	hreg_set(h, 0, 0x2ffc, 4, 0);
	host_story(h, "BAR0+2ffc:4=0");
	assert_false(fd_clear(h->unmask_fd));
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	host_story(h, "4:2=402 INTx-");
	hcfg_set(h, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	host_story(h, "4:2=2 INTx+0:1 INTx.unmask");
	host_end(h);
}

static void a_host_without_a_line_for_it_is_no_obstacle(void **state)
{
	struct host *h = host_new();

	h->no_intx = true;
	host_attach(h);
	assert_int_equal(
		world_log(h->w, "the host has no interrupt line for it, only messages"), 1);
	assert_int_equal(hcfg(h, PCI_INTERRUPT_PIN, 1), 0);
	assert_null(kvm_line());
	hdecode(h);
	host_open_vector(h, 0);
	hcfg_set(h, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	host_story(h, "MSI-X+0:1 MSI-X+0:1");
	hcfg_set(h, MSIX_POS + 2, 2, 0);
	host_story(h, "MSI-X-");
	host_end(h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(msix_is_on_with_one_vector_and_grows),
		cmocka_unit_test(msix_that_cannot_grow_is_made_anew_and_loses_nothing),
		cmocka_unit_test(a_host_short_of_vectors_gives_what_is_needed),
		cmocka_unit_test(msi_comes_all_at_once_and_is_made_anew),
		cmocka_unit_test(msi_takes_what_the_host_has),
		cmocka_unit_test(intx_is_unmasked_by_the_guests_end_of_interrupt_alone),
		cmocka_unit_test(a_host_without_a_line_for_it_is_no_obstacle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
