/*
 * vm_devices.c - begin every route's devices, wait for all, plug them in order
 *
 * Attaches go on at the same time. When the last has ended well, the devices are plugged: first
 * those that name their slot, so that the others do not take it, then the rest, each group in the
 * order in which they were begun. So slots do not depend on which server was faster.
 *
 * Owns: the devices. Trusts: nothing; a device that cannot be attached ends the whole with its
 * text.
 */
#include "control/vm_devices_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "attach/user_device.h"
#include "attach/viommu.h"
#include "base/fd.h"
#include "base/util.h"

/* --- what the routes use --- */

static void finish(struct vm_devices *d);

void vm_device_attached(void *arg, struct device *dev, int rc, const struct err *err)
{
	struct vm_devices *d = arg;

	assert(d->nr_pending);
	if (rc)
		d->done(d->arg, rc, err);
	else if (!--d->nr_pending)
		finish(d);
}

int vm_devices_add(struct vm_devices *d, struct device *dev, const struct device_config *at,
	struct err *err)
{
	bool named_slot = at->pci_device_id != CONFIG_SLOT_ANY;
	struct held *held = reallocarray(d->held, d->nr + 1, sizeof(*held));

	if (!held) {
		device_free(dev);
		return err_set(err, -ENOMEM, "out of memory");
	}
	d->held = held;
	d->held[d->nr++] = (struct held){ dev, named_slot };
	d->nr_pending++;
	return 0;
}

struct device_params vm_device_params(struct vm_devices *d, const struct device_config *at)
{
	return (struct device_params){
		.id = at->id,
		.iommu = at->iommu ? d->viommu : NULL,
		.segment = at->pci_segment,
		.slot = at->pci_device_id == CONFIG_SLOT_ANY ? PCI_SLOT_ANY : at->pci_device_id,
		.attached = vm_device_attached,
		.arg = d,
	};
}

/* --- routes --- */

static int begin_user_devices(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	const struct user_device_list *list = &c->user_devices;
	int rc = 0;

	for (size_t i = 0; i < list->nr && !rc; i++) {
		const struct user_device_config *u = &list->items[i];
		struct user_device_params p = {
			.dev = vm_device_params(d, &u->at),
			.socket = u->socket,
		};
		struct device *dev;

		rc = user_device_attach(d->m, &p, &dev, err);
		if (!rc)
			rc = vm_devices_add(d, dev, &u->at, err);
	}
	return rc;
}

/* Before all who may be behind it. */
static int begin_iommu(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	const struct viommu_params p = {
		.id = "_iommu", .address_bits = c->platform.iommu_address_width
	};

	return config_wants_iommu(c) ? viommu_new(d->m, &p, &d->viommu, err) : 0;
}

static int (*const routes[])(struct vm_devices *, const struct vm_config *, struct err *) = {
	begin_iommu,
	vm_begin_host_devices,
	begin_user_devices,
	vm_begin_generic_vhost_users,
	vm_begin_fs,
	vm_begin_vvu_proxies,
	vm_begin_disks,
	vm_begin_nets,
	vm_begin_rng,
	vm_begin_vsock,
	vm_begin_console,
};

/* --- all of them --- */

static int plug_all(struct vm_devices *d, struct err *err)
{
	int rc = 0;

	for (int named = 1; named >= 0; named--) {
		if (!named && !rc && d->viommu)
			rc = viommu_plug(d->viommu, PCI_SLOT_ANY, err);
		for (size_t i = 0; i < d->nr && !rc; i++)
			if (d->held[i].named_slot == named)
				rc = device_plug(d->held[i].dev, err);
	}
	return rc;
}

static void finish(struct vm_devices *d)
{
	struct err err = { 0 };
	int rc = plug_all(d, &err);

	d->done(d->arg, rc, &err);
}

static void none_to_wait_for(struct loop_work *work)
{
	finish(container_of(work, struct vm_devices, none_work));
}

int vm_devices_begin(struct machine *m, struct spawner *spawner, struct worker *closer,
	const struct vm_config *c,
	vm_devices_done_fn done, void *arg, struct vm_devices **out, struct err *err)
{
	struct vm_devices *d = calloc(1, sizeof(*d));
	int rc = 0;

	if (!d)
		return err_set(err, -ENOMEM, "out of memory");
	*d = (struct vm_devices){
		.m = m, .spawner = spawner, .closer = closer, .done = done, .arg = arg
	};
	char_end_init(&d->console);
	d->vsock_fd = -1;
	for (size_t i = 0; i < ARRAY_SIZE(routes) && !rc; i++)
		rc = routes[i](d, c, err);
	if (rc) {
		vm_devices_free(d);
		return rc;
	}
	if (!d->nr_pending)
		loop_post(m->loop, &d->none_work, none_to_wait_for);
	*out = d;
	return 0;
}

size_t vm_devices_nr(const struct vm_devices *d)
{
	return d->nr;
}

const struct device *vm_devices_at(const struct vm_devices *d, size_t i)
{
	return d->held[i].dev;
}

const char *vm_devices_console_pty(const struct vm_devices *d)
{
	return d->console.pty_slave >= 0 ? d->console.path : NULL;
}

void vm_devices_free(struct vm_devices *d)
{
	if (!d)
		return;
	loop_unpost(d->m->loop, &d->none_work);
	for (size_t i = 0; i < d->nr; i++)
		device_free(d->held[i].dev);
	vm_end_host_devices(d);
	viommu_free(d->viommu);
	free(d->held);
	char_end_fini(&d->console);
	if (d->vsock_fd >= 0)
		unlink(d->vsock_path);
	fd_close(&d->vsock_fd);
	free(d->vsock_path);
	free(d);
}
