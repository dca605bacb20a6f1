/*
 * What the lab kernel's files offer to each other, beside what they share with the built-in guest's kernel
 * (../kernel/kernel.h: strings, print, pages, PCI, virtio). One CPU, no preemption in the kernel.
 */
#ifndef GUEST_LAB_KERNEL_H
#define GUEST_LAB_KERNEL_H

#include "../kernel/kernel.h"
#include "lab.h"
#include "paravirt.h"

/* Virtual addresses: the kernel's at its physical ones (PML4 entry 0), the program's in entry 1, devices in 2. */
#define USER_HEAP       (USER_BASE + 0x200000)
#define USER_HEAP_PAGES 512u

/* ---- start.c: the command line ------------------------------------------------------------------------------ */
extern LabReport lab_report;
const char *option_text(const char *name, char *buffer, size_t size); /* NULL: not given */
uint64_t option_number(const char *name, uint64_t otherwise);
void lab_exit(uint64_t status) __attribute__((noreturn));
void lab_main(const LabBoot *boot) __attribute__((noreturn));

/* ---- segments.c --------------------------------------------------------------------------------------------- */
#define SEL_LDT   0x40
#define SEL_INNER 0x50 /* a kernel data segment of 4 KiB, for LSL */
void kernel_stack_set(uint64_t top);
uint64_t segments_gdt(void);

/* ---- trap.c, trap.S ----------------------------------------------------------------------------------------- */
#define VECTOR_INTN 0x81 /* of the INT n check: DPL 0 */
extern volatile uint64_t trap_intn_count, trap_intn_cs;
uint64_t trap_idt(void);
uint64_t trap_try(void (*f)(void *), void *argument); /* 0, or LAB_CHECK_FAULT | vector of what stopped it */
void trap_return(void);                               /* a label: the way out of the kernel, RSP at a TrapFrame */
void switch_stacks(uint64_t *save, uint64_t load);

/* ---- memory.c ----------------------------------------------------------------------------------------------- */
void lab_memory_init(uint64_t ram_end);
uint64_t lab_ram_end(void);
void page_share(uint64_t page);   /* one more user of it */
bool page_shared(uint64_t page);  /* by more than one */
void page_release(uint64_t page); /* one user less; the last one frees it */

/* ---- paging.c, space.c: the kernel's map, and address spaces of programs ------------------------------------ */
#define PTE_COW 0x200ul /* software bit: to be copied at the first write */
uint64_t paging_root(void);
uint64_t *paging_entry(uint64_t root, uint64_t va, uint64_t flags, bool make); /* its PTE; NULL: none */
uint64_t space_new(void);                                                      /* its PML4; 0: no memory */
uint64_t space_copy(uint64_t root);
void space_free(uint64_t root);
bool space_fault(uint64_t root, uint64_t va, uint64_t error); /* demand paging and copying; false: a bad access */
uint64_t space_trim(uint64_t root);                           /* gives the heap back; how many pages */

/* ---- process.c ---------------------------------------------------------------------------------------------- */
typedef enum ProcessState { PROCESS_FREE, PROCESS_READY, PROCESS_WAITING, PROCESS_DONE } ProcessState;
typedef struct Process {
    ProcessState state;
    unsigned parent;
    uint64_t rsp, root, stack; /* stack: the lowest byte of the kernel stack */
    int64_t result;
} Process;
#define PROCESS_MAX   8
#define PROCESS_STACK 8192ul
extern unsigned process_current; /* 0: the kernel itself */
extern volatile bool process_resched;
uint64_t process_root(void);
uint64_t process_root_of(unsigned process);
unsigned process_new(uint64_t rip, uint64_t arg0, uint64_t arg1, uint64_t arg2); /* 0: none */
unsigned process_fork(const TrapFrame *frame);
void process_exit(int64_t result) __attribute__((noreturn));
void process_yield(void);
int64_t process_wait(unsigned child);
void process_end_all(int64_t result); /* all but 0 are over */
void process_run(void);               /* until none is ready; their slots are free afterwards */
int64_t process_result(unsigned process);
uint64_t process_switches(void);

/* ---- syscall.c ---------------------------------------------------------------------------------------------- */
void syscall_fault(TrapFrame *frame); /* an exception of a program */
unsigned syscall_door(const char *name);
LabResult *result_new(const char *name);

/* ---- timer.c, ide.c, workloads.c, checks.c ------------------------------------------------------------------ */
void timer_start(uint64_t hz);
void timer_stop(void);
void timer_on_tick(void (*f)(void));
bool timer_bounded_wait(uint64_t ticks); /* until as many more have come; false: they do not come */
bool ide_init(void);
uint64_t ide_sectors(void);
int ide_read(uint64_t lba, void *buffer, size_t sectors);
bool lab_disk_open(void);
int lab_disk_read(uint64_t lba, void *buffer, size_t sectors);
uint64_t lab_disk_sectors(void);
void workload_run(const char *name);
void checks_run(void);
void check_add(const char *name, uint64_t expected, uint64_t seen);

#endif
