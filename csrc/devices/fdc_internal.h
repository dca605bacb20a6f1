/* What fdc.c (registers, phases, state) and fdc_commands.c (commands and the mechanics) share. */
#ifndef PYVMM_DEVICES_FDC_INTERNAL_H
#define PYVMM_DEVICES_FDC_INTERNAL_H

#include "devices/fdc.h"

enum FdcEvents {
    FDC_EVENT_RESET = 1,
    FDC_EVENT_TRANSFER = 2,
    FDC_EVENT_SEEK = 4 /* << drive */,
    FDC_EVENTS = 0x3f
};
enum { CONFIG_IMPLIED_SEEK = 0x40, CONFIG_NO_FIFO = 0x20, CONFIG_THRESHOLD = 0x0f };
#define FDC_SEEKS(state) ((state)->events / FDC_EVENT_SEEK) /* a bit for each drive */

typedef struct FdcDrive {
    BlockImage *image;
    FdcGeometry geometry;
    bool present;
} FdcDrive;

typedef struct Fdc {
    Device device;
    IrqLine *irq;
    Device *dma;
    uint32_t dma_channel;
    Timer *timer;
    IoNotifier *notifier; /* the mechanics' work, on the I/O thread */
    FdcDrive drives[FDC_DRIVES];
    FdcState state;
} Fdc;

/* fdc.c */
void fdc_schedule(Fdc *fdc, uint8_t event);
void fdc_interrupt(Fdc *fdc, bool raised);
void fdc_give_result(Fdc *fdc, const uint8_t *bytes, uint8_t count); /* 0: to the command phase */

/* fdc_commands.c */
uint8_t fdc_command_length(uint8_t first);
bool fdc_is_data_command(uint8_t first); /* one whose result phase begins with an interrupt */
void fdc_execute(Fdc *fdc);              /* all bytes of the command are there */
void fdc_seek_ended(Fdc *fdc, uint32_t drive);
void fdc_transfer(Fdc *fdc);     /* on the I/O thread: go on with a data command */
void fdc_fifo_drained(Fdc *fdc); /* non-DMA: the host has the sector, or has given it */

#endif
