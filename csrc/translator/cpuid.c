/*
 * What CPUID tells the guest: the library's EPYC model, without what this machine does not have, with a hypervisor
 * range.
 *
 * Sources: Intel SDM vol. 2A CPUID; AMD64 APM vol. 3 appendix E; the hypervisor range 0x40000000 as kernels read it
 * (KVM's published cpuid.rst for the clock at 0x40000100, the timing leaf 0x40000010).
 */
#include <stdlib.h>

#include "translator/vm.h"

enum { EAX, EBX, ECX, EDX };

enum {
    LEAF_HYPERVISOR = 0x40000000, /* signature of pyvmm; its range ends with the timing leaf */
    LEAF_TIMING = 0x40000010,     /* EAX: TSC kHz, EBX: bus kHz */
    LEAF_KVM = 0x40000100,        /* signature of the paravirtual clock's interface */
    LEAF_KVM_FEATURES = 0x40000101,
    KVM_FEATURE_CLOCK = 1 << 0,
    KVM_FEATURE_CLOCK_NEW = 1 << 3,
    KVM_FEATURE_CLOCK_STABLE = 1 << 24,
};

/* Leaf 1 */
#define ECX_MONITOR      (1u << 3)
#define ECX_X2APIC       (1u << 21)
#define ECX_TSC_DEADLINE (1u << 24)
#define ECX_HYPERVISOR   (1u << 31)
#define EDX_APIC         (1u << 9)
#define EDX_MTRR         (1u << 12)
#define EDX_MCE          ((1u << 7) | (1u << 14)) /* and MCA: without a bank, see guest_msr.c */
/* Leaf 6 */
#define EAX_ARAT (1u << 2) /* the APIC's timer never stops */
/* Leaf 7 */
#define EBX_SMAP (1u << 20)
#define ECX_UMIP (1u << 2) /* umip.c */
/* Leaf 0x80000001 */
#define ECX_SVM      (1u << 2)
#define ECX_EXT_APIC (1u << 3)
#define ECX_TOPOLOGY (1u << 22)
/* Leaf 0x80000007 */
#define EDX_INVARIANT_TSC (1u << 8)
/* Leaf 0x80000008: a guest's branch is a look-up here, no predictor of the host sees its address. */
#define EBX_BTC_NO (1u << 29)
/* Leaf 0x80000021 */
#define EAX_NULL_SELECTOR_CLEARS_BASE (1u << 6)
#define EAX_SRSO_NO                   (1u << 29)
enum { LAST_EXTENDED_LEAF = 0x80000021 };
/* Leaf 1: follows CR4 */
#define ECX_OSXSAVE (1u << 27)
#define CR4_OSXSAVE (1u << 18)

/* What is there of a local APIC; bit 9 follows IA32_APIC_BASE (SDM vol. 3A §11.4.3). */
static void apic_features(const TranslatorVcpu *vcpu, uint32_t r[4])
{
    const Lapic *lapic = translator_lapic(vcpu);
    r[ECX] &= ~(ECX_X2APIC | ECX_TSC_DEADLINE);
    r[EDX] &= ~EDX_APIC;
    if (lapic)
        r[ECX] |= ECX_X2APIC | ECX_TSC_DEADLINE;
    if (lapic && lapic_is_enabled(lapic))
        r[EDX] |= EDX_APIC;
    r[EBX] = (r[EBX] & 0xffffff) | vcpu->base.index << 24;
}

/* TSC frequency = crystal * EBX / EAX, exact as long as it fits. */
static void tsc_ratio(uint64_t hz, uint32_t r[4])
{
    uint64_t unit = hz > UINT32_MAX ? 1000 : 1;
    r[EAX] = (uint32_t)(LAPIC_TIMER_HZ / unit);
    r[EBX] = (uint32_t)(hz / unit);
}

/* Leaf 0xb: one thread, one core. */
static void topology_leaf(const TranslatorVcpu *vcpu, uint32_t subleaf, uint32_t r[4])
{
    memset(r, 0, 4 * sizeof *r);
    if (!translator_lapic(vcpu))
        return;
    r[ECX] = subleaf & 0xff;
    r[EDX] = vcpu->base.index;
    if (subleaf < 2) {
        r[EBX] = 1;
        r[ECX] |= (subleaf + 1) << 8;
    }
}

static void set_text(uint32_t r[4], uint32_t max_leaf, const char text[12])
{
    r[EAX] = max_leaf;
    memcpy(&r[EBX], text, 12);
}

static void hypervisor_leaf(TranslatorVcpu *vcpu, uint32_t leaf, uint32_t r[4])
{
    memset(r, 0, 4 * sizeof *r);
    switch (leaf) {
    case LEAF_HYPERVISOR:
        set_text(r, LEAF_TIMING, "pyvmmpyvmmpy");
        break;
    case LEAF_TIMING:
        r[EAX] = (uint32_t)(vcpu->board->tsc_hz / 1000);
        r[EBX] = (uint32_t)(LAPIC_TIMER_HZ / 1000);
        break;
    case LEAF_KVM:
        set_text(r, LEAF_KVM_FEATURES, "KVMKVMKVM\0\0\0");
        break;
    case LEAF_KVM_FEATURES:
        r[EAX] = KVM_FEATURE_CLOCK | KVM_FEATURE_CLOCK_NEW | KVM_FEATURE_CLOCK_STABLE;
        break;
    }
}

static void own_cpuid(TranslatorVcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    if (leaf >= LEAF_HYPERVISOR && leaf < LEAF_HYPERVISOR + 0x200) {
        hypervisor_leaf(vcpu, leaf, r);
        return;
    }
    cpu_x86_cpuid_x86_64(vcpu->env, leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]);
    switch (leaf) {
    case 0:
        r[EAX] = MAX(r[EAX], 0x15u);
        break;
    case 1:
        r[ECX] = (r[ECX] & ~ECX_MONITOR) | ECX_HYPERVISOR;
        r[EDX] |= EDX_MTRR | EDX_MCE;
        apic_features(vcpu, r);
        break;
    case 4: /* cache topology: AMD's is in 0x8000001d */
        memset(r, 0, 4 * sizeof *r);
        break;
    case 6:
        r[EAX] |= EAX_ARAT;
        break;
    case 0xb:
        topology_leaf(vcpu, subleaf, r);
        break;
    case 7:
        /* SMAP would end a block at each STAC and CLAC: dear under translation, and no safety to the host. */
        r[EBX] &= ~EBX_SMAP;
        if (subleaf == 0)
            r[ECX] |= ECX_UMIP;
        break;
    case 0xd: /* XSAVE's components: x87 and SSE in the legacy region and a header, 576 bytes */
        if (subleaf > 1)
            memset(r, 0, 4 * sizeof *r);
        if (subleaf == 0) {
            r[EAX] = 3;
            r[EBX] = r[ECX] = 576;
            r[EDX] = 0;
        }
        break;
    case 0x15: /* TSC = crystal * EBX / EAX; the crystal is what the APIC's timer counts */
        tsc_ratio(vcpu->board->tsc_hz, r);
        r[ECX] = (uint32_t)LAPIC_TIMER_HZ;
        r[EDX] = 0;
        break;
    case 0x80000000:
        r[EAX] = LAST_EXTENDED_LEAF;
        break;
    case 0x80000001:
        r[ECX] &= ~(ECX_SVM | ECX_EXT_APIC | ECX_TOPOLOGY);
        r[EDX] = (r[EDX] & ~EDX_APIC) | EDX_MTRR | EDX_MCE;
        if (translator_lapic(vcpu) && lapic_is_enabled(translator_lapic(vcpu)))
            r[EDX] |= EDX_APIC;
        break;
    case 0x80000007:
        r[EDX] |= EDX_INVARIANT_TSC;
        break;
    case 0x80000008:
        r[EAX] = (r[EAX] & ~0xffu) | GUEST_ADDRESS_BITS;
        r[EBX] |= EBX_BTC_NO;
        r[ECX] = 0; /* one core */
        break;
    case 0x8000001f: /* memory encryption, and the leaf after it */
    case 0x80000020:
        memset(r, 0, 4 * sizeof *r);
        break;
    case LAST_EXTENDED_LEAF:
        memset(r, 0, 4 * sizeof *r);
        r[EAX] = EAX_NULL_SELECTOR_CLEARS_BASE | EAX_SRSO_NO;
        break;
    }
}

static const CpuidEntry *find(const TranslatorVcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    for (uint32_t i = 0; i < vcpu->cpuid_count; i++)
        if (vcpu->cpuid[i].leaf == leaf && (!vcpu->cpuid[i].indexed || vcpu->cpuid[i].subleaf == subleaf))
            return &vcpu->cpuid[i];
    return NULL;
}

/* A leaf beyond the last: Intel's processors answer the last basic one, AMD's 0 (SDM vol. 2A; APM vol. 3 appendix
 * E). */
static const CpuidEntry *find_beyond(const TranslatorVcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    bool hypervisor = leaf >> 28 == 4; /* whose classes are 256 leaves apart */
    const CpuidEntry *first = find(vcpu, 0, 0);
    const CpuidEntry *class = find(vcpu, leaf & (hypervisor ? 0xffffff00 : 0x80000000), 0);
    uint32_t intel;
    memcpy(&intel, "ntel", 4);
    if (!first || first->ecx != intel || (class && leaf <= class->eax))
        return NULL;
    return find(vcpu, first->eax, subleaf);
}

void translator_cpuid(TranslatorVcpu *vcpu, uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    if (likely(!vcpu->cpuid)) {
        own_cpuid(vcpu, leaf, subleaf, r);
        return;
    }
    const CpuidEntry *entry = find(vcpu, leaf, subleaf);
    if (!entry)
        entry = find_beyond(vcpu, leaf, subleaf);
    memset(r, 0, 4 * sizeof *r);
    if (entry)
        r[EAX] = entry->eax, r[EBX] = entry->ebx, r[ECX] = entry->ecx, r[EDX] = entry->edx;
    if (leaf == 1)
        r[ECX] = (r[ECX] & ~ECX_OSXSAVE) | (vcpu->env->cr[4] & CR4_OSXSAVE ? ECX_OSXSAVE : 0);
}

int translator_get_cpuid(Vcpu *base, CpuidEntry *entries, uint32_t capacity)
{
    TranslatorVcpu *vcpu = container_of(base, TranslatorVcpu, base), *before = translator_enter(vcpu);
    static const uint32_t CLASSES[] = {0, LEAF_HYPERVISOR, LEAF_KVM, 0x80000000};
    uint32_t count = 0, r[4];
    for (size_t i = 0; i < ARRAY_SIZE(CLASSES); i++) {
        translator_cpuid(vcpu, CLASSES[i], 0, r);
        uint32_t last = MIN(r[EAX], CLASSES[i] + 0x3f); /* no class has more */
        for (uint32_t leaf = CLASSES[i]; leaf <= last; leaf++) {
            uint32_t subleaves = leaf == 7 || leaf == 0xd || leaf == 0x8000001d ? 4 : 1;
            for (uint32_t subleaf = 0; subleaf < subleaves; subleaf++) {
                translator_cpuid(vcpu, leaf, subleaf, r);
                if (!(r[EAX] | r[EBX] | r[ECX] | r[EDX]))
                    continue;
                if (count < capacity)
                    entries[count] = (CpuidEntry){.leaf = leaf,
                                                  .subleaf = subleaf,
                                                  .indexed = subleaves > 1,
                                                  .eax = r[EAX],
                                                  .ebx = r[EBX],
                                                  .ecx = r[ECX],
                                                  .edx = r[EDX]};
                count++;
            }
        }
    }
    translator_enter(before);
    return count <= capacity ? (int)count : -ENOSPC;
}

int translator_set_cpuid(Vcpu *base, const CpuidEntry *entries, uint32_t count)
{
    TranslatorVcpu *vcpu = container_of(base, TranslatorVcpu, base);
    CpuidEntry *copy = calloc(MAX(count, 1u), sizeof *copy);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, entries, count * sizeof *copy);
    free(vcpu->cpuid);
    vcpu->cpuid = copy;
    vcpu->cpuid_count = count;
    return 0;
}
