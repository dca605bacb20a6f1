"""Answers for 03_trap_and_emulate.ipynb: one that its check must take, and some that it must refuse."""


# %% exercise 1: solution
def emulate_msr(stop, registers, cpu) -> bool:
    """Intel SDM vol. 2B RDMSR, vol. 2D WRMSR."""
    if stop.instruction == "wrmsr":
        cpu.msr[registers.ecx] = registers.edx << 32 | registers.eax
    elif stop.instruction == "rdmsr":
        value = cpu.msr.get(registers.ecx, 0)
        registers.eax, registers.edx = value & 0xFFFFFFFF, value >> 32
    else:
        return False
    return True


# %% exercise 1: wrong, all of the value goes to RAX
def emulate_msr(stop, registers, cpu) -> bool:
    """As if there were one register of 64 bits."""
    if stop.instruction == "wrmsr":
        cpu.msr[registers.ecx] = registers.rax
    elif stop.instruction == "rdmsr":
        registers.rax = cpu.msr.get(registers.ecx, 0)
    else:
        return False
    return True


# %% exercise 1: wrong, there is only one register
def emulate_msr(stop, registers, cpu) -> bool:
    """Forgets ECX."""
    if stop.instruction == "wrmsr":
        cpu.msr[0] = registers.edx << 32 | registers.eax
    elif stop.instruction == "rdmsr":
        value = cpu.msr.get(0, 0)
        registers.eax, registers.edx = value & 0xFFFFFFFF, value >> 32
    else:
        return False
    return True
