/*
 * The chip set's bridges: 82441FX host bridge (8086:1237), PIIX3 ISA bridge (8086:7000).
 *
 * Sources: 82441FX datasheet (Intel 290549), 82371SB PIIX3 (Intel 290550), their configuration registers by name.
 * What has no effect here is not writable, so that a register never claims what the machine does not do. The
 * exceptions firmware insists on are the host bridge's PAM0-PAM6, DRB0-DRB7 and SMRAM: plain bytes that read back
 * as written; the memory below 1 MiB stays as the machine laid it out. Left out: ECC and DRAM timing, ISA timing
 * and DMA registers, SERIRQ.
 */
#ifndef PYVMM_DEVICES_PCI_BRIDGES_H
#define PYVMM_DEVICES_PCI_BRIDGES_H

#include "devices/pci.h"

enum I440fxRegister { I440FX_PAM0 = 0x59, I440FX_DRB0 = 0x60, I440FX_SMRAM = 0x72 };
enum Piix3Register { PIIX3_PIRQRC = 0x60 };

#define PIRQRC_DISABLED 0x80

typedef struct PciBridgeState {
    PciFunctionState pci;
} PciBridgeState;

Device *i440fx_new(Board *board, PciBus *bus, uint32_t devfn, Error *error);
/* Routes the bus's links by its PIRQRC registers. */
Device *piix3_isa_new(Board *board, PciBus *bus, uint32_t devfn, Error *error);

#endif
