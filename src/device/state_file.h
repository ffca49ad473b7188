/*
 * state_file.h - a model's state in a file, always whole
 *
 * The file is replaced by rename whenever the saved form has changed, before the access that
 * changed it is answered. So whoever kills the process at any moment finds the last
 * acknowledged state in it. (It is not forced to disk each time: that is for a host that loses
 * power.)
 */
#ifndef DEVICE_STATE_FILE_H
#define DEVICE_STATE_FILE_H

#include "base/err.h"
#include "device/pci_model.h"

struct state_file;

/*
 * Load the state from path, when there is such a file, and keep the file up to date from now on.
 * Borrows the model. Gives *out. 0 or -errno with a text: it cannot be read, holds something else,
 * or the model cannot be saved.
 */
int state_file_open(
	struct state_file **out, const char *path, struct pci_model *m, struct err *err);
/*
 * Write the file now, so that a place that cannot be written is known at once. 0 or -errno with a
 * text.
 */
int state_file_write(struct state_file *f, struct err *err);
/* The directory, for a sandbox that has to allow for it: borrowed. */
int state_file_dir(const struct state_file *f);
/* The model is not watched any more; the file stays. NULL is fine. */
void state_file_close(struct state_file *f);

#endif
