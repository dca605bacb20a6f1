"""What one exit costs: answered by nobody, by a C device, by a Python device, and counted in teaching mode.

Run by ``./dev bench exits``. The guest is a 64 KiB ROM, the same for all: from the reset vector into a loop of 32
port writes (``out 0xe0, al``, real mode) or 32 stores to device memory (``mov [0xff000000], eax``, protected mode).
A cost is the difference of a long and a short run divided by the difference of their exits, so that starting and
ending cancel out; the loop's own instructions, a DEC and a JNZ for each 32 exits, are in it on both sides. The runs of
all sides take turns, and of each the one with the least CPU time counts. Python's two are measured after the others.

kvm         Beside a loop of KVM_RUN in C that looks at nothing but the exit's reason (raw_kvm_run.c; needs cc).
            CPU seconds of the vCPU's thread; the guest's are in them. On a host whose KVM interprets ring 0
            (docs/kvm.md) most of that is the interpreter's, for both.
translator  Beside QEMU's TCG with its pc-testdev, whose port and memory do no more than keep what was written. CPU
            seconds of the process for QEMU, of the vCPU's thread for ours.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import BenchmarkError, ratio, run_measured

from pyvmm import Device, Machine
from pyvmm.devices.ports import PostCode
from pyvmm.errors import PyvmmError
from pyvmm.exits import ExitReason
from pyvmm.guests.tools import GuestBuildError, require_tools

PORT, MMIO = 0xE0, 0xFF000000  # where QEMU's pc-testdev is, and nothing of the PC
EXITS_PER_TURN = 32
END_PORT = 0x501

PORT_CODE = (
    bytes.fromhex("fa 66b9")  # cli; mov ecx, turns
    + b"TURN"
    + bytes.fromhex("e6e0") * EXITS_PER_TURN  # 1: out 0xe0, al
    + bytes.fromhex("6649 75bc")  # dec ecx; jnz 1b
    + bytes.fromhex("ba0105 30c0 ee f4 ebfd")  # mov dx, 0x501; xor al, al; out dx, al; hlt
)
MMIO_CODE = (
    bytes.fromhex("fa 2e660f011600ff")  # cli; lgdt cs:[0xff00]
    + bytes.fromhex("0f20c0 0c01 0f22c0")  # cr0.pe = 1
    + bytes.fromhex("66ea 18000f00 0800")  # jmp 8:0xf0018
    + bytes.fromhex("b810000000 8ed8 bf000000ff b9")  # mov ds, 0x10; mov edi, 0xff000000; mov ecx, turns
    + b"TURN"
    + bytes.fromhex("8907") * EXITS_PER_TURN  # 1: mov [edi], eax
    + bytes.fromhex("49 75bd")
    + bytes.fromhex("ba01050000 30c0 ee f4 ebfd")
)
GDT = struct.pack(
    "<HI10x3Q", 23, 0xFFF10, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
)  # at 0xff00, its entries at 0xff10

Way = Callable[[Path], float]
"""Runs a ROM and returns CPU seconds."""


def rom(code: bytes, turns: int) -> bytes:
    """Return the image: code at its start, the reset vector jumps there."""
    image = bytearray(b"\xf4" * 65536)
    image[: len(code)] = code.replace(b"TURN", struct.pack("<I", turns))
    image[0xFF00 : 0xFF00 + len(GDT)] = GDT
    image[0xFFF0:0xFFF3] = bytes.fromhex("e90d00")  # jmp 0
    return bytes(image)


class PythonDevice(Device):
    """What pc-testdev does, in Python: keeps what was written."""

    value = 0

    def pio_write(self, region: int, offset: int, size: int, value: int) -> None:
        self.value = value

    def mmio_write(self, region: int, offset: int, size: int, value: int) -> None:
        self.value = value


def ours(engine: str, *, python: bool = False, teaching: bool = False) -> Way:
    """Return a way to run a ROM here, on this thread."""

    def run(image: Path) -> float:
        with Machine(memory=1 << 20, engine=engine, firmware=image, serial="null") as machine:
            device: Device = PythonDevice() if python else PostCode(machine.board)
            machine.pio.add(PORT, 1, device)
            machine.mmio.add(MMIO, 0x1000, device)
            counted = 0
            begun = time.thread_time()
            if teaching:
                for _ in machine.exits((ExitReason.IO, ExitReason.MMIO)):
                    counted += 1
            else:
                last = machine.vcpu.run()
                if last.reason not in (ExitReason.SYSTEM, ExitReason.HLT):
                    raise BenchmarkError(f"{engine}: the guest ended with {last}")
            return time.thread_time() - begun

    return run


def raw(program: Path) -> Way:
    """Return a way to run a ROM under the raw loop."""

    def run(image: Path) -> float:
        done = subprocess.run([program, image], capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchmarkError(f"raw_kvm_run: {done.stderr.strip() or 'the guest did not reach its end'}")
        return int(done.stdout.split()[1]) / 1e9

    return run


def qemu(image: Path) -> float:
    """Run a ROM under QEMU's TCG."""
    machine = [
        "qemu-system-x86_64",
        "-no-user-config",
        "-nodefaults",
        "-accel",
        "tcg",
        "-M",
        "pc",
        "-m",
        "16",
    ]
    devices = ["-device", "pc-testdev", "-device", f"isa-debug-exit,iobase={END_PORT:#x}"]
    return run_measured([*machine, "-display", "none", *devices, "-bios", str(image)], exit_code=1).cpu


def measure(code: bytes, ways: dict[str, Way], turns: tuple[int, int], runs: int) -> dict[str, float]:
    """Return microseconds of an exit for each way."""
    least: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory(prefix="pyvmm-bench-") as scratch:
        images = [Path(scratch) / f"{count}.rom" for count in turns]
        for image, count in zip(images, turns, strict=True):
            image.write_bytes(rom(code, count))
        for index in range(runs):
            for name, way in ways.items():
                for image, count in zip(images, turns, strict=True):
                    cpu = way(image)
                    least[name, count] = min(cpu, least.get((name, count), cpu))
            print(f"  {', '.join(ways)}: run {index + 1} of {runs}", file=sys.stderr, flush=True)
    exits = (turns[1] - turns[0]) * EXITS_PER_TURN
    return {name: (least[name, turns[1]] - least[name, turns[0]]) / exits * 1e6 for name in ways}


def report(name: str, costs: dict[str, float], peer: str, goals: dict[str, float]) -> None:
    """Print the ratio of each way to the peer's."""
    for way, goal in goals.items():
        ratio(f"{name}-{way}", costs[way], costs[peer], goal, unit="us an exit", peer_name=peer)


def bench_kvm(runs: int) -> None:
    """KVM beside the raw loop."""
    require_tools(["cc"])
    with tempfile.TemporaryDirectory(prefix="pyvmm-bench-") as scratch:
        program = Path(scratch) / "raw_kvm_run"
        source = Path(__file__).with_name("raw_kvm_run.c")
        subprocess.run(["cc", "-O2", "-o", program, source], check=True)
        for name, code in (("kvm-port", PORT_CODE), ("kvm-mmio", MMIO_CODE)):
            costs = measure(code, {"raw loop": raw(program), "c": ours("kvm")}, (50, 800), 4 * runs)
            slow = {"python": ours("kvm", python=True), "teaching": ours("kvm", teaching=True)}
            costs |= measure(code, slow, (50, 800), runs)
            report(name, costs, "raw loop", {"c": 1.05, "python": 1.5, "teaching": 3.0})


def bench_translator(runs: int) -> None:
    """The translator beside QEMU's TCG."""
    require_tools(["qemu-system-x86_64"])
    for name, code in (("port", PORT_CODE), ("mmio", MMIO_CODE)):
        costs = measure(code, {"qemu": qemu, "c": ours("translator")}, (20_000, 220_000), runs)
        slow = {"python": ours("translator", python=True), "teaching": ours("translator", teaching=True)}
        costs |= measure(code, slow, (100, 1100), runs)
        report(f"translator-{name}", costs, "qemu", {"c": 1.0, "python": 20.0, "teaching": 100.0})


def main() -> int:
    """Run what is asked for; what this host cannot run is said in one line and passed over."""
    parser = argparse.ArgumentParser(prog="exits.py", description="The cost of an exit, beside a peer's.")
    parser.add_argument(
        "--runs", type=int, default=5, help="of each, in turns; four times as many of C under KVM (default 5)"
    )
    parser.add_argument("--only", choices=("kvm", "translator"), action="append", help="may be repeated")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs: at least 1")
    failed = 0
    for name, part in {"kvm": bench_kvm, "translator": bench_translator}.items():
        if options.only and name not in options.only:
            continue
        try:
            part(options.runs)
        except (GuestBuildError, BenchmarkError, PyvmmError, subprocess.CalledProcessError) as error:
            print(f"exits.py: {name}: {error}", file=sys.stderr)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
