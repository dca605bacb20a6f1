/*
 * A bare board with a small guest kernel around one snippet of ring 0 code: for tests of csrc/lab/monitor.h that
 * run the same snippet on the engine alone and under a monitor, and compare what is left.
 *
 * The kernel is tables and handlers: every exception and interrupt is recorded (RigEvent) with the frame that the
 * processor pushed. Vectors 3, 0x20 to 0x4f return, interrupts (0x20 to 0x2f) after an EOI; all others, and INT
 * 0x50 at the snippet's end, leave the registers in RIG_GPR and end the run by a write to RIG_PORT.
 */
#ifndef PYVMM_TESTS_MONITOR_RIG_H
#define PYVMM_TESTS_MONITOR_RIG_H

#include <string.h>
#include <unistd.h>

#include "irq/i8259.h"
#include "kvm/kvm.h"
#include "lab/monitor.h"
#include "tests/check.h"
#include "translator/translator.h"

#define RIG_RAM       (20u << 20)
#define RIG_GUEST_END (4u << 20)
#define RIG_PORT      0x77 /* ends the run; the next three answer reads */
#define RIG_IRQ_PORT  0x7c /* pulses IRQ 5, the next one IRQ 1 */
#define RIG_MMIO      0xd0000000

/* Where things are in the guest; numbers that assembly can read. The first 2 MiB have 4 KiB pages. */
#define RIG_GDT        0x1000
#define RIG_IDT        0x2000
#define RIG_TSS        0x3000
#define RIG_LDT        0x3800
#define RIG_PML4       0x10000
#define RIG_PDPT       0x11000
#define RIG_PD         0x12000
#define RIG_PT         0x13000
#define RIG_MMIO_PD    0x14000
#define RIG_CODE       0x30000 /* the snippet: a page that ring 3 may execute */
#define RIG_STACK      0x48000
#define RIG_IST        0x58000
#define RIG_USER_STACK 0x68000
#define RIG_DATA       0x70000 /* ring 0's, 64 KiB of a pattern */
#define RIG_USER_DATA  0x80000 /* the same, ring 3's too */
#define RIG_ABSENT     0x90000 /* no page */
#define RIG_READ_ONLY  0x91000
#define RIG_GPR        0x98000
#define RIG_COUNT      0x98080
#define RIG_EVENTS     0x98100
#define RIG_HANDLERS   0x20000

/* Selectors. */
#define RIG_CS       0x08
#define RIG_SS       0x10
#define RIG_USER_SS  0x1b
#define RIG_USER_CS  0x23
#define RIG_TR       0x28
#define RIG_LDTR     0x38
#define RIG_NOT_HERE 0x48 /* a data segment, not present */
#define RIG_BASED    0x53 /* a data segment with a base, DPL 3 */
#define RIG_LDT_DATA 0x0f /* in the LDT */

typedef struct RigEvent {
    uint64_t vector, error, rip, cs, rflags, rsp, ss, cr2;
} RigEvent;

typedef struct Rig {
    Board *board;
    EngineVm *vm;
    Vcpu *vcpu;
    Device *pic;
    IrqLine *line, *urgent;
    Monitor *monitor; /* NULL: bare */
    uint64_t out[64];
    size_t out_count;
    uint64_t in; /* what the next read gives */
} Rig;

#define RIG_STRING(x) #x
#define RIG_EXPAND(x) RIG_STRING(x)
#define N(name)       RIG_EXPAND(name) /* a number of the above, in assembly */

extern const uint8_t rig_handlers[], rig_handlers_end[], rig_finish[];

__asm__(".pushsection .rodata\n"
        ".balign 16\n"
        "rig_handlers:\n"
        ".set vector, 0\n"
        ".rept 256\n"
        ".balign 16\n"
        ".if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)\n"
        ".else\n"
        "pushq $0\n"
        ".endif\n"
        ".byte 0x68\n"
        ".long vector\n"
        "jmp 771f\n"
        ".set vector, vector + 1\n"
        ".endr\n"
        ".balign 16\n"
        "771: pushq %rax\n"
        "pushq %rbx\n"
        "pushq %rcx\n"
        /* RigEvent number RIG_COUNT, but never beyond the page */
        "movq " N(
            RIG_COUNT) ", %rbx\n"
                       "incq " N(
                           RIG_COUNT) "\n"
                                      "andl $31, %ebx\n"
                                      "shll $6, %ebx\n"
                                      "addl $" N(
                                          RIG_EVENTS) ", %ebx\n"
                                                      "movl $7, %ecx\n"
                                                      "772: movq 16(%rsp,%rcx,8), %rax\n"
                                                      "movq %rax, -8(%rbx,%rcx,8)\n"
                                                      "decl %ecx\n"
                                                      "jnz 772b\n"
                                                      "movq %cr2, %rax\n"
                                                      "movq %rax, 56(%rbx)\n"
                                                      "movl 24(%rsp), %eax\n"
                                                      "cmpl $3, %eax\n"
                                                      "je 774f\n"
                                                      "cmpl $0x20, %eax\n"
                                                      "jb 775f\n"
                                                      "cmpl $0x50, %eax\n"
                                                      "jae 775f\n"
                                                      "cmpl $0x30, %eax\n"
                                                      "jae 774f\n"
                                                      "movb $0x20, %al\n"
                                                      "outb %al, $0x20\n"
                                                      "774: popq %rcx\n"
                                                      "popq %rbx\n"
                                                      "popq %rax\n"
                                                      "addq $16, %rsp\n"
                                                      "iretq\n"
                                                      "775: popq %rcx\n"
                                                      "popq %rbx\n"
                                                      "popq %rax\n"
                                                      "movq %rax, " N(
                                                          RIG_GPR) "\n"
                                                                   "movq %rcx, " N(
                                                                       RIG_GPR) "+8\n"
                                                                                "movq %rdx, " N(
                                                                                    RIG_GPR) "+16\n"
                                                                                             "movq %rbx, " N(
                                                                                                 RIG_GPR) "+24\n"
                                                                                                          "movq "
                                                                                                          "%rsp,"
                                                                                                          " " N(
                                                                                                              RIG_GPR) "+32\n"
                                                                                                                       "movq %rbp, " N(RIG_GPR) "+40\n"
                                                                                                                                                "movq %rsi, " N(RIG_GPR) "+48\n"
                                                                                                                                                                         "movq %rdi, " N(RIG_GPR) "+56\n"
                                                                                                                                                                                                  "movq %r8, " N(RIG_GPR) "+64\n"
                                                                                                                                                                                                                          "movq %r9, " N(RIG_GPR) "+72\n"
                                                                                                                                                                                                                                                  "movq %r10, " N(RIG_GPR) "+80\n"
                                                                                                                                                                                                                                                                           "movq %r11, " N(RIG_GPR) "+88\n"
                                                                                                                                                                                                                                                                                                    "movq %r12, " N(RIG_GPR) "+96\n"
                                                                                                                                                                                                                                                                                                                             "movq %r13, " N(RIG_GPR) "+104\n"
                                                                                                                                                                                                                                                                                                                                                      "movq %r14, " N(RIG_GPR) "+112\n"
                                                                                                                                                                                                                                                                                                                                                                               "movq %r15, " N(
                                                                                                                                                                                                                                                                                                                                                                                   RIG_GPR) "+120\n"
                                                                                                                                                                                                                                                                                                                                                                                            "outb %al, $" N(RIG_PORT) "\n"
                                                                                                                                                                                                                                                                                                                                                                                                                      "776: jmp 776b\n"
                                                                                                                                                                                                                                                                                                                                                                                                                      "rig_finish: int $0x50\n"
                                                                                                                                                                                                                                                                                                                                                                                                                      "rig_handlers_end:\n"
                                                                                                                                                                                                                                                                                                                                                                                                                      ".popsection\n");

/* ---- devices ---- */

static void rig_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Rig *rig = device;
    if (region == 0 && offset == 0 && size == 1)
        board_request(rig->board, SYSTEM_EXIT, 0x77);
    else if (region == 1)
        irq_line_pulse(offset ? rig->urgent : rig->line);
    else if (rig->out_count < ARRAY_SIZE(rig->out))
        rig->out[rig->out_count++] = value | (uint64_t)size << 56 | offset << 48;
}

static uint64_t rig_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    Rig *rig = device;
    return rig->in += 0x1122334455667788ull;
}

static const DeviceOps RIG_DEVICE = {.read = rig_read, .write = rig_write};

/* ---- the guest's kernel ---- */

static void rig_put(Rig *rig, gpa_t at, uint64_t value)
{
    CHECK_EQ(guest_memory_load(rig->board->memory, at, &value, sizeof value), 0);
}

static void rig_gate(Rig *rig, uint8_t vector, uint8_t dpl, uint8_t ist)
{
    uint64_t handler = RIG_HANDLERS + 16u * vector;
    rig_put(rig, RIG_IDT + 16u * vector,
            (handler & 0xffff) | RIG_CS << 16 | (uint64_t)ist << 32 | (0x8eull | (uint64_t)dpl << 5) << 40 |
                (handler >> 16 & 0xffff) << 48);
    rig_put(rig, RIG_IDT + 16u * vector + 8, 0);
}

static void rig_tables(Rig *rig)
{
    static const uint64_t GDT[] = {0,
                                   0x00af9b000000ffff,
                                   0x00cf93000000ffff,
                                   0x00cff3000000ffff,
                                   0x00affb000000ffff,
                                   0x0000890000000067 | RIG_TSS << 16,
                                   0,
                                   0x00008200000000ff | RIG_LDT << 16,
                                   0,
                                   0x00cf13000000ffff,
                                   0x00cff3345600ffff | 0x12ull << 56};
    for (unsigned i = 0; i < ARRAY_SIZE(GDT); i++)
        rig_put(rig, RIG_GDT + 8 * i, GDT[i]);
    rig_put(rig, RIG_LDT + 8, 0x00cff3000000ffff);
    for (unsigned vector = 0; vector < 256; vector++)
        rig_gate(rig, (uint8_t)vector, vector == 3 || vector >= 0x40 ? 3 : 0, vector == 8 ? 1 : 0);
    uint16_t no_map = 0x68;
    CHECK_EQ(guest_memory_load(rig->board->memory, RIG_TSS + 0x66, &no_map, 2), 0);
    uint64_t rsp0 = RIG_STACK - 0x4000, ist1 = RIG_IST;
    CHECK_EQ(guest_memory_load(rig->board->memory, RIG_TSS + 4, &rsp0, 8), 0);
    CHECK_EQ(guest_memory_load(rig->board->memory, RIG_TSS + 0x24, &ist1, 8), 0);

    rig_put(rig, RIG_PML4, RIG_PDPT | 7);
    rig_put(rig, RIG_PDPT, RIG_PD | 7);
    rig_put(rig, RIG_PDPT + 8 * 3, RIG_MMIO_PD | 7);
    rig_put(rig, RIG_MMIO_PD + 8 * (RIG_MMIO >> 21 & 511), RIG_MMIO | 0x83);
    rig_put(rig, RIG_PD, RIG_PT | 7);
    for (uint64_t i = 1; i < RIG_GUEST_END >> 21; i++)
        rig_put(rig, RIG_PD + 8 * i, i << 21 | 0x83);
    for (uint64_t page = 0; page < 512; page++) {
        gpa_t at = page << 12;
        bool user = (at >= RIG_CODE && at < RIG_CODE + 0x8000) || (at >= RIG_IST && at < RIG_USER_STACK) ||
                    (at >= RIG_USER_DATA && at < RIG_USER_DATA + 0x10000);
        uint64_t bits = at == RIG_ABSENT ? 0 : at == RIG_READ_ONLY ? 1 : 3;
        rig_put(rig, RIG_PT + 8 * page, at | bits | (user ? 4 : 0));
    }
}

static Rig *rig_new(bool kvm)
{
    Error error = {0};
    Rig *rig = calloc(1, sizeof *rig);
    CHECK(rig);
    rig->board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(rig->board);
    CHECK_EQ(guest_memory_add(rig->board->memory, 0, RIG_RAM, 0, &error), 0);
    CHECK_EQ(bus_add(rig->board->pio, RIG_PORT, 4, &RIG_DEVICE, rig, 0, NULL, "rig", &error), 0);
    CHECK_EQ(bus_add(rig->board->pio, RIG_IRQ_PORT, 2, &RIG_DEVICE, rig, 1, NULL, "rig", &error), 0);
    CHECK_EQ(bus_add(rig->board->mmio, RIG_MMIO, 0x1000, &RIG_DEVICE, rig, 2, NULL, "rig", &error), 0);
    rig->pic = i8259_new(rig->board, rig->board->irqs);
    CHECK(rig->pic);
    CHECK_EQ(device_map(rig->pic, rig->board->pio, 0x20, 2, 0, &error), 0);
    rig->line = irq_line_new(rig->board->irqs, 5);
    rig->urgent = irq_line_new(rig->board->irqs, 1);
    rig->vm = kvm ? kvm_vm_new(rig->board, "/dev/kvm", NULL, &error) : translator_vm_new(rig->board, false, &error);
    rig->vcpu = rig->vm ? vcpu_new(rig->vm, 0, &error) : NULL;
    if (!rig->vcpu)
        fprintf(stderr, "%s\n", error.text);
    CHECK(rig->vcpu);
    return rig;
}

static void rig_free(Rig *rig)
{
    monitor_free(rig->monitor);
    engine_vm_free(rig->vm);
    device_free(rig->pic);
    board_free(rig->board);
    free(rig);
}

/* The guest as its snippet finds it. `code` is followed by a jump to INT 0x50. */
static void rig_load(Rig *rig, const uint8_t *code, size_t size, CpuState *state)
{
    static const uint8_t PIC[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 0x04}, {0x21, 0x01}, {0x21, 0x00}};
    uint8_t *ram = guest_memory_ptr(rig->board->memory, 0, RIG_RAM, true), jump[5] = {0xe9};
    CHECK(ram && size < 0x7000);
    memset(ram, 0, RIG_GUEST_END); /* the rest is a monitor's, which clears it */
    for (unsigned i = 0; i < 0x10000; i++)
        ram[RIG_DATA + i] = ram[RIG_USER_DATA + i] = (uint8_t)(i * 37 + (i >> 8));
    guest_memory_written(rig->board->memory, 0, RIG_GUEST_END);
    rig_tables(rig);
    CHECK_EQ(guest_memory_load(rig->board->memory, RIG_HANDLERS, rig_handlers,
                               (size_t)(rig_handlers_end - rig_handlers)),
             0);
    int32_t to = (int32_t)(RIG_HANDLERS + (rig_finish - rig_handlers) - (RIG_CODE + (int64_t)size + 5));
    memcpy(jump + 1, &to, 4);
    CHECK_EQ(guest_memory_load(rig->board->memory, RIG_CODE, code, size), 0);
    CHECK_EQ(guest_memory_load(rig->board->memory, RIG_CODE + size, jump, 5), 0);
    device_reset(rig->pic);
    for (unsigned i = 0; i < ARRAY_SIZE(PIC); i++)
        bus_write(rig->board->pio, PIC[i][0], 1, PIC[i][1]);
    rig->out_count = 0, rig->in = 0;

    CHECK_EQ(vcpu_get_state(rig->vcpu, state), 0);
    cpu_state_reset(state);
    for (uint64_t i = 0; i < 16; i++)
        state->gpr[i] = i * 0x0101010101010101ull;
    state->gpr[REG_RSP] = RIG_STACK;
    state->rip = RIG_CODE;
    state->rflags = 2;
    for (unsigned i = 0; i < 6; i++)
        state->segment[i] = (Segment){.selector = i == SEG_CS ? RIG_CS : RIG_SS,
                                      .limit = UINT32_MAX,
                                      .attributes = i == SEG_CS ? 0xa09b : 0xc093};
    state->tr = (Segment){.selector = RIG_TR, .attributes = 0x8b, .limit = 0x67, .base = RIG_TSS};
    state->ldtr = (Segment){.attributes = 0x10000};
    state->gdtr = (DescriptorTable){RIG_GDT, 0xff};
    state->idtr = (DescriptorTable){RIG_IDT, 0xfff};
    state->cr0 = 0x80010033; /* PG, WP, NE, ET, MP, PE */
    state->cr3 = RIG_PML4;
    state->cr4 = 0x620;  /* OSXMMEXCPT, OSFXSR, PAE */
    state->efer = 0xd00; /* NXE, LMA, LME */
}

/* Run it: bare, or under a monitor that is made first. */
static VmExit rig_run(Rig *rig, const LabTechnique *technique, const uint8_t *code, size_t size)
{
    Error error = {0};
    CpuState state;
    VmExit left;
    rig_load(rig, code, size, &state);
    if (technique) {
        monitor_free(rig->monitor);
        rig->monitor = monitor_new(rig->vcpu, RIG_GUEST_END, technique, &error);
        if (!rig->monitor)
            fprintf(stderr, "%s\n", error.text);
        CHECK(rig->monitor);
        if (monitor_start(rig->monitor, &state, &error) < 0) {
            fprintf(stderr, "%s\n", error.text);
            CHECK(false);
        }
    } else
        CHECK_EQ(vcpu_set_state(rig->vcpu, &state), 0);
    CHECK_EQ(vcpu_run(rig->vcpu, 0, &left), 0);
    return left;
}

/* A KVM that has what a monitor needs: 64-bit ring 3. */
static inline bool rig_kvm_usable(void)
{
    Error error = {0};
    if (access("/dev/kvm", R_OK | W_OK) != 0)
        return false;
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    EngineVm *vm = board ? kvm_vm_new(board, "/dev/kvm", NULL, &error) : NULL;
    engine_vm_free(vm);
    board_free(board);
    return vm != NULL;
}

#endif
