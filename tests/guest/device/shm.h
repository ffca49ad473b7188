/*
 * shm.h - a virtio device with a shared-memory region and no queue that is ever looked at
 *
 * For the test guest (image/test_virtio_shm.c) and the device (shm.py, which has the same numbers).
 * The driver writes its arguments, then a command; SHM_DONE counts the commands that are carried
 * out. There is one file, which the device lays into the region.
 */
#ifndef TESTS_SHM_H
#define TESTS_SHM_H

#define SHM_TYPE	61 /* that nobody has taken */
#define SHM_REGION	3
#define SHM_REGION_SIZE 0x1000000
#define SHM_FILE_SIZE	0x10000

/* Its configuration, all of 32 bits */
#define SHM_ID_AT     0x00
#define SHM_ID	      0x5a3e0001
#define SHM_COMMAND   0x04 /* writable */
#define SHM_OFFSET    0x08 /* writable: in the region */
#define SHM_SIZE      0x0c /* writable */
#define SHM_FD_OFFSET 0x10 /* writable: in the file */
#define SHM_DONE      0x14
#define SHM_RESULT    0x18
#define SHM_CONFIG    0x1c

/* Results are what the VMM answered, or the file's word at SHM_FD_OFFSET. */
#define SHM_MAP	     1
#define SHM_MAP_RO   2
#define SHM_UNMAP    3
#define SHM_READ     4
#define SHM_TRUNCATE 5 /* to SHM_SIZE bytes */

#endif
