/*
 * print.h - the console on COM1, and results in TAP
 *
 * A test says ok() for each thing it checked. The plan comes last, because a test
 * finds out by itself how many things there are to check.
 */
#ifndef GUEST_PRINT_H
#define GUEST_PRINT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 115200 8N1, FIFO on, no interrupts, no loopback. */
void console_init(void);
void console_putc(char c);
/* The next input byte, or -1. */
int console_getc(void);

/* %s %c %d %u %x with l, width and 0 flag; a newline becomes CR LF. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Record a check; gives `good` back, so that what depends on it can be skipped. */
bool ok(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define equal(got, want, ...) equal_at((uint64_t)(got), (uint64_t)(want), __VA_ARGS__)
bool equal_at(uint64_t got, uint64_t want, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* A check that cannot be done here, and why. */
void skip(const char *reason, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line that is no result. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The plan. */
void tap_done(void);

/* From the C library that is not here. */
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
int memcmp(const void *a, const void *b, size_t n);
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);

#endif
