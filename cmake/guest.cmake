# The built-in guest (csrc/guest): target guest_disk makes ${CMAKE_BINARY_DIR}/builtin.qcow2 and guest-kernel.elf.
# The guest is a program for a bare x86-64 machine: it is compiled by custom commands, so that no flag of the host's
# build (sanitizers, PIC, hardening) reaches it. Needs the C compiler, objcopy and Python; mkdisk.py packs the disk.

set(GUEST_SOURCE ${CMAKE_CURRENT_LIST_DIR}/../csrc/guest)
get_filename_component(GUEST_SOURCE ${GUEST_SOURCE} ABSOLUTE)
set(GUEST_BUILD ${CMAKE_BINARY_DIR}/guest)
set(GUEST_CC ${CMAKE_C_COMPILER})
set(GUEST_OBJCOPY ${CMAKE_OBJCOPY})
set(GUEST_BUILDABLE ON)
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  find_program(GUEST_CROSS_CC x86_64-linux-gnu-gcc)
  find_program(GUEST_CROSS_OBJCOPY x86_64-linux-gnu-objcopy)
  set(GUEST_CC ${GUEST_CROSS_CC})
  set(GUEST_OBJCOPY ${GUEST_CROSS_OBJCOPY})
endif()
if(NOT GUEST_CC OR NOT GUEST_OBJCOPY)
  message(WARNING "built-in guest left out: it needs an x86-64 C compiler and objcopy (binutils)")
  set(GUEST_BUILDABLE OFF)
  add_custom_target(guest_disk)
endif()

if(GUEST_BUILDABLE)
  set(GUEST_FLAGS -m64 -march=x86-64 -Os -std=gnu11 -ffreestanding -fno-builtin -fno-stack-protector
      -fno-strict-aliasing -fno-asynchronous-unwind-tables -fcf-protection=none -mno-red-zone)
  set(GUEST_WARNINGS -Wall -Wextra -Werror -Wshadow -Wmissing-prototypes -Wstrict-prototypes)
  # Ring 0 has no SSE: nobody saves those registers, and some hosts cannot execute it there.
  set(GUEST_KERNEL_FLAGS -fno-pic -fno-pie -mcmodel=small -mgeneral-regs-only)
  set(GUEST_LINK -m64 -nostdlib -static -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,max-page-size=4096)
  file(MAKE_DIRECTORY ${GUEST_BUILD})
  file(GLOB GUEST_HEADERS CONFIGURE_DEPENDS ${GUEST_SOURCE}/*.h ${GUEST_SOURCE}/kernel/*.h)
  file(GLOB GUEST_KERNEL_SOURCES CONFIGURE_DEPENDS ${GUEST_SOURCE}/kernel/*.c ${GUEST_SOURCE}/kernel/*.S)

  # guest_object(<list of objects> <source, relative> <further dependencies> <flags>...)
  function(guest_object objects source depends)
    string(REPLACE "/" "_" name ${source})
    set(object ${GUEST_BUILD}/${name}.o)
    add_custom_command(OUTPUT ${object}
      COMMAND ${GUEST_CC} ${GUEST_FLAGS} ${ARGN} -c ${GUEST_SOURCE}/${source} -o ${object}
      DEPENDS ${GUEST_SOURCE}/${source} ${GUEST_HEADERS} ${depends}
      WORKING_DIRECTORY ${GUEST_BUILD} COMMENT "Guest: ${source}" VERBATIM)
    set(${objects} ${${objects}} ${object} PARENT_SCOPE)
  endfunction()

  # guest_link(<name> <linker arguments> <objects>...): <name>.elf, and <name>.bin without ELF around it
  function(guest_link name arguments)
    add_custom_command(OUTPUT ${GUEST_BUILD}/${name}.elf ${GUEST_BUILD}/${name}.bin
      COMMAND ${GUEST_CC} ${GUEST_LINK} ${arguments} ${ARGN} -o ${GUEST_BUILD}/${name}.elf
      COMMAND ${GUEST_OBJCOPY} -O binary ${GUEST_BUILD}/${name}.elf ${GUEST_BUILD}/${name}.bin
      DEPENDS ${ARGN} ${GUEST_SOURCE}/kernel/kernel.ld ${GUEST_SOURCE}/user/user.ld
      COMMENT "Guest: ${name}.bin" VERBATIM)
  endfunction()

  guest_object(GUEST_MBR boot/mbr.S "")
  guest_link(mbr -Wl,-Ttext,0x7c00 ${GUEST_MBR})
  guest_object(GUEST_SETUP boot/setup.S "")
  guest_link(setup -Wl,-Ttext,0 ${GUEST_SETUP})
  guest_object(GUEST_USER user/start.S "")
  guest_object(GUEST_USER user/main.c "" ${GUEST_WARNINGS} -fpie)
  guest_link(user -Wl,-T,${GUEST_SOURCE}/user/user.ld ${GUEST_USER})
  foreach(path ${GUEST_KERNEL_SOURCES})
    file(RELATIVE_PATH source ${GUEST_SOURCE} ${path})
    if(source MATCHES "\\.S$") # trap.S includes user.bin
      guest_object(GUEST_KERNEL ${source} ${GUEST_BUILD}/user.bin)
    else()
      guest_object(GUEST_KERNEL ${source} "" ${GUEST_WARNINGS} ${GUEST_KERNEL_FLAGS})
    endif()
  endforeach()
  guest_link(kernel -Wl,-T,${GUEST_SOURCE}/kernel/kernel.ld ${GUEST_KERNEL})

  add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/builtin.qcow2 ${CMAKE_BINARY_DIR}/guest-kernel.elf
    COMMAND ${Python_EXECUTABLE} ${GUEST_SOURCE}/mkdisk.py --mbr ${GUEST_BUILD}/mbr.bin
            --setup ${GUEST_BUILD}/setup.bin --kernel ${GUEST_BUILD}/kernel.bin
            --qcow2 ${CMAKE_BINARY_DIR}/builtin.qcow2
    COMMAND ${CMAKE_COMMAND} -E copy ${GUEST_BUILD}/kernel.elf ${CMAKE_BINARY_DIR}/guest-kernel.elf
    DEPENDS ${GUEST_SOURCE}/mkdisk.py ${GUEST_BUILD}/mbr.bin ${GUEST_BUILD}/setup.bin ${GUEST_BUILD}/kernel.bin
    COMMENT "Guest: builtin.qcow2" VERBATIM)
  add_custom_target(guest_disk DEPENDS ${CMAKE_BINARY_DIR}/builtin.qcow2 ${CMAKE_BINARY_DIR}/guest-kernel.elf)
  install(FILES ${CMAKE_BINARY_DIR}/builtin.qcow2 ${CMAKE_BINARY_DIR}/guest-kernel.elf
    DESTINATION pyvmm/data COMPONENT pyvmm)
endif()
