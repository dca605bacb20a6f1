# The built-in guest (csrc/guest): target guest_disk makes ${CMAKE_BINARY_DIR}/builtin.qcow2 and guest-kernel.elf; and the
# lab's kernel (csrc/guest/lab) as lab-kernel.elf and, for a monitor that it calls by name, lab-kernel-paravirt.elf.
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
  file(GLOB GUEST_HEADERS CONFIGURE_DEPENDS ${GUEST_SOURCE}/*.h ${GUEST_SOURCE}/kernel/*.h ${GUEST_SOURCE}/lab/*.h
       ${GUEST_SOURCE}/lab/user/*.h)
  file(GLOB GUEST_KERNEL_SOURCES CONFIGURE_DEPENDS ${GUEST_SOURCE}/kernel/*.c ${GUEST_SOURCE}/kernel/*.S)

  # guest_object(<list of objects> <source, relative> <further dependencies> <flags>...): the list's name is in the object's
  function(guest_object objects source depends)
    string(REPLACE "/" "_" name ${objects}_${source})
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

  # The lab's kernel, twice of the same source; what it shares with the guest above it takes from there.
  guest_object(LAB_USER lab/user/start.S "")
  guest_object(LAB_USER lab/user/main.c "" ${GUEST_WARNINGS} -mgeneral-regs-only -fpie)
  guest_link(lab-user -Wl,-T,${GUEST_SOURCE}/user/user.ld ${LAB_USER})
  set(LAB_SHARED kernel/entry.S kernel/text.c kernel/print.c kernel/pci.c kernel/virtio.c kernel/virtio_blk.c)
  file(GLOB LAB_SOURCES RELATIVE ${GUEST_SOURCE} CONFIGURE_DEPENDS ${GUEST_SOURCE}/lab/*.c ${GUEST_SOURCE}/lab/*.S)
  foreach(source kernel/pic.c ${LAB_SHARED} ${LAB_SOURCES})
    set(flags ${GUEST_WARNINGS} ${GUEST_KERNEL_FLAGS})
    set(depends "")
    if(source MATCHES "\\.S$")
      set(flags "")
      set(depends ${GUEST_BUILD}/lab-user.bin)
    endif()
    guest_object(LAB_PLAIN ${source} "${depends}" ${flags})
    if(NOT source STREQUAL kernel/pic.c) # a paravirtual kernel has no 8259A: lab/paravirt.c
      guest_object(LAB_PARAVIRT ${source} "${depends}" ${flags} -DLAB_PARAVIRT)
    endif()
  endforeach()
  set(LAB_LINK -Wl,-T,${GUEST_SOURCE}/kernel/kernel.ld -Wl,-e,lab_entry)
  guest_link(lab-kernel "${LAB_LINK}" ${LAB_PLAIN})
  guest_link(lab-kernel-paravirt "${LAB_LINK}" ${LAB_PARAVIRT})
  set(LAB_IMAGES ${GUEST_BUILD}/lab-kernel.elf ${GUEST_BUILD}/lab-kernel-paravirt.elf)

  add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/builtin.qcow2 ${CMAKE_BINARY_DIR}/guest-kernel.elf
    COMMAND ${Python_EXECUTABLE} ${GUEST_SOURCE}/mkdisk.py --mbr ${GUEST_BUILD}/mbr.bin
            --setup ${GUEST_BUILD}/setup.bin --kernel ${GUEST_BUILD}/kernel.bin
            --qcow2 ${CMAKE_BINARY_DIR}/builtin.qcow2
    COMMAND ${CMAKE_COMMAND} -E copy ${GUEST_BUILD}/kernel.elf ${CMAKE_BINARY_DIR}/guest-kernel.elf
    DEPENDS ${GUEST_SOURCE}/mkdisk.py ${GUEST_BUILD}/mbr.bin ${GUEST_BUILD}/setup.bin ${GUEST_BUILD}/kernel.bin
    COMMENT "Guest: builtin.qcow2" VERBATIM)
  add_custom_target(guest_disk DEPENDS ${CMAKE_BINARY_DIR}/builtin.qcow2 ${CMAKE_BINARY_DIR}/guest-kernel.elf
    ${LAB_IMAGES})
  install(FILES ${CMAKE_BINARY_DIR}/builtin.qcow2 ${CMAKE_BINARY_DIR}/guest-kernel.elf ${LAB_IMAGES}
    DESTINATION pyvmm/data COMPONENT pyvmm)
endif()
