/*
 * The PC's pair of 8259A interrupt controllers with their edge/level control registers (ELCR).
 *
 * Sources: Intel 8259A datasheet (order number 231468), named "8259A" below; PIIX 290562 §2.5.5 for the ELCR.
 * Left out: MCS-80/85 mode (ICW4 bit 0 = 0 gives 8086 vectors all the same), buffered mode (its bits are stored;
 * the wiring is fixed), cascades other than the slave on IR2. One liberty: an edge-triggered request stays latched
 * when its input drops before the acknowledge cycle (8259A would answer with IR7), because lines are pulsed by
 * devices that know no acknowledge.
 */
#ifndef PYVMM_IRQ_I8259_H
#define PYVMM_IRQ_I8259_H

#include "devices/device.h"

enum { I8259_REGION_MASTER, I8259_REGION_SLAVE, I8259_REGION_ELCR }; /* 2 ports each */

typedef struct I8259ChipState {
    uint8_t irr; /* requests; bit 2 of the master follows the slave's INT */
    uint8_t imr;
    uint8_t isr;
    uint8_t lines; /* levels of the IR inputs */
    uint8_t elcr;  /* 1 = level-triggered */
    uint8_t icw1;
    uint8_t icw2; /* vector base, low three bits clear */
    uint8_t icw3;
    uint8_t icw4;
    uint8_t next_icw; /* 2..4 while being initialised, else 0 */
    uint8_t lowest;   /* the level of lowest priority; 7 after ICW1 */
    uint8_t read_isr; /* OCW3: a read at A0 = 0 gives ISR, not IRR */
    uint8_t poll;     /* OCW3: the next read is a poll */
    uint8_t special_mask;
    uint8_t rotate_aeoi; /* OCW2: rotate in automatic EOI mode */
    uint8_t reserved;
} I8259ChipState;

#define I8259_STATE_VERSION 1
typedef struct I8259State {
    I8259ChipState master;
    I8259ChipState slave;
} I8259State;
_Static_assert(sizeof(I8259State) == 32, "no padding: the bytes are the snapshot's");

/* Listens to GSI 0..15 of the router, drives board->extint and answers its acknowledge cycle. */
Device *i8259_new(Board *board, IrqRouter *router);

#endif
