/*
 * What CPUID tells the guest: what this KVM supports (KVM_GET_SUPPORTED_CPUID, api.rst 4.46), without what this
 * machine does not have, with the hypervisor range that the translator shows too (csrc/translator/cpuid.c).
 *
 * Topology is told where the guest has local APICs, in Intel's way (leaves 1, 4, 0xb, and 0x1f where the processor
 * has it) and, on AMD's processors, in theirs too (0x80000008, 0x8000001d, 0x8000001e).
 *
 * Sources: Intel SDM vol. 2A CPUID; AMD64 APM vol. 3 appendix E; KVM's cpuid.rst for the paravirtual clock's range.
 */
#include <stdlib.h>

#include "kvm/vm.h"

enum {
    MAX_ENTRIES = 256,
    LEAF_HYPERVISOR = 0x40000000, /* signature of pyvmm; its range ends with the timing leaf */
    LEAF_TIMING = 0x40000010,     /* EAX: TSC kHz, EBX: bus kHz */
    LEAF_KVM = 0x40000100,        /* KVM finds its own range by this signature (cpuid.rst) */
    LEAF_KVM_FEATURES = 0x40000101,
    KVM_DEFAULT_FEATURES = 0x40000001, /* where KVM_GET_SUPPORTED_CPUID puts them */
    FEATURE_CLOCK = 1 << 0,
    FEATURE_NOP_IO_DELAY = 1 << 1,
    FEATURE_CLOCK_NEW = 1 << 3,
    FEATURE_CLOCK_STABLE = 1 << 24,
    ADDRESS_BITS = 40,
};

/* Leaf 0 */
#define ECX_AUTHENTIC_AMD 0x444d4163u
#define ECX_HYGON_GENUINE 0x656e6975u
/* Leaf 1 */
#define ECX_MONITOR      (1u << 3)
#define ECX_VMX          (1u << 5)
#define ECX_X2APIC       (1u << 21)
#define ECX_TSC_DEADLINE (1u << 24)
#define ECX_HYPERVISOR   (1u << 31)
#define EDX_APIC         (1u << 9)
#define EDX_MTRR         (1u << 12)
#define EDX_MCE          ((1u << 7) | (1u << 14))
#define EDX_HTT          (1u << 28)
/* Leaf 0x80000001 */
#define ECX_CMP_LEGACY (1u << 1)
#define ECX_SVM        (1u << 2)
#define ECX_EXT_APIC   (1u << 3)
#define ECX_TOPOLOGY   (1u << 22)
/* Leaf 0x80000007 */
#define EDX_INVARIANT_TSC (1u << 8)

typedef struct CpuidTable {
    struct kvm_cpuid2 header;
    struct kvm_cpuid_entry2 entries[MAX_ENTRIES];
} CpuidTable;

static struct kvm_cpuid_entry2 *append(CpuidTable *table, uint32_t leaf)
{
    if (table->header.nent == MAX_ENTRIES)
        return NULL;
    struct kvm_cpuid_entry2 *entry = &table->entries[table->header.nent++];
    *entry = (struct kvm_cpuid_entry2){.function = leaf};
    return entry;
}

static struct kvm_cpuid_entry2 *find_or_append(CpuidTable *table, uint32_t leaf)
{
    for (uint32_t i = 0; i < table->header.nent; i++)
        if (table->entries[i].function == leaf)
            return &table->entries[i];
    return append(table, leaf);
}

static bool has_lapic(const KvmVcpu *vcpu) { return vcpu->vm->irqchip != IRQCHIP_USER || kvm_has_board_apic(vcpu); }

/* Leaves 4 and 0x8000001d: which logical processors share a cache, EAX[25:14], and Intel's cores in a package,
 * [31:26]. The last level is a package's, the others a core's. */
static void adjust_cache(struct kvm_cpuid_entry2 *entry, const CpuTopology *topology)
{
    uint32_t level = entry->eax >> 5 & 7, reserved = entry->function == 4 ? 0 : entry->eax & 0xfc000000;
    if (!(entry->eax & 31))
        return; /* no more caches */
    uint32_t shift = level >= 3 ? cpu_topology_package_shift(topology) : cpu_topology_core_shift(topology);
    uint32_t cores = MIN((1u << cpu_topology_bits(topology->cores)) - 1, 63u);
    entry->eax = (entry->eax & 0x3fff) | MIN((1u << shift) - 1, 0xfffu) << 14;
    entry->eax |= entry->function == 4 ? cores << 26 : reserved;
}

static void adjust_features(struct kvm_cpuid_entry2 *entry, const KvmVcpu *vcpu, uint32_t apic_id)
{
    const CpuTopology *topology = &vcpu->vm->topology;
    uint32_t siblings = 1u << cpu_topology_package_shift(topology);
    /* No machine-check registers behind the bits; memory-type registers where KVM has them. */
    entry->ecx &= ~(ECX_MONITOR | ECX_VMX | ECX_X2APIC | ECX_TSC_DEADLINE);
    entry->ecx |= ECX_HYPERVISOR;
    entry->edx &= ~(EDX_APIC | EDX_MTRR | EDX_MCE | EDX_HTT);
    entry->edx |= vcpu->vm->has_mtrr ? EDX_MTRR : 0;
    entry->ebx = (entry->ebx & 0xffff) | MIN(siblings, 255u) << 16 | apic_id << 24;
    if (!has_lapic(vcpu))
        return;
    entry->edx |= EDX_APIC | (siblings > 1 ? EDX_HTT : 0);
    if (kvm_has_board_apic(vcpu))
        return;
    entry->ecx |= ECX_X2APIC;
    if (kvm_ioctl(vcpu->vm->fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_DEADLINE_TIMER) > 0)
        entry->ecx |= ECX_TSC_DEADLINE;
}

static void adjust(struct kvm_cpuid_entry2 *entry, const KvmVcpu *vcpu, uint32_t apic_id)
{
    const CpuTopology *topology = &vcpu->vm->topology;
    uint32_t in_package = topology->cores * topology->threads;
    switch (entry->function) {
    case 0:
        entry->eax = MAX(entry->eax, 0x15u);
        break;
    case 1:
        adjust_features(entry, vcpu, apic_id);
        break;
    case 4:
    case 0x8000001d:
        adjust_cache(entry, topology);
        break;
    case 0x80000001:
        entry->ecx &= ~(ECX_CMP_LEGACY | ECX_SVM | ECX_EXT_APIC | (has_lapic(vcpu) ? 0 : ECX_TOPOLOGY));
        entry->ecx |= in_package > 1 && vcpu->vm->is_amd ? ECX_CMP_LEGACY : 0;
        entry->edx &= ~(EDX_APIC | EDX_MTRR | EDX_MCE);
        entry->edx |= vcpu->vm->has_mtrr && vcpu->vm->is_amd ? EDX_MTRR : 0;
        entry->edx |= has_lapic(vcpu) && vcpu->vm->is_amd ? EDX_APIC : 0;
        break;
    case 0x8000001e:
        entry->eax = apic_id;
        entry->ebx = (topology->threads - 1) << 8 | (apic_id >> cpu_topology_core_shift(topology) & 0xff);
        entry->ecx = 0; /* one node */
        break;
    case 0x80000007:
        entry->edx |= EDX_INVARIANT_TSC;
        break;
    case 0x80000008:
        entry->eax = (entry->eax & ~0xffu) | MIN(entry->eax & 0xff, (uint32_t)ADDRESS_BITS);
        entry->ecx = cpu_topology_package_shift(topology) << 12 | MIN(in_package - 1, 0xffu);
        break;
    }
}

/* Topology, performance counters, virtualisation and what KVM says of itself: not this machine's. */
static bool left_out(uint32_t leaf, bool topology)
{
    return leaf == 0xa || leaf == 0xb || leaf == 0x1f || leaf == 0x8000000a || leaf >> 28 == 4 ||
           ((leaf == 4 || leaf == 0x8000001d || leaf == 0x8000001e) && !topology);
}

/* Leaves 0xb and 0x1f: for each level how far to shift the x2APIC ID to number the next one, and how many
 * processors it has. There are no levels (tiles, dies) that only 0x1f can tell of. */
static void add_topology(CpuidTable *table, uint32_t leaf, const CpuTopology *topology, uint32_t apic_id)
{
    enum { INVALID, THREADS, CORES };
    const uint32_t LEVELS[][3] = {
        {cpu_topology_core_shift(topology), topology->threads, THREADS},
        {cpu_topology_package_shift(topology), topology->cores * topology->threads, CORES},
        {0, 0, INVALID},
    };
    for (uint32_t index = 0; index < ARRAY_SIZE(LEVELS); index++) {
        struct kvm_cpuid_entry2 *entry = append(table, leaf);
        if (!entry)
            return;
        entry->index = index;
        entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        entry->eax = LEVELS[index][0];
        entry->ebx = LEVELS[index][1];
        entry->ecx = LEVELS[index][2] << 8 | index;
        entry->edx = apic_id;
    }
}

static void add_hypervisor_range(CpuidTable *table, uint32_t features, uint32_t tsc_khz)
{
    struct kvm_cpuid_entry2 *entry = append(table, LEAF_HYPERVISOR);
    if (entry) {
        entry->eax = LEAF_TIMING;
        uint32_t text[3];
        memcpy(text, "pyvmmpyvmmpy", sizeof text);
        entry->ebx = text[0], entry->ecx = text[1], entry->edx = text[2];
    }
    if ((entry = append(table, LEAF_TIMING)))
        entry->eax = tsc_khz, entry->ebx = 1000000;
    if ((entry = append(table, LEAF_KVM))) {
        uint32_t text[3];
        memcpy(text, "KVMKVMKVM\0\0\0", sizeof text);
        entry->eax = LEAF_KVM_FEATURES;
        entry->ebx = text[0], entry->ecx = text[1], entry->edx = text[2];
    }
    if ((entry = append(table, LEAF_KVM_FEATURES)))
        entry->eax = features & (FEATURE_CLOCK | FEATURE_NOP_IO_DELAY | FEATURE_CLOCK_NEW | FEATURE_CLOCK_STABLE);
}

/* Takes the table over. Kept as it was given: some KVMs show the guest, and KVM_GET_CPUID2, more than that. */
static int give(KvmVcpu *vcpu, CpuidTable *table)
{
    int result = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, table);
    if (result < 0) {
        free(table);
        return result;
    }
    free(vcpu->cpuid);
    vcpu->cpuid = table;
    return 0;
}

int kvm_get_cpuid_entries(Vcpu *base, CpuidEntry *entries, uint32_t capacity)
{
    const CpuidTable *table = kvm_vcpu_of(base)->cpuid;
    if (table->header.nent > capacity)
        return -ENOSPC;
    for (uint32_t i = 0; i < table->header.nent; i++) {
        const struct kvm_cpuid_entry2 *from = &table->entries[i];
        entries[i] = (CpuidEntry){.leaf = from->function,
                                  .subleaf = from->index,
                                  .indexed = (from->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0,
                                  .eax = from->eax,
                                  .ebx = from->ebx,
                                  .ecx = from->ecx,
                                  .edx = from->edx};
    }
    return (int)table->header.nent;
}

int kvm_set_cpuid_entries(Vcpu *base, const CpuidEntry *entries, uint32_t count)
{
    CpuidTable *table = calloc(1, sizeof *table);
    if (!table)
        return -ENOMEM;
    table->header.nent = MIN(count, (uint32_t)MAX_ENTRIES);
    for (uint32_t i = 0; i < table->header.nent; i++)
        table->entries[i] =
            (struct kvm_cpuid_entry2){.function = entries[i].leaf,
                                      .index = entries[i].subleaf,
                                      .flags = entries[i].indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
                                      .eax = entries[i].eax,
                                      .ebx = entries[i].ebx,
                                      .ecx = entries[i].ecx,
                                      .edx = entries[i].edx};
    return give(kvm_vcpu_of(base), table);
}

int kvm_set_cpuid(KvmVcpu *vcpu, Error *error)
{
    CpuidTable *table = calloc(1, sizeof *table);
    if (!table)
        return error_set(error, ENOMEM, "no host memory for the vCPU's CPUID table");
    table->header.nent = MAX_ENTRIES;
    int result = kvm_ioctl(vcpu->vm->system_fd, KVM_GET_SUPPORTED_CPUID, table);
    if (result < 0) {
        free(table);
        return error_set(error, -result, "KVM_GET_SUPPORTED_CPUID: %s", strerror(-result));
    }
    uint32_t features = 0, kept = 0, most = 0,
             apic_id = cpu_topology_apic_id(&vcpu->vm->topology, vcpu->base.index);
    for (uint32_t i = 0; i < table->header.nent; i++)
        if (table->entries[i].function == 0) {
            most = table->entries[i].eax;
            vcpu->vm->is_amd =
                table->entries[i].ecx == ECX_AUTHENTIC_AMD || table->entries[i].ecx == ECX_HYGON_GENUINE;
        }
    for (uint32_t i = 0; i < table->header.nent; i++) {
        struct kvm_cpuid_entry2 entry = table->entries[i];
        if (entry.function == KVM_DEFAULT_FEATURES)
            features = entry.eax;
        if (left_out(entry.function, has_lapic(vcpu)))
            continue;
        adjust(&entry, vcpu, apic_id);
        table->entries[kept++] = entry;
    }
    table->header.nent = kept;
    if (has_lapic(vcpu)) {
        add_topology(table, 0xb, &vcpu->vm->topology, apic_id);
        if (most >= 0x1f && !vcpu->vm->is_amd)
            add_topology(table, 0x1f, &vcpu->vm->topology, apic_id);
    }
    uint64_t hz = vcpu->board->tsc_hz;
    struct kvm_cpuid_entry2 *timing = find_or_append(table, 0x15); /* TSC = crystal * EBX / EAX */
    if (timing) {
        timing->eax = timing->ebx = 1;
        timing->ecx = (uint32_t)MIN(hz, (uint64_t)UINT32_MAX);
        timing->edx = 0;
    }
    struct kvm_cpuid_entry2 *power = find_or_append(table, 0x80000007);
    if (power)
        power->edx |= EDX_INVARIANT_TSC;
    add_hypervisor_range(table, features, (uint32_t)(hz / 1000));
    result = give(vcpu, table);
    return result < 0 ? error_set(error, -result, "KVM_SET_CPUID2: %s", strerror(-result)) : 0;
}
