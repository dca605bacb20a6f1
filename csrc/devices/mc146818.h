/*
 * The real-time clock and CMOS memory: Motorola MC146818A as the PC/AT wires it.
 *
 * Source: MC146818A datasheet (ADI1034), named "146818" below; the century byte 0x32 and NMI mask are the PC/AT's,
 * the second 128 bytes of memory behind their own index and data port PIIX4's (Intel 290562, ports 72h and 73h).
 * The time is the machine clock's plus an offset that the guest sets by writing the time; flags are computed when
 * somebody looks, and a timer is armed only for interrupts that are enabled. Left out: daylight saving (the bit is
 * kept), square wave output, time bases other than 32.768 kHz, a day of the week that disagrees with the date.
 */
#ifndef PYVMM_DEVICES_MC146818_H
#define PYVMM_DEVICES_MC146818_H

#include "devices/device.h"

#define MC146818_STATE_VERSION 2
typedef struct MC146818State {
    int64_t offset_ns; /* RTC time = clock's epoch + clock's now + this */
    int64_t synced_ns; /* RTC time up to which the flags of register C are computed */
    uint8_t index;
    uint8_t nmi_disabled; /* port 0x70, bit 7 */
    uint8_t upper_index;
    uint8_t reserved[5];
    uint8_t ram[128];   /* 0..9 and 0x32 are the time while the clock is held; 1, 3, 5 the alarm; 10..13 registers A
                           to D */
    uint8_t upper[128]; /* plain memory */
} MC146818State;
_Static_assert(sizeof(MC146818State) == 280, "no padding: the bytes are the snapshot's");

/* Region 0: index and data port; index and data port of the upper memory. */
Device *mc146818_new(Board *board, IrqLine *irq);

/* CMOS memory for firmware: bytes 14..255, except the century (index is checked; the time is not set this way).
 * From 128 on they are the upper memory's. */
int mc146818_set_nvram(Device *device, uint32_t index, uint8_t value);
int mc146818_nvram(Device *device, uint32_t index); /* the byte, or -EINVAL */
bool mc146818_nmi_disabled(Device *device);

#endif
