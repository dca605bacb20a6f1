"""Self-modifying code in every way, and host writes seen by the guest (Intel SDM vol. 3A §8.1.3, §11.6)."""

from __future__ import annotations

import threading
import time

import pytest

from tests.conformance.engine_rig import CODE, DATA, HIGH, Mode, Rig, needs

VA = 0x40000000
FUNCTION = 0x9000  # mov eax, imm32; ret


def function(value: int) -> bytes:
    """Code that returns `value`."""
    return b"\xb8" + value.to_bytes(4, "little") + b"\xc3"


@pytest.mark.parametrize("mode", ["pm32", "paging32", "long"])
def test_same_page(rig: Rig, mode: Mode) -> None:
    """A loop that increments an immediate of its own next instruction."""
    state = rig.finish(mode, """
        mov ecx, 200; xor edx, edx
        l: inc byte ptr [there+1]; jmp there
        there: mov al, 0; movzx eax, al; add edx, eax; dec ecx; jnz l; hlt""")  # fmt: skip
    assert state.edx == sum(range(1, 201))


@pytest.mark.parametrize("mode", ["real", "pm16", "pm32"])
def test_next_instruction(rig: Rig, mode: Mode) -> None:
    """An instruction that rewrites the very next one, in the same block."""
    register = "bx" if mode != "pm32" else "ebx"
    state = rig.finish(mode, f"mov {register}, there; mov byte ptr [{register}], 0x43; there: inc ecx; nop; hlt"
                       if mode == "pm32" else "mov bx, there; mov byte ptr [bx], 0x43; there: inc cx; nop; hlt",
                       rbx=0, rcx=0)  # fmt: skip
    assert state.ecx == 0
    assert state.bx == (CODE & 0xFFFF) + {"pm32": 8}.get(mode, 6) + 1


@needs("long")
def test_across_pages_and_often(rig: Rig) -> None:
    """Code in another page, rewritten between calls 3000 times, each value seen."""
    rig.memory.load(FUNCTION, function(0))
    state = rig.finish("long", f"""
        mov ebx, {FUNCTION}; mov ecx, 3000; xor edx, edx
        l: mov dword ptr [rbx+1], ecx; call rbx; add edx, eax; dec ecx; jnz l; hlt""")  # fmt: skip
    assert state.edx == 3000 * 3001 // 2


@needs("long")
def test_code_beside_data(rig: Rig) -> None:
    """Stores to a page that also holds code, but not to the code: nothing goes wrong and both stay."""
    rig.memory.load(FUNCTION, function(7))
    state = rig.finish("long", f"""
        mov ebx, {FUNCTION}; mov ecx, 20000; xor edx, edx
        l: add dword ptr [rbx+0x800], 3; call rbx; add edx, eax; dec ecx; jnz l; hlt""")  # fmt: skip
    assert state.edx == 7 * 20000
    assert rig.memory.read_u32(FUNCTION + 0x800) == 3 * 20000


@needs("long")
@pytest.mark.parametrize("flags", ["PW", "PWX"])
def test_alias(rig: Rig, flags: str) -> None:
    """Rewritten through a second mapping; run through a second mapping."""
    rig.start("long", f"""
        mov ebx, {FUNCTION}; mov ebp, {VA}; mov ecx, 1000; xor edx, edx
        l: call rbx; add edx, eax; inc dword ptr [rbp+1]; dec ecx; jnz l; hlt""")  # fmt: skip
    rig.memory.load(FUNCTION, function(1))
    rig.tables.map(VA, FUNCTION, 0x1000, flags)
    rig.run()
    assert rig.vcpu.state.edx == 1000 * 1001 // 2


@needs("long")
def test_straddling_pages(rig: Rig) -> None:
    """An instruction over a page boundary, either half rewritten."""
    at = HIGH + 0x10FFD
    rig.memory.load(at, function(0))
    state = rig.finish("long", f"""
        mov ebx, {at}; mov ecx, 200; xor edx, edx
        l: mov byte ptr [rbx+1], cl; mov byte ptr [rbx+3], cl; call rbx; mov r8d, ecx; imul r8d, r8d, 0x10001
        cmp eax, r8d; je m; inc edx; m: dec ecx; jnz l; hlt""")  # fmt: skip
    assert state.edx == 0


@needs("long")
def test_string_store_over_code(rig: Rig) -> None:
    """REP MOVSB over code that has run, and over its own page."""
    rig.memory.load(FUNCTION, function(1))
    rig.memory.load(DATA, function(2))
    state = rig.finish("long", f"""
        mov ebx, {FUNCTION}; call rbx; mov r8d, eax
        mov esi, {DATA}; mov edi, {FUNCTION}; mov ecx, 6; rep movsb; call rbx; mov r9d, eax; hlt""")  # fmt: skip
    assert (state.r8, state.r9) == (1, 2)


@needs("long")
def test_remapped_code(rig: Rig) -> None:
    """The page under an address is changed with INVLPG: other code runs there."""
    rig.start("long", f"""
        mov ebx, {VA}; mov ecx, 500; xor edx, edx
        l: call rbx; add edx, eax; xor dword ptr [rsi], 0x3000; invlpg [rbx]; dec ecx; jnz l; hlt""")  # fmt: skip
    rig.memory.load(0x51000, function(1))
    rig.memory.load(0x52000, function(1000))
    rig.tables.map(VA, 0x51000, 0x1000, "PW")
    entry = rig.tables.entry(VA)
    rig.tables.map(entry & ~0xFFF, entry & ~0xFFF, 0x1000, "PW")
    rig.vcpu.registers.rsi = entry
    rig.run()
    assert rig.vcpu.state.edx == 250 * 1001


def test_host_writes_between_runs(rig: Rig) -> None:
    """By `write`, by `load`, and through a view with `written`."""
    rig.memory.load(FUNCTION, function(1))
    program = f"mov ebx, {FUNCTION}; call ebx; hlt"
    assert rig.finish("pm32", program).eax == 1
    rig.memory.write(FUNCTION, function(2))
    assert rig.finish("pm32", program).eax == 2
    rig.memory.load(FUNCTION, function(3))
    assert rig.finish("pm32", program).eax == 3
    rig.memory.view(FUNCTION, 6)[1] = 4
    rig.memory.written(FUNCTION, 6)
    assert rig.finish("pm32", program).eax == 4


def test_device_writes_code_while_guest_runs(rig: Rig) -> None:
    """DMA by a device on the vCPU's thread: seen at the instruction after the OUT that started it."""
    rig.sink.on_write = lambda offset, value: rig.memory.write(FUNCTION, function(value * 3))
    rig.memory.load(FUNCTION, function(0))
    state = rig.finish("pm32", f"""
        mov ebx, {FUNCTION}; mov ecx, 100; xor edx, edx
        l: mov eax, ecx; out 0xe0, eax; call ebx; add edx, eax; dec ecx; jnz l; hlt""")  # fmt: skip
    assert state.edx == 3 * 100 * 101 // 2


def test_other_threads_write_code(rig: Rig) -> None:
    """DMA by another thread: seen soon, and the guest's loop ends."""
    rig.memory.load(FUNCTION, function(0))
    rig.start("pm32", f"mov ebx, {FUNCTION}; l: call ebx; test eax, eax; jz l; hlt")
    timer = threading.Timer(0.02, rig.memory.write, (FUNCTION, function(9)))
    timer.start()
    rig.run()
    assert rig.vcpu.state.eax == 9


def test_other_threads_write_data(rig: Rig) -> None:
    """A guest that polls memory sees a device's store, and the store before it."""
    rig.memory.write_u32(DATA, 0)
    rig.start(
        "pm32", f"l: mov eax, dword ptr [{DATA}]; test eax, eax; jz l; mov ebx, dword ptr [{DATA + 64}]; hlt"
    )

    def device() -> None:
        time.sleep(0.02)
        rig.memory.write(DATA + 64, b"\x11\0\0\0")
        rig.memory.write(DATA, b"\1\0\0\0")

    thread = threading.Thread(target=device)
    thread.start()
    rig.run()
    thread.join()
    assert rig.vcpu.state.ebx == 0x11


def test_alias_slot_of_rom(rig: Rig) -> None:
    """Many pages of code: more than the invalidation queue holds are rewritten at once by the host."""
    pages = 100
    for n in range(pages):
        rig.memory.load(HIGH + 0x1000 * n, function(n))
    program = f"""
        mov ebx, {HIGH}; mov ecx, {pages}; xor edx, edx
        l: call ebx; add edx, eax; add ebx, 0x1000; dec ecx; jnz l; hlt"""
    assert rig.finish("pm32", program).edx == sum(range(pages))
    for n in range(pages):
        rig.memory.write(HIGH + 0x1000 * n, function(n + 1))
    assert rig.finish("pm32", program).edx == sum(range(pages)) + pages


def test_dirty_pages_by_the_host(rig: Rig) -> None:
    """`take_dirty` names the pages that were written since, once."""
    rig.memory.take_dirty(0)
    rig.memory.write(0x51FFF, b"ab")
    assert rig.memory.take_dirty(0) == [0x51, 0x52]
    assert rig.memory.take_dirty(0) == []


@needs("long")
def test_atomic_instructions(rig: Rig) -> None:
    """LOCK forms and CMPXCHG8B/16B, on one page and over two."""
    rig.memory.write_u64(DATA, 5)
    rig.memory.load(DATA + 16, (0x1111 | 0x2222 << 64).to_bytes(16, "little"))
    state = rig.finish("long", f"""
        mov ebp, {DATA}; mov eax, 3; lock xadd dword ptr [rbp], eax; mov r8, rax
        mov eax, 8; mov ecx, 9; lock cmpxchg dword ptr [rbp], ecx; setz r9b
        mov eax, 1; lock cmpxchg dword ptr [rbp], ecx; setz r10b; mov r11d, eax
        mov eax, 0x1111; mov edx, 0x2222; mov ebx, 0x33; mov ecx, 0x44; lock cmpxchg16b [rbp+16]; setz r12b
        lock bts dword ptr [rbp+32], 7; lock inc dword ptr [rbp+0xffe]; xchg dword ptr [rbp+0xffe], esi
        mov eax, dword ptr [rbp+32]; hlt""", rsi=0x77, r9=0, r10=0, r12=0)  # fmt: skip
    assert (state.r8, state.r9, state.r10, state.r11, state.r12) == (5, 1, 0, 9, 1)
    assert (state.esi, state.eax) == (1, 0x80)
    assert rig.memory.read_u64(DATA + 24) == 0x44
    assert rig.memory.read_u32(DATA + 0xFFE) == 0x77
