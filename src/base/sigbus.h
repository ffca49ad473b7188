/*
 * sigbus.h - survive memory that somebody else truncates
 *
 * A mapping of a file that its owner shortens raises SIGBUS at the next access
 * to the lost part. For a guarded mapping the handler puts anonymous zero pages over the
 * whole of it, notes that it was hit, and lets the access run again: whoever was reading
 * or writing, in whatever thread and function, goes on with bytes that mean nothing and finds
 * out when it asks sigbus_hit().
 *
 * This was chosen over a recovery point per thread (sigsetjmp around each access) because
 * ring and descriptor code may then use plain loads and stores, nothing has to
 * be set up on the fast path, and no lock or half-made change is jumped out of. Copies
 * through the kernel (process_vm_readv) cost a system call each. What it costs instead is
 * zero memory for the pages touched until the mapping is given up.
 *
 * A SIGBUS anywhere else goes to the handler that was there before, or ends the process.
 */
#ifndef BASE_SIGBUS_H
#define BASE_SIGBUS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sigbus_area {
	uintptr_t start;
	size_t len;
	int notify_fd;
	atomic_bool hit;
	struct sigbus_area *next, **link;
};

/*
 * Guard the mapping [start, start + len), whole pages. When it is hit, notify_fd (a non-blocking
 * eventfd, or -1) is signalled. The storage is the caller's and stays until sigbus_unguard().
 * Any thread. 0 or -errno: the handler could not be installed.
 */
int sigbus_guard(struct sigbus_area *area, void *start, size_t len, int notify_fd);

/* To be called before the mapping is given up. A zeroed area is fine. */
void sigbus_unguard(struct sigbus_area *area);

/* True once the mapping has lost its memory: what was read from it since may be zeros. */
static inline bool sigbus_hit(const struct sigbus_area *area)
{
	return atomic_load_explicit(&area->hit, memory_order_acquire);
}

#endif
