/*
 * config_json.h - a configuration as JSON: the body of vm.create, the `config` of vm.info
 *
 * Keys are those of the option table. Reading is strict: a key that nobody knows is refused by
 * name, like a value of the wrong type. What this version lacks is refused with the reason, unless
 * the client only says that it does not want it, or sends the default.
 *
 * Threads: any, as long as nobody else uses the same config.
 */
#ifndef CONTROL_CONFIG_JSON_H
#define CONTROL_CONFIG_JSON_H

#include <jansson.h>

#include "base/err.h"
#include "control/config.h"
#include "control/option_table.h"

/* Parse len bytes (not NUL-terminated) as one JSON value. Gives *out. 0; -EINVAL or -ENOMEM with a
 * text. */
int json_parse(const char *bytes, size_t len, json_t **out, struct err *err);

/*
 * Read a VmConfig body into config, which config_init() has set up; options_check() comes after it.
 * 0 or -errno with one line that begins with the place in the body, as in `user_devices[1].socket:
 * expected ...`.
 */
int config_from_json(const json_t *body, struct vm_config *config, struct err *err);

/*
 * Read an object into base, the struct of one element of option (an OPTION_LIST), set up by
 * fields_init(). path is the object's place ("" for a body of its own). As above.
 */
int item_from_json(const struct option_row *option, const json_t *object, const char *path,
	void *base, struct err *err);

/* Everything that is set or has a default. Gives *out. 0 or -ENOMEM. */
int config_to_json(const struct vm_config *config, json_t **out);

#endif
