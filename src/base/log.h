/*
 * log.h - one line per event, to stderr or a file
 *
 * A line is `outboard: 0.004217s: warning: gpio0 vfio-user: ...` and leaves in
 * one write(), so that lines of several threads and processes do not mix. A log that takes nothing
 * more loses lines, and says so later; nobody waits for it. The
 * level, the program's name and the descriptor are the only mutable globals
 * of the program. Any thread.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Once, before any thread starts. Borrows name for ever. Lines go to stderr until log_open(). */
void log_init(const char *name, enum log_level level);

/* Append to path instead of stderr. 0 or -errno. */
int log_open(const char *path);

/* The same to a descriptor, which others may write to as well. Takes fd. */
void log_to(int fd);

/* The descriptor that lines are written to (2 or the file's). */
int log_fd(void);

bool log_enabled(enum log_level level);
void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_err(...)  log_line(LOG_ERR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...)                                                                             \
	do {                                                                                       \
		if (log_enabled(LOG_DEBUG))                                                        \
			log_line(LOG_DEBUG, __VA_ARGS__);                                          \
	} while (0)

/*
 * A bucket for lines that a guest or peer can provoke: at most `burst` lines
 * per 10 seconds; the first line after a pause says how many were left out.
 * Zero-initialised means burst 5. Any thread.
 */
struct log_limit {
	uint64_t window_start_ns;
	uint32_t used, left_out;
};

/* True when a line may be printed now. */
bool log_allow(struct log_limit *limit);

#define log_limited(limit, level, ...)                                                             \
	do {                                                                                       \
		if (log_allow(limit))                                                              \
			log_line(level, __VA_ARGS__);                                              \
	} while (0)

#endif
