/* Several vCPUs and the irqchip in the kernel, whole or split: startup, whose request is whose, the 8259s' state
 * both ways, stopped time, reset, and what CPUID says of the topology. Skips without /dev/kvm. */
#include <pthread.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "irq/i8259.h"
#include "irq/ioapic.h"
#include "irq/lapic.h"
#include "kvm/kvm.h"
#include "tests/check.h"

enum { SKIPPED = 77, VCPUS = 3, CODE = 0x1000, AP_CODE = 0x2000, REQUEST_PORT = 0x70, ALIVE_PORT = 0x74 };

typedef struct Rig {
    Board *board;
    EngineVm *vm;
    Vcpu *vcpus[VCPUS];
    uint32_t alive; /* atomic: writes to ALIVE_PORT */
} Rig;

static void port_write(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    Rig *rig = device;
    if (offset == 0)
        board_request(rig->board, SYSTEM_FIRMWARE, (uint32_t)value);
    else
        __atomic_fetch_add(&rig->alive, 1, __ATOMIC_SEQ_CST);
}

static const DeviceOps PORTS = {.write = port_write};

/* Which of the two the test runs on now. */
static enum IrqchipPlace place;

static Rig *rig_new(CpuTopology topology)
{
    Error error = {0};
    Rig *rig = calloc(1, sizeof *rig);
    CHECK(rig);
    rig->board = board_new(CLOCK_KIND_REALTIME, &error);
    CHECK(rig->board);
    CHECK_EQ(guest_memory_add(rig->board->memory, 0, 1 << 20, 0, &error), 0);
    CHECK_EQ(bus_add(rig->board->pio, REQUEST_PORT, 8, &PORTS, rig, 0, NULL, "ports", &error), 0);
    KvmOptions options = {.irqchip = place, .topology = topology};
    rig->vm = kvm_vm_new(rig->board, "/dev/kvm", &options, &error);
    if (!rig->vm)
        fprintf(stderr, "%s\n", error.text);
    CHECK(rig->vm);
    for (uint32_t i = 0; i < VCPUS && i < cpu_topology_count(&topology); i++)
        CHECK(rig->vcpus[i] = vcpu_new(rig->vm, i, &error));
    return rig;
}

static void rig_free(Rig *rig)
{
    engine_vm_free(rig->vm);
    board_free(rig->board);
    free(rig);
}

/* The first vCPU in flat 32-bit mode at CODE, where `program` is; EBX is the local APIC's page. */
static void load(Rig *rig, const void *program, size_t size, const void *ap, size_t ap_size)
{
    CpuState state;
    guest_memory_load(rig->board->memory, CODE, program, size);
    guest_memory_load(rig->board->memory, AP_CODE, ap, ap_size);
    cpu_state_reset(&state);
    state.cr0 |= 1;
    state.rip = CODE;
    state.gpr[REG_RBX] = 0xfee00000;
    for (int i = 0; i < 6; i++)
        state.segment[i] = (Segment){
            .selector = i == SEG_CS ? 8 : 16, .limit = 0xffffffff, .attributes = i == SEG_CS ? 0xc09b : 0xc093};
    CHECK_EQ(vcpu_set_state(rig->vcpus[0], &state), 0);
}

/* mov dword [ebx+0xf0],0x1ff; mov dword [ebx+0x300],0xc4500 (INIT), 0xc4602 (startup at 0x2000), the same again */
#define START_APS                                                                                                  \
    "\xc7\x83\xf0\x00\x00\x00\xff\x01\x00\x00\xc7\x83\x00\x03\x00\x00\x00\x45\x0c\x00"                             \
    "\xc7\x83\x00\x03\x00\x00\x02\x46\x0c\x00\xc7\x83\x00\x03\x00\x00\x02\x46\x0c\x00"

typedef struct Run {
    Rig *rig;
    Vcpu *vcpu;
    VmExit exit;
    uint32_t requests; /* how many BIOS calls it came back with */
    int result;
} Run;

static void *run_main(void *opaque)
{
    Run *run = opaque;
    vcpu_name_thread(run->vcpu);
    do
        run->result = vcpu_run(run->vcpu, 0, &run->exit);
    while (run->result == 0 && run->exit.reason == EXIT_SYSTEM && run->exit.request == SYSTEM_FIRMWARE &&
           run->exit.code == ((run->vcpu->index << 8 | run->requests) & 0xffff) && ++run->requests < 200);
    return NULL;
}

static void start(Rig *rig, Run *runs, pthread_t *threads)
{
    for (uint32_t i = 0; i < VCPUS; i++) {
        runs[i] = (Run){.rig = rig, .vcpu = rig->vcpus[i]};
        CHECK_EQ(pthread_create(&threads[i], NULL, run_main, &runs[i]), 0);
    }
}

static void join(Run *runs, pthread_t *threads, enum ExitReason reason)
{
    for (uint32_t i = 0; i < VCPUS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(runs[i].result, 0);
        if (runs[i].exit.reason != reason)
            fprintf(stderr, "vCPU %u: exit reason %u: %s\n", i, runs[i].exit.reason, runs[i].exit.text);
        CHECK_EQ(runs[i].exit.reason, reason);
    }
}

static void wait_alive(Rig *rig, uint32_t count)
{
    while (__atomic_load_n(&rig->alive, __ATOMIC_SEQ_CST) < count)
        usleep(100);
}

static void test_start_and_call_in(void)
{
    static const uint8_t PROGRAM[] = START_APS "\xe6\x74\xf4\xeb\xfd"; /* out 0x74,al; l: hlt; jmp l */
    static const uint8_t AP[] = "\xe6\x74\xf4\xeb\xfd";
    Rig *rig = rig_new((CpuTopology){1, VCPUS, 1});
    Run runs[VCPUS];
    pthread_t threads[VCPUS];
    CpuState state;
    for (uint32_t i = 1; i < VCPUS; i++) {
        CHECK_EQ(vcpu_get_state(rig->vcpus[i], &state), 0);
        CHECK(state.wait_for_sipi && !(state.apic_base & 0x100));
    }
    start(rig, runs, threads); /* nobody has sent INIT yet: from F000:FFF0 there is no memory to run */
    usleep(10000);
    engine_vm_call_in(rig->vm);
    for (uint32_t i = 0; i < VCPUS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(runs[1].exit.reason, EXIT_KICK);
    CHECK_EQ(runs[2].exit.reason, EXIT_KICK);
    load(rig, PROGRAM, sizeof PROGRAM, AP, sizeof AP);
    VmExit left;
    CHECK_EQ(vcpu_run(rig->vcpus[0], 0, &left), 0); /* still called in */
    CHECK_EQ(left.reason, EXIT_KICK);
    engine_vm_let_go(rig->vm);
    for (int turn = 0; turn < 20; turn++) {
        start(rig, runs, threads);
        wait_alive(rig, VCPUS);
        if (turn & 1)
            usleep(1000);
        engine_vm_call_in(rig->vm);
        join(runs, threads, EXIT_KICK);
        engine_vm_let_go(rig->vm);
    }
    CHECK_EQ(rig->alive, VCPUS);
    CHECK_EQ(vcpu_get_state(rig->vcpus[2], &state), 0);
    CHECK(state.halted && !state.wait_for_sipi && state.segment[SEG_CS].base == AP_CODE);
    CHECK_EQ(vcpu_set_state(rig->vcpus[2], &state), 0);
    CHECK_EQ(vcpu_get_state(rig->vcpus[2], &state), 0);
    CHECK(state.halted);
    /* Reset: as it was made. */
    CHECK_EQ(engine_vm_reset(rig->vm), 0);
    CHECK_EQ(vcpu_get_state(rig->vcpus[0], &state), 0);
    CHECK(state.rip == 0xfff0 && !state.wait_for_sipi);
    CHECK_EQ(vcpu_get_state(rig->vcpus[2], &state), 0);
    CHECK(state.rip == 0xfff0 && state.wait_for_sipi && !state.halted);
    struct kvm_lapic_state lapic;
    CHECK_EQ(ioctl(kvm_vcpu_fd(rig->vcpus[0]), KVM_GET_LAPIC, &lapic), 0);
    CHECK_EQ(load_le32((uint8_t *)lapic.regs + 0xf0), 0xff);
    rig_free(rig);
}

static void test_requests_are_the_askers(void)
{
    /* START_APS; out 0x74,al; xor eax,eax; l: out 0x70,ax; inc ax; and ax,0xff... each counts by itself in its low
     * byte */
    static const uint8_t PROGRAM[] = START_APS "\x31\xc0\x66\xe7\x70\x66\x40\xeb\xfa";
    /* Real mode, AH = APIC ID from CPUID leaf 1 would be the host's here: XADD a word in memory instead.
     * mov ax,0x100; lock xadd [0x3000],ax; add ax,0x100; l: out 0x70,ax; inc ax; jmp l */
    static const uint8_t AP[] =
        "\x31\xc0\x8e\xd8\xb8\x00\x01\xf0\x0f\xc1\x06\x00\x30\x05\x00\x01\xe7\x70\x40\xeb\xfb";
    Rig *rig = rig_new((CpuTopology){1, VCPUS, 1});
    Run runs[VCPUS];
    pthread_t threads[VCPUS];
    load(rig, PROGRAM, sizeof PROGRAM, AP, sizeof AP);
    start(rig, runs, threads);
    for (uint32_t i = 0; i < VCPUS; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(runs[0].requests, 200);
    /* Which AP came first is theirs: each has all of one of the two sequences, or saw the other's first number. */
    bool straight = runs[1].requests == 200 && runs[2].requests == 200;
    bool swapped =
        !runs[1].requests && runs[1].exit.code == 0x200 && !runs[2].requests && runs[2].exit.code == 0x100;
    CHECK(straight || swapped);
    rig_free(rig);
}

static void test_request_from_outside_is_the_first_vcpus(void)
{
    static const uint8_t PROGRAM[] = START_APS "\xe6\x74\xf4\xeb\xfd", AP[] = "\xe6\x74\xf4\xeb\xfd";
    Rig *rig = rig_new((CpuTopology){1, VCPUS, 1});
    Run runs[VCPUS];
    pthread_t threads[VCPUS];
    load(rig, PROGRAM, sizeof PROGRAM, AP, sizeof AP);
    start(rig, runs, threads);
    wait_alive(rig, VCPUS);
    board_request(rig->board, SYSTEM_POWEROFF, 0);
    pthread_join(threads[0], NULL);
    CHECK(runs[0].exit.reason == EXIT_SYSTEM && runs[0].exit.request == SYSTEM_POWEROFF);
    engine_vm_call_in(rig->vm);
    for (uint32_t i = 1; i < VCPUS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_EQ(runs[i].exit.reason, EXIT_KICK);
    }
    rig_free(rig);
}

static void random_chip(I8259ChipState *chip, bool is_master)
{
    uint32_t r = (uint32_t)rand();
    *chip = (I8259ChipState){.irr = (uint8_t)(r >> 8),
                             .imr = (uint8_t)(r >> 16),
                             .isr = (uint8_t)r,
                             .elcr = (uint8_t)rand() & (is_master ? 0xf8 : 0xde),
                             .icw1 = 0x10 | (r >> 4 & 1),
                             .icw2 = (uint8_t)(r >> 20) & 0xf8,
                             .icw3 = is_master ? 4 : 2,
                             .icw4 = 1 | (r & 2) | (r & 0x10),
                             .lowest = r >> 5 & 7,
                             .read_isr = r >> 9 & 1,
                             .special_mask = r >> 11 & 1,
                             .rotate_aeoi = r >> 12 & 1};
    chip->next_icw = (uint8_t)(rand() % 5);
    chip->next_icw -= chip->next_icw == 1;
}

static void test_pic_state_both_ways(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Device *pic = i8259_new(board, board->irqs);
    IrqLine *line = irq_line_new(board->irqs, 5);
    irq_line_set(line, true);
    I8259State state, back;
    for (int turn = 0; turn < 100; turn++) {
        random_chip(&state.master, true);
        random_chip(&state.slave, false);
        state.master.lines = 1 << 5;
        /* The cascade follows the slave in both: the two registers that say so are not free. */
        state.slave.imr = 0xff;
        state.master.irr &= (uint8_t)~4u;
        CHECK_EQ(device_restore(pic, &state), 0);
        KvmOptions options = {.irqchip = IRQCHIP_KERNEL, .topology = {1, 1, 1}};
        EngineVm *vm = kvm_vm_new(board, "/dev/kvm", &options, &error); /* takes it in */
        CHECK(vm);
        CHECK(!intr_pin_level(&board->intr));
        device_save(pic, &back);
        CHECK(memcmp(&state, &back, sizeof state) == 0);
        struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_SLAVE};
        CHECK_EQ(ioctl(kvm_vm_fd(vm), KVM_GET_IRQCHIP, &chip), 0);
        CHECK_EQ(chip.chip.pic.isr, state.slave.isr);
        engine_vm_free(vm); /* gives it back */
        device_save(pic, &back);
        CHECK(memcmp(&state, &back, sizeof state) == 0);
    }
    /* A line that rises in the kernel's time, and a reset. */
    KvmOptions options = {.irqchip = IRQCHIP_KERNEL, .topology = {1, 1, 1}};
    EngineVm *vm = kvm_vm_new(board, "/dev/kvm", &options, &error);
    device_reset(pic);
    irq_line_pulse(irq_line_new(board->irqs, 9));
    device_save(pic, &back);
    CHECK_EQ(back.slave.irr, 1 << 1);
    CHECK_EQ(back.slave.imr, 0xff);
    engine_vm_free(vm);
    CHECK(!board->irqchip);
    device_free(pic);
    board_free(board);
}

static void test_apic_state_both_ways(void)
{
    Error error = {0};
    Rig *rig = calloc(1, sizeof *rig);
    Board *board = rig->board = board_new(CLOCK_KIND_REALTIME, &error);
    Lapic *lapic = lapic_new(board, 0, &error);
    Device *ioapic = ioapic_new(board, board->irqs, 2, &error), *local = lapic_device(lapic);
    KvmOptions options = {.irqchip = IRQCHIP_KERNEL, .topology = {1, 1, 1}};
    rig->vm = kvm_vm_new(board, "/dev/kvm", &options, &error);
    CHECK(rig->vm && vcpu_new(rig->vm, 0, &error));
    CHECK_EQ(engine_vm_detach(rig->vm, &error), 0);
    IoApicState io, io_back;
    LapicState state, back;
    device_save(ioapic, &io);
    io.redirection[4] = 3ull << 56 | 0x8051;
    io.id = 5u << 24;
    CHECK_EQ(device_restore(ioapic, &io), 0);
    device_save(local, &state);
    store_le32(state.regs + LAPIC_SVR, 0x1ff);
    store_le32(state.regs + LAPIC_TPR, 0x20);
    store_le32(state.regs + LAPIC_LDR, 1u << 24);
    store_le32(state.regs + LAPIC_ISR + 16 * 2, 1);      /* vector 0x40 is being served */
    store_le32(state.regs + LAPIC_IRR + 16 * 1, 1 << 1); /* vector 0x21 waits */
    store_le32(state.regs + LAPIC_LVT_LINT1, 0x400);
    store_le32(state.regs + LAPIC_LVT_TIMER, 0x20055);
    store_le32(state.regs + LAPIC_TIMER_DIVIDE, 3); /* by 16 */
    store_le32(state.regs + LAPIC_TIMER_INITIAL, 0x10000000);
    state.timer_deadline = clock_now(board->clock) + NS_PER_SECOND;
    CHECK_EQ(device_restore(local, &state), 0);
    device_save(local, &state); /* with the processor priority that follows */
    CHECK_EQ(engine_vm_attach(rig->vm, &error), 0);
    struct kvm_lapic_state kernel;
    CHECK_EQ(ioctl(kvm_vcpu_fd(rig->vm->vcpus), KVM_GET_LAPIC, &kernel), 0);
    CHECK_EQ(load_le32((uint8_t *)kernel.regs + LAPIC_ISR + 16 * 2), 1);
    CHECK_EQ(load_le32((uint8_t *)kernel.regs + LAPIC_LVT_LINT1), 0x400);
    device_save(ioapic, &io_back); /* KVM's, as it is */
    CHECK(memcmp(&io, &io_back, sizeof io) == 0);
    CHECK_EQ(engine_vm_detach(rig->vm, &error), 0);
    device_save(ioapic, &io_back);
    CHECK(memcmp(&io, &io_back, sizeof io) == 0);
    device_save(local, &back);
    CHECK(memcmp(state.regs, back.regs, LAPIC_TIMER_CURRENT) == 0);
    CHECK(back.timer_deadline > state.timer_deadline - NS_PER_SECOND / 2 &&
          back.timer_deadline < state.timer_deadline + NS_PER_SECOND / 2);
    CHECK_EQ(back.apic_base, state.apic_base);
    /* Reset while KVM has them. */
    CHECK_EQ(engine_vm_attach(rig->vm, &error), 0);
    device_reset(ioapic);
    CHECK_EQ(engine_vm_reset(rig->vm), 0);
    device_save(ioapic, &io_back);
    CHECK_EQ(io_back.redirection[4], 1 << 16);
    CHECK_EQ(io_back.id, 0);
    engine_vm_free(rig->vm);
    device_free(ioapic);
    device_free(local);
    board_free(board);
    free(rig);
}

static void no_sink(void *opaque, uint32_t gsi, bool level) {}

/* KVM is refused in the middle of taking the board's interrupt controllers: the board has them as before, and
 * nothing of the VM that is gone. */
static void test_refused_irqchip_leaves_the_board(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Lapic *lapic = lapic_new(board, 0, &error);
    Device *pic = i8259_new(board, board->irqs);
    IrqLine *line = irq_line_new(board->irqs, 5);
    int places[IRQ_MAX_SINKS], taken = 0;
    while (irq_router_add_sink(board->irqs, no_sink, &places[taken]) == 0)
        taken++;
    int (*msi)(void *, uint64_t, uint32_t) = board->msi;
    bool (*lint1_edge)(void *) = board->lint1_edge;
    KvmOptions options = {.irqchip = IRQCHIP_KERNEL, .topology = {1, 1, 1}};
    CHECK(!kvm_vm_new(board, "/dev/kvm", &options, &error));
    CHECK(!board->irqchip && !board->irqchip_engine && !board->engine);
    CHECK(board->msi == msi && board->lint1_edge == lint1_edge);
    irq_line_set(line, true); /* goes to nobody who is gone */
    device_reset(pic);
    irq_router_remove_sink(board->irqs, no_sink, &places[0]);
    EngineVm *vm = kvm_vm_new(board, "/dev/kvm", &options, &error);
    CHECK(vm && board->irqchip);
    engine_vm_free(vm);
    device_free(pic);
    device_free(lapic_device(lapic));
    board_free(board);
}

/* What a guest may leave in KVM's registers and no device of the board holds: reserved bits of the I/O APIC, and
 * vectors below 16. It comes back without them, and the guest cannot keep the machine from leaving KVM. */
static void test_reserved_bits_do_not_come_back(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Lapic *lapic = lapic_new(board, 0, &error);
    Device *ioapic = ioapic_new(board, board->irqs, 2, &error);
    KvmOptions options = {.irqchip = IRQCHIP_KERNEL, .topology = {1, 1, 1}};
    EngineVm *vm = kvm_vm_new(board, "/dev/kvm", &options, &error);
    CHECK(vm && vcpu_new(vm, 0, &error));
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    CHECK_EQ(ioctl(kvm_vm_fd(vm), KVM_GET_IRQCHIP, &chip), 0);
    chip.chip.ioapic.redirtbl[7].bits = UINT64_MAX & ~(1ull << 12);
    CHECK_EQ(ioctl(kvm_vm_fd(vm), KVM_SET_IRQCHIP, &chip), 0);
    struct kvm_lapic_state kernel;
    CHECK_EQ(ioctl(kvm_vcpu_fd(vm->vcpus), KVM_GET_LAPIC, &kernel), 0);
    store_le32((uint8_t *)kernel.regs + LAPIC_SVR, 0x1ff);
    store_le32((uint8_t *)kernel.regs + LAPIC_IRR, 1 << 5);
    store_le32((uint8_t *)kernel.regs + LAPIC_TIMER_DIVIDE, 0xff);
    CHECK_EQ(ioctl(kvm_vcpu_fd(vm->vcpus), KVM_SET_LAPIC, &kernel), 0);
    IoApicState io;
    device_save(ioapic, &io);
    CHECK_EQ(device_restore(ioapic, &io), 0);
    int result = engine_vm_detach(vm, &error);
    if (result < 0)
        fprintf(stderr, "%s\n", error.text);
    CHECK_EQ(result, 0);
    LapicState state;
    device_save(lapic_device(lapic), &state);
    CHECK_EQ(load_le32(state.regs + LAPIC_IRR), 0);
    CHECK_EQ(load_le32(state.regs + LAPIC_SVR), 0x1ff);
    engine_vm_free(vm);
    device_free(ioapic);
    device_free(lapic_device(lapic));
    board_free(board);
}

/* A local APIC that the board cannot hold keeps the machine on KVM, which goes on as before. */
static void test_refused_detach_keeps_kvm(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Lapic *lapic = lapic_new(board, 0, &error);
    Device *pic = i8259_new(board, board->irqs);
    IrqLine *line = irq_line_new(board->irqs, 9);
    KvmOptions options = {.irqchip = IRQCHIP_KERNEL, .topology = {1, 1, 1}};
    EngineVm *vm = kvm_vm_new(board, "/dev/kvm", &options, &error);
    CHECK(vm && vcpu_new(vm, 0, &error));
    lapic_allow_x2apic(lapic, false);
    struct kvm_sregs sregs;
    CHECK_EQ(ioctl(kvm_vcpu_fd(vm->vcpus), KVM_GET_SREGS, &sregs), 0);
    sregs.apic_base |= APIC_BASE_EXTD;
    if (ioctl(kvm_vcpu_fd(vm->vcpus), KVM_SET_SREGS, &sregs) == 0) {
        CHECK(engine_vm_detach(vm, &error) < 0);
        CHECK(engine_vm_is_attached(vm) && board->irqchip);
        irq_line_pulse(line);
        struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_SLAVE};
        CHECK_EQ(ioctl(kvm_vm_fd(vm), KVM_GET_IRQCHIP, &chip), 0);
        CHECK_EQ(chip.chip.pic.irr & 2, 2);
    } else {
        puts("   (this KVM's guests have no x2APIC)");
    }
    engine_vm_free(vm);
    CHECK(!board->irqchip && !board->irqchip_engine);
    irq_line_set(line, true);
    device_free(pic);
    device_free(lapic_device(lapic));
    board_free(board);
}

/* While KVM counts, the board's own timers do not. */
static void test_timers_are_kvms(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Lapic *lapic = lapic_new(board, 0, &error);
    KvmOptions options = {.irqchip = place, .topology = {1, 1, 1}};
    EngineVm *vm = kvm_vm_new(board, "/dev/kvm", &options, &error);
    CHECK(vm && vcpu_new(vm, 0, &error));
    CHECK_EQ(engine_vm_detach(vm, &error), 0);
    LapicState state, back;
    device_save(lapic_device(lapic), &state);
    store_le32(state.regs + LAPIC_SVR, 0x1ff);
    store_le32(state.regs + LAPIC_LVT_TIMER, 0x20055); /* periodic */
    store_le32(state.regs + LAPIC_TIMER_INITIAL, 0x10000000);
    state.timer_deadline = clock_now(board->clock) + NS_PER_SECOND;
    CHECK_EQ(device_restore(lapic_device(lapic), &state), 0);
    CHECK(clock_next_deadline(board->clock) != CLOCK_NEVER);
    CHECK_EQ(engine_vm_attach(vm, &error), 0);
    CHECK(clock_next_deadline(board->clock) == CLOCK_NEVER);
    CHECK_EQ(engine_vm_detach(vm, &error), 0);
    CHECK(clock_next_deadline(board->clock) != CLOCK_NEVER);
    device_save(lapic_device(lapic), &back);
    CHECK_EQ(load_le32(back.regs + LAPIC_LVT_TIMER), 0x20055);
    engine_vm_free(vm);
    device_free(lapic_device(lapic));
    board_free(board);
}

/* Split: the 8259 pair's output is the first vCPU's while KVM has the local APICs, and LINT0's of the board's
 * before and after; level-triggered entries of the I/O APIC do not leave messages with the board's local APICs. */
static void test_split_wires(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    Device *pic = i8259_new(board, board->irqs);
    Lapic *lapic = lapic_new(board, 0, &error);
    Device *ioapic = ioapic_new(board, board->irqs, 2, &error);
    IrqLine *line = irq_line_new(board->irqs, 5);
    I8259State chips;
    device_save(pic, &chips);
    chips.master.icw1 = 0x11, chips.master.icw2 = 0x20, chips.master.icw4 = 1, chips.master.imr = 0;
    CHECK_EQ(device_restore(pic, &chips), 0);
    KvmOptions options = {.irqchip = IRQCHIP_SPLIT, .topology = {1, 1, 1}};
    EngineVm *vm = kvm_vm_new(board, "/dev/kvm", &options, &error);
    CHECK(vm && vcpu_new(vm, 0, &error));
    CHECK(!board->irqchip);
    IoApicState io;
    device_save(ioapic, &io);
    io.redirection[5] = 0x8051; /* level-triggered, not masked */
    CHECK_EQ(device_restore(ioapic, &io), 0);
    LapicState state;
    device_save(lapic_device(lapic), &state);
    store_le32(state.regs + LAPIC_SVR, 0x1ff);
    CHECK_EQ(device_restore(lapic_device(lapic), &state), 0);
    irq_line_set(line, true);
    CHECK(!intr_pin_level(&board->intr));
    device_save(lapic_device(lapic), &state);
    CHECK_EQ(load_le32(state.regs + LAPIC_IRR + 16 * 2), 0);
    CHECK_EQ(engine_vm_detach(vm, &error), 0);
    CHECK(intr_pin_level(&board->intr)); /* LINT0 of the board's local APIC */
    irq_line_set(line, false);
    irq_line_set(line, true);
    CHECK_EQ(engine_vm_attach(vm, &error), 0);
    device_free(ioapic);
    device_free(lapic_device(lapic));
    device_free(pic);
    engine_vm_free(vm); /* after the devices that it found: nothing of them is touched */
    CHECK(!board->extint.changed);
    board_free(board);
}

static void test_time_stands_still(void)
{
    static const uint8_t PROGRAM[] = START_APS "\xe6\x74\xeb\xfc", AP[] = "\xe6\x74\xf4\xeb\xfd";
    Rig *rig = rig_new((CpuTopology){1, VCPUS, 1});
    Run runs[VCPUS];
    pthread_t threads[VCPUS];
    CpuState before[VCPUS], after;
    struct kvm_clock_data stopped = {0}, later = {0};
    uint64_t second = rig->board->tsc_hz;
    bool fixed = false;
    load(rig, PROGRAM, sizeof PROGRAM, AP, sizeof AP);
    for (int turn = 0; turn < 3; turn++) {
        start(rig, runs, threads);
        wait_alive(rig, __atomic_load_n(&rig->alive, __ATOMIC_SEQ_CST) + 100);
        engine_vm_call_in(rig->vm);
        join(runs, threads, EXIT_KICK);
        CHECK_EQ(ioctl(kvm_vm_fd(rig->vm), KVM_GET_CLOCK, &later), 0);
        if (turn)
            CHECK(later.clock - stopped.clock < NS_PER_SECOND / 2);
        engine_vm_pause(rig->vm);
        CHECK_EQ(ioctl(kvm_vm_fd(rig->vm), KVM_GET_CLOCK, &stopped), 0);
        for (uint32_t i = 0; i < VCPUS; i++)
            CHECK_EQ(vcpu_get_state(rig->vcpus[i], &before[i]), 0);
        usleep(turn < 2 ? 700000 : 0);
        CHECK_EQ(vcpu_get_state(rig->vcpus[1], &after), 0);
        if (turn == 0 && after.tsc - before[1].tsc > second / 2) {
            fixed = true;
            printf("   (this KVM does not let the TSC be set)\n");
        }
        if (!fixed)
            CHECK(after.tsc == before[1].tsc && before[1].tsc == before[0].tsc && before[2].tsc == before[0].tsc);
        engine_vm_let_go(rig->vm);
    }
    rig_free(rig);
}

static void check_cpuid(CpuTopology topology, uint32_t index, uint32_t apic_id, uint32_t core_shift,
                        uint32_t package_shift)
{
    enum { ENTRIES = 256 };
    Rig *rig = rig_new(topology);
    struct kvm_cpuid2 *table = calloc(1, sizeof *table + ENTRIES * sizeof *table->entries);
    table->nent = ENTRIES;
    CHECK_EQ(ioctl(kvm_vcpu_fd(rig->vcpus[index]), KVM_GET_CPUID2, table), 0);
    uint32_t seen = 0, processors = topology.cores * topology.threads;
    for (uint32_t i = 0; i < table->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &table->entries[i];
        if (entry->function == 1) {
            CHECK_EQ(entry->ebx >> 24, apic_id);
            CHECK_EQ(entry->ebx >> 16 & 0xff, 1u << package_shift);
            CHECK(entry->edx >> 28 & 1 || processors == 1); /* HTT, which some KVMs always show */
            CHECK_EQ(entry->edx >> 9 & 1, 1);               /* APIC */
            seen |= 1;
        } else if (entry->function == 0xb && entry->index == 0) {
            CHECK(entry->eax == core_shift && entry->ebx == topology.threads && entry->ecx == 0x100);
            CHECK_EQ(entry->edx, apic_id);
            seen |= 2;
        } else if (entry->function == 0xb && entry->index == 1) {
            CHECK(entry->eax == package_shift && entry->ebx == processors && entry->ecx == 0x201);
            seen |= 4;
        } else if (entry->function == 4 && entry->eax & 31) {
            CHECK((entry->eax >> 14 & 0xfff) < 1u << package_shift);
        } else if (entry->function == 0x8000001e) {
            CHECK_EQ(entry->eax, apic_id);
        }
    }
    CHECK_EQ(seen, 7);
    free(table);
    rig_free(rig);
}

static void test_cpuid(void)
{
    check_cpuid((CpuTopology){1, 1, 1}, 0, 0, 0, 0);
    check_cpuid((CpuTopology){1, 2, 1}, 1, 1, 0, 1);
    check_cpuid((CpuTopology){2, 1, 1}, 1, 1, 0, 0);
    check_cpuid((CpuTopology){1, 3, 2}, 2, 2, 1, 3);
    check_cpuid((CpuTopology){3, 1, 1}, 2, 2, 0, 0);
    check_cpuid((CpuTopology){2, 1, 3}, 2, 2, 2, 2);
    CpuTopology odd = {2, 3, 2}; /* 2 x 4 x 2 numbers */
    CHECK_EQ(cpu_topology_apic_id(&odd, 5), 5);
    CHECK_EQ(cpu_topology_apic_id(&odd, 6), 8);
    CHECK_EQ(cpu_topology_apic_id(&odd, 11), 13);
}

int main(void)
{
    Error error = {0};
    Board *board = board_new(CLOCK_KIND_REALTIME, &error);
    KvmOptions options = {.irqchip = IRQCHIP_KERNEL, .topology = {1, VCPUS, 1}};
    EngineVm *vm = board ? kvm_vm_new(board, "/dev/kvm", &options, &error) : NULL;
    engine_vm_free(vm);
    board_free(board);
    if (!vm) {
        printf("skipped: %s\n", error.text);
        return SKIPPED;
    }
    for (place = IRQCHIP_SPLIT; place <= IRQCHIP_KERNEL; place++) {
        RUN(test_start_and_call_in);
        RUN(test_requests_are_the_askers);
        RUN(test_request_from_outside_is_the_first_vcpus);
        RUN(test_timers_are_kvms);
        RUN(test_time_stands_still);
        RUN(test_cpuid);
    }
    RUN(test_pic_state_both_ways);
    RUN(test_apic_state_both_ways);
    RUN(test_refused_irqchip_leaves_the_board);
    RUN(test_reserved_bits_do_not_come_back);
    RUN(test_refused_detach_keeps_kvm);
    RUN(test_split_wires);
    return 0;
}
