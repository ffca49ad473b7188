/*
 * guest.c - a freestanding guest that does one thing very often, and says how long that took
 *
 * It runs in ring 0 of whatever VMM loads it as a bzImage, with the loader's page tables (the first
 * 4 GiB one to one) and without interrupts. The command line says what to do, in this order:
 *
 *   pio=N       read port 0x510, which nobody has, N times
 *   mmio=N      read address 0xd0000000, which nobody has, N times
 *   card=N      read the first register of the card (card.h) N times
 *   doorbell=N  write N times to the doorbell that plain_server's card has
 *   passes=P    all of it P times (1)
 *   idle=1      say "idle" and stay
 *
 * On the first serial port appears one line each, "pio N TICKS", by the time stamp counter; then
 * the guest powers off through port 0x600. Each loop stands between two markers (marker.h).
 */
#include <stdbool.h>
#include <stdint.h>

#include "card.h"
#include "marker.h"

#define PORT_ABSENT 0x510
#define MMIO_ABSENT 0xd0000000ul
#define WARM_UP	    2  /* times UNROLLED */
#define UNROLLED    10 /* on a KVM that emulates ring 0 the loop's own instructions cost, too */

#define STRING(x)  STRING_(x)
#define STRING_(x) #x

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t ticks(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return (uint64_t)hi << 32 | lo;
}

/* --- the serial port --- */

static void put(char c)
{
	while (!(in8(0x3fd) & 0x20))
		;
	out8(0x3f8, (uint8_t)c);
}

static void put_text(const char *s)
{
	while (*s)
		put(*s++);
}

static void put_number(uint64_t n)
{
	char digits[20];
	int i = 0;

	do
		digits[i++] = (char)('0' + n % 10);
	while (n /= 10);
	while (i)
		put(digits[--i]);
}

static void report(const char *what, uint64_t n, uint64_t took)
{
	put_text(what);
	put(' ');
	put_number(n);
	put(' ');
	put_number(took);
	put_text("\n");
}

/* --- the command line --- */

/* The number behind `name=`, or `otherwise`. */
static uint64_t option(const char *line, const char *name, uint64_t otherwise)
{
	while (*line) {
		const char *n = name;
		uint64_t value = 0;

		while (*n && *line == *n)
			line++, n++;
		if (!*n && *line == '=') {
			for (line++; *line >= '0' && *line <= '9'; line++)
				value = value * 10 + (uint64_t)(*line - '0');
			return value;
		}
		while (*line && *line != ' ')
			line++;
		while (*line == ' ')
			line++;
	}
	return otherwise;
}

/* --- the loops: each does its instruction n * UNROLLED times --- */

#define REPEAT(instruction)                                                                        \
	"1:\n.rept " STRING(UNROLLED) "\n" instruction "\n.endr\ndec %0\njnz 1b\n"

static void pio_loop(uint64_t n, uint16_t port)
{
	__asm__ volatile(REPEAT("inb %%dx, %%al") : "+r"(n) : "d"(port) : "rax", "cc", "memory");
}

static void mmio_loop(uint64_t n)
{
	__asm__ volatile(REPEAT("movl (%1), %%eax")
			 : "+r"(n)
			 : "r"(MMIO_ABSENT)
			 : "rax", "cc", "memory");
}

static void doorbell_loop(uint64_t n, uint16_t port)
{
	__asm__ volatile(REPEAT("outb %%al, %%dx") : "+r"(n) : "d"(port), "a"(1) : "cc", "memory");
}

/* --- the card --- */

static uint32_t config_address(unsigned slot, unsigned reg)
{
	return 0x80000000u | slot << 11 | reg;
}

static uint32_t config_read(unsigned slot, unsigned reg)
{
	out32(0xcf8, config_address(slot, reg));
	return in32(0xcfc);
}

/* The first port of the card, with I/O space switched on; 0: there is no card. */
static uint16_t find_card(void)
{
	for (unsigned slot = 0; slot < 32; slot++) {
		uint32_t bar;

		if (config_read(slot, 0) != (CARD_DEVICE_ID << 16 | CARD_VENDOR_ID))
			continue;
		bar = config_read(slot, 0x10 + 4 * CARD_BAR);
		out32(0xcf8, config_address(slot, 4));
		out32(0xcfc, 1); /* the command register: I/O space */
		return bar & 1 ? (uint16_t)(bar & 0xfffc) : 0;
	}
	return 0;
}

/* --- */

static void pass(const char *line)
{
	uint64_t pio = option(line, "pio", 0) / UNROLLED, mmio = option(line, "mmio", 0) / UNROLLED;
	uint64_t begin;

	if (pio) {
		begin = ticks();
		MARKER(MARK_BEGIN);
		pio_loop(pio, PORT_ABSENT);
		MARKER(MARK_END);
		report("pio", pio * UNROLLED, ticks() - begin);
	}
	if (mmio) {
		begin = ticks();
		MARKER(MARK_BEGIN);
		mmio_loop(mmio);
		MARKER(MARK_END);
		report("mmio", mmio * UNROLLED, ticks() - begin);
	}
}

static void use_card(const char *line)
{
	uint64_t reads = option(line, "card", 0) / UNROLLED;
	uint64_t rings = option(line, "doorbell", 0) / UNROLLED, begin;
	uint16_t port;

	if (!reads && !rings)
		return;
	port = find_card();
	if (!port) {
		put_text("no card\n");
		return;
	}
	if (reads) {
		pio_loop(WARM_UP, port);
		begin = ticks();
		pio_loop(reads, port);
		report("card", reads * UNROLLED, ticks() - begin);
	}
	if (rings) {
		begin = ticks();
		doorbell_loop(rings, port + CARD_DOORBELL);
		report("doorbell", rings * UNROLLED, ticks() - begin);
	}
}

void guest_main(const uint8_t *zero_page);

void guest_main(const uint8_t *zero_page)
{
	uint32_t cmd_line_ptr;
	const char *line;

	__builtin_memcpy(&cmd_line_ptr, zero_page + 0x228, sizeof(cmd_line_ptr));
	line = (const char *)(uintptr_t)cmd_line_ptr;
	for (uint64_t left = option(line, "passes", 1); left; left--) {
		pass(line);
		use_card(line);
	}
	if (option(line, "idle", 0)) {
		put_text("idle\n");
		return; /* head.S halts */
	}
	out8(0x600, 0x34);
}
