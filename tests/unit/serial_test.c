/* serial_test.c - the 16550 through its ports */
#include "serial_fixture.h"

static void drivers_recognise_a_16550a(void **state)
{
	must_start(SERIAL_NULL, NULL);
	/* as Linux' autoconfig() does it */
	out(UART_IER, 0);
	assert_int_equal(in(UART_IER), 0);
	out(UART_IER, 0xff);
	assert_int_equal(in(UART_IER), 0x0f);
	out(UART_IER, 0);
	out(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
	assert_int_equal(in(UART_MSR)&0xf0, UART_MSR_DCD | UART_MSR_CTS);
	out(UART_MCR, 0);
	assert_int_equal(in(UART_MSR)&0xf0, UART_MSR_DCD | UART_MSR_CTS | UART_MSR_DSR);
	assert_int_equal(in(UART_IIR) >> 6, 0);
	out(UART_FCR, UART_FCR_ENABLE_FIFO);
	assert_int_equal(in(UART_IIR) >> 6, 3);
	out(UART_SCR, 0xa5);
	assert_int_equal(in(UART_SCR), 0xa5);
	out(UART_LCR, UART_LCR_DLAB | 3);
	out(UART_DLL, 0x34);
	out(UART_DLM, 0x12);
	assert_int_equal(in(UART_DLL), 0x34);
	assert_int_equal(in(UART_DLM), 0x12);
	out(UART_LCR, 3);
	assert_int_equal(in(UART_IER), 0);
	assert_int_equal(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE);
}

static void transmitter_interrupts_once_for_each_time_it_empties(void **state)
{
	must_start(SERIAL_NULL, NULL);
	out(UART_IER, UART_IER_THRI);
	assert_int_equal(edges, 1); /* it is empty */
	assert_int_equal(in(UART_IIR), UART_IIR_THRI);
	assert_false(line); /* reading the cause takes it away */
	assert_int_equal(in(UART_IIR), UART_IIR_NO_INT);
	out(UART_TX, 'x');
	assert_int_equal(edges, 2);
	out(UART_TX, 'y');
	assert_int_equal(edges, 2); /* still not acknowledged */
	assert_int_equal(in(UART_IIR), UART_IIR_THRI);
	out(UART_IER, 0);
	out(UART_IER, UART_IER_THRI); /* Linux' test for a lost interrupt */
	assert_int_equal(edges, 3);
	assert_int_equal(in(UART_IIR), UART_IIR_THRI);
}

static void loopback_brings_bytes_and_lines_back(void **state)
{
	must_start(SERIAL_NULL, NULL);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_4);
	out(UART_IER, UART_IER_RDI | UART_IER_RLSI | UART_IER_MSI);
	out(UART_MCR, UART_MCR_LOOP);
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_MSI); /* the lines dropped */
	assert_int_equal(in(UART_MSR), UART_MSR_DDCD | UART_MSR_DDSR | UART_MSR_DCTS);
	assert_false(line);
	send_text("abc");
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_RX_TIMEOUT);
	send_text("d");
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_RDI);
	assert_int_equal(in(UART_RX), 'a');
	send_text("0123456789abcdef"); /* three too many */
	assert_int_equal(in(UART_IIR)&0xf, UART_IIR_RLSI);
	assert_int_equal(in(UART_LSR), UART_LSR_TEMT | UART_LSR_THRE | UART_LSR_DR | UART_LSR_OE);
	assert_int_equal(in(UART_LSR)&UART_LSR_OE, 0);
	out(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_RCVR);
	assert_int_equal(in(UART_LSR)&UART_LSR_DR, 0);
	assert_false(line);
}

static void reset_puts_back_the_registers_and_lowers_the_line(void **state)
{
	must_start(SERIAL_NULL, NULL);
	out(UART_IER, UART_IER_THRI);
	out(UART_LCR, 3);
	out(UART_FCR, 1);
	assert_true(line);
	serial_reset(serial);
	assert_false(line);
	assert_int_equal(in(UART_IER), 0);
	assert_int_equal(in(UART_LCR), 0);
	assert_int_equal(in(UART_IIR), UART_IIR_NO_INT);
}

static void any_access_of_any_width_is_answered(void **state)
{
	must_start(SERIAL_NULL, NULL);
	srand(1);
	for (unsigned i = 0; i < 200000; i++) {
		unsigned size = 1u << (rand() % 4), reg = (unsigned)rand() % 8;
		uint64_t v = (uint64_t)rand() << 32 | (uint64_t)rand();

		if (rand() % 2)
			io_write(bus, reader, IO_PORT, PORT_COM1 + reg, size, v);
		else
			io_read(bus, reader, IO_PORT, PORT_COM1 + reg, size, &v);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		TEST(drivers_recognise_a_16550a),
		TEST(transmitter_interrupts_once_for_each_time_it_empties),
		TEST(loopback_brings_bytes_and_lines_back),
		TEST(reset_puts_back_the_registers_and_lowers_the_line),
		TEST(any_access_of_any_width_is_answered),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
