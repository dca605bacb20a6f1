/* Device RAM (memory/device_ram.h) under an engine: what the guest and another thread switch on and off. */
#ifndef PYVMM_TESTS_DEVICE_RAM_CHECK_H
#define PYVMM_TESTS_DEVICE_RAM_CHECK_H

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "tests/check.h"

enum { DEVICE_RAM_PORT = 0x88, DEVICE_RAM_SIZE = 0x2000, DEVICE_RAM_CODE = 0x2000 };
#define DEVICE_RAM_GPA 0xe0000000ull

typedef struct DeviceRamRig {
    Board *board;
    Vcpu *vcpu;
    uint8_t *bytes;
    uint32_t writes; /* atomic: by the bus */
    uint32_t last;
} DeviceRamRig;

static inline void device_ram_rig_switch(DeviceRamRig *rig, bool on)
{
    DeviceRam ram = {.gpa = DEVICE_RAM_GPA, .size = DEVICE_RAM_SIZE, .hva = rig->bytes};
    if (on)
        CHECK_EQ(device_ram_add(rig->board->device_rams, rig->board->memory, &ram), 0);
    else
        CHECK_EQ(device_ram_remove(rig->board->device_rams, DEVICE_RAM_GPA), 0);
}

static inline void device_ram_rig_write(void *device, uint32_t region, uint64_t offset, uint32_t size,
                                        uint64_t value)
{
    DeviceRamRig *rig = device;
    if (region == DEVICE_RAM_PORT) {
        device_ram_rig_switch(rig, value & 1);
        return;
    }
    rig->last = (uint32_t)value;
    __atomic_fetch_add(&rig->writes, 1, __ATOMIC_SEQ_CST);
}

static inline uint64_t device_ram_rig_read(void *device, uint32_t region, uint64_t offset, uint32_t size)
{
    return 0x55;
}

static inline void device_ram_rig_init(DeviceRamRig *rig, Board *board, Vcpu *vcpu, CpuState *state,
                                       const void *code, size_t size)
{
    static const DeviceOps OPS = {.read = device_ram_rig_read, .write = device_ram_rig_write};
    *rig = (DeviceRamRig){.board = board, .vcpu = vcpu, .bytes = aligned_alloc(GUEST_PAGE_SIZE, DEVICE_RAM_SIZE)};
    CHECK(rig->bytes);
    memset(rig->bytes, 0xaa, DEVICE_RAM_SIZE);
    CHECK_EQ(bus_add(board->pio, DEVICE_RAM_PORT, 1, &OPS, rig, DEVICE_RAM_PORT, NULL, "switch", NULL), 0);
    CHECK_EQ(bus_add(board->mmio, DEVICE_RAM_GPA, DEVICE_RAM_SIZE, &OPS, rig, 0, NULL, "device", NULL), 0);
    CHECK_EQ(guest_memory_load(board->memory, DEVICE_RAM_CODE, code, size), 0);
    for (int i = 0; i < 6; i++)
        state->segment[i].selector = 0, state->segment[i].base = i == SEG_DS ? DEVICE_RAM_GPA : 0;
    state->rip = DEVICE_RAM_CODE;
    CHECK_EQ(vcpu_set_state(vcpu, state), 0);
}

/* All in one block of code: the store before, in between and after. `direct`: the engine maps it at all. */
static inline void check_device_ram(Board *board, Vcpu *vcpu, CpuState *state, bool direct)
{
    static const uint8_t CODE[] = "\xb0\x11\xa2\x00\x00"          /* mov [0], 11h */
                                  "\xb0\x01\xe6\x88"              /* out 88h, 1: on */
                                  "\xb0\x22\xa2\x01\x00"          /* mov [1], 22h */
                                  "\xa0\x00\x00\x88\xc3"          /* mov bl, [0] */
                                  "\x66\xb8\x44\x33\x22\x11"      /* mov eax, 11223344h */
                                  "\x66\xa3\xfe\x0f"              /* mov [ffeh], eax: over two pages */
                                  "\x66\x8b\x0e\xfe\x0f"          /* mov ecx, [ffeh] */
                                  "\xb0\x00\xe6\x88"              /* out 88h, 0: off */
                                  "\xb0\x33\xa2\x02\x00"          /* mov [2], 33h */
                                  "\xa0\x00\x00\x88\xc7\xfa\xf4"; /* mov bh, [0]; cli; hlt */
    DeviceRamRig rig;
    VmExit left;
    device_ram_rig_init(&rig, board, vcpu, state, CODE, sizeof CODE);
    CHECK_EQ(vcpu_run(vcpu, 0, &left), 0);
    CHECK_EQ(left.reason, EXIT_HLT);
    CHECK_EQ(vcpu_get_state(vcpu, state), 0);
    CHECK_EQ(rig.last, 0x33);
    CHECK_EQ(state->gpr[REG_RBX] >> 8 & 0xff, 0x55);
    CHECK_EQ(rig.bytes[2], 0xaa);
    if (direct) {
        CHECK_EQ(rig.writes, 2);
        CHECK_EQ(rig.bytes[1], 0x22);
        CHECK_EQ(rig.bytes[0xfff], 0x33);
        CHECK_EQ(rig.bytes[0x1001], 0x11);
        CHECK_EQ(state->gpr[REG_RBX] & 0xff, 0xaa);
        CHECK_EQ(state->gpr[REG_RCX] & 0xffffffff, 0x11223344);
    }
    CHECK_EQ(bus_remove(board->pio, DEVICE_RAM_PORT), 0);
    CHECK_EQ(bus_remove(board->mmio, DEVICE_RAM_GPA), 0);
    free(rig.bytes);
}

static inline void *device_ram_rig_run(void *opaque)
{
    DeviceRamRig *rig = opaque;
    VmExit left;
    CHECK_EQ(vcpu_run(rig->vcpu, 0, &left), 0);
    CHECK_EQ(left.reason, EXIT_KICK);
    return NULL;
}

static inline uint8_t device_ram_rig_byte(DeviceRamRig *rig) { return *(volatile uint8_t *)rig->bytes; }

/* Another thread moves it under a guest that writes all the time: after the first store that the device sees, no
 * more reach the bytes. */
static inline void check_device_ram_from_outside(Board *board, Vcpu *vcpu, CpuState *state)
{
    static const uint8_t CODE[] = "\xfe\xc0\xa2\x00\x00\xeb\xf9"; /* inc al; mov [0], al; jmp */
    DeviceRamRig rig;
    pthread_t thread;
    device_ram_rig_init(&rig, board, vcpu, state, CODE, sizeof CODE);
    CHECK_EQ(pthread_create(&thread, NULL, device_ram_rig_run, &rig), 0);
    for (int i = 0; i < 50; i++) {
        rig.bytes[0] = 0;
        device_ram_rig_switch(&rig, true);
        while (!device_ram_rig_byte(&rig))
            sched_yield();
        device_ram_rig_switch(&rig, false);
        uint32_t seen = __atomic_load_n(&rig.writes, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&rig.writes, __ATOMIC_SEQ_CST) == seen)
            sched_yield();
        uint8_t byte = device_ram_rig_byte(&rig);
        while (__atomic_load_n(&rig.writes, __ATOMIC_SEQ_CST) < seen + 100)
            sched_yield();
        CHECK_EQ(device_ram_rig_byte(&rig), byte);
    }
    vcpu_kick(vcpu);
    pthread_join(thread, NULL);
    CHECK_EQ(bus_remove(board->pio, DEVICE_RAM_PORT), 0);
    CHECK_EQ(bus_remove(board->mmio, DEVICE_RAM_GPA), 0);
    free(rig.bytes);
}

#endif
