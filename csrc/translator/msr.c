/*
 * Model-specific registers: those that translated code itself depends on stay in the library's CPU; the machine's
 * own are here; what exists only as a name reads 0; anything else is #GP (Intel SDM vol. 4; AMD64 APM vol. 2
 * appendix A).
 */
#include <x86intrin.h>

#include "engine/guest_msr.h"
#include "translator/vm.h"

enum {
    MSR_TSC = 0x10,
    MSR_TSC_ADJUST = 0x3b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_PAT = 0x277,
    MSR_KVM_WALL_CLOCK_OLD = 0x11,
    MSR_KVM_SYSTEM_TIME_OLD = 0x12,
    MSR_KVM_WALL_CLOCK = 0x4b564d00,
    MSR_KVM_SYSTEM_TIME = 0x4b564d01,
    MSR_EFER = 0xc0000080,
    MSR_LSTAR = 0xc0000082,
    MSR_CSTAR = 0xc0000083,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    EFER_LME = 1 << 8,
    MSR_TSC_AUX = 0xc0000103,
    APIC_BASE_DISABLED = 0xfee00000,
};

static uint64_t clock_ticks(const TranslatorVcpu *vcpu)
{
    return clock_ns_to_ticks(clock_now(vcpu->board->clock), vcpu->board->tsc_hz);
}

uint64_t translator_tsc(const TranslatorVcpu *vcpu)
{
    return unlikely(vcpu->board->tsc_is_hosts) ? __rdtsc() : clock_ticks(vcpu) + vcpu->tsc_offset;
}

void translator_set_tsc_offset(TranslatorVcpu *vcpu, uint64_t offset)
{
    Lapic *lapic = translator_lapic(vcpu);
    vcpu->tsc_offset = offset;
    if (lapic)
        lapic_set_tsc_offset(lapic, offset);
}

/* The library's own RDMSR and WRMSR take their operands in the guest's registers. */
uint64_t translator_library_msr(TranslatorVcpu *vcpu, uint32_t index)
{
    Env *env = vcpu->env;
    uint64_t ax = env->regs[0], cx = env->regs[1], dx = env->regs[2];
    env->regs[1] = index;
    original_helper_rdmsr_x86_64(env);
    uint64_t value = (uint32_t)env->regs[0] | env->regs[2] << 32;
    env->regs[0] = ax, env->regs[1] = cx, env->regs[2] = dx;
    return value;
}

void translator_set_library_msr(TranslatorVcpu *vcpu, uint32_t index, uint64_t value)
{
    Env *env = vcpu->env;
    uint64_t ax = env->regs[0], cx = env->regs[1], dx = env->regs[2];
    env->regs[0] = (uint32_t)value, env->regs[1] = index, env->regs[2] = value >> 32;
    original_helper_wrmsr_x86_64(env);
    env->regs[0] = ax, env->regs[1] = cx, env->regs[2] = dx;
}

static bool in_library(uint32_t index)
{
    return (index >= MSR_SYSENTER_CS && index <= MSR_SYSENTER_EIP) || index == MSR_PAT ||
           (index >= MSR_EFER && index <= 0xc0000084) || (index >= 0xc0000100 && index <= 0xc0000102);
}

/* The wall clock at which the board's clock read 0, for the guest (KVM's msr.rst, MSR_KVM_WALL_CLOCK_NEW). */
static void publish_wall_clock(TranslatorVcpu *vcpu, gpa_t gpa)
{
    int64_t epoch = clock_epoch_ns(vcpu->board->clock);
    uint32_t record[3] = {2, (uint32_t)(epoch / (int64_t)NS_PER_SECOND),
                          (uint32_t)(epoch % (int64_t)NS_PER_SECOND)};
    guest_memory_write(vcpu->board->memory, gpa, record, sizeof record);
}

/* The record with which a guest turns TSC into nanoseconds (KVM's msr.rst, MSR_KVM_SYSTEM_TIME_NEW). */
static void publish_system_time(TranslatorVcpu *vcpu, gpa_t gpa)
{
    struct {
        uint32_t version, pad0;
        uint64_t tsc_timestamp, system_time;
        uint32_t tsc_to_system_mul;
        int8_t tsc_shift;
        uint8_t flags, pad[2];
    } record = {.tsc_timestamp = translator_tsc(vcpu), .flags = 1};
    record.system_time = clock_now(vcpu->board->clock) + vcpu->kvm_clock_offset;
    /* ns = (ticks << shift) * mul >> 32, mul in [2^31, 2^32) */
    uint64_t hz = vcpu->board->tsc_hz;
    int shift = 0;
    while (hz < NS_PER_SECOND)
        hz <<= 1, shift++;
    while (hz >= 2 * NS_PER_SECOND)
        hz >>= 1, shift--;
    unsigned __int128 mul = ((unsigned __int128)NS_PER_SECOND << 32) / hz;
    if (mul > UINT32_MAX)
        mul >>= 1, shift++;
    record.tsc_to_system_mul = (uint32_t)mul;
    record.tsc_shift = (int8_t)shift;
    /* Even, and not the one before, which a guest may have read just now (another engine may have written it). */
    guest_memory_read(vcpu->board->memory, gpa, &record.version, sizeof record.version);
    record.version = (record.version & ~1u) + 2;
    guest_memory_write(vcpu->board->memory, gpa, &record, sizeof record);
}

void translator_publish_clock(TranslatorVcpu *vcpu)
{
    if (vcpu->kvm_system_time & 1)
        publish_system_time(vcpu, vcpu->kvm_system_time & ~1ull);
}

bool translator_read_msr(TranslatorVcpu *vcpu, uint32_t index, uint64_t *value)
{
    Lapic *lapic = translator_lapic(vcpu);
    if (lapic && lapic_owns_msr(index))
        return lapic_read_msr(lapic, index, value);
    switch (index) {
    case MSR_TSC:
        *value = translator_tsc(vcpu);
        return true;
    case MSR_IA32_APIC_BASE:
        *value = vcpu->apic_base;
        return true;
    case MSR_TSC_AUX:
        *value = vcpu->tsc_aux;
        return true;
    case MSR_MISC_ENABLE:
        *value = vcpu->misc_enable;
        return true;
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_OLD:
        *value = vcpu->kvm_wall_clock;
        return true;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_OLD:
        *value = vcpu->kvm_system_time;
        return true;
    }
    if (in_library(index)) {
        *value = translator_library_msr(vcpu, index);
        return true;
    }
    if (mtrr_owns_msr(index)) {
        *value = mtrr_read(&vcpu->mtrr, index);
        return true;
    }
    return guest_msr_is_fixed(index, value);
}

/* SDM vol. 2B WRMSR, vol. 3A §2.2.1 (EFER) and §11.12.2 (PAT): values that are #GP(0), which the library takes. */
static bool library_value_is_valid(TranslatorVcpu *vcpu, uint32_t index, uint64_t value)
{
    switch (index) {
    case MSR_EFER:
        if (value & ~(uint64_t)EFER_KNOWN)
            return false;
        return !(vcpu->env->cr[0] >> 31 & 1) || !((value ^ translator_library_msr(vcpu, MSR_EFER)) & EFER_LME);
    case MSR_PAT:
        for (int i = 0; i < 64; i += 8)
            if ((value >> i & 0xff) > 7 || (value >> i & 0xfe) == 2)
                return false;
        return true;
    case MSR_SYSENTER_ESP:
    case MSR_SYSENTER_EIP:
    case MSR_LSTAR:
    case MSR_CSTAR:
    case MSR_FS_BASE:
    case MSR_GS_BASE:
    case MSR_KERNEL_GS_BASE:
        return (uint64_t)((int64_t)(value << 16) >> 16) == value;
    default:
        return true;
    }
}

bool translator_write_msr(TranslatorVcpu *vcpu, uint32_t index, uint64_t value)
{
    Lapic *lapic = translator_lapic(vcpu);
    if (lapic && lapic_owns_msr(index))
        return lapic_write_msr(lapic, index, value);
    switch (index) {
    case MSR_TSC:
        translator_set_tsc_offset(vcpu, value - clock_ticks(vcpu));
        return true;
    case MSR_IA32_APIC_BASE: /* no APIC to enable or move */
        return (value & ~0x100ull) == APIC_BASE_DISABLED;
    case MSR_TSC_AUX:
        if (value > UINT32_MAX)
            return false;
        vcpu->tsc_aux = value;
        return true;
    case MSR_MISC_ENABLE:
        vcpu->misc_enable = value;
        return true;
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_OLD:
        vcpu->kvm_wall_clock = value;
        publish_wall_clock(vcpu, value);
        return true;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_OLD:
        vcpu->kvm_system_time = value;
        translator_publish_clock(vcpu);
        return true;
    }
    if (in_library(index)) {
        if (!library_value_is_valid(vcpu, index, value))
            return false;
        translator_set_library_msr(vcpu, index, value);
        return true;
    }
    if (mtrr_owns_msr(index))
        return mtrr_write(&vcpu->mtrr, index, value, GUEST_ADDRESS_BITS);
    uint64_t fixed;
    return guest_msr_is_fixed(index, &fixed);
}
