"""Ports and memory-mapped registers: every size and string form, permission, and what exits look like
(Intel SDM vol. 1 chapter 19)."""

from __future__ import annotations

import pytest

from pyvmm.devices.i8042 import I8042
from pyvmm.engine import ExitReason
from tests.conformance.engine_rig import (
    CODE,
    CONTINUE,
    DATA,
    GP,
    HIGH,
    MMIO,
    PF_,
    PORT,
    ROM,
    UD,
    USER_CODE,
    USER_STACK,
    USER_VECTOR,
    Mode,
    Rig,
    interpreted,
    needs,
)  # fmt: skip

MODES: tuple[Mode, ...] = ("real", "pm16", "pm32", "paging32", "pae", "compat", "long")


@pytest.mark.parametrize("mode", MODES)
def test_ports_of_all_sizes(rig: Rig, mode: Mode) -> None:
    """IN and OUT by immediate and DX; a 32-bit IN zero-extends in 64-bit mode, smaller ones leave the rest."""
    rig.sink.answers = [0x12, 0x3456, 0x789ABCDE]
    state = rig.finish(mode, f"""
        mov eax, 0x11223344; mov dx, {PORT}
        out {PORT + 1}, al; out dx, ax; out dx, eax
        in al, {PORT + 3}; mov ebx, eax; in ax, dx; mov ecx, eax; in eax, dx; hlt""",
        **({"rax": 1 << 63} if mode == "long" else {}))  # fmt: skip
    assert rig.sink.log == [
        ("out", 1, 1, 0x44), ("out", 0, 2, 0x3344), ("out", 0, 4, 0x11223344),
        ("in", 3, 1, 0x12), ("in", 0, 2, 0x3456), ("in", 0, 4, 0x789ABCDE),
    ]  # fmt: skip
    assert (state.ebx, state.ecx, state.rax) == (0x11223312, 0x11223456, 0x789ABCDE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("suffix", "size"), [("b", 1), ("w", 2), ("d", 4)])
def test_string_ports(rig: Rig, mode: Mode, suffix: str, size: int) -> None:
    """REP OUTS and REP INS, up and down."""
    big = mode not in ("real", "pm16")
    si, di, cx = ("esi", "edi", "ecx") if big else ("si", "di", "cx")
    data = bytes(range(0x10, 0x20))
    rig.memory.load(0x7E80, data)
    rig.sink.answers = [int.from_bytes(data[n * size : n * size + size], "little") for n in range(4)]
    state = rig.finish(mode, f"""
        cld; mov dx, {PORT}; mov {si}, 0x7e80; mov {cx}, 4; rep outs{suffix}
        mov {di}, 0x7f00; mov {cx}, 3; rep ins{suffix}
        std; mov {di}, 0x7f40; mov {cx}, 1; rep ins{suffix}; cld; hlt""")  # fmt: skip
    assert rig.sink.written == [int.from_bytes(data[n * size : n * size + size], "little") for n in range(4)]
    assert rig.memory.read(0x7F00, 3 * size) == data[: 3 * size]
    assert rig.memory.read(0x7F40, size) == data[3 * size : 4 * size]
    assert (state.cx, state.si, state.di) == (0, 0x7E80 + 4 * size, 0x7F40 - size)


def test_string_of_thousands(rig: Rig) -> None:
    """A long REP OUTSB: each element once, in order."""
    data = bytes(n * 7 & 0xFF for n in range(5000))
    rig.memory.load(DATA, data)
    rig.finish("pm32", f"mov esi, {DATA}; mov ecx, 5000; mov dx, {PORT}; rep outsb; hlt")
    assert bytes(rig.sink.written) == data


def test_rep_zero_and_unmapped_port(rig: Rig) -> None:
    """REP with a count of zero does nothing; a port that nobody has reads all ones."""
    state = rig.finish(
        "pm32", f"xor ecx, ecx; mov dx, {PORT}; rep insb; rep outsd; mov dx, 0x9999; in eax, dx; hlt"
    )
    assert state.eax == 0xFFFFFFFF
    assert not rig.sink.log


@pytest.mark.parametrize("mode", ["real", "pm32", "paging32", "pae", "long"])
def test_mmio_of_all_sizes(rig: Rig, mode: Mode) -> None:
    """Loads and stores of 1, 2 and 4 bytes, and 4 bytes, and read-modify-write."""
    base = "es:[0x10]" if mode == "real" else "[ebx+0x10]" if mode != "long" else "[rbx+0x10]"
    setup = "mov ax, 0xc000; mov es, ax" if mode == "real" else f"mov ebx, {MMIO}"
    rig.mmio_sink.answers = [0x81, 0x8283, 0x84858687, 0x55]
    state = rig.finish(mode, f"""
        {setup}; mov eax, 0x99aabbcc
        mov byte ptr {base}, al; mov word ptr {base}, ax; mov dword ptr {base}, eax
        movzx ecx, byte ptr {base}; movsx edx, word ptr {base}; mov esi, dword ptr {base}
        add byte ptr {base}, 3; hlt""")  # fmt: skip
    expected = [
        ("out", 16, 1, 0xCC), ("out", 16, 2, 0xBBCC), ("out", 16, 4, 0x99AABBCC),
        ("in", 16, 1, 0x81), ("in", 16, 2, 0x8283), ("in", 16, 4, 0x84858687),
        ("in", 16, 1, 0x55), ("out", 16, 1, 0x58),
    ]  # fmt: skip
    assert rig.mmio_sink.log == expected
    assert (state.ecx, state.edx, state.esi) == (0x81, 0xFFFF8283, 0x84858687)


@needs("long")
def test_mmio_of_eight_bytes(rig: Rig) -> None:
    """One access or two of four: PCI bridges split them too."""
    rig.mmio_sink.memory = bytes(range(0x40, 0x80))
    state = rig.finish("long", f"""
        mov ebx, {MMIO}; mov rdi, 0x1122334455667788; mov [rbx+16], rdi; mov rbp, [rbx+8]; hlt""")  # fmt: skip
    assert rig.mmio_sink.bytes_written == dict(
        zip(range(16, 24), bytes.fromhex("8877665544332211"), strict=True)
    )
    assert state.rbp == 0x4F4E4D4C4B4A4948


@needs("long")
def test_mmio_strings(rig: Rig) -> None:
    """REP MOVSD from the device and STOSB to it."""
    rig.mmio_sink.answers = [1, 2, 3]
    rig.finish("long", f"""
        mov esi, {MMIO}; mov edi, {DATA}; mov ecx, 3; rep movs dword ptr [rdi], dword ptr [rsi]
        mov edi, {MMIO + 0x100}; mov eax, 0x5a; mov ecx, 4; rep stosb; hlt""")  # fmt: skip
    assert rig.memory.read(DATA, 12) == bytes.fromhex("010000000200000003000000")
    assert rig.mmio_sink.log[:3] == [("in", 0, 4, 1), ("in", 4, 4, 2), ("in", 8, 4, 3)]
    assert rig.mmio_sink.log[3:] == [("out", 0x100 + n, 1, 0x5A) for n in range(4)]


@needs("long")
def test_mmio_unaligned_and_across_pages(rig: Rig) -> None:
    """Whatever pieces the engine makes of it, the bytes and their addresses are right."""
    rig.finish("long", f"""
        mov ebx, {MMIO + 0xffd}; mov rax, 0x8877665544332211; mov qword ptr [rbx], rax
        mov dword ptr [rbx-0xffc], eax; hlt""")  # fmt: skip
    stored = rig.mmio_sink.bytes_written
    assert [stored[0xFFD + n] for n in range(8)] == [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]
    assert [stored[1 + n] for n in range(4)] == [0x11, 0x22, 0x33, 0x44]
    assert len(stored) == 12


@needs("long")
def test_mmio_and_sse(rig: Rig) -> None:
    """A 16-byte load: all bytes come, lowest address lowest."""
    rig.mmio_sink.memory = bytes(range(1, 17))
    rig.finish("long", f"mov ebx, {MMIO}; movdqu xmm0, [rbx]; movdqu [0x7f00], xmm0; hlt")
    assert rig.memory.read(0x7F00, 16) == bytes(range(1, 17))


@needs("long")
def test_unmapped_memory(rig: Rig) -> None:
    """Where nobody is: loads are all ones, stores go nowhere."""
    state = rig.state("long", 0)
    rig.tables.map(0x70000000, 0x70000000, 0x1000, "PW")
    rig.start("pm32", "mov ebx, 0x70000000; mov dword ptr [ebx], ebx; mov eax, dword ptr [ebx]; hlt")
    rig.run()
    assert rig.vcpu.state.eax == 0xFFFFFFFF
    assert state.cr3


@pytest.mark.parametrize("mode", ["real", "pm32", "long"])
def test_rom(rig: Rig, mode: Mode) -> None:
    """Stores to ROM are ignored, loads and code work; a host's load may write it."""
    rig.memory.load(ROM, b"\xb8\x34\x12\xcb" if mode == "real" else b"\xb8\x34\x12\x00\x00\xc3")
    if mode == "real":
        program = "mov ax, 0xf000; mov ds, ax; mov word ptr [0], 0; inc word ptr [2]; .byte 0x9a, 0, 0, 0, 0xf0; hlt"
    else:
        register = "rbx" if mode == "long" else "ebx"
        program = f"mov ebx, {ROM}; mov dword ptr [{register}], 0; inc byte ptr [{register}+1]; call {register}; hlt"
    state = rig.finish(mode, program)
    assert state.ax == 0x1234
    rig.memory.load(ROM + 1, b"\x78\x56")
    assert rig.finish(mode, program).ax == 0x5678


def test_a20(make_rig: object) -> None:
    """A20 off: odd megabytes are the even ones (PC/AT), on again: not.

    Switched by the guest at the keyboard controller.
    """
    rig: Rig = make_rig()  # type: ignore[operator]
    keyboard = I8042(rig.board, rig.board.irq_line(1), rig.board.irq_line(12))
    rig.devices.append(keyboard)
    rig.board.pio.add(0x60, 1, keyboard, I8042.DATA)
    rig.board.pio.add(0x64, 1, keyboard, I8042.COMMAND)
    rig.memory.write_u32(0x500, 0x11111111)
    rig.memory.write_u32(HIGH + 0x500, 0x22222222)
    state = rig.finish("real", """
        mov ax, 0xffff; mov es, ax; mov ebx, dword ptr es:[0x510]
        mov al, 0xd1; out 0x64, al; mov al, 0xdd; out 0x60, al; mov ecx, dword ptr es:[0x510];
        mov dword ptr es:[0x510], 0x33333333
        mov al, 0xd1; out 0x64, al; mov al, 0xdf; out 0x60, al; mov edx, dword ptr es:[0x510];
        mov esi, dword ptr [0x500]; hlt""")  # fmt: skip
    assert (state.ebx, state.ecx, state.edx, state.esi) == (0x22222222, 0x11111111, 0x22222222, 0x33333333)


@needs("long")
@pytest.mark.parametrize("mode", ["pm32", "pae", "compat", "long"])
def test_permission_bitmap(rig: Rig, mode: Mode) -> None:
    """Ring 3 above IOPL: the TSS's bitmap decides, every bit of a wide access counts (SDM vol. 1 §19.5.2)."""
    cases = [
        ("in al, 0xe0", 1, True), ("out 0xe0, al", 0, False), ("in ax, 0xe0", 1, False), ("in ax, 0xe0", 2, True),
        ("out 0xe0, eax", 3, False), ("out 0xe0, eax", 4, True), ("mov dx, 0xe0; insb", 0, False),
        ("mov dx, 0xe0; lea rsi, [rsp-64]; rep outsd" if mode == "long" else "mov dx, 0xe0; "
            "lea esi, [esp-64]; rep outsd", 4, True),
    ]  # fmt: skip
    for text, count, allowed in cases:
        rig.forget()
        rig.start(mode, f"{text}; ud2", cpl=3, rcx=2, rdi=USER_STACK)
        rig.allow_port(PORT, count)
        rig.run()
        fault = rig.faults[0]
        assert fault.vector == (UD if allowed else GP), (text, count)
        if not allowed:
            assert fault.error == 0
            assert fault.ip == USER_CODE + (4 if "insb" in text else 0)


@needs("long", "iopl")
@pytest.mark.parametrize("mode", ["pm32", "pae", "compat", "long"])
@pytest.mark.parametrize(("iopl", "vector"), [(2, GP), (3, UD)])
def test_permission_by_iopl(rig: Rig, mode: Mode, iopl: int, vector: int) -> None:
    """Ring 3 at IOPL 3 may use ports and IF (SDM vol. 1 §19.5.1)."""
    assert rig.fault(mode, "out 0xe0, al; cli; sti; ud2", cpl=3, rflags=2 | iopl << 12).vector == vector


@needs("virtual-8086")
def test_permission_in_v86(rig: Rig) -> None:
    """In virtual-8086 mode IOPL does not matter, only the bitmap (SDM vol. 3A §20.3.3)."""
    assert rig.fault("v86", "out 0xe0, al; ud2", rflags=0x23002).vector == GP
    rig.forget()
    rig.start("v86", "out 0xe0, al; ud2")
    rig.allow_port(PORT)
    rig.run()
    assert rig.vectors == [UD]


@needs("protected-32")
@interpreted("TR's limit is not checked")
def test_bitmap_beyond_the_tss(rig: Rig) -> None:
    """Bits past TR's limit are set (SDM vol. 1 §19.5.2)."""
    rig.start("pm32", "out 0xe0, al; ud2", cpl=3)
    rig.allow_port(0, 0x400)
    state = rig.vcpu.state
    state.tr.limit = 0x88 + PORT // 8
    rig.vcpu.state = state
    rig.run()
    assert rig.vectors == [GP]


# Exits ------------------------------------------------------------------------------------------------------------


@needs("long", "surface-io", "surface-mmio", "surface-cpuid", "surface-msr")
def test_exits_are_surfaced_in_order(rig: Rig) -> None:
    """Each with its instruction's address and what was moved; the program goes on as if nothing was."""
    rig.sink.answers = [0x77]
    parts = [
        ("mov eax, 0x5; out 0xe1, al", 5), ("in al, 0xe2", 0), ("mov ebp, 0xe0000000; mov dword ptr [rbp+8], eax", 5),
        ("xor eax, eax; cpuid", 2), ("mov ecx, 0x10; rdmsr", 5), ("mov ecx, 0xc0000081; wrmsr", 5),
        ("mov edx, dword ptr [rbp]", 0), ("hlt", 0),
    ]  # fmt: skip
    at, expected = CODE, []
    from tests.conformance.engine_rig import assemble

    for text, offset in parts:
        expected.append(at + offset)
        at += len(assemble(text, 64, at))
    rig.start("long", "\n".join(text for text, _ in parts), rax=0)
    exits = []
    wanted = [ExitReason.IO, ExitReason.MMIO, ExitReason.CPUID, ExitReason.MSR, ExitReason.HLT]
    while not exits or exits[-1].reason is not ExitReason.HLT:
        exits.append(rig.run(wanted))
    R = ExitReason  # noqa: N806
    assert [e.reason for e in exits] == [R.IO, R.IO, R.MMIO, R.CPUID, R.MSR, R.MSR, R.MMIO, R.HLT]
    assert [e.rip for e in exits[:-1]] == expected[:-1]
    assert exits[-1].rip == at
    out, in_, store = exits[:3]
    assert (out.address, out.size, out.is_write, out.value, out.handled) == (0xE1, 1, True, 5, True)
    assert (in_.address, in_.size, in_.is_write, in_.value) == (0xE2, 1, False, 0x77)
    assert (store.address, store.size, store.is_write, store.value) == (MMIO + 8, 4, True, 0x77)
    assert exits[4].address == 0x10
    assert (exits[5].address, exits[5].is_write) == (0xC0000081, True)


@needs("long", "surface-io")
def test_state_between_exits_is_precise(rig: Rig) -> None:
    """After a surfaced OUT the registers are those after the instruction, or the exit's own state is still at it."""
    rig.start("long", "\n".join(f"mov eax, {n}; out 0xe0, al; inc ebx" for n in range(20)) + "; hlt", rbx=0)
    for n in range(20):
        exit_ = rig.run([ExitReason.IO])
        assert (exit_.reason, exit_.value) == (ExitReason.IO, n)
    assert rig.run().reason is ExitReason.HLT
    assert rig.vcpu.state.ebx == 20
    assert rig.sink.written == list(range(20))


@needs("long", "surface-exception", "surface-interrupt")
@interpreted("only exceptions of instructions that were handed over are seen")
def test_exceptions_are_surfaced(rig: Rig) -> None:
    """Vector, error code, CR2 and address; the guest's handler runs all the same. INT n is an interrupt."""
    rig.on(USER_VECTOR, action=CONTINUE)
    rig.start("long", "nop; int 0x30; mov ebx, 0x50000000; mov eax, dword ptr [rbx]")
    first = rig.run([ExitReason.EXCEPTION, ExitReason.INTERRUPT])
    assert (first.reason, first.vector, first.code) == (ExitReason.INTERRUPT, USER_VECTOR, 1)
    second = rig.run([ExitReason.EXCEPTION])
    assert (second.reason, second.vector, second.has_error) == (ExitReason.EXCEPTION, PF_, True)
    assert (second.value, second.address, second.rip) == (0, 0x50000000, CODE + 8)
    rig.run()
    assert rig.vectors == [USER_VECTOR, PF_]


@needs("long")
def test_exits_are_counted(rig: Rig) -> None:
    """By reason, surfaced or not."""
    rig.finish(
        "long", f"mov ecx, 10; l: out 0xe0, al; loop l; mov ebx, {MMIO}; mov eax, dword ptr [rbx]; hlt"
    )
    counts = rig.vcpu.exit_counts
    assert counts[ExitReason.IO] == 10
    assert counts[ExitReason.MMIO] == 1
    assert counts[ExitReason.HLT] == 1


def test_python_device_raises(rig: Rig) -> None:
    """An exception in a device ends the run and comes out of it; the guest had read all ones."""

    def fail(offset: int, value: int) -> None:
        raise ZeroDivisionError("in a device")

    rig.sink.on_write = fail
    rig.start("pm32", "out 0xe0, al; inc ebx; l: jmp l", rbx=0)
    with pytest.raises(ZeroDivisionError, match="in a device"):
        rig.run()
