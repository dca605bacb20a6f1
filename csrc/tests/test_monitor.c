/*
 * A monitor against the bare engine: each snippet of monitor_snippets.h in ring 0 of the translator, and in ring 3
 * under trap-and-emulate and under binary translation there, and under the former on KVM where there is one.
 * Registers, the virtual CPU, every exception with its frame, what ports saw, and all of the guest's memory must be
 * equal. Where the translator is known not to do as the manual says, the manual's exception is what is compared
 * with.
 */
#include "tests/monitor_snippets.h"

#define RF (1ull << 16) /* engines differ in the pushed one; SDM 3A §6.8.3 has it set by most faults */

typedef struct Outcome {
    uint8_t *ram;
    CpuState state; /* bare */
    VirtualCpu cpu; /* under a monitor */
    uint64_t out[64];
    size_t out_count;
} Outcome;

static const char *const TECHNIQUES[] = {"trap-and-emulate", "translation"};
static bool wrong;

static void differ(const Snippet *snippet, const char *engine, const char *what, uint64_t bare, uint64_t monitored)
{
    fprintf(stderr, "%s, %s: %s is %#llx, bare %#llx\n", snippet->name, engine, what, (unsigned long long)monitored,
            (unsigned long long)bare);
    wrong = true;
}

static void take(const Rig *rig, Outcome *outcome)
{
    const uint8_t *ram = guest_memory_ptr(rig->board->memory, 0, RIG_GUEST_END, false);
    memcpy(outcome->ram, ram, RIG_GUEST_END);
    memcpy(outcome->out, rig->out, sizeof rig->out);
    outcome->out_count = rig->out_count;
}

static bool run_bare(Rig *rig, const Snippet *snippet, Outcome *outcome)
{
    VmExit left = rig_run(rig, NULL, snippet->code, (size_t)(snippet->end - snippet->code));
    if (left.reason != EXIT_SYSTEM || left.code != 0x77) {
        fprintf(stderr, "%s: bare: exit %u, %s\n", snippet->name, left.reason, left.text);
        wrong = true;
        return false;
    }
    CHECK_EQ(vcpu_get_state(rig->vcpu, &outcome->state), 0);
    take(rig, outcome);
    return true;
}

static bool run_monitored(Rig *rig, const LabTechnique *technique, const Snippet *snippet, Outcome *outcome)
{
    VmExit left = rig_run(rig, technique, snippet->code, (size_t)(snippet->end - snippet->code));
    LabEnd end = monitor_end(rig->monitor);
    if (left.reason != EXIT_SYSTEM || left.code != 0x77 || end.ended) {
        fprintf(stderr, "%s, %s: exit %u, code %u: %s %s\n", snippet->name, technique->name, left.reason, left.code,
                end.text, left.text);
        wrong = true;
        return false;
    }
    outcome->cpu = monitor_virtual_cpu(rig->monitor);
    take(rig, outcome);
    return true;
}

static void compare_cpu(const Snippet *snippet, const char *engine, const CpuState *bare, const VirtualCpu *cpu)
{
#define SAME(field, mine, theirs)                                                                                  \
    if ((mine) != (theirs))                                                                                        \
    differ(snippet, engine, field, theirs, mine)
    SAME("CR0", cpu->cr0, bare->cr0);
    SAME("CR2", cpu->cr2, bare->cr2);
    SAME("CR3", cpu->cr3, bare->cr3);
    SAME("CR4", cpu->cr4, bare->cr4);
    SAME("CR8", cpu->cr8, bare->cr8);
    SAME("EFER", cpu->efer, bare->efer);
    SAME("STAR", cpu->star, bare->star);
    SAME("LSTAR", cpu->lstar, bare->lstar);
    SAME("CSTAR", cpu->cstar, bare->cstar);
    SAME("FMASK", cpu->fmask, bare->fmask);
    SAME("KERNEL_GS_BASE", cpu->kernel_gs_base, bare->kernel_gs_base);
    SAME("PAT", cpu->pat, bare->pat);
    SAME("SYSENTER_EIP", cpu->sysenter_eip, bare->sysenter_eip);
    SAME("FS base", cpu->fs_base, bare->segment[SEG_FS].base);
    SAME("GS base", cpu->gs_base, bare->segment[SEG_GS].base);
    SAME("GDTR base", cpu->gdtr.base, bare->gdtr.base);
    SAME("GDTR limit", cpu->gdtr.limit, bare->gdtr.limit);
    SAME("IDTR base", cpu->idtr.base, bare->idtr.base);
    SAME("IDTR limit", cpu->idtr.limit, bare->idtr.limit);
    SAME("LDTR", cpu->ldtr.selector, bare->ldtr.selector);
    if (cpu->ldtr.selector & ~3)
        SAME("LDTR base", cpu->ldtr.base, bare->ldtr.base);
    SAME("TR", cpu->tr.selector, bare->tr.selector);
    SAME("TR base", cpu->tr.base, bare->tr.base);
    SAME("TR limit", cpu->tr.limit, bare->tr.limit);
    SAME("DR0", cpu->dr[0], bare->dr[0]);
    SAME("DR3", cpu->dr[3], bare->dr[3]);
    SAME("DR6", cpu->dr[6], bare->dr[6]);
    SAME("CPL", cpu->cpl, bare->segment[SEG_CS].selector & 3u);
    SAME("IF", cpu->interrupts, bare->rflags >> 9 & 1);
    SAME("IOPL", cpu->iopl, bare->rflags >> 12 & 3);
    static const char *const NAMES[] = {"ES", "CS", "SS", "DS", "FS", "GS"};
    for (unsigned i = 0; i < ARRAY_SIZE(NAMES); i++)
        SAME(NAMES[i], cpu->selector[i], bare->segment[i].selector);
#undef SAME
}

/* Frames on stacks hold RF: what is of interest in them is in the events, too. */
static void compare_memory(const Snippet *snippet, const char *engine, const uint8_t *bare, const uint8_t *mine)
{
    const RigEvent *theirs = (const RigEvent *)(bare + RIG_EVENTS), *ours = (const RigEvent *)(mine + RIG_EVENTS);
    static const char *const FIELDS[] = {"vector", "error code", "RIP", "CS", "RFLAGS", "RSP", "SS", "CR2"};
    for (unsigned i = 0; i < 32; i++) {
        const uint64_t *a = (const uint64_t *)&theirs[i], *b = (const uint64_t *)&ours[i];
        for (unsigned field = 0; field < 8; field++) {
            uint64_t mask = field == 4 ? ~RF : UINT64_MAX;
            char what[64];
            snprintf(what, sizeof what, "event %u: %s", i, FIELDS[field]);
            if ((a[field] & mask) != (b[field] & mask))
                differ(snippet, engine, what, a[field], b[field]);
        }
    }
    for (uint64_t at = 0; at < RIG_GUEST_END; at += 8) {
        if (at % GUEST_PAGE_SIZE == 0 && memcmp(bare + at, mine + at, GUEST_PAGE_SIZE) == 0) {
            at += GUEST_PAGE_SIZE - 8;
            continue;
        }
        uint64_t a = load_le64(bare + at), b = load_le64(mine + at);
        bool stack =
            (at >= RIG_STACK - 0x8000 && at < RIG_USER_STACK) || (at >= RIG_ABSENT - 0x100 && at < RIG_ABSENT);
        if (a != b && !stack && !(at >= RIG_EVENTS && at < RIG_EVENTS + 0x800)) {
            char what[64];
            snprintf(what, sizeof what, "memory at %#llx", (unsigned long long)at);
            differ(snippet, engine, what, a, b);
            return;
        }
    }
}

static void compare(const Snippet *snippet, const char *engine, const Outcome *bare, const Outcome *mine)
{
    compare_cpu(snippet, engine, &bare->state, &mine->cpu);
    compare_memory(snippet, engine, bare->ram, mine->ram);
    if (bare->out_count != mine->out_count)
        differ(snippet, engine, "the number of accesses to the device", bare->out_count, mine->out_count);
    for (size_t i = 0; i < bare->out_count && i < mine->out_count; i++)
        if (bare->out[i] != mine->out[i])
            differ(snippet, engine, "what the device saw", bare->out[i], mine->out[i]);
}

/* The manual's word: one exception, of one instruction. */
static void check_exception(const Snippet *snippet, const char *engine, const Outcome *mine)
{
    const RigEvent *event = (const RigEvent *)(mine->ram + RIG_EVENTS);
    uint64_t rip = RIG_CODE + (uint64_t)(snippet->fault - snippet->code);
    if (event->vector != snippet->vector)
        differ(snippet, engine, "vector", snippet->vector, event->vector);
    if (event->error != snippet->error)
        differ(snippet, engine, "error code", snippet->error, event->error);
    if (event->rip != rip)
        differ(snippet, engine, "RIP", rip, event->rip);
}

/* Against the bare engine, or against the manual and the first technique. */
static void judge(const Snippet *snippet, const char *engine, bool first, Outcome *expected, const Outcome *seen)
{
    if (!snippet->fault) {
        compare(snippet, engine, expected, seen);
        return;
    }
    check_exception(snippet, engine, seen);
    if (first)
        memcpy(expected->ram, seen->ram, RIG_GUEST_END);
    else
        compare_memory(snippet, engine, expected->ram, seen->ram);
}

int main(int argc, char **argv)
{
    bool kvm = rig_kvm_usable();
    Rig *bare = rig_new(false), *translated = rig_new(false);
    static Outcome expected, seen;
    expected.ram = malloc(RIG_GUEST_END), seen.ram = malloc(RIG_GUEST_END);
    CHECK(expected.ram && seen.ram);
    if (!kvm)
        printf("no usable /dev/kvm: on the translator only\n");
    for (const Snippet *snippet = __start_snippets; snippet < __stop_snippets; snippet++) {
        if (argc > 1 && strcmp(argv[1], snippet->name) != 0)
            continue;
        if (!snippet->fault && !run_bare(bare, snippet, &expected))
            continue;
        for (size_t i = 0; i < ARRAY_SIZE(TECHNIQUES) - (snippet->name[0] == '%'); i++)
            if (run_monitored(translated, lab_technique(TECHNIQUES[i]), snippet, &seen))
                judge(snippet, TECHNIQUES[i], i == 0, &expected, &seen);
        if (!kvm || snippet->name[0] == '~')
            continue;
        Rig *on_kvm = rig_new(true); /* its shadows of our tables would outlive a monitor */
        if (run_monitored(on_kvm, lab_technique(TECHNIQUES[0]), snippet, &seen))
            judge(snippet, "kvm", false, &expected, &seen);
        rig_free(on_kvm);
    }
    free(expected.ram), free(seen.ram);
    rig_free(bare), rig_free(translated);
    if (wrong)
        return 1;
    printf("ok %zu snippets\n", (size_t)(__stop_snippets - __start_snippets));
    return 0;
}
