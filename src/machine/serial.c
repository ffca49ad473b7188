/*
 * serial.c - COM1, a 16550A
 *
 * Transmission takes no time: the transmitter is always empty, and each byte written
 * sets the "transmitter empty" interrupt anew. Received bytes wait in a FIFO
 * of 16 (1 without FIFO mode); the host end reads no more than fits, so that there is no overrun.
 * The line is raised while the interrupt identification register tells of something; it is
 * on an edge-triggered pin, so it must fall when the guest reads the cause.
 *
 * Threads: ports on vCPU threads, input on the loop thread, all under s->lock.
 * Trusts:  nothing the guest writes.
 * Spec:    National Semiconductor PC16550D.
 */
#include "machine/serial.h"

#include <errno.h>
#include <linux/serial_reg.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "machine/layout.h"
#include "machine/serial_host.h"

#define FIFO_SIZE 16
#define NR_PORTS  8

#define IER_MASK (UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI)
#define MCR_MASK (UART_MCR_DTR | UART_MCR_RTS | UART_MCR_OUT1 | UART_MCR_OUT2 | UART_MCR_LOOP)

struct serial {
	struct io_bus *bus;
	bool on_bus;
	void (*set_irq)(void *arg, bool level);
	void *irq_arg;
	struct serial_host *host;

	pthread_mutex_t lock; /* guards all below, and the host end's buffers */
	uint8_t ier, lcr, mcr, scr, dll, dlm;
	uint8_t msr_delta; /* changes of the modem lines since MSR was read */
	bool fifo_on, overrun;
	bool tx_empty_pending; /* and not yet told to the guest */
	bool line;
	uint8_t trigger; /* bytes in the FIFO that are worth an interrupt of their own */
	uint8_t rx[FIFO_SIZE];
	unsigned rx_head, rx_count;
	unsigned lsr_reads; /* since another register was used */
	bool polled;	    /* the guest has been seen to poll for input */
};

static bool looped(const struct serial *s)
{
	return s->mcr & UART_MCR_LOOP;
}

static unsigned rx_capacity(const struct serial *s)
{
	return s->fifo_on ? FIFO_SIZE : 1;
}

/* ---- interrupts ---- */

/* IIR without the FIFO bits: the most urgent cause. */
static uint8_t interrupt_id(const struct serial *s)
{
	if (s->overrun && (s->ier & UART_IER_RLSI))
		return UART_IIR_RLSI;
	if (s->rx_count && (s->ier & UART_IER_RDI))
		/* Below its trigger level the FIFO tells of a time-out, and without the wait for
		 * one. */
		return s->rx_count >= s->trigger ? UART_IIR_RDI : UART_IIR_RX_TIMEOUT;
	if (s->tx_empty_pending && (s->ier & UART_IER_THRI))
		return UART_IIR_THRI;
	if (s->msr_delta && (s->ier & UART_IER_MSI))
		return UART_IIR_MSI;
	return UART_IIR_NO_INT;
}

static void update_line(struct serial *s)
{
	bool level = interrupt_id(s) != UART_IIR_NO_INT;

	if (level == s->line)
		return;
	s->line = level;
	s->set_irq(s->irq_arg, level);
}

/* ---- receiving ---- */

static void rx_push(struct serial *s, uint8_t byte)
{
	if (s->rx_count == rx_capacity(s)) {
		s->overrun = true;
		return;
	}
	s->rx[(s->rx_head + s->rx_count++) % FIFO_SIZE] = byte;
}

static uint8_t rx_pop(struct serial *s)
{
	uint8_t byte;

	if (!s->rx_count)
		return 0;
	byte = s->rx[s->rx_head];
	s->rx_head = (s->rx_head + 1) % FIFO_SIZE;
	s->rx_count--;
	return byte;
}

#define POLLING_READS 16

/*
 * Is there anybody to receive? A driver says so by RTS or by its interrupt enable bit,
 * simple firmware by reading LSR over and over. Before that, input waits outside: drivers
 * empty the FIFO when they start, and typed-ahead input would be lost.
 */
static bool listening(const struct serial *s)
{
	return (s->mcr & UART_MCR_RTS) || (s->ier & UART_IER_RDI) || s->polled;
}

/* In loopback mode the receiver is cut off from the wire. */
static size_t host_room(void *arg)
{
	const struct serial *s = arg;

	return listening(s) && !looped(s) ? rx_capacity(s) - s->rx_count : 0;
}

static void host_input(void *arg, const uint8_t *bytes, size_t size)
{
	struct serial *s = arg;

	for (size_t i = 0; i < size; i++)
		rx_push(s, bytes[i]);
	update_line(s);
}

/* ---- registers ---- */

/* Outputs come back as inputs in loopback mode; else everybody at the far end is ready. */
static uint8_t modem_lines(const struct serial *s)
{
	if (!looped(s))
		return UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD;
	return (s->mcr & UART_MCR_RTS ? UART_MSR_CTS : 0) |
	       (s->mcr & UART_MCR_DTR ? UART_MSR_DSR : 0) |
	       (s->mcr & UART_MCR_OUT1 ? UART_MSR_RI : 0) |
	       (s->mcr & UART_MCR_OUT2 ? UART_MSR_DCD : 0);
}

static void write_mcr(struct serial *s, uint8_t value)
{
	uint8_t before = modem_lines(s), after;

	s->mcr = value & MCR_MASK;
	after = modem_lines(s);
	/* Delta bits stand 4 below their lines; the ring indicator's tells of its end only. */
	s->msr_delta |= ((before ^ after) & ~UART_MSR_RI) >> 4;
	if (before & ~after & UART_MSR_RI)
		s->msr_delta |= UART_MSR_TERI;
	serial_host_resume(s->host);
}

static void write_fcr(struct serial *s, uint8_t value)
{
	static const uint8_t triggers[] = { 1, 4, 8, 14 };
	bool on = value & UART_FCR_ENABLE_FIFO;

	if (on != s->fifo_on || (on && (value & UART_FCR_CLEAR_RCVR))) {
		s->rx_count = 0;
		serial_host_resume(s->host);
	}
	s->fifo_on = on;
	s->trigger = on ? triggers[value >> 6] : 1;
}

static void write_ier(struct serial *s, uint8_t value)
{
	/* Asking for the interrupt of an empty transmitter gives one. */
	if ((value & UART_IER_THRI) && !(s->ier & UART_IER_THRI))
		s->tx_empty_pending = true;
	s->ier = value & IER_MASK;
	serial_host_resume(s->host);
}

static void transmit(struct serial *s, uint8_t byte)
{
	if (looped(s))
		rx_push(s, byte);
	else
		serial_host_put(s->host, byte);
	s->tx_empty_pending = true;
}

static void write_register(struct serial *s, unsigned reg, uint8_t value)
{
	bool dlab = s->lcr & UART_LCR_DLAB;

	s->lsr_reads = 0;
	switch (reg) {
	case UART_TX:
		if (dlab)
			s->dll = value;
		else
			transmit(s, value);
		break;
	case UART_IER:
		if (dlab)
			s->dlm = value;
		else
			write_ier(s, value);
		break;
	case UART_FCR:
		write_fcr(s, value);
		break;
	case UART_LCR:
		s->lcr = value;
		break;
	case UART_MCR:
		write_mcr(s, value);
		break;
	case UART_SCR:
		s->scr = value;
		break;
	default: /* LSR and MSR are read-only */
		break;
	}
}

static uint8_t read_rbr(struct serial *s)
{
	uint8_t byte = rx_pop(s);

	/* Refill before it is empty, but not for each byte. */
	if (s->rx_count <= rx_capacity(s) / 2)
		serial_host_resume(s->host);
	return byte;
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t id = interrupt_id(s);

	if (id == UART_IIR_THRI)
		s->tx_empty_pending = false;
	return id | (s->fifo_on ? 0xc0 : 0);
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t lsr = UART_LSR_TEMT | UART_LSR_THRE;

	if (s->rx_count)
		lsr |= UART_LSR_DR;
	if (s->overrun)
		lsr |= UART_LSR_OE;
	s->overrun = false;
	if (!s->polled && ++s->lsr_reads == POLLING_READS) {
		s->polled = true;
		serial_host_resume(s->host);
	}
	return lsr;
}

static uint8_t read_msr(struct serial *s)
{
	uint8_t msr = modem_lines(s) | s->msr_delta;

	s->msr_delta = 0;
	return msr;
}

static uint8_t read_register(struct serial *s, unsigned reg)
{
	bool dlab = s->lcr & UART_LCR_DLAB;

	if (reg != UART_LSR)
		s->lsr_reads = 0;
	switch (reg) {
	case UART_RX:
		return dlab ? s->dll : read_rbr(s);
	case UART_IER:
		return dlab ? s->dlm : s->ier;
	case UART_IIR:
		return read_iir(s);
	case UART_LCR:
		return s->lcr;
	case UART_MCR:
		return s->mcr;
	case UART_LSR:
		return read_lsr(s);
	case UART_MSR:
		return read_msr(s);
	default:
		return s->scr;
	}
}

/* A wide access is one to each of its registers, as an 8-bit device on the bus sees it. */
static uint64_t port_read(void *self, uint64_t off, unsigned size)
{
	struct serial *s = self;
	uint64_t value = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < size; i++)
		value |= (uint64_t)read_register(s, (unsigned)off + i) << (8 * i);
	update_line(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

static void port_write(void *self, uint64_t off, unsigned size, uint64_t value)
{
	struct serial *s = self;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < size; i++)
		write_register(s, (unsigned)off + i, (uint8_t)(value >> (8 * i)));
	update_line(s);
	pthread_mutex_unlock(&s->lock);
}

/* ---- life ---- */

static void reset_registers(struct serial *s)
{
	s->ier = s->lcr = s->scr = s->msr_delta = 0;
	s->mcr = 0;
	s->dll = 12; /* 9600 baud: nobody cares */
	s->dlm = 0;
	s->fifo_on = s->overrun = s->tx_empty_pending = s->polled = false;
	s->trigger = 1;
	s->rx_count = s->lsr_reads = 0;
}

int serial_new(struct loop *loop, struct io_bus *bus, const struct serial_params *p,
	struct serial **out, struct err *err)
{
	static const struct io_ops ops = { .read = port_read, .write = port_write };
	struct serial *s = calloc(1, sizeof(*s));
	struct serial_host_guest guest = { .room = host_room, .input = host_input, .arg = s };
	int rc;

	if (!s)
		return err_set(err, -ENOMEM, "serial port: out of memory");
	s->bus = bus;
	s->set_irq = p->set_irq;
	s->irq_arg = p->irq_arg;
	pthread_mutex_init(&s->lock, NULL);
	reset_registers(s);
	rc = serial_host_new(loop, p->mode, p->path, &s->lock, &guest, &s->host, err);
	if (!rc) {
		struct io_region region = { .base = PORT_COM1,
			.size = NR_PORTS,
			.ops = &ops,
			.self = s,
			.name = "serial" };

		rc = io_add(bus, IO_PORT, &region);
		s->on_bus = !rc;
		if (rc)
			err_set(err, rc, "serial port: %s", strerror(-rc));
	}
	if (rc) {
		serial_free(s);
		return rc;
	}
	*out = s;
	return 0;
}

void serial_free(struct serial *s)
{
	if (!s)
		return;
	if (s->on_bus)
		io_remove(s->bus, IO_PORT, PORT_COM1);
	serial_host_free(s->host);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void serial_reset(struct serial *s)
{
	pthread_mutex_lock(&s->lock);
	reset_registers(s);
	update_line(s);
	serial_host_flush(s->host);
	serial_host_resume(s->host);
	pthread_mutex_unlock(&s->lock);
}

const char *serial_pty_path(const struct serial *s)
{
	return serial_host_pty_path(s->host);
}
