/*
 * The floppy disk controller: an Intel 82077AA in AT mode, with two drives.
 *
 * Source: 82077AA datasheet (Intel 290166), "82077AA" below: registers (§2), commands and result phases (§5),
 * status (§5.2). What a drive has is an image of one of the PC's formats, 160K to 2.88M; its data rate must be
 * selected, and its motor must run, or nothing is found. Data goes by DMA (i8237.h, one transfer for a command) or,
 * in non-DMA mode, through the FIFO, a sector at a time. The mechanics take 100 us, whatever the distance; then the
 * image is read or written, on an I/O thread. Left out: SCAN and RELATIVE SEEK (invalid commands here), deleted
 * data marks (an image has no room for them: written ones are plain data), sectors of other than 512 bytes and
 * formats other than the image's own (no such sector is found), the tape drive and power-down registers' effects,
 * SRA and SRB (not in AT mode), the FIFO's threshold.
 */
#ifndef PYVMM_DEVICES_FDC_H
#define PYVMM_DEVICES_FDC_H

#include "block/block.h"
#include "devices/device.h"

/* PORTS: 6 from 0x3f0. RATE: 0x3f7. */
enum FdcRegion { FDC_REGION_PORTS, FDC_REGION_RATE };
enum FdcRegister { FDC_DOR = 2, FDC_TDR, FDC_MSR, FDC_FIFO };
#define FDC_PORTS      6
#define FDC_DRIVES     2
#define FDC_SECTOR     512
#define FDC_MAX_TRACKS 85

enum { MSR_RQM = 0x80, MSR_DIO = 0x40, MSR_NDM = 0x20, MSR_BUSY = 0x10 };
enum { DOR_SELECT = 3, DOR_NOT_RESET = 4, DOR_DMAGATE = 8, DOR_MOTOR_SHIFT = 4 };
enum { ST0_ABNORMAL = 0x40, ST0_INVALID = 0x80, ST0_SEEK_END = 0x20, ST0_EQUIPMENT = 0x10, ST0_HEAD = 4 };
enum {
    ST1_END = 0x80,
    ST1_CRC = 0x20,
    ST1_OVERRUN = 0x10,
    ST1_NO_DATA = 4,
    ST1_WRITE_PROTECT = 2,
    ST1_NO_MARK = 1
};
enum { ST2_CONTROL_MARK = 0x40, ST2_WRONG_CYLINDER = 0x10 };
enum { ST3_WRITE_PROTECT = 0x40, ST3_TRACK0 = 0x10, ST3_HEAD = 4, ST3_FIXED = 0x28 };

enum FdcPhase { FDC_COMMAND_PHASE, FDC_EXECUTION, FDC_FIFO_IN, FDC_FIFO_OUT, FDC_RESULT };

typedef struct FdcGeometry {
    uint8_t tracks, heads, sectors; /* 0: no medium */
    uint8_t rate;                   /* as in CCR: 0 500, 1 300, 2 250 kbit/s, 3 1 Mbit/s */
} FdcGeometry;

typedef struct FdcDriveOptions {
    BlockImage *image; /* the caller's, and outlives the device; NULL: no medium */
    FdcGeometry geometry;
    uint8_t present;
} FdcDriveOptions;

typedef struct FdcOptions {
    FdcDriveOptions drives[FDC_DRIVES];
    IoThread *io; /* who reads and writes; NULL: the board's */
} FdcOptions;

#define FDC_STATE_VERSION 1
typedef struct FdcState {
    uint64_t deadline_ns; /* when `events` happen; 0: none */
    uint8_t dor, tdr, dsr, rate;
    uint8_t config, precompensation, locked, perpendicular; /* CONFIGURE, LOCK */
    uint8_t step_rate, head_load, end_of_track;             /* SPECIFY; EOT of the last command */
    uint8_t phase;                                          /* enum FdcPhase */
    uint8_t command[9], command_length, position;           /* position: in the command, or in the result */
    uint8_t result[10], result_length;
    uint8_t events;              /* what the mechanics are at */
    uint8_t interrupt;           /* INT before DMAGATE */
    uint8_t reset_senses;        /* statuses after a reset that nobody asked for yet */
    uint8_t seek_done;           /* bit for each drive: its end has not been asked for */
    uint8_t seek_status[4];      /* ST0 then; while it is under way 1 for SEEK, 0 for RECALIBRATE */
    uint8_t seek_target[4];      /* NCN */
    uint8_t cylinder[4];         /* PCN: where the controller thinks that the heads are */
    uint8_t track[FDC_DRIVES];   /* where they are */
    uint8_t changed[FDC_DRIVES]; /* DSKCHG */
    uint8_t sectors_left;        /* FORMAT, and VERIFY with a count */
    uint8_t found;               /* non-DMA: the buffer has what is to be written */
    uint8_t reserved[12];
    uint16_t fifo_position, fifo_length;
    uint8_t buffer[FDC_SECTOR];
} FdcState;
_Static_assert(sizeof(FdcState) == 592, "no padding: the bytes are the snapshot's");

Device *fdc_new(Board *board, IrqLine *irq, Device *dma, uint32_t dma_channel, const FdcOptions *options);
/* Another disk (or NULL: none) in a drive: its change line says so. -EINVAL: no such drive. */
int fdc_change_medium(Device *device, uint32_t drive, BlockImage *image, const FdcGeometry *geometry);

#endif
