/*
 * check_devices.h - the part of options_check() that is about devices
 */
#ifndef CONTROL_CHECK_DEVICES_H
#define CONTROL_CHECK_DEVICES_H

#include "base/err.h"
#include "control/config.h"

/*
 * Places, names and what depends on each other. Gives names to
 * devices without. 0 or -errno with a text.
 */
int check_devices(struct vm_config *config, struct err *err);

#endif
