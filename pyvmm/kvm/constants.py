"""KVM's numbers by name: capabilities, exit reasons, flags. They are ABI: no matter which headers are installed.

Source: include/uapi/linux/kvm.h and Documentation/virt/kvm/api.rst (sections 7 and 8) of Linux 6.18.
Those of other architectures are left out.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from pyvmm.errors import EngineError

API_VERSION = 12


class Capability(IntEnum):
    """What KVM_CHECK_EXTENSION can be asked for on x86, without the prefix KVM_CAP_."""

    IRQCHIP = 0
    HLT = 1
    MMU_SHADOW_CACHE_CONTROL = 2
    USER_MEMORY = 3
    SET_TSS_ADDR = 4
    VAPIC = 6
    EXT_CPUID = 7
    CLOCKSOURCE = 8
    NR_VCPUS = 9
    NR_MEMSLOTS = 10
    PIT = 11
    NOP_IO_DELAY = 12
    MP_STATE = 14
    COALESCED_MMIO = 15
    SYNC_MMU = 16
    DESTROY_MEMORY_REGION_WORKS = 21
    USER_NMI = 22
    SET_GUEST_DEBUG = 23
    REINJECT_CONTROL = 24
    IRQ_ROUTING = 25
    IRQ_INJECT_STATUS = 26
    JOIN_MEMORY_REGIONS_WORKS = 30
    MCE = 31
    IRQFD = 32
    PIT2 = 33
    SET_BOOT_CPU_ID = 34
    PIT_STATE2 = 35
    IOEVENTFD = 36
    SET_IDENTITY_MAP_ADDR = 37
    XEN_HVM = 38
    ADJUST_CLOCK = 39
    INTERNAL_ERROR_DATA = 40
    VCPU_EVENTS = 41
    HYPERV = 44
    HYPERV_VAPIC = 45
    HYPERV_SPIN = 46
    PCI_SEGMENT = 47
    INTR_SHADOW = 49
    DEBUGREGS = 50
    X86_ROBUST_SINGLESTEP = 51
    ENABLE_CAP = 54
    XSAVE = 55
    XCRS = 56
    ASYNC_PF = 59
    TSC_CONTROL = 60
    GET_TSC_KHZ = 61
    MAX_VCPUS = 66
    ONE_REG = 70
    TSC_DEADLINE_TIMER = 72
    SYNC_REGS = 74
    KVMCLOCK_CTRL = 76
    SIGNAL_MSI = 77
    READONLY_MEM = 81
    IRQFD_RESAMPLE = 82
    DEVICE_CTRL = 89
    EXT_EMUL_CPUID = 95
    HYPERV_TIME = 96
    IOAPIC_POLARITY_IGNORED = 97
    ENABLE_CAP_VM = 98
    IOEVENTFD_NO_LENGTH = 100
    VM_ATTRIBUTES = 101
    CHECK_EXTENSION_VM = 105
    DISABLE_QUIRKS = 116
    X86_SMM = 117
    MULTI_ADDRESS_SPACE = 118
    SPLIT_IRQCHIP = 121
    IOEVENTFD_ANY_LENGTH = 122
    HYPERV_SYNIC = 123
    VCPU_ATTRIBUTES = 127
    MAX_VCPU_ID = 128
    X2APIC_API = 129
    MSI_DEVID = 131
    IMMEDIATE_EXIT = 136
    X86_DISABLE_EXITS = 143
    HYPERV_SYNIC2 = 148
    HYPERV_VP_INDEX = 149
    GET_MSR_FEATURES = 153
    HYPERV_EVENTFD = 154
    HYPERV_TLBFLUSH = 155
    NESTED_STATE = 157
    MSR_PLATFORM_INFO = 159
    HYPERV_SEND_IPI = 161
    COALESCED_PIO = 162
    HYPERV_ENLIGHTENED_VMCS = 163
    EXCEPTION_PAYLOAD = 164
    HYPERV_CPUID = 167
    MANUAL_DIRTY_LOG_PROTECT2 = 168
    HYPERV_DIRECT_TLBFLUSH = 175
    PMU_EVENT_FILTER = 173
    HALT_POLL = 182
    ASYNC_PF_INT = 183
    LAST_CPU = 184
    SMALLER_MAXPHYADDR = 185
    STEAL_TIME = 187
    X86_USER_SPACE_MSR = 188
    X86_MSR_FILTER = 189
    ENFORCE_PV_FEATURE_CPUID = 190
    SYS_HYPERV_CPUID = 191
    DIRTY_LOG_RING = 192
    X86_BUS_LOCK_EXIT = 193
    SET_GUEST_DEBUG2 = 195
    SGX_ATTRIBUTE = 196
    PTP_KVM = 198
    HYPERV_ENFORCE_CPUID = 199
    SREGS2 = 200
    EXIT_HYPERCALL = 201
    BINARY_STATS_FD = 203
    EXIT_ON_EMULATION_FAILURE = 204
    VM_GPA_BITS = 207
    XSAVE2 = 208
    SYS_ATTRIBUTES = 209
    PMU_CAPABILITY = 212
    DISABLE_QUIRKS2 = 213
    VM_TSC_CONTROL = 214
    SYSTEM_EVENT_DATA = 215
    X86_TRIPLE_FAULT_EVENT = 218
    X86_NOTIFY_VMEXIT = 219
    VM_DISABLE_NX_HUGE_PAGES = 220
    DIRTY_LOG_RING_ACQ_REL = 223


def capability_number(capability: Capability | str | int) -> int:
    """The number of a capability given by name (with or without KVM_CAP_) or number.

    Raises
    ------
    EngineError
        There is no such name.
    """
    if not isinstance(capability, str):
        return int(capability)
    try:
        return Capability[capability.removeprefix("KVM_CAP_")].value
    except KeyError:
        raise EngineError(
            f"{capability}: not a capability of KVM on x86 that pyvmm knows; a number will do"
        ) from None


class KvmExitReason(IntEnum):
    """kvm_run.exit_reason (api.rst 5), without the prefix KVM_EXIT_; others than x86's are left out."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    HYPERV = 27
    X86_RDMSR = 29
    X86_WRMSR = 30
    DIRTY_RING_FULL = 31
    X86_BUS_LOCK = 33
    XEN = 34
    NOTIFY = 37
    MEMORY_FAULT = 39
    TDX = 40

    @classmethod
    def _missing_(cls, value: object) -> KvmExitReason | None:
        """A number that this list does not have is a member all the same: KVM may add exits."""
        if not isinstance(value, int):
            return None
        member = int.__new__(cls, value)
        member._name_ = f"UNDOCUMENTED_{value}"
        member._value_ = value
        return member


class MemoryFlag(IntFlag):
    """Flags of a memslot (api.rst 4.35)."""

    NONE = 0
    LOG_DIRTY_PAGES = 1
    READONLY = 2


class MpState(IntEnum):
    """A vCPU's multiprocessing state (api.rst 4.38)."""

    RUNNABLE = 0
    UNINITIALIZED = 1
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4


class GuestDebug(IntFlag):
    """Control bits of KVM_SET_GUEST_DEBUG (api.rst 4.87)."""

    NONE = 0
    ENABLE = 1 << 0
    SINGLESTEP = 1 << 1
    USE_SW_BP = 1 << 16
    USE_HW_BP = 1 << 17
    INJECT_DB = 1 << 18
    INJECT_BP = 1 << 19
    BLOCKIRQ = 1 << 20


class MsrExit(IntFlag):
    """Which refused MSR accesses exit to user space (api.rst 7.21)."""

    INVALID = 1 << 0
    UNKNOWN = 1 << 1
    FILTER = 1 << 2


class SyncRegs(IntFlag):
    """Register sets in kvm_run.s.regs (api.rst 5, KVM_CAP_SYNC_REGS)."""

    REGS = 1 << 0
    SREGS = 1 << 1
    EVENTS = 1 << 2


class Irqchip(IntEnum):
    """The chips of an in-kernel irqchip (api.rst 4.26)."""

    PIC_MASTER = 0
    PIC_SLAVE = 1
    IOAPIC = 2
