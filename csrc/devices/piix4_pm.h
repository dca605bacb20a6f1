/*
 * PIIX4's function 3 (8086:7113): where the power management registers are, and the SMBus host controller.
 *
 * Source: 82371AB datasheet (Intel 290562), chapter 7: configuration registers (PMBASE, DEVACTB, PMREGMISC, SMBBA,
 * SMBHSTCFG, SMBSLVC, SMBREV) and the SMBus I/O registers, by name; System Management Bus specification 1.0.
 * The power management registers themselves are acpi_pm.c's, at a fixed place: PMBASE cannot be moved. The SMBus's
 * 16 ports are where SMBBA says while PCICMD's IOSE is set.
 *
 * Nobody is on the bus: an address is not acknowledged, and the host reports DEV_ERR after the time that the
 * address took at 16 kHz. As nobody else is master there either, the slave interface keeps its registers and has no
 * events. Left out: SMI# (SMB_INTRSEL of 0 interrupts nobody), device monitors.
 */
#ifndef PYVMM_DEVICES_PIIX4_PM_H
#define PYVMM_DEVICES_PIIX4_PM_H

#include "devices/pci.h"

enum Piix4PmRegister {
    PIIX4_PMBASE = 0x40,
    PIIX4_DEVACTB = 0x58,
    PIIX4_PMREGMISC = 0x80,
    PIIX4_SMBBA = 0x90,
    PIIX4_SMBHSTCFG = 0xd2,
    PIIX4_SMBSLVC,
    PIIX4_SMBSHDW1,
    PIIX4_SMBSHDW2,
    PIIX4_SMBREV,
};
#define PIIX4_DEVACTB_APMC_EN (1u << 25)
#define PIIX4_SMBUS_PORTS     16

/* SMBus I/O registers, from SMBBA on. */
enum SmbusRegister {
    SMBHSTSTS,
    SMBSLVSTS,
    SMBHSTCNT,
    SMBHSTCMD,
    SMBHSTADD,
    SMBHSTDAT0,
    SMBHSTDAT1,
    SMBBLKDAT,
    SMBSLVCNT,
    SMBSHDWCMD,
    SMBSLVEVT,
    SMBSLVDAT = 0x0c,
};
enum {
    SMBHSTSTS_BUSY = 1,
    SMBHSTSTS_INTER = 2,
    SMBHSTSTS_DEV_ERR = 4,
    SMBHSTSTS_BUS_ERR = 8,
    SMBHSTSTS_FAILED = 16
};
enum { SMBHSTCNT_INTEREN = 1, SMBHSTCNT_KILL = 2, SMBHSTCNT_PROT = 0x1c, SMBHSTCNT_START = 0x40 };

#define PIIX4_PM_STATE_VERSION 1
typedef struct Piix4PmState {
    PciFunctionState pci;
    uint8_t status;        /* SMBHSTSTS but HOST_BUSY */
    uint8_t control;       /* SMBHSTCNT: INTEREN, KILL and the protocol */
    uint8_t registers[16]; /* those that keep what was written, by SmbusRegister; the slave's included */
    uint8_t block[32];     /* SMBBLKDAT */
    uint8_t block_index;
    uint8_t reserved[4];
    uint64_t done_ns; /* when the transaction on the bus ends; 0: none */
} Piix4PmState;
_Static_assert(sizeof(Piix4PmState) == 320, "no padding: the bytes are the snapshot's");

/* `pm_base` is told in PMBASE; `irq` is IRQ 9, the one that SMB_INTRSEL can choose. */
Device *piix4_pm_new(Board *board, PciBus *bus, uint32_t devfn, uint16_t pm_base, IrqLine *irq, Error *error);

#endif
