/* vfio_user_test.c - a device that is lost, that hangs, that talks nonsense, and that returns */
#include "vfio_world.h"

#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/sandbox.h"

static bool bad_bar_read(struct fake *f, const struct rec *r)
{
	struct {
		struct vfio_user_region_access a;
		uint8_t byte;
	} p = { .byte = 0 };

	memcpy(&p.a, r->data, sizeof(p.a));
	if (r->h.command != VFIO_USER_REGION_READ || p.a.region == CONFIG)
		return false;
	f->hook = NULL;
	switch (f->hook_arg) {
	case 0: /* too few bytes */
		fake_reply(f, r, r->data, 16, NULL, 0);
		break;
	case 1: /* the wrong count */
		p.a.count = 77;
		fake_reply(f, r, &p, 17, NULL, 0);
		break;
	case 2: /* twice */
		fake_reply(f, r, &p, 17, NULL, 0);
		fake_reply(f, r, &p, 17, NULL, 0);
		break;
	case 3:
		garbage(f, r);
		break;
	case 4:
		send_fds(f, r, 3);
		break;
	case 5:
		closes(f, r);
		break;
	case 6: /* never */
		break;
	}
	return true;
}

static void job_read_during_loss(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	reg_read(w, r, 2, 0, 1);
	/* An answer too many may only be found at the next access. */
	reg_read(w, r, 2, 0, 1);
}

static void job_reads_zero(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0);
}

static void nonsense_while_running_is_a_loss_and_then_a_return(void **state)
{
	for (unsigned i = 0; i <= 6; i++) {
		struct fake *f = fake_new();
		struct world *w = world_new();
		struct user_device_params p = world_params(f);
		struct err err = { 0 };
		int fds;

		fake_start(f);
		p.times.request_ms = i == 6 ? 100 : 0;
		assert_int_equal(world_attach_with(w, &p), 0);
		assert_int_equal(device_plug(w->dev, &err), 0);
		fds = fd_count();
		fake_set_hook(f, bad_bar_read, i);
		as_vcpu(w, job_read_during_loss, NULL);
		until_back(w, 1);
		as_vcpu(w, job_reads_zero, NULL);
		assert_int_equal(world_log(w, "is away until"), 1);
		assert_int_equal(world_log(w, ""), 2);
		/* The server holds as many of ours as before. */
		assert_int_equal(fd_count(), fds);
		world_free(w);
		fake_free(f);
	}
}

static void job_read_slow(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0xff);
}

static bool ignores_bars(struct fake *f, const struct rec *r)
{
	struct vfio_user_region_access a;

	memcpy(&a, r->data, sizeof(a));
	return r->h.command == VFIO_USER_REGION_READ && a.region != CONFIG;
}

static void several_vcpus_come_back_when_a_server_hangs(void **state)
{
	struct fake *f = fake_new();
	struct world *w = world_new();
	struct user_device_params p = world_params(f);
	struct vcpu_job jobs[4];
	struct err err = { 0 };

	fake_start(f);
	p.times.request_ms = 200;
	assert_int_equal(world_attach_with(w, &p), 0);
	assert_int_equal(device_plug(w->dev, &err), 0);
	as_vcpu(w, job_decode_on, NULL);
	fake_set_hook(f, ignores_bars, 0);
	for (unsigned i = 0; i < 4; i++) {
		jobs[i] = (struct vcpu_job){ .w = w, .fn = job_read_slow, .index = i };
		assert_int_equal(pthread_create(&jobs[i].thread, NULL, vcpu_main, &jobs[i]), 0);
	}
	until_back(w, 1);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(jobs[i].thread, NULL);
	assert_true(world_log(w, "REGION_READ was not answered within 200 ms") >= 1);
	fake_set_hook(f, NULL, 0);
	world_free(w);
	fake_free(f);
}

static void job_state(struct world *w, struct io_reader *r, void *arg)
{
	cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 16);
	cfg_write(w, r, PCI_INTERRUPT_LINE, 1, 9);
}

static void job_gone(struct world *w, struct io_reader *r, void *arg)
{
	assert_int_equal(cfg_read(w, r, PCI_VENDOR_ID, 4), 0x0dc8494f);
	assert_int_equal(cfg_read(w, r, PCI_COMMAND, 2) & 7, 7);
	assert_int_equal(cfg_read(w, r, PCI_CACHE_LINE_SIZE, 1), 16);
	assert_int_equal(reg_read(w, r, 2, 0, 1), 0xff);
	reg_write(w, r, 2, 0, 1, 0x33);
	cfg_write(w, r, PCI_CACHE_LINE_SIZE, 1, 8);
}

static void a_server_that_comes_back_is_told_all_again(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	uint8_t fresh[256];

	memcpy(fresh, f->config, sizeof(fresh));
	fake_start(f);
	w = world_with(f);
	as_vcpu(w, job_state, NULL);
	fake_kill(f);
	until_lost(w);
	as_vcpu(w, job_gone, NULL);

	memcpy(f->config, fresh, sizeof(fresh)); /* it forgot everything */
	f->bytes[2][0] = 0x77;
	f->nr_recs = 0;
	fake_start(f);
	until_back(w, 1);
	assert_int_equal(fake_count(f, VFIO_USER_DEVICE_RESET), 0);
	assert_int_equal(fake_count(f, VFIO_USER_DMA_MAP), 1);
	assert_int_equal(fake_byte(f, CONFIG, PCI_COMMAND) & 7, 7);
	assert_int_equal(fake_byte(f, CONFIG, PCI_CACHE_LINE_SIZE), 8);
	assert_int_equal(fake_byte(f, CONFIG, PCI_INTERRUPT_LINE), 9);
	assert_true(fake_irq_fd(f, VFIO_USER_IRQ_INTX, 0) >= 0);
	assert_true(fd_clear(fake_unmask_fd(f))); /* told to look at its level again */
	assert_int_equal(fake_byte(f, 2, 0), 0x77);
	assert_int_equal(world_log(w, ""), 2);
	world_free(w);
	fake_free(f);
}

static bool is_said(struct world *w, void *arg)
{
	return world_log(w, arg) > 0;
}

static bool asked_thrice(struct world *w, void *arg)
{
	return fake_count(arg, VFIO_USER_VERSION) >= 3;
}

static void another_device_is_refused_with_one_line_until_the_right_one_is_there(void **state)
{
	char ids[] = "the device stays away: it is another device: 494f:1111, not 494f:0dc8";
	char region[] = "it is another device: region 2 has 0x200 bytes (rw), not 0x100 (rw)";
	char irqs[] = "it is another device: 0 interrupts of type 0";
	struct fake *f = fake_new();
	struct world *w;

	fake_start(f);
	w = world_with(f);
	fake_kill(f);
	put16(f->config + PCI_DEVICE_ID, 0x1111);
	f->nr_recs = 0;
	fake_start(f);
	world_until(w, is_said, ids);
	/* Refused again and again, said once. */
	fake_forget(f);
	world_until(w, asked_thrice, f);
	assert_int_equal(world_log(w, ids), 1);
	fake_kill(f);

	put16(f->config + PCI_DEVICE_ID, 0x0dc8);
	f->regions[2].size = 512;
	fake_start(f);
	world_until(w, is_said, region);
	fake_kill(f);

	f->regions[2].size = 256;
	f->irqs[VFIO_USER_IRQ_INTX].count = 0;
	fake_start(f);
	world_until(w, is_said, irqs);
	fake_kill(f);

	f->irqs[VFIO_USER_IRQ_INTX].count = 1;
	fake_start(f);
	until_back(w, 1);
	world_free(w);
	fake_free(f);
}

static void a_hundred_returns_leak_nothing(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	int fds = 0;

	mappable(f, 0, 0x4000, 0x4000);
	doorbell(f, 8, 0);
	f->twin = true;
	f->json = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
	fake_start(f);
	w = world_with(f);
	for (unsigned i = 1; i <= 100; i++) {
		fake_hang_up(f);
		until_back(w, i);
		if (i == 3)
			fds = fd_count();
	}
	assert_int_equal(fd_count(), fds);
	assert_int_equal(world_log(w, ""), 200);
	world_free(w);
	fake_free(f);
}

static void job_waits(struct world *w, struct io_reader *r, void *arg)
{
	decode_on(w, r);
	reg_read(w, r, 2, 0, 1);
}

static bool asked_bar(struct world *w, void *arg)
{
	struct fake *f = arg;
	bool yes = false;

	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < f->nr_recs; i++) {
		struct vfio_user_region_access a;

		memcpy(&a, f->recs[i].data, sizeof(a));
		yes = yes || (f->recs[i].h.command == VFIO_USER_REGION_READ && a.region == 2);
	}
	pthread_mutex_unlock(&f->lock);
	return yes;
}

/* Attached with a deadline that is not the reason why anything ends. */
static struct world *patient_world(struct fake *f)
{
	struct world *w = world_new();
	struct user_device_params p = world_params(f);
	struct err err = { 0 };

	p.times.request_ms = 3600 * 1000;
	assert_int_equal(world_attach_with(w, &p), 0);
	assert_int_equal(device_plug(w->dev, &err), 0);
	return w;
}

static void freeing_a_device_wakes_the_vcpu_that_waits_for_it(void **state)
{
	struct fake *f = fake_new();
	struct vcpu_job job = { .fn = job_waits };
	struct world *w;

	fake_start(f);
	w = patient_world(f);
	job.w = w;
	fake_set_hook(f, ignores_bars, 0);
	assert_int_equal(pthread_create(&job.thread, NULL, vcpu_main, &job), 0);
	world_until(w, asked_bar, f);
	device_free(w->dev);
	w->dev = NULL;
	pthread_join(job.thread, NULL);
	pci_lock(w->m.pci);
	io_reap(w->m.bus);
	pci_unlock(w->m.pci);
	assert_int_equal(world_log(w, ""), 0);
	world_free(w);
	fake_free(f);
}

static void nonsense_on_the_twin_socket_wakes_the_vcpu_that_waits(void **state)
{
	struct fake *f = fake_new();
	struct vcpu_job job = { .fn = job_waits };
	struct world *w;

	f->json = "{\"capabilities\":{\"twin_socket\":{\"supported\":true,\"fd_index\":0}}}";
	f->twin = true;
	fake_start(f);
	w = patient_world(f);
	job.w = w;
	fake_set_hook(f, ignores_bars, 0);
	assert_int_equal(pthread_create(&job.thread, NULL, vcpu_main, &job), 0);
	world_until(w, asked_bar, f);
	fake_set_hook(f, NULL, 0);
	fake_command(
		f, true, VFIO_USER_REGION_READ, 1, VFIO_USER_TYPE_REPLY, "0123456789abcdef", 16);
	until_back(w, 1);
	pthread_join(job.thread, NULL);
	assert_int_equal(world_log(w, "a reply over the socket for the server's commands"), 1);
	world_free(w);
	fake_free(f);
}

static void job_race(struct world *w, struct io_reader *r, void *arg)
{
	_Atomic bool *stop = arg;

	decode_on(w, r);
	while (!atomic_load(stop)) {
		reg_write(w, r, 2, 0, 1, 1);
		reg_read(w, r, 2, 0, 1);
		reg_write(w, r, 0, 0, 4, 1);
		cfg_read(w, r, PCI_STATUS, 2);
		cfg_write(w, r, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
		cfg_write(w, r, PCI_COMMAND, 2,
			PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_INTX_DISABLE);
	}
}

static void vcpus_go_on_while_the_device_comes_and_goes(void **state)
{
	struct fake *f = fake_new();
	struct world *w;
	struct vcpu_job jobs[3];
	_Atomic bool stop = false;

	fake_start(f);
	w = world_with(f);
	for (unsigned i = 0; i < 3; i++) {
		jobs[i] = (struct vcpu_job){ .w = w, .fn = job_race, .arg = &stop, .index = i };
		assert_int_equal(pthread_create(&jobs[i].thread, NULL, vcpu_main, &jobs[i]), 0);
	}
	for (unsigned i = 1; i <= 20; i++) {
		fake_hang_up(f);
		until_back(w, i);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(jobs[i].thread, NULL);
	fake_forget(f);
	as_vcpu(w, job_registers, NULL);
	world_free(w);
	fake_free(f);
}

/* Devices may be added at any time; a program that is confined opens no file for that. */
static void a_device_is_attached_in_the_sandbox(void **state)
{
	static const struct sandbox_call calls[] = {
		{ SYS_socket, "to the device process" },
		{ SYS_connect, "likewise" },
	};
	struct fake *f = fake_new();
	struct world *w = world_new();
	struct err err = { 0 };
	int status;
	pid_t pid;

	fake_start(f);
	pid = fork();
	if (!pid) {
		if (sandbox_privileges(0, &err) ||
			sandbox_calls(calls, ARRAY_SIZE(calls), SANDBOX_KILL, &err))
			_exit(1);
		_exit(world_attach(w, f) ? 2 : 0);
	}
	/* The timer of base/kick.h may come here. */
	while (waitpid(pid, &status, 0) < 0)
		assert_int_equal(errno, EINTR);
	assert_int_equal(status, 0);
	world_free(w);
	fake_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nonsense_while_running_is_a_loss_and_then_a_return),
		cmocka_unit_test(several_vcpus_come_back_when_a_server_hangs),
		cmocka_unit_test(a_server_that_comes_back_is_told_all_again),
		cmocka_unit_test(
			another_device_is_refused_with_one_line_until_the_right_one_is_there),
		cmocka_unit_test(a_hundred_returns_leak_nothing),
		cmocka_unit_test(freeing_a_device_wakes_the_vcpu_that_waits_for_it),
		cmocka_unit_test(nonsense_on_the_twin_socket_wakes_the_vcpu_that_waits),
		cmocka_unit_test(vcpus_go_on_while_the_device_comes_and_goes),
		cmocka_unit_test(a_device_is_attached_in_the_sandbox),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
