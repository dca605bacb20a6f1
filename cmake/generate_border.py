"""Write the C source of `pyvmm._native` from the one declaration file: generate_border.py CDEF OUT."""

import sys
from pathlib import Path

import cffi


def main(cdef: str, out: str) -> None:
    ffi = cffi.FFI()
    ffi.cdef(Path(cdef).read_text())
    ffi.set_source("pyvmm._native", '#include "pyvmm.h"\n')
    ffi.emit_c_code(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
