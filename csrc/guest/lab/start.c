/*
 * Both ways in (lab.h), the command line, the order of start-up, the report, and the end. The command line is words
 * of the form name=value: workload=NAME[,NAME...], count=N, door=auto|syscall|int80|int3, disk=ide|virtio,
 * hz=N (20 to 20000, of the workload timer), batch=N (1 to 16 entries at a time, of ptemod).
 */
#include "lab_kernel.h"

typedef struct StartInfo { /* Xen "x86/HVM direct boot ABI" */
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
} StartInfo;

#define BOOT_MAPPED      0x40000000ul /* the loader's identity map: 1 GiB */
#define COMMAND_LINE_MAX 256u

LabReport lab_report = {
    .magic = LAB_REPORT_MAGIC, .version = LAB_VERSION, .state = LAB_RUNNING, .paravirt = PARAVIRT};
static char command_line[COMMAND_LINE_MAX];

const char *option_text(const char *name, char *buffer, size_t size)
{
    size_t length = strlen(name);
    for (const char *p = command_line; *p;) {
        while (*p == ' ')
            p++;
        const char *word = p;
        while (*p && *p != ' ')
            p++;
        if ((size_t)(p - word) <= length || memcmp(word, name, length) || word[length] != '=')
            continue;
        size_t used = (size_t)(p - word) - length - 1;
        used = used < size ? used : size - 1;
        memcpy(buffer, word + length + 1, used);
        buffer[used] = 0;
        return buffer;
    }
    return NULL;
}

uint64_t option_number(const char *name, uint64_t otherwise)
{
    char text[24];
    uint64_t value;
    return option_text(name, text, sizeof(text)) && parse_number(text, &value) ? value : otherwise;
}

LabResult *result_new(const char *name)
{
    if (lab_report.result_count == LAB_RESULTS)
        return NULL;
    LabResult *result = &lab_report.results[lab_report.result_count++];
    size_t length = strlen(name);
    memcpy(result->name, name, length < sizeof(result->name) ? length : sizeof(result->name) - 1);
    return result;
}

void check_add(const char *name, uint64_t expected, uint64_t seen)
{
    if (lab_report.check_count == LAB_CHECKS)
        return;
    LabCheck *check = &lab_report.checks[lab_report.check_count++];
    size_t length = strlen(name);
    memcpy(check->name, name, length < sizeof(check->name) ? length : sizeof(check->name) - 1);
    check->expected = expected;
    check->seen = seen;
}

static void report_print(void)
{
    for (uint32_t i = 0; i < lab_report.check_count; i++) {
        const LabCheck *c = &lab_report.checks[i];
        print("lab: check %s expected %lx seen %lx %s\n", c->name, c->expected, c->seen,
              c->expected == c->seen ? "right" : "WRONG");
    }
    for (uint32_t i = 0; i < lab_report.result_count; i++) {
        const LabResult *r = &lab_report.results[i];
        print("lab: result %s operations %lu cycles %lu value %lu status %lu\n", r->name, r->operations, r->cycles,
              r->value, r->status);
    }
    print("lab: doors %u, used %u%s; interrupts %lu\n", lab_report.doors, lab_report.door,
          lab_report.bounced ? ", SYSCALL stays in ring 3" : "", lab_report.interrupts);
}

void lab_exit(uint64_t status)
{
    if (lab_report.state == LAB_RUNNING)
        lab_report.state = status ? LAB_FAILED : LAB_DONE;
    report_print();
    print("lab: end %lu\n", status);
#ifdef LAB_PARAVIRT
    hypercall(LAB_HC_EXIT, status, 0, 0);
#else
    outb(LAB_EXIT_PORT, (uint8_t)status);
#endif
    cli();
    for (;;)
        __asm__ volatile("hlt"); /* no such port, or a paused machine */
}

/* "a,b,c" one after the other. */
static void workloads_run(char *names)
{
    for (char *name = names; *name;) {
        char *end = name;
        while (*end && *end != ',')
            end++;
        bool last = !*end;
        *end = 0;
        workload_run(name);
        name = last ? end : end + 1;
    }
}

void lab_main(const LabBoot *boot)
{
    uint64_t line = 0, ram_end = 0;
    if ((uint64_t)boot < BOOT_MAPPED - sizeof(*boot) && boot->magic == LAB_BOOT_MAGIC &&
        boot->version == LAB_VERSION) {
        line = boot->command_line;
        ram_end = boot->ram_end < BOOT_MAPPED ? boot->ram_end : BOOT_MAPPED;
    }
    if (line && line < BOOT_MAPPED - sizeof(command_line))
        for (size_t i = 0; i + 1 < sizeof(command_line) && ((const char *)line)[i]; i++)
            command_line[i] = ((const char *)line)[i];
#ifdef LAB_PARAVIRT
    hypercall(LAB_HC_SHARED, (uint64_t)&lab_shared_page, 0, 0);
#endif
    serial_init();
    segments_init();
    trap_init();
    if (ram_end < (uint64_t)kernel_end + 0x100000) {
        print("lab: no LabBoot of version %u, or no RAM\n", LAB_VERSION);
        lab_exit(LAB_NO_MEMORY);
    }
    lab_memory_init(ram_end);
    paging_init();
    pic_init();
    timer_init();
    sti();
    syscall_init();
    char door[16], names[128];
    lab_report.door = syscall_door(option_text("door", door, sizeof(door)));
    print("lab: %s kernel, %lu MiB, doors %u\n", PARAVIRT ? "paravirtual" : "plain", ram_end >> 20,
          lab_report.doors);
    if (!lab_report.door) {
        print("lab: the door is closed here, or there is none of that name\n");
        lab_exit(LAB_ABSENT);
    }
    if (!option_text("workload", names, sizeof(names)))
        memcpy(names, "all", 4);
    workloads_run(names);
    lab_exit(LAB_OK);
}

/* The PVH way: a LabBoot of what hvm_start_info says. */
void kernel_main(uint64_t start_info)
{
    const StartInfo *info = (const StartInfo *)start_info;
    LabBoot boot = {.magic = LAB_BOOT_MAGIC, .version = LAB_VERSION};
#ifdef LAB_PARAVIRT
    static const char text[] = "lab: the paravirtual kernel has no monitor here\r\n";
    for (const char *p = text; *p; p++)
        outb(COM1, (uint8_t)*p);
    outb(LAB_EXIT_PORT, LAB_ABSENT);
    for (;;)
        __asm__ volatile("hlt");
#endif
    if (start_info < BOOT_MAPPED - sizeof(*info) && info->magic == PVH_MAGIC && info->version >= 1) {
        const MemoryRange *ranges = (const MemoryRange *)info->memory_map;
        for (uint32_t i = 0; i < info->memory_map_entries && i < PVH_MEMMAP_MAX; i++)
            if (ranges[i].type == 1 && ranges[i].base <= KERNEL_BASE &&
                ranges[i].base + ranges[i].size > KERNEL_BASE)
                boot.ram_end = ranges[i].base + ranges[i].size;
        boot.command_line = info->command_line;
    }
    lab_main(&boot);
}
