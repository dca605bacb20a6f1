"""KVM: /dev/kvm as the kernel lays it out (system, VM, vCPU), and the engine over it (csrc/kvm/).

The shim is for everybody: ``System().create_vm().create_vcpu(0)`` in a notebook, with every structure by its fields.
The engine is C, and does not go through the shim.
"""

from pyvmm.kvm.engine import KvmEngine

__all__ = ["KvmEngine"]
