"""CPUID, model-specific registers, the TSC, and fast system calls (Intel SDM vol. 2, vol. 4; AMD64 APM vol. 2 §6.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.engine_rig import (
    CODE,
    CS32,
    CS64,
    DS0,
    GP,
    IF,
    SKIP,
    STACK,
    UD,
    USER_CODE,
    USER_STACK,
    Mode,
    Rig,
    assemble,
    interpreted,
    needs,
)  # fmt: skip

MakeRig = Callable[..., Rig]
STAR = CS64 << 32 | 0x1B << 48
KERNEL = 0x9000
SYSRETQ = ".byte 0x48, 0x0f, 0x07"


def cpuid(rig: Rig, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX as the guest reads them."""
    state = rig.finish("long", "cpuid; hlt", rax=leaf, rcx=subleaf)
    return state.eax, state.ebx, state.ecx, state.edx


@needs("cpuid-obeyed")
def test_cpuid_features(rig: Rig) -> None:
    """What is not on this board is not told of, and what code would need is."""
    _, _, ecx, edx = cpuid(rig, 1)
    assert ecx >> 31 & 1, "hypervisor present"
    for name, register, bit in (("APIC", edx, 9), ("x2APIC", ecx, 21), ("TSC deadline", ecx, 24),
                                ("MONITOR", ecx, 3)):  # fmt: skip
        assert not register >> bit & 1, name
    for name, register, bit in (("FPU", edx, 0), ("PSE", edx, 3), ("TSC", edx, 4), ("MSR", edx, 5), ("PAE", edx, 6),
                                ("CX8", edx, 8), ("PGE", edx, 13), ("CMOV", edx, 15), ("SSE2", edx, 26)):  # fmt: skip
        assert register >> bit & 1, name
    avx = cpuid(rig, 0xD)[0] >> 2 & 1
    assert ecx >> 28 & 1 == avx, "AVX and its state go together (SDM vol. 1 §13.3)"
    if not avx:
        assert not cpuid(rig, 7)[1] & (1 << 5 | 1 << 16), "AVX2, AVX512"


def test_machine_check(rig: Rig) -> None:
    """Where CPUID tells of machine checks, MCG_CAP is there and counts no more banks than it has room for."""
    edx = cpuid(rig, 1)[3]
    assert edx >> 7 & 1 == edx >> 14 & 1, "MCE and MCA go together"
    if edx >> 7 & 1:
        state = rig.finish("long", "mov ecx, 0x179; rdmsr; mov ebx, eax; mov ecx, 0x17a; rdmsr; hlt")
        assert state.rbx & 0xFF <= 32
        assert (state.eax, state.edx) == (0, 0), "no machine check is in progress"


def test_cpuid_ranges(rig: Rig) -> None:
    """The last basic and extended leaf, and zeroes above the hypervisor's."""
    assert cpuid(rig, 0)[0] >= 0x15
    assert cpuid(rig, 0x80000000)[0] >= 0x80000008
    assert 0x40000010 <= cpuid(rig, 0x40000000)[0] < 0x40000100
    assert 36 <= cpuid(rig, 0x80000008)[0] & 0xFF <= 40


@needs("tsc-rate")
@pytest.mark.parametrize("hz", [1_000_000_000, 2_500_000_000, 123_456_789])
def test_tsc_frequency(make_rig: MakeRig, hz: int) -> None:
    """Leaf 0x15 (crystal times ratio) and 0x40000010 (kHz) say what the board's is; AMD's bit: invariant."""
    rig = make_rig(tsc_hz=hz)
    eax, ebx, ecx, _ = cpuid(rig, 0x15)
    assert ecx * ebx // eax == hz
    assert cpuid(rig, 0x40000010)[0] == hz // 1000
    assert cpuid(rig, 0x80000007)[3] >> 8 & 1


def test_tsc_frequency_is_told(rig: Rig) -> None:
    """Whatever the rate is, both leaves tell the board's."""
    eax, ebx, ecx, _ = cpuid(rig, 0x15)
    assert ecx * ebx // eax == rig.board.tsc_hz
    assert cpuid(rig, 0x40000010)[0] == rig.board.tsc_hz // 1000


@needs("tsc-rate", "tsc-set")
def test_tsc_counts_the_clock(make_rig: MakeRig) -> None:
    """Monotonic, at the board's frequency by the board's clock, also through WRMSR."""
    rig = make_rig(tsc_hz=3_000_000_000)
    before = rig.board.clock.now
    state = rig.finish("long", """
        rdtsc; shl rdx, 32; lea rsi, [rdx+rax]; mov ebx, 200000
        l: rdtsc; shl rdx, 32; add rax, rdx; cmp rax, rsi; jb bad; mov rsi, rax; dec ebx; jnz l
        mov ecx, 0x10; xor eax, eax; mov edx, 0x1000; wrmsr; rdtsc; hlt
        bad: ud2""", rbx=0)  # fmt: skip
    after = rig.board.clock.now
    assert not rig.faults
    assert before * 3 <= state.rsi <= after * 3 + 3
    assert state.edx == 0x1000


@needs("long", "rdtscp")
@interpreted("CR4.TSD is ignored")
def test_tsd(rig: Rig) -> None:
    """CR4.TSD: RDTSC and RDTSCP are #GP(0) above ring 0 only."""
    cr4 = rig.state("long", 0).cr4 | 4
    for text in ("rdtsc", "rdtscp"):
        rig.forget()
        fault = rig.fault("long", f"nop; {text}; ud2", cpl=3, cr4=cr4)
        assert (fault.vector, fault.error, fault.ip) == (GP, 0, USER_CODE + 1)
        rig.forget()
        assert rig.fault("long", f"{text}; ud2", cr4=cr4).vector == UD
        rig.forget()
        assert rig.fault("long", f"{text}; ud2", cpl=3).vector == UD


@needs("rdtscp")
def test_tsc_aux(rig: Rig) -> None:
    """RDTSCP gives IA32_TSC_AUX in ECX."""
    state = rig.finish(
        "long", "mov ecx, 0xc0000103; mov eax, 0x1234567; xor edx, edx; wrmsr; xor ecx, ecx; rdtscp; hlt"
    )
    assert state.rcx == 0x1234567
    assert state.tsc_aux == 0x1234567


def test_unknown_msr(rig: Rig) -> None:
    """RDMSR and WRMSR of what does not exist: #GP(0), registers as they were."""
    for text in ("rdmsr", "wrmsr"):
        for index in (0x123456, 0x4B564DFF, 0xC0001234):
            rig.forget()
            fault = rig.fault("long", f"mov ecx, {index}; {text}; hlt", rax=5, rdx=6)
            assert (fault.vector, fault.error, fault.ip) == (GP, 0, CODE + 5)
            assert (rig.vcpu.state.rax, rig.vcpu.state.rdx) == (5, 6)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0xC0000080, 1 << 1), (0xC0000080, 1 << 20), (0xC0000082, 1 << 62), (0xC0000100, 1 << 63),
        (0xC0000102, 1 << 62),
        pytest.param(0x277, 0x02, marks=interpreted("PAT's types are not checked")),
        pytest.param(0x277, 0x08, marks=interpreted("PAT's types are not checked")),
    ],
)  # fmt: skip
def test_msr_values_that_are_refused(rig: Rig, index: int, value: int) -> None:
    """Reserved bits, non-canonical addresses, memory types that do not exist: #GP(0), nothing stored."""
    before = rig.state("long", 0)
    fault = rig.fault("long", "wrmsr", rcx=index, rax=value & 0xFFFFFFFF, rdx=value >> 32)
    assert (fault.vector, fault.error) == (GP, 0)
    after = rig.vcpu.state
    assert (after.efer, after.pat, after.lstar) == (before.efer, before.pat, before.lstar)


@pytest.mark.parametrize(("index", "name"), [(0x175, "sysenter_esp"), (0x176, "sysenter_eip")])
def test_sysenter_msrs_stay_canonical(rig: Rig, index: int, name: str) -> None:
    """A non-canonical address is #GP(0) on Intel (SDM vol. 2D WRMSR); KVM stores it sign-extended, as AMD needs it."""
    rig.on(GP, action=SKIP)
    rig.resume_at(0x9000)
    rig.memory.load(0x9000, b"\xf4")
    rig.finish("long", "wrmsr; hlt", rcx=index, rax=0, rdx=1 << 62 - 32)
    value = getattr(rig.vcpu.state, name)
    assert value >> 47 in (0, (1 << 17) - 1)
    assert set(rig.vectors) <= {GP}


@needs("rdtscp")
def test_tsc_aux_has_32_bits(rig: Rig) -> None:
    """More is #GP(0) on Intel; AMD drops it (APM vol. 3 RDTSCP)."""
    rig.on(GP, action=SKIP)
    rig.resume_at(0x9000)
    rig.memory.load(0x9000, b"\xf4")
    state = rig.finish("long", "wrmsr; hlt", rcx=0xC0000103, rax=5, rdx=1)
    assert state.tsc_aux == (0 if rig.faults else 5)
    assert set(rig.vectors) <= {GP}


def test_msrs_keep_values(rig: Rig) -> None:
    """Written by the guest, seen in the state, and the other way round."""
    names = {
        0x174: "sysenter_cs", 0x175: "sysenter_esp", 0x176: "sysenter_eip", 0xC0000081: "star", 0xC0000082: "lstar",
        0xC0000083: "cstar", 0xC0000084: "fmask", 0xC0000102: "kernel_gs_base",
    }  # fmt: skip
    for index, name in names.items():
        state = rig.finish("long", "wrmsr; xor eax, eax; rdmsr; hlt", rcx=index, rax=0x4321, rdx=0)
        assert (getattr(state, name), state.eax) == (0x4321, 0x4321), name
        state = rig.finish("long", "rdmsr; hlt", rcx=index, **{name: 0x8765})
        assert state.eax == 0x8765, name


@needs("long", "xsave")
def test_xcr0(rig: Rig) -> None:
    """XSETBV takes x87 and SSE; what CPUID does not tell of, AVX without SSE, no x87, or another register is #GP(0)
    (SDM vol. 2D XSETBV).
    """
    cr4 = rig.state("long", 0).cr4 | 1 << 18
    assert rig.finish("long", "xsetbv; xgetbv; hlt", cr4=cr4, rax=3, rdx=0, rcx=0).eax == 3
    bad = [(2, 0, 0), (4, 0, 0), (5, 0, 0), (3, 0x4000_0000, 0), (3, 0, 1)]
    if not cpuid(rig, 0xD)[0] & 4:
        bad.append((7, 0, 0))
    for eax, edx, ecx in bad:
        rig.forget()
        fault = rig.fault("long", "xsetbv", cr4=cr4, rax=eax, rdx=edx, rcx=ecx)
        assert (fault.vector, fault.error) == (GP, 0)
    rig.forget()
    assert rig.fault("long", "xgetbv", rcx=0).vector == UD


@needs("long")
def test_cr8(rig: Rig) -> None:
    """Four bits in 64-bit mode; more is #GP(0)."""
    state = rig.finish("long", "mov eax, 9; mov cr8, rax; xor eax, eax; mov rbx, cr8; hlt")
    assert (state.rbx, state.cr8) == (9, 9)
    fault = rig.fault("long", "mov eax, 16; mov cr8, rax")
    assert (fault.vector, fault.error) == (GP, 0)


# Memory types ------------------------------------------------------------------------------------------------------

MTRR_DEF_TYPE, MTRR_CAP = 0x2FF, 0xFE
MTRR_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))


def mtrr_or_skip(rig: Rig) -> None:
    """The registers are there where CPUID tells of them (SDM 3A §11.11.1)."""
    if not cpuid(rig, 1)[3] >> 12 & 1:
        pytest.skip("this engine has no MTRRs, and CPUID says so")


MTRR_NAMES = ("mtrr_def_type", "mtrr_fixed", "mtrr_variable")
MTRR_VALUES = (
    0xC06,
    [0x0001040506000104 + (number << 56) * (number in (0, 1, 4, 5, 6)) for number in range(11)],
    [0x8_0000_0000 + number * 0x10_0000 | (0x800 if number & 1 else 6) for number in range(16)],
)


def test_mtrr_capability(rig: Rig) -> None:
    """Eight variable ranges, fixed ranges and write-combining, read-only (SDM 3A §11.11.1)."""
    mtrr_or_skip(rig)
    assert rig.finish("long", "rdmsr; hlt", rcx=MTRR_CAP).eax & 0xFFF == 0x508
    fault = rig.fault("long", "wrmsr", rcx=MTRR_CAP, rax=0x508, rdx=0)
    assert (fault.vector, fault.error) == (GP, 0)


def test_mtrrs_keep_values(rig: Rig) -> None:
    """Written by the guest, seen in the state, and the other way round; each register its own (SDM 3A §11.11.2)."""
    mtrr_or_skip(rig)
    def_type, fixed, variable = MTRR_VALUES
    pairs = [(MTRR_DEF_TYPE, def_type), *zip(MTRR_FIXED, fixed, strict=True), *enumerate(variable, 0x200)]
    stores = "".join(
        f"mov ecx, {i}; mov eax, {v & 0xFFFFFFFF}; mov edx, {v >> 32}; wrmsr; " for i, v in pairs
    )
    state = rig.finish("long", f"{stores} hlt")
    assert [getattr(state, name) for name in MTRR_NAMES] == list(MTRR_VALUES)
    for index, value in pairs:
        state = rig.finish("long", "rdmsr; hlt", rcx=index, **dict(zip(MTRR_NAMES, MTRR_VALUES, strict=True)))
        assert state.edx << 32 | state.eax == value, hex(index)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (MTRR_DEF_TYPE, 2), (MTRR_DEF_TYPE, 0xC07), (MTRR_DEF_TYPE, 0x106), (MTRR_DEF_TYPE, 1 << 12),
        (0x250, 2), (0x259, 3 << 24), (0x26F, 7 << 56), (0x200, 0x106), (0x200, 2), (0x20E, 1 << 52),
        (0x201, 1), (0x201, 0x400), (0x20F, 1 << 52 | 0x800),
    ],
)  # fmt: skip
def test_mtrr_values_that_are_refused(rig: Rig, index: int, value: int) -> None:
    """Types that do not exist and reserved bits: #GP(0), nothing stored (SDM 3A §11.11.2)."""
    mtrr_or_skip(rig)
    fault = rig.fault("long", "wrmsr", rcx=index, rax=value & 0xFFFFFFFF, rdx=value >> 32)
    assert (fault.vector, fault.error) == (GP, 0)
    state = rig.vcpu.state
    assert (state.mtrr_def_type, *state.mtrr_fixed, *state.mtrr_variable) == (0,) * 28


# Fast system calls ------------------------------------------------------------------------------------------------


def kernel(rig: Rig, text: str, bits: int = 64) -> None:
    """What LSTAR, CSTAR and SYSENTER_EIP point to."""
    rig.memory.load(KERNEL, assemble(text, bits, KERNEL))  # type: ignore[arg-type]


@needs("long", "syscall-to-ring-0")
def test_syscall_and_sysret(rig: Rig) -> None:
    """RCX, R11, FMASK, selectors, and back to 64 bits."""
    kernel(rig, f"mov r8, rcx; mov r9, r11; mov r10w, cs; mov r12w, ss; pushfq; pop r13; {SYSRETQ}")
    rig.start("long", "mov esp, 0x30000; syscall; pushfq; pop r14; mov r15w, cs; mov bx, ss; ud2", cpl=3, star=STAR,
              lstar=KERNEL, fmask=0x600, rflags=0x602 | 1, rsp=USER_STACK)  # fmt: skip
    rig.run()
    after = rig.vcpu.state
    assert rig.vectors == [UD]
    assert after.r8 == USER_CODE + 7
    assert after.r9 & 0x603 == 0x603
    assert (after.r10w, after.r12w) == (CS64, DS0)
    assert after.r13 & 0x601 == 1
    assert after.r14 & 0x603 == 0x603
    assert (after.r15w, after.bx) == (0x2B, 0x23)


@needs("long", "amd")
def test_syscall_in_compatibility_mode(rig: Rig) -> None:
    """To CSTAR in 64-bit mode, and SYSRET back to 32 bits (AMD64 APM vol. 2 §6.1.1)."""
    kernel(rig, "mov r8, rcx; mov r10w, cs; .byte 0x0f, 0x07")
    rig.start(
        "compat", "nop; syscall; mov bx, cs; mov dx, ss; ud2", cpl=3, star=STAR, cstar=KERNEL, lstar=0xDEAD000
    )
    rig.run()
    after = rig.vcpu.state
    assert rig.vectors == [UD]
    assert after.r8 == USER_CODE + 3
    assert (after.r10w, after.bx, after.dx) == (CS64, 0x1B, 0x23)


@needs("long")
@interpreted("EFER.SCE is not checked in ring 3")
def test_syscall_disabled(rig: Rig) -> None:
    """EFER.SCE clear: #UD, for SYSRET too."""
    for text, cpl, base in (("syscall", 3, USER_CODE), (SYSRETQ, 0, CODE)):
        rig.forget()
        efer = rig.state("long", 0).efer & ~1
        fault = rig.fault("long", f"nop; {text}", cpl=cpl, efer=efer, star=STAR, lstar=KERNEL)
        assert (fault.vector, fault.ip) == (UD, base + 1), text


@needs("long")
def test_sysret_to_non_canonical(rig: Rig) -> None:
    """#GP(0) in ring 0 on Intel; on AMD the fetch faults in ring 3 (SDM vol. 2B SYSRET, APM vol. 3 SYSRET)."""
    fault = rig.fault("long", SYSRETQ, star=STAR, rcx=1 << 47, r11=2)
    assert fault.vector == GP
    assert (fault.cs & 3, fault.ip) in ((0, CODE), (3, 1 << 47))


@needs("protected-32")
@pytest.mark.parametrize("mode", ["pm32", "paging32", "pae"])
def test_sysenter_and_sysexit(rig: Rig, mode: Mode) -> None:
    """Ring 3 to 0 with IF off, and back with ECX and EDX (SDM vol. 2B)."""
    kernel(rig, "mov ebx, esp; mov si, cs; mov di, ss; pushfd; pop ebp; sysexit", 32)
    registers = {"sysenter_cs": CS32, "sysenter_esp": STACK, "sysenter_eip": KERNEL, "rflags": 2 | IF}
    rig.start(
        mode,
        f"mov ecx, {USER_STACK - 64}; mov edx, {USER_CODE + 12}; sysenter; mov si, si; ud2",
        cpl=3,
        **registers,
    )
    rig.run()
    after = rig.vcpu.state
    fault = rig.faults[0]
    assert (fault.vector, fault.sp, fault.cs, fault.ss) == (UD, USER_STACK - 64, CS32 + 16 | 3, CS32 + 24 | 3)
    assert (after.ebx, after.si, after.di) == (STACK, CS32, CS32 + 8)
    assert not after.ebp & IF


@needs("protected-32")
def test_sysenter_without_cs(rig: Rig) -> None:
    """IA32_SYSENTER_CS null: #GP(0); SYSEXIT too, and in ring 3."""
    for text, cpl, base in (("sysenter", 3, USER_CODE), ("sysexit", 0, CODE), ("sysexit", 3, USER_CODE)):
        rig.forget()
        fault = rig.fault(
            "pm32", f"nop; {text}", cpl=cpl, sysenter_cs=0 if cpl == 0 or text == "sysenter" else CS32
        )
        assert (fault.vector, fault.error, fault.ip) == (GP, 0, base + 1), (text, cpl)
    assert rig.fault("real", "sysenter; hlt").vector in (GP, UD)
