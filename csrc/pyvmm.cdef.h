/*
 * The border between C and Python, declared once (cffi reads this file; the compiler checks it against the real headers).
 * No preprocessor here. Sections follow the folders of csrc/.
 */

/* common/common.h */
typedef struct { int code; char text[480]; } Error;

/* memory/memory.h */
typedef struct {
    uint64_t gpa;
    uint64_t size;
    uint8_t *hva;
    uint64_t ram_offset;
    uint32_t flags;
    uint64_t *dirty;
} Memslot;
typedef struct GuestMemory GuestMemory;
int guest_memory_add(GuestMemory *memory, uint64_t gpa, uint64_t size, uint32_t flags, Error *error);
int guest_memory_alias(GuestMemory *memory, uint64_t gpa, uint64_t source, uint64_t size, uint32_t flags, Error *error);
int guest_memory_fd(const GuestMemory *memory);
size_t guest_memory_slot_count(const GuestMemory *memory);
const Memslot *guest_memory_slot(const GuestMemory *memory, size_t index);
void *guest_memory_ptr(const GuestMemory *memory, uint64_t gpa, uint64_t size, bool for_write);
int guest_memory_read(const GuestMemory *memory, uint64_t gpa, void *data, uint64_t size);
int guest_memory_write(GuestMemory *memory, uint64_t gpa, const void *data, uint64_t size);
int guest_memory_load(GuestMemory *memory, uint64_t gpa, const void *data, uint64_t size);
void guest_memory_written(GuestMemory *memory, uint64_t gpa, uint64_t size);
void guest_memory_ref(GuestMemory *memory);
void guest_memory_free(GuestMemory *memory);
int64_t guest_memory_take_dirty(GuestMemory *memory, size_t slot, uint64_t *bitmap);

/* mmu/walk.h */
typedef struct { uint64_t cr0, cr3, cr4, efer; uint32_t physical_bits; } PagingMode;
typedef struct { uint64_t address; uint64_t value; uint32_t level; uint32_t index; uint32_t rights; } PageStep;
typedef struct {
    uint32_t kind; uint32_t end; uint32_t count; uint32_t page_bits; uint64_t physical; uint64_t reserved;
    PageStep steps[5];
} PageWalk;
void page_walk(const GuestMemory *memory, const PagingMode *mode, uint64_t address, PageWalk *walk);
int page_check(const PageWalk *walk, const PagingMode *mode, uint32_t access, bool ac);

/* mmu/shadow.h */
typedef struct Shadow Shadow;
typedef struct {
    uint64_t guest_end, pool, pool_size, monitor_pml4e;
    uint32_t monitor_slot, physical_bits, write_limit;
    bool touch;
} ShadowConfig;
typedef struct { PagingMode paging; bool user; bool ac; } ShadowMode;
enum ShadowResult {
    SHADOW_FILLED, SHADOW_GUEST_FAULT, SHADOW_TRACED, SHADOW_BAD_TABLE, SHADOW_MONITOR, SHADOW_UNSUPPORTED
};
typedef struct { uint64_t gpa; uint32_t error_code; bool table, code, not_canonical; } ShadowFault;
typedef struct {
    uint64_t faults, fills, guest_faults, trace_faults, spurious, mmio_fills, table_writes, prefetched, roots, roots_found;
    uint64_t pages_made, pages_zapped, flushes, splintered, large_fills, unsyncs, synced, sync_drops, invlpg;
    uint64_t tlb_flushes, touches, host_writes;
    uint32_t pages, pages_peak, pages_total, traced;
} ShadowStatistics;
Shadow *shadow_new(GuestMemory *memory, const ShadowConfig *config, Error *error);
void shadow_free(Shadow *shadow);
uint64_t shadow_root(Shadow *shadow, const ShadowMode *mode, Error *error);
enum ShadowResult shadow_fault(Shadow *shadow, const ShadowMode *mode, uint64_t address, uint32_t hardware_code,
                               ShadowFault *fault, Error *error);
int shadow_write(Shadow *shadow, uint64_t gpa, const void *data, uint32_t size);
void shadow_unsync(Shadow *shadow, uint64_t gpa);
void shadow_sync(Shadow *shadow);
void shadow_invlpg(Shadow *shadow, uint64_t address);
int shadow_trace(Shadow *shadow, uint64_t gpa, bool on);
bool shadow_is_traced(const Shadow *shadow, uint64_t gpa);
void shadow_zap(Shadow *shadow, uint64_t gpa);
void shadow_flush(Shadow *shadow);
bool shadow_flush_due(Shadow *shadow);
int shadow_look(const Shadow *shadow, const ShadowMode *mode, uint64_t address, PageWalk *walk);
ShadowStatistics shadow_statistics(const Shadow *shadow);

/* io/bus.h */
typedef struct {
    uint64_t base;
    uint64_t size;
    uint32_t region;
    char name[28];
    ...;
} BusRange;
typedef struct Bus Bus;
typedef struct {
    uint64_t (*read)(void *device, uint32_t region, uint64_t offset, uint32_t size);
    void (*write)(void *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value);
} DeviceOps;
int bus_add(Bus *bus, uint64_t base, uint64_t size, const DeviceOps *ops, void *device, uint32_t region, void *lock,
            const char *name, Error *error);
int bus_remove(Bus *bus, uint64_t base);
bool bus_read(Bus *bus, uint64_t address, uint32_t size, uint64_t *value);
bool bus_write(Bus *bus, uint64_t address, uint32_t size, uint64_t value);
bool bus_write_string(Bus *bus, uint64_t address, uint32_t size, const void *data, size_t count);
size_t bus_ranges(Bus *bus, BusRange *ranges, size_t capacity);
uint64_t bus_unmapped_count(const Bus *bus);

/* io/event_log.h */
typedef struct EventLog EventLog;
size_t event_log_take(EventLog *log, char *text, size_t size);
uint64_t event_log_lost(const EventLog *log);

/* io/clock.h */
typedef struct Clock Clock;
enum ClockKind { CLOCK_KIND_REALTIME, CLOCK_KIND_VIRTUAL };
uint64_t clock_now(Clock *clock);
int64_t clock_epoch_ns(const Clock *clock);
void clock_set_epoch_ns(Clock *clock, int64_t epoch_ns);
void clock_pause(Clock *clock);
void clock_resume(Clock *clock);
void clock_set(Clock *clock, uint64_t now_ns);
void clock_run_timers(Clock *clock);
void clock_advance(Clock *clock, uint64_t ns);
uint64_t clock_next_deadline(Clock *clock);

/* io/io_thread.h */
typedef struct IoThread IoThread;
const char *io_thread_name(const IoThread *io);
bool io_thread_running(const IoThread *io);

/* io/ioeventfd.h */
typedef struct IoEventFds IoEventFds;
typedef struct { uint32_t entries; uint32_t active; uint64_t refused; } IoEventFdCounts;
void ioeventfds_counts(IoEventFds *list, IoEventFdCounts *counts);

/* irq/irqfd.h */
typedef struct IrqFds IrqFds;
typedef struct { uint32_t entries; uint32_t active; uint64_t changes; uint64_t refused; } IrqFdCounts;
void irqfds_counts(IrqFds *list, IrqFdCounts *counts);

/* irq/irq.h */
typedef struct IrqRouter IrqRouter;
typedef struct IrqLine IrqLine;
IrqLine *irq_line_new(IrqRouter *router, uint32_t gsi);
void irq_line_set(IrqLine *line, bool level);
void irq_line_pulse(IrqLine *line);
bool irq_line_level(const IrqLine *line);
uint32_t irq_line_gsi(const IrqLine *line);
void irq_line_route(IrqLine *line, uint32_t gsi);

/* irq/lapic.h, ioapic.h */
typedef struct Lapic Lapic;
typedef struct {
    uint8_t regs[1024];
    uint64_t apic_base;
    uint64_t tsc_deadline;
    uint64_t tsc_offset;
    uint64_t timer_deadline;
    uint32_t errors;
    uint8_t extint;
    uint8_t reserved[3];
} LapicState;
typedef struct {
    uint64_t redirection[24];
    uint32_t id;
    uint32_t lines;
    uint8_t select;
    uint8_t reserved[7];
} IoApicState;

/* io/board.h */
enum SystemRequest { SYSTEM_NONE, SYSTEM_RESET, SYSTEM_POWEROFF, SYSTEM_EXIT, SYSTEM_FIRMWARE, SYSTEM_FAULT,
                     SYSTEM_IO_ERROR };
enum A20Source { A20_I8042 = 1, A20_PORT92 = 2 };
typedef struct {
    GuestMemory *memory;
    Bus *pio;
    Bus *mmio;
    Clock *clock;
    IoThread *io;
    IoEventFds *ioeventfds;
    IrqFds *irqfds;
    IrqRouter *irqs;
    EventLog *log;
    uint32_t system_request;
    uint32_t system_code;
    uint32_t a20;
    uint64_t tsc_hz;
    ...;
} Board;
Board *board_new(enum ClockKind clock, Error *error);
void board_free(Board *board);
IoThread *board_add_worker(Board *board, const char *name, Error *error);
int board_start_io(Board *board, Error *error);
void board_stop_io(Board *board);
void board_pause_io(Board *board);
void board_resume_io(Board *board);
void board_request(Board *board, enum SystemRequest request, uint32_t code);
enum SystemRequest board_take_request(Board *board, uint32_t *code);
void board_set_a20(Board *board, enum A20Source source, bool on);
void board_nmi(Board *board);
int board_msi(Board *board, uint64_t address, uint32_t data);

/* The trampoline for devices written in Python (pyvmm/devices/base.py): their ranges' ops are these two. */
extern "Python" uint64_t python_device_read(void *handle, uint32_t region, uint64_t offset, uint32_t size);
extern "Python" void python_device_write(void *handle, uint32_t region, uint64_t offset, uint32_t size, uint64_t value);

/* devices/device.h */
typedef struct Device Device;
void device_free(Device *device);
void device_reset(Device *device);
size_t device_state_size(const Device *device);
uint32_t device_state_version(const Device *device);
const char *device_name(const Device *device);
void device_save(Device *device, void *state);
int device_restore(Device *device, const void *state);
int device_map(Device *device, Bus *bus, uint64_t base, uint64_t size, uint32_t region, Error *error);
uint64_t device_read(Device *device, uint32_t region, uint64_t offset, uint32_t size);
void device_write(Device *device, uint32_t region, uint64_t offset, uint32_t size, uint64_t value);

/* irq/i8259.h */
typedef struct {
    uint8_t irr, imr, isr, lines, elcr, icw1, icw2, icw3, icw4, next_icw, lowest, read_isr, poll, special_mask, rotate_aeoi,
        reserved;
} I8259ChipState;
typedef struct { I8259ChipState master; I8259ChipState slave; } I8259State;
Device *i8259_new(Board *board, IrqRouter *router);
Lapic *lapic_new(Board *board, uint32_t id, Error *error);
Device *lapic_device(Lapic *lapic);
void lapic_allow_x2apic(Lapic *lapic, bool allowed);
Device *ioapic_new(Board *board, IrqRouter *router, uint32_t isa_irq0_pin, Error *error);

/* devices/char_sink.h */
typedef struct CharSink CharSink;
CharSink *char_sink_new_fd(Board *board, int fd, size_t capture, Error *error);
void char_sink_free(CharSink *sink);
int char_sink_set_preamble(CharSink *sink, const void *data, size_t size);
size_t char_sink_write(CharSink *sink, const void *data, size_t size);
size_t char_sink_read(CharSink *sink, void *data, size_t size);
size_t char_sink_captured(CharSink *sink);
uint64_t char_sink_total(CharSink *sink);
uint64_t char_sink_overwritten(CharSink *sink);
int char_sink_drain(CharSink *sink, int timeout_ms);

/* devices/i8254.h */
typedef struct {
    uint64_t start, elapsed;
    uint32_t count;
    uint16_t reload, output_latch;
    uint8_t control, phase, out, gate, reload_pending, fired, written, write_msb, read_msb, write_lsb, latched, status_latched,
        status_latch;
    uint8_t reserved[3];
} I8254ChannelState;
typedef struct { I8254ChannelState channel[3]; } I8254State;
Device *i8254_new(Board *board, IrqLine *irq);
void i8254_set_gate(Device *device, uint32_t channel, bool level);
bool i8254_out(Device *device, uint32_t channel);
bool i8254_gate(Device *device, uint32_t channel);

/* devices/mc146818.h */
typedef struct {
    int64_t offset_ns, synced_ns;
    uint8_t index, nmi_disabled;
    uint8_t upper_index;
    uint8_t reserved[5];
    uint8_t ram[128];
    uint8_t upper[128];
} MC146818State;
Device *mc146818_new(Board *board, IrqLine *irq);
int mc146818_set_nvram(Device *device, uint32_t index, uint8_t value);
int mc146818_nvram(Device *device, uint32_t index);
bool mc146818_nmi_disabled(Device *device);

/* devices/uart16550.h */
typedef struct {
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scr, dll, dlm, thre_pending, timeout_pending, rx_count, tx_count;
    uint8_t reserved[3];
    uint8_t rx_fifo[16];
    uint8_t rx_errors[16];
    uint8_t tx_fifo[16];
} Uart16550State;
Device *uart16550_new(Board *board, IrqLine *irq, CharSink *sink);
size_t uart16550_receive(Device *device, const uint8_t *data, size_t size);
size_t uart16550_receive_room(Device *device);
void uart16550_receive_break(Device *device);

/* devices/i8042.h, ps2_mouse.h */
typedef struct {
    int32_t dx, dy, dz;
    uint8_t buttons, reported_buttons, reporting, remote, wrap, scaling, resolution, sample_rate, id;
    uint8_t rates[2];
    uint8_t pending, last_sent, queue_head, queue_count, reserved;
    uint8_t queue[32];
} Ps2MouseState;
typedef struct {
    uint64_t next_byte_ns;
    uint8_t status, output, command_byte, output_port, pending;
    uint8_t ram[31];
    uint8_t keyboard_pending, scanning, scan_set, leds, typematic, last_sent, break_prefix, queue_head, queue_count;
    uint8_t reserved[3];
    uint8_t queue[32];
    Ps2MouseState mouse;
    uint8_t reserved2[4];
} I8042State;
Device *i8042_new(Board *board, IrqLine *keyboard, IrqLine *aux);
int i8042_key(Device *device, const uint8_t *codes, size_t size);
uint8_t i8042_leds(Device *device);
void i8042_mouse(Device *device, int32_t dx, int32_t dy, int32_t dz, uint8_t buttons);

/* devices/acpi_pm.h */
typedef struct {
    uint64_t timer_half;
    uint16_t pm1_sts, pm1_en, pm1_cnt;
    uint8_t smi_cmd, smi_sts;
} AcpiPmState;
typedef struct { uint8_t s5_type, acpi_enable, acpi_disable, timer_bits; } AcpiPmConfig;
Device *acpi_pm_new(Board *board, IrqLine *sci, const AcpiPmConfig *config);
void acpi_pm_power_button(Device *device);

/* devices/hpet.h */
typedef struct { uint64_t config, comparator, period, fsb; } HpetTimerState;
typedef struct {
    uint64_t config, status, counter, synced;
    HpetTimerState timers[3];
} HpetState;
Device *hpet_new(Board *board, IrqLine *pit, IrqLine *rtc);

/* devices/ports.h */
typedef struct { uint32_t value; } PortState;
Device *port92_new(Board *board);
Device *port61_new(Board *board, Device *pit);
Device *post_code_new(Board *board);
Device *debug_console_new(Board *board, CharSink *sink);
Device *exit_port_new(Board *board);
Device *reset_control_new(Board *board);
Device *firmware_port_new(Board *board);

/* engine/cpu_state.h */
typedef struct { uint16_t selector; uint32_t attributes; uint32_t limit; uint64_t base; } Segment;
typedef struct { uint64_t base; uint16_t limit; } DescriptorTable;
typedef struct { uint64_t def_type; uint64_t fixed[11]; uint64_t variable[16]; } Mtrr;
typedef struct {
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t rflags;
    Segment segment[6];
    Segment ldtr;
    Segment tr;
    DescriptorTable gdtr;
    DescriptorTable idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t dr[8];
    uint64_t xcr0;
    uint64_t efer, apic_base, pat;
    uint64_t star, lstar, cstar, fmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t tsc, tsc_aux, misc_enable;
    uint64_t kvm_system_time, kvm_wall_clock;
    Mtrr mtrr;
    uint64_t kvm_clock, clock_ns;
    uint8_t halted;
    uint8_t wait_for_sipi;
    uint8_t interrupt_shadow;
    uint8_t nmi_blocked;
    uint8_t nmi_pending;
    int16_t pending_exception;
    uint8_t pending_has_error;
    uint32_t pending_error;
    uint8_t xsave[4096];
} CpuState;
void cpu_state_reset(CpuState *state);
void cpu_state_reset_ap(CpuState *state);

/* engine/engine.h */
enum ExitReason {
    EXIT_NONE, EXIT_IO, EXIT_MMIO, EXIT_HLT, EXIT_INTERRUPT, EXIT_EXCEPTION, EXIT_CPUID, EXIT_MSR, EXIT_SHUTDOWN,
    EXIT_SYSTEM, EXIT_KICK, EXIT_DEBUG, EXIT_FAIL
};
enum { EXIT_PRIVILEGE_KNOWN = 256 };
typedef struct {
    uint32_t reason;
    uint32_t size;
    uint32_t is_write;
    uint32_t handled;
    uint64_t address;
    uint64_t value;
    uint64_t rip;
    uint32_t vector;
    uint32_t has_error;
    uint32_t request;
    uint32_t code;
    uint32_t privilege;
    uint32_t cycles;
    char text[160];
} VmExit;
typedef struct { uint64_t exits[16]; } ExitCounters;
typedef struct Vcpu Vcpu;
typedef struct EngineVm EngineVm;
typedef struct {
    uint64_t time, rip, address, value;
    uint32_t cycles;
    uint8_t reason, flags, size, vector;
} ExitEvent;
typedef struct {
    uint64_t rip, address, count, cycles, first, last, value;
    uint32_t max_cycles;
    uint8_t reason, flags, size, vector;
    uint32_t kind, reserved;
} ExitSite;
typedef struct { uint64_t address; uint32_t reason, kind; uint32_t counts[128]; } ExitBand;
typedef struct {
    uint64_t events, merged, began, now, tsc_began, tsc_now, host_began, host_now, bucket_ns, own_cycles;
    uint64_t counts[16];
    uint64_t cycles[16];
    uint64_t costs[16][32];
} ExitTraceSummary;
typedef struct ExitTrace ExitTrace;
ExitTrace *exit_trace_new(Clock *clock, uint32_t events, uint32_t sites, Error *error);
void exit_trace_free(ExitTrace *trace);
size_t exit_trace_events(ExitTrace *trace, ExitEvent *events, size_t capacity);
size_t exit_trace_sites(ExitTrace *trace, ExitSite *sites, size_t capacity);
size_t exit_trace_bands(ExitTrace *trace, ExitBand *bands, size_t capacity);
void exit_trace_summary(ExitTrace *trace, ExitTraceSummary *summary);
int vcpu_set_trace(Vcpu *vcpu, ExitTrace *trace);
typedef struct { uint64_t count; uint32_t opcode; uint32_t size; uint8_t instruction[16]; } HandOverKind;
typedef struct { uint64_t total; HandOverKind kinds[32]; } HandOverCounters;
int engine_vm_attach(EngineVm *vm, Error *error);
int engine_vm_detach(EngineVm *vm, Error *error);
bool engine_vm_is_attached(const EngineVm *vm);
int engine_vm_switch(Vcpu *const *from, Vcpu *const *to, size_t count, Error *error);
void engine_vm_free(EngineVm *vm);
Vcpu *vcpu_new(EngineVm *vm, uint32_t index, Error *error);
void vcpu_free(Vcpu *vcpu);
int engine_vm_reset(EngineVm *vm);
void engine_vm_pause(EngineVm *vm);
int vcpu_reset(Vcpu *vcpu);
void engine_vm_call_in(EngineVm *vm);
void engine_vm_let_go(EngineVm *vm);
void vcpu_name_thread(const Vcpu *vcpu);
int vcpu_run(Vcpu *vcpu, uint32_t surface, VmExit *exit);
int vcpu_step(Vcpu *vcpu, VmExit *exit);
void vcpu_kick(Vcpu *vcpu);
int vcpu_get_state(Vcpu *vcpu, CpuState *state);
int vcpu_set_state(Vcpu *vcpu, const CpuState *state);
int vcpu_set_breakpoints(Vcpu *vcpu, const uint64_t *addresses, size_t count);
typedef struct { uint32_t leaf, subleaf, indexed, eax, ebx, ecx, edx; } CpuidEntry;
int vcpu_get_cpuid(Vcpu *vcpu, CpuidEntry *entries, uint32_t capacity);
int vcpu_set_cpuid(Vcpu *vcpu, const CpuidEntry *entries, uint32_t count);
int vcpu_set_fallback(Vcpu *vcpu, Vcpu *fallback);
bool vcpu_has_fallback(const Vcpu *vcpu);
void vcpu_hand_over_counters(const Vcpu *vcpu, HandOverCounters *counters);
void vcpu_counters(const Vcpu *vcpu, ExitCounters *counters);
typedef struct { char name[48]; uint64_t value; } EngineStatistic;
int vcpu_statistics(Vcpu *vcpu, EngineStatistic *statistics, uint32_t capacity);
typedef struct { uint64_t page, physical; uint32_t rights, user; } TlbTranslation;
int vcpu_tlb(Vcpu *vcpu, TlbTranslation *translations, uint32_t capacity);
uint64_t vcpu_instructions(const Vcpu *vcpu);

/* translator/translator.h */
int translator_self_test(bool slow, Error *error);
EngineVm *translator_vm_new(Board *board, bool slow, Error *error);
typedef struct { uint64_t rip, cr2; uint32_t vector, error, has_error, in_delivery; } TranslatorFault;
uint32_t translator_faults(const Vcpu *vcpu, TranslatorFault *faults);

/* block */
struct iovec { void *iov_base; size_t iov_len; ...; };
typedef struct BlockImage BlockImage;
typedef struct {
    uint64_t length;
    uint64_t host_offset;
    uint32_t flags;
    uint32_t depth;
} BlockStatus;
typedef struct {
    uint64_t size, file_size, disk_usage;
    uint64_t cluster_size;
    uint32_t version, refcount_bits;
    uint32_t snapshots;
    uint8_t dirty, corrupt, lazy_refcounts, compression;
    uint8_t bitmaps, reserved[3];
    char backing_file[1024], backing_format[16];
} BlockInfo;
typedef struct {
    uint64_t size;
    uint32_t cluster_size;
    uint32_t version;
    uint32_t refcount_bits;
    uint32_t lazy_refcounts;
    uint32_t compression;
    uint32_t preallocation;
    const char *backing_file;
    const char *backing_format;
} BlockCreate;
typedef struct {
    uint64_t corruptions, leaks, corruptions_fixed, leaks_fixed, errors;
    uint64_t total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters, image_end_offset;
    char first[400];
} BlockCheck;
BlockImage *block_open(const char *path, const char *format, int cache, uint32_t flags, Error *error);
void block_close(BlockImage *image);
uint64_t block_size(const BlockImage *image);
bool block_is_read_only(const BlockImage *image);
const char *block_format(const BlockImage *image);
const char *block_fault(const BlockImage *image);
bool block_probed_raw(const BlockImage *image);
const char *block_path(const BlockImage *image);
BlockImage *block_backing(const BlockImage *image);
int block_pread(BlockImage *image, void *data, size_t length, uint64_t offset);
int block_pwrite(BlockImage *image, const void *data, size_t length, uint64_t offset);
int block_preadv(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
int block_pwritev(BlockImage *image, const struct iovec *iov, int iovcnt, uint64_t offset);
int block_flush(BlockImage *image);
int block_discard(BlockImage *image, uint64_t offset, uint64_t length);
int block_write_zeroes(BlockImage *image, uint64_t offset, uint64_t length, bool may_unmap);
int block_status(BlockImage *image, uint64_t offset, uint64_t length, BlockStatus *status);
int block_info(BlockImage *image, BlockInfo *info);
int block_create(const char *path, const char *format, const BlockCreate *options, Error *error);
int block_resize(BlockImage *image, uint64_t size, bool shrink, Error *error);
int block_check(BlockImage *image, int repair, BlockCheck *result, Error *error);
int64_t block_copy(BlockImage *source, BlockImage *target, uint64_t offset, uint64_t length, bool target_is_zero,
                   bool compress, Error *error);
int64_t block_compare(BlockImage *a, BlockImage *b, uint64_t offset, uint64_t length, Error *error);

/* devices/pci.h, pci_bridges.h, pci_python.h */
typedef struct PciBus PciBus;
typedef struct { uint8_t config[256]; uint8_t intx; } PciFunctionState;
typedef struct { uint32_t config_address; } PciBusState;
typedef struct { uint8_t table[1024]; uint64_t pending; } PciMsixState;
typedef struct { PciFunctionState pci; } PciBridgeState;
typedef struct { uint32_t msi, msix, msix_bar; } PciPythonMessages;
typedef struct { PciFunctionState pci; PciMsixState msix; } PciPythonState;
typedef struct {
    uint16_t vendor_id;
    uint16_t device_id;
    uint32_t class_code;
    uint8_t revision;
    uint16_t subsystem_vendor_id;
    uint16_t subsystem_id;
    uint8_t interrupt_pin;
} PciIdentity;
typedef struct { uint64_t size; uint64_t base; uint32_t flags; uint8_t wanted; uint8_t mapped; uint8_t is_ram; } PciBarInfo;
typedef struct { uint32_t index; uint32_t flags; uint64_t size; void *handle; } PciPythonBar;
PciBus *pci_bus_new(Board *board);
Device *pci_bus_device(PciBus *bus);
uint32_t pci_link(uint32_t slot, uint32_t pin);
int pci_bus_link_route(PciBus *bus, uint32_t link);
uint32_t pci_bus_config_read(PciBus *bus, uint32_t devfn, uint32_t offset, uint32_t size);
void pci_bus_config_write(PciBus *bus, uint32_t devfn, uint32_t offset, uint32_t size, uint32_t value);
int pci_bus_bar(PciBus *bus, uint32_t devfn, uint32_t index, PciBarInfo *info);
const char *pci_bus_device_name(PciBus *bus, uint32_t devfn);
Device *i440fx_new(Board *board, PciBus *bus, uint32_t devfn, Error *error);
Device *piix3_isa_new(Board *board, PciBus *bus, uint32_t devfn, Error *error);
Device *pci_python_new(Board *board, PciBus *bus, uint32_t devfn, const char *name, const PciIdentity *identity,
                       const PciPythonBar *bars, size_t bar_count, const PciPythonMessages *messages,
                       uint64_t (*read)(void *, uint32_t, uint64_t, uint32_t),
                       void (*write)(void *, uint32_t, uint64_t, uint32_t, uint64_t), Error *error);
void pci_python_set_intx(Device *device, bool level);
bool pci_python_notify(Device *device, uint32_t vector);

/* devices/i8237.h */
typedef struct { uint16_t base_address, base_count, address, count; uint8_t mode, reserved; } I8237Channel;
typedef struct { uint8_t command, terminal_count, request, mask, flip_flop, reserved; } I8237Unit;
typedef struct {
    I8237Channel channels[8];
    I8237Unit units[2];
    uint8_t pages[15];
    uint8_t reserved;
} I8237State;
Device *i8237_new(Board *board);

/* devices/fdc.h */
typedef struct { uint8_t tracks, heads, sectors, rate; } FdcGeometry;
typedef struct { BlockImage *image; FdcGeometry geometry; uint8_t present; } FdcDriveOptions;
typedef struct { FdcDriveOptions drives[2]; IoThread *io; } FdcOptions;
typedef struct {
    uint64_t deadline_ns;
    uint8_t dor, tdr, dsr, rate;
    uint8_t config, precompensation, locked, perpendicular;
    uint8_t step_rate, head_load, end_of_track;
    uint8_t phase;
    uint8_t command[9], command_length, position;
    uint8_t result[10], result_length;
    uint8_t events;
    uint8_t interrupt;
    uint8_t reset_senses;
    uint8_t seek_done;
    uint8_t seek_status[4];
    uint8_t seek_target[4];
    uint8_t cylinder[4];
    uint8_t track[2];
    uint8_t changed[2];
    uint8_t sectors_left;
    uint8_t found;
    uint8_t reserved[12];
    uint16_t fifo_position, fifo_length;
    uint8_t buffer[512];
} FdcState;
Device *fdc_new(Board *board, IrqLine *irq, Device *dma, uint32_t dma_channel, const FdcOptions *options);
int fdc_change_medium(Device *device, uint32_t drive, BlockImage *image, const FdcGeometry *geometry);

/* devices/piix4_pm.h */
typedef struct {
    PciFunctionState pci;
    uint8_t status, control;
    uint8_t registers[16];
    uint8_t block[32];
    uint8_t block_index;
    uint8_t reserved[4];
    uint64_t done_ns;
} Piix4PmState;
Device *piix4_pm_new(Board *board, PciBus *bus, uint32_t devfn, uint16_t pm_base, IrqLine *irq, Error *error);

/* devices/pflash.h */
typedef struct {
    uint32_t buffer_start, buffer_left;
    uint8_t mode, pending, status, buffer_size;
    uint8_t buffer[64];
    uint8_t written[64];
} PflashState;
Device *pflash_new(Board *board, int fd, uint64_t size, Error *error);
uint8_t *pflash_data(Device *device);
int pflash_flush(Device *device);

/* devices/vga.h */
#define VGA_MEMORY_SIZE ...
enum VgaRegion { VGA_REGION_PORTS, VGA_REGION_DISPI, VGA_REGION_WINDOW };
enum VgaKind { VGA_BLANK, VGA_TEXT, VGA_GRAPHICS };
typedef struct {
    uint8_t misc_output, feature_control, sequencer_index, crtc_index, graphics_index, attribute_index, attribute_is_data,
        dac_mask, dac_read_index, dac_write_index, dac_cycle, dac_reading;
    uint8_t sequencer[8], crtc[32], graphics[16], attribute[32];
    uint8_t dac[768], dac_pending[3];
    uint8_t latch[4];
    uint8_t reserved;
    uint16_t dispi_index, dispi[16];
    PciFunctionState pci;
    uint8_t reserved2;
} VGAState;
typedef struct {
    uint32_t kind, width, height, bits_per_pixel, columns, rows, cell_width, cell_height, cursor_visible, cursor_row,
        cursor_column;
} VgaMode;
Device *vga_new(Board *board, PciBus *bus, uint32_t devfn, const uint8_t *rom, size_t rom_size, Error *error);
void vga_mode(Device *device, VgaMode *mode);
int vga_render(Device *device, uint32_t *pixels, uint32_t width, uint32_t height, bool blink);
int vga_cells(Device *device, uint16_t *cells, uint32_t columns, uint32_t rows);
uint8_t *vga_memory(Device *device);
void vga_clear(Device *device);

/* devices/ide.h */
enum IdeKind { IDE_NONE, IDE_DISK, IDE_CDROM };
typedef struct {
    uint8_t features, error, status, count, lba_low, lba_mid, lba_high;
    uint8_t previous_features, previous_count, previous_lba_low, previous_lba_mid, previous_lba_high;
    uint8_t interrupt, multiple, heads, sectors, transfer_mode, write_cache, power;
    uint8_t sense_key, asc, ascq, attention, media_event, tray_open, locked;
    uint8_t reserved[6];
} IdeDriveState;
typedef struct {
    uint64_t offset;
    uint64_t left;
    uint32_t position, end, filled, block;
    uint8_t phase, drive, is_packet, is_write;
    uint8_t reserved[4];
} IdeTransferState;
typedef struct {
    uint32_t table, next, address, left, fetched;
    uint8_t command, status, last, reserved;
} IdeBusMasterState;
typedef struct {
    IdeDriveState drives[2];
    IdeTransferState transfer;
    IdeBusMasterState master;
    uint8_t device, control;
    uint8_t reserved[6];
    uint8_t buffer[8192];
} IdeChannelState;
typedef struct { IdeChannelState channels[2]; PciFunctionState pci; } IdeState;
typedef struct { uint32_t kind; BlockImage *image; char serial[21]; } IdeDriveOptions;
typedef struct { IdeDriveOptions drives[4]; IoThread *io; } IdeOptions;
typedef struct {
    uint64_t commands, packets, pio_blocks, dma_transfers, bytes_read, bytes_written, errors, interrupts;
} IdeCounters;
Device *ide_new(Board *board, PciBus *bus, uint32_t devfn, IrqLine *primary, IrqLine *secondary,
                const IdeOptions *options, Error *error);
void ide_counters(Device *device, uint32_t channel, IdeCounters *counters);
int ide_change_medium(Device *device, uint32_t channel, uint32_t drive, BlockImage *image);

/* virtio/virtio.h, virtio_place.h, virtio_pci.h, virtio_blk.h */
typedef struct {
    uint64_t desc;
    uint64_t driver;
    uint64_t device;
    uint16_t size;
    uint16_t last_avail;
    uint16_t next_used;
    uint8_t enabled;
} VirtioQueueState;
typedef struct {
    uint64_t driver_features;
    uint8_t status;
    uint8_t generation;
    uint8_t config[256];
    uint8_t own[1024];
    VirtioQueueState queues[64];
} VirtioState;
typedef struct {
    PciFunctionState pci;
    VirtioState virtio;
    uint64_t features_written;
    uint32_t device_feature_select;
    uint32_t driver_feature_select;
    uint16_t queue_select;
    uint8_t isr;
    uint16_t config_vector;
    uint16_t queue_vectors[64];
    PciMsixState msix;
} VirtioPciState;
typedef struct {
    VirtioState virtio;
    uint64_t features_written;
    uint32_t device_features_sel;
    uint32_t driver_features_sel;
    uint32_t queue_sel;
    uint32_t guest_page_size;
    uint32_t queue_align[64];
    uint8_t interrupt_status;
} VirtioMmioState;
typedef struct { PciBus *bus; uint32_t devfn; bool modern_only; IrqLine *line; uint64_t base; bool legacy;
                 uint64_t offer; uint64_t withhold; bool no_ioeventfd; bool no_irqfd;
                 IoThread *io; ...; } VirtioPlace;
typedef struct {
    uint64_t interrupts;
    uint64_t faults;
    uint64_t kicks;
    uint64_t signals;
    uint64_t irqfd_interrupts;
} VirtioCounters;
void virtio_counters(Device *device, VirtioCounters *counters);
uint64_t virtio_device_features(Device *device);
typedef struct { char serial[21]; uint32_t queue_size; uint32_t block_size; uint32_t num_queues;
                 uint32_t on_read_error; uint32_t on_write_error; IoThread **io; uint32_t io_count; ...; }
    VirtioBlkOptions;
typedef struct {
    uint64_t reads;
    uint64_t writes;
    uint64_t flushes;
    uint64_t others;
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t errors;
    uint64_t batches;
    uint64_t host_calls;
} VirtioBlkCounters;
Device *virtio_blk_new(Board *board, const VirtioPlace *place, BlockImage *image, const VirtioBlkOptions *options,
                       Error *error);
void virtio_blk_counters(Device *device, VirtioBlkCounters *counters);
void virtio_blk_resized(Device *device);
int virtio_blk_stopped_by(Device *device);
void virtio_blk_go_on(Device *device);
typedef struct {
    uint64_t kick_ns;
    uint64_t pop_ns;
    uint64_t begin_ns;
    uint64_t end_ns;
    uint64_t used_ns;
    uint64_t interrupt_ns;
    uint64_t sector;
    uint32_t bytes;
    uint32_t type;
    uint16_t queue;
    uint16_t id;
    uint16_t merged;
    uint8_t status;
} VirtioBlkRecord;
int virtio_blk_record_start(Device *device, uint32_t capacity);
void virtio_blk_record_stop(Device *device);
uint32_t virtio_blk_record_take(Device *device, VirtioBlkRecord *records, uint32_t count, uint64_t *lost);

/* virtio/virtio_view.h, virtio/virtqueue.h */
typedef struct { uint64_t addr; uint32_t len; uint16_t flags; uint16_t next; } VirtqDesc;
typedef struct { uint64_t addr; uint32_t len; uint16_t id; uint16_t flags; } VirtqPackedDesc;
typedef struct { uint32_t id; uint32_t len; } VirtqUsedElem;
typedef struct {
    uint64_t desc_gpa, driver_gpa, device_gpa;
    uint16_t size, max_size;
    uint16_t last_avail, next_used;
    uint16_t driver_flags, driver_index, driver_event;
    uint16_t device_flags, device_index, device_event;
    uint8_t enabled, packed, event_idx, indirect, in_order, avail_wrap, used_wrap;
    union { VirtqDesc desc[1024]; VirtqPackedDesc packed_desc[1024]; };
    uint16_t avail[1024];
    VirtqUsedElem used[1024];
} VirtioQueueView;
int virtio_queue_view(Device *device, uint32_t index, VirtioQueueView *view);
int virtio_queue_table(Device *device, uint64_t gpa, uint32_t count, VirtqDesc *table);
uint32_t virtio_queue_count(Device *device);

/* net/net.h, net_user.h, net_tap.h, net_socket.h, net_python.h */
typedef struct NetBackend NetBackend;
typedef struct {
    uint64_t tx_frames, tx_bytes, tx_drops, tx_invalid;
    uint64_t rx_frames, rx_bytes, rx_drops, rx_waits;
    uint64_t tx_waits, segmented, checksummed, link_changes;
    uint32_t rx_queued;
    bool link;
} NetCounters;
void net_backend_counters(NetBackend *backend, NetCounters *counters);
bool net_backend_link(NetBackend *backend);
void net_backend_set_link(NetBackend *backend, bool up);
void net_backend_poll(NetBackend *backend);
void net_backend_free(NetBackend *backend);
int net_backend_capture(NetBackend *backend, const char *path, uint32_t snaplen, Error *error);
int net_backend_capture_stop(NetBackend *backend, Error *error);
typedef struct {
    const char *net, *host, *dhcpstart, *dns, *hostname, *domainname;
    const char *const *dnssearch;
    const char *tftp, *tftp_server_name, *bootfile, *ipv6_net, *ipv6_host, *ipv6_dns;
    bool restricted, no_ipv4, no_ipv6, plain;
} NetUserOptions;
NetBackend *net_user_new(Board *board, IoThread *io, const NetUserOptions *options, Error *error);
int net_user_available(Error *error);
const char *net_user_version(NetBackend *backend);
int net_user_hostfwd(NetBackend *backend, const char *rule, Error *error);
int net_user_hostfwd_remove(NetBackend *backend, const char *rule, Error *error);
int net_user_connections(NetBackend *backend, char *text, size_t size);
typedef struct { const char *ifname; int fd; bool no_header; } NetTapOptions;
NetBackend *net_tap_new(Board *board, IoThread *io, const NetTapOptions *options, Error *error);
const char *net_tap_ifname(NetBackend *backend);
typedef struct {
    const char *listen, *connect, *remote, *local;
    int fd;
    uint32_t reconnect_ms;
    bool header;
} NetSocketOptions;
NetBackend *net_socket_new(Board *board, IoThread *io, const NetSocketOptions *options, Error *error);
int net_socket_address(NetBackend *backend, char *text, size_t size);
int net_socket_pair(int *ends);
typedef void (*NetPythonSend)(void *handle, const uint8_t *frame, uint32_t length);
NetBackend *net_python_new(Board *board, IoThread *io, NetPythonSend send, void *handle, Error *error);
int net_python_deliver(NetBackend *backend, const uint8_t *frame, uint32_t length);
extern "Python" void python_net_send(void *handle, const uint8_t *frame, uint32_t length);

/* virtio/virtio_net.h */
typedef struct { uint8_t mac[6]; uint16_t mtu; uint32_t rx_size; uint32_t tx_size; uint64_t withhold; ...; }
    VirtioNetOptions;
typedef struct {
    uint64_t tx_frames, tx_bytes, tx_gso, tx_drops, tx_waits;
    uint64_t rx_frames, rx_bytes, rx_gso, rx_filtered, rx_drops, rx_waits;
    uint64_t commands, command_errors;
} VirtioNetCounters;
Device *virtio_net_new(Board *board, const VirtioPlace *place, NetBackend *backend, const VirtioNetOptions *options,
                       Error *error);
void virtio_net_unplug(Device *device);
void virtio_net_counters(Device *device, VirtioNetCounters *counters);
void virtio_net_announce(Device *device);

/* devices/e1000.h */
typedef struct {
    uint8_t ipcss, ipcso;
    uint16_t ipcse;
    uint8_t tucss, tucso;
    uint16_t tucse;
    uint32_t paylen;
    uint8_t tucmd, hdrlen;
    uint16_t mss;
} E1000Context;
typedef struct {
    uint32_t ctrl, ctrl_ext, eecd, eerd, mdic, fcal, fcah, fct, vet;
    uint32_t icr, itr, ims, ait;
    uint32_t rctl, fcttv, txcw, tctl, tipg, ledctl, pba, fcrtl, fcrth;
    uint32_t rdbal, rdbah, rdlen, rdh, rdt, rdtr, rxdctl, radv, rsrpd;
    uint32_t tdbal, tdbah, tdlen, tdh, tdt, tidv, txdctl, tadv, tspmt;
    uint32_t rxcsum, wuc, wufc, manc;
    uint32_t ra[32];
    uint32_t mta[128];
    uint32_t vfta[128];
    uint32_t statistics[64];
    uint16_t phy[32];
} E1000Registers;
typedef struct {
    PciFunctionState pci;
    E1000Registers registers;
    E1000Context checksum, segmentation;
    uint32_t io_address;
    uint64_t irq_allowed;
    uint32_t eeprom_in;
    uint32_t eeprom_count;
    uint8_t link;
} E1000State;
typedef struct {
    uint64_t tx_frames;
    uint64_t tx_bytes;
    uint64_t tx_segmented;
    uint64_t tx_drops;
    uint64_t tx_waits;
    uint64_t rx_frames;
    uint64_t rx_bytes;
    uint64_t rx_filtered;
    uint64_t rx_drops;
    uint64_t rx_waits;
    uint64_t interrupts;
    uint64_t faults;
} E1000Counters;
Device *e1000_new(Board *board, PciBus *bus, uint32_t devfn, NetBackend *backend, const uint8_t *mac, Error *error);
void e1000_unplug(Device *device);
void e1000_counters(Device *device, E1000Counters *counters);

/* p9/p9_server.h, virtio/virtio_9p.h */
typedef struct { const char *path; const char *tag; int security; bool read_only; uint32_t max_descriptors; ...; }
    Virtio9pOptions;
typedef struct {
    uint64_t requests;
    uint64_t errors;
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint32_t fids;
    uint32_t descriptors;
} P9Counters;
Device *virtio_9p_new(Board *board, const VirtioPlace *place, const Virtio9pOptions *options, Error *error);
void virtio_9p_counters(Device *device, P9Counters *counters);
/* devices/char_socket.h, virtio/virtio_console.h */
typedef struct CharSocket CharSocket;
CharSocket *char_socket_new(Board *board, const char *path, Error *error);
void char_socket_free(CharSocket *socket);
bool char_socket_is_connected(CharSocket *socket);
typedef struct { char name[64]; bool is_console; CharSink *sink; CharSocket *socket; } VirtioConsolePortOptions;
typedef struct { uint32_t port_count; VirtioConsolePortOptions ports[16]; } VirtioConsoleOptions;
typedef struct { bool guest_open; bool host_open; uint32_t room; uint64_t from_guest; uint64_t to_guest; }
    VirtioConsolePortStatus;
Device *virtio_console_new(Board *board, const VirtioPlace *place, const VirtioConsoleOptions *options,
                           Error *error);
size_t virtio_console_receive(Device *device, uint32_t port, const uint8_t *data, size_t size);
void virtio_console_port_status(Device *device, uint32_t port, VirtioConsolePortStatus *status);
void virtio_console_set_open(Device *device, uint32_t port, bool open);
void virtio_console_resize(Device *device, uint16_t columns, uint16_t rows);

/* virtio/virtio_balloon.h */
typedef struct { bool no_deflate_on_oom; bool no_reporting; uint64_t stats_interval_ns; } VirtioBalloonOptions;
typedef struct {
    uint32_t target_pages, actual_pages;
    uint64_t inflated, reported, stats_count, stats_ns, stats_known;
    uint64_t stats[16];
} VirtioBalloonStatus;
Device *virtio_balloon_new(Board *board, const VirtioPlace *place, const VirtioBalloonOptions *options,
                           Error *error);
void virtio_balloon_set_target(Device *device, uint32_t pages);
void virtio_balloon_poll(Device *device);
void virtio_balloon_status(Device *device, VirtioBalloonStatus *status);

/* virtio/virtio_input.h */
typedef struct { uint16_t type; uint16_t code; uint32_t value; } VirtioInputEvent;
Device *virtio_input_new(Board *board, const VirtioPlace *place, uint32_t kind, Error *error);
int virtio_input_send(Device *device, const VirtioInputEvent *events, uint32_t count);
uint32_t virtio_input_leds(Device *device);

/* virtio/virtio_python.h */
typedef void (*VirtioPythonRequest)(void *handle, uint32_t queue, uint64_t ticket, const uint8_t *data, size_t size,
                                    uint64_t room);
typedef struct {
    char name[32];
    uint32_t device_id;
    uint64_t features;
    uint32_t queue_count;
    uint32_t queue_size;
    uint32_t config_size;
    uint8_t config[256];
    VirtioPythonRequest request;
    void *handle;
} VirtioPythonOptions;
Device *virtio_python_new(Board *board, const VirtioPlace *place, const VirtioPythonOptions *options, Error *error);
int virtio_python_answer(Device *device, uint64_t ticket, const uint8_t *data, size_t size);
uint32_t virtio_python_pending(Device *device);
int virtio_python_set_config(Device *device, uint32_t offset, const uint8_t *data, uint32_t size);
extern "Python" void python_virtio_request(void *handle, uint32_t queue, uint64_t ticket, const uint8_t *data, size_t size,
                                           uint64_t room);

/* virtio/virtio_rng.h */
typedef struct { uint64_t bytes_per_second; bool seeded; uint64_t seed; } VirtioRngOptions;
typedef struct { uint64_t requests, bytes, waits; } VirtioRngCounters;
Device *virtio_rng_new(Board *board, const VirtioPlace *place, const VirtioRngOptions *options, Error *error);
void virtio_rng_counters(Device *device, VirtioRngCounters *counters);

/* vsock/vsock_hub.h, virtio/virtio_vsock.h */
typedef struct {
    uint64_t by_guest;
    uint64_t by_host;
    uint64_t refused;
    uint64_t resets;
    uint64_t bytes_from_guest;
    uint64_t bytes_to_guest;
    uint64_t malformed;
    uint32_t connections;
} VsockCounters;
Device *virtio_vsock_new(Board *board, const VirtioPlace *place, const char *path, uint32_t guest_cid, Error *error);
void virtio_vsock_counters(Device *device, VsockCounters *counters);

/* kvm/kick.h, kvm/kvm.h */
int kvm_ioctl(int fd, unsigned long request, void *argument);
int kvm_run(int vcpu_fd);
int kvm_kick_signal(Error *error);
int kvm_kick_accept(int known);
int kvm_kick_thread(int thread_id);
typedef struct {
    uint32_t exit_reason;
    uint32_t suberror;
    uint64_t entry_failure;
    uint32_t cpu;
    uint32_t data_count;
    uint64_t data[16];
    uint32_t instruction_size;
    uint8_t instruction[16];
} KvmFailure;
enum IrqchipPlace { IRQCHIP_USER, IRQCHIP_SPLIT, IRQCHIP_KERNEL };
typedef struct { uint32_t sockets, cores, threads; } CpuTopology;
typedef struct { uint32_t irqchip; CpuTopology topology; uint64_t reserved_pages; } KvmOptions;
EngineVm *kvm_vm_new(Board *board, const char *device, const KvmOptions *options, Error *error);
uint32_t kvm_vm_recommended_vcpus(const EngineVm *vm);
int kvm_vm_fd(const EngineVm *vm);
int kvm_vcpu_fd(const Vcpu *vcpu);
bool kvm_vcpu_failure(const Vcpu *vcpu, KvmFailure *failure);

/* csrc/lab/monitor.h */
typedef struct { uint64_t base; uint32_t limit; uint16_t selector; ...; } VirtualSegment;
typedef struct {
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t efer, star, lstar, cstar, fmask, kernel_gs_base, fs_base, gs_base;
    uint64_t dr[8];
    DescriptorTable gdtr, idtr;
    VirtualSegment ldtr, tr;
    uint16_t selector[6];
    uint8_t cpl, iopl, interrupts, shadow, halted;
    ...;
} VirtualCpu;
typedef struct {
    uint64_t exits[...], cycles[...], emulated[...], hypercalls[32];
    uint64_t injected_exceptions, injected_interrupts, blocks, chained, flushes;
    ...;
} LabCounters;
typedef struct { uint32_t ended; uint8_t size; uint8_t instruction[15]; uint64_t rip; char text[200]; ...; } LabEnd;
typedef struct {
    uint64_t number, rip, cr2, error, cycles, rax, rdx, result;
    uint8_t reason, vector, cpl, size, instruction[15];
    ...;
} LabExit;
typedef struct { const char *name; ...; } LabTechnique;
typedef struct { Shadow *shadow; ...; } Monitor;
const LabTechnique *lab_technique(const char *name);
Monitor *monitor_new(Vcpu *vcpu, uint64_t guest_end, const LabTechnique *technique, Error *error);
void monitor_free(Monitor *monitor);
int monitor_start(Monitor *monitor, const CpuState *state, Error *error);
LabCounters monitor_counters(const Monitor *monitor);
LabEnd monitor_end(const Monitor *monitor);
void monitor_watch(Monitor *monitor, bool on);
LabExit monitor_last_exit(const Monitor *monitor);
VirtualCpu monitor_virtual_cpu(const Monitor *monitor);
const char *lab_reason_name(uint32_t reason);
const char *lab_mnemonic_name(uint32_t mnemonic);

/* csrc/lab/decode.h */
typedef struct {
    uint8_t length, map, opcode, rex, operand_size, address_size, segment, repeat;
    bool lock, has_modrm, rip_relative, vex;
    uint8_t prefixes, mod, reg, rm, modrm_offset, scale, index, base, disp_offset, disp_size, imm_offset, imm_size;
    int64_t disp, imm;
    ...;
} Instruction;
int instruction_decode(Instruction *instruction, const uint8_t *bytes, size_t size);
uint64_t instruction_address(const Instruction *instruction, const uint64_t *gpr, uint64_t rip, uint64_t fs_base,
                             uint64_t gs_base);

/* csrc/lab/translate.h */
typedef struct {
    uint64_t rax, rcx, rdx, rsp, scratch, target, jump, value, zero, pending, interrupts, iopl, cr[9], selector[6], tr, ldtr;
    ...;
} TranslatorPage;
typedef struct { uint64_t rip; uint32_t size, code_size; uint64_t code, page; uint32_t exits, linked; ...; } TranslationView;
bool lab_translation(const Monitor *monitor, uint64_t rip, TranslationView *view);
uint32_t lab_translation_places(const Monitor *monitor, uint64_t rip, uint64_t *code, uint64_t *guest, uint32_t room);
uint32_t lab_translation_code(const Monitor *monitor, uint64_t rip, uint8_t *code, uint32_t room);
typedef struct { uint32_t blocks, used, room, places, exits, linked, pages; uint64_t generation; ...; } TranslationStatistics;
TranslationStatistics lab_translation_statistics(const Monitor *monitor);

/* linux/kvm.h: what the ioctls of pyvmm/kvm/ pass */
struct kvm_userspace_memory_region {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
};
struct kvm_dirty_log { uint32_t slot; void *dirty_bitmap; ...; };
struct kvm_clear_dirty_log { uint32_t slot; uint32_t num_pages; uint64_t first_page; void *dirty_bitmap; ...; };
struct kvm_enable_cap { uint32_t cap; uint32_t flags; uint64_t args[4]; ...; };
struct kvm_cpuid_entry2 {
    uint32_t function, index, flags, eax, ebx, ecx, edx;
    ...;
};
struct kvm_cpuid2 { uint32_t nent; ...; };
struct kvm_msr_entry { uint32_t index; uint64_t data; ...; };
struct kvm_msrs { uint32_t nmsrs; ...; };
struct kvm_msr_list { uint32_t nmsrs; ...; };
struct kvm_msr_filter_range { uint32_t flags; uint32_t nmsrs; uint32_t base; uint8_t *bitmap; };
struct kvm_msr_filter { uint32_t flags; struct kvm_msr_filter_range ranges[16]; };
struct kvm_irq_level { uint32_t irq; uint32_t level; ...; };
struct kvm_pic_state {
    uint8_t last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi,
        rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask;
};
struct kvm_irqchip { uint32_t chip_id; ...; };
struct kvm_pit_channel_state {
    uint32_t count;
    uint16_t latched_count;
    uint8_t count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate;
    int64_t count_load_time;
};
struct kvm_pit_state2 { struct kvm_pit_channel_state channels[3]; uint32_t flags; ...; };
struct kvm_pit_config { uint32_t flags; ...; };
struct kvm_irq_routing_irqchip { uint32_t irqchip; uint32_t pin; };
struct kvm_irq_routing_msi { uint32_t address_lo, address_hi, data; ...; };
struct kvm_irq_routing_entry { uint32_t gsi; uint32_t type; uint32_t flags; ...; };
struct kvm_irq_routing { uint32_t nr; uint32_t flags; ...; };
struct kvm_msi { uint32_t address_lo, address_hi, data, flags; ...; };
struct kvm_irqfd { uint32_t fd, gsi, flags, resamplefd; ...; };
struct kvm_ioeventfd { uint64_t datamatch; uint64_t addr; uint32_t len; int32_t fd; uint32_t flags; ...; };
struct kvm_coalesced_mmio_zone { uint64_t addr; uint32_t size; uint32_t pio; };
struct kvm_coalesced_mmio { uint64_t phys_addr; uint32_t len; uint32_t pio; uint8_t data[8]; };
struct kvm_coalesced_mmio_ring { uint32_t first, last; ...; };
struct kvm_clock_data { uint64_t clock; uint32_t flags; ...; };
struct kvm_regs {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
};
struct kvm_segment {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type, present, dpl, db, s, l, g, avl, unusable;
    ...;
};
struct kvm_dtable { uint64_t base; uint16_t limit; ...; };
struct kvm_sregs {
    struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap[4];
};
struct kvm_sregs2 {
    struct kvm_segment cs, ds, es, fs, gs, ss, tr, ldt;
    struct kvm_dtable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags, pdptrs[4];
};
struct kvm_fpu {
    uint8_t fpr[8][16];
    uint16_t fcw, fsw;
    uint8_t ftwx;
    uint16_t last_opcode;
    uint64_t last_ip, last_dp;
    uint8_t xmm[16][16];
    uint32_t mxcsr;
    ...;
};
struct kvm_xsave { uint32_t region[1024]; ...; };
struct kvm_xcr { uint32_t xcr; uint64_t value; ...; };
struct kvm_xcrs { uint32_t nr_xcrs; uint32_t flags; struct kvm_xcr xcrs[16]; ...; };
struct kvm_debugregs { uint64_t db[4], dr6, dr7, flags; ...; };
struct kvm_vcpu_events {
    struct { uint8_t injected, nr, has_error_code, pending; uint32_t error_code; } exception;
    struct { uint8_t injected, nr, soft, shadow; } interrupt;
    struct { uint8_t injected, pending, masked, pad; } nmi;
    uint32_t sipi_vector;
    uint32_t flags;
    struct { uint8_t smm, pending, smm_inside_nmi, latched_init; } smi;
    ...;
};
struct kvm_mp_state { uint32_t mp_state; };
struct kvm_lapic_state { char regs[1024]; };
struct kvm_interrupt { uint32_t irq; };
struct kvm_translation { uint64_t linear_address, physical_address; uint8_t valid, writeable, usermode; ...; };
struct kvm_debug_exit_arch { uint32_t exception, pad; uint64_t pc, dr6, dr7; };
struct kvm_guest_debug_arch { uint64_t debugreg[8]; };
struct kvm_guest_debug { uint32_t control; struct kvm_guest_debug_arch arch; ...; };
struct kvm_sync_regs { struct kvm_regs regs; struct kvm_sregs sregs; struct kvm_vcpu_events events; ...; };
struct kvm_run {
    uint8_t request_interrupt_window, immediate_exit;
    uint32_t exit_reason;
    uint8_t ready_for_interrupt_injection, if_flag;
    uint16_t flags;
    uint64_t cr8, apic_base;
    union {
        struct { uint64_t hardware_exit_reason; } hw;
        struct { uint64_t hardware_entry_failure_reason; uint32_t cpu; } fail_entry;
        struct { uint8_t direction, size; uint16_t port; uint32_t count; uint64_t data_offset; } io;
        struct { struct kvm_debug_exit_arch arch; } debug;
        struct { uint64_t phys_addr; uint8_t data[8]; uint32_t len; uint8_t is_write; } mmio;
        struct { uint32_t suberror, ndata; uint64_t data[16]; } internal;
        struct { uint8_t error, pad[7]; uint32_t reason, index; uint64_t data; } msr;
        struct { uint8_t vector; } eoi;
        char padding[256];
    };
    uint64_t kvm_valid_regs, kvm_dirty_regs;
    union { char padding[2048]; } s;
};
