"""Start of a guest: kernel loaders (Linux, PVH, multiboot), the memory map and ACPI tables that firmware hands over."""
