"""``pyvmm qemu-kvm``: what each option comes to, one line for what there is not, and QEMU's own list beside ours."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyvmm
from pyvmm.cli.main import main
from pyvmm.cli.options import RunOptions
from pyvmm.cli.qemu import command, drives
from pyvmm.cli.qemu.plan import Plan
from pyvmm.cli.qemu.refused import REFUSED
from pyvmm.cli.qemu.table import BY_NAME, OPTIONS
from pyvmm.config import MachineConfig, ShareConfig
from pyvmm.cpu.topology import Topology
from pyvmm.errors import BootError, ConfigError, PyvmmError

LECTURE = (
    "-name vm1 -M rhel6.4.0 -enable-kvm -m 512 -smp 4,sockets=4,cores=1,threads=1 -rtc base=localtime"
    " -drive file=vm.qcow2,if=none,id=drive-virtio-disk0,format=qcow2,cache=none"
    " -drive file=data.qcow2,if=none,format=qcow2,cache=none"
)
DEVICE = (
    " -device virtio-blk-pci,scsi=off,bus=pci.0,addr=0x4,drive=drive-virtio-disk0,id=virtio-disk0,bootindex=1"
)


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that command lines here name, in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "d", "e", "iso", "kernel", "initrd", "rom", "vm.qcow2", "data.qcow2", "a,b"):
        (tmp_path / name).write_bytes(bytes(512))


def plan_of(line: str) -> tuple[Plan, MachineConfig]:
    plan = Plan()
    for option, name, value in command.parse(line.split()):
        command._apply(plan, option, name, value)
    return plan, command.settle(plan)


def config(line: str) -> MachineConfig:
    return plan_of(line)[1]


def places(line: str) -> list[tuple[str, str, int | None]]:
    return [(str(d.path), d.interface, d.place) for d in config(line).disks]


def refused(line: str) -> str:
    """The one line that it is refused with."""
    with pytest.raises(PyvmmError) as caught:
        config(line)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_lectures_command() -> None:
    plan, made = plan_of(LECTURE + DEVICE)
    assert (made.name, made.engine, made.memory, made.cpus) == ("vm1", "kvm", 512 << 20, 4)
    assert (made.topology, made.rtc_base, made.boot_order) == (Topology(4, 1, 1), "localtime", "cad")
    [disk] = made.disks
    assert (disk.path, disk.interface, disk.format, disk.cache) == ("vm.qcow2", "virtio", "qcow2", "none")
    assert (disk.place, disk.boot_index) == (4, 1)
    [unconnected, _] = plan.notes
    assert unconnected.startswith("-drive file=data.qcow2: if=none connects it to nothing")


def test_the_lectures_command_without_its_device() -> None:
    """QEMU would have nothing to boot: the drives are connected in their order, and each line says so."""
    plan, made = plan_of(LECTURE)
    assert [(disk.path, disk.interface) for disk in made.disks] == [
        ("vm.qcow2", "virtio"),
        ("data.qcow2", "virtio"),
    ]
    assert "-device virtio-blk-pci,drive=drive-virtio-disk0" in plan.notes[0]
    assert all("connects it to nothing in QEMU" in note for note in plan.notes[:2])


def test_uefi_and_identity(tmp_path: Path) -> None:
    flash = tmp_path / "vars.fd"
    flash.write_bytes(bytes(4096))
    identity = "01234567-89ab-cdef-0123-456789abcdef"
    _, made = plan_of(f"-bios ovmf -pflash {flash} -uuid {identity} -hda a")
    assert (made.firmware, made.pflash, made.uuid) == ("ovmf", str(flash), identity)


def test_unconnected_drives_stay_so_beside_another() -> None:
    plan, made = plan_of("-hda a -drive file=b,if=none,format=raw")
    assert [disk.path for disk in made.disks] == ["a"]
    assert any(
        "-drive file=b: if=none connects it to nothing, here as in QEMU" in note for note in plan.notes
    )
    with pytest.raises(BootError, match="nothing to boot"):
        config("-m 64")


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("a", "memory", 128 << 20),
        ("-m 512 a", "memory", 512 << 20),
        ("-m 1.5G a", "memory", 3 << 29),
        ("--m size=2g a", "memory", 2 << 30),
        ("-m 4097k a", "memory", 4104 << 10),
        ("a", "engine", "translator"),
        ("-enable-kvm a", "engine", "kvm"),
        ("-accel kvm a", "engine", "kvm"),
        ("-M pc,accel=kvm a", "engine", "kvm"),
        ("-accel tcg,thread=single a", "engine", "translator"),
        ("-accel kvm -accel tcg a", "engine", "auto"),
        ("-M accel=kvm:tcg a", "engine", "auto"),
        ("-M accel=tcg:kvm a", "engine", "translator"),
        ("-machine pc-i440fx-7.2,kernel_irqchip=on -enable-kvm a", "irqchip", "kernel"),
        ("-M pc,kernel-irqchip=off -enable-kvm a", "irqchip", "user"),
        ("-accel kvm,kernel-irqchip=on a", "irqchip", "kernel"),
        ("-accel kvm,kernel-irqchip=split a", "irqchip", "split"),
        ("-M rhel6.4.0 -enable-kvm -smp 4 a", "topology", Topology(4, 1, 1)),
        ("-enable-kvm -smp 4 -M pc-i440fx-6.1 a", "topology", Topology(4, 1, 1)),
        ("-enable-kvm -smp 4 -M pc-i440fx-6.2 a", "topology", Topology(1, 4, 1)),
        ("-enable-kvm -smp 4 a", "topology", Topology(1, 4, 1)),
        ("-enable-kvm -smp cpus=4,cores=2,threads=2 a", "cpus", 4),
        ("-cpu max a", "engine", "translator"),
        ("-cpu host -enable-kvm a", "engine", "kvm"),
        ("-rtc base=2026-01-31T12:00:00,clock=vm,driftfix=none a", "rtc_base", "2026-01-31T12:00:00"),
        ("-rtc clock=host a", "rtc_base", "utc"),
        ("-name guest=vm1,process=p,debug-threads=on a", "name", "vm1"),
        ("a", "boot_order", "cad"),
        ("-boot d a", "boot_order", "dca"),
        ("-boot order=dc,strict=on a", "boot_order", "dc"),
        ("-boot once=d a", "boot_once", "dca"),
        ("-boot order=c,once=d a", "boot_order", "cad"),
        ("-boot menu=on -bios seabios a", "boot_menu", True),
        ("-bios seabios a", "boot_menu", False),
        ("-kernel kernel -initrd initrd -append x=1", "append", "x=1"),
        ("-kernel kernel -initrd initrd", "initrd", "initrd"),
        ("-bios rom", "firmware", "rom"),
        ("a", "serial", "stdio"),
        ("-nographic a", "serial", "stdio"),
        ("-nographic -serial mon:stdio a", "serial", "stdio"),
        ("-display none a", "serial", "null"),
        ("-display none -serial stdio a", "serial", "stdio"),
        ("-vnc :0 a", "serial", "null"),
        ("-serial file:log a", "serial", "file:log"),
        ("-serial none a", "serial", "null"),
        ("-serial null -serial none a", "serial", "null"),
        ("-monitor stdio a", "serial", "null"),
        ("-monitor none -serial stdio a", "serial", "stdio"),
        ("-nodefaults a", "serial", "null"),
        ("-nodefaults a", "vga", "none"),
        ("-nodefaults -vga std a", "vga", "std"),
        ("-nodefaults -device VGA,id=v a", "vga", "std"),
        ("-vga none a", "vga", "none"),
        ("a", "vga", "std"),
        ("-k de a", "keyboard", "de"),
        ("a", "hpet", True),
        ("-no-hpet a", "hpet", False),
        ("-M pc,hpet=off a", "hpet", False),
        ("-M pc,hpet=on a", "hpet", True),
        ("-k en-gb a", "keyboard", "uk"),
        ("-net none -nic none -parallel none -no-hpet -no-user-config a", "name", "pyvmm"),
        ("-M pc,usb=off,vmport=off,hpet=off,smm=off,acpi=on a", "name", "pyvmm"),
        ("-device isa-debug-exit,iobase=0x501,iosize=0x04 a", "name", "pyvmm"),
    ],
)
def test_what_it_comes_to(line: str, field: str, value: object) -> None:
    assert getattr(config(line), field) == value


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("-no-reboot a", "no_reboot", True),
        ("-action reboot=shutdown a", "no_reboot", True),
        ("-no-shutdown a", "no_shutdown", True),
        ("-action shutdown=pause,reboot=reset a", "no_shutdown", True),
        ("-S a", "paused", True),
        ("-vnc :1 a", "vnc", ":1"),
        ("-display vnc=localhost:2,password-file=a a", "vnc", "localhost:2,password-file=a"),
        ("-vnc none a", "vnc", None),
        ("-debugcon stdio a", "debug_console", True),
        ("-name vm1,process=p a", "process", "p"),
        ("-monitor stdio a", "monitor", "stdio"),
    ],
)
def test_how_it_is_run(line: str, attribute: str, value: object) -> None:
    assert getattr(plan_of(line)[0], attribute) == value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a", [("a", "ide", 0)]),
        ("-hda a -hdb b -hdc c -hdd d", [(x, "ide", n) for n, x in enumerate("abcd")]),
        ("-hdd d -hda a", [("a", "ide", 0), ("d", "ide", 3)]),
        ("-cdrom iso -hda a", [("a", "ide", 0), ("iso", "cdrom", 2)]),
        ("-drive file=a -drive file=b", [("a", "ide", 0), ("b", "ide", 1)]),
        ("-drive file=iso,media=cdrom", [("iso", "cdrom", 0)]),
        ("-drive file=a,if=ide,bus=1,unit=1", [("a", "ide", 3)]),
        ("-drive file=a,index=2", [("a", "ide", 2)]),
        ("-drive file=a,if=virtio -drive file=b", [("b", "ide", 0), ("a", "virtio", None)]),
        ("-drive file=a,if=none,id=x -device ide-hd,drive=x,bus=ide.1,unit=0", [("a", "ide", 2)]),
        ("-drive file=a,if=none,id=x -device ide-cd,drive=x", [("a", "cdrom", 0)]),
        ("-drive file=a,if=none,id=x -device virtio-blk,drive=x,addr=1f.0", [("a", "virtio", 31)]),
        ("-fda a", [("a", "floppy", None)]),
        ("-drive file=a,,b", [("a,b", "ide", 0)]),
    ],
)
def test_where_drives_are(line: str, expected: list[tuple[str, str, int | None]]) -> None:
    assert places(line) == expected


def test_what_drives_are() -> None:
    first = "-drive file=a,format=raw,cache=unsafe,readonly=on,aio=threads,discard=unmap,werror=report"
    disks = config(f"{first} -drive file=b,snapshot=off -cdrom iso -hdd c -snapshot").disks
    assert [d.snapshot for d in disks] == [True, False, False, True]
    assert [d.read_only for d in disks] == [True, False, True, False]
    assert [d.format for d in disks] == ["raw", None, "raw", None]
    assert disks[0].cache == "unsafe"
    (disk,) = config("-drive file=a,if=virtio,werror=enospc,rerror=stop").disks
    assert (disk.write_error, disk.read_error) == ("enospc", "stop")


def test_bootindex_decides_what_is_tried_first() -> None:
    two = (
        "-drive file=a,if=none,id=x -drive file=iso,if=none,id=y -device virtio-blk-pci,drive=x,bootindex={}"
    )
    line = f"{two} -device ide-cd,drive=y,bootindex={{}}"
    assert config(line.format(1, 2)).boot_order == "cda"
    assert config(line.format(2, 1)).boot_order == "dca"
    assert config(line.format(2, 1) + " -boot c").boot_order == "cad"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-foo a", "-foo: not an option that pyvmm knows"),
        ("-usb a", "-usb: there is no USB yet"),
        ("-netdev user a", "-netdev user: it has no id"),
        ("-netdev vde,id=n a", "-netdev vde: not in pyvmm"),
        ("-netdev user,id=n,smb=/x a", "-netdev user: smb is not known"),
        ("-netdev tap,id=n,vhost=on a", "-netdev tap,vhost=on: not in pyvmm"),
        ("-nic user,model=ne2k_pci a", "-nic model=ne2k_pci: this card is not in pyvmm"),
        ("-device virtio-net-pci,netdev=n a", "-device virtio-net-pci,netdev=n: no -netdev has this id"),
        ("-device rtl8139 a", "-device rtl8139: this network card is not in pyvmm"),
        ("-net user a", "-net user: there is no such hub"),
        ("-device usb-kbd a", "-device usb-kbd: not in pyvmm; it has virtio-blk-pci"),
        ("-daemonize a", "-daemonize: pyvmm stays in the foreground"),
        ("-uuid 1 a", "-uuid 1: not a UUID"),
        ("-smbios type=1 a", "-smbios type=1: the SMBIOS tables are pyvmm's own"),
        ("-d int a", "-d int: logs"),
        ("-m", "-m: its value is missing"),
        ("-m 7x a", "-m 7x: not a size"),
        ("-m 512,slots=2 a", "-m slots=2: not in pyvmm; it has size"),
        ("-m 0 a", "-m 0: a PC here has 1M"),
        ("-m 1T a", "-m 1T: a PC here has 1M to 256G"),
        ("-M q35 a", "-M q35: this machine is not in pyvmm"),
        ("-M pc-q35-7.2 a", "-M pc-q35-7.2: this machine is not in pyvmm"),
        ("-M zx81 a", "-M zx81: not a machine of QEMU's"),
        ("-M pc,usb=on a", "-M usb=on: not in pyvmm; write usb=off, or leave it away"),
        ("-M pc,kernel_irqchip=split a", "-M kernel_irqchip=split: it goes with KVM"),
        ("-M pc,kernel_irqchip=on a", "-M kernel_irqchip=on: it goes with KVM"),
        ("-M pc,foo=1 a", "-M foo=1: not in pyvmm; it has type, accel"),
        ("-M pc,accel=xen a", "-M accel=xen: not an accelerator"),
        ("-M accel=kvm -accel tcg a", "-accel: it does not go with -M accel="),
        ("-smp 4 a", "-smp 4: the translator, QEMU's TCG, has one vCPU here; add -enable-kvm"),
        ("-smp 4,sockets=3 -enable-kvm a", "-smp cpus=4,sockets=3: "),
        ("-smp 2,maxcpus=4 -enable-kvm a", "-smp cpus=2,maxcpus=4: "),
        ("-smp 2,dies=2 -enable-kvm a", "-smp dies=2: not in pyvmm"),
        ("-cpu host a", "-cpu host: it goes with KVM"),
        ("-cpu Haswell a", "-cpu Haswell: other processors' models"),
        ("-cpu max,+avx a", "-cpu max,+avx: single features"),
        ("-rtc base=yesterday a", "-rtc base=yesterday: not a date"),
        ("-rtc base=2026-02-31 a", "-rtc base=2026-02-31: not a date"),
        ("-rtc base=1969-01-31 a", "-rtc base=1969-01-31: not a date from 1970"),
        ("-rtc clock=rt a", "-rtc clock=rt: not in pyvmm"),
        ("-rtc driftfix=slew a", "-rtc driftfix=slew: not in pyvmm"),
        ("-drive file=nowhere", "-drive file=nowhere: no such file"),
        ("nowhere", "-drive file=nowhere: no such file"),
        ("-drive file=nbd:host:1", "-drive file=nbd:host:1: nbd: images are not in pyvmm"),
        ("-drive file=.", "-drive file=.: is a directory"),
        ("-drive if=ide,media=cdrom", "-drive: a drive without a file"),
        ("-drive file=a,if=scsi", "-drive if=scsi: not in pyvmm; write if=ide or if=virtio"),
        ("-drive file=a,format=vmdk", "-drive format=vmdk: not in pyvmm"),
        ("-drive file=a,cache=directsync", "-drive cache=directsync: not in pyvmm"),
        ("-drive file=a,aio=native", "-drive aio=native: not in pyvmm; write aio=threads"),
        ("-drive file=a,throttling.iops-total=1", "-drive throttling.iops-total=1: not in pyvmm"),
        ("-drive file=a,file=b", "-drive file=b: file is given twice"),
        ("-drive file=a,if=virtio,media=cdrom", "-drive file=a,if=virtio,media=cdrom: CDs hang on IDE"),
        ("-drive file=a,index=4", "-drive index=4: not a number from 0 to 3"),
        ("-drive file=a,bus=1", "-drive bus=1: the unit is missing"),
        ("-drive file=a,if=virtio,index=1", "-drive if=virtio,index=: it is for IDE drives"),
        ("-hda a -drive file=b,index=0", "-drive file=b: IDE has a drive at index 0"),
        ("-hda a -hdb b -hdc c -hdd d -drive file=e", "-drive file=e: the IDE controller has four"),
        ("-fda a -fdb b -drive file=c,if=floppy", "-drive if=floppy: there are two floppy drives"),
        ("-drive file=a,if=none,id=x -drive file=b,id=x", "-drive id=x: another drive has this id"),
        ("-device virtio-blk-pci a", "-device virtio-blk-pci: it has no drive"),
        ("-device virtio-blk-pci,drive=x a", "-device virtio-blk-pci,drive=x: no -drive has this id"),
        ("-drive file=a,id=x,if=virtio -device ide-hd,drive=x", "-device ide-hd,drive=x: if=virtio has connected it"),
        ("-device virtio-blk-pci,drive=x,num-queues=2 a", "-device virtio-blk-pci num-queues=2: not in pyvmm"),
        ("-device virtio-blk-pci,drive=x,addr=99 a", "-device virtio-blk-pci,addr=0x99: not a number"),
        ("-device isa-debug-exit,iobase=0xf4 a", "-device isa-debug-exit iobase=0xf4: not in pyvmm"),
        ("-boot n a", "-boot order=n: there is no network card"),
        ("-boot x a", "-boot order=x: 'x' is no letter"),
        ("-boot cc a", "-boot order=cc: 'c' is no letter, or is there twice"),
        ("-boot menu=on a", "-boot menu=on: pyvmm's BIOS has no menu"),
        ("-boot splash=x a", "-boot splash=x: not in pyvmm"),
        ("-initrd initrd a", "-initrd initrd: it goes with a kernel"),
        ("-append x a", "-append x: it goes with a kernel"),
        ("-kernel kernel -bios rom", "-bios: a kernel that is loaded directly needs no firmware"),
        ("-kernel nowhere", "-kernel nowhere: no such file"),
        ("-bios nowhere a", "-bios nowhere: no such file"),
        ("-serial pty a", "-serial pty: COM1 cannot go there"),
        ("-serial stdio -serial stdio a", "-serial stdio: there is one serial port"),
        ("-serial stdio -monitor stdio a", "-serial stdio: -monitor stdio has the terminal"),
        ("-monitor unix:x a", "-monitor unix:x: the prompt is on this terminal only"),
        ("-display gtk a", "-display gtk: pyvmm opens no window"),
        ("-display curses a", "-display curses: pyvmm opens no window"),
        ("-vga qxl a", "-vga qxl: not in pyvmm"),
        ("-vnc 5901 a", "-vnc 5901: not [HOST]:DISPLAY"),
        ("-vnc :0,password=on a", "-vnc password=on: not in pyvmm; a password is password-file=FILE"),
        ("-k sv a", "-k sv: not a layout"),
        ("-parallel stdio a", "-parallel stdio: there is no parallel port"),
        ("-debugcon file:x a", "-debugcon file:x: it is shown on this terminal only"),
        ("-action panic=pause a", "-action panic=pause: not in pyvmm"),
        ("-name vm1,foo=2 a", "-name foo=2: not in pyvmm"),
        ("", "nothing to boot: there is no disk"),
    ],
)  # fmt: skip
def test_refused_by_name_in_one_line(line: str, says: str) -> None:
    assert refused(line).startswith(says)


def test_shared_folders(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    line = "-hda a -virtfs local,path=folder,mount_tag=one,security_model=mapped-xattr,readonly=on"
    assert config(line).shares == [ShareConfig("folder", "one", read_only=True, security="mapped")]
    plan, made = plan_of(
        "-hda a -device virtio-9p-pci,fsdev=f,mount_tag=two -fsdev local,path=folder,security_model=passthrough,id=f"
        " -fsdev local,path=folder,security_model=none,id=g"
    )
    assert made.shares == [ShareConfig("folder", "two")]
    assert any(note.startswith("-fsdev id=g: nothing shows it") for note in plan.notes)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-virtfs proxy,path=.,mount_tag=t,security_model=none", "write local"),
        ("-virtfs local,mount_tag=t,security_model=none", "no path"),
        ("-virtfs local,path=missing,mount_tag=t,security_model=none", "no such folder"),
        ("-virtfs local,path=a,mount_tag=t,security_model=none", "not a folder"),
        ("-virtfs local,path=.,mount_tag=t", "no security model"),
        ("-virtfs local,path=.,mount_tag=t,security_model=mapped-file", "mapped-xattr"),
        ("-virtfs local,path=.,security_model=none", "1 to 31 bytes"),
        ("-fsdev local,path=.,security_model=none", "no id"),
        ("-device virtio-9p-pci,mount_tag=t,fsdev=x", "no -fsdev has this id"),
        (
            "-fsdev local,path=.,security_model=none,id=x -device virtio-9p-pci,mount_tag=t,fsdev=x"
            " -device virtio-9p-pci,mount_tag=u,fsdev=x",
            "it has a device already",
        ),
    ],
)
def test_folders_that_cannot_be_shared(line: str, says: str) -> None:
    assert says in refused(f"-hda a {line}")


def test_every_option_of_qemu_is_known() -> None:
    """Understood or refused with a reason, with a value where QEMU has one."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    listed = subprocess.run([qemu, "-help"], capture_output=True, text=True, timeout=60, check=True).stdout
    found: dict[str, bool] = {}
    for match in re.finditer(
        r"^--?([A-Za-z][\w-]*)(/-[\w-]+)?(?: or -(\w+))?(?:[ \t]+(\S.*))?$", listed, re.M
    ):
        first, slash, alias, rest = match.groups()
        names = [first, *([slash[2:]] if slash else []), *([alias] if alias else [])]
        for name in names:
            found.setdefault(
                name, bool(rest) and not match[0].split(names[-1], 1)[1].startswith(("  ", "\t"))
            )
    ours = set(BY_NAME) | set(REFUSED) | {"h", "help", "version"}
    assert len(found) > 100
    assert not set(found) - ours, sorted(set(found) - ours)
    flags = {name for name, valued in REFUSED.items() if not valued[0]}
    flags |= {name for option in OPTIONS if not option.argument for name in option.names}
    wrong = {name for name, valued in found.items() if name in ours and valued and name in flags}
    assert wrong <= {"async-teardown"}  # its description stands where others have their value


def test_no_option_is_both_understood_and_refused() -> None:
    assert not set(BY_NAME) & set(REFUSED)
    assert all(why and instead for _, why, instead in REFUSED.values())


def test_the_code_is_where_the_table_says() -> None:
    root = Path(pyvmm.__file__).parent.parent
    for option in OPTIONS:
        path, _, name = option.where.partition(": ")
        assert re.search(rf"^(def|class) {name}\b|^{name}\b", (root / path).read_text(), re.M), option.where


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    """Every option and every part of it; in the order of the command line; nothing is run."""
    assert main(["qemu-kvm", "--explain", *(LECTURE + DEVICE).split()]) == 0
    text = capsys.readouterr().out
    for word in (
        "-name vm1",
        "-M rhel6.4.0",
        "-enable-kvm",
        "-m 512",
        "cache=none",
        "4 sockets x 1 core x 1 thread",
    ):
        assert word in text
    assert "note: -drive file=data.qcow2: if=none connects it to nothing" in text
    assert text.index("-name vm1") < text.index("-M rhel6.4.0") < text.index("-enable-kvm")


def test_explain_says_what_is_refused_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qemu-kvm", "-usb", "-m", "7x", "-foo", "-hda", "a", "-name", "vm1", "--explain"]) == 2
    text = capsys.readouterr().out
    assert text.count("REFUSED") == 3
    assert "-name vm1" in text


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qemu-kvm", "-M", "q35"]) == 2
    error = capsys.readouterr().err
    assert error == "pyvmm: -M q35: this machine is not in pyvmm, which has the 440FX PC; write -M pc\n"
    assert main(["qemu-kvm", "--help"]) == 0
    assert "-enable-kvm" in capsys.readouterr().out


def test_messages_have_qemus_names() -> None:
    text = "--cpus 4: only KVM runs more; use --cpus 1, or --engine kvm to insist"
    said = "-smp 4: only KVM runs more; use -smp 1, or -enable-kvm to insist"
    assert command.in_qemu_words(text) == said
    assert command.in_qemu_words("--firmware: x; --boot") == "-bios: x; -boot"


WORDS = st.sampled_from(
    [f"-{name}" for name in (*BY_NAME, *REFUSED)]
    + [f"{sub.names[0]}={value}" for o in OPTIONS for sub in o.subs for value in (sub.values or ("a", "1", ""))]
    + [f"{name},drive=x,addr=4" for name in drives.DEVICES]
    + ["a", "-", "--", ",", ",,", "=", "a,b=c", "4,cores=2", "file=a,if=none,id=x", "file=a", "pc,accel=kvm", "\0", "d"]
) | st.text(max_size=12)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=8))
def test_no_words_raise_anything_but_one_line(words: list[str]) -> None:
    """Whatever is written: a configuration, or an error of pyvmm's that one line shows."""
    plan = Plan()
    try:
        for option, name, value in command.parse(words):
            command._apply(plan, option, name, value)
        made = command.settle(plan)
        assert isinstance(made, MachineConfig)
    except PyvmmError:
        pass
    with contextlib.suppress(ConfigError):
        command.run(RunOptions({"words": ["--explain", *words]}))


def test_networks() -> None:
    """-netdev with its card in either order, and -nic; what each came to."""
    from pyvmm.net import Socket, Tap, User

    found = config(
        "-device virtio-net-pci,netdev=n,mac=52:54:00:00:00:01 -netdev user,id=n,hostfwd=tcp::2222-:22"
        " -nic tap,ifname=t0,script=no,downscript=no,model=virtio"
        " -nic stream,addr.type=unix,addr.path=/tmp/x,server=on a"
    )
    user, tap, wire = (network.backend for network in found.networks)
    assert isinstance(user, User)
    assert user.hostfwd == ["tcp::2222-:22"]
    assert isinstance(tap, Tap)
    assert tap.wanted == "t0"
    assert isinstance(wire, Socket)
    assert wire.texts["listen"] == "unix:/tmp/x"
    assert [network.mac for network in found.networks] == ["52:54:00:00:00:01", None, None]
