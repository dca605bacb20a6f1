"""System, Vm and Vcpu, one wrapper after the other, with guests of a few instructions in real mode."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from pyvmm.errors import EngineError
from pyvmm.kvm.constants import (
    API_VERSION,
    Capability,
    GuestDebug,
    Irqchip,
    KvmExitReason,
    MemoryFlag,
    MpState,
    MsrExit,
    SyncRegs,
)
from pyvmm.kvm.ioctl import KvmError, Record
from pyvmm.kvm.system import System
from pyvmm.kvm.vcpu import DebugExit, IoExit, MmioExit, MsrAccessExit, Vcpu
from pyvmm.kvm.vm import IrqchipRoute, MsiRoute, MsrRange, Vm

CODE = 0x1000


def load(vcpu: Vcpu, code: bytes) -> None:
    vcpu.vm.memory[CODE : CODE + len(code)] = code  # type: ignore[attr-defined]


def need(system: System, capability: Capability) -> None:
    if not system.check_extension(capability):
        pytest.skip(f"this KVM lacks KVM_CAP_{capability.name}")


def test_system(system: System) -> None:
    assert system.api_version == API_VERSION
    assert system.check_extension("KVM_CAP_USER_MEMORY") == 1
    assert system.check_extension(60000) == 0
    assert system.vcpu_mmap_size >= 4096
    assert Capability.NR_VCPUS in system.capabilities
    assert any(entry.function == 0x80000001 for entry in system.supported_cpuid)
    assert 0x10 in system.msr_indices


def test_port_accesses(vcpu: Vcpu) -> None:
    load(vcpu, b"\xb0\x41\xe6\x77\xe5\x78\xf4")  # mov al,'A'; out 0x77,al; in ax,0x78; hlt
    assert vcpu.run() == IoExit(KvmExitReason.IO, 0x77, 1, True, b"A")
    left = vcpu.run()
    assert isinstance(left, IoExit)
    assert (left.port, left.size, left.is_write, left.count) == (0x78, 2, False, 1)
    vcpu.answer(0xBEEF)
    assert vcpu.run().reason is KvmExitReason.HLT
    assert vcpu.regs.rax & 0xFFFF == 0xBEEF
    with pytest.raises(EngineError, match="only a port or memory access"):
        vcpu.answer(1)


def test_string_ports(vcpu: Vcpu) -> None:
    load(
        vcpu, b"\xbe\x10\x10\xba\x77\x00\xb9\x03\x00\xf3\x6e\xf4" + b"\0" * 4 + b"xyz"
    )  # mov si,0x1010; ... rep outsb
    seen = b""
    while isinstance(left := vcpu.run(), IoExit):
        seen += left.data
    assert seen == b"xyz"
    assert left.reason is KvmExitReason.HLT


def test_mmio(vcpu: Vcpu) -> None:
    load(vcpu, b"\xb8\x00\x20\x8e\xd8\xa1\x04\x00\xa3\x06\x00\xf4")  # ds=0x2000; mov ax,[4]; mov [6],ax; hlt
    left = vcpu.run()
    assert left == MmioExit(KvmExitReason.MMIO, 0x20004, False, b"\0\0")
    vcpu.answer(b"\x34\x12")
    assert vcpu.run() == MmioExit(KvmExitReason.MMIO, 0x20006, True, b"\x34\x12")
    assert vcpu.run().reason is KvmExitReason.HLT


def test_read_only_slot_and_dirty_log(vcpu: Vcpu, system: System) -> None:
    need(system, Capability.READONLY_MEM)
    vm = vcpu.vm
    rom = vm.add_memory(0x20000, 4096, MemoryFlag.READONLY, slot=5)
    ram = vm.add_memory(0x21000, 0x4000, MemoryFlag.LOG_DIRTY_PAGES, slot=6)
    rom[0] = 7
    # ds=0x2000; mov al,[0]; mov [0],al; mov [0x1000],al; mov [0x3000],al; hlt
    load(vcpu, b"\xb8\x00\x20\x8e\xd8\xa0\x00\x00\xa2\x00\x00\xa2\x00\x10\xa2\x00\x30\xf4")
    assert vcpu.run() == MmioExit(KvmExitReason.MMIO, 0x20000, True, b"\x07")
    assert vcpu.run().reason is KvmExitReason.HLT
    assert (ram[0], ram[0x2000], rom[0]) == (7, 7, 7)
    assert vm.get_dirty_log(6) == [0, 2]
    assert vm.get_dirty_log(6) == []
    with pytest.raises(KvmError, match="does not log dirty pages"):
        vm.get_dirty_log(5)
    vm.delete_memory(6)


def test_bad_memslots(vm: Vm) -> None:
    memory = vm.add_memory(0, 0x4000)
    with pytest.raises(KvmError, match="overlaps another slot"):
        vm.add_memory(0x1000, 0x1000)
    with pytest.raises(KvmError, match="EINVAL"):
        vm.set_user_memory_region(3, 0x10001, memory)
    with pytest.raises(EngineError, match="host memory has 16384"):
        vm.set_user_memory_region(3, 0x10000, memory, size=0x8000)


def test_vcpu_limits(vm: Vm, system: System) -> None:
    vm.create_vcpu(0)
    with pytest.raises(KvmError) as caught:
        vm.create_vcpu(0)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(KvmError, match="KVM_CREATE_VCPU"):
        vm.create_vcpu(system.check_extension("MAX_VCPU_ID") or 1 << 20)


def test_registers(vcpu: Vcpu) -> None:
    vcpu.set_regs(rbx=0x1122334455667788, rip=0x4321)
    assert (vcpu.regs.rbx, vcpu.regs.rip) == (0x1122334455667788, 0x4321)
    sregs = vcpu.sregs
    sregs.fs.base = 0x1230
    vcpu.sregs = sregs
    assert vcpu.sregs.fs.base == 0x1230
    sregs.cr0 = 0x80000000  # paging without protection
    with pytest.raises(KvmError, match=r"KVM_SET_SREGS.*reserved bits"):
        vcpu.sregs = sregs
    image = bytearray(vcpu.xsave)
    image[160:176] = bytes(range(16))
    image[512] |= 3
    vcpu.xsave = bytes(image)
    assert vcpu.xsave[160:176] == bytes(range(16))
    with pytest.raises(EngineError, match="4096 bytes"):
        vcpu.xsave = b""
    assert vcpu.xcrs[0] & 1
    vcpu.xcrs = {0: 1}
    debug = vcpu.debugregs
    debug.db[1] = 0x5000
    vcpu.debugregs = debug
    assert vcpu.debugregs.db[1] == 0x5000
    assert vcpu.set_msrs({0xC0000082: 0x1000}) == 1
    assert vcpu.get_msrs([0xC0000082]) == {0xC0000082: 0x1000}
    assert vcpu.set_msrs({0xC0000082: 0x2000, 0x12345678: 0}) == 1, "stops at the first that KVM lacks"
    assert vcpu.mp_state is MpState.RUNNABLE
    assert isinstance(vcpu.fpu, Record)
    assert vcpu.tsc_khz > 0
    events = vcpu.events
    vcpu.events = events
    assert {entry.function for entry in vcpu.cpuid2} >= {0, 1}


def test_sregs2(vcpu: Vcpu, system: System) -> None:
    need(system, Capability.SREGS2)
    sregs = vcpu.sregs2
    sregs.gs.base = 0x777
    vcpu.sregs2 = sregs
    assert vcpu.sregs2.gs.base == 0x777


def test_translate(vcpu: Vcpu) -> None:
    translation = vcpu.translate(0x1234)
    assert (translation.valid, translation.physical_address) == (1, 0x1234)


def test_sync_regs(vcpu: Vcpu, system: System) -> None:
    need(system, Capability.SYNC_REGS)
    load(vcpu, b"\x40\xf4\x40\xf4")  # inc ax; hlt; inc ax; hlt
    vcpu.sync_on_exit(SyncRegs.REGS)
    assert vcpu.run().reason is KvmExitReason.HLT
    assert vcpu.sync_regs.regs.rax == 1
    vcpu.sync_regs.regs.rax = 0x41
    vcpu.sync_changed(SyncRegs.REGS)
    assert vcpu.run().reason is KvmExitReason.HLT
    assert vcpu.regs.rax == 0x42


def test_immediate_exit_completes_the_access(vcpu: Vcpu) -> None:
    load(vcpu, b"\xe4\x77\x40\xf4")  # in al,0x77; inc ax; hlt
    assert isinstance(vcpu.run(), IoExit)
    vcpu.answer(5)
    vcpu.complete()
    assert (vcpu.regs.rax & 0xFF, vcpu.regs.rip) == (5, CODE + 2)


def test_kick_ends_an_endless_loop(vcpu: Vcpu) -> None:
    load(vcpu, b"\xfa\xeb\xfe")  # cli; jmp $
    timer = threading.Timer(0.02, vcpu.kick)
    timer.start()
    assert vcpu.run().reason is KvmExitReason.INTR
    timer.join()
    assert vcpu.run().reason is KvmExitReason.INTR, "immediate_exit stays until it is taken back"
    vcpu.immediate_exit = False


def test_interrupt_and_window(vcpu: Vcpu) -> None:
    load(vcpu, b"\xfb\x90\xeb\xfd")  # sti; l: nop; jmp l
    memory = vcpu.vm.memory  # type: ignore[attr-defined]
    memory[4 * 0x21 : 4 * 0x21 + 4] = b"\x00\x20\x00\x00"
    memory[0x2000:0x2003] = b"\xe6\x77\xf4"
    vcpu.kvm_run.request_interrupt_window = 1
    assert vcpu.run().reason is KvmExitReason.IRQ_WINDOW_OPEN
    assert vcpu.ready_for_interrupt
    vcpu.kvm_run.request_interrupt_window = 0
    vcpu.interrupt(0x21)
    left = vcpu.run()
    assert isinstance(left, IoExit)
    assert left.port == 0x77


def test_nmi(vcpu: Vcpu) -> None:
    load(vcpu, b"\xfa\xeb\xfe")
    memory = vcpu.vm.memory  # type: ignore[attr-defined]
    memory[8:12] = b"\x00\x20\x00\x00"
    memory[0x2000:0x2001] = b"\xf4"
    vcpu.nmi()
    assert vcpu.run().reason is KvmExitReason.HLT
    assert vcpu.regs.rip == 0x2001


def test_single_step(vcpu: Vcpu) -> None:
    load(vcpu, b"\x40\x40\xf4")
    vcpu.guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
    left = vcpu.run()
    assert isinstance(left, DebugExit)
    assert (left.pc, left.exception) == (CODE + 1, 1)
    vcpu.guest_debug(GuestDebug.NONE)
    assert vcpu.run().reason is KvmExitReason.HLT


def test_msr_exits(vcpu: Vcpu, system: System) -> None:
    need(system, Capability.X86_USER_SPACE_MSR)
    vcpu.vm.exit_on_msrs(MsrExit.UNKNOWN | MsrExit.FILTER)
    load(vcpu, b"\x66\xb9\x99\x99\x00\x00\x0f\x32\xf4")  # mov ecx,0x9999; rdmsr; hlt
    left = vcpu.run()
    assert isinstance(left, MsrAccessExit)
    assert (left.index, left.is_write) == (0x9999, False)
    vcpu.answer_msr(0x1_0000_0002)
    assert vcpu.run().reason is KvmExitReason.HLT
    assert (vcpu.regs.rax & 0xFFFFFFFF, vcpu.regs.rdx) == (2, 1)


def test_msr_filter(vcpu: Vcpu, system: System) -> None:
    need(system, Capability.X86_MSR_FILTER)
    vcpu.vm.exit_on_msrs(MsrExit.FILTER)
    vcpu.vm.set_msr_filter([MsrRange(0x174, 8, b"\xfb")])  # refuses 0x176
    load(vcpu, b"\x66\xb9\x76\x01\x00\x00\x0f\x32\xf4")
    left = vcpu.run()
    assert isinstance(left, MsrAccessExit)
    assert left.index == 0x176
    assert MsrExit(left.cause) is MsrExit.FILTER
    with pytest.raises(EngineError, match="bitmap of 2 bytes"):
        vcpu.vm.set_msr_filter([MsrRange(0, 16, b"\0")])
    with pytest.raises(EngineError, match="at most 16 ranges"):
        vcpu.vm.set_msr_filter([MsrRange(0, 8, b"\0")] * 17)


def test_irqchip(vm: Vm, system: System) -> None:
    need(system, Capability.IRQCHIP)
    with pytest.raises(KvmError, match="KVM_GET_IRQCHIP"):
        vm.get_irqchip(Irqchip.PIC_MASTER)
    vm.create_irqchip()
    with pytest.raises(KvmError, match="has an irqchip already"):
        vm.create_irqchip()
    master = vm.get_irqchip(Irqchip.PIC_MASTER)
    assert isinstance(master, Record)
    master.imr = 0xA5
    vm.set_irqchip(Irqchip.PIC_MASTER, master)
    again = vm.get_irqchip(Irqchip.PIC_MASTER)
    assert isinstance(again, Record)
    assert again.imr == 0xA5
    ioapic = vm.get_irqchip(Irqchip.IOAPIC)
    assert isinstance(ioapic, bytes)
    vm.set_irqchip(Irqchip.IOAPIC, ioapic)
    vm.create_pit2()
    pit = vm.pit2
    vm.pit2 = pit
    vm.set_gsi_routing([IrqchipRoute(4, Irqchip.IOAPIC, 4), MsiRoute(30, 0xFEE00000, 0x41)])
    vm.pulse(4)
    vcpu = vm.create_vcpu(0)
    assert len(vcpu.lapic) == 1024
    vcpu.lapic = vcpu.lapic
    with pytest.raises(KvmError, match="use KVM_IRQ_LINE"):
        vcpu.interrupt(0x20)
    assert vm.signal_msi(0xFEE00000, 0x41) >= 0
    vm.clock = 5_000_000_000
    assert 5_000_000_000 <= vm.clock.clock < 3600_000_000_000


def test_split_irqchip(vm: Vm, system: System) -> None:
    need(system, Capability.SPLIT_IRQCHIP)
    vm.create_split_irqchip()
    with pytest.raises(KvmError):
        vm.create_irqchip()
    assert len(vm.create_vcpu(0).lapic) == 1024


def test_irqfd_wakes_a_halted_guest(vm: Vm, system: System) -> None:
    need(system, Capability.IRQFD)
    vm.create_irqchip()
    memory = vm.add_memory(0, 0x10000)
    vcpu = vm.create_vcpu(0)
    vcpu.cpuid2 = system.supported_cpuid
    vcpu.set_real_mode(CODE)
    # 8259: ICW1..4, vector 0x20, everything but IRQ 4 masked; sti; hlt; then out 0x77
    setup = b"\xb0\x11\xe6\x20\xb0\x20\xe6\x21\xb0\x04\xe6\x21\xb0\x01\xe6\x21\xb0\xef\xe6\x21"
    memory[CODE : CODE + 30] = (setup + b"\xfb\xf4\xe6\x77\xf4").ljust(30, b"\0")
    memory[4 * 0x24 : 4 * 0x24 + 4] = b"\x00\x20\x00\x00"
    memory[0x2000:0x2003] = b"\xe6\x78\xcf"
    fd = os.eventfd(0)
    vm.irqfd(fd, 4)
    timer = threading.Timer(0.02, os.eventfd_write, (fd, 1))
    timer.start()
    left = vcpu.run()
    timer.join()
    os.close(fd)
    assert isinstance(left, IoExit)
    assert left.port == 0x78
    with pytest.raises(KvmError, match="KVM_IRQFD"):
        vm.irqfd(fd, 4)


def test_ioeventfd(vcpu: Vcpu, system: System) -> None:
    need(system, Capability.IOEVENTFD)
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    vcpu.vm.ioeventfd(fd, 0x77, 1, pio=True, match=0x41)
    with pytest.raises(KvmError, match="another ioeventfd"):
        vcpu.vm.ioeventfd(fd, 0x77, 1, pio=True, match=0x41)
    load(vcpu, b"\xb0\x41\xe6\x77\xb0\x42\xe6\x77\xf4")
    left = vcpu.run()
    assert isinstance(left, IoExit)
    assert left.data == b"\x42", "the matching store made no exit"
    assert os.eventfd_read(fd) == 1
    vcpu.vm.ioeventfd(fd, 0x77, 1, pio=True, match=0x41, remove=True)
    os.close(fd)


def test_coalesced_ports(vcpu: Vcpu, system: System) -> None:
    need(system, Capability.COALESCED_PIO)
    vcpu.vm.register_coalesced(0x70, 1, pio=True)
    load(vcpu, b"\xb0\x41\xe6\x70\xb0\x42\xe6\x70\xf4")
    assert vcpu.run().reason is KvmExitReason.HLT
    assert vcpu.take_coalesced() == [(0x70, b"A", True), (0x70, b"B", True)]
    assert vcpu.take_coalesced() == []
    vcpu.vm.unregister_coalesced(0x70, 1, pio=True)


def test_enable_cap_refused(vm: Vm) -> None:
    with pytest.raises(KvmError, match="KVM_ENABLE_CAP"):
        vm.enable_cap(60000)
