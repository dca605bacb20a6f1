/*
 * The PC's DMA controllers: two 8237A and the page registers, channels 0 to 3 of bytes and 5 to 7 of words.
 *
 * Source: Intel 8237A datasheet (231466), "8237A" below; page registers and the wiring as the PC/AT has them (IBM
 * PC/AT Technical Reference, 1984). A peripheral asks for a transfer by i8237_transfer(); all of it is done at
 * once: priorities and bus modes are kept and make no difference. Left out: memory-to-memory, software requests
 * (the bits are kept), and the cascade by channel 4, which is always open.
 *
 * Lock order: the peripheral's device lock, then this one's; nothing here calls back.
 */
#ifndef PYVMM_DEVICES_I8237_H
#define PYVMM_DEVICES_I8237_H

#include "devices/device.h"

/* MASTER: 16 ports from 0. SLAVE: 32 ports from 0xc0, each register twice. PAGES: 15 ports from 0x81. */
enum I8237Region { I8237_REGION_MASTER, I8237_REGION_SLAVE, I8237_REGION_PAGES };
enum { I8237_CHANNELS = 8, I8237_PAGE_PORTS = 15 };

typedef struct I8237Channel {
    uint16_t base_address, base_count;
    uint16_t address, count; /* current; count is one less than what is left */
    uint8_t mode;            /* as written, without the channel's number */
    uint8_t reserved;
} I8237Channel;

typedef struct I8237Unit {
    uint8_t command, terminal_count, request, mask; /* a bit for each channel but in the command */
    uint8_t flip_flop;                              /* 1: the next byte is the high one */
    uint8_t reserved;
} I8237Unit;

#define I8237_STATE_VERSION 1
typedef struct I8237State {
    I8237Channel channels[I8237_CHANNELS];
    I8237Unit units[2];
    uint8_t pages[I8237_PAGE_PORTS]; /* from port 0x81 on: those of no channel are scratch */
    uint8_t reserved;
} I8237State;
_Static_assert(sizeof(I8237State) == 108, "no padding: the bytes are the snapshot's");

enum I8237Direction { I8237_TO_MEMORY, I8237_FROM_MEMORY };

Device *i8237_new(Board *board);
/*
 * What a peripheral with DREQ up gets done: `bytes` between `data` and memory. Returns how many were moved; fewer
 * when the count ran out (*terminal_count is set), and none when the channel is masked, off or set up for the other
 * direction. A channel in verify mode counts and moves nothing: `data` is as it was.
 */
size_t i8237_transfer(Device *device, uint32_t channel, void *data, size_t bytes, enum I8237Direction direction,
                      bool *terminal_count);

#endif
