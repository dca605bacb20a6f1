/*
 * `poweroff`: ACPI state S5 (ACPI 6.4 §4.8.3.2, §7.4.2). `reboot`: 8042, reset control register, port 92h, triple
 * fault.
 */
#include "kernel.h"
#include "x86.h"

#define PM1_SCI_ENABLE   0x0001
#define PM1_SLP_TYP(t)   ((uint16_t)(((t)&7) << 10))
#define PM1_SLP_TYP_MASK 0x1c00
#define PM1_SLP_ENABLE   0x2000
#define KBD_STATUS       0x64
#define KBD_PULSE_RESET  0xfe  /* 8042 command: pulse output line 0 */
#define RESET_CONTROL    0xcf9 /* PIIX3 82371SB §2.5.5 */
#define PORT_A           0x92

static void acpi_enable(const AcpiSleep *sleep)
{
    if (inw(sleep->pm1a_control) & PM1_SCI_ENABLE || !sleep->smi_command || !sleep->acpi_enable)
        return;
    outb((uint16_t)sleep->smi_command, sleep->acpi_enable);
    for (unsigned i = 0; i < 30 && !(inw(sleep->pm1a_control) & PM1_SCI_ENABLE); i++)
        timer_wait(1);
}

void command_poweroff(int argc, char **argv)
{
    AcpiSleep sleep;
    const char *why;
    (void)argc, (void)argv;
    if (disk_present())
        disk_request(DISK_FLUSH, 0, NULL, 0);
    if (acpi_find_s5(&sleep, &why)) {
        print("ACPI: PM1a control at port %x, SLP_TYP %u for S5. Good bye.\n", sleep.pm1a_control, sleep.type_a);
        acpi_enable(&sleep);
        uint16_t control = inw(sleep.pm1a_control) & (uint16_t) ~(PM1_SLP_TYP_MASK | PM1_SLP_ENABLE);
        outw(sleep.pm1a_control, control | PM1_SLP_TYP(sleep.type_a) | PM1_SLP_ENABLE);
        if (sleep.pm1b_control)
            outw(sleep.pm1b_control, PM1_SLP_TYP(sleep.type_b) | PM1_SLP_ENABLE);
        timer_wait(TIMER_HZ);
        why = "the machine did not react to SLP_EN";
    }
    print("poweroff: %s. It is safe to end the virtual machine from outside.\n", why);
}

void command_reboot(int argc, char **argv)
{
    (void)argc, (void)argv;
    print("Resetting by the keyboard controller.\n");
    if (disk_present())
        disk_request(DISK_FLUSH, 0, NULL, 0);
    for (unsigned i = 0; inb(KBD_STATUS) & 2 && i < 10000; i++)
        pause();
    outb(KBD_STATUS, KBD_PULSE_RESET);
    timer_wait(10);
    print("Resetting by port cf9.\n");
    outb(RESET_CONTROL, 0x02);
    outb(RESET_CONTROL, 0x06);
    timer_wait(10);
    print("Resetting by port 92.\n");
    outb(PORT_A, (uint8_t)(inb(PORT_A) & 0xfe));
    outb(PORT_A, (uint8_t)(inb(PORT_A) | 1));
    timer_wait(10);
    print("Resetting by triple fault.\n");
    command_crash(2, (char *[]){"crash", "triple"});
}
