# The Python extension `pyvmm._native`, and what the package ships as data. Its C source is generated from the one cdef file.
if(NOT PYVMM_PYTHON)
  return()
endif()

find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)

set(BORDER ${CMAKE_BINARY_DIR}/_native.c)
add_custom_command(
  OUTPUT ${BORDER}
  COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/generate_border.py ${CMAKE_SOURCE_DIR}/csrc/pyvmm.cdef.h ${BORDER}
  DEPENDS ${CMAKE_SOURCE_DIR}/csrc/pyvmm.cdef.h ${CMAKE_SOURCE_DIR}/cmake/generate_border.py
  COMMENT "cffi: csrc/pyvmm.cdef.h -> _native.c")
# A MODULE of its own: pyvmm_core's strict warnings are not for generated code.
python_add_library(_native MODULE ${BORDER} WITH_SOABI)
target_link_libraries(_native PRIVATE pyvmm_core)
target_compile_options(_native PRIVATE -w -Wno-error)
install(TARGETS _native LIBRARY DESTINATION pyvmm COMPONENT pyvmm)
if(SKBUILD_SCRIPTS_DIR)
  # The command. Not by [project.scripts]: older pips write a script that imports `re` first (docs/adr/0006).
  install(PROGRAMS ${CMAKE_SOURCE_DIR}/bin/pyvmm DESTINATION ${SKBUILD_SCRIPTS_DIR} COMPONENT pyvmm)
endif()

add_custom_target(wheel ALL DEPENDS _native)
include(cmake/firmware.cmake OPTIONAL)
include(cmake/guest.cmake OPTIONAL)
foreach(target firmware guest_disk)
  if(TARGET ${target})
    add_dependencies(wheel ${target})
  endif()
endforeach()
