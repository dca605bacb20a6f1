"""Two engines over one board: attached and detached, and every field of CpuState there and back."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pyvmm.asm import assemble
from pyvmm.board import Board
from pyvmm.cpu.state import GPR_NAMES, CpuState
from pyvmm.devices.pic import Pic
from pyvmm.engine import EngineVm, ExitReason
from pyvmm.errors import EngineError
from pyvmm.kvm import KvmEngine
from pyvmm.machine.engines import translator
from pyvmm.native import check, ffi, lib, new_error

CODE = 0x1000
SCALARS = (
    *("rip", "rflags", "cr0", "cr2", "cr3", "cr4", "cr8", "xcr0", "efer", "pat", "star", "lstar", "cstar", "fmask"),
    *("kernel_gs_base", "sysenter_cs", "sysenter_esp", "sysenter_eip", "tsc_aux", "halted", "interrupt_shadow"),
    *("nmi_blocked", "nmi_pending", "pending_exception", "kvm_system_time", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7"),
)  # fmt: skip


class Pair:
    """KVM and the translator over one board of a megabyte; KVM is attached."""

    def __init__(self, engine: KvmEngine) -> None:
        self.board = Board()
        self.board.memory.add(0, 1 << 20)
        self.vms: dict[str, EngineVm] = {}
        for name, made in (("kvm", engine), ("translator", translator())):
            self.vms[name] = made.create_vm(self.board)
            self.vms[name].create_vcpu(0)
        self.kvm, self.translator = self.vms["kvm"].vcpus[0], self.vms["translator"].vcpus[0]

    def switch(self, source: str, target: str) -> None:
        error = new_error()
        pointers = [ffi.new("Vcpu *[]", [self.vms[name].vcpus[0].pointer]) for name in (source, target)]
        check(lib.engine_vm_switch(*pointers, 1, error), error, exception=EngineError)

    def start(self, source: str, **registers: int) -> None:
        """A real-mode program on KVM."""
        self.board.memory.load(CODE, assemble(source, bits=16, address=CODE))
        state = CpuState()
        state.set_real_mode(0, CODE, sp=0x8000)
        for name, value in registers.items():
            setattr(state, name, value)
        self.kvm.state = state

    def resume(self, name: str, **registers: int) -> CpuState:
        """Run to the next HLT, after one: what is there then."""
        vcpu = self.vms[name].vcpus[0]
        state = vcpu.state
        state.halted = 0
        for register, value in registers.items():
            setattr(state, register, value)
        vcpu.state = state
        assert vcpu.run().reason is ExitReason.HLT
        return vcpu.state

    def close(self) -> None:
        for vm in self.vms.values():
            vm.close()
        self.board.close()


@pytest.fixture
def pair(engine: KvmEngine) -> Iterator[Pair]:
    usable, reason = translator().availability()
    if not usable:
        pytest.skip(f"no translator here: {reason}")
    made = Pair(engine)
    yield made
    made.close()


def random_state(source: random.Random) -> CpuState:
    """What a guest in long mode may have, ring 0 or 3."""
    state = CpuState()
    ring = source.choice((0, 3))
    state.set_long_mode(source.randrange(1 << 47), source.randrange(1 << 20) << 12, cpl=ring)
    for name in GPR_NAMES:
        setattr(state, name, source.getrandbits(64))
    state.rflags = 2 | source.getrandbits(22) & 0x244ED5 & ~(1 << 17)
    canonical = lambda: source.randrange(1 << 47) | source.choice((0, 0xFFFF << 48 | 1 << 47))  # noqa: E731
    state.cr0 |= 0x10020 | source.choice((0, 8))
    state.cr4 = 0x620 | source.choice((0, 1 << 7)) | source.choice((0, 1 << 2))
    state.cr2, state.cr8 = source.getrandbits(64), source.randrange(16)
    state.efer |= source.choice((0, 1)) | source.choice((0, 0x800))
    state.fs.base, state.gs.base, state.kernel_gs_base = canonical(), canonical(), canonical()
    state.gdtr.base, state.gdtr.limit = canonical(), source.getrandbits(16)
    state.idtr.base, state.idtr.limit = canonical(), source.getrandbits(16)
    state.tr.set(source.randrange(1, 1 << 13) << 3, canonical(), source.randrange(0x67, 0x10000), 0x8B)
    state.ldtr.set(source.randrange(1, 1 << 13) << 3, canonical(), source.randrange(0x10000), 0x82)
    state.star, state.lstar, state.cstar = source.getrandbits(64), canonical(), canonical()
    state.fmask = source.getrandbits(32)
    state.sysenter_cs, state.sysenter_esp, state.sysenter_eip = (
        source.getrandbits(16),
        canonical(),
        canonical(),
    )
    state.pat = int.from_bytes(bytes(source.choice((0, 1, 4, 5, 6, 7)) for _ in range(8)), "little")
    state.tsc_aux = source.getrandbits(32)
    for name in ("dr0", "dr1", "dr2", "dr3"):
        setattr(state, name, canonical())
    state.dr7 = 0x400 | source.choice((0, 0x1, 0x155))
    state.interrupt_shadow = source.choice((0, 1))
    state.nmi_blocked, state.nmi_pending = source.choice((0, 1)), source.choice((0, 1))
    state.halted = source.choice((0, 1))
    state.tsc = source.randrange(1 << 40, 1 << 50)
    if state.rflags >> 9 & 1 and source.random() < 0.3:
        state.pending_exception = 0x100 + source.randrange(0x20, 0x100)
        state.interrupt_shadow = state.halted = 0
    xsave = bytearray(ffi.buffer(state.pointer.xsave))
    xsave[0:6] = (
        (0x37F ^ source.getrandbits(6)).to_bytes(2, "little")
        + (source.randrange(8) << 11).to_bytes(2, "little")
        + bytes((source.getrandbits(8), 0))
    )
    xsave[24:28] = (0x1F80 & ~source.choice((0, 0x80)) | source.choice((0, 0x6000))).to_bytes(4, "little")
    for register in range(8):  # ordinary numbers: others have several tags
        value = source.getrandbits(63) | 1 << 63
        xsave[32 + 16 * register : 42 + 16 * register] = value.to_bytes(8, "little") + (0x3FFF).to_bytes(
            2, "little"
        )
    xsave[160:416] = source.randbytes(256)
    ffi.memmove(state.pointer.xsave, bytes(xsave), len(xsave))
    return state


def fpu_of(state: CpuState) -> tuple[bytes, ...]:
    """Control, status, tags, MXCSR, ST0-7, XMM0-15."""
    image = bytes(ffi.buffer(state.pointer.xsave))
    return image[0:5], image[24:28], *(image[32 + 16 * n : 42 + 16 * n] for n in range(8)), image[160:416]


def same(got: CpuState, wanted: CpuState) -> None:
    for name in (*GPR_NAMES, *SCALARS):
        assert getattr(got, name) == getattr(wanted, name), name
    for name in ("es", "cs", "ss", "ds", "fs", "gs", "tr", "ldtr", "gdtr", "idtr"):
        assert repr(getattr(got, name)) == repr(getattr(wanted, name)), name
    assert fpu_of(got) == fpu_of(wanted)


@pytest.mark.parametrize("seed", range(40))
def test_every_field_goes_there_and_back(pair: Pair, seed: int) -> None:
    """KVM, translator, KVM, translator: what is read is what was given, and the TSC goes on."""
    state = random_state(random.Random(seed))
    pair.kvm.state = state
    wanted = pair.kvm.state
    for name in (
        *GPR_NAMES,
        "rip",
        "rflags",
        "cr3",
        "pat",
        "interrupt_shadow",
        "nmi_blocked",
        "pending_exception",
    ):
        assert getattr(wanted, name) == getattr(state, name), name
    assert fpu_of(wanted) == fpu_of(state)
    tsc = wanted.tsc  # what was given, or, where KVM cannot set it, the host's
    for source, target in (("kvm", "translator"), ("translator", "kvm"), ("kvm", "translator")):
        pair.switch(source, target)
        got = pair.vms[target].vcpus[0].state
        same(got, wanted)
        assert tsc <= got.tsc < tsc + 10 * pair.board.tsc_hz
        tsc = got.tsc


def test_only_the_attached_engine_runs(pair: Pair) -> None:
    pair.start("cli; hlt")
    with pytest.raises(EngineError, match="another engine has the machine"):
        pair.translator.run()
    error = new_error()
    assert lib.engine_vm_attach(pair.vms["translator"].pointer, error) < 0
    assert ffi.string(error.text) == b"the kvm engine has the machine: detach it first"
    assert pair.kvm.run().reason is ExitReason.HLT
    pair.switch("kvm", "translator")
    with pytest.raises(EngineError, match="another engine has the machine"):
        pair.kvm.run()


def test_state_that_the_translator_cannot_hold(pair: Pair) -> None:
    """AVX in XCR0: refused by name, and KVM still has the machine."""
    pair.start("cli; hlt")
    state = pair.kvm.state
    state.xcr0 = 7
    result = lib.vcpu_set_state(pair.translator.pointer, state.pointer)
    assert result == -95  # ENOTSUP
    assert pair.kvm.run().reason is ExitReason.HLT


@pytest.mark.parametrize("a20", [True, False])
def test_code_that_the_guest_changed_meanwhile(pair: Pair, a20: bool) -> None:
    """The translator has translated it; KVM's guest writes over it; the translator sees the new code."""
    pair.start("""
        l: mov ax, 1
        hlt
        mov byte ptr [0x1001], 2
        hlt
    """)
    if not a20:
        lib.board_set_a20(pair.board.pointer, lib.A20_I8042, False)
    pair.switch("kvm", "translator")
    assert pair.resume("translator").ax == 1
    pair.switch("translator", "kvm")
    pair.resume("kvm")
    assert pair.board.memory.read_u8(0x1001) == 2
    pair.switch("kvm", "translator")
    assert pair.resume("translator", rip=CODE).ax == 2


def test_page_tables_that_the_translator_changed(pair: Pair) -> None:
    """KVM may have shadows of them: what the translator's guest mapped elsewhere is mapped elsewhere under KVM."""
    memory = pair.board.memory
    for table, entry in ((0x10000, 0x11003), (0x11000, 0x12003), (0x12000, 0x13003)):
        memory.write_u64(table, entry)
    for page in range(256):
        memory.write_u64(0x13000 + 8 * page, page << 12 | 3)
    memory.write_u64(0x20000, 0x1111)
    memory.write_u64(0x21000, 0x2222)
    code = """mov esi, 0x20000; mov edi, 0x13100; mov rax, [rsi]; hlt
        mov qword ptr [rdi], 0x21003; invlpg [rsi]; hlt; mov rbx, [rsi]; hlt"""
    memory.load(CODE, assemble(code, bits=64, address=CODE))
    state = CpuState()
    state.set_long_mode(CODE, 0x10000, rsp=0x8000)
    pair.kvm.state = state
    assert pair.resume("kvm").rax == 0x1111
    pair.switch("kvm", "translator")
    pair.resume("translator")
    pair.switch("translator", "kvm")
    assert pair.resume("kvm").rbx == 0x2222


def interrupts(pair: Pair) -> Pic:
    """8259s at 0x20, and a handler in the IVT that counts to BX."""
    pic = Pic(pair.board)
    pio = pair.board.pio
    pio.add(0x20, 2, pic, Pic.MASTER)
    pio.add(0xA0, 2, pic, Pic.SLAVE)
    for port, words in ((0x20, (0x11, 0x20, 4, 1, 0)), (0xA0, (0x11, 0x28, 2, 1, 0))):
        pio.write(port, 1, words[0])
        for word in words[1:]:
            pio.write(port + 1, 1, word)
    pair.board.memory.load(0x3000, assemble("inc bx; iret", bits=16, address=0x3000))
    pair.board.memory.write_u32(4 * 0x21, 0x3000)
    return pic


def test_an_acknowledged_interrupt_is_delivered_once(pair: Pair) -> None:
    """As KVM has it between KVM_INTERRUPT and the guest: the 8259 says "in service", the handler has not begun."""
    pic = interrupts(pair)
    pair.start("nop; nop; cli; hlt", if_=1, bx=0)
    line = pair.board.irq_line(1)
    line.raise_()
    pair.board.pio.write(0x20, 1, 0x0C)  # OCW3 poll: the read acknowledges, as the CPU's cycle does (8259A)
    assert pair.board.pio.read(0x20, 1) & 0x87 == 0x81
    line.lower()
    state = pair.kvm.state
    state.pending_exception = 0x121
    pair.kvm.state = state
    pair.switch("kvm", "translator")
    assert pair.translator.state.pending_exception == 0x121
    assert pair.translator.run().reason is ExitReason.HLT
    assert pair.translator.state.bx == 1
    assert pair.translator.state.pending_exception == -1
    pic.close()


def test_an_exception_that_had_begun(pair: Pair) -> None:
    """Vector and error code go to the translator's guest: #PF in real mode's table, without an error code there."""
    interrupts(pair)
    pair.board.memory.write_u32(4 * 14, 0x3000)
    pair.start("nop; cli; hlt", bx=0)
    state = pair.kvm.state
    state.pending_exception = 14
    pair.kvm.state = state
    pair.switch("kvm", "translator")
    assert pair.translator.run().reason is ExitReason.HLT
    assert pair.translator.state.bx == 1


def test_a_kick_is_not_lost(pair: Pair) -> None:
    pair.start("l: jmp l")
    pair.kvm.kick()
    pair.switch("kvm", "translator")
    assert pair.translator.run().reason is ExitReason.KICK
