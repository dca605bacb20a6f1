/*
 * The eighteen mnemonics of Robin and Irvine (2000), each where a kernel would use it, with what a kernel in ring 0
 * must see beside what it does see; then some privileged instructions, which every monitor gets right. In 64-bit
 * mode PUSH and POP of segment registers are left for FS and GS; CALL and JMP far go through memory. Nothing here
 * can hang by being wrong: waits are bounded, an exception is an answer. A paravirtual kernel uses none of these;
 * of the checks it has the interrupt flag's, by its own means.
 */
#include "lab_kernel.h"

#define CHECK_HZ   1000u
#define WAIT_TICKS 2u
#define CR0_TS     0x08ul
#define CR0_NE     0x20ul

static void check(const char *name, uint64_t expected, void (*f)(void *))
{
    uint64_t seen = 0, fault = trap_try(f, &seen);
    check_add(name, expected, fault ? fault : seen);
}

/* ---- PUSHF, POPF: the interrupt flag, as spinlocks save and restore it -------------------------------------- */

static bool was_on(uint64_t saved) { return PARAVIRT ? saved : saved & RFLAGS_IF; }

static void save_while_off(void *seen)
{
    cli();
    *(uint64_t *)seen = was_on(irq_save());
    sti();
}

static void save_while_on(void *seen)
{
    *(uint64_t *)seen = was_on(irq_save());
    sti();
}

/* Saved while on, restored: do the timer's interrupts come again? */
static void restore_on(void *seen)
{
    irq_restore(irq_save());
    *(uint64_t *)seen = timer_bounded_wait(WAIT_TICKS);
    sti();
}

/* Saved while off, on for a moment, restored: do they stay away? */
static void restore_off(void *seen)
{
    cli();
    uint64_t saved = irq_save();
    sti();
    irq_restore(saved);
    *(uint64_t *)seen = timer_bounded_wait(WAIT_TICKS);
    sti();
}

static void check_interrupt_flag(void)
{
    timer_start(CHECK_HZ);
    check("pushf_off", 0, save_while_off);
    check("pushf_on", 1, save_while_on);
    check("popf_on", 1, restore_on);
    check("popf_off", 0, restore_off);
    timer_stop();
}

#ifdef LAB_PARAVIRT

void checks_run(void) { check_interrupt_flag(); }

#else

/* ---- whose tables, whose task, whose CR0 -------------------------------------------------------------------- */

static void see_sgdt(void *seen)
{
    TablePointer p;
    __asm__ volatile("sgdt %0" : "=m"(p));
    *(uint64_t *)seen = p.base;
}

static void see_sidt(void *seen)
{
    TablePointer p;
    __asm__ volatile("sidt %0" : "=m"(p));
    *(uint64_t *)seen = p.base;
}

static void see_sldt(void *seen) { __asm__ volatile("sldt %0" : "=r"(*(uint64_t *)seen)); }

static void see_str(void *seen) { __asm__ volatile("str %0" : "=r"(*(uint64_t *)seen)); }

static void see_smsw(void *seen)
{
    uint64_t value;
    __asm__ volatile("smsw %0" : "=r"(value));
    *(uint64_t *)seen = value & 0xffff;
}

/* With TS, as a kernel leaves it that switches the FPU's state late, and without NE: its errors are to be an IRQ.
 */
static void check_smsw(void)
{
    uint64_t before = read_cr0(), cr0 = (before | CR0_TS) & ~CR0_NE;
    write_cr0(cr0);
    check("smsw", cr0 & 0xffff, see_smsw);
    write_cr0(before);
}

/* ---- may I have this segment? ------------------------------------------------------------------------------- */

static void see_lar(void *seen)
{
    uint64_t rights = 0;
    __asm__ volatile("lar %1, %0; jz 1f; xorl %k0, %k0; 1:" : "+r"(rights) : "r"((uint64_t)SEL_KERNEL_CODE) : "cc");
    *(uint64_t *)seen = rights & 0xf0fe00; /* without the limit's and the accessed bit */
}

static void see_lsl(void *seen)
{
    uint64_t limit = 0;
    __asm__ volatile("lsl %1, %0; jz 1f; xorl %k0, %k0; 1:" : "+r"(limit) : "r"((uint64_t)SEL_INNER) : "cc");
    *(uint64_t *)seen = limit;
}

static void see_verr(void *seen)
{
    uint8_t zero;
    __asm__ volatile("verr %w1; setz %0" : "=q"(zero) : "r"(SEL_KERNEL_DATA) : "cc");
    *(uint64_t *)seen = zero;
}

static void see_verw(void *seen)
{
    uint8_t zero;
    __asm__ volatile("verw %w1; setz %0" : "=q"(zero) : "r"(SEL_KERNEL_DATA) : "cc");
    *(uint64_t *)seen = zero;
}

/* ---- segment registers, and the CPL in them ----------------------------------------------------------------- */

static void see_mov_from_cs(void *seen) { __asm__ volatile("mov %%cs, %0" : "=r"(*(uint64_t *)seen)); }

static void see_mov_from_ss(void *seen) /* loaded first: coming from ring 3 leaves it null (SDM 3A §6.14.3) */
{
    __asm__ volatile("mov %1, %%ss; mov %%ss, %0" : "=r"(*(uint64_t *)seen) : "r"((uint64_t)SEL_KERNEL_DATA));
}

static void see_mov_to_ds(void *seen)
{
    __asm__ volatile("mov %1, %%ds; mov %%ds, %0" : "=r"(*(uint64_t *)seen) : "r"((uint64_t)SEL_INNER));
    __asm__ volatile("mov %0, %%ds" : : "r"(SEL_KERNEL_DATA));
}

static void see_push_fs(void *seen)
{
    __asm__ volatile("mov %1, %%fs; pushq %%fs; popq %0" : "=r"(*(uint64_t *)seen) : "r"((uint64_t)SEL_INNER));
    __asm__ volatile("mov %0, %%fs" : : "r"(0));
}

static void see_pop_gs(void *seen)
{
    __asm__ volatile("pushq %1; popq %%gs; mov %%gs, %0" : "=r"(*(uint64_t *)seen) : "r"((uint64_t)SEL_INNER));
    __asm__ volatile("mov %0, %%gs" : : "r"(0));
}

/* ---- far transfers and INT n -------------------------------------------------------------------------------- */

typedef struct __attribute__((packed)) FarPointer {
    uint32_t offset;
    uint16_t selector;
} FarPointer;

static void see_call_far(void *seen) /* the CS that it pushed */
{
    FarPointer to = {.selector = SEL_KERNEL_CODE};
    uint64_t cs = 0;
    __asm__ volatile("leaq 1f(%%rip), %%rax; movl %%eax, %1; lcall *%1; jmp 2f; 1: movl 4(%%rsp), %k0; lret; 2:"
                     : "+&r"(cs), "+m"(to)
                     :
                     : "rax", "memory", "cc");
    *(uint64_t *)seen = cs;
}

static void see_jmp_far(void *seen) /* arrived */
{
    FarPointer to = {.selector = SEL_KERNEL_CODE};
    __asm__ volatile("leaq 1f(%%rip), %%rax; movl %%eax, %0; ljmp *%0; ud2; 1:" : "+m"(to) : : "rax", "memory");
    *(uint64_t *)seen = 1;
}

static void see_ret_far(void *seen)
{
    __asm__ volatile("pushq %0; leaq 1f(%%rip), %%rax; pushq %%rax; lretq; ud2; 1:"
                     :
                     : "i"(SEL_KERNEL_CODE)
                     : "rax", "memory");
    *(uint64_t *)seen = 1;
}

static void see_int_n(void *seen) /* the CS in its frame */
{
    uint64_t before = trap_intn_count;
    __asm__ volatile("int %0" : : "i"(VECTOR_INTN) : "memory");
    *(uint64_t *)seen = trap_intn_count == before + 1 ? trap_intn_cs : 0;
}

static void see_iret(void *seen)
{
    __asm__ volatile("movq %%rsp, %%rcx; pushq %1; pushq %%rcx; pushfq; orq $0x200, (%%rsp); pushq %0;"
                     "leaq 1f(%%rip), %%rax; pushq %%rax; iretq; ud2; 1:"
                     :
                     : "i"(SEL_KERNEL_CODE), "i"(SEL_KERNEL_DATA)
                     : "rax", "rcx", "memory", "cc");
    *(uint64_t *)seen = 1;
}

/* ---- privileged: these trap, and so they are right everywhere ----------------------------------------------- */

static void see_cr3(void *seen) { *(uint64_t *)seen = read_cr3(); }

static void see_cr8(void *seen)
{
    uint64_t value;
    task_priority_set(5);
    __asm__ volatile("mov %%cr8, %0" : "=r"(value) : : "memory");
    task_priority_set(0);
    *(uint64_t *)seen = value;
}

static void see_star(void *seen) { *(uint64_t *)seen = rdmsr(MSR_STAR) >> 32; }

void checks_run(void)
{
    check_interrupt_flag();
    check("sgdt", segments_gdt(), see_sgdt);
    check("sidt", trap_idt(), see_sidt);
    check("sldt", SEL_LDT, see_sldt);
    check("str", SEL_TSS, see_str);
    check_smsw();
    check("lar", 0x00a09a00, see_lar);
    check("lsl", 0xfff, see_lsl);
    check("verr", 1, see_verr);
    check("verw", 1, see_verw);
    check("mov_from_cs", SEL_KERNEL_CODE, see_mov_from_cs);
    check("mov_from_ss", SEL_KERNEL_DATA, see_mov_from_ss);
    check("mov_to_ds", SEL_INNER, see_mov_to_ds);
    check("push_fs", SEL_INNER, see_push_fs);
    check("pop_gs", SEL_INNER, see_pop_gs);
    check("call_far", SEL_KERNEL_CODE, see_call_far);
    check("jmp_far", 1, see_jmp_far);
    check("ret_far", 1, see_ret_far);
    check("int_n", SEL_KERNEL_CODE, see_int_n);
    check("iret", 1, see_iret);
    check("cr3", paging_root(), see_cr3);
    check("cr8", 5, see_cr8);
    check("star", (uint64_t)SEL_KERNEL_CODE | (uint64_t)SEL_KERNEL_DATA << 16, see_star);
}

#endif
