/*
 * The doors from ring 3 into the kernel, and the system calls behind them. There are three: SYSCALL (Intel SDM 3A
 * §5.8.8), INT 80h and INT3 through gates of DPL 3 (§6.12.1.1). On real CPUs all three lead to ring 0. Under a KVM
 * without hardware virtualisation, SYSCALL may arrive at LSTAR still in ring 3, and INT n may be refused; so
 * syscall_init tries each once, with a few instructions on the gate page (trap.S), and nothing here knows the name
 * of any host.
 */
#include "kernel.h"
#include "x86.h"

#define RFLAGS_KEEP 0xcd5ul          /* what a program may set itself: CF PF AF ZF SF DF OF */
#define SFMASK      0x47700ul        /* SYSCALL clears AC, NT, IOPL, DF, IF, TF */
#define USER_LIMIT  0x800000000000ul /* first address above the lower canonical half */
#define CR4_SMEP    (1ul << 20)

extern char gate_page[], gate_bounce[], gate_probe[], gate_try_syscall[], gate_try_int80[], gate_try_int3[];
extern char syscall_entry[];
long user_enter(uint64_t rip, uint64_t rsp, uint64_t arg0, uint64_t arg1);
void user_leave(long result) __attribute__((noreturn));

static unsigned doors;
static bool bounced, probing, running;
static unsigned probe_door;
static uint64_t probe_vector; /* what the probe raised instead of entering */
static uint64_t int80_answer; /* ... on INT 80h */

static uint64_t gate_address(const char *label) { return USER_GATE + (uint64_t)(label - gate_page); }

/* Every byte must lie in ring 3's region and be mapped for it: the kernel reads with ring 0's rights. */
static bool user_readable(uint64_t address, uint64_t size)
{
    if (address < USER_BASE || size > USER_END - USER_BASE || address > USER_END - size)
        return false;
    for (uint64_t page = address & ~(PAGE_SIZE - 1); page < address + size; page += PAGE_SIZE) {
        PageWalk walk = paging_walk(page);
        if (!walk.mapped || !(walk.flags & PTE_USER))
            return false;
    }
    return true;
}

static int64_t sys_write(uint64_t text, uint64_t size)
{
    if (!user_readable(text, size))
        return -14; /* EFAULT */
    serial_write((const char *)text, size);
    return (int64_t)size;
}

void syscall_dispatch(TrapFrame *frame)
{
    unsigned door = frame->vector == VECTOR_SYSCALL ? DOOR_SYSCALL
                    : frame->vector == VECTOR_INT80 ? DOOR_INT80
                                                    : DOOR_INT3;
    if (frame->vector == 3 && frame->rip == gate_address(gate_bounce) + 1) {
        /* SYSCALL stayed in ring 3 and ran into the gate page's INT3: finish what the CPU left undone. The program
           could have jumped here itself, so RCX may be any number: IRETQ to a non-canonical one faults in ring 0.
         */
        door = DOOR_SYSCALL;
        bounced = true;
        frame->rip = frame->rcx < USER_LIMIT ? frame->rcx : 0;
        frame->rflags = (frame->r11 & RFLAGS_KEEP) | RFLAGS_IF | 2;
    }
    switch (frame->rax) {
    case SYS_EXIT:
        running = false;
        user_leave((long)frame->rdi);
    case SYS_WRITE:
        frame->rax = (uint64_t)sys_write(frame->rdi, frame->rsi);
        break;
    case SYS_TICKS:
        frame->rax = timer_ticks();
        break;
    case SYS_PROBE:
        probe_door = door;
        frame->rax = 0;
        break;
    default:
        frame->rax = (uint64_t)-38; /* ENOSYS */
    }
}

static void explain_user_fault(const TrapFrame *frame)
{
    static const struct {
        uint8_t opcode;
        const char *text;
    } privileged[] = {
        {0xf4, "HLT stops the CPU: privileged, CPL must be 0"},
        {0xfa, "CLI keeps interrupts out: allowed when CPL <= IOPL; here 3 > 0"},
        {0xfb, "STI: allowed when CPL <= IOPL; here 3 > 0"},
        {0xec, "IN: allowed when CPL <= IOPL or by the TSS's I/O bitmap; neither is the case"},
        {0xee, "OUT: allowed when CPL <= IOPL or by the TSS's I/O bitmap; neither is the case"},
        {0x0f, "a two-byte opcode (MOV CRn, LGDT, WRMSR...): privileged, CPL must be 0"},
    };
    if (frame->vector == 14) {
        bool kernel_page = paging_walk(read_cr2()).mapped;
        print("Explained: ring 3 tried to %s %016lx: %s.\n",
              frame->error & 16  ? "execute"
              : frame->error & 2 ? "write"
                                 : "read",
              read_cr2(),
              !kernel_page                               ? "nothing is mapped there"
              : frame->error & 16                        ? "NX is set in its page table entry"
              : paging_walk(read_cr2()).flags & PTE_USER ? "the page is read-only"
                                                         : "the page belongs to the kernel (U = 0)");
        return;
    }
    const uint8_t *code = (const uint8_t *)frame->rip;
    if (frame->vector == 13 && user_readable(frame->rip, 1)) {
        for (size_t i = 0; i < ARRAY_SIZE(privileged); i++)
            if (privileged[i].opcode == code[0])
                print("Explained: %s.\n", privileged[i].text);
    }
}

/* An exception in ring 3 ends the program, never the kernel. */
bool user_fault(const TrapFrame *frame)
{
    if (probing) {
        probe_vector = frame->vector;
        user_leave(-1);
    }
    if (!running || frame->vector == 2 || frame->vector == 8 || frame->vector == 18)
        return false;
    report_exception(frame);
    explain_user_fault(frame);
    running = false;
    user_leave(-(long)frame->vector);
}

static bool probe(const char *label)
{
    probe_door = 0;
    user_enter(gate_address(label), USER_STACK_TOP, 0, 0);
    doors |= probe_door;
    return probe_door != 0;
}

void syscall_init(void)
{
    paging_map(USER_GATE, (uint64_t)gate_page, PAGE_SIZE, PTE_USER);
    wrmsr(MSR_STAR, (uint64_t)SEL_KERNEL_CODE << 32 | (uint64_t)SEL_KERNEL_DATA << 48);
    wrmsr(MSR_SFMASK, SFMASK);
    wrmsr(MSR_LSTAR, gate_address(gate_probe));
    probing = true;
    probe(gate_try_int3);
    probe(gate_try_int80);
    int80_answer = probe_vector;
    probe(gate_try_syscall);
    probing = false;
    wrmsr(MSR_LSTAR, bounced ? gate_address(gate_bounce) : (uint64_t)syscall_entry);
    /* Supervisor-mode execution prevention: only now, the probe itself ran the gate page in ring 0 (Intel SDM 3A
       §4.6). */
    if (cpuid(0, 0).eax >= 7 && cpuid(7, 0).ebx & 1u << 7)
        write_cr4(read_cr4() | CR4_SMEP);
}

unsigned syscall_doors(void) { return doors; }

bool syscall_bounced(void) { return bounced; }

void syscall_print_doors(void)
{
    print("SYSCALL %s, INT 80h ", !(doors & DOOR_SYSCALL) ? "closed"
                                  : bounced               ? "stays in ring 3 (bounced by INT3)"
                                                          : "to ring 0");
    if (doors & DOOR_INT80)
        print("to ring 0");
    else
        print("refused (%s)", report_vector_name(int80_answer));
    print(", INT3 %s\n", doors & DOOR_INT3 ? "to ring 0" : "closed");
}

long user_run(uint64_t rip, uint64_t arg0, uint64_t arg1)
{
    running = true;
    return user_enter(rip, USER_STACK_TOP - 16, arg0, arg1);
}
