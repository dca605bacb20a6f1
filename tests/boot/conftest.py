"""Guests of the boot tests, made once per run and kept in ``$PYVMM_GUEST_CACHE`` (or a temporary folder of the run)."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pyvmm.guests.cached import cached_debian_disk, cached_initramfs, cached_kernel
from pyvmm.guests.tools import find_tool
from tests.boot.guests import Boot, Session, Vmm, booted, need


@pytest.fixture(scope="session", autouse=True)
def guest_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of made guests."""
    if "PYVMM_GUEST_CACHE" not in os.environ:
        os.environ["PYVMM_GUEST_CACHE"] = str(tmp_path_factory.mktemp("guests"))
    return Path(os.environ["PYVMM_GUEST_CACHE"])


@pytest.fixture(scope="session")
def debian_disk(guest_cache: Path) -> Path:
    """A fresh Debian disk; never written to: boot a copy or an overlay of it."""
    if os.geteuid() != 0 or find_tool("debootstrap") is None:
        pytest.skip("making a Debian disk needs root and debootstrap")
    need("mke2fs", "qemu-img")
    return cached_debian_disk()


@pytest.fixture(scope="session")
def cloud_kernel(guest_cache: Path) -> Path:
    """Debian's cloud kernel."""
    need("apt-get", "dpkg-deb")
    return cached_kernel()


@pytest.fixture(scope="session")
def initramfs(guest_cache: Path) -> Path:
    """A busybox initramfs that prints UP and gives a shell."""
    need("busybox")
    return cached_initramfs()


@pytest.fixture(scope="session")
def vmm() -> Vmm:
    """The program under test: pyvmm (with the engine PYVMM_TEST_ENGINE), or QEMU, to check the tests themselves."""
    return Vmm(os.environ.get("PYVMM_TEST_VMM", "pyvmm"), os.environ.get("PYVMM_TEST_ENGINE", "auto"))


@pytest.fixture(scope="session")
def qemu() -> Vmm:
    """QEMU with its TCG."""
    need("qemu-system-x86_64")
    return Vmm("qemu")


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    """Return a function that runs a guest for a `with` block; each run has its log in the test's temporary folder."""
    count = 0

    def start(argv: list[str]) -> AbstractContextManager[Session]:
        nonlocal count
        count += 1
        return booted(argv, tmp_path / f"console-{count}.log")

    return start


@pytest.fixture
def exercised(vmm: Vmm, record_exercised: Callable[..., None]) -> Callable[[str], None]:
    """Return a function that a test calls with its guest's name once it has passed."""

    def record(guest: str) -> None:
        record_exercised(engine=vmm.engine if vmm.name == "pyvmm" else vmm.name, guest=guest)

    return record
