# The BIOS ROM: csrc/firmware/bios.S -> pyvmm/firmware/bios.bin, with the C compiler's assembler and the linker that goes with it.
# Constants are taken from Python (firmware_constants.py), so that each has one home.
find_package(Python COMPONENTS Interpreter REQUIRED)

set(BIOS_CONSTANTS ${CMAKE_BINARY_DIR}/firmware/firmware_constants.h)
set(BIOS_OBJECT ${CMAKE_BINARY_DIR}/firmware/bios.o)
set(BIOS_ROM ${CMAKE_BINARY_DIR}/firmware/bios.bin)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/firmware)
file(GLOB BIOS_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/csrc/firmware/*.S)

add_custom_command(OUTPUT ${BIOS_CONSTANTS}
  COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/cmake/firmware_constants.py ${CMAKE_SOURCE_DIR}/pyvmm ${BIOS_CONSTANTS}
  DEPENDS ${CMAKE_SOURCE_DIR}/cmake/firmware_constants.py ${CMAKE_SOURCE_DIR}/pyvmm/machine/layout.py
          ${CMAKE_SOURCE_DIR}/pyvmm/firmware/bda.py ${CMAKE_SOURCE_DIR}/pyvmm/firmware/rom.py)
add_custom_command(OUTPUT ${BIOS_ROM}
  COMMAND ${CMAKE_C_COMPILER} -m32 -c -I${CMAKE_BINARY_DIR}/firmware -I${CMAKE_SOURCE_DIR}/csrc/firmware
          -o ${BIOS_OBJECT} ${CMAKE_SOURCE_DIR}/csrc/firmware/bios.S
  COMMAND ${CMAKE_LINKER} -m elf_i386 -Ttext=0 --oformat binary -o ${BIOS_ROM} ${BIOS_OBJECT}
  DEPENDS ${BIOS_CONSTANTS} ${BIOS_SOURCES})
add_custom_target(firmware DEPENDS ${BIOS_ROM})
install(FILES ${BIOS_ROM} DESTINATION pyvmm/firmware COMPONENT pyvmm)
