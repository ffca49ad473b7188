/*
 * api_devices.h - devices of a VM that is not running: added and removed by requests
 *
 * The object in the body is one element of the list that vm.create takes. Descriptors that come
 * beside it are taps, or the one of a host device.
 *
 * Threads: loop thread.
 */
#ifndef CONTROL_API_DEVICES_H
#define CONTROL_API_DEVICES_H

#include "control/http.h"
#include "control/vm.h"

/*
 * option: "net", "disk" ... 0, and the configuration has one more device; VM_WRONG_STATE; -EEXIST
 * its name, place or socket is taken; -errno; with a text.
 */
int api_add_device(struct vm *vm, const char *option, struct http_request *req, struct err *err);

/* The body says {"id": NAME}. 0; -ENOENT there is none of that name; VM_WRONG_STATE; -errno; with a
 * text. */
int api_remove_device(struct vm *vm, const struct http_request *req, struct err *err);

#endif
