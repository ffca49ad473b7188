/* print.c - console, formatting and TAP; the few string functions gcc wants to find */
#include "print.h"

#include "x86.h"

#define COM1 0x3f8

static unsigned nr_results, nr_failed;

void console_init(void)
{
	outb(COM1 + 3, 0x80);
	outb(COM1 + 0, 1);
	outb(COM1 + 1, 0);
	outb(COM1 + 3, 0x03);
	outb(COM1 + 1, 0);
	outb(COM1 + 2, 0x07);
	outb(COM1 + 4, 0x03);
}

void console_putc(char c)
{
	/* Bounded: a console that never gets ready must not hide the result of a test. */
	for (unsigned i = 0; i < 100000 && !(inb(COM1 + 5) & 0x20); i++)
		cpu_relax();
	outb(COM1, (uint8_t)c);
}

int console_getc(void)
{
	return inb(COM1 + 5) & 1 ? inb(COM1) : -1;
}

static void put_number(uint64_t v, unsigned base, bool minus, unsigned width, char fill)
{
	char buf[24];
	unsigned n = 0;

	do {
		buf[n++] = "0123456789abcdef"[v % base];
		v /= base;
	} while (v);
	if (minus)
		buf[n++] = '-';
	while (width-- > n)
		console_putc(fill);
	while (n)
		console_putc(buf[--n]);
}

static void put_string(const char *s)
{
	while (*s)
		console_putc(*s++);
}

static void vprintf(const char *p, va_list ap)
{
	for (; *p; p++) {
		char fill = ' ';
		unsigned width = 0;
		bool wide = false;

		if (*p == '\n')
			console_putc('\r');
		if (*p != '%') {
			console_putc(*p);
			continue;
		}
		if (*++p == '0')
			fill = *p++;
		while (*p >= '0' && *p <= '9')
			width = width * 10 + (unsigned)(*p++ - '0');
		while (*p == 'l') {
			wide = true;
			p++;
		}
		switch (*p) {
		case 's':
			put_string(va_arg(ap, const char *));
			break;
		case 'c':
			console_putc((char)va_arg(ap, int));
			break;
		case 'd': {
			int64_t v = wide ? va_arg(ap, int64_t) : va_arg(ap, int);

			put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0, width, fill);
			break;
		}
		case 'u':
		case 'x':
			put_number(wide ? va_arg(ap, uint64_t) : va_arg(ap, uint32_t),
				*p == 'x' ? 16 : 10, false, width, fill);
			break;
		default:
			console_putc(*p);
		}
	}
}

void printf(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
}

static void result(const char *verdict, const char *format, va_list ap)
{
	printf("%s %u - ", verdict, ++nr_results);
	vprintf(format, ap);
}

bool ok(bool good, const char *format, ...)
{
	va_list ap;

	nr_failed += !good;
	va_start(ap, format);
	result(good ? "ok" : "not ok", format, ap);
	va_end(ap);
	printf("\n");
	return good;
}

bool equal_at(uint64_t got, uint64_t want, const char *format, ...)
{
	va_list ap;

	nr_failed += got != want;
	va_start(ap, format);
	result(got == want ? "ok" : "not ok", format, ap);
	va_end(ap);
	printf("\n");
	if (got != want)
		printf("#   got 0x%lx, expected 0x%lx\n", got, want);
	return got == want;
}

void skip(const char *reason, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	result("ok", format, ap);
	va_end(ap);
	printf(" # SKIP %s\n", reason);
}

void note(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	printf("# ");
	vprintf(format, ap);
	va_end(ap);
	printf("\n");
}

void tap_done(void)
{
	printf("1..%u\n", nr_results);
	if (nr_failed)
		note("%u failed", nr_failed);
}

size_t strlen(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b) {
		a++;
		b++;
	}
	return (uint8_t)*a - (uint8_t)*b;
}

int strncmp(const char *a, const char *b, size_t n)
{
	while (n && *a && *a == *b) {
		a++;
		b++;
		n--;
	}
	return n ? (uint8_t)*a - (uint8_t)*b : 0;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *x = a, *y = b;

	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

void *memcpy(void *to, const void *from, size_t n)
{
	void *d = to;

	asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

void *memset(void *to, int c, size_t n)
{
	void *d = to;

	asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return to;
}
