/*
 * The BIOS ROM: 64 KiB at F000:0000, seen again below 4 GiB, entered at F000:FFF0 (Intel SDM 3A §10.1.4).
 *
 * Real-mode stubs only. What is hot or must run in the guest (timer tick, interrupt acknowledgement, waiting) is here; every
 * other service leaves by one `out` to FIRMWARE_SERVICE and is answered by pyvmm/firmware (services.S says how).
 * Only 386 instructions, and no prefix or addressing form that an interpreting KVM would refuse.
 *
 * Addresses that old software knows by heart (IBM PC/AT Technical Reference, 1985, BIOS listing) are kept: E6F5 configuration
 * table, EFC7 diskette parameters, FF53 a lone IRET, FFF0 entry, FFF5 date, FFFE model byte. The rest may move: the vector
 * table at ROM_TABLE tells Python where each handler is. Constants come from Python (cmake/firmware_constants.py).
 *
 * Left out: protected-mode entry points (the 32-bit PCI BIOS, APM, PnP) and option ROM scanning.
 */
#include "firmware_constants.h"

        .code16
        .text
        .globl _start
_start:
        .org ROM_CODE, 0
#include "vectors.S"
#include "services.S"
#include "interrupts.S"
#include "post.S"
#include "tables.S"
