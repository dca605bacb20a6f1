"""The tables of numbers against the kernel's headers, and errors."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from pyvmm.errors import EngineError
from pyvmm.kvm import ioctl
from pyvmm.kvm.constants import Capability, KvmExitReason, capability_number
from pyvmm.kvm.ioctl import Ioctl, KvmError, Record
from pyvmm.kvm.system import System
from pyvmm.native import ffi


def test_numbers_are_the_kernels(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    expected = {item.name: item.request for item in vars(ioctl).values() if isinstance(item, Ioctl)}
    assert len(expected) > 60
    expected |= {f"KVM_CAP_{item.name}": item.value for item in Capability}
    newest = KvmExitReason.NOTIFY  # later ones are not in every header
    expected |= {f"KVM_EXIT_{item.name}": item.value for item in KvmExitReason if item <= newest}
    lines = (f'#ifdef {name}\nprintf("{name} %lu\\n", (unsigned long){name});\n#endif' for name in expected)
    source = "#include <stdio.h>\n#include <linux/kvm.h>\nint main(void) {\n" + "\n".join(lines) + "\n}\n"
    (tmp_path / "numbers.c").write_text(source)
    subprocess.run([compiler, "-o", tmp_path / "numbers", tmp_path / "numbers.c"], check=True)
    output = subprocess.run([tmp_path / "numbers"], check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in map(str.split, output.splitlines())}
    assert {name: expected[name] for name in found} == found
    assert len(found) > 0.9 * len(expected)


def test_every_ioctl_names_its_section() -> None:
    for item in vars(ioctl).values():
        if isinstance(item, Ioctl):
            assert item.section.startswith("4."), item


def test_error_names_ioctl_argument_and_meaning() -> None:
    error = KvmError(ioctl.SET_USER_MEMORY_REGION, errno.EEXIST, "slot 1, 0x0 + 0x1000, flags 0")
    assert str(error) == (
        "KVM_SET_USER_MEMORY_REGION(slot 1, 0x0 + 0x1000, flags 0): EEXIST: it overlaps another slot (KVM api.rst 4.35)"
    )
    assert isinstance(error, EngineError)
    assert error.errno == errno.EEXIST


def test_device_that_does_not_exist() -> None:
    with pytest.raises(EngineError, match=r"/nonexistent: No such file.*modprobe kvm_intel"):
        System("/nonexistent")


def test_device_that_is_not_kvm() -> None:
    with pytest.raises(EngineError, match="not the KVM device"):
        System("/dev/null")


def test_capability_names() -> None:
    assert capability_number("IRQCHIP") == capability_number("KVM_CAP_IRQCHIP") == Capability.IRQCHIP == 0
    assert capability_number(240) == 240
    with pytest.raises(EngineError, match="NONSENSE: not a capability"):
        capability_number("NONSENSE")


def test_unknown_exit_reasons_are_members() -> None:
    assert KvmExitReason(250).name == "UNDOCUMENTED_250"


def test_record_shows_fields_by_name() -> None:
    regs = Record(ffi.new("struct kvm_regs *"))
    regs.rax = 0x1234
    assert "rax=0x1234" in repr(regs)
    sregs = Record(ffi.new("struct kvm_sregs *"))
    sregs.cs.base = 0xF0000
    assert sregs.cs.base == 0xF0000
    assert dict(sregs.fields())["cr0"] == 0
    with pytest.raises(AttributeError):
        regs.eax  # noqa: B018
