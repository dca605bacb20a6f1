"""``import pyvmm``: its names, what each is, and that nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pyvmm
import pyvmm.cli

NAMES = {
    "CpuState",
    "Device",
    "DiskConfig",
    "GuestMemory",
    "Machine",
    "MachineConfig",
    "PyvmmError",
    "VmExit",
    "__version__",
    "assemble",
    "create_image",
    "disassemble",
    "open_image",
    "parse_size",
}
HEAVY = ("unicorn", "capstone", "keystone", "numpy", "rich", "zstandard", "cffi", "pyvmm._native")


def test_all_is_what_it_was() -> None:
    """A name leaves or enters the public interface on purpose, with this list."""
    assert set(pyvmm.__all__) == NAMES
    assert list(pyvmm.__all__) == sorted(pyvmm.__all__)
    assert dir(pyvmm) == sorted(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_names_resolve_and_are_documented(name: str) -> None:
    thing = getattr(pyvmm, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert inspect.getdoc(thing), f"{name} has no docstring"


def test_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version

    assert pyvmm.__version__ == version("pyvmm-lab")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Machin'"):
        pyvmm.Machin  # noqa: B018


def test_import_is_light() -> None:
    code = "import sys, pyvmm; print(*sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "pyvmm" in modules
    assert not [name for name in HEAVY if name in modules]


def test_only_native_imports_the_compiled_module() -> None:
    package = Path(pyvmm.cli.__file__).parent.parent
    importers = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            if any(name.split(".")[-1] == "_native" for name in names):
                importers.add(path.relative_to(package).as_posix())
    assert importers == {"native.py"}
