/*
 * Start-up self-tests: each of the library's defects that the engine mends, provoked on a throw-away machine in a
 * few milliseconds. A library that fails one is not used (translator/engine.py tells the user, and tries the slow
 * tier).
 */
#include <stdlib.h>

#include "translator/vm.h"

/* Guest programs, 64-bit, position independent; copied to CODE. Each ends with HLT. */
__asm__(".pushsection .rodata\n"
        ".code64\n"
        "self_test_code:\n"
        /* #PF twice for reading and once for writing: an old exception must not turn the second into #DF */
        "self_test_faults: mov $0x400000, %eax; xor %r13d, %r13d\n"
        "  mov (%rax), %rbx; mov (%rax), %rbx; mov %rbx, (%rax); hlt\n"
        "self_test_pf: pop %r15; mov %cr2, %r14; inc %r13; addq $3, (%rsp); iretq\n"
        /* code rewritten through a second, not executable mapping */
        "self_test_alias: mov $0x6000, %ebx; call *%rbx; mov %eax, %r8d\n"
        "  movb $22, 0x206001; call *%rbx; mov %eax, %r9d\n"
        "  movb $33, 0x206001; call *%rbx; mov %eax, %r10d; hlt\n"
        "self_test_call: mov $0x6000, %ebx; call *%rbx; mov %eax, %r8d; hlt\n"
        "self_test_function: mov $11, %eax; ret; .byte 0\n"
        /* read-modify-write of a device that stops the vCPU, and of memory just after it */
        "self_test_add: mov $0x7000, %esi; mov $0x30000, %edi; mov $1000, %ecx\n"
        "1: addl $1, (%rdi); addq $1, (%rsi); dec %ecx; jnz 1b; hlt\n"
        /* ring 3 and back by SYSCALL, SYSRET and #GP */
        "self_test_rings: pushq $0x1b; pushq $0x9000; pushq $0x202; pushq $0x23; lea self_test_user(%rip), %rax\n"
        "  push %rax; iretq\n"
        "self_test_user: syscall; mov %cs, %r9d; hlt\n"
        "self_test_syscall: mov %cs, %r8d; mov $1, %r12d; sysretq\n"
        "self_test_gp: pop %r15; mov %cs, %r10d; hlt\n"
        "self_test_end:\n"
        ".popsection\n");

extern const uint8_t self_test_code[], self_test_faults[], self_test_pf[], self_test_alias[], self_test_call[],
    self_test_function[], self_test_add[], self_test_rings[], self_test_syscall[], self_test_gp[], self_test_end[];

enum {
    CODE = 0x2000,
    GDT = 0x3000,
    IDT = 0x4000,
    TSS = 0x5000,
    FUNCTION = 0x6000,
    COUNTER = 0x7000,
    STACK = 0xa000,
    TABLES = 0x10000,
    RAM = 0x20000,
    DEVICE = 0x30000,
    ADDITIONS = 1000, /* as in self_test_add */
};

enum { RAX, R8 = 8, R9, R10, R12 = 12, R13, R14, R15 };

typedef struct SelfTest {
    Board *board;
    EngineVm *vm;
    Vcpu *vcpu;
    CpuState *state;
    uint64_t value, reads, writes; /* the device's */
} SelfTest;

static uint64_t guest_address(const uint8_t *label) { return CODE + (uint64_t)(label - self_test_code); }

static void store64(SelfTest *test, gpa_t gpa, uint64_t value)
{
    guest_memory_load(test->board->memory, gpa, &value, sizeof value);
}

static void set_gate(SelfTest *test, int vector, const uint8_t *handler)
{
    uint64_t at = guest_address(handler);
    store64(test, IDT + 16 * vector, (at & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (at & 0xffff0000) << 32);
    store64(test, IDT + 16 * vector + 8, at >> 32);
}

/* Identity at 0, the same bytes again at 2 MiB without execute permission, nothing at 4 MiB; a GDT with SYSCALL's
 * order. */
static void prepare(SelfTest *test)
{
    enum { PRESENT = 1, WRITE = 2, USER = 4, LARGE = 0x80 };
    GuestMemory *memory = test->board->memory;
    guest_memory_load(memory, CODE, self_test_code, (uint64_t)(self_test_end - self_test_code));
    guest_memory_load(memory, FUNCTION, self_test_function, 6);
    store64(test, TABLES, (TABLES + 0x1000) | PRESENT | WRITE | USER);
    store64(test, TABLES + 0x1000, (TABLES + 0x2000) | PRESENT | WRITE | USER);
    store64(test, TABLES + 0x2000, PRESENT | WRITE | USER | LARGE);
    store64(test, TABLES + 0x2008, PRESENT | WRITE | USER | LARGE | 1ull << 63);
    const uint64_t gdt[] = {0,
                            0x00af9b000000ffff,
                            0x00cf93000000ffff,
                            0x00cff3000000ffff,
                            0x00affb000000ffff,
                            0x0000890000000067 | (uint64_t)TSS << 16,
                            0};
    guest_memory_load(memory, GDT, gdt, sizeof gdt);
    store64(test, TSS + 4, STACK - 0x800);
    set_gate(test, 13, self_test_gp);
    set_gate(test, 14, self_test_pf);
}

static void start_at(SelfTest *test, const uint8_t *label)
{
    CpuState *s = test->state;
    cpu_state_reset(s);
    s->cr0 = 0x80010031;
    s->cr3 = TABLES;
    s->cr4 = 0x220;
    s->efer = 0xd01;
    for (int i = 0; i < 6; i++)
        s->segment[i] = (Segment){.selector = 0x10, .attributes = 0xc093, .limit = 0xffffffff};
    s->segment[SEG_CS] = (Segment){.selector = 8, .attributes = 0xa09b, .limit = 0xffffffff};
    s->gdtr = (DescriptorTable){.base = GDT, .limit = 0x37};
    s->idtr = (DescriptorTable){.base = IDT, .limit = 0xfff};
    s->tr = (Segment){.selector = 0x28, .attributes = 0x8b, .limit = 0x67, .base = TSS};
    s->star = 8ull << 32 | 0x10ull << 48;
    s->lstar = guest_address(self_test_syscall);
    s->gpr[REG_RSP] = STACK;
    s->rip = guest_address(label);
    vcpu_set_state(test->vcpu, s);
}

static bool run_from(SelfTest *test, const uint8_t *label)
{
    VmExit left;
    start_at(test, label);
    return vcpu_run(test->vcpu, 1u << EXIT_HLT, &left) == 0 && left.reason == EXIT_HLT &&
           vcpu_get_state(test->vcpu, test->state) == 0;
}

static bool layout_is_known(SelfTest *test)
{
    TranslatorVcpu *vcpu = container_of(test->vcpu, TranslatorVcpu, base);
    uint64_t pattern = 0x5a17c0de13572468;
    uc_reg_write(vcpu->uc, UC_X86_REG_R13, &pattern);
    return vcpu->env->regs[13] == pattern;
}

static bool faults_are_delivered(SelfTest *test)
{
    const uint64_t *r = test->state->gpr;
    return run_from(test, self_test_faults) && r[R13] == 3 && r[R14] == 0x400000 && r[R15] == 2;
}

static bool aliases_are_seen(SelfTest *test)
{
    const uint64_t *r = test->state->gpr;
    return run_from(test, self_test_alias) && r[R8] == 11 && r[R9] == 22 && r[R10] == 33;
}

static bool host_writes_are_seen(SelfTest *test)
{
    uint8_t value = 44;
    if (!run_from(test, self_test_call))
        return false;
    guest_memory_write(test->board->memory, FUNCTION + 1, &value, 1);
    return run_from(test, self_test_call) && test->state->gpr[R8] == 44;
}

/* Between the load and the store of the same instruction the vCPU is asked to stop: always at the worst moment. */
static uint64_t read_and_stop(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    SelfTest *test = device;
    if (++test->reads <= 2 * ADDITIONS) /* else the instruction is begun again each time: let it end, and fail */
        test->vcpu->vm->ops->vcpu_notify(test->vcpu);
    return test->value;
}

static void count_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    SelfTest *test = device;
    test->writes++;
    test->value = value;
}

static const DeviceOps COUNTER_OPS = {.read = read_and_stop, .write = count_write};

static bool stops_are_between_instructions(SelfTest *test)
{
    uint64_t counted = 0;
    if (!run_from(test, self_test_add))
        return false;
    guest_memory_read(test->board->memory, COUNTER, &counted, sizeof counted);
    return test->value == ADDITIONS && test->reads == ADDITIONS && test->writes == ADDITIONS &&
           counted == ADDITIONS;
}

/* The same program when the device's page is memory to the guest: all of it is there, and the device sees nothing.
 * The slow tier goes to the device. */
static bool device_ram_is_ram(SelfTest *test)
{
    uint64_t reads = test->reads, writes = test->writes, counted = 0,
             *page = aligned_alloc(GUEST_PAGE_SIZE, GUEST_PAGE_SIZE);
    DeviceRam ram = {.gpa = DEVICE, .size = GUEST_PAGE_SIZE, .hva = (uint8_t *)page};
    if (!page)
        return false;
    page[0] = 0;
    bool ran = device_ram_add(test->board->device_rams, test->board->memory, &ram) == 0 &&
               run_from(test, self_test_add) && device_ram_remove(test->board->device_rams, DEVICE) == 0;
    counted = page[0];
    free(page);
    bool seen = test->reads != reads || test->writes != writes;
    bool slow = container_of(test->vcpu, TranslatorVcpu, base)->slow;
    return ran && (slow ? seen : !seen && counted == ADDITIONS);
}

static bool rings_are_crossed(SelfTest *test)
{
    const uint64_t *r = test->state->gpr;
    return run_from(test, self_test_rings) && r[R8] == 8 && r[R12] == 1 && r[R9] == 0x23 && r[R10] == 8 &&
           r[R15] == 0;
}

static int run_all(SelfTest *test, Error *error)
{
    static const struct {
        bool (*passes)(SelfTest *test);
        const char *claim;
    } TESTS[] = {
        {layout_is_known, "the CPU structure's layout"},
        {faults_are_delivered, "page faults delivered with error code and CR2, twice in a row"},
        {aliases_are_seen, "code rewritten through another mapping"},
        {host_writes_are_seen, "code rewritten by a device"},
        {stops_are_between_instructions, "stops only between instructions"},
        {device_ram_is_ram, "a device's memory as RAM"},
        {rings_are_crossed, "SYSCALL, SYSRET and IRETQ between rings 0 and 3"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(TESTS); i++)
        if (!TESTS[i].passes(test))
            return error_set(error, EPROTO, "self-test failed: %s", TESTS[i].claim);
    return 0;
}

int translator_self_test(bool slow, Error *error)
{
    SelfTest test = {.board = board_new(CLOCK_KIND_REALTIME, error), .state = malloc(sizeof(CpuState))};
    int result = -ENOMEM;
    if (test.board && test.state && guest_memory_add(test.board->memory, 0, RAM, 0, error) == 0 &&
        bus_add(test.board->mmio, DEVICE, 8, &COUNTER_OPS, &test, 0, NULL, "counter", error) == 0) {
        prepare(&test);
        test.vm = translator_vm_new(test.board, slow, error);
        test.vcpu = test.vm ? vcpu_new(test.vm, 0, error) : NULL;
        if (test.vcpu)
            result = run_all(&test, error);
        engine_vm_free(test.vm);
    }
    free(test.state);
    board_free(test.board);
    return result;
}
