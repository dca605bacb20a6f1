"""The `pyvmm` command: a front end that talks to `Machine` and to the block layer only."""
