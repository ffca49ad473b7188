/*
 * card.h - the card that plain_server offers, as guest.c and the clients look for it
 *
 * Like the PCI-IDIO-16 of `outboard-device gpio` it has its registers in BAR2, I/O space, so that
 * both servers answer the same requests.
 */
#ifndef BENCH_CARD_H
#define BENCH_CARD_H

#define CARD_VENDOR_ID 0x494fu
#define CARD_DEVICE_ID 0x0dc8u
#define CARD_BAR       2
#define CARD_BAR_SIZE  256
#define CARD_REGISTER  0    /* read and written by the round trips: OUT0-7 */
#define CARD_DOORBELL  0x80 /* one byte; only plain_server has it, with --doorbell */

#endif
