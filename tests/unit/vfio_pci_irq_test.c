/* vfio_pci_irq_test.c - MSI-X, MSI and INTx between a guest and another process */
#include "vfio_rich.h"

/* --- MSI-X --- */

static void job_msix_on(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	decode_on(w, r);
	fake_forget(f);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	check_story(f, "INTx-");
	for (unsigned i = 0; i < 3; i++)
		program_vector(w, r, i, 0);
	program_vector(w, r, 5, 0);
	check_story(f, "");
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	check_story(f, "MSI-X+0:3 MSI-X+5:1");
	program_vector(w, r, 4, 0);
	check_story(f, "MSI-X+4:1");
	/* Masked and unmasked again: nothing to tell. */
	program_vector(w, r, 4, 1);
	program_vector(w, r, 4, 0);
	check_story(f, "");
	assert_int_equal(reg_read(w, r, 4, 0x2000 + 4 * 16 + 8, 4), 0x44);
}

static void job_msix_pending(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	assert_int_equal(reg_read(w, r, 4, 0x3000, 8) & ~0x5a5a5a5a5a5a5a5aull, 0);
	program_vector(w, r, 2, 1);
	fd_signal(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 2));
	/* Ours, or the device's own (the server says 0x5a everywhere). */
	assert_int_equal(reg_read(w, r, 4, 0x3000, 1), 0x5a | 1 << 2);
	program_vector(w, r, 0, 1);
	fd_signal(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 0));
	assert_int_equal(reg_read(w, r, 4, 0x3000, 1), 0x5a | 1 << 2 | 1);
	/* Read-only, and next to it the device's */
	fake_forget(f);
	reg_write(w, r, 4, 0x3000, 8, 0);
	assert_int_equal(fake_count(f, VFIO_USER_REGION_WRITE), 0);
	reg_write(w, r, 4, 0x3008, 4, 0);
	assert_int_equal(reg_read(w, r, 4, 0x3004, 8), UINT64_MAX); /* half of it */
	assert_int_equal(reg_read(w, r, 4, 0x2000 + 8 * 16, 4), 0x5a5a5a5a);
	assert_int_equal(fake_count(f, VFIO_USER_REGION_WRITE), 1);
}

static void job_msix_off_and_on(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	fake_forget(f);
	cfg_write(w, r, MSIX_POS + 2, 2, 0);
	check_story(f, "MSI-X- INTx+0:1 INTx.unmask+0:1");
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	check_story(f, "INTx- MSI-X+0:3 MSI-X+4:2");
}

static void msix_vectors_reach_the_device_as_the_guest_opens_them(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_msix_on, f);
	assert_int_equal(fake_byte(f, CONFIG, MSIX_POS + 3) & 0x80, 0x80);
	as_vcpu(w, job_msix_pending, f);
	as_vcpu(w, job_msix_off_and_on, f);
	/* And again to one that comes back. */
	fake_kill(f);
	put16(f->config + MSIX_POS + 2, 7);
	f->nr_recs = 0;
	fake_start(f);
	until_back(w, 1);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 5) >= 0);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 3) < 0);
	assert_int_equal(fake_byte(f, CONFIG, MSIX_POS + 3) & 0x80, 0x80);
	check_story(f, "MSI-X+0:3 MSI-X+4:2");
	end(w, f);
}

static void job_all_vectors(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	for (unsigned i = 0; i < 8; i++)
		program_vector(w, r, i, 0);
	fake_forget(arg);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	check_story(arg, "INTx- MSI-X+0:5");
}

static void vectors_that_the_server_does_not_know_stay_silent(void **state)
{
	struct fake *f = rich();
	struct world *w;

	f->irqs[VFIO_USER_IRQ_MSIX].count = 5;
	fake_start(f);
	w = world_with(f);
	assert_int_equal(world_log(w, "5 of its 8 MSI-X vectors can be signalled"), 1);
	as_vcpu(w, job_all_vectors, f);
	end(w, f);
}

static void job_msix_while_away(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	program_vector(w, r, 1, 0);
}

static void what_the_guest_sets_up_while_the_device_is_away_is_not_lost(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_kill(f);
	until_lost(w);
	as_vcpu(w, job_msix_while_away, f);
	f->nr_recs = 0;
	fake_start(f);
	until_back(w, 1);
	check_story(f, "MSI-X+1:1");
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND), 3);
	end(w, f);
}

static void job_change(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 0x20);
}

static void what_the_guest_changes_while_the_device_is_restored_is_not_lost(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_kill(f);
	until_lost(w);
	fake_set_hook(f, holds_command, 0);
	fake_start(f);
	world_until(w, is_held, f);
	as_vcpu(w, job_change, NULL);
	let_go(f);
	until_back(w, 1);
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND), 3);
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 0x20);
	end(w, f);
}

/* --- MSI --- */

static void job_msi(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	decode_on(w, r);
	fake_forget(f);
	cfg_write(w, r, MSI_POS + PCI_MSI_ADDRESS_LO, 4, 0xfee00000);
	cfg_write(w, r, MSI_POS + PCI_MSI_DATA_64, 2, 0x60);
	check_story(f, "");
	cfg_write(w, r, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | 1 << 4);
	check_story(f, "INTx- MSI+0:2");
	assert_int_equal(
		fake_byte(f, CONFIG, MSI_POS + 2), PCI_MSI_FLAGS_64BIT | 2 << 1 | 1 << 4 | 1);
	cfg_write(w, r, MSI_POS + 2, 2, PCI_MSI_FLAGS_ENABLE | 2 << 4);
	check_story(f, "MSI+0:4");
	cfg_write(w, r, MSI_POS + 2, 2, 0);
	check_story(f, "MSI- INTx+0:1 INTx.unmask+0:1");
}

static void msi_vectors_reach_the_device_all_at_once(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_msi, f);
	end(w, f);
}

/* --- INTx --- */

static void job_intx_disable(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	fake_forget(f);
	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	check_story(f, "INTx-");
	cfg_write(w, r, PCI_COMMAND, 2, 0);
	check_story(f, "INTx+0:1 INTx.unmask+0:1");
}

static void intx_goes_straight_between_kvm_and_a_device_that_masks_itself(void **state)
{
	struct fake *f = fake_new();
	const struct kvm_irqfd *line;
	struct world *w;

	fake_start(f);
	w = world_with(f);
	line = kvm_line();
	assert_non_null(line);
	assert_int_equal(line->gsi, GSI_INTX_BASE + 5);
	/* The same eventfds at both ends */
	fd_signal(fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0));
	assert_true(fd_clear((int)line->fd));
	fd_signal((int)line->resamplefd);
	assert_true(fd_clear(fake_unmask_fd(f)));
	as_vcpu(w, job_intx_disable, f);
	end(w, f);
}

static bool refuses_unmask_fd(struct fake *f, const struct rec *r)
{
	struct vfio_user_irq_set s;

	memcpy(&s, r->data, sizeof(s));
	if (r->h.command != VFIO_USER_DEVICE_SET_IRQS ||
		!(s.flags & VFIO_USER_IRQ_SET_ACTION_UNMASK) || !r->nr_fds)
		return false;
	fake_error(f, r, EINVAL);
	return true;
}

static bool unmasked(struct world *w, void *arg)
{
	struct fake *f = arg;
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_irq_set s;

		memcpy(&s, f->recs[i].data, sizeof(s));
		n += f->recs[i].h.command == VFIO_USER_DEVICE_SET_IRQS &&
		     s.flags == (VFIO_USER_IRQ_SET_DATA_NONE | VFIO_USER_IRQ_SET_ACTION_UNMASK) &&
		     f->recs[i].h.flags == VFIO_USER_FLAG_NO_REPLY;
	}
	pthread_mutex_unlock(&f->lock);
	return n > 0;
}

static void intx_is_unmasked_by_message_where_an_eventfd_is_refused(void **state)
{
	struct fake *f = fake_new();
	struct world *w;

	f->hook = refuses_unmask_fd;
	fake_start(f);
	w = world_with(f);
	fake_forget(f);
	fd_signal((int)kvm_line()->resamplefd);
	world_until(w, unmasked, f);
	/* Also while a vCPU waits for the device, and to one that came back */
	fake_kill(f);
	f->nr_recs = 0;
	fake_start(f);
	until_back(w, 1);
	world_until(w, unmasked, f);
	end(w, f);
}

static bool line_raised(struct world *w, void *arg)
{
	return fd_clear((int)kvm_line()->fd);
}

static void edges_of_a_device_that_does_not_mask_itself_are_kept(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	int edge;

	f->irqs[VFIO_USER_IRQ_INTX].flags = VFIO_USER_IRQ_FLAG_EVENTFD;
	fake_start(f);
	w = world_with(f);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_SET_IRQS), 1);
	edge = fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0);
	fd_signal(edge);
	world_until(w, line_raised, NULL);
	/* A second one before the guest has ended the first: it comes after the end. */
	fd_signal(edge);
	fd_signal((int)kvm_line()->resamplefd);
	world_until(w, line_raised, NULL);
	fd_signal((int)kvm_line()->resamplefd);
	fd_signal(edge);
	world_until(w, line_raised, NULL);
	end(w, f);
}

/* --- eventfds that the device process plays foul with: it has the flag and the counter, too --- */

static void make_blocking(int fd)
{
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
}

static void job_mask_and_unmask(struct world *w, struct io_reader *r, void *arg)
{
	struct fake *f = arg;

	job_msix_on(w, r, f);
	make_blocking(fake_irq_fd(f, VFIO_USER_IRQ_MSIX, 0));
	program_vector(w, r, 0, 1);
	program_vector(w, r, 0, 0);
}

static void a_vector_that_was_made_blocking_holds_up_no_vcpu(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_mask_and_unmask, f);
	pci_reset(w->m.pci);
	end(w, f);
}

static void a_full_and_blocking_unmask_signal_holds_up_nobody(void **state)
{
	const uint64_t full = UINT64_MAX - 1;
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	make_blocking(fake_unmask_fd(f));
	assert_int_equal(write(fake_unmask_fd(f), &full, sizeof(full)), sizeof(full));
	fake_kill(f);
	f->nr_recs = 0;
	fake_start(f);
	until_back(w, 1);
	end(w, f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(msix_vectors_reach_the_device_as_the_guest_opens_them),
		cmocka_unit_test(vectors_that_the_server_does_not_know_stay_silent),
		cmocka_unit_test(what_the_guest_sets_up_while_the_device_is_away_is_not_lost),
		cmocka_unit_test(what_the_guest_changes_while_the_device_is_restored_is_not_lost),
		cmocka_unit_test(msi_vectors_reach_the_device_all_at_once),
		cmocka_unit_test(intx_goes_straight_between_kvm_and_a_device_that_masks_itself),
		cmocka_unit_test(intx_is_unmasked_by_message_where_an_eventfd_is_refused),
		cmocka_unit_test(edges_of_a_device_that_does_not_mask_itself_are_kept),
		cmocka_unit_test(a_vector_that_was_made_blocking_holds_up_no_vcpu),
		cmocka_unit_test(a_full_and_blocking_unmask_signal_holds_up_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
