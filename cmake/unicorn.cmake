# The Unicorn library for the translator: from the static library in the unicorn package of ${Python_EXECUTABLE}, one
# object with x86-64 only and with some functions left to csrc/translator (docs/adr/0004). Sets UNICORN_MISSING when the
# package is not there; else UNICORN_INCLUDE and UNICORN_OBJECT.

# csrc/translator/cpu_env.h was measured on this one: unicorn 2.1.4, its manylinux wheel for x86-64.
set(UNICORN_SHA256 bb556269ec90752e3b3ded2f3fc6a397427ca73e30ca4818d3cfb05621b5e210)

# The functions that csrc/translator/library.h declares as replaced.
set(PYVMM_UNICORN_REPLACED
  helper_inb_x86_64 helper_inw_x86_64 helper_inl_x86_64 helper_outb_x86_64 helper_outw_x86_64 helper_outl_x86_64
  helper_rdmsr_x86_64 helper_wrmsr_x86_64 helper_read_crN_x86_64 helper_write_crN_x86_64
  helper_rdtsc_x86_64 helper_rdtscp_x86_64 helper_rdpmc_x86_64 helper_cpuid_x86_64
  helper_syscall_x86_64 helper_sysenter_x86_64 helper_hlt_x86_64
  helper_raise_interrupt_x86_64 helper_into_x86_64 helper_xsetbv_x86_64
  qemu_system_reset_request x86_cpu_exec_interrupt_x86_64 check_exit_request_x86_64
  tcg_gen_callN_x86_64 tcg_gen_exit_tb_x86_64
  tcg_gen_op3_x86_64 helper_svm_check_intercept_param_x86_64
  tlb_protect_code_x86_64 tlb_unprotect_code_x86_64 tlb_reset_dirty_by_vaddr_x86_64
  tlb_set_page_with_attrs_x86_64 tlb_set_dirty_x86_64
  helper_lookup_tb_ptr_x86_64 qht_remove qht_reset_size
  tlb_flush_by_mmuidx_x86_64 tlb_flush_page_by_mmuidx_x86_64 tb_invalidate_phys_page_fast_x86_64
  x86_ldl_phys_x86_64 x86_ldq_phys_x86_64 find_memory_mapping_x86_64)

execute_process(
  COMMAND ${Python_EXECUTABLE} -c
          "import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec('unicorn').origin).parent)"
  OUTPUT_VARIABLE UNICORN_PACKAGE OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE UNICORN_MISSING ERROR_QUIET)
if(UNICORN_MISSING)
  return()
endif()

set(UNICORN_INCLUDE ${UNICORN_PACKAGE}/include)
set(UNICORN_ARCHIVE ${UNICORN_PACKAGE}/lib/libunicorn.a)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${UNICORN_ARCHIVE})
set(found_sha256 "no such file")
if(EXISTS ${UNICORN_ARCHIVE})
  file(SHA256 ${UNICORN_ARCHIVE} found_sha256)
endif()
if(NOT found_sha256 STREQUAL UNICORN_SHA256)
  message(FATAL_ERROR "${UNICORN_ARCHIVE} is not the library that pyvmm drives (SHA-256 ${found_sha256}): "
                      "pip install --force-reinstall --only-binary :all: unicorn==2.1.4, on an x86-64 host with glibc")
endif()

# GNU binutils, whatever the compiler.
find_program(UNICORN_LD NAMES ld.bfd ld REQUIRED)
find_program(UNICORN_OBJCOPY NAMES objcopy REQUIRED)
set(UNICORN_OBJECT ${CMAKE_BINARY_DIR}/unicorn_x86_64.o)
add_custom_command(
  OUTPUT ${UNICORN_OBJECT}
  COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/bind_unicorn.py ${UNICORN_LD} ${UNICORN_OBJCOPY}
          ${UNICORN_ARCHIVE} ${UNICORN_OBJECT} ${PYVMM_UNICORN_REPLACED}
  DEPENDS ${UNICORN_ARCHIVE} ${CMAKE_CURRENT_LIST_DIR}/bind_unicorn.py ${CMAKE_CURRENT_LIST_FILE}
  COMMENT "unicorn: libunicorn.a -> unicorn_x86_64.o"
  VERBATIM)
