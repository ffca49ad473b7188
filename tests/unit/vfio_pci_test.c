/* vfio_pci_test.c - resets of the machine and of the function */
#include "vfio_rich.h"

static void job_setup_for_reset(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 16);
	cfg_write(w, r, MSIX_POS + 2, 2, PCI_MSIX_FLAGS_ENABLE);
	program_vector(w, r, 1, 0);
}

static void job_reset(struct world *w, struct io_reader *r, void *arg)
{
	pci_reset(w->m.pci);
}

static void job_after_reset(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2), 0);
	assert_int_equal(cfg_read(w, r, PCI_CACHE_LINE_SIZE, 1), 0);
	assert_int_equal(cfg_read(w, r, MSIX_POS + 2, 2), 7);
	decode_on(w, r);
	assert_int_equal(reg_read(w, r, 4, 0x2000 + 16 + 12, 4), 1);
}

static void a_reset_of_the_machine_resets_the_device_and_its_interrupts(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_setup_for_reset, NULL);
	fake_forget(f);
	as_vcpu(w, job_reset, NULL);
	as_vcpu(w, job_after_reset, NULL);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 1);
	check_story(f, "MSI-X- INTx+0:1 INTx.unmask+0:1");
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 0);
	assert_int_equal(fake_count(f, VFIO_USER_VERSION), 0);
	end(w, f);
}

static bool ignores_reset(struct fake *f, const struct rec *r)
{
	return r->h.command == VFIO_USER_DEVICE_RESET;
}

static void a_reset_that_is_not_answered_is_a_loss_and_made_up_for(void **state)
{
	struct fake *f = rich();
	struct world *w = world_new();
	struct user_device_params p = world_params(f);
	struct err err = { 0 };

	fake_start(f);
	p.times.request_ms = 100;
	assert_int_equal(world_attach_with(w, &p), 0);
	assert_int_equal(device_plug(w->dev, &err), 0);
	fake_set_hook(f, ignores_reset, 0);
	as_vcpu(w, job_reset, NULL);
	fake_set_hook(f, NULL, 0);
	fake_hang_up(f);
	until_back(w, 1);
	assert_int_equal(world_log(w, "DEVICE_RESET was not answered within 100 ms"), 1);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 1);
	end(w, f);
}

static void a_reset_during_a_reconnect_reaches_the_device(void **state)
{
	struct fake *f = rich();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_setup_for_reset, NULL);
	fake_kill(f);
	until_lost(w);
	fake_forget(f);
	fake_set_hook(f, holds_command, 0);
	fake_start(f);
	world_until(w, is_held, f);
	as_vcpu(w, job_reset, NULL);
	let_go(f);
	until_back(w, 1);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 1);
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 0);
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND), 0);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0) >= 0);
	as_vcpu(w, job_after_reset, NULL);
	end(w, f);
}

static void job_flr(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	fake_forget(arg);
	cfg_write(w, r, EXP_POS + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
}

static void after_a_function_level_reset_the_device_is_told_its_state_again(void **state)
{
	struct fake *f = rich();
	char seen[256];
	struct world *w;

	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_flr, f);
	config_story(f, seen, sizeof(seen));
	assert_string_equal(seen, "88:2=8000 88:2=0 52:2=84 42:2=7 4:2=3");
	check_story(f, "INTx- INTx+0:1 INTx.unmask+0:1");
	end(w, f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reset_of_the_machine_resets_the_device_and_its_interrupts),
		cmocka_unit_test(a_reset_that_is_not_answered_is_a_loss_and_made_up_for),
		cmocka_unit_test(a_reset_during_a_reconnect_reaches_the_device),
		cmocka_unit_test(after_a_function_level_reset_the_device_is_told_its_state_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
