/*
 * A guest that attacks the rings: a program in the guest (guest/attack.c), run by the translator, feeds each virtio
 * device thousands of malformed chains. Every device ends with DEVICE_NEEDS_RESET when it has looked at one, works
 * after the reset, and the host is unharmed: this is for AddressSanitizer to say.
 */
#include <unistd.h>

#include "check.h"
#include "devices/pci_bridges.h"
#include "guest/attack.h"
#include "net/net_python.h"
#include "translator/translator.h"
#include "virtio/virtio_9p.h"
#include "virtio/virtio_balloon.h"
#include "virtio/virtio_blk.h"
#include "virtio/virtio_console.h"
#include "virtio/virtio_input.h"
#include "virtio/virtio_net.h"
#include "virtio/virtio_rng.h"
#include "virtio/virtio_vsock.h"

enum { FIRST_SLOT = 3, DEVICES = 8, DISK = 1 << 20, TABLES = ATTACK_HOME };

__asm__(".pushsection .rodata\n"
        "attack_code: .incbin \"" ATTACK_BIN "\"\n"
        "attack_end:\n"
        ".popsection\n");
extern const uint8_t attack_code[], attack_end[];

typedef struct Rig {
    Board *board;
    PciBus *bus;
    EngineVm *vm;
    Vcpu *vcpu;
    Device *devices[DEVICES];
    uint32_t count;
    BlockImage *image;
    NetBackend *net;
    CharSink *sink;
    char folder[40], disk[64], sockets[64];
} Rig;

static VirtioPlace place_of(const Rig *rig)
{
    return (VirtioPlace){.bus = rig->bus,
                         .devfn = PCI_DEVFN(FIRST_SLOT + rig->count, 0),
                         .offer = VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER};
}

static void add(Rig *rig, Device *device)
{
    CHECK(device);
    rig->devices[rig->count++] = device;
}

static void add_devices(Rig *rig)
{
    Error error = {0};
    Board *board = rig->board;
    strcpy(rig->folder, "/tmp/pyvmm-attack-XXXXXX");
    CHECK(mkdtemp(rig->folder));
    snprintf(rig->disk, sizeof rig->disk, "%s/disk", rig->folder);
    snprintf(rig->sockets, sizeof rig->sockets, "%s/vsock", rig->folder);
    FILE *disk = fopen(rig->disk, "w");
    CHECK(disk && ftruncate(fileno(disk), DISK) == 0);
    fclose(disk);
    rig->image = block_open(rig->disk, "raw", BLOCK_CACHE_UNSAFE, 0, &error);
    CHECK(rig->image);
    rig->net = net_python_new(board, board->io, NULL, NULL, &error);
    rig->sink = char_sink_new_fd(board, -1, 4096, &error);
    CHECK(rig->net && rig->sink);

    VirtioPlace place = place_of(rig);
    VirtioNetOptions net = {.mac = {0x52, 0x54, 0, 0, 0, 1}};
    add(rig, virtio_net_new(board, &place, rig->net, &net, &error));
    place = place_of(rig);
    add(rig, virtio_blk_new(board, &place, rig->image, NULL, &error));
    place = place_of(rig);
    VirtioConsoleOptions console = {.port_count = 3, .ports = {{.is_console = true, .sink = rig->sink}}};
    add(rig, virtio_console_new(board, &place, &console, &error));
    place = place_of(rig);
    VirtioRngOptions rng = {.seeded = true, .seed = 1};
    add(rig, virtio_rng_new(board, &place, &rng, &error));
    place = place_of(rig);
    add(rig, virtio_balloon_new(board, &place, NULL, &error));
    place = place_of(rig);
    Virtio9pOptions share = {.path = rig->folder, .tag = "share", .read_only = true};
    add(rig, virtio_9p_new(board, &place, &share, &error));
    place = place_of(rig);
    add(rig, virtio_input_new(board, &place, VIRTIO_INPUT_KEYBOARD, &error));
    place = place_of(rig);
    add(rig, virtio_vsock_new(board, &place, rig->sockets, 3, &error));
}

/* What a boot loader leaves: 64-bit mode, all 4 GiB where they are. */
static void enter_long_mode(Rig *rig)
{
    CpuState state;
    GuestMemory *memory = rig->board->memory;
    uint64_t entry = TABLES + 0x1007;
    CHECK_EQ(guest_memory_load(memory, TABLES, &entry, sizeof entry), 0);
    for (uint64_t i = 0; i < 4; i++) {
        entry = TABLES + 0x2000 + (i << 12) + 7;
        CHECK_EQ(guest_memory_load(memory, TABLES + 0x1000 + 8 * i, &entry, sizeof entry), 0);
    }
    for (uint64_t i = 0; i < 2048; i++) {
        entry = i << 21 | 0x87;
        CHECK_EQ(guest_memory_load(memory, TABLES + 0x2000 + 8 * i, &entry, sizeof entry), 0);
    }
    CHECK_EQ(guest_memory_load(memory, ATTACK_CODE, attack_code, (size_t)(attack_end - attack_code)), 0);
    cpu_state_reset(&state);
    state.cr0 = 0x80010031, state.cr3 = TABLES, state.cr4 = 0x220, state.efer = 0xd01;
    for (int i = 0; i < 6; i++)
        state.segment[i] = (Segment){.selector = 0x10, .attributes = 0xc093, .limit = 0xffffffff};
    state.segment[SEG_CS] = (Segment){.selector = 8, .attributes = 0xa09b, .limit = 0xffffffff};
    state.gpr[REG_RSP] = ATTACK_STACK - 8;
    state.rip = ATTACK_CODE;
    CHECK_EQ(vcpu_set_state(rig->vcpu, &state), 0);
}

static void rig_new(Rig *rig, enum ClockKind clock)
{
    Error error = {0};
    *rig = (Rig){.board = board_new(clock, &error)};
    CHECK(rig->board);
    GuestMemory *memory = rig->board->memory;
    CHECK_EQ(guest_memory_add(memory, 0, ATTACK_RAM, 0, &error), 0);
    CHECK_EQ(guest_memory_add(memory, ATTACK_ROM, 0x10000, MEMSLOT_READ_ONLY, &error), 0);
    CHECK_EQ(guest_memory_add(memory, ATTACK_HOME, 4 << 20, 0, &error), 0);
    rig->bus = pci_bus_new(rig->board);
    Device *bus = pci_bus_device(rig->bus);
    CHECK_EQ(device_map(bus, rig->board->pio, 0xcf8, 1, PCI_REGION_ADDRESS, &error), 0);
    CHECK_EQ(device_map(bus, rig->board->pio, 0xcfc, 4, PCI_REGION_DATA, &error), 0);
    add_devices(rig);
    rig->vm = translator_vm_new(rig->board, false, &error);
    rig->vcpu = vcpu_new(rig->vm, 0, &error);
    CHECK(rig->vcpu);
    CHECK_EQ(board_start_io(rig->board, &error), 0);
    enter_long_mode(rig);
}

static void rig_free(Rig *rig)
{
    engine_vm_free(rig->vm);
    board_stop_io(rig->board);
    while (rig->count)
        device_free(rig->devices[--rig->count]);
    device_free(pci_bus_device(rig->bus));
    net_backend_free(rig->net);
    char_sink_free(rig->sink);
    block_close(rig->image);
    board_free(rig->board);
    CHECK_EQ(unlink(rig->disk), 0);
    CHECK_EQ(rmdir(rig->folder), 0);
}

static void check_attack(enum ClockKind clock, uint32_t rounds)
{
    Rig rig;
    VmExit left;
    rig_new(&rig, clock);
    AttackReport *report = guest_memory_ptr(rig.board->memory, ATTACK_REPORT, sizeof *report, true);
    report->rounds = rounds;
    report->asynchronous = clock == CLOCK_KIND_REALTIME;
    CHECK_EQ(vcpu_run(rig.vcpu, 1u << EXIT_HLT, &left), 0);
    CHECK_EQ(left.reason, EXIT_HLT);
    CHECK_EQ(report->finished, 1);
    for (uint32_t i = 0; i < rig.count; i++) {
        uint32_t slot = FIRST_SLOT + i;
        VirtioCounters counters;
        virtio_counters(rig.devices[i], &counters);
        printf("%-16s device %2u: %u chains, %u times in need of a reset, %u should have been (kind %u), good %u, "
               "%llu faults, %llu kicks\n",
               rig.devices[i]->class->name, report->slots[slot].device_id, report->slots[slot].chains,
               report->slots[slot].needs_reset, report->slots[slot].missed, report->slots[slot].missed_kind,
               report->slots[slot].good, (unsigned long long)counters.faults, (unsigned long long)counters.kicks);
        CHECK_EQ(report->slots[slot].device_id, virtio_of(rig.devices[i])->class->id);
        CHECK_EQ(report->slots[slot].chains, rounds);
        CHECK_EQ(report->slots[slot].missed, 0);
        CHECK_EQ(report->slots[slot].good, 2);
        CHECK(report->slots[slot].needs_reset > rounds / 4);
        CHECK(counters.faults >= report->slots[slot].needs_reset);
    }
    rig_free(&rig);
}

/* Each device does its work inside the notification, so that the guest sees at once what came of it. */
static void test_attack(void) { check_attack(CLOCK_KIND_VIRTUAL, 2000); }

/* And on a thread of its own, while the guest goes on. */
static void test_attack_in_flight(void) { check_attack(CLOCK_KIND_REALTIME, 600); }

int main(void)
{
    RUN(test_attack);
    RUN(test_attack_in_flight);
    return 0;
}
