/*
 * The kernel's one header: what each file offers to the others, in the order in which main.c starts them.
 * Everything runs on one CPU; only interrupt handlers run beside the shell, and they touch few, volatile,
 * variables.
 */
#ifndef GUEST_KERNEL_H
#define GUEST_KERNEL_H

#include "../layout.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KERNEL_VERSION "0.1"
#define PAGE_SIZE      4096ul
#define ARRAY_SIZE(a)  (sizeof(a) / sizeof((a)[0]))

/* ---- kernel.ld, entry.S ------------------------------------------------------------------------------------- */
extern char kernel_start[], kernel_text_end[], kernel_rodata_end[], kernel_data_end[], kernel_end[];
extern char kernel_stack_guard[], kernel_stack_top[];

/* ---- text.c: strings and numbers ----------------------------------------------------------------------------- */
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *a, const void *b, size_t size);
void *memmove(void *to, const void *from, size_t size);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
bool parse_number(const char *s, uint64_t *value); /* decimal, or hexadecimal after 0x; false: not a number */
uint32_t crc32(uint32_t crc, const void *data, size_t size);

/* ---- serial.c, print.c: the console -------------------------------------------------------------------------- */
void serial_init(void);
void serial_enable_interrupts(void); /* after sti: finds out whether IRQ 4 arrives */
bool serial_interrupts(void);
void serial_write(const char *text, size_t size);
char serial_getc(void); /* sleeps in HLT */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- segments.c: GDT, TSS ------------------------------------------------------------------------------------ */
#define IST_DOUBLE_FAULT 1
#define IST_NMI          2
void segments_init(void);

/* ---- trap.S, trap.c, report.c: exceptions, interrupts -------------------------------------------------------- */
typedef struct TrapFrame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax; /* pushed by trap.S */
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss; /* pushed by the CPU: Intel SDM 3A §6.14.2 */
} TrapFrame;

typedef void (*IrqHandler)(void);
void trap_init(void);
void trap_set_irq(unsigned irq, IrqHandler handler); /* also unmasks it; PCI lines may have several handlers */
uint64_t trap_irq_count(unsigned irq);
void trap_dispatch(TrapFrame *frame);
void report_exception(const TrapFrame *frame);
const char *report_vector_name(uint64_t vector);
bool rdmsr_safe(uint32_t msr, uint64_t *value); /* false: #GP */
bool wrmsr_safe(uint32_t msr, uint64_t value);

/* ---- memory.c: the firmware's memory map and the page allocator ---------------------------------------------- */
#define MEMORY_TOP 0x100000000ul /* RAM above 4 GiB is listed, not used */
typedef struct MemoryRange {
    uint64_t base, size;
    uint32_t type; /* ACPI 6.4 table 15.1: 1 usable, 2 reserved, 3 ACPI, 4 NVS, 5 bad */
    uint32_t reserved;
} MemoryRange;
typedef struct MemoryCounts {
    uint64_t usable, pages, pages_free;
} MemoryCounts;
void memory_init(uint64_t start_info);
size_t memory_ranges(const MemoryRange **ranges);
MemoryCounts memory_counts(void);
uint64_t memory_rsdp(void);      /* from the loader, or 0 */
void *page_alloc(void);          /* zeroed; NULL when there is none */
void *pages_alloc(size_t count); /* contiguous */
void page_free(void *page);

/* ---- paging.c, pages.c --------------------------------------------------------------------------------------- */
#define PTE_PRESENT  0x001ul
#define PTE_WRITE    0x002ul
#define PTE_USER     0x004ul
#define PTE_PWT      0x008ul
#define PTE_PCD      0x010ul
#define PTE_ACCESSED 0x020ul
#define PTE_DIRTY    0x040ul
#define PTE_LARGE    0x080ul
#define PTE_GLOBAL   0x100ul
#define PTE_NX       0x8000000000000000ul
#define PTE_ADDRESS  0x000ffffffffff000ul
typedef struct PageWalk {
    int levels;        /* entries read, 1-4 */
    uint64_t entry[4]; /* PML4E, PDPTE, PDE, PTE */
    bool mapped;
    uint64_t physical, page_size, flags; /* flags: the rights of all levels together */
} PageWalk;
void paging_init(void);
bool paging_map(uint64_t va, uint64_t pa, uint64_t size, uint64_t flags); /* false: no memory for a table */
PageWalk paging_walk(uint64_t va);
uint64_t paging_nx(void);                                /* PTE_NX, or 0 on a CPU without it */
void *phys_map(uint64_t pa, uint64_t size, bool device); /* a window on device registers or firmware tables; NULL */

/* ---- pic.c, timer.c, tsc.c, rtc.c ---------------------------------------------------------------------------- */
#define TIMER_HZ 100
void pic_init(void);
void pic_unmask(unsigned irq);
void pic_set_level(unsigned irq);
bool pic_spurious(unsigned irq);
void pic_end_of_interrupt(unsigned irq);
void timer_init(void);
uint64_t timer_ticks(void);
void timer_wait(uint64_t ticks);

/* ---- pci.c --------------------------------------------------------------------------------------------------- */
typedef struct PciDevice {
    uint8_t bus, device, function;
    uint16_t vendor_id, device_id;
    uint32_t class_code; /* base class, subclass, interface */
    uint8_t header, irq_line, irq_pin;
} PciDevice;
typedef struct PciBar {
    bool io, is_64, prefetchable;
    uint64_t address, size; /* size 0: not there */
} PciBar;
uint32_t pci_read32(const PciDevice *dev, unsigned offset);
uint16_t pci_read16(const PciDevice *dev, unsigned offset);
uint8_t pci_read8(const PciDevice *dev, unsigned offset);
void pci_write16(const PciDevice *dev, unsigned offset, uint16_t value);
void pci_init(void);
size_t pci_devices(const PciDevice **devices);
PciBar pci_bar(const PciDevice *dev, unsigned index);
void pci_enable(const PciDevice *dev);

/* ---- virtio.c, virtio_blk.c, disk.c -------------------------------------------------------------------------- */
typedef struct VirtioDevice {
    const PciDevice *pci;
    bool modern;
    volatile uint8_t *common, *notify, *isr, *config; /* modern: virtio 1.2 §4.1.4 */
    uint32_t notify_length, notify_multiplier;
    uint16_t io;                     /* legacy: virtio 1.2 §4.1.4.8 */
    volatile uint16_t *queue_notify; /* modern, of queue 0 */
} VirtioDevice;
bool virtio_open(VirtioDevice *dev, const PciDevice *pci, const char **why);
void virtio_set_status(VirtioDevice *dev, uint8_t bits);
void virtio_reset(VirtioDevice *dev);
uint64_t virtio_features(VirtioDevice *dev);
bool virtio_accept(VirtioDevice *dev, uint64_t features);
uint32_t virtio_config32(VirtioDevice *dev, unsigned offset);
uint16_t virtio_queue_max(VirtioDevice *dev);
/* false: the notification address lies outside its capability */
bool virtio_queue_enable(VirtioDevice *dev, uint16_t size, void *desc, void *avail, void *used);
void virtio_notify(VirtioDevice *dev);
uint8_t virtio_isr(VirtioDevice *dev);

#define SECTOR_SIZE 512u
/* virtio 1.2 §5.2.6 */
typedef enum DiskOp { DISK_READ = 0, DISK_WRITE = 1, DISK_FLUSH = 4, DISK_GET_ID = 8 } DiskOp;
void disk_init(void);
bool disk_present(void);
const char *disk_why_absent(void);
uint64_t disk_sectors(void);
bool disk_read_only(void);
/* 0, or a virtio status, or -1: no answer */
int disk_request(DiskOp op, uint64_t lba, void *buffer, size_t sectors);
void disk_print_info(void);

/* ---- syscall.c, ring3.c, trap.S ------------------------------------------------------------------------------ */
void syscall_init(void); /* finds out which doors lead from ring 3 into ring 0 here */
unsigned syscall_doors(void);
bool syscall_bounced(void); /* SYSCALL stays in ring 3 and comes in by the gate page */
void syscall_print_doors(void);
void syscall_dispatch(TrapFrame *frame);
bool user_fault(const TrapFrame *frame); /* never returns when it ends the program; false: no program is running */
long user_run(uint64_t rip, uint64_t arg0, uint64_t arg1);

/* ---- acpi.c, power.c ----------------------------------------------------------------------------------------- */
typedef struct AcpiSleep {
    uint16_t pm1a_control, pm1b_control;
    uint8_t type_a, type_b;
    uint32_t smi_command;
    uint8_t acpi_enable;
} AcpiSleep;
bool acpi_find_s5(AcpiSleep *sleep, const char **why);

/* ---- shell.c, line.c: the prompt, and the commands that other files provide ---------------------------------- */
typedef struct Command {
    const char *name, *arguments, *help;
    void (*run)(int argc, char **argv);
} Command;
extern const Command shell_commands[];
extern const size_t shell_command_count;
size_t line_read(const char *prompt, char *line, size_t size);
void shell_run(void) __attribute__((noreturn));
void shell_restart(void) __attribute__((noreturn)); /* after a crash: on a fresh stack */
void command_mem(int argc, char **argv);
void command_pages(int argc, char **argv);
void command_pci(int argc, char **argv);
void command_disk(int argc, char **argv);
void command_ring3(int argc, char **argv);
void command_ticks(int argc, char **argv);
void command_uptime(int argc, char **argv);
void command_cpuid(int argc, char **argv);
void command_crash(int argc, char **argv);
void command_date(int argc, char **argv);
void command_poweroff(int argc, char **argv);
void command_reboot(int argc, char **argv);

void kernel_main(uint64_t start_info) __attribute__((noreturn));

#endif
