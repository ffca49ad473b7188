/*
 * echo.h - a virtio device that gives back what it is given
 *
 * For the test guest (image/test_virtio.c) and the program that is the device (echo.c):
 * nothing but numbers. A request's readable bytes are copied to its writable ones, as many as both
 * have. All queues are alike.
 */
#ifndef TESTS_ECHO_H
#define TESTS_ECHO_H

#define ECHO_TYPE	62 /* that nobody has taken */
#define ECHO_NR_QUEUES	3
#define ECHO_QUEUE_SIZE 64
#define ECHO_FEATURE	3 /* a bit of its own, without a meaning */

/* Its configuration, all of 32 bits but for the features */
#define ECHO_ID_AT	 0x00
#define ECHO_ID		 0x0ec40001
#define ECHO_CHANGES_AT	 0x04 /* changes of the configuration so far */
#define ECHO_COMMAND_AT	 0x08 /* writable: what it is to do now */
#define ECHO_CHANGE	 1    /* change the configuration */
#define ECHO_SCRATCH_AT	 0x0c /* writable */
#define ECHO_FEATURES_AT 0x10 /* 64 bits: what the driver accepted */
#define ECHO_STARTS_AT	 0x18 /* starts of queues so far */
#define ECHO_SERVED_AT	 0x1c /* requests so far */
#define ECHO_CONFIG_SIZE 0x20

#endif
