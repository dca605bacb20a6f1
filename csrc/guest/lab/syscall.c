/*
 * The doors from ring 3 into the kernel, and the calls behind them: SYSCALL (Intel SDM 3A §5.8.8), INT 80h and INT3
 * through gates of DPL 3 (§6.12.1.1). Not every host opens all three (../kernel/syscall.c), so each is tried once,
 * by a process of a few instructions on the gate page. A paravirtual kernel need not try: its monitor promises all
 * three.
 */
#include "lab_kernel.h"
#include "user/user.h"

#define RFLAGS_KEEP  0xcd5ul   /* what a program may set itself: CF PF AF ZF SF DF OF */
#define SFMASK       0x47700ul /* SYSCALL clears AC, NT, IOPL, DF, IF, TF */
#define USER_LIMIT   0x800000000000ul
#define EFER_SCE     1ul
#define WRITE_MAX    4096ul
#define DIV_ECX_SIZE 2u /* f7 /6: DIV r32, mod 3 */

extern char gate_page[], gate_bounce[], gate_try_syscall[], gate_try_int80[], gate_try_int3[];
extern char syscall_entry[];

static bool probing;

static uint64_t gate_address(const char *label) { return USER_GATE + (uint64_t)(label - gate_page); }

static bool user_readable(uint64_t address, uint64_t size)
{
    if (address < USER_BASE || size > USER_LIMIT || address > USER_LIMIT - size)
        return false;
    for (uint64_t page = address & ~(PAGE_SIZE - 1); page < address + size; page += PAGE_SIZE) {
        uint64_t *entry = paging_entry(process_root(), page, PTE_USER, false);
        if (!entry || (*entry & (PTE_PRESENT | PTE_USER)) != (PTE_PRESENT | PTE_USER))
            return false;
    }
    return true;
}

static int64_t sys_write(uint64_t text, uint64_t size)
{
    paging_commit();
    if (size > WRITE_MAX || !user_readable(text, size))
        return -14; /* EFAULT */
    serial_write((const char *)text, size);
    return (int64_t)size;
}

static int64_t sys_read_disk(uint64_t lba, uint64_t buffer)
{
    uint64_t page = buffer & ~(PAGE_SIZE - 1);
    if (buffer != page || !space_fault(process_root(), page, 0))
        return -14;
    paging_commit();
    if (!user_readable(page, PAGE_SIZE))
        return -14;
    uint64_t *entry = paging_entry(process_root(), page, PTE_USER, false);
    /* Through the kernel's map: ring 0 need not write the program's page. */
    return lab_disk_read(lba, (void *)(*entry & PTE_ADDRESS), PAGE_SIZE / SECTOR_SIZE);
}

/* What mprotect() does: the rights of pages in use change and change back, a batch at a time. */
static int64_t sys_protect(uint64_t count)
{
    uint64_t *entries[PROTECT_PAGES], batch = option_number("batch", PROTECT_PAGES);
    if (!batch || batch > PROTECT_PAGES)
        batch = PROTECT_PAGES;
    uint64_t start = rdtsc();
    for (unsigned i = 0; i < PROTECT_PAGES; i++) {
        entries[i] = paging_entry(process_root(), USER_HEAP + i * PAGE_SIZE, PTE_USER, false);
        if (!entries[i] || !(*entries[i] & PTE_PRESENT))
            return -14;
    }
    for (uint64_t done = 0; done < count;) {
        for (uint64_t i = 0; i < batch && done < count; i++, done++) {
            uint64_t page = done % PROTECT_PAGES;
            pte_set(entries[page], *entries[page] ^ PTE_WRITE);
            paging_flush(USER_HEAP + page * PAGE_SIZE);
        }
        paging_commit();
    }
    for (unsigned i = 0; i < PROTECT_PAGES; i++)
        if (!(*entries[i] & PTE_WRITE))
            pte_set(entries[i], *entries[i] | PTE_WRITE);
    paging_commit();
    return (int64_t)(rdtsc() - start);
}

static unsigned door_of(TrapFrame *frame)
{
    if (frame->vector == VECTOR_SYSCALL)
        return DOOR_SYSCALL;
    if (frame->vector == VECTOR_INT80)
        return DOOR_INT80;
    if (frame->rip != gate_address(gate_bounce) + 1)
        return DOOR_INT3;
    /* SYSCALL came to the gate page's INT3: finish what it left undone. */
    lab_report.bounced |= (frame->cs & 3) == 3;
    frame->rip = frame->rcx < USER_LIMIT ? frame->rcx : 0;
    frame->rflags = (frame->r11 & RFLAGS_KEEP) | RFLAGS_IF | 2;
    if (!(frame->cs & 3)) { /* on the program's stack, in ring 0: while probing only */
        frame->cs = SEL_USER_CODE;
        frame->ss = SEL_USER_DATA;
    }
    return DOOR_SYSCALL;
}

void syscall_dispatch(TrapFrame *frame)
{
    unsigned door = door_of(frame);
    switch (frame->rax) {
    case LAB_SYS_EXIT:
        process_exit((int64_t)frame->rdi);
    case LAB_SYS_WRITE:
        frame->rax = (uint64_t)sys_write(frame->rdi, frame->rsi);
        break;
    case LAB_SYS_NULL:
        frame->rax = 0;
        break;
    case SYS_PROBE:
        if (probing)
            lab_report.doors |= door;
        frame->rax = 0;
        break;
    case LAB_SYS_YIELD:
        frame->rax = 0;
        process_yield();
        break;
    case LAB_SYS_TRIM:
        frame->rax = space_trim(process_root());
        break;
    case LAB_SYS_FORK:
        frame->rax = process_fork(frame);
        break;
    case LAB_SYS_WAIT:
        frame->rax = (uint64_t)process_wait((unsigned)frame->rdi);
        break;
    case LAB_SYS_READ:
        frame->rax = (uint64_t)sys_read_disk(frame->rdi, frame->rsi);
        break;
    case LAB_SYS_PROTECT:
        frame->rax = (uint64_t)sys_protect(frame->rdi);
        break;
    case LAB_SYS_REPORT: {
        LabResult *result = &lab_report.results[lab_report.result_count - 1]; /* of the workload that is running */
        result->operations += frame->rdi;
        result->cycles += frame->rsi;
        result->value += frame->rdx;
        frame->rax = 0;
        break;
    }
    default:
        frame->rax = (uint64_t)-38; /* ENOSYS */
    }
}

/* An exception ends the program; but a page it may have is given to it, and its division by zero is left out. */
void syscall_fault(TrapFrame *frame)
{
    if (frame->vector == 14 && space_fault(process_root(), fault_address(), frame->error))
        return;
    const uint8_t *code = (const uint8_t *)frame->rip;
    if (frame->vector == 0 && user_readable(frame->rip, DIV_ECX_SIZE) && code[0] == 0xf7 &&
        (code[1] & 0xf8) == 0xf0) {
        frame->rip += DIV_ECX_SIZE;
        return;
    }
    if (!probing)
        print("lab: exception %lu in a program, error %lx, rip %lx, address %lx\n", frame->vector, frame->error,
              frame->rip, frame->vector == 14 ? fault_address() : 0);
    process_exit(-256 - (int64_t)frame->vector);
}

static void try_door(const char *label)
{
    /* Its stack is made before: where SYSCALL reaches ring 0, the gate page's INT3 is pushed there. */
    unsigned n = process_new(gate_address(label), 0, 0, 0);
    if (n) {
        space_fault(process_root_of(n), USER_STACK_TOP - PAGE_SIZE, 2);
        process_run();
    }
}

void syscall_init(void)
{
    if (PARAVIRT) {
        lab_report.doors = DOOR_SYSCALL | DOOR_INT80 | DOOR_INT3;
        return;
    }
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)SEL_KERNEL_CODE << 32 | (uint64_t)SEL_KERNEL_DATA << 48);
    wrmsr(MSR_SFMASK, SFMASK);
    wrmsr(MSR_LSTAR, gate_address(gate_bounce));
    probing = true;
    try_door(gate_try_int3);
    try_door(gate_try_int80);
    try_door(gate_try_syscall);
    probing = false;
    wrmsr(MSR_LSTAR, lab_report.bounced ? gate_address(gate_bounce) : (uint64_t)syscall_entry);
}

/* 0: no such door, or a closed one. */
unsigned syscall_door(const char *name)
{
    static const struct {
        const char *name;
        unsigned door;
    } doors[] = {{"syscall", DOOR_SYSCALL}, {"int80", DOOR_INT80}, {"int3", DOOR_INT3}};
    for (size_t i = 0; i < ARRAY_SIZE(doors); i++)
        if ((!name || !strcmp(name, "auto") || !strcmp(name, doors[i].name)) && lab_report.doors & doors[i].door)
            return doors[i].door;
    return 0;
}
