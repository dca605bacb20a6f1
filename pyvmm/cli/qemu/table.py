"""Every option that is understood, as data: what it means, what is done with it, and where that code is.

Left out, and refused by name: what `refused` lists.
"""

from __future__ import annotations

from pyvmm.cli.qemu import drives, files, machine, network, output, shares
from pyvmm.cli.qemu.words import Option, Sub

_ON_OFF = ("on", "off")
_CONFIG = "pyvmm/config.py: MachineConfig"
_ENGINES = "pyvmm/machine/engines.py: choose"
_DISKS = "pyvmm/machine/pc.py: add_disks"
_IDE = "pyvmm/machine/pc.py: add_ide"
_RUNNER = "pyvmm/cli/runner.py: Runner"
_CONSOLE = "pyvmm/cli/console.py: Console"
_SERIAL = "pyvmm/machine/pc.py: add_serial"
_PC = "pyvmm/machine/pc.py: build"
_HERE = "pyvmm/cli/qemu/command.py: parse"
_NETWORK = "pyvmm/machine/network.py: add_networks"
_IRQCHIP = Sub(
    "kernel_irqchip kernel-irqchip",
    "KVM has the interrupt controllers: on, off; split: only the APICs",
    "the same; pyvmm's own for off",
    values=(*_ON_OFF, "split"),
    instead="write kernel_irqchip=on, off or split",
)


def _always(name: str, meaning: str, value: str, does: str) -> Sub:
    """A property with one possible value."""
    return Sub(name, meaning, does, values=(value,), instead=f"write {name}={value}, or leave it away")


_INTERFACES = {
    "ide": "the PIIX3's IDE controller",
    "virtio": "a virtio-blk function on PCI",
    "none": "nothing: only a -device connects it",
    "floppy": "the floppy disk controller",
}
_CACHES = {
    "writeback": "in the host's page cache until the guest flushes",
    "none": "past the page cache, by O_DIRECT",
    "writethrough": "flushed with every write",
    "unsafe": "never flushed",
}
_ON_ERROR = {
    "report": "the guest is told, the default",
    "stop": "the guest is paused, and tries again when it goes on; a virtio disk",
    "enospc": "paused when the host's disk is full, otherwise told; a virtio disk",
}
_DRIVE_SUBS = (
    Sub("file", "the image"),
    Sub("if", "what it hangs on", _INTERFACES, values=tuple(_INTERFACES)),
    Sub("id", "its name, for -device"),
    Sub("media", "disk or cdrom", values=("disk", "cdrom")),
    Sub("format", "of the image; raw should be said", values=("raw", "qcow2")),
    Sub("cache", "what the host does with written data", _CACHES, values=tuple(_CACHES)),
    Sub("readonly read-only", "the guest cannot write", values=_ON_OFF),
    Sub("snapshot", "what the guest writes is thrown away", values=_ON_OFF),
    Sub("index", "its place: IDE 0 to 3"),
    Sub("bus", "its channel"),
    Sub("unit", "its place on the channel"),
    Sub("aio", "how the host reads and writes", "a thread for each disk", values=("threads",)),
    Sub("discard", "freed blocks are given back", "always so", values=("unmap", "on"), instead="write discard=unmap"),
    _always("detect-zeroes", "zeroes are not stored", "off", "they are stored"),
    _always("copy-on-read", "backing data is copied when it is read", "off", "it is not"),
    Sub("werror", "what a failed write does (QEMU: enospc)", _ON_ERROR, values=tuple(_ON_ERROR)),
    Sub("rerror", "what a failed read does", _ON_ERROR, values=tuple(_ON_ERROR)),
)  # fmt: skip

OPTIONS = (
    Option("name", "NAME[,process=P]", "the guest's name", "", "pyvmm/threads.py: name_process", machine.set_name,
           first="guest", subs=(
        Sub("guest", "shown to the user"),
        Sub("process", "the process's name, in ps and top", "the same; without it the guest's name"),
        Sub("debug-threads", "threads have names", "they always have", values=_ON_OFF),
    )),
    Option("M machine", "TYPE[,PROP=VALUE]", "which board", "the PC with the 440FX and PIIX3", _PC, machine.set_machine,
           first="type", subs=(
        Sub("type", "the board: pc, pc-i440fx-N, rhel6.N.0", "one PC; the version sets only -smp's default"),
        Sub("accel", "what runs guest code, by preference", "kvm, tcg: the translator, kvm:tcg: what a probe finds"),
        _IRQCHIP,
        _always("usb", "a USB controller", "off", "there is none"),
        _always("vmport", "VMware's port", "off", "there is none"),
        Sub("hpet", "high precision event timers", values=_ON_OFF),
        _always("smm", "system management mode", "off", "there is none"),
        _always("acpi", "ACPI tables", "on", "they are there"),
    )),
    Option("enable-kvm", "", "the host's processor runs guest code", "engine kvm, warned about where a probe finds it"
           " bad; without it QEMU takes TCG, and pyvmm its translator", _ENGINES, machine.enable_kvm),
    Option("accel", "NAME", "what runs guest code; may be repeated, by preference",
           "kvm, tcg: the translator; kvm and then tcg: what a probe of this host finds best", _ENGINES,
           machine.add_accelerator, first="accel", subs=(
        Sub("accel", "kvm or tcg"),
        _IRQCHIP,
        Sub("thread", "TCG's threads", "one vCPU, one thread", values=("single",)),
    )),
    Option("cpu", "MODEL", "which processor the guest sees", "the engine's own processor", "pyvmm/kvm/engine.py:"
           " KvmEngine", machine.set_processor),
    Option("m", "SIZE", "RAM; MiB without a unit", "", "pyvmm/machine/pc.py: add_memory", machine.set_memory,
           first="size", subs=(Sub("size", "RAM"),)),
    Option("smp", "N[,sockets=S][,cores=C][,threads=T]", "vCPUs and how they are arranged", "",
           "pyvmm/cpu/topology.py: parse_smp", machine.set_smp, first="cpus", subs=(
        Sub("cpus", "how many run", "a thread for each, vcpu-0 and so on"),
        Sub("sockets", "processor packages", "the upper bits of the APIC IDs"),
        Sub("cores", "cores in each package", "the middle bits; CPUID leaves 4 and 0xb"),
        Sub("threads", "threads in each core", "the lowest bits; CPUID leaf 0xb"),
        Sub("maxcpus", "how many there may be later", "as many as there are: none are plugged in later"),
        _always("dies", "dies in each package", "1", "one"),
        _always("clusters", "clusters in each die", "1", "one"),
    )),
    Option("rtc", "base=B[,clock=C]", "the real-time clock", "an MC146818", "pyvmm/machine/pc.py: add_clock",
           machine.set_clock, subs=(
        Sub("base", "what it shows at the start: utc, localtime or a date"),
        Sub("clock", "what it follows", "host: as vm, so it stands still while the machine is paused",
            values=("host", "vm")),
        _always("driftfix", "lost ticks are made up for", "none", "they are not"),
    )),
    Option("drive", "file=F,if=I,...", "an image, and what it hangs on", "opened with a lock, as QEMU does", _DISKS,
           drives.add_drive, subs=_DRIVE_SUBS),
    *(
        Option(name, "FILE", f"{what} of the IDE controller, index {index}", f"-drive file=FILE,index={index}", _IDE,
               drives.short_form(index=str(index)))
        for name, what, index in (("hda", "first disk", 0), ("hdb", "second disk", 1), ("hdc", "third disk", 2),
                                  ("hdd", "fourth disk", 3))
    ),
    Option("cdrom", "FILE", "a CD in the IDE drive of index 2", "-drive file=FILE,media=cdrom,index=2", _IDE,
           drives.short_form(media="cdrom", index="2")),
    *(
        Option(name, "FILE", f"a floppy in drive {letter}", "-drive file=FILE,if=floppy,format=raw", _DISKS,
               drives.short_form(**{"if": "floppy", "format": "raw"}))
        for name, letter in (("fda", "A"), ("fdb", "B"))
    ),
    Option("virtfs", "local,path=F,mount_tag=T,security_model=M", "a folder of the host, mounted by 9p", "",
           "pyvmm/machine/virtio.py: add_shares", shares.add_virtfs, first="fsdriver", subs=shares.VIRTFS_SUBS),
    Option("fsdev", "local,id=I,path=F,security_model=M", "a folder of the host, for -device virtio-9p-pci", "the same",
           "pyvmm/machine/virtio.py: add_shares", shares.add_fsdev, first="fsdriver", subs=shares.FSDEV_SUBS),
    Option("device", "DEVICE[,PROP=VALUE]", "plugs a device in", "", _DISKS, drives.add_device),
    Option("boot", "[order=]LETTERS", "what firmware tries: c disk, d CD, a floppy", "the rest is tried afterwards",
           "pyvmm/firmware/boot.py: Boot", machine.set_boot, first="order", subs=(
        Sub("order", "always"),
        Sub("once", "at the first start"),
        Sub("menu", "the firmware's boot menu", "SeaBIOS's, so with -bios; pyvmm's BIOS has none", values=_ON_OFF),
        Sub("strict", "nothing else is tried", values=_ON_OFF),
    )),
    Option("kernel", "FILE", "a kernel that is loaded without a boot loader", "bzImage, PVH ELF or multiboot",
           "pyvmm/boot/kernel.py: load_kernel", files.set_kernel),
    Option("initrd", "FILE", "its initial RAM disk", "the same", "pyvmm/boot/kernel.py: load_kernel", files.set_initrd),
    Option("append", "TEXT", "its command line", "the same", "pyvmm/boot/kernel.py: load_kernel", files.set_append),
    Option("bios", "FILE", "the firmware's ROM; QEMU's is SeaBIOS", "", "pyvmm/machine/pc.py: add_memory",
           files.set_bios),
    Option("pflash", "FILE", "flash memory with UEFI's variables", "below the ROM of -bios ovmf, kept in the file",
           "pyvmm/devices/pflash.py: Pflash", files.set_pflash),
    Option("uuid", "UUID", "the machine's identity", "in its SMBIOS table", "pyvmm/boot/smbios.py: parse_uuid",
           machine.set_uuid),
    Option("nographic", "", "no window: serial port and monitor are on the terminal",
           "COM1 is on this terminal; Ctrl-A C is the prompt, Ctrl-A X quits", _SERIAL, output.set_nographic),
    Option("display", "none|vnc=...", "where the screen is shown", "nowhere; the VGA is there", "pyvmm/machine/pc.py:"
           " add_display", output.set_display),
    Option("vga", "std|none", "the display adapter", "Bochs's VGA, or none", "pyvmm/machine/pc.py: add_display",
           output.set_vga),
    Option("vnc", "[HOST]:DISPLAY", "the screen, by network", "", "pyvmm/display/vnc.py: VncServer", output.set_vnc),
    Option("k", "LAYOUT", "the keyboard's layout", "", "pyvmm/display/keys.py: LAYOUTS", output.set_keyboard),
    Option("serial", "DEVICE", "where a serial port goes", "", _SERIAL, output.add_serial),
    Option("parallel", "none", "where the parallel port goes", "there is none", _HERE,
           output.accept_nothing("-parallel", "parallel port")),
    Option("chardev", "BACKEND,id=ID[,path=PATH]", "the other end of a virtconsole or virtserialport", "",
           "pyvmm/machine/virtio.py: add_console", output.add_chardev, first="backend", subs=(
        Sub("backend", "what it is", values=("stdio", "socket", "file", "null"), instead="use one of them"),
        Sub("id", "its name, for -device"),
        Sub("path", "of the file or Unix socket"),
        Sub("server", "listen at the socket", values=_ON_OFF),
        Sub("wait", "start only when a client is there", values=("off",), instead="write wait=off"),
        Sub("mux", "share the terminal with the prompt", "always so", values=_ON_OFF),
        Sub("signal", "Ctrl-C ends the machine", values=("off",), instead="leave it away: Ctrl-A X ends it"),
    )),
    Option("monitor", "stdio|none", "QEMU's monitor", "", _CONSOLE, output.set_monitor),
    Option("debugcon", "stdio", "what the guest writes to port 0xE9", "shown on standard error",
           "pyvmm/devices/ports.py: DebugConsole", output.set_debug_console),
    Option("net", "none", "a network", "there is none", _HERE,
           output.accept_nothing("-net", "such hub; use -nic or -netdev")),
    Option("nic", "KIND[,model=M][,mac=A][,...]|none", "a network, and its card", "", _NETWORK, network.add_nic),
    Option("netdev", "KIND,id=ID[,...]", "a network, for a -device", "", _NETWORK, network.add_netdev),
    Option("nodefaults", "", "nothing that was not asked for: no screen, serial port or CD drive",
           "no VGA, COM1 connected to nothing", _CONFIG, machine.set_flag("no_defaults")),
    Option("no-user-config nodefconfig", "", "no configuration files", "pyvmm reads none", _HERE, machine.accept),
    Option("no-hpet", "", "no high precision event timers", "the same", "pyvmm/machine/pc.py: add_chipset",
           machine.set_flag("no_hpet")),
    Option("snapshot", "", "what the guest writes to its disks is thrown away", "the same", _DISKS,
           machine.set_flag("snapshot")),
    Option("no-reboot", "", "a reset ends it", "with exit code 3, where QEMU's is 0", _RUNNER,
           machine.set_flag("no_reboot")),
    Option("no-shutdown", "", "power-off does not end it", "it waits; Ctrl-A C, resume switches it on again", _RUNNER,
           machine.set_flag("no_shutdown")),
    Option("action", "reboot=R,shutdown=S", "what a reset and a power-off do", "as -no-reboot and -no-shutdown",
           _RUNNER, machine.set_action, subs=(
        Sub("reboot", "at a reset", values=("reset", "shutdown")),
        Sub("shutdown", "at power-off", values=("poweroff", "pause")),
    )),
    Option("S", "", "wait before the first instruction", "until Ctrl-A C, resume", _RUNNER, machine.set_flag("paused")),
)  # fmt: skip

BY_NAME = {name: option for option in OPTIONS for name in option.names}
