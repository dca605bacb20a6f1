/*
 * The order of start-up, and the banner. Entered from entry.S in 64-bit mode, on the boot page tables, interrupts
 * off.
 */
#include "kernel.h"
#include "x86.h"

static void banner(void)
{
    const PciDevice *devices;
    size_t pci = pci_devices(&devices);
    MemoryCounts memory = memory_counts();
    print("\npyvmm built-in guest %s: a small 64-bit teaching kernel\n", KERNEL_VERSION);
    print("memory   %lu MiB usable, kernel %lu KiB at %lx\n", memory.usable >> 20,
          (uint64_t)(kernel_end - kernel_start) >> 10, (uint64_t)kernel_start);
    print("timer    PIT at %d Hz; console %s\n", TIMER_HZ,
          serial_interrupts() ? "COM1 by IRQ 4" : "COM1, polled (IRQ 4 does not arrive)");
    print("doors    ");
    syscall_print_doors();
    print("PCI      %lu functions\n", pci);
    if (disk_present())
        print("disk     virtio-blk, %lu KiB%s\n", disk_sectors() / 2, disk_read_only() ? ", read-only" : "");
    else
        print("disk     none: %s\n", disk_why_absent());
    print("Type `help` for the commands, `poweroff` to end.\n");
}

void kernel_main(uint64_t start_info)
{
    serial_init();
    print("kernel: in 64-bit mode, starting\n");
    segments_init();
    trap_init();
    memory_init(start_info);
    paging_init();
    pic_init();
    timer_init();
    sti();
    serial_enable_interrupts();
    syscall_init();
    pci_init();
    disk_init();
    banner();
    shell_run();
}
