/* What the files of the IDE function know of each other. All functions: lock held, unless it says otherwise. */
#ifndef PYVMM_DEVICES_IDE_INTERNAL_H
#define PYVMM_DEVICES_IDE_INTERNAL_H

#include <sys/uio.h>

#include "devices/ide.h"

#define ATA_SECTOR   512u
#define CD_SECTOR    2048u
#define PACKET_BYTES 12u
#define DMA_SEGMENTS 1024u /* IOV_MAX: what one host call takes */

enum IdeStatus {
    IDE_BSY = 0x80,
    IDE_DRDY = 0x40,
    IDE_DF = 0x20,
    IDE_DSC = 0x10,
    IDE_DRQ = 0x08,
    IDE_ERR = 0x01, /* CHK of a packet command */
    IDE_READY = IDE_DRDY | IDE_DSC,
};

enum IdeError { IDE_UNC = 0x40, IDE_IDNF = 0x10, IDE_ABRT = 0x04 };
enum IdeDevice { IDE_DEVICE_LBA = 0x40, IDE_DEVICE_1 = 0x10 };
enum IdeControl { IDE_CONTROL_HOB = 0x80, IDE_CONTROL_SRST = 0x04, IDE_CONTROL_NIEN = 0x02 };
enum IdePower { IDE_POWER_ACTIVE, IDE_POWER_IDLE, IDE_POWER_STANDBY, IDE_POWER_SLEEP };
enum IdeAttention { IDE_ATTENTION_NONE, IDE_ATTENTION_RESET, IDE_ATTENTION_MEDIUM };
/* Interrupt reason, the sector count register of a packet command: ATA-6 PACKET. */
enum IdeReason { IDE_REASON_COMMAND = 1, IDE_REASON_TO_HOST = 2 };

enum BmCommand { BM_START = 0x01, BM_TO_MEMORY = 0x08 };
enum BmStatus { BM_ACTIVE = 0x01, BM_ERROR = 0x02, BM_INTERRUPT = 0x04, BM_DRIVE_CAPABLE = 0x60 };

/* Work on an image, done without the lock. */
enum IdeJob { IDE_JOB_NONE, IDE_JOB_READ, IDE_JOB_WRITE, IDE_JOB_DMA, IDE_JOB_VERIFY, IDE_JOB_FLUSH };

typedef struct Ide Ide;

typedef struct IdeDrive {
    uint32_t kind; /* enum IdeKind */
    uint32_t index;
    BlockImage *image;
    char serial[IDE_SERIAL_BYTES + 1];
    IdeDriveState *state; /* in its channel's */
} IdeDrive;

typedef struct IdeChannel {
    Ide *ide;
    uint32_t index;
    IrqLine *line;
    bool intrq;
    IdeDrive drives[IDE_DRIVES];
    IdeChannelState state;
    IdeCounters counters;
    /* The job: see ide_transfer.c. */
    uint32_t job;
    bool working;
    bool lock_kept;
    uintptr_t kicker;
    IoNotifier *notifier;
    pthread_cond_t idle;
    struct iovec iov[DMA_SEGMENTS];
    gpa_t gpa[DMA_SEGMENTS];
} IdeChannel;

struct Ide {
    Device device;
    PciFunction function;
    IdeChannel channels[IDE_CHANNELS];
};

/* ide_channel.c */
void ide_channel_reset(IdeChannel *channel); /* power-on values; the job has ended */
uint64_t ide_channel_read(IdeChannel *channel, bool control, uint64_t offset, uint32_t size);
void ide_channel_write(IdeChannel *channel, bool control, uint64_t offset, uint32_t size, uint64_t value);
IdeDrive *ide_selected(IdeChannel *channel); /* may be of kind IDE_NONE */
void ide_update_irq(IdeChannel *channel);
void ide_set_signature(IdeDrive *drive);
/* How a command ends, or goes on: status, and INTRQ. */
void ide_finish(IdeChannel *channel, IdeDrive *drive);
void ide_fail(IdeChannel *channel, IdeDrive *drive, uint8_t error);
void ide_raise(IdeChannel *channel, IdeDrive *drive);

/* ide_transfer.c */
int ide_channel_attach(IdeChannel *channel, IoThread *io);
void ide_channel_detach(IdeChannel *channel); /* no lock */
void ide_start_job(IdeChannel *channel, enum IdeJob job);
void ide_cancel_job(IdeChannel *channel); /* one that has begun ends first */
void ide_finish_job(IdeChannel *channel); /* now, here, if nobody else does */
/* A command's data: [offset, offset + bytes) of the image. */
void ide_read_image(IdeChannel *channel, IdeDrive *drive, uint64_t offset, uint64_t bytes, uint32_t block,
                    bool dma);
void ide_write_image(IdeChannel *channel, IdeDrive *drive, uint64_t offset, uint64_t bytes, uint32_t block,
                     bool dma);
void ide_verify_image(IdeChannel *channel, IdeDrive *drive, uint64_t offset, uint64_t bytes);
void ide_flush_image(IdeChannel *channel, IdeDrive *drive);
/* A command's data: `bytes` that are in the buffer. */
void ide_send_buffer(IdeChannel *channel, IdeDrive *drive, uint32_t bytes, uint32_t block, bool dma);
void ide_send_identity(IdeChannel *channel, IdeDrive *drive); /* the 512 bytes of IDENTIFY (PACKET) DEVICE */
void ide_begin_block(IdeChannel *channel, bool interrupt);    /* the next DRQ block of what is in the buffer */
void ide_block_done(IdeChannel *channel);                     /* the host has moved it */

/* ide_dma.c */
uint8_t ide_master_read(IdeChannel *channel, uint64_t offset);
void ide_master_write(IdeChannel *channel, uint64_t offset, uint8_t value);
void ide_master_reset(IdeChannel *channel);
void ide_try_dma(IdeChannel *channel); /* begin when both sides are ready */
/* No lock. 0, or -errno of the image. */
enum IdeDmaEnd { IDE_DMA_DONE, IDE_DMA_TABLE_END, IDE_DMA_FAULT };
int ide_do_dma(IdeChannel *channel, enum IdeDmaEnd *end);
void ide_dma_ended(IdeChannel *channel, enum IdeDmaEnd end);

/* ide_ata.c, ide_identify.c */
void ide_ata_command(IdeChannel *channel, IdeDrive *drive, uint8_t command);
bool ide_common_command(IdeChannel *channel, IdeDrive *drive, uint8_t command); /* false: not one of them */
uint64_t ide_sectors(const IdeDrive *drive);
uint32_t ide_default_cylinders(const IdeDrive *drive);
void ide_set_lba(IdeChannel *channel, IdeDrive *drive, uint64_t lba); /* where an error was */
void ide_identify_disk(IdeDrive *drive, uint8_t *data);
void ide_identify_packet(IdeDrive *drive, uint8_t *data);

/* ide_packet.c */
void ide_atapi_command(IdeChannel *channel, IdeDrive *drive, uint8_t command);
void ide_packet_received(IdeChannel *channel);
void ide_packet_finish(IdeChannel *channel, IdeDrive *drive);
void ide_packet_fail(IdeChannel *channel, IdeDrive *drive, uint8_t key, uint8_t asc, uint8_t ascq);

/* ide_mmc.c: each writes its answer and returns its length, or -1 for an invalid field. */
uint32_t mmc_sectors(const IdeDrive *drive); /* 0: no disc */
int mmc_inquiry(uint8_t *data);
int mmc_sense(IdeDrive *drive, uint8_t *data);
int mmc_capacity(const IdeDrive *drive, uint8_t *data);
int mmc_toc(const IdeDrive *drive, const uint8_t *packet, uint8_t *data);
int mmc_configuration(const IdeDrive *drive, const uint8_t *packet, uint8_t *data);
int mmc_event(IdeDrive *drive, const uint8_t *packet, uint8_t *data);
int mmc_mode_sense(const IdeDrive *drive, const uint8_t *packet, uint8_t *data);
int mmc_disc_information(const uint8_t *packet, uint8_t *data);
int mmc_mechanism_status(const IdeDrive *drive, uint8_t *data);

#endif
