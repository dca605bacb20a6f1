/*
 * The PIIX3's IDE function: two channels in compatibility mode, on each up to two drives (ATA disks on a
 * BlockImage, ATAPI CD-ROM drives), moved by PIO or by the bus master.
 *
 * Sources: ATA/ATAPI-6 (T13 1410D revision 3b, `ATA-6`), SFF-8020i and MMC-3 (T10 1363-D, `MMC-3`) for packet
 * commands, SPC-3 for sense data and inquiry, "Programming Interface for Bus Master IDE Controller" revision 1.0
 * (`BMIDE`), 82371SB PIIX3 (Intel 290550, `PIIX3`): PCICMD, BMIBA, IDETIM, SIDETIM.
 *
 * ide.c: PCI function, saved state. ide_channel.c: registers, resets, the data port. ide_transfer.c: image I/O, and
 * which thread does it. ide_dma.c: bus master. ide_ata.c, ide_identify.c: disks. ide_packet.c, ide_mmc.c: CD-ROM.
 *
 * Locking. The device's lock guards everything. One command of a channel at a time works on its image: it is
 * started under the lock, runs on the I/O thread without it (or, when no I/O thread runs, at once on the caller's
 * thread with it), and takes it again to complete. Resets, save, restore and stopping the bus master wait for the
 * end of such work.
 *
 * A command that would run out of the medium is refused as a whole with IDNF and the address it was given (by ATA-6
 * what is there moves first).
 *
 * Left out: Ultra DMA of the controller (the PIIX3 has none), overlap and queuing, SMART, security, host protected
 * area (READ NATIVE MAX ADDRESS answers, SET MAX aborts), formatting, TRIM, write to optical media, audio, raw CD
 * sectors (READ CD gives user data), native PCI mode. Timing registers are kept; nothing takes longer by them.
 */
#ifndef PYVMM_DEVICES_IDE_H
#define PYVMM_DEVICES_IDE_H

#include "block/block.h"
#include "devices/pci.h"

#define IDE_CHANNELS     2
#define IDE_DRIVES       2 /* of each channel: device 0 and device 1 */
#define IDE_BUFFER_BYTES 8192
#define IDE_SERIAL_BYTES 20

enum IdeRegion {
    IDE_REGION_COMMAND0, /* 8 ports: the command block registers */
    IDE_REGION_CONTROL0, /* 1 port: alternate status and device control */
    IDE_REGION_COMMAND1,
    IDE_REGION_CONTROL1,
    IDE_REGION_BUS_MASTER, /* BAR 4 */
};

enum IdeConfig { IDE_CONFIG_IDETIM = 0x40, IDE_CONFIG_SIDETIM = 0x44 };
#define IDETIM_DECODE 0x8000 /* the channel's ports are decoded */

enum IdeKind { IDE_NONE, IDE_DISK, IDE_CDROM };

enum IdePhase {
    IDE_PHASE_IDLE,
    IDE_PHASE_PACKET, /* the host writes a command packet */
    IDE_PHASE_IN,     /* the host reads the buffer */
    IDE_PHASE_OUT,    /* the host writes the buffer */
    IDE_PHASE_DMA,    /* the bus master moves data when it is started */
    IDE_PHASE_COUNT,
};

typedef struct IdeDriveState {
    uint8_t features, error, status, count, lba_low, lba_mid, lba_high;
    uint8_t previous_features, previous_count, previous_lba_low, previous_lba_mid, previous_lba_high; /* HOB */
    uint8_t interrupt;      /* INTRQ is wanted */
    uint8_t multiple;       /* sectors of a block; 0: off */
    uint8_t heads, sectors; /* the translation that INITIALIZE DEVICE PARAMETERS set */
    uint8_t transfer_mode;  /* SET FEATURES 03h */
    uint8_t write_cache;
    uint8_t power; /* enum IdePower */
    uint8_t sense_key, asc, ascq;
    uint8_t attention;   /* enum IdeAttention: what the next packet command is told first */
    uint8_t media_event; /* GET EVENT STATUS NOTIFICATION: what it has not told yet */
    uint8_t tray_open, locked;
    uint8_t reserved[6];
} IdeDriveState;
_Static_assert(sizeof(IdeDriveState) == 32, "no padding: the bytes are the snapshot's");

typedef struct IdeTransferState {
    uint64_t offset;                /* of the image, in bytes: what comes next */
    uint64_t left;                  /* bytes of the image that are not in the buffer yet */
    uint32_t position, end, filled; /* in the buffer: next byte, end of the DRQ block, end of the data */
    uint32_t block;                 /* bytes of a DRQ block, at most */
    uint8_t phase;                  /* enum IdePhase */
    uint8_t drive, is_packet, is_write;
    uint8_t reserved[4];
} IdeTransferState;
_Static_assert(sizeof(IdeTransferState) == 40, "no padding: the bytes are the snapshot's");

typedef struct IdeBusMasterState {
    uint32_t table;          /* BMIDTP */
    uint32_t next;           /* the descriptor that comes next */
    uint32_t address;        /* in the current one's region */
    uint32_t left;           /* bytes of that region */
    uint32_t fetched;        /* descriptors since it was started */
    uint8_t command, status; /* BMIC, BMIS */
    uint8_t last;            /* the current descriptor is the table's end */
    uint8_t reserved;
} IdeBusMasterState;
_Static_assert(sizeof(IdeBusMasterState) == 24, "no padding: the bytes are the snapshot's");

typedef struct IdeChannelState {
    IdeDriveState drives[IDE_DRIVES];
    IdeTransferState transfer;
    IdeBusMasterState master;
    uint8_t device, control; /* registers that both drives see */
    uint8_t reserved[6];
    uint8_t buffer[IDE_BUFFER_BYTES];
} IdeChannelState;

typedef struct IdeState {
    IdeChannelState channels[IDE_CHANNELS];
    PciFunctionState pci;
} IdeState;

typedef struct IdeDriveOptions {
    uint32_t kind;     /* enum IdeKind */
    BlockImage *image; /* the caller's, and outlives the device; NULL: a CD-ROM drive without a disc */
    char serial[IDE_SERIAL_BYTES + 1]; /* empty: one by its place */
} IdeDriveOptions;

typedef struct IdeOptions {
    IdeDriveOptions drives[IDE_CHANNELS * IDE_DRIVES]; /* primary 0 and 1, secondary 0 and 1 */
    IoThread *io;                                      /* who reads and writes the images; NULL: the board's */
} IdeOptions;

typedef struct IdeCounters {
    uint64_t commands; /* written to the command register and taken */
    uint64_t packets;
    uint64_t pio_blocks; /* DRQ blocks of data */
    uint64_t dma_transfers;
    uint64_t bytes_read, bytes_written; /* of images */
    uint64_t errors;                    /* commands that ended with ERR */
    uint64_t interrupts;
} IdeCounters;

/* devfn is function 1 of the ISA bridge's slot. */
Device *ide_new(Board *board, PciBus *bus, uint32_t devfn, IrqLine *primary, IrqLine *secondary,
                const IdeOptions *options, Error *error);
void ide_counters(Device *device, uint32_t channel, IdeCounters *counters);
/* Another disc (or NULL: none) in a CD-ROM drive; the tray closes. -EINVAL: not a CD-ROM drive. Waits for I/O. */
int ide_change_medium(Device *device, uint32_t channel, uint32_t drive, BlockImage *image);

#endif
