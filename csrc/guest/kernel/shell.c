/* The shell: reads a line, splits it at blanks, looks the first word up. */
#include "kernel.h"

#define PROMPT    "guest> "
#define MAX_WORDS 24
#define LINE_SIZE 121

static void command_help(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (size_t i = 0; i < shell_command_count; i++)
        print("  %-8s %-24s %s\n", shell_commands[i].name, shell_commands[i].arguments, shell_commands[i].help);
    print("Keys: arrows, Home, End, Backspace, Delete, Tab, Ctrl-C, Ctrl-U; arrow up and down for history.\n");
}

static void command_echo(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        print("%s%s", i > 1 ? " " : "", argv[i]);
    print("\n");
}

const Command shell_commands[] = {
    {"help", "", "this list", command_help},
    {"mem", "", "memory map and page allocator", command_mem},
    {"pages", "[ADDRESS]", "page tables: summary, or one address level by level", command_pages},
    {"pci", "", "devices on the PCI bus", command_pci},
    {"disk", "[read|write|sum] ...", "virtio-blk: also `read LBA`, `write LBA TEXT`, `sum LBA N`", command_disk},
    {"ring3", "[hlt|cli|cr3|out|...]", "a program in ring 3: system calls, then a forbidden act", command_ring3},
    {"ticks", "", "timer, interrupts, TSC frequency told and measured", command_ticks},
    {"cpuid", "[LEAF [SUBLEAF]]", "what the CPU says it is", command_cpuid},
    {"crash", "[pf|gp|ud|de|df|triple]", "an exception in ring 0, with its report", command_crash},
    {"date", "", "date and time of the CMOS clock", command_date},
    {"uptime", "", "time since start", command_uptime},
    {"echo", "[TEXT]", "prints TEXT", command_echo},
    {"reboot", "", "resets the machine", command_reboot},
    {"poweroff", "", "switches the machine off (ACPI S5)", command_poweroff},
};
const size_t shell_command_count = ARRAY_SIZE(shell_commands);

static int split(char *line, char **words)
{
    int count = 0;
    for (char *p = line; *p && count < MAX_WORDS - 1;) {
        while (*p == ' ')
            *p++ = 0;
        if (*p)
            words[count++] = p;
        while (*p && *p != ' ')
            p++;
    }
    words[count] = NULL;
    return count;
}

static void execute(int argc, char **argv)
{
    for (size_t i = 0; i < shell_command_count; i++) {
        if (!strcmp(shell_commands[i].name, argv[0])) {
            shell_commands[i].run(argc, argv);
            return;
        }
    }
    print("%s: no such command; try `help`\n", argv[0]);
}

void shell_run(void)
{
    static char line[LINE_SIZE];
    char *words[MAX_WORDS];
    for (;;) {
        line_read(PROMPT, line, sizeof(line));
        int count = split(line, words);
        if (count)
            execute(count, words);
    }
}

void shell_restart(void)
{
    __asm__ volatile("sti");
    shell_run();
}
