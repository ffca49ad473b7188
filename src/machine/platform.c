/*
 * platform.c - the few parts a PC cannot do without
 *
 * Each part is a row of parts[]: where it sits, and its io_ops, all with the one struct
 * platform behind them. What they set off (reset, power off, interrupt) goes through platform_ops.
 *
 * Threads: one lock for clock and CMOS memory; the GED's events are atomic; what else
 *          there is are single words of which guests expect no order.
 * Trusts:  nothing the guest writes.
 * Spec:    ACPI 6.3, 4.8.3.3 (PM timer), 4.8.3.6 (reset), 4.8.3.7 (sleep), 5.6.9 (GED);
 *          Motorola MC146818A (clock).
 */
#include "machine/platform.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "machine/layout.h"

#define NR_CMOS 128

struct platform {
	struct io_bus *bus;
	const struct platform_ops *ops;
	void *arg;
	uint64_t platform_base, ram_low, ram_high;
	unsigned nr_added; /* of parts[] */

	pthread_mutex_t clock_lock; /* guards the next four */
	uint8_t cmos[NR_CMOS];
	uint8_t cmos_index;
	int64_t clock_offset_s; /* the guest's clock less the host's */
	bool clock_stopped;

	_Atomic uint8_t ged_events;
	_Atomic bool ged_used;

	_Atomic uint8_t refresh;	  /* toggles, as port 0x61 shows it */
	_Atomic unsigned kbd_stale_reads; /* of port 0x60 since the last command */
	_Atomic unsigned progress;	  /* last code on port 0x80, plus 1; 0: none yet */
	_Atomic unsigned progress_lines;
	struct log_limit sleep_limit;
};

/* ---- keyboard controller ---- */

#define KBD_OUTPUT_FULL 0x01
#define KBD_INPUT_FULL	0x02
/* Enough for a guest to see that the buffer never empties, which means that nobody is there */
#define KBD_STALE_READS 64

/*
 * There is no controller, but port 0x64 must look ready for a command, since guests
 * that reset through it wait for that, and must not look like an idle controller, since guests
 * that probe for one would then wait long for its answers. So there is always stale data to read;
 * after some reads it ends, for a guest that reads until it does.
 */
static uint64_t kbd_status_read(void *self, uint64_t off, unsigned size)
{
	struct platform *pf = self;
	uint8_t status = 0xff & ~(KBD_INPUT_FULL | KBD_OUTPUT_FULL);

	(void)off;
	(void)size;
	if (atomic_load(&pf->kbd_stale_reads) < KBD_STALE_READS)
		status |= KBD_OUTPUT_FULL;
	return status;
}

static void kbd_command_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct platform *pf = self;

	(void)off;
	(void)size;
	atomic_store(&pf->kbd_stale_reads, 0);
	/* 0xf0 to 0xff pulse the output lines whose bit is clear: line 0 is the reset line. */
	if ((value & 0xf1) == 0xf0)
		pf->ops->reset(pf->arg);
}

static uint64_t kbd_data_read(void *self, uint64_t off, unsigned size)
{
	struct platform *pf = self;

	(void)off;
	if (atomic_load(&pf->kbd_stale_reads) < KBD_STALE_READS)
		atomic_fetch_add(&pf->kbd_stale_reads, 1);
	return io_ones(size);
}

static void write_nothing(void *self, uint64_t off, unsigned size, uint64_t value)
{
	(void)self;
	(void)off;
	(void)size;
	(void)value;
}

/* Bit 4 toggles with memory refresh, bit 5 is timer 2's output: who waits for either goes on. */
static uint64_t system_b_read(void *self, uint64_t off, unsigned size)
{
	struct platform *pf = self;

	(void)off;
	(void)size;
	return (atomic_fetch_xor(&pf->refresh, 0x10) & 0x10) | 0x20;
}

/* ---- clock and CMOS memory ---- */

enum {
	RTC_SECONDS = 0,
	RTC_MINUTES = 2,
	RTC_HOURS = 4,
	RTC_WEEKDAY = 6,
	RTC_DAY = 7,
	RTC_MONTH = 8,
	RTC_YEAR = 9,
	RTC_A = 10,
	RTC_B = 11,
	RTC_C = 12,
	RTC_D = 13,
	RTC_CENTURY = 0x32,
};

#define RTC_B_SET    0x80 /* the clock stands while it is set */
#define RTC_B_BINARY 0x04
#define RTC_B_24H    0x02
#define RTC_D_VALID  0x80
#define RTC_HOUR_PM  0x80

static bool is_time(unsigned index)
{
	return index <= RTC_YEAR || index == RTC_CENTURY;
}

static uint8_t encode(const struct platform *pf, unsigned v)
{
	v %= 100;
	return (uint8_t)(pf->cmos[RTC_B] & RTC_B_BINARY ? v : (v / 10) << 4 | v % 10);
}

static int decode(const struct platform *pf, uint8_t v)
{
	return pf->cmos[RTC_B] & RTC_B_BINARY ? v : (v >> 4) * 10 + (v & 0xf);
}

static uint8_t encode_hour(const struct platform *pf, unsigned hour)
{
	if (pf->cmos[RTC_B] & RTC_B_24H)
		return encode(pf, hour);
	return encode(pf, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? RTC_HOUR_PM : 0);
}

static int decode_hour(const struct platform *pf, uint8_t v)
{
	if (pf->cmos[RTC_B] & RTC_B_24H)
		return decode(pf, v);
	return decode(pf, v & (uint8_t)~RTC_HOUR_PM) % 12 + (v & RTC_HOUR_PM ? 12 : 0);
}

/* Bring the time registers up to date. */
static void clock_to_cmos(struct platform *pf)
{
	time_t now = time(NULL) + pf->clock_offset_s;
	unsigned year;
	struct tm tm;

	if (pf->clock_stopped || !gmtime_r(&now, &tm))
		return;
	year = (unsigned)tm.tm_year + 1900;
	pf->cmos[RTC_SECONDS] = encode(pf, (unsigned)tm.tm_sec);
	pf->cmos[RTC_MINUTES] = encode(pf, (unsigned)tm.tm_min);
	pf->cmos[RTC_HOURS] = encode_hour(pf, (unsigned)tm.tm_hour);
	pf->cmos[RTC_WEEKDAY] = encode(pf, (unsigned)tm.tm_wday + 1);
	pf->cmos[RTC_DAY] = encode(pf, (unsigned)tm.tm_mday);
	pf->cmos[RTC_MONTH] = encode(pf, (unsigned)tm.tm_mon + 1);
	pf->cmos[RTC_YEAR] = encode(pf, year % 100);
	pf->cmos[RTC_CENTURY] = encode(pf, year / 100);
}

/* The guest has set the clock: keep the difference. timegm() makes sense of any fields. */
static void clock_from_cmos(struct platform *pf)
{
	struct tm tm = {
		.tm_sec = decode(pf, pf->cmos[RTC_SECONDS]),
		.tm_min = decode(pf, pf->cmos[RTC_MINUTES]),
		.tm_hour = decode_hour(pf, pf->cmos[RTC_HOURS]),
		.tm_mday = decode(pf, pf->cmos[RTC_DAY]),
		.tm_mon = decode(pf, pf->cmos[RTC_MONTH]) - 1,
		.tm_year = decode(pf, pf->cmos[RTC_CENTURY]) * 100 +
			   decode(pf, pf->cmos[RTC_YEAR]) - 1900,
	};

	pf->clock_offset_s = (int64_t)timegm(&tm) - (int64_t)time(NULL);
}

static void control_b_write(struct platform *pf, uint8_t value)
{
	bool stop = value & RTC_B_SET;

	if (stop && !pf->clock_stopped)
		clock_to_cmos(pf); /* what the guest does not set stays as it was */
	pf->cmos[RTC_B] = value;
	if (!stop && pf->clock_stopped)
		clock_from_cmos(pf);
	pf->clock_stopped = stop;
}

static uint8_t cmos_read_byte(struct platform *pf, unsigned index)
{
	if (is_time(index))
		clock_to_cmos(pf);
	return pf->cmos[index];
}

static void cmos_write_byte(struct platform *pf, unsigned index, uint8_t value)
{
	if (index == RTC_C || index == RTC_D)
		return;
	if (index == RTC_B) {
		control_b_write(pf, value);
		return;
	}
	if (!is_time(index) || pf->clock_stopped) {
		/* Bit 7 of A says that the registers are about to change: they never are. */
		pf->cmos[index] = index == RTC_A ? value & 0x7f : value;
		return;
	}
	clock_to_cmos(pf);
	pf->cmos[index] = value;
	clock_from_cmos(pf);
}

static uint64_t cmos_read(void *self, uint64_t off, unsigned size)
{
	struct platform *pf = self;
	uint64_t value = io_ones(size);

	pthread_mutex_lock(&pf->clock_lock);
	if (off == 1)
		value = cmos_read_byte(pf, pf->cmos_index);
	pthread_mutex_unlock(&pf->clock_lock);
	return value;
}

static void cmos_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct platform *pf = self;

	pthread_mutex_lock(&pf->clock_lock);
	if (off == 0)
		pf->cmos_index = value & (NR_CMOS - 1); /* bit 7 masks NMIs: there are none */
	if (off == 1)
		cmos_write_byte(pf, pf->cmos_index, (uint8_t)value);
	else if (size == 2) /* index and data in one access */
		cmos_write_byte(pf, pf->cmos_index, (uint8_t)(value >> 8));
	pthread_mutex_unlock(&pf->clock_lock);
}

static void cmos_put(struct platform *pf, unsigned index, unsigned bytes, uint64_t value)
{
	value = MIN(value, (1ull << (8 * bytes)) - 1);
	for (unsigned i = 0; i < bytes; i++)
		pf->cmos[index + i] = (uint8_t)(value >> (8 * i));
}

static void cmos_init(struct platform *pf)
{
	uint64_t above_1m = pf->ram_low > MIB ? pf->ram_low - MIB : 0;
	uint64_t above_16m = pf->ram_low > 16 * MIB ? pf->ram_low - 16 * MIB : 0;

	memset(pf->cmos, 0, sizeof(pf->cmos));
	pf->cmos_index = 0;
	pf->clock_stopped = false;
	pf->cmos[RTC_A] = 0x26; /* 32768 Hz, as always */
	pf->cmos[RTC_B] = RTC_B_24H;
	pf->cmos[RTC_D] = RTC_D_VALID;
	cmos_put(pf, 0x15, 2, 640);	       /* KiB of base memory */
	cmos_put(pf, 0x17, 2, above_1m / KIB); /* KiB from 1 MiB */
	cmos_put(pf, 0x30, 2, above_1m / KIB);
	cmos_put(pf, 0x34, 2, above_16m / (64 * KIB));	  /* 64 KiB from 16 MiB */
	cmos_put(pf, 0x5b, 3, pf->ram_high / (64 * KIB)); /* 64 KiB from 4 GiB */
}

/* ---- progress codes ---- */

/* Some guests write here to pass a microsecond: repeats are not logged, others not for ever. */
#define PROGRESS_LINES_MAX 256

static uint64_t read_ones(void *self, uint64_t off, unsigned size)
{
	(void)self;
	(void)off;
	return io_ones(size);
}

static void progress_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct platform *pf = self;
	uint8_t code = (uint8_t)value;

	(void)off;
	(void)size;
	if (pf->ops->progress)
		pf->ops->progress(pf->arg, code);
	if (!log_enabled(LOG_DEBUG) || atomic_exchange(&pf->progress, code + 1u) == code + 1u)
		return;
	if (atomic_fetch_add(&pf->progress_lines, 1) < PROGRESS_LINES_MAX)
		log_debug("guest progress code 0x%02x", code);
}

/* ---- sleep, reset, PM timer ---- */

#define RESET_VALUE	  1
#define SLEEP_ENABLE	  0x20
#define SLEEP_TYPE(value) ((value) >> 2 & 7)
#define SLEEP_TYPE_S5	  5

static uint64_t sleep_read(void *self, uint64_t off, unsigned size)
{
	(void)self;
	(void)off;
	(void)size;
	return 0;
}

static void sleep_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct platform *pf = self;

	(void)size;
	if (off) /* the status register: only bits to clear, of which none is set */
		return;
	value &= 0xff;
	if (value == RESET_VALUE)
		pf->ops->reset(pf->arg);
	else if ((value & SLEEP_ENABLE) && SLEEP_TYPE(value) == SLEEP_TYPE_S5)
		pf->ops->shutdown(pf->arg);
	else if (value & SLEEP_ENABLE)
		log_limited(&pf->sleep_limit, LOG_WARN,
			"guest asks for sleep type %u: there is only power off (5)",
			(unsigned)SLEEP_TYPE(value));
}

#define PM_TIMER_HZ 3579545u

static uint64_t pm_timer_read(void *self, uint64_t off, unsigned size)
{
	uint32_t ticks = (uint32_t)((unsigned __int128)clock_now_ns() * PM_TIMER_HZ / NS_PER_S);

	(void)self;
	return (ticks >> (8 * off)) & io_ones(size);
}

/* ---- generic event device ---- */

static uint64_t ged_read(void *self, uint64_t off, unsigned size)
{
	struct platform *pf = self;

	(void)off;
	(void)size;
	atomic_store(&pf->ged_used, true);
	return atomic_exchange(&pf->ged_events, 0);
}

void platform_ged_notify(struct platform *pf, unsigned events)
{
	atomic_fetch_or(&pf->ged_events, (uint8_t)events);
	/* An edge: the events stay until the guest reads them. */
	pf->ops->ged_irq(pf->arg, true);
	pf->ops->ged_irq(pf->arg, false);
}

bool platform_ged_used(const struct platform *pf)
{
	return atomic_load(&pf->ged_used);
}

/* ---- together ---- */

static const struct part {
	const char *name;
	enum io_space space;
	uint64_t base, size; /* in IO_MMIO: relative to the platform area */
	struct io_ops ops;
} parts[] = {
	{ "keyboard data", IO_PORT, PORT_I8042_DATA, 1, { kbd_data_read, write_nothing } },
	{ "system port B", IO_PORT, PORT_SYSTEM_B, 1, { system_b_read, write_nothing } },
	{ "keyboard status", IO_PORT, PORT_I8042_STATUS, 1,
		{ kbd_status_read, kbd_command_write } },
	{ "clock", IO_PORT, PORT_RTC_INDEX, 2, { cmos_read, cmos_write } },
	{ "progress", IO_PORT, PORT_DEBUG, 1, { read_ones, progress_write } },
	{ "sleep", IO_PORT, PORT_SLEEP, 2, { sleep_read, sleep_write } },
	{ "PM timer", IO_PORT, PORT_PM_TIMER, 4, { pm_timer_read, write_nothing } },
	{ "GED", IO_MMIO, LAYOUT_PLATFORM_GED, 1, { ged_read, write_nothing } },
};

static uint64_t part_base(const struct platform *pf, const struct part *part)
{
	return part->base + (part->space == IO_MMIO ? pf->platform_base : 0);
}

int platform_new(struct io_bus *bus, const struct platform_params *p, struct platform **out)
{
	struct platform *pf = calloc(1, sizeof(*pf));

	/* gmtime_r() opens the time zone's file on its first use, which no vCPU thread may do. */
	tzset();
	if (!pf)
		return -ENOMEM;
	pf->bus = bus;
	pf->ops = p->ops;
	pf->arg = p->arg;
	pf->platform_base = p->platform_base;
	pf->ram_low = p->ram_low;
	pf->ram_high = p->ram_high;
	pthread_mutex_init(&pf->clock_lock, NULL);
	platform_reset(pf);
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		struct io_region region = {
			.base = part_base(pf, &parts[i]),
			.size = parts[i].size,
			.ops = &parts[i].ops,
			.self = pf,
			.name = parts[i].name,
		};
		int rc = io_add(bus, parts[i].space, &region);

		if (rc) {
			platform_free(pf);
			return rc;
		}
		pf->nr_added++;
	}
	*out = pf;
	return 0;
}

void platform_free(struct platform *pf)
{
	if (!pf)
		return;
	while (pf->nr_added) {
		const struct part *part = &parts[--pf->nr_added];

		io_remove(pf->bus, part->space, part_base(pf, part));
	}
	pthread_mutex_destroy(&pf->clock_lock);
	free(pf);
}

void platform_reset(struct platform *pf)
{
	pthread_mutex_lock(&pf->clock_lock);
	cmos_init(pf);
	pthread_mutex_unlock(&pf->clock_lock);
	atomic_store(&pf->ged_events, 0);
	atomic_store(&pf->ged_used, false);
	atomic_store(&pf->kbd_stale_reads, 0);
	atomic_store(&pf->progress, 0);
	atomic_store(&pf->progress_lines, 0);
}
