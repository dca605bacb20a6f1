/*
 * Memory type range registers in KVM (KVM_GET_MSRS and KVM_SET_MSRS, api.rst 4.18). Where it has none, CPUID does
 * not tell of them, and what a state brings is kept for the next reader of the state.
 */
#include "kvm/vm.h"

typedef struct MtrrTable {
    struct kvm_msrs header;
    struct kvm_msr_entry entries[MTRR_MSR_COUNT];
} MtrrTable;

static bool transfer(const KvmVcpu *vcpu, unsigned long request, uint32_t index, uint64_t *value)
{
    struct {
        struct kvm_msrs header;
        struct kvm_msr_entry entry;
    } one = {.header.nmsrs = 1, .entry = {.index = index, .data = *value}};
    bool done = kvm_ioctl(vcpu->fd, request, &one) == 1;
    *value = one.entry.data;
    return done;
}

/* A KVM that drops what it does not know takes any value: the test is that it comes back. */
void kvm_probe_mtrr(KvmVcpu *vcpu)
{
    const uint64_t written = 0xf5600000 | 6;
    const uint32_t last = MSR_MTRR_VARIABLE + 2 * (MTRR_VARIABLE_COUNT - 1);
    uint64_t value = written, capabilities = 0, old = 0;
    bool kept = transfer(vcpu, KVM_GET_MSRS, MSR_MTRR_CAP, &capabilities) &&
                (capabilities & 0xff) == MTRR_VARIABLE_COUNT && transfer(vcpu, KVM_GET_MSRS, last, &old) &&
                transfer(vcpu, KVM_SET_MSRS, last, &value);
    value = 0;
    kept = kept && transfer(vcpu, KVM_GET_MSRS, last, &value) && value == written;
    vcpu->vm->has_mtrr = kept && transfer(vcpu, KVM_SET_MSRS, last, &old);
}

static void name_all(MtrrTable *table)
{
    memset(table, 0, sizeof *table);
    table->header.nmsrs = MTRR_MSR_COUNT;
    for (uint32_t i = 0; i < MTRR_MSR_COUNT; i++)
        table->entries[i].index = mtrr_msr(i);
}

void kvm_get_mtrr(KvmVcpu *vcpu, Mtrr *mtrr)
{
    MtrrTable table;
    *mtrr = vcpu->mtrr;
    if (!vcpu->vm->has_mtrr)
        return;
    name_all(&table);
    int done = kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &table);
    for (int i = 0; i < done; i++)
        store_le64((uint8_t *)mtrr + (size_t)i * sizeof(uint64_t), table.entries[i].data);
}

/* They have no effect on what a guest computes: one that KVM refuses (an address wider than the processor's) is
 * left. */
void kvm_set_mtrr(KvmVcpu *vcpu, const Mtrr *mtrr)
{
    MtrrTable table;
    vcpu->mtrr = *mtrr;
    if (!vcpu->vm->has_mtrr)
        return;
    name_all(&table);
    for (uint32_t i = 0; i < MTRR_MSR_COUNT; i++)
        table.entries[i].data = load_le64((const uint8_t *)mtrr + (size_t)i * sizeof(uint64_t));
    for (uint32_t next = 0; next < MTRR_MSR_COUNT; next++) {
        MtrrTable rest = {.header.nmsrs = MTRR_MSR_COUNT - next};
        memcpy(rest.entries, table.entries + next, rest.header.nmsrs * sizeof rest.entries[0]);
        int done = kvm_ioctl(vcpu->fd, KVM_SET_MSRS, &rest);
        if (done < 0)
            return;
        next += (uint32_t)done;
    }
}
