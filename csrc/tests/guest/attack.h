/* What the attacking guest (attack.c) and the test that runs it (test_virtio_attack.c) know of each other. */
#ifndef PYVMM_TESTS_GUEST_ATTACK_H
#define PYVMM_TESTS_GUEST_ATTACK_H

#include <stdint.h>

enum {
    ATTACK_RAM = 0x1000000,   /* bytes from 0 on: rings and data, which devices may write as they are told to */
    ATTACK_ROM = 0x1800000,   /* 64 KiB of memory that devices may not write */
    ATTACK_HOME = 0x5a400000, /* 4 MiB of the guest's own, where no descriptor points: from here on tables, then: */
    ATTACK_REPORT = ATTACK_HOME + 0x80000,
    ATTACK_STACK = ATTACK_HOME + 0xf0000,
    ATTACK_CODE = ATTACK_HOME + 0x100000,
    ATTACK_MMIO = 0xe0000000, /* 64 KiB for each slot */
    ATTACK_IO = 0xc000,       /* 256 ports for each slot */
    ATTACK_SLOTS = 32,
};

/* One for each slot of the bus. The host sets `rounds` and `asynchronous`, the guest the rest. */
typedef struct AttackReport {
    uint32_t rounds;       /* attacks on each device */
    uint32_t asynchronous; /* the device works on another thread */
    uint32_t finished;
    struct {
        uint32_t device_id;   /* 0: no virtio device there; virtio 1.2 §5 */
        uint32_t chains;      /* malformed ones that were made available */
        uint32_t needs_reset; /* how often the device said so */
        uint32_t missed;      /* how often it did not, and should have */
        uint32_t missed_kind; /* the last of these */
        uint32_t good;        /* at the end a good request was answered */
    } slots[ATTACK_SLOTS];
} AttackReport;

#endif
