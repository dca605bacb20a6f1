"""The PC's own BIOS: thin real-mode stubs in a ROM (csrc/firmware), and the services behind them in Python.

`Bios` puts it together; one module per group of services. docs/bios.md lists every function with its source.
"""
