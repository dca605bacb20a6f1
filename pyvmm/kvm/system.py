"""The first of KVM's three levels: the device, and what it says of itself (api.rst 4, "system ioctls")."""

from __future__ import annotations

import errno
import os
from types import TracebackType
from typing import Self

from pyvmm.errors import EngineError
from pyvmm.kvm import ioctl, tables
from pyvmm.kvm.constants import API_VERSION, Capability, capability_number
from pyvmm.kvm.tables import CpuidEntry
from pyvmm.kvm.vm import Vm

_HINTS = {
    errno.ENOENT: "load the module (modprobe kvm_intel or kvm_amd), switch virtualisation on in the firmware, or inside"
    " a virtual machine ask its host for nested virtualisation",
    errno.EACCES: "join the group kvm (usermod -aG kvm NAME, log in again)",
    errno.EPERM: "join the group kvm (usermod -aG kvm NAME, log in again)",
}


class System:
    """An open KVM device.

    >>> from pyvmm.kvm.system import System                     # doctest: +SKIP
    >>> vm = System().create_vm()                               # doctest: +SKIP
    >>> vm.add_memory(0x1000, 4096)[:3] = b"\\xe6\\x77\\xf4"        # out 0x77, al; hlt  # doctest: +SKIP
    >>> vcpu = vm.create_vcpu(0)                                # doctest: +SKIP
    >>> vcpu.set_real_mode(0x1000)                              # doctest: +SKIP
    >>> vcpu.run()                                              # doctest: +SKIP
    IoExit(reason=<KvmExitReason.IO: 2>, port=119, size=1, is_write=True, data=b'\\x00')

    Parameters
    ----------
    device
        The device file.

    Raises
    ------
    EngineError
        It cannot be opened, with what to do, or speaks another API version.
    """

    def __init__(self, device: str | os.PathLike[str] = "/dev/kvm") -> None:
        self.fd = -1
        try:
            self.fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "")
            raise EngineError(f"{os.fspath(device)}: {error.strerror}{'; ' if hint else ''}{hint}") from None
        try:
            if self.api_version != API_VERSION:
                raise EngineError(
                    f"{os.fspath(device)}: KVM API version {self.api_version}, not {API_VERSION}: not supported"
                )
        except EngineError:
            self.close()
            raise

    @property
    def api_version(self) -> int:
        """KVM_GET_API_VERSION (api.rst 4.1): 12."""
        return ioctl.call(self.fd, ioctl.GET_API_VERSION)

    def check_extension(self, capability: Capability | str | int) -> int:
        """KVM_CHECK_EXTENSION (api.rst 4.4).

        Parameters
        ----------
        capability
            A `Capability`, its name (``"IRQCHIP"`` or ``"KVM_CAP_IRQCHIP"``), or any number.

        Returns
        -------
        int
            0: KVM lacks it; 1, or a number that says more (how many vCPUs, which flags).
        """
        return ioctl.call(self.fd, ioctl.CHECK_EXTENSION, capability_number(capability), f"{capability!s}")

    @property
    def capabilities(self) -> dict[Capability, int]:
        """Every capability that this KVM has, with its value."""
        values = {capability: self.check_extension(capability) for capability in Capability}
        return {capability: value for capability, value in values.items() if value}

    @property
    def vcpu_mmap_size(self) -> int:
        """KVM_GET_VCPU_MMAP_SIZE (api.rst 4.5): bytes that a vCPU shares with the kernel, kvm_run first."""
        return ioctl.call(self.fd, ioctl.GET_VCPU_MMAP_SIZE)

    @property
    def supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID (api.rst 4.46): what may be shown to a guest on this host."""
        return tables.read_cpuid(self.fd, ioctl.GET_SUPPORTED_CPUID)

    @property
    def emulated_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_EMULATED_CPUID (api.rst 4.88): features that KVM emulates although the processor lacks them."""
        return tables.read_cpuid(self.fd, ioctl.GET_EMULATED_CPUID)

    @property
    def msr_indices(self) -> list[int]:
        """KVM_GET_MSR_INDEX_LIST (api.rst 4.3): registers that belong to a vCPU's saved state."""
        return tables.read_msr_list(self.fd, ioctl.GET_MSR_INDEX_LIST)

    @property
    def msr_features(self) -> dict[int, int]:
        """KVM_GET_MSR_FEATURE_INDEX_LIST and KVM_GET_MSRS on the device (api.rst 4.3, 4.18): feature registers."""
        indices = tables.read_msr_list(self.fd, ioctl.GET_MSR_FEATURE_INDEX_LIST)
        return tables.read_msrs(self.fd, indices)

    def create_vm(self, kind: int = 0) -> Vm:
        """KVM_CREATE_VM (api.rst 4.2): a machine with no memory and no vCPU."""
        return Vm(ioctl.call(self.fd, ioctl.CREATE_VM, kind, f"type {kind}"), self)

    def close(self) -> None:
        """Close the device. VMs made from it live on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
