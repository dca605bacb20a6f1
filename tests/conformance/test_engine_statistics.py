"""What engines count by themselves: the translator's TLB exactly, KVM's by the names of its documentation."""

from __future__ import annotations

from tests.conformance.engine_rig import DATA, Rig, needs

PROGRAM = f"""
    mov rcx, 100
again:
    mov rax, cr3
    mov cr3, rax
    mov eax, [{DATA:#x}]
    invlpg [{DATA:#x}]
    mov eax, [{DATA:#x}]
    dec rcx
    jnz again
    hlt
"""


@needs("long")
def test_tlb(rig: Rig) -> None:
    """A hundred times: all dropped, the page's entry made, dropped, and made again."""
    rig.start("long", PROGRAM)
    before = rig.vcpu.tlb
    rig.run()
    did = rig.vcpu.tlb - before
    if rig.vm.name == "translator":
        assert (did.flushes, did.page_flushes) == (100, 100)
        assert did.fills["user"] == 0
        assert 300 <= did.fills["kernel"] < 320  # the page twice, the code's page once; few before that
        assert not did.mmu
    else:
        assert not did.fills
        assert did.page_flushes in (0, 100)  # with nested paging INVLPG does not exit
        assert "pf_taken" in did.mmu
        assert "vm.mmu_shadow_zapped" in did.mmu
    assert "flushes" in str(did)
    counted = rig.vcpu.statistics
    assert all(value >= 0 for value in counted.values())
    if rig.vm.name == "kvm":
        assert counted["exits"] >= 1
