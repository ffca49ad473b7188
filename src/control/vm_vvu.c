/*
 * vm_vvu.c - --vvu-proxy: devices of other machines that a program in this guest serves
 */
#include "attach/vvu_proxy_device.h"
#include "control/vm_devices_priv.h"

static int begin(struct vm_devices *d, const struct vvu_proxy_config *v, struct err *err)
{
	struct vvu_proxy_device_params p = {
		.dev = vm_device_params(d, &v->at),
		.vvu = {
			.socket = v->socket,
			.shmem_size = v->shmem_size,
			.max_queues = v->max_queues,
			.disconnect = v->disconnect,
		},
	};
	struct device *dev;
	int rc;

	config_uuid(v->uuid, p.vvu.uuid);
	rc = vvu_proxy_device_attach(d->m, &p, &dev, err);
	return rc ? rc : vm_devices_add(d, dev, &v->at, err);
}

int vm_begin_vvu_proxies(struct vm_devices *d, const struct vm_config *c, struct err *err)
{
	int rc = 0;

	for (size_t i = 0; i < c->vvu_proxies.nr && !rc; i++)
		rc = begin(d, &c->vvu_proxies.items[i], err);
	return rc;
}
