/*
 * An IDE disk, the first on the primary channel, by programmed I/O (ATA/ATAPI-6 §8.27, §9.5; ports and IRQ of the
 * PC): READ SECTORS with 28-bit LBA, an interrupt for each sector, the data by REP INSW. That is how it was before
 * bus masters, and what costs a monitor most; virtio (../kernel/virtio_blk.c) is the other end. Left out: DMA,
 * writing, 48-bit LBA, the other three disks.
 */
#include "lab_kernel.h"

#define IDE_DATA    0x1f0
#define IDE_COUNT   0x1f2
#define IDE_LBA     0x1f3 /* 0-7; 1f4: 8-15; 1f5: 16-23 */
#define IDE_DEVICE  0x1f6
#define IDE_STATUS  0x1f7 /* read: takes back the interrupt */
#define IDE_COMMAND 0x1f7
#define IDE_CONTROL 0x3f6
#define IDE_IRQ     14

#define STATUS_BSY   0x80
#define STATUS_DRDY  0x40
#define STATUS_DRQ   0x08
#define STATUS_ERR   0x01
#define DEVICE_LBA   0xe0
#define READ_SECTORS 0x20
#define IDENTIFY     0xec

#define POLL_TURNS   100000u
#define ANSWER_TICKS 500u

static volatile uint64_t interrupts;
static uint64_t sectors_total;
static bool opened;

static void ide_interrupt(void) { interrupts++; }

static bool wait_idle(void)
{
    for (unsigned i = 0; i < POLL_TURNS; i++)
        if (!(inb(IDE_STATUS) & STATUS_BSY))
            return true;
    return false;
}

/* The interrupt, or so many ticks: the timer runs. Interrupts are off before and after. */
static bool wait_interrupt(uint64_t seen)
{
    uint64_t start = timer_ticks();
    while (interrupts == seen && timer_ticks() - start < ANSWER_TICKS) {
        sti_hlt();
        cli();
    }
    return interrupts != seen;
}

static void read_words(void *to) /* one sector */
{
    uint64_t count = SECTOR_SIZE / 2;
    __asm__ volatile("rep insw" : "+D"(to), "+c"(count) : "d"(IDE_DATA) : "memory");
}

bool ide_init(void)
{
    static uint16_t identity[SECTOR_SIZE / 2];
    if (opened)
        return sectors_total != 0;
    opened = true;
    outb(IDE_CONTROL, 2); /* nIEN: no interrupts while looking */
    outb(IDE_DEVICE, DEVICE_LBA);
    uint8_t status = inb(IDE_STATUS);
    if (status == 0xff || !wait_idle() || !(inb(IDE_STATUS) & STATUS_DRDY))
        return false;
    outb(IDE_COMMAND, IDENTIFY);
    if (!wait_idle() || !(inb(IDE_STATUS) & STATUS_DRQ))
        return false; /* nothing there, or a CD drive */
    read_words(identity);
    trap_set_irq(IDE_IRQ, ide_interrupt);
    inb(IDE_STATUS);
    outb(IDE_CONTROL, 0);
    sectors_total = identity[60] | (uint64_t)identity[61] << 16; /* words 60-61 */
    return sectors_total != 0;
}

uint64_t ide_sectors(void) { return sectors_total; }

int ide_read(uint64_t lba, void *buffer, size_t sectors)
{
    if (!sectors || sectors > 256 || lba + sectors > sectors_total || !wait_idle())
        return -1;
    cli();
    uint64_t seen = interrupts;
    outb(IDE_COUNT, (uint8_t)sectors);
    outb(IDE_LBA, (uint8_t)lba);
    outb(IDE_LBA + 1, (uint8_t)(lba >> 8));
    outb(IDE_LBA + 2, (uint8_t)(lba >> 16));
    outb(IDE_DEVICE, (uint8_t)(DEVICE_LBA | (lba >> 24 & 15)));
    outb(IDE_COMMAND, READ_SECTORS);
    int result = 0;
    for (uint8_t *to = buffer; sectors && !result; sectors--, to += SECTOR_SIZE) {
        if (!wait_interrupt(seen++)) {
            result = -1;
            break;
        }
        uint8_t status = inb(IDE_STATUS); /* takes the interrupt back */
        if (status & STATUS_ERR || !(status & STATUS_DRQ))
            result = 1;
        else
            read_words(to);
    }
    sti();
    return result;
}
