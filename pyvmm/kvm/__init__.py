"""KVM: /dev/kvm as the kernel lays it out (system, VM, vCPU), and the engine over it (csrc/kvm/).

The shim is for everybody: ``System().create_vm().create_vcpu(0)`` in a notebook, with every structure by its fields.
The engine is C, and does not go through the shim.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyvmm.kvm.engine import KvmEngine
else:

    def __getattr__(name):
        if name != "KvmEngine":
            raise AttributeError(f"module 'pyvmm.kvm' has no attribute {name!r}")
        from pyvmm.kvm.engine import KvmEngine

        return KvmEngine


__all__ = ["KvmEngine"]
