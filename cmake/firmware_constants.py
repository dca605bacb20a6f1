"""Writes the constants that the BIOS's assembly shares with Python as a C header: `firmware_constants.py PACKAGE
OUTPUT`.

They live in `pyvmm/machine/layout.py`, `pyvmm/firmware/bda.py` and `pyvmm/firmware/rom.py` only. The package is not
imported as a whole: it may not be built yet.
"""

import importlib
import sys
import types
from pathlib import Path


def main(package: Path, output: Path) -> None:
    sys.dont_write_bytecode = True
    for name in ("pyvmm", "pyvmm.machine", "pyvmm.firmware"):
        module = types.ModuleType(name)
        module.__path__ = [str(package.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    layout = importlib.import_module("pyvmm.machine.layout")
    bda = importlib.import_module("pyvmm.firmware.bda")
    rom = importlib.import_module("pyvmm.firmware.rom")
    lines = [
        f"#define {name} {getattr(layout, name):#x}"
        for name in ("FIRMWARE_SERVICE", "PIC_MASTER", "PIC_SLAVE", "I8042_DATA", "RTC")
    ]
    lines += [f"#define BDA_{name} {getattr(bda, name):#x}" for name in ("SEGMENT", "TICKS", "MIDNIGHT")]
    lines += [
        f"#define {name} {getattr(rom, name):#x}"
        for name in ("ROM_CODE", "BOOT_STACK", "SERVICE_POST", "ACTION_RETURN", "ACTION_WAIT", "ACTION_POLL")
    ]
    lines.append(f'#define ROM_SIGNATURE "{rom.ROM_SIGNATURE.decode()}"')
    output.write_text(
        "/* Made by cmake/firmware_constants.py from the Python sources. */\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
