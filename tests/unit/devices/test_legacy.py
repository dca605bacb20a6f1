"""The Python faces of the PC's legacy devices: what each adds to its registers, and the errors it raises."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyvmm.board import Board
from pyvmm.devices.acpi_pm import AcpiPm
from pyvmm.devices.i8042 import I8042
from pyvmm.devices.pic import Pic
from pyvmm.devices.pit import PIT_HZ, Pit
from pyvmm.devices.ports import DebugConsole, NmiAndSpeaker, SystemControlA
from pyvmm.devices.rtc import Rtc
from pyvmm.devices.uart import SerialPort, Uart
from pyvmm.display.serial import CharSink
from pyvmm.errors import DeviceError


@pytest.fixture
def board() -> Iterator[Board]:
    """Wires on a virtual clock."""
    made = Board("virtual")
    yield made
    made.close()


def test_pit_ticks_reach_the_pic(board: Board) -> None:
    pic, pit = Pic(board), Pit(board, board.irq_line(0))
    board.pio.add(0x20, 2, pic, region=Pic.MASTER)
    board.pio.add(0x40, 4, pit)
    for port, value in (
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0x43, 0x34),
        (0x40, 0),
        (0x40, 16),
    ):
        board.pio.write(port, 1, value)
    board.clock.advance(4097 * 1_000_000_000 // PIT_HZ + 1)
    assert pic.registers.master.irr & 1
    assert board.pio.read(0x20, 1) & 1
    assert pit.registers.channel[0].count == 4096
    pit.close()
    pic.close()


def test_timer_channel_2_through_port_61(board: Board) -> None:
    pit = Pit(board, board.irq_line(0))
    port = NmiAndSpeaker(board, pit)
    for offset, value in ((3, 0xB0), (2, 100), (2, 0)):
        pit.pio_write(0, offset, 1, value)
    port.pio_write(0, 0, 1, 1)
    assert not pit.output(2)
    board.clock.advance(1_000_000)
    assert pit.output(2)
    assert port.pio_read(0, 0, 1) & 0x20
    port.close()
    pit.close()


def test_cmos_memory_is_indexed(board: Board) -> None:
    board.clock.epoch_ns = 1_700_000_000 * 10**9  # 2023-11-14 22:13:20 UTC
    rtc = Rtc(board, board.irq_line(8))
    rtc[0x15] = 0x80
    assert rtc[0x15] == 0x80
    rtc[0xFF] = 0x5A
    assert (rtc[0xFF], rtc[0x7F]) == (0x5A, 0)
    assert [rtc[index] for index in (0x32, 9, 8, 7, 4, 2, 0)] == [0x20, 0x23, 0x11, 0x14, 0x22, 0x13, 0x20]
    for index, value in ((0x00, 1), (0x32, 1), (0x100, 1), (-1, 1), (0x15, 256)):
        with pytest.raises(DeviceError, match="CMOS byte"):
            rtc[index] = value
    with pytest.raises(DeviceError, match="0xff"):
        _ = rtc[0x100]
    rtc.close()


def test_serial_port_both_ways(board: Board) -> None:
    sink = CharSink(board)
    uart = Uart(board, board.irq_line(4), sink)
    port = SerialPort(uart, sink)
    for byte in "grüß\n".encode():
        uart.pio_write(0, 0, 1, byte)
    assert port.read(1) == b"g"
    assert port.read_text() == "rüß\n"
    assert port.read() == b""
    assert port.bytes_sent == 7
    port.send("ok")
    assert bytes(uart.pio_read(0, 0, 1) for _ in range(2)) == b"ok"
    assert uart.receive(bytes(5000)) == 4096
    assert uart.receive_room == 1  # one is in the receiver
    uart.close()
    sink.close()


@pytest.mark.parametrize("clock", ["realtime", "virtual"])
def test_sink_writes_to_a_descriptor(clock: str) -> None:
    board = Board("realtime" if clock == "realtime" else "virtual")
    board.start_io()
    reading, writing = os.pipe()
    sink = CharSink(board, fd=writing, capture=4)
    console = DebugConsole(board, sink)
    os.close(writing)  # the sink has its own
    for byte in b"hello":
        console.pio_write(0, 0, 1, byte)
    assert sink.drain(10)
    assert os.read(reading, 100) == b"hello"
    assert (sink.read(), sink.overwritten) == (b"ello", 1)
    board.stop_io()
    console.close()
    sink.close()
    board.close()
    assert os.read(reading, 1) == b""  # closed
    os.close(reading)


def test_sink_of_a_closed_descriptor_is_refused(board: Board) -> None:
    with pytest.raises(DeviceError, match="descriptor 9999"):
        CharSink(board, fd=9999)
    with pytest.raises(DeviceError, match="1 GiB"):
        CharSink(board, capture=1 << 31)


def test_keys_and_a20(board: Board) -> None:
    controller = I8042(board, board.irq_line(1), board.irq_line(12))
    port92 = SystemControlA(board)
    assert board.a20
    controller.pio_write(I8042.COMMAND, 0, 1, 0xDD)
    assert not board.a20
    port92.pio_write(0, 0, 1, 2)
    assert board.a20
    assert controller.key(b"\x1c")
    assert controller.pio_read(I8042.DATA, 0, 1) == 0x1E
    while controller.key(b"\xf0\x1c"):
        pass
    assert controller.registers.queue_count == 32
    assert controller.leds == 0
    port92.close()
    controller.close()


def test_power_button_raises_sci(board: Board) -> None:
    sci = board.irq_line(9)
    pm = AcpiPm(board, sci, s5_type=5, acpi_enable=0xF1, acpi_disable=0xF0)
    pm.pio_write(AcpiPm.SMI, 0, 1, 0xF1)
    pm.pio_write(AcpiPm.REGISTERS, 2, 2, 0x100)
    assert not sci.level
    pm.power_button()
    assert sci.level
    assert pm.registers.pm1_sts == 0x100
    pm.close()
    for s5_type, enable in ((8, 1), (-1, 1), (5, 0), (5, 256)):
        with pytest.raises(DeviceError, match="ACPI"):
            AcpiPm(board, sci, s5_type=s5_type, acpi_enable=enable, acpi_disable=0)


def test_a_subclass_overrides_a_c_device(board: Board) -> None:
    class Quiet(DebugConsole):
        def pio_read(self, region: int, offset: int, size: int) -> int:
            return super().pio_read(region, offset, size) ^ 0xFF

    console = Quiet(board)
    board.pio.add(0xE9, 1, console)
    assert board.pio.read(0xE9, 1) == 0x16
    board.pio.remove(0xE9)
    console.close()
