/*
 * machine.c - build the machine, start the guest, reset it in place, end it
 *
 * Order of construction: KVM, RAM, interrupts, the I/O bus, PCI, platform parts,
 * vCPUs. A reset parks the vCPUs, resets functions and platform, puts the vCPUs
 * back to their first state and loads the images again: no descriptor is given back,
 * so devices stay attached.
 */
#include "machine/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "machine/acpi.h"
#include "machine/boot.h"
#include "machine/intremap.h"
#include "machine/iommu.h"
#include "machine/vcpu_cpuid.h"
#include "machine/layout.h"
#include "machine/platform.h"
#include "machine/serial.h"
#include "machine/vcpu.h"

/* --- what the platform parts set off --- */

static void platform_wants_reset(void *arg)
{
	machine_request_reset(arg);
}

static void platform_wants_shutdown(void *arg)
{
	machine_request_shutdown(arg);
}

static void ged_irq(void *arg, bool level)
{
	irq_line_set(((struct machine *)arg)->irqs, GSI_GED, level);
}

static void serial_irq(void *arg, bool level)
{
	irq_line_set(((struct machine *)arg)->irqs, GSI_COM1, level);
}

static const struct platform_ops platform_ops = {
	.reset = platform_wants_reset,
	.shutdown = platform_wants_shutdown,
	.ged_irq = ged_irq,
};

/* --- interrupt remapping --- */

static bool resolve(void *arg, uint32_t source, const struct msi_message *msg,
	struct msi_message *out, bool report)
{
	return intremap_resolve(arg, source, msg, out, report);
}

static void remap_changed(void *arg)
{
	irqs_remap(((struct machine *)arg)->irqs);
}

static void remap_send(void *arg, const struct msi_message *msg)
{
	irqs_send(((struct machine *)arg)->irqs, msg);
}

static const struct intremap_ops intremap_ops = {
	.changed = remap_changed,
	.send = remap_send,
};

static int new_intremap(struct machine *m, struct err *err)
{
	const struct intremap_params p = {
		.ops = &intremap_ops,
		.arg = m,
		.memory = m->memory,
		.nr_segments = m->params->nr_segments,
		.phys_bits = m->phys_bits,
	};
	int rc;

	if (!m->params->intremap)
		return 0;
	rc = intremap_new(&p, &m->intremap);
	if (!rc)
		rc = intremap_register(m->intremap, m->bus);
	if (rc)
		return err_set(err, rc, "interrupt remapping: %s", strerror(-rc));
	m->remapper = (struct irq_remapper){ .resolve = resolve, .arg = m->intremap };
	irqs_set_remapper(m->irqs, &m->remapper);
	return 0;
}

/* --- construction --- */

static int new_pci(struct machine *m, struct err *err)
{
	struct pci_params p = {
		.nr_segments = m->params->nr_segments,
		.phys_bits = m->phys_bits,
		.ram_top = memory_top(m->memory),
		.ht_hole = m->kvm.host_is_amd,
		.wants_reset = platform_wants_reset,
		.arg = m,
	};

	if (p.ht_hole && p.ram_top > LAYOUT_HT_HOLE)
		return err_set(err, -EINVAL,
			"--memory: RAM would reach into the HyperTransport hole at 0x%llx of AMD hosts",
			LAYOUT_HT_HOLE);
	return pci_new(m->bus, &p, &m->pci, err);
}

static int new_platform(struct machine *m, struct err *err)
{
	uint64_t low = memory_range(m->memory, 0)->size;
	struct platform_params p = {
		.ops = &platform_ops,
		.arg = m,
		.ram_low = low,
		.ram_high = memory_size(m->memory) - low,
		.platform_base = pci_platform_base(m->pci),
	};
	int rc = platform_new(m->bus, &p, &m->platform);

	return rc ? err_set(err, rc, "platform devices: %s", strerror(-rc)) : 0;
}

static int new_serial(struct machine *m, struct err *err)
{
	struct serial_params p = {
		.mode = m->params->serial_mode,
		.path = m->params->serial_path,
		.set_irq = serial_irq,
		.irq_arg = m,
	};

	return m->params->has_serial ? serial_new(m->loop, m->bus, &p, &m->serial, err) : 0;
}

static int open_images(struct machine *m, struct err *err)
{
	struct boot_files p = {
		.kernel = m->params->kernel,
		.firmware = m->params->firmware,
		.initramfs = m->params->initramfs,
		.cmdline = m->params->cmdline,
	};

	return boot_open(&p, &m->boot, err);
}

/* Not refused: a guest made for such a host, like our own test guest, runs. */
static void warn_of_host(const struct machine *m)
{
	if (m->kvm.host_is_pvm)
		log_warn("this host's KVM has no hardware virtualisation (no vmx or svm in "
			 "/proc/cpuinfo): stock kernels are known to hang on it");
}

static int new_bus(struct machine *m, struct err *err)
{
	int rc = irqs_new(&m->kvm, &m->irqs);

	if (rc)
		return err_set(err, rc, "interrupt routes: %s", strerror(-rc));
	rc = io_bus_new(m->params->boot_vcpus, &m->bus);
	if (!rc)
		rc = irqs_register(m->irqs, m->bus);
	return rc ? err_set(err, rc, "out of memory") : 0;
}

int machine_new(struct loop *loop, const struct machine_params *params, struct machine **out,
	struct err *err)
{
	struct machine *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return err_set(err, -ENOMEM, "out of memory");
	m->loop = loop;
	m->params = params;
	rc = open_images(m, err);
	if (!rc)
		rc = params->intremap ? kvm_open_split(&m->kvm, err) : kvm_open(&m->kvm, err);
	if (!rc)
		warn_of_host(m);
	if (!rc)
		rc = memory_new(&m->kvm, &params->memory, &m->memory, err);
	if (!rc)
		rc = new_bus(m, err);
	m->phys_bits = cpuid_phys_bits(&m->kvm, params->max_phys_bits);
	if (!rc)
		rc = new_intremap(m, err);
	if (!rc)
		rc = new_pci(m, err);
	if (!rc)
		rc = new_platform(m, err);
	if (!rc)
		rc = new_serial(m, err);
	if (!rc)
		rc = vcpus_new(m, &m->vcpus, err);
	if (rc) {
		machine_free(m);
		return rc;
	}
	*out = m;
	return 0;
}

void machine_halt(struct machine *m)
{
	vcpus_stop(m->vcpus);
}

void machine_free(struct machine *m)
{
	if (!m)
		return;
	vcpus_free(m->vcpus);
	loop_unpost(m->loop, &m->reset_work);
	loop_unpost(m->loop, &m->reset_done_work);
	loop_unpost(m->loop, &m->shutdown_work);
	loop_unpost(m->loop, &m->failure_work);
	loop_unpost(m->loop, &m->paused_work);
	serial_free(m->serial);
	platform_free(m->platform);
	/* What was retired is freed here, and may need the rest. */
	io_bus_free(m->bus);
	pci_free(m->pci);
	irqs_free(m->irqs);
	intremap_free(m->intremap);
	memory_free(m->memory);
	kvm_close(&m->kvm);
	boot_free(m->boot);
	free(m);
}

/* --- start --- */

static void fill_viot(struct machine *m, struct acpi_viot *viot, struct acpi_params *a)
{
	uint32_t at;

	/* It is one that we have printed. */
	if (iommu_endpoint_of(m->iommu_bdf, &at))
		return;
	viot->bdf = (uint16_t)at;
	viot->nr_endpoints =
		iommu_endpoints(m->iommu, viot->endpoints, ARRAY_SIZE(viot->endpoints));
	a->viot = viot;
}

static int install_acpi(struct machine *m, uint64_t *rsdp, struct err *err)
{
	const struct machine_params *p = m->params;
	const struct pci_windows *windows[LAYOUT_MAX_SEGMENTS];
	uint32_t ids[LAYOUT_MAX_VCPUS];
	struct acpi_viot viot;
	struct acpi_params a = {
		.boot_vcpus = p->boot_vcpus,
		.max_vcpus = p->boot_vcpus, /* no CPU hotplug yet */
		.apic_ids = ids,
		.nr_segments = p->nr_segments,
		.windows = windows,
		.platform_base = pci_platform_base(m->pci),
		.serial = m->serial,
		.intremap = m->intremap,
		.phys_bits = m->phys_bits,
	};

	for (unsigned i = 0; i < p->boot_vcpus; i++)
		ids[i] = cpuid_apic_id(&p->topology, i);
	for (unsigned i = 0; i < p->nr_segments; i++)
		windows[i] = pci_segment_windows(m->pci, i);
	if (m->iommu)
		fill_viot(m, &viot, &a);
	return acpi_install(&a, m->memory, rsdp, err);
}

/*
 * Linux with EFI support that was not started by EFI ignores the reset register of a
 * hardware-reduced machine and restarts by a jump to the BIOS. It finds a reset there:
 * mov $0xfe, %al; out %al, $0x64; 1: hlt; jmp 1b
 */
static int install_reset_entry(struct machine *m, struct err *err)
{
	static const uint8_t code[] = { 0xb0, 0xfe, 0xe6, PORT_I8042_STATUS, 0xf4, 0xeb, 0xfd };
	int rc = memory_write(m->memory, LAYOUT_RESET_ENTRY, code, sizeof(code));

	return rc ? err_set(err, rc, "no RAM at 0x%llx", LAYOUT_RESET_ENTRY) : 0;
}

static int load_guest(struct machine *m, bool fresh, struct err *err)
{
	struct boot_range reserved[] = {
		{ LAYOUT_ECAM, LAYOUT_ECAM_SIZE },
		{ pci_platform_base(m->pci), LAYOUT_PLATFORM_SIZE },
	};
	struct boot_target target = {
		.memory = m->memory,
		.reserved = reserved,
		.nr_reserved = ARRAY_SIZE(reserved),
		.fresh = fresh,
	};
	struct boot_entry entry;
	int rc = install_acpi(m, &target.rsdp, err);

	if (!rc)
		rc = install_reset_entry(m, err);
	if (!rc)
		rc = boot_load(m->boot, &target, &entry, err);
	if (!rc)
		rc = vcpus_enter(m->vcpus, &entry, err);
	return rc;
}

int machine_start(struct machine *m, struct err *err)
{
	int rc = load_guest(m, true, err);

	return rc ? rc : vcpus_start(m->vcpus, err);
}

void machine_run(struct machine *m)
{
	log_info("guest starts: %s, %u vCPUs, %llu MiB", boot_kind(m->boot), m->params->boot_vcpus,
		(unsigned long long)(memory_size(m->memory) / MIB));
	vcpus_run(m->vcpus);
}

/* --- pause --- */

static void stands(struct machine *m)
{
	struct kvm_clock_data clock = { 0 };

	if (!m->pausing || m->standing)
		return;
	m->standing = true;
	m->clock_saved = !kvm_vm_ioctl(&m->kvm, KVM_GET_CLOCK, &clock);
	m->clock = clock.clock;
	m->params->events->paused(m->params->events_arg);
}

static void now_paused(struct loop_work *work)
{
	stands(container_of(work, struct machine, paused_work));
}

/* On the thread of the vCPU that parked last. */
static void pause_parked(struct machine *m)
{
	loop_post(m->loop, &m->paused_work, now_paused);
}

void machine_pause(struct machine *m)
{
	m->pausing = true;
	/* Parked for a reset, they stay so: reset_done() sees the wish. */
	if (!__atomic_load_n(&m->resetting, __ATOMIC_ACQUIRE))
		vcpus_park(m->vcpus, pause_parked);
}

void machine_resume(struct machine *m)
{
	struct kvm_clock_data clock = { .clock = m->clock };

	m->pausing = m->standing = false;
	if (m->clock_saved)
		kvm_vm_ioctl(&m->kvm, KVM_SET_CLOCK, &clock);
	m->clock_saved = false;
	vcpus_tell_of_pause(m->vcpus);
	/* A reset that the guest had asked for before it stood lets them run when it is done. */
	if (!__atomic_load_n(&m->resetting, __ATOMIC_ACQUIRE))
		vcpus_run(m->vcpus);
}

/* --- reset --- */

static void reset_done(struct loop_work *work)
{
	struct machine *m = container_of(work, struct machine, reset_done_work);

	if (m->serial)
		serial_reset(m->serial);
	__atomic_store_n(&m->resetting, false, __ATOMIC_RELEASE);
	/* Parked for the reset, they all stand already. */
	if (m->pausing)
		stands(m);
	else
		vcpus_run(m->vcpus);
	m->params->events->was_reset(m->params->events_arg);
}

static void end(struct machine *m, enum machine_exit how)
{
	m->params->events->ended(m->params->events_arg, how);
}

/* On the thread of the vCPU that parked last: devices are waited for and files read. */
static void reset_parked(struct machine *m)
{
	struct err err = { 0 };
	int rc;

	pci_reset(m->pci);
	/* All its functions stand, so that nobody is waited for. */
	if (m->iommu)
		iommu_set_bypass(m->iommu, true);
	platform_reset(m->platform);
	if (m->intremap)
		intremap_reset(m->intremap);
	rc = irqs_reset(m->irqs);
	if (rc)
		err_set(&err, rc, "IOAPIC: %s", strerror(-rc));
	if (!rc)
		rc = vcpus_reset(m->vcpus, &err);
	if (!rc)
		rc = load_guest(m, false, &err);
	if (rc) {
		log_err("reset: %s", err.text);
		machine_request_failure(m);
		return;
	}
	loop_post(m->loop, &m->reset_done_work, reset_done);
}

static void do_reset(struct loop_work *work)
{
	struct machine *m = container_of(work, struct machine, reset_work);

	if (__atomic_exchange_n(&m->resetting, true, __ATOMIC_ACQ_REL))
		return;
	/* Asked to end, it begins again: the request would be forgotten with all else it knew. */
	if (m->ending) {
		log_info("guest resets instead of ending: switched off");
		end(m, MACHINE_EXIT_OK);
		return;
	}
	log_limited(&m->reset_limit, LOG_INFO, "guest resets");
	vcpus_park(m->vcpus, reset_parked);
}

static void do_shutdown(struct loop_work *work)
{
	struct machine *m = container_of(work, struct machine, shutdown_work);

	log_info("guest has shut down");
	end(m, MACHINE_EXIT_OK);
}

static void do_failure(struct loop_work *work)
{
	end(container_of(work, struct machine, failure_work), MACHINE_EXIT_FAILED);
}

void machine_request_reset(struct machine *m)
{
	/*
	 * At once: who asked for a reset must not see what comes
	 * after it. Linux would triple-fault next.
	 */
	vcpus_park(m->vcpus, NULL);
	loop_post(m->loop, &m->reset_work, do_reset);
}

void machine_request_shutdown(struct machine *m)
{
	vcpus_stop(m->vcpus);
	loop_post(m->loop, &m->shutdown_work, do_shutdown);
}

void machine_request_failure(struct machine *m)
{
	vcpus_stop(m->vcpus);
	loop_post(m->loop, &m->failure_work, do_failure);
}

/* Linux reads the GED's register only when its interrupt comes: but it has asked for that. */
static bool hears_ged(struct machine *m)
{
	return platform_ged_used(m->platform) || irq_line_is_open(m->irqs, GSI_GED);
}

bool machine_power_button(struct machine *m)
{
	if (__atomic_load_n(&m->resetting, __ATOMIC_ACQUIRE) || !hears_ged(m))
		return false;
	platform_power_button(m->platform);
	return true;
}

bool machine_ask_to_end(struct machine *m)
{
	bool pressed = machine_power_button(m);

	m->ending |= pressed;
	return pressed;
}

/*
 * A message with NMI as its delivery mode reaches running vCPUs too, without stopping them first.
 */
int machine_nmi(struct machine *m)
{
	/* All processors, with 32-bit destinations too. */
	uint64_t high = m->kvm.split_irqchip ? 0xffffff00 : 0;
	struct msi_message msg = { .addr = high << 32 | 0xfee00000u | 0xffu << 12,
		.data = 4u << 8 };

	return irqs_send(m->irqs, &msg);
}

static void check_function(struct pci_function *fn, void *arg)
{
	bool *taken = arg;

	if (fn->ops->memory_fault && fn->ops->memory_fault(fn))
		*taken = true;
}

bool machine_memory_fault(struct machine *m)
{
	bool taken = false;

	pci_lock(m->pci);
	pci_for_each(m->pci, check_function, &taken);
	pci_unlock(m->pci);
	return taken;
}
