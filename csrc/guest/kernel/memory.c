/*
 * Physical memory: the firmware's map, kept from hvm_start_info (Xen "x86/HVM direct boot ABI", version 1 has the
 * map), and a page allocator over the usable ranges from the kernel's end to 4 GiB. Pages that were never used are
 * counted, not listed: starting up costs nothing per page. Freed pages go to a list threaded through the pages
 * themselves.
 * Left out: memory below 1 MiB and above 4 GiB, several CPUs.
 */
#include "kernel.h"

typedef struct StartInfo {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
} StartInfo;
_Static_assert(sizeof(StartInfo) == 56, "hvm_start_info");

typedef struct Region {
    uint64_t next, end; /* pages from next on were never handed out */
} Region;

static MemoryRange ranges[PVH_MEMMAP_MAX];
static size_t range_count;
static Region regions[PVH_MEMMAP_MAX];
static size_t region_count;
static uint64_t rsdp, page_total, page_used;
static void *free_list;

static uint64_t round_up(uint64_t value) { return (value + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1); }

static void region_add(const MemoryRange *range)
{
    uint64_t base = range->base, end;
    if (__builtin_add_overflow(base, range->size, &end) || end > MEMORY_TOP)
        end = MEMORY_TOP;
    if (base < (uint64_t)kernel_end)
        base = (uint64_t)kernel_end;
    base = round_up(base);
    end &= ~(PAGE_SIZE - 1);
    if (base >= end)
        return;
    regions[region_count++] = (Region){.next = base, .end = end};
    page_total += (end - base) / PAGE_SIZE;
}

void memory_init(uint64_t address)
{
    const StartInfo *info = (const StartInfo *)address; /* below 1 GiB: entry.S mapped it */
    if (address >= 0x40000000 - sizeof(*info) || info->magic != PVH_MAGIC || info->version < 1) {
        print("kernel: the loader gave no hvm_start_info version 1 with a memory map\n");
        return;
    }
    rsdp = info->rsdp;
    range_count = info->memory_map_entries < PVH_MEMMAP_MAX ? info->memory_map_entries : PVH_MEMMAP_MAX;
    memcpy(ranges, (const void *)info->memory_map, range_count * sizeof(ranges[0]));
    for (size_t i = 0; i < range_count; i++)
        if (ranges[i].type == 1)
            region_add(&ranges[i]);
}

size_t memory_ranges(const MemoryRange **out)
{
    *out = ranges;
    return range_count;
}

uint64_t memory_rsdp(void) { return rsdp; }

void *pages_alloc(size_t count)
{
    for (size_t i = 0; i < region_count; i++) {
        Region *r = &regions[i];
        if (count <= (r->end - r->next) / PAGE_SIZE) {
            void *pages = (void *)r->next;
            r->next += count * PAGE_SIZE;
            page_used += count;
            return memset(pages, 0, count * PAGE_SIZE);
        }
    }
    return NULL;
}

void *page_alloc(void)
{
    void *page = free_list;
    if (!page)
        return pages_alloc(1);
    free_list = *(void **)page;
    page_used++;
    return memset(page, 0, PAGE_SIZE);
}

void page_free(void *page)
{
    *(void **)page = free_list;
    free_list = page;
    page_used--;
}

MemoryCounts memory_counts(void)
{
    MemoryCounts counts = {.pages = page_total, .pages_free = page_total - page_used};
    for (size_t i = 0; i < range_count; i++)
        if (ranges[i].type == 1)
            counts.usable += ranges[i].size;
    return counts;
}

void command_mem(int argc, char **argv)
{
    static const char *const types[] = {"?", "usable", "reserved", "ACPI tables", "ACPI NVS", "bad"};
    (void)argc, (void)argv;
    print("memory map from the firmware (%lu ranges):\n", range_count);
    for (size_t i = 0; i < range_count; i++) {
        const MemoryRange *r = &ranges[i];
        print("  %012lx - %012lx  %8lu KiB  %s\n", r->base, r->base + r->size - 1, r->size / 1024,
              r->type < ARRAY_SIZE(types) ? types[r->type] : "?");
    }
    MemoryCounts counts = memory_counts();
    print("usable: %lu KiB; page allocator: %lu pages of 4 KiB, %lu in use, %lu free\n", counts.usable / 1024,
          counts.pages, counts.pages - counts.pages_free, counts.pages_free);
    print("kernel: code %lx-%lx, constants -%lx, data -%lx, BSS -%lx (%lu KiB)\n", (uint64_t)kernel_start,
          (uint64_t)kernel_text_end, (uint64_t)kernel_rodata_end, (uint64_t)kernel_data_end, (uint64_t)kernel_end,
          (uint64_t)(kernel_end - kernel_start) / 1024);

    void *page = page_alloc();
    if (page) {
        print("page_alloc gave %lx", (uint64_t)page);
        page_free(page);
        print(", taken back; %lu free\n", memory_counts().pages_free);
    }
}
