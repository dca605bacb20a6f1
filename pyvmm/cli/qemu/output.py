"""Options of what the user sees: serial ports, monitor, screen, keyboard."""

from __future__ import annotations

import re

from pyvmm.cli.qemu.words import refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.cli.qemu.plan import Plan
    from pyvmm.cli.qemu.words import Handler, Values
    from pyvmm.config import PortConfig

VNC_PORT = 5900
KEYBOARDS = {"en-us": "us", "en-gb": "uk", "de": "de", "fr": "fr"}


def add_serial(plan: Plan, values: Values) -> str | None:
    """``-serial``: the first is COM1's; the others may only be nothing."""
    text = values[""]
    if plan.serials and text not in ("none", "null"):
        raise refuse(f"-serial {text}", "there is one serial port, COM1", "write -serial once")
    if not (
        text in ("stdio", "mon:stdio", "null", "none")
        or (text.startswith("file:") and len(text) > len("file:"))
    ):
        raise refuse(
            f"-serial {text}", "COM1 cannot go there", "write stdio, mon:stdio, file:PATH, null or none"
        )
    plan.serials.append(text)
    if len(plan.serials) > 1:
        return "there is no such port"
    if text.startswith("file:"):
        return "what the guest writes to COM1 goes to the file"
    if text in ("null", "none"):
        return "COM1 is there and connected to nothing"
    return "COM1 is on this terminal; Ctrl-A C is the prompt, Ctrl-A X quits, Ctrl-A H helps"


def set_monitor(plan: Plan, values: Values) -> str | None:
    """``-monitor``: there is one prompt, on the terminal."""
    text = values[""]
    if text not in ("stdio", "none", "null"):
        raise refuse(
            f"-monitor {text}", "the prompt is on this terminal only", "write -monitor stdio or none"
        )
    plan.monitor = text
    return (
        "the prompt opens at once"
        if text == "stdio"
        else "Ctrl-A C opens the prompt on a terminal all the same"
    )


def set_nographic(plan: Plan, values: Values) -> None:
    """``-nographic``: the terminal is COM1's and the monitor's."""
    plan.display = "nographic"


def set_display(plan: Plan, values: Values) -> str | None:
    """``-display``: no window, or VNC."""
    kind, _, rest = values[""].partition(",")
    if kind.startswith("vnc="):
        set_vnc(plan, {"": values[""].removeprefix("vnc=")})
        return "a VNC server; see -vnc"
    if kind != "none" or rest:
        raise refuse(f"-display {values['']}", "pyvmm opens no window", "write -display none, or -vnc :0")
    plan.display = "none"
    return None


def set_vnc(plan: Plan, values: Values) -> str | None:
    """``-vnc``: as `Machine.serve_vnc` has it."""
    where, *words = values[""].split(",")
    plan.display = "vnc"
    if where == "none" and not words:
        plan.vnc = None
        return "a screen that nobody sees"
    for word in words:
        if not word.startswith("password-file="):
            raise refuse(
                f"-vnc {word}", "not in pyvmm", "a password is password-file=FILE; leave others away"
            )
    match = re.fullmatch(r"(\[[^\]]+\]|[^:]*):(\d{1,5})", where, re.ASCII)
    if match is None or int(match[2]) > 65535 - VNC_PORT:
        raise refuse(f"-vnc {where}", "not [HOST]:DISPLAY", "write for example -vnc :0")
    plan.vnc = values[""]
    port = VNC_PORT + int(match[2])
    if not match[1]:
        return f"a VNC server for this computer only, port {port}; where QEMU listens to all, write 0.0.0.0{where}"
    return f"a VNC server at {match[1]}, port {port}"


def set_vga(plan: Plan, values: Values) -> None:
    """``-vga``: Bochs's, or none."""
    if values[""] not in ("std", "none"):
        raise refuse(f"-vga {values['']}", "not in pyvmm", "write -vga std or -vga none")
    plan.vga = values[""]


def set_keyboard(plan: Plan, values: Values) -> str:
    """``-k``: the layout of the guest's keyboard."""
    text = values[""]
    if text not in KEYBOARDS:
        raise refuse(f"-k {text}", "not a layout of pyvmm's", f"write -k with one of {', '.join(KEYBOARDS)}")
    plan.keyboard = KEYBOARDS[text]
    return f"the layout that VNC keys are translated to: {plan.keyboard}"


def set_debug_console(plan: Plan, values: Values) -> None:
    """``-debugcon``: port 0xE9 on the terminal."""
    if values[""] not in ("stdio", "mon:stdio"):
        raise refuse(f"-debugcon {values['']}", "it is shown on this terminal only", "write -debugcon stdio")
    plan.debug_console = True


def accept_nothing(option: str, what: str) -> Handler:
    """A handler for ``option none``."""

    def handler(plan: Plan, values: Values) -> None:
        if values[""] not in ("none", "null"):
            raise refuse(f"{option} {values['']}", f"there is no {what} in pyvmm", f"write {option} none")

    return handler


def add_chardev(plan: Plan, values: Values) -> str | None:
    """``-chardev``: the other end of a virtconsole or virtserialport."""
    kind, id_, path = values["backend"], values.get("id", ""), values.get("path", "")
    if not id_ or id_ in plan.chardevs:
        raise refuse(f"-chardev {kind}", "its id is missing, or there twice", "write id=NAME")
    if kind == "socket" and (values.get("server", "off") != "on" or not path):
        raise refuse(
            f"-chardev socket,id={id_}",
            "pyvmm listens at a Unix socket",
            "write -chardev socket,path=PATH,server=on,wait=off",
        )
    if kind == "file" and not path:
        raise refuse(f"-chardev file,id={id_}", "it has no path", "write path=FILE")
    plan.chardevs[id_] = {"socket": f"unix:{path}", "file": f"file:{path}"}.get(kind, kind)
    return None


def ports(plan: Plan) -> list[PortConfig]:
    """What ``-device virtserialport`` adds up to; a virtconsole is on the terminal, as COM1 is."""
    from pyvmm.config import PortConfig

    found = []
    for device, values in plan.console_ports:
        end = plan.chardevs.get(values.get("chardev", ""))
        if end is None:
            raise refuse(f"-device {device}", "no -chardev has its id", f"add -device {device},chardev=ID")
        if device == "virtconsole":
            if end != "stdio" or sum(name == device for name, _ in plan.console_ports) > 1:
                raise refuse(
                    "-device virtconsole", "there is one, on the terminal", "write -chardev stdio,id=con"
                )
        elif end == "stdio" or not values.get("name"):
            raise refuse(
                "-device virtserialport",
                "it has a name, and a file or socket at its other end",
                "write name=NAME and -chardev socket or file",
            )
        else:
            found.append(PortConfig(values["name"], end))
    return found


def place_of_serial(plan: Plan) -> str:
    """COM1's other end. QEMU's default is a window's pane, with ``-nographic`` the terminal."""
    serial = plan.serials[0] if plan.serials else ""
    if serial in ("stdio", "mon:stdio"):
        if plan.monitor == "stdio" and serial == "stdio":
            raise refuse(
                "-serial stdio", "-monitor stdio has the terminal", "write -serial mon:stdio instead of both"
            )
        return "stdio"
    if serial:
        return "null" if serial == "none" else serial
    if plan.no_defaults or plan.monitor == "stdio":
        return "null"
    if plan.display in ("none", "vnc"):
        plan.notes.append(
            "COM1 is connected to nothing, as in QEMU without a window; -serial stdio shows it here"
        )
        return "null"
    return "stdio"
