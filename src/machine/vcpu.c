/*
 * vcpu.c - vCPU threads and the exits they serve
 *
 * A thread's life is: parked, running, parked ... ended. `wanted` says what it should
 * be; a kick makes it leave the guest and look. The kicker stores `wanted`, then sets
 * immediate_exit, then sends a signal; the thread clears immediate_exit, then loads
 * `wanted`: whichever comes first, no wish is missed.
 *
 * Owns: the vCPU descriptors, their shared pages, the threads.
 * Trusts: nothing the guest does; an access nobody answers reads all-ones.
 */
#include "machine/vcpu.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/vcpu_cpuid.h"
#include "machine/layout.h"
#include "machine/vcpu_state.h"

#define VCPU_STACK (512 * KIB)

/*
 * STOP and END are not taken back: a reset under way must not set a
 * machine going that was ended meanwhile.
 */
enum wanted { WANT_RUN, WANT_PARK, WANT_STOP, WANT_END };

struct vcpu {
	struct vcpus *all;
	unsigned index;
	int fd;
	struct kvm_run *run;
	struct io_reader *reader;
	struct vcpu_state *first; /* what it was created as */
	pthread_t thread;
	bool started;
	bool ended; /* under the lock of all: must not be kicked any more */
};

struct vcpus {
	struct machine *m;
	unsigned nr;
	struct vcpu *vcpu;
	struct cpuid *cpuid;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* wanted */
	enum wanted wanted;	/* written under lock, read without */
	unsigned nr_parked;	/* under lock */
	void (*parked)(struct machine *m); /* under lock; NULL: nobody waits for it */
};

/* --- kicking --- */

static _Thread_local struct kvm_run *current_run;

static void on_kick(int signo)
{
	if (current_run)
		__atomic_store_n(&current_run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

static int kick_signal(void)
{
	return SIGRTMIN;
}

/*
 * Under the lock: a thread that has not ended then can be neither
 * joined nor its page unmapped meanwhile.
 */
static void kick_all(struct vcpus *v)
{
	for (unsigned i = 0; i < v->nr; i++) {
		if (!v->vcpu[i].started || v->vcpu[i].ended)
			continue;
		__atomic_store_n(&v->vcpu[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(v->vcpu[i].thread, kick_signal());
	}
}

static void want(struct vcpus *v, enum wanted wanted, void (*parked)(struct machine *m))
{
	pthread_mutex_lock(&v->lock);
	if (v->wanted < WANT_STOP || wanted > v->wanted) {
		/* A guest's wish to be parked does not take back what the loop wants done then. */
		if (parked || wanted != WANT_PARK)
			v->parked = parked;
		__atomic_store_n(&v->wanted, wanted, __ATOMIC_SEQ_CST);
		pthread_cond_broadcast(&v->changed);
	}
	if (wanted != WANT_RUN)
		kick_all(v);
	pthread_mutex_unlock(&v->lock);
}

/* --- exits --- */

/* The pieces of an access are powers of two: KVM may hand out 3, 5, 6 or 7 bytes of a split one. */
static unsigned largest_piece(unsigned len)
{
	return len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
}

static void access_bytes(struct vcpu *c, enum io_space space, uint64_t addr, uint8_t *data,
	unsigned len, bool is_write)
{
	struct io_bus *bus = c->all->m->bus;

	for (unsigned done = 0; done < len;) {
		unsigned n = largest_piece(len - done);
		uint64_t value = 0;
		bool known;

		if (is_write) {
			memcpy(&value, data + done, n);
			known = io_write(bus, c->reader, space, addr + done, n, value);
		} else {
			known = io_read(bus, c->reader, space, addr + done, n, &value);
			memcpy(data + done, &value, n);
		}
		if (!known)
			log_debug("vcpu%u: nobody at %s 0x%llx (%s of %u)", c->index,
				space == IO_PORT ? "port" : "address",
				(unsigned long long)(addr + done), is_write ? "write" : "read", n);
		done += n;
	}
}

static void exit_io(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (unsigned i = 0; i < run->io.count; i++, data += run->io.size)
		access_bytes(c, IO_PORT, run->io.port, data, run->io.size,
			run->io.direction == KVM_EXIT_IO_OUT);
}

static void exit_mmio(struct vcpu *c)
{
	access_bytes(c, IO_MMIO, c->run->mmio.phys_addr, c->run->mmio.data,
		MIN(c->run->mmio.len, 8u), c->run->mmio.is_write);
}

/* Whose processor stopped, where, and on what: the first things anyone asks. */
static void log_place(struct vcpu *c, const char *what)
{
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };

	ioctl(c->fd, KVM_GET_REGS, &regs);
	ioctl(c->fd, KVM_GET_SREGS, &sregs);
	log_err("vcpu%u: %s at rip 0x%llx (rsp 0x%llx, cr0 0x%llx, cr3 0x%llx, cs 0x%x)", c->index,
		what, (unsigned long long)regs.rip, (unsigned long long)regs.rsp,
		(unsigned long long)sregs.cr0, (unsigned long long)sregs.cr3, sregs.cs.selector);
}

static void fail(struct vcpu *c, const char *fmt, ...)
{
	char what[160];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	log_place(c, what);
	machine_request_failure(c->all->m);
}

static void exit_internal_error(struct vcpu *c)
{
	const struct kvm_run *run = c->run;

	switch (run->internal.suberror) {
	case KVM_INTERNAL_ERROR_EMULATION:
		fail(c, "KVM cannot emulate an instruction%s",
			c->all->m->kvm.host_is_pvm ?
				" (this host's KVM has no hardware virtualisation, stock kernels "
				"do not run on it)" :
				"");
		break;
	default:
		fail(c, "KVM internal error %u", run->internal.suberror);
	}
}

static void exit_system_event(struct vcpu *c)
{
	switch (c->run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		machine_request_shutdown(c->all->m);
		break;
	case KVM_SYSTEM_EVENT_RESET:
		machine_request_reset(c->all->m);
		break;
	default:
		fail(c, "system event %u", c->run->system_event.type);
	}
}

/*
 * KVM could not reach memory that it was given: a device process shrank the file behind a mapped
 * BAR. Devices look after their own; only when none did, guest RAM itself is at fault.
 */
static void exit_fault(struct vcpu *c)
{
	if (!machine_memory_fault(c->all->m))
		fail(c, "the host cannot provide guest memory (out of memory or huge pages)");
}

/* One visit to the guest and what it ended with. False: it ended with nothing to answer. */
static bool serve(struct vcpu *c)
{
	if (ioctl(c->fd, KVM_RUN, 0) < 0) {
		if (errno == EFAULT)
			exit_fault(c);
		else if (errno != EINTR && errno != EAGAIN)
			fail(c, "KVM_RUN: %s", strerror(errno));
		return false;
	}
	switch (c->run->exit_reason) {
	case KVM_EXIT_IO:
		exit_io(c);
		break;
	case KVM_EXIT_MMIO:
		exit_mmio(c);
		break;
	case KVM_EXIT_IOAPIC_EOI:
		irqs_eoi(c->all->m->irqs, c->run->eoi.vector);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SHUTDOWN:
		fail(c, "triple fault");
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		exit_system_event(c);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		fail(c, "the processor refuses to enter the guest, reason 0x%llx",
			(unsigned long long)c->run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		exit_internal_error(c);
		break;
	default:
		fail(c, "unexpected exit %u", c->run->exit_reason);
	}
	return true;
}

/* --- threads --- */

/* Of one instruction: KVM hands out its reads, then its writes, eight bytes at a time. */
#define MAX_PIECES 32

/*
 * Let KVM finish the instruction that an exit was served for, before anyone looks at the registers.
 * It may exit again for the instruction's next piece; one that is left open would be finished after
 * a reset, on the new guest's registers.
 */
static void finish_instruction(struct vcpu *c)
{
	for (unsigned i = 0; i < MAX_PIECES; i++) {
		__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		if (!serve(c))
			return;
	}
}

/*
 * The last to park does what the parking was for: it may wait for device processes, as any vCPU
 * may, which the main loop must not. Functions stay allocated meanwhile (io_enter). Called and
 * returns with the lock held.
 */
static void run_parked(struct vcpu *c)
{
	struct vcpus *v = c->all;

	/*
	 * Again, if another parking was asked for meanwhile: with one
	 * vCPU nobody else would see that.
	 */
	while (v->parked && v->nr_parked == v->nr) {
		void (*parked)(struct machine *m) = v->parked;

		v->parked = NULL;
		pthread_mutex_unlock(&v->lock);
		io_enter(v->m->bus, c->reader);
		parked(v->m);
		io_leave(c->reader);
		pthread_mutex_lock(&v->lock);
	}
}

/* Stand still until told to run or end. Returns false for the end. */
static bool park(struct vcpu *c)
{
	struct vcpus *v = c->all;
	bool go_on;

	pthread_mutex_lock(&v->lock);
	v->nr_parked++;
	run_parked(c);
	while (v->wanted == WANT_PARK || v->wanted == WANT_STOP) {
		pthread_cond_wait(&v->changed, &v->lock);
		run_parked(c); /* asked to park again before this thread had gone on */
	}
	v->nr_parked--;
	go_on = v->wanted == WANT_RUN;
	c->ended = !go_on;
	pthread_mutex_unlock(&v->lock);
	return go_on;
}

static void pin(struct vcpu *c)
{
	const struct machine_params *p = c->all->m->params;
	cpu_set_t *set = NULL;
	size_t size = CPU_ALLOC_SIZE(8192);

	for (unsigned i = 0; i < p->nr_affinity; i++) {
		const struct vcpu_cpus *a = &p->affinity[i];

		if (a->vcpu != c->index)
			continue;
		set = CPU_ALLOC(8192);
		if (!set)
			return;
		CPU_ZERO_S(size, set);
		for (size_t n = 0; n < a->nr; n++)
			CPU_SET_S(a->cpus[n], size, set);
		if (sched_setaffinity(0, size, set) < 0)
			log_warn("vcpu%u: cannot be bound to its host CPUs: %s", c->index,
				strerror(errno));
		CPU_FREE(set);
	}
}

/* The kick must reach this thread, whatever is blocked in the one that started it. */
static void accept_kicks(struct vcpu *c)
{
	sigset_t set;

	current_run = c->run;
	sigemptyset(&set);
	sigaddset(&set, kick_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *c = arg;
	struct vcpus *v = c->all;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", c->index);
	pthread_setname_np(pthread_self(), name);
	pin(c);
	accept_kicks(c);
	while (park(c)) {
		for (;;) {
			__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
			if (__atomic_load_n(&v->wanted, __ATOMIC_SEQ_CST) != WANT_RUN)
				break;
			serve(c);
		}
		finish_instruction(c);
	}
	return NULL;
}

int vcpus_start(struct vcpus *v, struct err *err)
{
	struct sigaction kick = { .sa_handler = on_kick };
	pthread_attr_t attr;
	int rc = 0;

	sigaction(kick_signal(), &kick, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, VCPU_STACK);
	for (unsigned i = 0; i < v->nr && !rc; i++) {
		rc = pthread_create(&v->vcpu[i].thread, &attr, vcpu_main, &v->vcpu[i]);
		v->vcpu[i].started = !rc;
	}
	pthread_attr_destroy(&attr);
	return rc ? err_set(err, -rc, "cannot start a thread for a vCPU: %s", strerror(rc)) : 0;
}

void vcpus_run(struct vcpus *v)
{
	want(v, WANT_RUN, NULL);
}

void vcpus_park(struct vcpus *v, void (*parked)(struct machine *m))
{
	want(v, WANT_PARK, parked);
}

void vcpus_stop(struct vcpus *v)
{
	want(v, WANT_STOP, NULL);
}

/* --- creation, reset, end --- */

static int create_one(struct vcpus *v, unsigned index, struct err *err)
{
	const struct machine *m = v->m;
	unsigned long id = cpuid_apic_id(&m->params->topology, index);
	struct vcpu *c = &v->vcpu[index];
	int rc;

	*c = (struct vcpu){ .all = v, .index = index, .reader = io_bus_reader(m->bus, index) };
	c->fd = ioctl(m->kvm.vm_fd, KVM_CREATE_VCPU, id);
	if (c->fd < 0)
		return err_set(err, -errno, "vcpu%u: KVM_CREATE_VCPU: %s", index, strerror(errno));
	c->run = mmap(NULL, m->kvm.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (c->run == MAP_FAILED) {
		c->run = NULL;
		return err_set(err, -errno, "vcpu%u: mmap: %s", index, strerror(errno));
	}
	rc = cpuid_set(v->cpuid, c->fd, index);
	if (rc)
		return err_set(err, rc, "vcpu%u: KVM_SET_CPUID2: %s", index, strerror(-rc));
	rc = vcpu_state_capture(&m->kvm, c->fd, &c->first);
	if (rc)
		return err_set(err, rc, "vcpu%u: cannot read its state: %s", index, strerror(-rc));
	return 0;
}

static int check_count(const struct machine *m, struct err *err)
{
	unsigned max = m->params->max_vcpus;
	unsigned top = cpuid_apic_id(&m->params->topology, max - 1);

	if (max > m->kvm.max_vcpus)
		return err_set(err, -EINVAL, "--cpus: this host's KVM can run %u vCPUs, not %u",
			m->kvm.max_vcpus, max);
	if (top >= 255)
		return err_set(err, -EINVAL,
			"--cpus topology=: the last vCPU would get APIC id %u, the highest is 254; "
			"choose powers of two",
			top);
	return 0;
}

int vcpus_new(struct machine *m, struct vcpus **out, struct err *err)
{
	struct cpuid_params params = {
		.topology = m->params->topology,
		.nr_vcpus = m->params->max_vcpus,
		.phys_bits = m->phys_bits,
	};
	struct vcpus *v;
	int rc = check_count(m, err);

	if (rc)
		return rc;
	v = calloc(1, sizeof(*v));
	if (!v)
		return err_set(err, -ENOMEM, "out of memory");
	v->m = m;
	v->wanted = WANT_PARK;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->changed, NULL);
	v->vcpu = calloc(m->params->boot_vcpus, sizeof(*v->vcpu));
	rc = v->vcpu ? cpuid_new(&m->kvm, &params, &v->cpuid, err) :
		       err_set(err, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < m->params->boot_vcpus && !rc; i++) {
		v->nr = i + 1;
		rc = create_one(v, i, err);
	}
	if (rc) {
		vcpus_free(v);
		return rc;
	}
	*out = v;
	return 0;
}

void vcpus_free(struct vcpus *v)
{
	if (!v)
		return;
	want(v, WANT_END, NULL);
	for (unsigned i = 0; i < v->nr; i++)
		if (v->vcpu[i].started)
			pthread_join(v->vcpu[i].thread, NULL);
	for (unsigned i = 0; i < v->nr; i++) {
		struct vcpu *c = &v->vcpu[i];

		if (c->run)
			munmap(c->run, v->m->kvm.run_size);
		if (c->fd > 0)
			fd_close(&c->fd);
		vcpu_state_free(c->first);
	}
	cpuid_free(v->cpuid);
	free(v->vcpu);
	pthread_cond_destroy(&v->changed);
	pthread_mutex_destroy(&v->lock);
	free(v);
}

/* Fails for a guest without kvmclock, which has nothing to be told by. */
void vcpus_tell_of_pause(struct vcpus *v)
{
	for (unsigned i = 0; i < v->nr; i++)
		ioctl(v->vcpu[i].fd, KVM_KVMCLOCK_CTRL, 0);
}

int vcpus_reset(struct vcpus *v, struct err *err)
{
	for (unsigned i = 0; i < v->nr; i++) {
		int rc = vcpu_state_restore(v->vcpu[i].first, v->vcpu[i].fd);

		if (rc)
			return err_set(err, rc, "vcpu%u: cannot be reset: %s", i, strerror(-rc));
	}
	return 0;
}

int vcpus_enter(struct vcpus *v, const struct boot_entry *entry, struct err *err)
{
	int rc = vcpu_state_enter(v->vcpu[0].fd, entry);

	return rc ? err_set(err, rc, "vcpu0: cannot set its registers: %s", strerror(-rc)) : 0;
}
