/* The KVM engine on bare boards: tiny guest programs in real mode, kicks, interrupts, state. Skips without
 * /dev/kvm. */
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "irq/i8259.h"
#include "kvm/kvm.h"
#include "tests/check.h"
#include "tests/device_ram_check.h"

enum { SKIPPED = 77 };

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

static uint64_t sink_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    return 0x1122334455667788;
}

static const DeviceOps SINK = {.read = sink_read, .write = sink_write};

static Rig *rig_new(const void *code, size_t size)
{
    Error error = {0};
    Rig *rig = calloc(1, sizeof *rig);
    CHECK(rig);
    rig->board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(rig->board);
    CHECK_EQ(guest_memory_add(rig->board->memory, 0, 1 << 20, 0, &error), 0);
    CHECK_EQ(guest_memory_add(rig->board->memory, 0xffff0000, 1 << 16, MEMSLOT_READ_ONLY, &error), 0);
    CHECK_EQ(bus_add(rig->board->pio, 0x77, 4, &SINK, rig, 0, NULL, "sink", &error), 0);
    CHECK_EQ(bus_add(rig->board->mmio, 0x100000, 0x1000, &SINK, rig, 0, NULL, "sink", &error), 0);
    rig->vm = kvm_vm_new(rig->board, "/dev/kvm", NULL, &error);
    rig->vcpu = rig->vm ? vcpu_new(rig->vm, 0, &error) : NULL;
    if (!rig->vcpu)
        fprintf(stderr, "%s\n", error.text);
    CHECK(rig->vcpu);
    CHECK_EQ(guest_memory_load(rig->board->memory, 0x1000, code, size), 0);
    cpu_state_reset(&rig->state);
    for (int i = 0; i < 6; i++)
        rig->state.segment[i].selector = 0, rig->state.segment[i].base = 0;
    rig->state.rip = 0x1000;
    rig->state.gpr[REG_RSP] = 0x8000;
    rig->state.idtr.limit = 0x3ff;
    CHECK_EQ(vcpu_set_state(rig->vcpu, &rig->state), 0);
    return rig;
}

static void rig_free(Rig *rig)
{
    engine_vm_free(rig->vm);
    board_free(rig->board);
    free(rig);
}

static void run(Rig *rig, uint32_t surface, VmExit *left, enum ExitReason reason)
{
    CHECK_EQ(vcpu_run(rig->vcpu, surface, left), 0);
    if (left->reason != reason)
        fprintf(stderr, "exit reason %u: %s\n", left->reason, left->text);
    CHECK_EQ(left->reason, reason);
}

static void set_protected_mode(Rig *rig)
{
    rig->state.cr0 |= 1;
    for (int i = 0; i < 6; i++)
        rig->state.segment[i] = (Segment){
            .selector = i == SEG_CS ? 8 : 16, .limit = 0xffffffff, .attributes = i == SEG_CS ? 0xc09b : 0xc093};
    CHECK_EQ(vcpu_set_state(rig->vcpu, &rig->state), 0);
}

static void test_ports(void)
{
    /* mov al,'A'; out 0x77,al; in ax,0x78; mov si,msg; mov dx,0x77; mov cx,3; rep outsb; cli; hlt; msg: "xyz" */
    static const uint8_t CODE[] = "\xb0\x41\xe6\x77\xe5\x78\xbe\x13\x10\xba\x77\x00\xb9\x03\x00\xf3\x6e\xfa\xf4xyz";
    Rig *rig = rig_new(CODE, sizeof CODE);
    VmExit left;
    run(rig, 0, &left, EXIT_HLT);
    CHECK_EQ(rig->out_count, 4);
    CHECK(memcmp(rig->out, "Axyz", 4) == 0);
    CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
    CHECK_EQ(rig->state.gpr[REG_RAX] & 0xffff, 0x7788);
    CHECK_EQ(rig->state.gpr[REG_RCX] & 0xffff, 0);
    CHECK_EQ(rig->state.rip, 0x1013);
    CHECK_EQ(left.rip, 0x1013);
    ExitCounters counters;
    vcpu_counters(rig->vcpu, &counters);
    CHECK_EQ(counters.exits[EXIT_IO], 5);
    rig_free(rig);
}

static void test_surfaced_ports(void)
{
    static const uint8_t CODE[] = "\xe5\x78\xbe\x0f\x10\xba\x77\x00\xb9\x02\x00\xf3\x6e\xfa\xf4pq";
    Rig *rig = rig_new(CODE, sizeof CODE);
    VmExit left;
    run(rig, 1 << EXIT_IO, &left, EXIT_IO);
    CHECK(!left.is_write && left.handled && left.address == 0x78 && left.size == 2 && left.value == 0x7788);
    /* Reading the state in the middle completes the access, and changes nothing. */
    CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
    CHECK_EQ(rig->state.gpr[REG_RAX] & 0xffff, 0x7788);
    CHECK_EQ(rig->state.rip, 0x1002);
    run(rig, 1 << EXIT_IO, &left, EXIT_IO);
    CHECK(left.is_write && left.address == 0x77 && left.size == 1 && left.value == 'p');
    run(rig, 1 << EXIT_IO, &left, EXIT_IO);
    CHECK_EQ(left.value, 'q');
    run(rig, 1 << EXIT_IO, &left, EXIT_HLT);
    CHECK_EQ(rig->out_count, 2);
    rig_free(rig);
}

static void test_mmio(void)
{
    /* mov ax,0xffff; mov ds,ax; mov ax,[0x10] (0x100000); mov [0x18],al; cli; hlt */
    static const uint8_t CODE[] = "\xb8\xff\xff\x8e\xd8\xa1\x10\x00\xa2\x18\x00\xfa\xf4";
    Rig *rig = rig_new(CODE, sizeof CODE);
    VmExit left;
    run(rig, 1 << EXIT_MMIO, &left, EXIT_MMIO);
    CHECK(!left.is_write && left.address == 0x100000 && left.size == 2 && left.value == 0x7788);
    run(rig, 0, &left, EXIT_HLT);
    CHECK_EQ(rig->out_count, 1);
    CHECK_EQ(rig->out[0], 0x88);
    rig_free(rig);
}

static void test_device_ram(void)
{
    Rig *rig = rig_new("", 1);
    CpuState state = rig->state;
    check_device_ram(rig->board, rig->vcpu, &rig->state, true);
    check_device_ram_from_outside(rig->board, rig->vcpu, &state);
    rig_free(rig);
}

static void test_rom(void)
{
    /* In 32-bit protected mode: mov byte [0xffff0000],0x55; mov al,[0xffff0000]; out 0x77,al; cli; hlt */
    static const uint8_t CODE[] = "\xc6\x05\x00\x00\xff\xff\x55\xa0\x00\x00\xff\xff\xe6\x77\xfa\xf4", ROM = 0x99;
    Rig *rig = rig_new(CODE, sizeof CODE);
    guest_memory_load(rig->board->memory, 0xffff0000, &ROM, 1);
    set_protected_mode(rig);
    VmExit left;
    run(rig, 1 << EXIT_MMIO, &left, EXIT_HLT);
    CHECK_EQ(rig->out[0], 0x99);
    rig_free(rig);
}

static void *kick_later(void *opaque)
{
    usleep(20000);
    vcpu_kick(opaque);
    return NULL;
}

static void test_kick(void)
{
    static const uint8_t CODE[] = "\xfa\xeb\xfe"; /* cli; jmp $: interrupts off */
    Rig *rig = rig_new(CODE, sizeof CODE);
    VmExit left;
    pthread_t thread;
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(pthread_create(&thread, NULL, kick_later, rig->vcpu), 0);
        run(rig, 0, &left, EXIT_KICK);
        pthread_join(thread, NULL);
    }
    vcpu_kick(rig->vcpu); /* not lost when given before */
    run(rig, 0, &left, EXIT_KICK);
    rig_free(rig);
}

typedef struct Kicks {
    Vcpu *vcpu;
    uint32_t wanted, seen; /* atomic */
} Kicks;

/* As fast as the vCPU answers: each kick must be seen before the next one is given. */
static void *kick_often(void *opaque)
{
    Kicks *kicks = opaque;
    for (uint32_t i = 1; i <= kicks->wanted; i++) {
        vcpu_kick(kicks->vcpu);
        while (__atomic_load_n(&kicks->seen, __ATOMIC_ACQUIRE) < i)
            sched_yield();
    }
    return NULL;
}

static void test_no_kick_is_lost(void)
{
    static const uint8_t CODE[] = "\xfa\xe6\x77\xeb\xfc"; /* cli; l: out 0x77,al; jmp l */
    Rig *rig = rig_new(CODE, sizeof CODE);
    Kicks kicks = {.vcpu = rig->vcpu, .wanted = 2000};
    VmExit left;
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, kick_often, &kicks), 0);
    for (uint32_t i = 1; i <= kicks.wanted; i++) {
        run(rig, 0, &left, EXIT_KICK);
        __atomic_store_n(&kicks.seen, i, __ATOMIC_RELEASE);
    }
    pthread_join(thread, NULL);
    rig_free(rig);
}

static void write_port(Rig *rig, uint16_t port, uint8_t value) { bus_write(rig->board->pio, port, 1, value); }

static void *pull_line(void *opaque)
{
    usleep(10000);
    irq_line_set(opaque, true);
    return NULL;
}

static void test_interrupt(void)
{
    /* sti; l: hlt; jmp l.  At 0x1100: out 0x77,al; mov al,0x20; out 0x20,al; cli; hlt */
    uint8_t code[0x110] = "\xfb\xf4\xeb\xfd";
    memcpy(code + 0x100, "\xe6\x77\xb0\x20\xe6\x20\xfa\xf4", 8);
    Rig *rig = rig_new(code, sizeof code);
    Error error = {0};
    Device *pic = i8259_new(rig->board, rig->board->irqs);
    CHECK(pic);
    CHECK_EQ(device_map(pic, rig->board->pio, 0x20, 2, 0, &error), 0);
    write_port(rig, 0x20, 0x11), write_port(rig, 0x21, 0x08), write_port(rig, 0x21, 4), write_port(rig, 0x21, 1);
    write_port(rig, 0x21, 0xfe);
    uint16_t vector[2] = {0x1100, 0};
    guest_memory_load(rig->board->memory, 4 * 8, vector, sizeof vector);
    IrqLine *line = irq_line_new(rig->board->irqs, 0);
    pthread_t thread;
    VmExit left;
    CHECK_EQ(pthread_create(&thread, NULL, pull_line, line), 0);
    run(rig, 1 << EXIT_INTERRUPT, &left, EXIT_INTERRUPT);
    CHECK_EQ(left.vector, 8);
    /* Acknowledged and not yet delivered: it must survive a look at the state. */
    CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
    CHECK_EQ(rig->state.pending_exception, 0x108);
    CHECK_EQ(vcpu_set_state(rig->vcpu, &rig->state), 0);
    run(rig, 0, &left, EXIT_HLT);
    CHECK_EQ(rig->out_count, 1);
    pthread_join(thread, NULL);
    device_free(pic);
    rig_free(rig);
}

static void test_nmi(void)
{
    /* l: inc bx; jmp l.  At 0x1100: out 0x77,al; hlt (the handler never returns: NMIs stay blocked) */
    uint8_t code[0x110] = "\x43\xeb\xfd";
    memcpy(code + 0x100, "\xe6\x77\xf4\xf4", 4);
    Rig *rig = rig_new(code, sizeof code);
    uint16_t vector[2] = {0x1100, 0};
    guest_memory_load(rig->board->memory, 4 * 2, vector, sizeof vector);
    VmExit left;
    board_nmi(rig->board);
    run(rig, 0, &left, EXIT_HLT);
    CHECK_EQ(rig->out_count, 1);
    CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
    CHECK(rig->state.nmi_blocked && rig->state.halted);
    rig->state.halted = 0;
    rig->state.rip = 0x1102;
    CHECK_EQ(vcpu_set_state(rig->vcpu, &rig->state), 0);
    board_nmi(rig->board);
    run(rig, 0, &left, EXIT_HLT); /* still blocked: the first HLT ends the run */
    CHECK_EQ(left.rip, 0x1103);
    CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
    CHECK_EQ(rig->board->nmi_pending, 1);
    rig->state.nmi_blocked = 0;
    rig->state.halted = 0;
    CHECK_EQ(vcpu_set_state(rig->vcpu, &rig->state), 0);
    run(rig, 0, &left, EXIT_HLT);
    CHECK_EQ(rig->out_count, 2);
    rig_free(rig);
}

/* A device that looks at the registers while it answers must not disturb the access. */
static uint64_t look_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    Rig *rig = device;
    CpuState state;
    CHECK_EQ(vcpu_get_state(rig->vcpu, &state), 0);
    CHECK_EQ(state.rip, 0x1000);
    CHECK_EQ(vcpu_set_state(rig->vcpu, &state), -EBUSY);
    return 0x5a;
}

static void test_looking_device(void)
{
    static const uint8_t CODE[] = "\xe4\x90\xfa\xf4"; /* in al,0x90; cli; hlt */
    static const DeviceOps LOOK = {.read = look_read};
    Rig *rig = rig_new(CODE, sizeof CODE);
    VmExit left;
    CHECK_EQ(bus_add(rig->board->pio, 0x90, 1, &LOOK, rig, 0, NULL, "look", NULL), 0);
    run(rig, 0, &left, EXIT_HLT);
    CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
    CHECK_EQ(rig->state.gpr[REG_RAX] & 0xff, 0x5a);
    rig_free(rig);
}

static void test_a20(void)
{
    /* mov ax,0xffff; mov ds,ax; mov al,[0x510] (0x100500); out 0x77,al; cli; hlt */
    static const uint8_t CODE[] = "\xb8\xff\xff\x8e\xd8\xa0\x10\x05\xe6\x77\xfa\xf4", LOW = 0x11;
    for (int on = 0; on < 2; on++) {
        Rig *rig = rig_new(CODE, sizeof CODE);
        VmExit left;
        guest_memory_load(rig->board->memory, 0x500, &LOW, 1);
        board_set_a20(rig->board, A20_I8042, on);
        run(rig, 0, &left, EXIT_HLT);
        CHECK_EQ(rig->out[0], on ? 0x88 : 0x11); /* with A20: the device at 1 MiB */
        rig_free(rig);
    }
}

static void test_state(void)
{
    static const uint8_t CODE[] = "\xfa\xf4";
    Rig *rig = rig_new(CODE, sizeof CODE);
    CpuState *state = &rig->state, after;
    for (int i = 0; i < 16; i++)
        state->gpr[i] = 0x1111111111111111ull * (unsigned)i;
    for (int i = 0; i < 64; i++)
        state->xsave[160 + i] = (uint8_t)(i + 1);
    state->cr2 = 0xabc000;
    state->dr[0] = 0x1234;
    state->lstar = 0xffffffff80001000ull;
    state->star = 0x0013000800000000ull;
    state->kernel_gs_base = 0x1000;
    state->sysenter_eip = 0x2000;
    state->segment[SEG_FS].base = 0x12340;
    state->segment[SEG_FS].selector = 0x1234;
    CHECK_EQ(vcpu_set_state(rig->vcpu, state), 0);
    CHECK_EQ(vcpu_get_state(rig->vcpu, &after), 0);
    CHECK(memcmp(after.gpr, state->gpr, sizeof after.gpr) == 0);
    CHECK_EQ(after.rip, state->rip);
    CHECK_EQ(after.rflags, state->rflags);
    CHECK_EQ(after.cr2, state->cr2);
    CHECK_EQ(after.dr[0], state->dr[0]);
    CHECK_EQ(after.lstar, state->lstar);
    CHECK_EQ(after.star, state->star);
    CHECK_EQ(after.kernel_gs_base, state->kernel_gs_base);
    CHECK_EQ(after.sysenter_eip, state->sysenter_eip);
    CHECK_EQ(after.segment[SEG_FS].base, state->segment[SEG_FS].base);
    CHECK_EQ(after.segment[SEG_FS].selector, state->segment[SEG_FS].selector);
    CHECK_EQ(after.segment[SEG_CS].attributes, state->segment[SEG_CS].attributes);
    CHECK(memcmp(after.xsave + 160, state->xsave + 160, 256) == 0);
    CHECK_EQ(load_le32(after.xsave + 24), 0x1f80);
    CHECK_EQ(after.apic_base & 0x800, 0);
    rig_free(rig);
}

static void test_tsc(void)
{
    static const uint8_t CODE[] = "\xfa\xf4";
    Rig *rig = rig_new(CODE, sizeof CODE);
    CpuState *state = &rig->state, after;
    uint64_t before, second = rig->board->tsc_hz;
    VmExit left;
    run(rig, 0, &left, EXIT_HLT); /* time stands still until a vCPU runs */
    CHECK_EQ(vcpu_get_state(rig->vcpu, state), 0);
    before = state->tsc;
    usleep(1000);
    CHECK_EQ(vcpu_set_state(rig->vcpu, state), 0); /* unchanged: it runs on */
    CHECK_EQ(vcpu_get_state(rig->vcpu, &after), 0);
    CHECK(after.tsc - before >= second / 1000);
    state->tsc = before + 3600 * second;
    CHECK_EQ(vcpu_set_state(rig->vcpu, state), 0);
    CHECK_EQ(vcpu_get_state(rig->vcpu, &after), 0);
    if (after.tsc - before < 1000 * second)
        printf("   (this KVM does not let the TSC be set)\n");
    else
        CHECK(after.tsc >= state->tsc && after.tsc - state->tsc < 1000 * second);
    rig_free(rig);
}

static void test_step(void)
{
    static const uint8_t CODE[] =
        "\x40\x40\xe6\x77\x40\xfa\xf4"; /* inc ax; inc ax; out 0x77,al; inc ax; cli; hlt */
    Rig *rig = rig_new(CODE, sizeof CODE);
    static const uint64_t AFTER[] = {0x1001, 0x1002, 0x1004, 0x1005, 0x1006};
    VmExit left;
    for (size_t i = 0; i < ARRAY_SIZE(AFTER); i++) {
        CHECK_EQ(vcpu_step(rig->vcpu, &left), 0);
        CHECK_EQ(left.reason, EXIT_DEBUG);
        CHECK_EQ(left.rip, AFTER[i]);
    }
    CHECK_EQ(rig->out_count, 1);
    CHECK_EQ(vcpu_step(rig->vcpu, &left), 0);
    CHECK_EQ(left.reason, EXIT_HLT);
    CHECK_EQ(left.value >> 9 & 1, 0);
    rig_free(rig);
}

static void test_breakpoint(void)
{
    static const uint8_t CODE[] = "\x40\x40\x40\xeb\xfb"; /* l: inc ax; inc ax; inc ax; jmp l */
    Rig *rig = rig_new(CODE, sizeof CODE);
    gva_t address = 0x1001;
    VmExit left;
    CHECK_EQ(vcpu_set_breakpoints(rig->vcpu, &address, 1), 0);
    for (uint64_t i = 0; i < 3; i++) {
        run(rig, 0, &left, EXIT_DEBUG);
        CHECK_EQ(left.rip, 0x1001);
        CHECK_EQ(vcpu_get_state(rig->vcpu, &rig->state), 0);
        CHECK_EQ(rig->state.gpr[REG_RAX] & 0xffff, 1 + 3 * i);
    }
    gva_t many[5] = {1, 2, 3, 4, 5};
    CHECK_EQ(vcpu_set_breakpoints(rig->vcpu, many, 5), -ENOSPC);
    CHECK_EQ(vcpu_set_breakpoints(rig->vcpu, NULL, 0), 0);
    rig_free(rig);
}

static void test_triple_fault(void)
{
    /* ud2 with no IDT; in 32-bit protected mode, because emulated real mode does not look at the IDT's limit. */
    static const uint8_t CODE[] = "\x0f\x0b";
    Rig *rig = rig_new(CODE, sizeof CODE);
    KvmFailure failure;
    VmExit left;
    CHECK(!kvm_vcpu_failure(rig->vcpu, &failure));
    rig->state.idtr.limit = 0;
    set_protected_mode(rig);
    run(rig, 0, &left, EXIT_SHUTDOWN);
    CHECK(kvm_vcpu_failure(rig->vcpu, &failure));
    CHECK_EQ(failure.exit_reason, 8);
    rig_free(rig);
}

static void test_errors(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(!kvm_vm_new(board, "/nonexistent/kvm", NULL, &error));
    CHECK_EQ(error.code, ENOENT);
    CHECK(strstr(error.text, "modprobe"));
    CHECK(!kvm_vm_new(board, "/dev/null", NULL, &error));
    CHECK(strstr(error.text, "not the KVM device"));
    EngineVm *vm = kvm_vm_new(board, "/dev/kvm", NULL, &error);
    CHECK(vm);
    CHECK(!vcpu_new(vm, 1, &error));
    CHECK(strstr(error.text, "--cpus"));
    engine_vm_free(vm);
    board_free(board);
    board = board_new(CLOCK_KIND_VIRTUAL, &error);
    CHECK(!kvm_vm_new(board, "/dev/kvm", NULL, &error));
    CHECK(strstr(error.text, "translator"));
    board_free(board);
}

static uint64_t signals(int fd)
{
    uint64_t count = 0;
    return read(fd, &count, sizeof count) == sizeof count ? count : 0;
}

static uint32_t active_ioeventfds(const Rig *rig)
{
    IoEventFdCounts counts;
    ioeventfds_counts(rig->board->ioeventfds, &counts);
    return counts.active;
}

/* A write that is only a notification is no exit; another value is one, and so is every write while exits are seen.
 */
static void test_ioeventfd(void)
{
    /* mov al,1; out 0x77,al; mov al,2; out 0x77,al; mov bx,0xffff; mov ds,bx; mov [0x10],al (0x100000); cli; hlt */
    static const uint8_t CODE[] = "\xb0\x01\xe6\x77\xb0\x02\xe6\x77\xbb\xff\xff\x8e\xdb\xa2\x10\x00\xfa\xf4";
    Rig *rig = rig_new(CODE, sizeof CODE);
    Error error = {0};
    VmExit left;
    ExitCounters counters;
    CpuState start = rig->state;
    int port = eventfd(0, EFD_NONBLOCK), address = eventfd(0, EFD_NONBLOCK);
    IoEventFd a = {.space = BUS_PIO, .address = 0x77, .size = 1, .match = true, .value = 1, .fd = port};
    IoEventFd b = {.space = BUS_MMIO, .address = 0x100000, .fd = address};
    CHECK_EQ(ioeventfd_add(rig->board->ioeventfds, &a), 0);
    CHECK_EQ(ioeventfd_add(rig->board->ioeventfds, &b), 0);
    CHECK_EQ(active_ioeventfds(rig), 0); /* no I/O thread runs */
    CHECK_EQ(board_start_io(rig->board, &error), 0);
    CHECK_EQ(active_ioeventfds(rig), 2);
    run(rig, 0, &left, EXIT_HLT);
    CHECK(signals(port) == 1 && signals(address) == 1);
    CHECK(rig->out_count == 1 && rig->out[0] == 2);
    vcpu_counters(rig->vcpu, &counters);
    CHECK(counters.exits[EXIT_IO] == 1 && counters.exits[EXIT_MMIO] == 0);

    CHECK_EQ(vcpu_set_state(rig->vcpu, &start), 0);
    run(rig, 1 << EXIT_IO, &left, EXIT_IO);
    CHECK(left.address == 0x77 && left.value == 1 && rig->out_count == 2);
    run(rig, 0, &left, EXIT_HLT); /* nobody looks any more */
    CHECK(signals(port) == 0 && signals(address) == 1);

    CHECK_EQ(engine_vm_detach(rig->vm, &error), 0);
    CHECK_EQ(active_ioeventfds(rig), 0);
    CHECK_EQ(engine_vm_attach(rig->vm, &error), 0);
    CHECK_EQ(active_ioeventfds(rig), 2);
    CHECK_EQ(ioeventfd_remove(rig->board->ioeventfds, &a), 0);
    CHECK_EQ(vcpu_set_state(rig->vcpu, &start), 0);
    run(rig, 0, &left, EXIT_HLT);
    CHECK(signals(port) == 0 && signals(address) == 1 && rig->out_count == 5);
    close(port);
    close(address);
    rig_free(rig); /* the list may be freed with entries in it */
}

int main(void)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        printf("skipped: /dev/kvm: %s\n", strerror(errno));
        return SKIPPED;
    }
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    EngineVm *vm = board ? kvm_vm_new(board, "/dev/kvm", NULL, &error) : NULL;
    engine_vm_free(vm);
    board_free(board);
    if (!vm) {
        printf("skipped: %s\n", error.text);
        return SKIPPED;
    }
    RUN(test_errors);
    RUN(test_ports);
    RUN(test_surfaced_ports);
    RUN(test_mmio);
    RUN(test_device_ram);
    RUN(test_rom);
    RUN(test_kick);
    RUN(test_no_kick_is_lost);
    RUN(test_interrupt);
    RUN(test_nmi);
    RUN(test_looking_device);
    RUN(test_a20);
    RUN(test_state);
    RUN(test_tsc);
    RUN(test_step);
    RUN(test_breakpoint);
    RUN(test_triple_fault);
    RUN(test_ioeventfd);
    return 0;
}
