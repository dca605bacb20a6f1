"""Builds the built-in guest for tests, by its own CMake file and apart from pyvmm's build, once per run."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(guest C ASM)
find_package(Python REQUIRED COMPONENTS Interpreter)
include({guest})
"""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program that must succeed; return what it printed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def build(folder: Path, compiler: str) -> Path:
    """Build the guest by its own CMake file; return the build folder."""
    (folder / "CMakeLists.txt").write_text(PROJECT.format(guest=ROOT / "cmake" / "guest.cmake"))
    flags = "-fsanitize=address -fPIC"  # must not reach the guest
    run("cmake", "-S", folder, "-B", folder / "build", f"-DCMAKE_C_COMPILER={compiler}", f"-DCMAKE_C_FLAGS={flags}",
        f"-DPython_EXECUTABLE={sys.executable}")  # fmt: skip
    run("cmake", "--build", folder / "build", "--target", "guest_disk")
    return folder / "build"


@functools.cache
def build_once(parent: Path) -> Path:
    """Build with the default compiler; whoever asks again gets the same folder."""
    (parent / "builtin-guest").mkdir()
    folder = build(parent / "builtin-guest", "cc")
    run("qemu-img", "convert", "-O", "raw", folder / "builtin.qcow2", folder / "builtin.raw")
    return folder


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with builtin.qcow2, guest-kernel.elf and builtin.raw."""
    if not shutil.which("qemu-img"):
        pytest.skip("no qemu-img (qemu-utils)")
    return build_once(tmp_path_factory.getbasetemp())
