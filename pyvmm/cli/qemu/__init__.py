"""``pyvmm qemu-kvm``: QEMU's command line, read, explained and run on this machine.

`words` reads an option's value, `table` and `refused` are the options as data, `machine`, `drives` and `output` are
what they do, all on a `plan.Plan`; `command` is the command itself and `explain` prints what each option means.

Source: QEMU 7.2's manual, "Invocation" (qemu.1). Nothing is ignored: what is not here is refused by name.
"""
