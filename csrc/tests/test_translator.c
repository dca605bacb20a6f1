/* The translator on bare boards: tiny guest programs in each mode. In both tiers. */
#include "tests/check.h"
#include "translator/translator.h"

static bool slow;

typedef struct Rig {
    Board *board;
    EngineVm *vm;
    Vcpu *vcpu;
    CpuState state;
    uint8_t out[64];
    size_t out_count;
} Rig;

static void sink_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Rig *rig = device;
    if (rig->out_count < sizeof rig->out)
        rig->out[rig->out_count++] = (uint8_t)value;
}

static uint64_t sink_read(void *device, uint32_t region, uint64_t offset, uint32_t size) { return 0x1122334455667788; }

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

int main(void)
{
    for (int tier = 0; tier < 2; tier++) {
        slow = tier;
        RUN(test_self_test);
        RUN(test_reset_vector);
        RUN(test_real_mode_interrupts);
        RUN(test_mmio_and_surface);
        RUN(test_triple_fault);
        RUN(test_kick_of_a_loop);
        RUN(test_rom_ignores_writes);
        RUN(test_virtual_clock);
        RUN(test_step_and_breakpoints);
    }
    return 0;
}
