/* The engine's vtable; opening /dev/kvm, making the VM, its memslots and its vCPU. See vm.h for the structures. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/vm.h"

#define MEGABYTE    (1ull << 20)
#define API_VERSION 12 /* api.rst 4.1: the only one there is */

static const EngineOps OPS;

static KvmVm *vm_of(const EngineVm *base) { return container_of(base, KvmVm, base); }

int kvm_vm_fd(const EngineVm *vm) { return vm->ops == &OPS ? vm_of(vm)->fd : -1; }

int kvm_vcpu_fd(const Vcpu *vcpu) { return vcpu->vm->ops == &OPS ? container_of(vcpu, KvmVcpu, base)->fd : -1; }

bool kvm_vcpu_failure(const Vcpu *base, KvmFailure *failure)
{
    if (base->vm->ops != &OPS)
        return false;
    const KvmVcpu *vcpu = container_of(base, KvmVcpu, base);
    *failure = vcpu->failure;
    return vcpu->failed;
}

static int extension(int fd, unsigned long number) { return kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)number); }

static int open_device(const char *device, Error *error)
{
    int fd = open(device, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    switch (errno) {
    case ENOENT:
        return error_set(
            error, ENOENT,
            "%s: no such file; load the module (modprobe kvm_intel or kvm_amd), switch virtualisation on"
            " in the firmware, or inside a virtual machine ask its host for nested virtualisation",
            device);
    case EACCES:
    case EPERM:
        return error_set(error, EACCES,
                         "%s: permission denied; join the group kvm (usermod -aG kvm NAME, log in again)", device);
    default:
        return error_set(error, errno, "%s: %s", device, strerror(errno));
    }
}

static int check_vcpus(KvmVm *vm, Error *error)
{
    uint32_t count = cpu_topology_count(&vm->topology);
    int most = extension(vm->system_fd, KVM_CAP_MAX_VCPUS),
        recommended = extension(vm->system_fd, KVM_CAP_NR_VCPUS);
    if (recommended <= 0)
        recommended = 4; /* api.rst 4.7 */
    if (most <= 0)
        most = recommended;
    vm->recommended_vcpus = (uint32_t)recommended;
    if (count > (uint32_t)most)
        return error_set(error, EINVAL, "--cpus %u: this KVM runs at most %d vCPUs in a machine", count, most);
    if (cpu_topology_apic_id(&vm->topology, count - 1) > APIC_ID_MAX)
        return error_set(error, EINVAL, "--cpus %u: an xAPIC numbers processors 0 to %u; use at most --cpus %u",
                         count, APIC_ID_MAX, APIC_ID_MAX + 1);
    if (count > 1 && vm->irqchip == IRQCHIP_USER)
        return error_set(error, ENOTSUP,
                         "--cpus %u: pyvmm's own interrupt controllers serve one vCPU under KVM; use"
                         " --irqchip kernel, or --cpus 1",
                         count);
    return 0;
}

static int check_system(KvmVm *vm, const char *device, Error *error)
{
    int version = kvm_ioctl(vm->system_fd, KVM_GET_API_VERSION, NULL);
    if (version < 0)
        return error_set(error, -version, "%s: KVM_GET_API_VERSION: %s; it is not the KVM device", device,
                         strerror(-version));
    if (version != API_VERSION)
        return error_set(error, EPROTO, "%s: KVM API version %d, not %d; this kernel is not supported", device,
                         version, API_VERSION);
    static const struct {
        unsigned long number;
        const char *name;
    } NEEDED[] = {
        {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},       {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
        {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},       {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
        {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(NEEDED); i++)
        if (extension(vm->system_fd, NEEDED[i].number) <= 0)
            return error_set(error, ENOTSUP, "%s: this kernel lacks %s; Linux 4.13 or later is needed", device,
                             NEEDED[i].name);
    vm->has_xcrs = extension(vm->system_fd, KVM_CAP_XCRS) > 0;
    vm->has_debugregs = extension(vm->system_fd, KVM_CAP_DEBUGREGS) > 0;
    vm->has_guest_debug = extension(vm->system_fd, KVM_CAP_SET_GUEST_DEBUG) > 0;
    vm->has_read_only = extension(vm->system_fd, KVM_CAP_READONLY_MEM) > 0;
    vm->has_ioeventfd = extension(vm->system_fd, KVM_CAP_IOEVENTFD) > 0;
    vm->has_any_length = extension(vm->system_fd, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
    vm->has_irqfd = extension(vm->system_fd, KVM_CAP_IRQFD) > 0 &&
                    extension(vm->system_fd, KVM_CAP_IRQ_ROUTING) >= IRQ_GSI_COUNT + KVM_MSI_ROUTES;
    int synced = extension(vm->system_fd, KVM_CAP_SYNC_REGS);
    vm->has_sync_regs = synced > 0 && (synced & KVM_SYNC_X86_REGS) && (synced & KVM_SYNC_X86_SREGS);
    int size = kvm_ioctl(vm->system_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (size < (int)sizeof(struct kvm_run))
        return error_set(error, EPROTO, "%s: KVM_GET_VCPU_MMAP_SIZE says %d bytes, less than struct kvm_run",
                         device, size);
    vm->run_size = (size_t)size;
    return 0;
}

/* What [start, end) of a board's slot shows, at `gpa`. */
static int add_slot(KvmVm *vm, const Memslot *slot, gpa_t start, gpa_t end, gpa_t gpa, Error *error)
{
    start = MAX(start, slot->gpa);
    end = MIN(end, slot->gpa + slot->size);
    if (start >= end)
        return 0;
    if (vm->slot_count == KVM_MAX_SLOTS)
        return error_set(error, ENOSPC, "the KVM engine takes at most %d memslots", KVM_MAX_SLOTS);
    bool read_only = slot->flags & MEMSLOT_READ_ONLY && vm->has_read_only, logged = vm->log_writes && !read_only;
    struct kvm_userspace_memory_region region = {
        .slot = vm->slot_count,
        .flags = (read_only ? KVM_MEM_READONLY : 0) | (logged ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = gpa + start,
        .memory_size = end - start,
        .userspace_addr = (uintptr_t)slot->hva + (start - slot->gpa),
    };
    int result = kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
    if (result < 0)
        return error_set(error, -result, "KVM_SET_USER_MEMORY_REGION slot %u, %#llx + %#llx: %s", vm->slot_count,
                         (unsigned long long)region.guest_phys_addr, (unsigned long long)region.memory_size,
                         strerror(-result));
    vm->slots[vm->slot_count++] =
        (KvmSlot){.gpa = start, .size = end - start, .logged = logged, .read_only = read_only};
    return 0;
}

/* Which pages the guest wrote to since the last time (api.rst 4.8), as runs. */
static int tell_slot_writes(KvmVm *vm, uint32_t number)
{
    const KvmSlot *slot = &vm->slots[number];
    uint64_t pages = slot->size >> GUEST_PAGE_BITS, words = (pages + 63) / 64;
    uint64_t *bitmap = calloc(words, sizeof *bitmap);
    struct kvm_dirty_log log = {.slot = number, .dirty_bitmap = bitmap};
    int result = bitmap ? kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log) : -ENOMEM;
    for (uint64_t page = 0, run = 0; result == 0 && page < pages; page += run + 1) {
        if (!(page % 64) && !bitmap[page / 64]) {
            page += 63;
            run = 0;
            continue;
        }
        for (run = 0; page + run < pages && bitmap[(page + run) / 64] >> ((page + run) % 64) & 1;)
            run++;
        if (run)
            guest_memory_written(vm->base.board->memory, slot->gpa + (page << GUEST_PAGE_BITS),
                                 run << GUEST_PAGE_BITS);
    }
    free(bitmap);
    return result;
}

/* Tell those who listen to guest memory what the guest wrote: by KVM's log; without one, everything. */
static void tell_writes(KvmVm *vm)
{
    GuestMemory *memory = vm->base.board->memory;
    if (!guest_memory_has_listener(memory))
        return;
    for (uint32_t i = 0; i < vm->slot_count; i++)
        if (!vm->slots[i].read_only && (!vm->slots[i].logged || tell_slot_writes(vm, i) < 0))
            guest_memory_written(memory, vm->slots[i].gpa, vm->slots[i].size);
}

/* All memslots anew. Without A20 the second megabyte is the first one again (IBM PC/AT Technical Reference, 1984).
 */
static int map_memory(KvmVm *vm, bool a20, Error *error)
{
    const GuestMemory *memory = vm->base.board->memory;
    int result = 0;
    while (vm->slot_count) {
        struct kvm_userspace_memory_region none = {.slot = --vm->slot_count};
        kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &none);
    }
    for (size_t i = 0; i < guest_memory_slot_count(memory) && result == 0; i++) {
        const Memslot *slot = guest_memory_slot(memory, i);
        if (a20) {
            result = add_slot(vm, slot, 0, UINT64_MAX, 0, error);
            continue;
        }
        result = add_slot(vm, slot, 0, MEGABYTE, 0, error);
        if (result == 0)
            result = add_slot(vm, slot, 0, MEGABYTE, MEGABYTE, error);
        if (result == 0)
            result = add_slot(vm, slot, 2 * MEGABYTE, UINT64_MAX, 0, error);
    }
    return result;
}

/* On the vCPU's thread, from the device that holds the gate. */
static void vm_a20(EngineVm *base, bool on)
{
    KvmVm *vm = vm_of(base);
    tell_writes(vm);
    vm->a20_error = map_memory(vm, on, NULL);
}

/* Slots anew: with them goes what KVM knows of guest page tables, which another engine may have written to. */
static int attach_vm(EngineVm *base, Error *error)
{
    KvmVm *vm = vm_of(base);
    vm->log_writes = guest_memory_has_listener(base->board->memory);
    vm->a20_error = 0;
    int result = map_memory(vm, __atomic_load_n(&base->board->a20, __ATOMIC_ACQUIRE), error);
    if (result < 0)
        return result;
    result = kvm_irqchip_load(base);
    return result < 0
               ? error_set(error, -result, "KVM refuses the interrupt controllers' state: %s", strerror(-result))
               : 0;
}

static int detach_vm(EngineVm *base, Error *error)
{
    int result = kvm_irqchip_store(base);
    if (result < 0)
        return error_set(error, -result, "KVM's interrupt controllers: %s", strerror(-result));
    kvm_time_stop(vm_of(base));
    tell_writes(vm_of(base));
    return 0;
}

/* api.rst 4.59. A write of any size needs KVM_CAP_IOEVENTFD_ANY_LENGTH. */
static int vm_ioeventfd(EngineVm *base, const IoEventFd *entry, bool add)
{
    KvmVm *vm = vm_of(base);
    if (!vm->has_ioeventfd || (entry->size == IOEVENTFD_ANY_SIZE && !vm->has_any_length))
        return -ENOTSUP;
    struct kvm_ioeventfd request = {
        .datamatch = entry->value,
        .addr = entry->address,
        .len = entry->size,
        .fd = entry->fd,
        .flags = (entry->space == BUS_PIO ? KVM_IOEVENTFD_FLAG_PIO : 0) |
                 (entry->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) | (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    return kvm_ioctl(vm->fd, KVM_IOEVENTFD, &request);
}

/* api.rst 4.35. Slots of their own, after those of guest memory; no log: nobody listens to a device's memory. */
static int vm_device_ram(EngineVm *base, uint32_t number, const DeviceRam *ram, bool add)
{
    struct kvm_userspace_memory_region region = {
        .slot = KVM_MAX_SLOTS + number,
        .guest_phys_addr = ram->gpa,
        .memory_size = add ? ram->size : 0,
        .userspace_addr = (uintptr_t)ram->hva,
    };
    return kvm_ioctl(vm_of(base)->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int enable(KvmVm *vm, unsigned long capability, uint64_t argument)
{
    struct kvm_enable_cap request = {.cap = (uint32_t)capability, .args = {argument}};
    return kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &request);
}

static int make_vm(KvmVm *vm, gpa_t reserved_pages, Error *error)
{
    int fd = kvm_ioctl(vm->system_fd, KVM_CREATE_VM, NULL);
    if (fd < 0)
        return error_set(error, -fd, "KVM_CREATE_VM: %s%s", strerror(-fd),
                         fd == -EBUSY ? "; another hypervisor has the processor's virtualisation" : "");
    vm->fd = fd;
    /* Only VT-x needs them; elsewhere a failure means nothing. */
    uint64_t identity = reserved_pages;
    if (reserved_pages) {
        kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
        kvm_ioctl(vm->fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)(reserved_pages + 0x1000));
    }
    int result = kvm_irqchip_create(vm, error);
    if (result < 0)
        return result;
    /* Both are comforts: without them KVM answers with #GP, and tells no instruction bytes. */
    if (extension(vm->system_fd, KVM_CAP_X86_USER_SPACE_MSR) > 0)
        enable(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN);
    if (extension(vm->system_fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE) > 0)
        enable(vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    return 0;
}

/* The guest's TSC at the board's rate where the processor can scale it; elsewhere the board takes the host's rate,
 * unless another engine has told the guest already. */
static int set_tsc_rate(KvmVcpu *vcpu, Error *error)
{
    Board *board = vcpu->board;
    int host_khz = kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, NULL);
    unsigned long wanted_khz = board->tsc_hz / 1000;
    if (extension(vcpu->vm->system_fd, KVM_CAP_TSC_CONTROL) > 0 &&
        kvm_ioctl(vcpu->fd, KVM_SET_TSC_KHZ, (void *)wanted_khz) == 0)
        return 0;
    if (host_khz <= 0 || wanted_khz == (unsigned long)host_khz)
        return 0;
    if (!engine_vm_is_attached(vcpu->base.vm))
        return error_set(
            error, ENOTSUP,
            "this KVM's TSC runs at %d kHz and cannot be scaled, and the guest was told %lu kHz: make the"
            " machine for both engines (--cpu common)",
            host_khz, wanted_khz);
    board->tsc_hz = (uint64_t)host_khz * 1000;
    return 0;
}

/* A TSC that cannot be set is the host's own, and every engine over the board then shows that. */
static int check_tsc(KvmVcpu *first, Error *error)
{
    Board *board = first->board;
    kvm_time_init(first);
    bool is_hosts = first->vm->tsc_fixed;
    if (is_hosts && !board->tsc_is_hosts && !engine_vm_is_attached(first->base.vm))
        return error_set(error, ENOTSUP,
                         "this KVM's TSC is the host's and cannot be set, and the guest has seen another: make the"
                         " machine for both engines (--cpu common)");
    board->tsc_is_hosts = is_hosts;
    return 0;
}

static void free_vcpu(Vcpu *base)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    if (vcpu->run)
        munmap(vcpu->run, vcpu->vm->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    free(vcpu->cpuid);
    vcpu_fini(base);
    free(vcpu);
}

static int prepare_vcpu(KvmVcpu *vcpu, Error *error)
{
    KvmVm *vm = vcpu->vm;
    uint32_t apic_id = cpu_topology_apic_id(&vm->topology, vcpu->base.index);
    vcpu->fd = kvm_ioctl(vm->fd, KVM_CREATE_VCPU, (void *)(uintptr_t)apic_id);
    if (vcpu->fd < 0)
        return error_set(error, -vcpu->fd, "KVM_CREATE_VCPU %u: %s", vcpu->base.index, strerror(-vcpu->fd));
    void *run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (run == MAP_FAILED)
        return error_set(error, errno, "mapping vCPU %u's kvm_run: %s", vcpu->base.index, strerror(errno));
    vcpu->run = run;
    int result = set_tsc_rate(vcpu, error);
    if (result == 0 && vm->base.vcpus == &vcpu->base)
        result = check_tsc(vcpu, error);
    if (result == 0 && vm->base.vcpus == &vcpu->base)
        kvm_probe_mtrr(vcpu);
    if (result == 0)
        result = kvm_set_cpuid(vcpu, error);
    if (result < 0)
        return result;
    if (vm->irqchip != IRQCHIP_USER)
        result = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &vcpu->reset_lapic);
    if (result == 0)
        result = vcpu_reset(&vcpu->base);
    return result < 0 ? error_set(error, -result, "KVM refuses a processor's reset state: %s", strerror(-result))
                      : 0;
}

static Vcpu *new_vcpu(EngineVm *base, uint32_t index, Error *error)
{
    KvmVm *vm = vm_of(base);
    if (index >= cpu_topology_count(&vm->topology)) {
        error_set(error, EINVAL, "vCPU %u: the machine was made for %u; give --cpus the number", index,
                  cpu_topology_count(&vm->topology));
        return NULL;
    }
    KvmVcpu *vcpu = calloc(1, sizeof *vcpu);
    if (!vcpu) {
        error_set(error, ENOMEM, "no host memory for the vCPU");
        return NULL;
    }
    vcpu_init(&vcpu->base, base, index);
    vcpu->vm = vm;
    vcpu->board = base->board;
    vcpu->fd = -1;
    if (prepare_vcpu(vcpu, error) < 0) {
        free_vcpu(&vcpu->base);
        return NULL;
    }
    return &vcpu->base;
}

/* What the board asks is the first vCPU's. */
static void vm_notify(EngineVm *base)
{
    if (base->vcpus)
        vcpu_notify(base->vcpus);
}

static int reset_vm(EngineVm *base) { return kvm_irqchip_reset(vm_of(base)); }

static void pause_vm(EngineVm *base) { kvm_time_stop(vm_of(base)); }

static int reset_vcpu(Vcpu *base)
{
    KvmVcpu *vcpu = kvm_vcpu_of(base);
    return vcpu->vm->irqchip == IRQCHIP_USER ? 0 : kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &vcpu->reset_lapic);
}

static void free_vm(EngineVm *base)
{
    KvmVm *vm = vm_of(base);
    if (engine_vm_is_attached(base))
        kvm_irqchip_store(base);
    kvm_irqchip_let_go(vm);
    engine_vm_disown(base);
    while (base->vcpus)
        free_vcpu(base->vcpus);
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->system_fd >= 0)
        close(vm->system_fd);
    free(vm);
}

static const EngineOps OPS = {
    .name = "kvm",
    .vm_attach = attach_vm,
    .vm_detach = detach_vm,
    .vm_notify = vm_notify,
    .vm_a20 = vm_a20,
    .vm_ioeventfd = vm_ioeventfd,
    .vm_device_ram = vm_device_ram,
    .vm_free = free_vm,
    .vcpu_new = new_vcpu,
    .vcpu_free = free_vcpu,
    .vcpu_run = kvm_vcpu_run,
    .vcpu_step = kvm_vcpu_step,
    .vcpu_notify = kvm_vcpu_notify,
    .vcpu_get_state = kvm_get_state,
    .vcpu_set_state = kvm_set_state,
    .vcpu_update_state = kvm_update_state,
    .vcpu_set_breakpoints = kvm_vcpu_set_breakpoints,
    .vcpu_reset = reset_vcpu,
    .vm_reset = reset_vm,
    .vm_pause = pause_vm,
    .vcpu_get_cpuid = kvm_get_cpuid_entries,
    .vcpu_set_cpuid = kvm_set_cpuid_entries,
    .vcpu_statistics = kvm_statistics,
    .vcpu_privilege = kvm_vcpu_privilege,
};

uint32_t kvm_vm_recommended_vcpus(const EngineVm *vm) { return vm->ops == &OPS ? vm_of(vm)->recommended_vcpus : 1; }

EngineVm *kvm_vm_new(Board *board, const char *device, const KvmOptions *options, Error *error)
{
    if (clock_kind(board->clock) == CLOCK_KIND_VIRTUAL) {
        error_set(error, ENOTSUP,
                  "a virtual clock counts instructions, which KVM does not; use --engine translator");
        return NULL;
    }
    if (kvm_kick_signal(error) < 0)
        return NULL;
    KvmVm *vm = calloc(1, sizeof *vm);
    if (!vm) {
        error_set(error, ENOMEM, "no host memory for the machine");
        return NULL;
    }
    static const KvmOptions DEFAULTS = {.irqchip = IRQCHIP_USER, .topology = {1, 1, 1}};
    if (!options)
        options = &DEFAULTS;
    *vm = (KvmVm){.base = {.ops = &OPS, .board = board, .halts_inside = options->irqchip != IRQCHIP_USER},
                  .system_fd = -1,
                  .fd = -1,
                  .irqchip = options->irqchip,
                  .topology = options->topology,
                  .time_stopped = 1};
    pthread_mutex_init(&vm->time_lock, NULL);
    pthread_mutex_init(&vm->routes_lock, NULL);
    vm->system_fd = open_device(device, error);
    if (vm->system_fd < 0 || check_system(vm, device, error) < 0 || check_vcpus(vm, error) < 0 ||
        make_vm(vm, options->reserved_pages, error) < 0 || engine_vm_adopt(&vm->base, error) < 0) {
        free_vm(&vm->base);
        return NULL;
    }
    return &vm->base;
}
