/* The translator on bare boards: tiny guest programs in each mode. In both tiers. */
#include "tests/check.h"
#include "tests/device_ram_check.h"
#include "translator/translator.h"
#include "translator/vm.h"

static bool slow;

typedef struct Rig {
    Board *board;
    EngineVm *vm;
    Vcpu *vcpu;
    CpuState state;
    uint8_t out[64];
    size_t out_count;
    uint64_t last_value;
    uint32_t last_size;
    uint32_t finished; /* atomic */
} Rig;

static void sink_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Rig *rig = device;
    if (rig->out_count < sizeof rig->out)
        rig->out[rig->out_count++] = (uint8_t)value;
    rig->last_value = value;
    rig->last_size = size;
}

static uint64_t sink_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    return 0x1122334455667788;
}

static const DeviceOps SINK = {.read = sink_read, .write = sink_write};

static Rig *rig_new(enum ClockKind clock)
{
    Error error = {0};
    Rig *rig = calloc(1, sizeof *rig);
    rig->board = board_new(clock, &error);
    CHECK(rig->board);
    CHECK_EQ(guest_memory_add(rig->board->memory, 0, 1 << 20, 0, &error), 0);
    CHECK_EQ(guest_memory_add(rig->board->memory, 0xffff0000, 1 << 16, MEMSLOT_READ_ONLY, &error), 0);
    CHECK_EQ(bus_add(rig->board->pio, 0x77, 1, &SINK, rig, 0, NULL, "sink", &error), 0);
    CHECK_EQ(bus_add(rig->board->pio, 0x100, 4, &SINK, rig, 0, NULL, "wide sink", &error), 0);
    CHECK_EQ(bus_add(rig->board->mmio, 0xd0000000, 0x1000, &SINK, rig, 0, NULL, "sink", &error), 0);
    rig->vm = translator_vm_new(rig->board, slow, &error);
    rig->vcpu = vcpu_new(rig->vm, 0, &error);
    if (!rig->vcpu)
        fprintf(stderr, "%s\n", error.text);
    CHECK(rig->vcpu);
    cpu_state_reset(&rig->state);
    return rig;
}

static void rig_free(Rig *rig)
{
    engine_vm_free(rig->vm);
    board_free(rig->board);
    free(rig);
}

static void load(Rig *rig, gpa_t gpa, const void *code, size_t size)
{
    CHECK_EQ(guest_memory_load(rig->board->memory, gpa, code, size), 0);
}

static VmExit run(Rig *rig, uint32_t surface)
{
    VmExit left;
    CHECK_EQ(vcpu_run(rig->vcpu, surface, &left), 0);
    return left;
}

#define HLT (1u << EXIT_HLT)

static void test_self_test(void)
{
    Error error = {0};
    int result = translator_self_test(slow, &error);
    if (result)
        fprintf(stderr, "%s\n", error.text);
    CHECK_EQ(result, 0);
}

static void test_reset_vector(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    /* f000:fff0: mov al,0x5a; out 0x77,al; hlt */
    load(rig, 0xfffffff0, "\xb0\x5a\xe6\x77\xf4", 5);
    VmExit left = run(rig, HLT);
    CHECK_EQ(left.reason, EXIT_HLT);
    CHECK_EQ(rig->out_count, 1);
    CHECK_EQ(rig->out[0], 0x5a);
    CHECK_EQ(left.rip, 0xfffffff5);
    rig_free(rig);
}

static void real_mode_at(Rig *rig, uint16_t ip)
{
    rig->state.rip = ip;
    rig->state.segment[SEG_CS] = (Segment){.attributes = 0x9b, .limit = 0xffff};
    rig->state.gpr[REG_RSP] = 0x7000;
    vcpu_set_state(rig->vcpu, &rig->state);
}

static void test_real_mode_interrupts(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    /* ivt[0x21] = 0000:0600; int 0x21; mov al,2; out; hlt.  handler: mov al,1; out 0x77,al; iret */
    load(rig, 0x21 * 4, "\x00\x06\x00\x00", 4);
    load(rig, 0x600, "\xb0\x01\xe6\x77\xcf", 5);
    load(rig, 0x500, "\xcd\x21\xb0\x02\xe6\x77\xf4", 7);
    /* #UD: ivt[6] = 0000:0700: mov al,6; out; hlt */
    load(rig, 6 * 4, "\x00\x07\x00\x00", 4);
    load(rig, 0x700, "\xb0\x06\xe6\x77\xf4", 5);
    load(rig, 0x580, "\x0f\x0b", 2);
    real_mode_at(rig, 0x500);
    run(rig, HLT);
    CHECK_EQ(rig->out_count, 2);
    CHECK_EQ(rig->out[0], 1);
    CHECK_EQ(rig->out[1], 2);
    real_mode_at(rig, 0x580);
    run(rig, HLT);
    CHECK_EQ(rig->out[2], 6);
    rig_free(rig);
}

static void test_device_ram(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    rig->state.segment[SEG_CS] = (Segment){.attributes = 0x9b, .limit = 0xffff};
    check_device_ram(rig->board, rig->vcpu, &rig->state, !slow);
    cpu_state_reset(&rig->state);
    rig->state.segment[SEG_CS] = (Segment){.attributes = 0x9b, .limit = 0xffff};
    if (!slow)
        check_device_ram_from_outside(rig->board, rig->vcpu, &rig->state);
    rig_free(rig);
}

static void test_mmio_and_surface(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    /* unreal: ds base 0xd0000000; mov al,[0]; mov [1],al; out 0x77,al; in al,0x80; hlt */
    load(rig, 0x500, "\xa0\x00\x00\xa2\x01\x00\xe6\x77\xe4\x80\xf4", 11);
    rig->state.segment[SEG_DS].base = 0xd0000000;
    real_mode_at(rig, 0x500);
    uint32_t mask = HLT | 1u << EXIT_MMIO | 1u << EXIT_IO;
    VmExit left = run(rig, mask);
    CHECK_EQ(left.reason, EXIT_MMIO);
    CHECK_EQ(left.address, 0xd0000000);
    CHECK_EQ(left.value, 0x88);
    left = run(rig, mask);
    CHECK_EQ(left.reason, EXIT_MMIO);
    CHECK_EQ(left.is_write, 1);
    left = run(rig, mask);
    CHECK_EQ(left.reason, EXIT_IO);
    CHECK_EQ(left.rip, 0x506);
    left = run(rig, mask);
    CHECK_EQ(left.address, 0x80);
    CHECK_EQ(left.handled, 0);
    CHECK_EQ(left.value, 0xff);
    left = run(rig, mask);
    CHECK_EQ(left.reason, EXIT_HLT);
    CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
    CHECK_EQ(rig->state.gpr[REG_RAX] & 0xff, 0xff);
    CHECK(rig->state.halted);
    rig_free(rig);
}

/* At a surfaced exit nothing after its instruction has been executed, and registers may be changed. */
static void test_surfaced_exit_is_exact(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    load(rig, 0x500, "\xe6\x80\x40\xe6\x80\x40\xf4", 7); /* out 0x80,al; inc ax; out 0x80,al; inc ax; hlt */
    real_mode_at(rig, 0x500);
    uint32_t mask = HLT | 1u << EXIT_IO;
    for (int i = 0; i < 2; i++) {
        VmExit left = run(rig, mask);
        CHECK_EQ(left.reason, EXIT_IO);
        CHECK_EQ(left.value, i ? 0x41 : 0);
        vcpu_get_state(rig->vcpu, &rig->state);
        CHECK_EQ(rig->state.rip, 0x502 + 3 * i);
        CHECK_EQ(rig->state.gpr[REG_RAX], i ? 0x41 : 0);
        rig->state.gpr[REG_RAX] = 0x40;
        vcpu_set_state(rig->vcpu, &rig->state);
    }
    VmExit left = run(rig, mask);
    CHECK_EQ(left.reason, EXIT_HLT);
    vcpu_get_state(rig->vcpu, &rig->state);
    CHECK_EQ(rig->state.gpr[REG_RAX], 0x41);
    CHECK_EQ(rig->state.rip, 0x507);
    rig_free(rig);
}

static void test_triple_fault(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    load(rig, 0x500, "\x0f\x0b", 2);
    rig->state.idtr.limit = 0;
    real_mode_at(rig, 0x500);
    VmExit left = run(rig, 0);
    CHECK_EQ(left.reason, EXIT_SHUTDOWN);
    rig_free(rig);
}

static void test_step_and_breakpoints(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    load(rig, 0x500, "\x40\x40\x40\x40\xf4", 5); /* inc ax x4; hlt */
    real_mode_at(rig, 0x500);
    VmExit left;
    for (int i = 1; i <= 2; i++) {
        CHECK_EQ(vcpu_step(rig->vcpu, &left), 0);
        CHECK_EQ(left.reason, EXIT_DEBUG);
        CHECK_EQ(left.rip, 0x500 + i);
    }
    vcpu_get_state(rig->vcpu, &rig->state);
    CHECK_EQ(rig->state.gpr[REG_RAX], 2);
    gva_t address = 0x503;
    CHECK_EQ(vcpu_set_breakpoints(rig->vcpu, &address, 1), 0);
    left = run(rig, HLT);
    CHECK_EQ(left.reason, EXIT_DEBUG);
    CHECK_EQ(left.rip, 0x503);
    left = run(rig, HLT);
    CHECK_EQ(left.reason, EXIT_HLT);
    vcpu_get_state(rig->vcpu, &rig->state);
    CHECK_EQ(rig->state.gpr[REG_RAX], 4);
    rig_free(rig);
}

static void *kick_later(void *opaque)
{
    struct timespec t = {.tv_nsec = 20000000};
    nanosleep(&t, NULL);
    vcpu_kick(opaque);
    return NULL;
}

static void test_kick_of_a_loop(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    load(rig, 0x500, "\xfa\xeb\xfe", 3); /* cli; jmp $ */
    real_mode_at(rig, 0x500);
    pthread_t thread;
    pthread_create(&thread, NULL, kick_later, rig->vcpu);
    VmExit left = run(rig, 0);
    CHECK_EQ(left.reason, EXIT_KICK);
    pthread_join(thread, NULL);
    vcpu_kick(rig->vcpu); /* before running: not lost */
    left = run(rig, 0);
    CHECK_EQ(left.reason, EXIT_KICK);
    rig_free(rig);
}

static void *keep_notifying(void *opaque)
{
    Rig *rig = opaque;
    while (!__atomic_load_n(&rig->finished, __ATOMIC_ACQUIRE)) {
        vcpu_notify(rig->vcpu);
        for (int i = 0; i < 200; i++)
            __builtin_ia32_pause();
    }
    return NULL;
}

/* Asked to stop at the start of each block, with a hook on every instruction and without: none is lost or run
 * twice. */
static void test_kicks_of_short_blocks(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    /* mov ecx,50000; 1: inc word [0x2600]; call 2f; 2: pop ax; inc word [0x2602]; dec ecx; jnz 1b; hlt */
    load(rig, 0x500, "\x66\xb9\x50\xc3\0\0\xff\x06\0\x26\xe8\0\0\x58\xff\x06\x02\x26\x66\x49\x75\xf0\xf4", 23);
    for (int surfaced = 0; surfaced < 2; surfaced++) {
        uint16_t counts[2] = {0};
        load(rig, 0x2600, counts, sizeof counts);
        rig->state.halted = 0;
        real_mode_at(rig, 0x500);
        pthread_t thread;
        rig->finished = 0;
        CHECK_EQ(pthread_create(&thread, NULL, keep_notifying, rig), 0);
        CHECK_EQ(run(rig, surfaced ? HLT | 1u << EXIT_IO : HLT).reason, EXIT_HLT);
        __atomic_store_n(&rig->finished, 1, __ATOMIC_RELEASE);
        pthread_join(thread, NULL);
        guest_memory_read(rig->board->memory, 0x2600, counts, sizeof counts);
        vcpu_get_state(rig->vcpu, &rig->state);
        CHECK_EQ(counts[0], 50000);
        CHECK_EQ(counts[1], 50000);
        CHECK_EQ(rig->state.gpr[REG_RSP], 0x7000);
    }
    rig_free(rig);
}

static void test_rom_ignores_writes(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    load(rig, 0xffff0000, "\x42", 1);
    /* ds base = rom; mov byte [0], 7; mov al,[0]; out 0x77,al; hlt */
    load(rig, 0x500, "\xc6\x06\x00\x00\x07\xa0\x00\x00\xe6\x77\xf4", 11);
    rig->state.segment[SEG_DS].base = 0xffff0000;
    real_mode_at(rig, 0x500);
    run(rig, HLT);
    CHECK_EQ(rig->out[0], 0x42);
    rig_free(rig);
}

static void test_virtual_clock(void)
{
    uint64_t first = 0;
    for (int round = 0; round < 2; round++) {
        Rig *rig = rig_new(CLOCK_KIND_VIRTUAL);
        /* mov cx,1000; loop $; rdtsc; hlt */
        load(rig, 0x500, "\xb9\xe8\x03\xe2\xfe\x66\x0f\x31\xf4", 9);
        real_mode_at(rig, 0x500);
        run(rig, HLT);
        vcpu_get_state(rig->vcpu, &rig->state);
        uint64_t tsc = (uint32_t)rig->state.gpr[REG_RAX];
        CHECK(tsc > 400);
        if (round)
            CHECK_EQ(tsc, first);
        first = tsc;
        rig_free(rig);
    }
}

/* What the library leaves out, one replaced function after the other (translator/library.h): 64-bit, at 0x2000. */
__asm__(".pushsection .rodata\n"
        ".code64\n"
        "long_code:\n"
        "long_ports: mov $0x100, %edx; in %dx, %ax; movzwl %ax, %r8d; in %dx, %eax; mov %eax, %r9d; hlt\n"
        "long_out16: mov $0x100, %edx; mov $0xffffbeef, %eax; out %ax, %dx; hlt\n"
        "long_out32: mov $0x100, %edx; mov $0xdeadbeef, %eax; out %eax, %dx; hlt\n"
        "long_registers: mov $0xc0000103, %ecx; mov $0x77, %eax; xor %edx, %edx; wrmsr\n"
        "  xor %eax, %eax; rdmsr; mov %eax, %r8d; rdtscp; mov %ecx, %r9d\n"
        "  mov $5, %eax; mov %rax, %cr8; mov %cr8, %r10; mov $0x40000000, %eax; cpuid; mov %ebx, %r11d; hlt\n"
        "long_sysenter: sysenter; hlt\n" /* these two are the same in 32-bit code */
        "long_entered: mov $0x1234, %edi; hlt\n"
        /* two functions in one page, the first rewritten, then the second, through another mapping */
        "long_two: mov $0x6000, %ebx; mov $0x6100, %ebp; call *%rbx; call *%rbp\n"
        "  movb $22, 0x206001; movb $33, 0x206101; call *%rbx; mov %eax, %r8d; call *%rbp; mov %eax, %r9d; hlt\n"
        "long_last: mov $0x8000, %ebx; call *%rbx; movb $22, 0x208001; hlt\n"
        "long_store: mov $100, %ecx\n"
        "1: mov %rcx, 0x9000; dec %ecx; jnz 1b; hlt\n"
        "long_end:\n"
        ".popsection\n");
extern const uint8_t long_code[], long_ports[], long_out16[], long_out32[], long_registers[], long_sysenter[],
    long_entered[], long_two[], long_last[], long_store[], long_end[];
enum { LONG_CODE = 0x2000, LONG_TABLES = 0x10000, R8 = 8, R9, R10, R11 };

/* Identity at 0; the same bytes again at 2 MiB without execute permission. */
static Rig *long_rig_new(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    const uint64_t top = LONG_TABLES + 0x1007, middle = LONG_TABLES + 0x2007, low[] = {0x87, 0x87 | 1ull << 63};
    load(rig, LONG_TABLES, &top, sizeof top);
    load(rig, LONG_TABLES + 0x1000, &middle, sizeof middle);
    load(rig, LONG_TABLES + 0x2000, low, sizeof low);
    load(rig, LONG_CODE, long_code, (size_t)(long_end - long_code));
    for (gpa_t at = 0x6000; at <= 0x8000; at += at == 0x6000 ? 0x100 : 0x1f00)
        load(rig, at, "\xb8\x0b\x00\x00\x00\xc3", 6); /* mov eax,11; ret */
    return rig;
}

/* Ring 0 of 64-bit mode, at `offset` of the program. */
static void long_state(Rig *rig, ptrdiff_t offset)
{
    CpuState *s = &rig->state;
    cpu_state_reset(s);
    s->cr0 = 0x80010031, s->cr3 = LONG_TABLES, s->cr4 = 0x220, s->efer = 0xd01;
    for (int i = 0; i < 6; i++)
        s->segment[i] = (Segment){.selector = 0x10, .attributes = 0xc093, .limit = 0xffffffff};
    s->segment[SEG_CS] = (Segment){.selector = 8, .attributes = 0xa09b, .limit = 0xffffffff};
    s->gpr[REG_RSP] = 0xa000;
    s->rip = LONG_CODE + (uint64_t)offset;
}

static const uint64_t *run_long(Rig *rig, const uint8_t *label)
{
    CpuState *s = &rig->state;
    long_state(rig, label - long_code);
    if (label == long_sysenter) { /* an AMD processor has none in 64-bit mode */
        s->cr0 = 0x11, s->efer = 0;
        s->segment[SEG_CS].attributes = 0xc09b;
        s->sysenter_cs = 8, s->sysenter_esp = 0xa000,
        s->sysenter_eip = LONG_CODE + (uint64_t)(long_entered - long_code);
    }
    vcpu_set_state(rig->vcpu, s);
    CHECK_EQ(run(rig, HLT).reason, EXIT_HLT);
    CHECK_EQ(vcpu_get_state(rig->vcpu, s), 0);
    return s->gpr;
}

static void test_replaced_instructions(void)
{
    Rig *rig = long_rig_new();
    const uint64_t *r = run_long(rig, long_ports);
    CHECK_EQ(r[R8], 0x7788);
    CHECK_EQ(r[R9], 0x55667788);
    run_long(rig, long_out16);
    CHECK_EQ(rig->last_value, 0xbeef);
    CHECK_EQ(rig->last_size, 2);
    run_long(rig, long_out32);
    CHECK_EQ(rig->last_value, 0xdeadbeef);
    CHECK_EQ(rig->last_size, 4);
    r = run_long(rig, long_registers);
    CHECK_EQ(r[R8], 0x77);
    CHECK_EQ(r[R9], 0x77);
    CHECK_EQ(r[R10], 5);
    CHECK_EQ(r[R11], load_le32((const uint8_t *)"pyvm"));
    CHECK_EQ(run_long(rig, long_sysenter)[REG_RDI], 0x1234);
    rig_free(rig);
}

static void test_code_pages(void)
{
    Rig *rig = long_rig_new();
    TranslatorVcpu *vcpu = container_of(rig->vcpu, TranslatorVcpu, base);
    const uint64_t *r = run_long(rig, long_two);
    CHECK_EQ(r[R8], 22);
    CHECK_EQ(r[R9], 33);
    if (!slow) {
        CHECK(vcpu->slots[0].has_code[0] >> 2 & 1);
        run_long(rig, long_last); /* the page's only block is gone */
        CHECK_EQ(vcpu->slots[0].has_code[0] >> 8 & 1, 0);
        vcpu->last_written_page = 1; /* no address of a page: a slow store would change it */
        run_long(rig, long_store);
        CHECK_EQ(vcpu->last_written_page, 1);
    }
    rig_free(rig);
}

/* Where jumps go (jump_targets.c). A page at 4 MiB is mapped to one function or another; each is called in turns,
 * so that what was right is not always right. Every program writes 8 results to 0xb000. */
__asm__(".pushsection .rodata\n"
        ".code64\n"
        "jump_code:\n"
        "jump_spaces: mov $0x400000, %ebx; mov $0xb000, %edi; mov $0x10000, %esi; mov $0x14000, %ebp\n"
        "1: mov %rsi, %cr3; call *%rbx; stosb; xchg %rsi, %rbp; cmp $0xb008, %edi; jne 1b; hlt\n"
        "jump_entry: mov $0x400000, %ebx; mov $0xb000, %edi; mov $0x5007, %esi; mov $0x6007, %ebp\n"
        "1: mov %rsi, 0x13000; invlpg (%rbx); call *%rbx; stosb; xchg %rsi, %rbp; cmp $0xb008, %edi; jne 1b; hlt\n"
        /* the function's second byte is the last of its page; the next page's entry is changed */
        "jump_across: mov $0x400ffe, %ebx; mov $0xb000, %edi; mov $0x9007, %esi; mov $0x8007, %ebp\n"
        "1: mov %rsi, 0x13008; invlpg 0x401000; call *%rbx; mov %ah, %al; stosb; xchg %rsi, %rbp\n"
        "  cmp $0xb008, %edi; jne 1b; hlt\n"
        "jump_not_executable: mov $0x400000, %ebx; mov $0xb000, %edi; call *%rbx; stosb\n"
        "  mov %cr3, %rax; mov %rax, %cr3; call *%rbx; stosb; movb $0x80, 0x13007; mov %cr3, %rax; mov %rax, %cr3\n"
        "  call *%rbx; stosb; hlt\n"
        "jump_rewrite: mov $0x6000, %ebx; mov $0xb000, %edi\n"
        "1: call *%rbx; call *%rbx; stosb; incb 0x6001; cmp $0xb008, %edi; jne 1b; hlt\n"
        "jump_call: lea jump_function(%rip), %rbx; mov $0xb000, %edi; call *%rbx; stosb; call *%rbx; stosb; hlt\n"
        "jump_function: mov $11, %eax; ret\n"
        /* the same function in 32-bit and in 16-bit code */
        ".code32\n"
        "jump_sizes: mov $0xb000, %edi; mov $0x7030, %ebx\n"
        "1: call *%ebx; mov %ah, %al; stosb; lcall $16, $0x7040; stosb; cmp $0xb008, %edi; jne 1b; hlt\n"
        ".code16\n"
        "jump_size: xor %ax, %ax; dec %ax; shr $8, %ax; ret\n"
        "jump_size16: call *%bx; mov %ah, %al; lretl\n"
        /* real mode: the same linear address in two segments; the function tells its offset */
        "jump_segments: mov $0xb000, %di; mov $4, %cx\n"
        "1: lcall $0, $0x7000; stosb; lcall $0x700, $0x20; stosb; loop 1b; hlt\n"
        "jump_offset0: mov $0x7010, %bx; jmp *%bx\n"
        "jump_offset1: mov $0x10, %bx; jmp *%bx\n"
        "jump_offset: call 1f\n"
        "1: pop %ax; mov %ah, %al; lret\n"
        "jump_end:\n"
        ".code64\n"
        ".popsection\n");
extern const uint8_t jump_code[], jump_spaces[], jump_entry[], jump_across[], jump_not_executable[], jump_rewrite[],
    jump_call[], jump_function[], jump_sizes[], jump_size[], jump_size16[], jump_segments[], jump_offset0[],
    jump_offset1[], jump_offset[], jump_end[];

/* Spaces at 0x10000 and 0x14000: identity at 0; at 4 MiB a page of 0x6000 or of 0x5000, then one of 0x8000. */
static Rig *jump_rig_new(void)
{
    Rig *rig = rig_new(CLOCK_KIND_REALTIME);
    for (gpa_t at = LONG_TABLES; at <= LONG_TABLES + 0x4000; at += 0x4000) {
        const uint64_t top = at + 0x1007, middle = at + 0x2007, low[] = {0x87, 0, at + 0x3007};
        const uint64_t pages[] = {at == LONG_TABLES ? 0x6007 : 0x5007, 0x8007};
        load(rig, at, &top, sizeof top);
        load(rig, at + 0x1000, &middle, sizeof middle);
        load(rig, at + 0x2000, low, sizeof low);
        load(rig, at + 0x3000, pages, sizeof pages);
    }
    const uint64_t gdt[] = {0, 0x00cf9b000000ffff, 0x008f9b000000ffff};
    load(rig, 0xc000, gdt, sizeof gdt);
    load(rig, LONG_CODE, jump_code, (size_t)(jump_end - jump_code));
    load(rig, 0x5000, "\xb8\x16\x00\x00\x00\xc3", 6); /* mov eax,22; ret */
    load(rig, 0x6000, "\xb8\x0b\x00\x00\x00\xc3", 6); /* mov eax,11; ret */
    load(rig, 0x6ffe, "\xb8\x0b", 2);                 /* mov eax,... */
    load(rig, 0x8000, "\x21\x00\x00\xc3", 4);         /* ...0x210b; ret */
    load(rig, 0x9000, "\x16\x00\x00\xc3", 4);         /* ...0x160b; ret */
    load(rig, 0x7000, jump_offset0, (size_t)(jump_offset1 - jump_offset0));
    load(rig, 0x7010, jump_offset, (size_t)(jump_end - jump_offset));
    load(rig, 0x7030, jump_size, (size_t)(jump_size16 - jump_size));
    load(rig, 0x7040, jump_size16, (size_t)(jump_segments - jump_size16));
    load(rig, 0x7020, jump_offset1, (size_t)(jump_offset - jump_offset1));
    return rig;
}

static VmExit run_jumps(Rig *rig, const uint8_t *label)
{
    long_state(rig, label - jump_code);
    if (label == jump_sizes) {
        rig->state.cr0 = 0x11, rig->state.efer = 0;
        rig->state.segment[SEG_CS].attributes = 0xc09b;
        rig->state.gdtr = (DescriptorTable){.base = 0xc000, .limit = 0x17};
    }
    vcpu_set_state(rig->vcpu, &rig->state);
    return run(rig, HLT | 1u << EXIT_SHUTDOWN);
}

static void check_jumps(const uint8_t *label, const char *expected, size_t count)
{
    Rig *rig = jump_rig_new();
    const uint8_t *results = guest_memory_ptr(rig->board->memory, 0xb000, 8, false);
    CHECK_EQ(run_jumps(rig, label).reason, count == 8 ? EXIT_HLT : EXIT_SHUTDOWN);
    for (size_t i = 0; i < 8; i++)
        CHECK_EQ(results[i], i < count ? (uint8_t)expected[i] : 0);
    rig_free(rig);
}

static void test_jump_targets(void)
{
    check_jumps(jump_spaces, "\x0b\x16\x0b\x16\x0b\x16\x0b\x16", 8);
    check_jumps(jump_entry, "\x16\x0b\x16\x0b\x16\x0b\x16\x0b", 8);
    check_jumps(jump_across, "\x16\x21\x16\x21\x16\x21\x16\x21", 8);
    check_jumps(jump_not_executable, "\x0b\x0b", 2);
    check_jumps(jump_rewrite, "\x0b\x0c\x0d\x0e\x0f\x10\x11\x12", 8);
    check_jumps(jump_sizes, "\xff\x00\xff\x00\xff\x00\xff\x00", 8);
}

static void test_jump_targets_of_segments(void)
{
    Rig *rig = jump_rig_new();
    const uint8_t *results = guest_memory_ptr(rig->board->memory, 0xb000, 8, false);
    real_mode_at(rig, LONG_CODE + (uint16_t)(jump_segments - jump_code));
    CHECK_EQ(run(rig, HLT).reason, EXIT_HLT);
    for (size_t i = 0; i < 8; i++)
        CHECK_EQ(results[i], i % 2 ? 0 : 0x70);
    rig_free(rig);
}

/* All blocks are dropped: code that was changed without a word is made anew. */
static void test_jump_targets_of_dropped_blocks(void)
{
    Rig *rig = jump_rig_new();
    TranslatorVcpu *vcpu = container_of(rig->vcpu, TranslatorVcpu, base);
    uint8_t *memory = guest_memory_ptr(rig->board->memory, 0, 0x10000, true);
    CHECK_EQ(run_jumps(rig, jump_call).reason, EXIT_HLT);
    CHECK_EQ(memory[0xb001], 11);
    memory[LONG_CODE + (jump_function - jump_code) + 1] = 33;
    TranslatorVcpu *before = translator_enter(vcpu);
    tb_flush_x86_64(vcpu->cpu);
    translator_enter(before);
    CHECK_EQ(run_jumps(rig, jump_call).reason, EXIT_HLT);
    CHECK_EQ(memory[0xb000], 33);
    rig_free(rig);
}

int main(void)
{
    for (int tier = 0; tier < 2; tier++) {
        slow = tier;
        RUN(test_self_test);
        RUN(test_reset_vector);
        RUN(test_real_mode_interrupts);
        RUN(test_mmio_and_surface);
        RUN(test_device_ram);
        RUN(test_surfaced_exit_is_exact);
        RUN(test_triple_fault);
        RUN(test_kick_of_a_loop);
        RUN(test_kicks_of_short_blocks);
        RUN(test_rom_ignores_writes);
        RUN(test_virtual_clock);
        RUN(test_replaced_instructions);
        RUN(test_code_pages);
        RUN(test_jump_targets);
        RUN(test_jump_targets_of_segments);
        RUN(test_jump_targets_of_dropped_blocks);
        RUN(test_step_and_breakpoints);
    }
    return 0;
}
