/*
 * Parallel flash memory with Intel's command set: where UEFI firmware keeps its variables.
 *
 * Sources: Intel StrataFlash 28F320J5 datasheet (290606) for commands and status; JEDEC JESD68.01 "Common Flash
 * Memory Interface (CFI)" and Intel AP-646 for the query table. One 8-bit device, blocks of 4 KiB, a write buffer
 * of 64 bytes. Programming clears bits and erasing sets them, at once. Left out: suspend, lock bits (accepted),
 * protection registers.
 */
#ifndef PYVMM_DEVICES_PFLASH_H
#define PYVMM_DEVICES_PFLASH_H

#include "devices/device.h"

#define PFLASH_BLOCK_SIZE  4096
#define PFLASH_BUFFER_SIZE 64

#define PFLASH_STATE_VERSION 1
typedef struct PflashState {
    uint32_t buffer_start, buffer_left; /* write to buffer: offset of the first byte, bytes still to come */
    uint8_t mode;    /* what reads give: the command that chose it (0xff array, 0x70, 0x90, 0x98) */
    uint8_t pending; /* command that waits for its next cycle, or 0 */
    uint8_t status;
    uint8_t buffer_size; /* bytes of the buffered write */
    uint8_t buffer[PFLASH_BUFFER_SIZE];
    uint8_t written[PFLASH_BUFFER_SIZE]; /* 1 where the buffer has a byte */
} PflashState;
_Static_assert(sizeof(PflashState) == 140, "no padding: the bytes are the snapshot's");

/* Region 0 is all of it. `fd`: a file of `size` bytes that holds the contents and gets all changes (it is mapped,
 * the descriptor may be closed); -1 for memory that begins erased. `size` is a multiple of the block size, up to 64
 * MiB. */
Device *pflash_new(Board *board, int fd, uint64_t size, Error *error);
uint8_t *pflash_data(Device *device);
int pflash_flush(Device *device); /* wait until the file has it; 0 or -errno */

#endif
