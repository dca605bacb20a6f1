/*
 * ACPI fixed hardware: the PM1a event and control blocks, the PM timer and the SMI command port.
 *
 * Source: ACPI specification 6.4 §4.8.3; register offsets as PIIX4's PMBASE has them (Intel 290562 §7.2).
 * Events raise the SCI, a level; while SCI_EN is clear they would raise an SMI, and there is none here. There is no
 * SMM firmware: the command port itself turns ACPI mode on and off. Left out: sleep states other than S5 (logged),
 * bus master events, the global lock, GPE blocks.
 */
#ifndef PYVMM_DEVICES_ACPI_PM_H
#define PYVMM_DEVICES_ACPI_PM_H

#include "devices/device.h"

#define ACPI_PM_TIMER_HZ 3579545u

#define ACPI_PM_STATE_VERSION 1
typedef struct AcpiPmState {
    uint64_t timer_half; /* half periods of the PM timer that TMR_STS has been told of */
    uint16_t pm1_sts;
    uint16_t pm1_en;
    uint16_t pm1_cnt;
    uint8_t smi_cmd; /* the last command */
    uint8_t smi_sts; /* port 0xb3: scratch */
} AcpiPmState;
_Static_assert(sizeof(AcpiPmState) == 16, "no padding: the bytes are the snapshot's");

/* REGISTERS: PM1_STS +0, PM1_EN +2, PM1_CNT +4, PM_TMR +8 (12 bytes). SMI: command +0, status +1. */
enum { ACPI_PM_REGION_REGISTERS, ACPI_PM_REGION_SMI };

typedef struct AcpiPmConfig {
    uint8_t s5_type;      /* SLP_TYP of S5, as \_S5 in the DSDT has it: 0..7 */
    uint8_t acpi_enable;  /* FADT ACPI_ENABLE */
    uint8_t acpi_disable; /* FADT ACPI_DISABLE */
    uint8_t timer_bits;   /* 24 or 32 (FADT TMR_VAL_EXT) */
} AcpiPmConfig;

/* NULL when a value of `config` is out of range. */
Device *acpi_pm_new(Board *board, IrqLine *sci, const AcpiPmConfig *config);

void acpi_pm_power_button(Device *device); /* from any thread */

#endif
