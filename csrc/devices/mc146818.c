#include <stdlib.h>

#include "devices/mc146818.h"

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    CENTURY = 0x32,
};
enum { A_UIP = 0x80, A_DV_RESET = 0x60, A_RS = 0x0f };
enum { B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 0x08, B_BINARY = 0x04, B_24H = 0x02 };
enum { C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10, C_FLAGS = C_PF | C_AF | C_UF };
enum { D_VRT = 0x80 };

#define TIME_BASE_HZ 32768
#define DAY_SECONDS  86400
/* UIP rises tBUC = 244 us before an update cycle of tUC = 1984 us (146818 "Update cycle"). */
#define UIP_NS    2228000
#define HOURS_PM  0x80
#define ALARM_ANY 0xc0 /* both top bits set: "don't care" */

typedef struct RtcTime {
    int64_t year;
    int32_t month, day, weekday, hour, minute, second; /* month and day from 1, weekday from 0 = Sunday */
} RtcTime;

typedef struct MC146818 {
    Device device;
    IrqLine *irq;
    Timer *timer;
    MC146818State state;
} MC146818;

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static int64_t floor_mod(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }

/* Days since 1970-01-01 and back, in the proleptic Gregorian calendar, by years that start in March. */
static int64_t days_from_date(int64_t year, int32_t month, int32_t day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t m = (month + 9) % 12;
    return y * 365 + floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400) + (m * 153 + 2) / 5 + day - 1 - 719468;
}

static void date_from_days(int64_t days, RtcTime *time)
{
    int64_t n = days + 719468;
    int64_t era = floor_div(n, 146097), d = floor_mod(n, 146097);
    int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
    int64_t in_year = d - (y * 365 + y / 4 - y / 100);
    int64_t m = (in_year * 5 + 2) / 153;
    time->day = (int32_t)(in_year - (m * 153 + 2) / 5 + 1);
    time->month = (int32_t)(m < 10 ? m + 3 : m - 9);
    time->year = era * 400 + y + (time->month <= 2);
    time->weekday = (int32_t)floor_mod(days + 4, 7);
}

static int64_t host_time(MC146818 *rtc)
{
    return clock_epoch_ns(rtc->device.board->clock) + (int64_t)clock_now(rtc->device.board->clock);
}

static int64_t rtc_now(MC146818 *rtc) { return host_time(rtc) + rtc->state.offset_ns; }

static bool divider_held(const MC146818 *rtc) { return (rtc->state.ram[REG_A] & A_DV_RESET) == A_DV_RESET; }

/* The time does not go on while it is being set, or its divider is held in reset. */
static bool is_held(const MC146818 *rtc) { return rtc->state.ram[REG_B] & B_SET || divider_held(rtc); }

static uint8_t encode(const MC146818 *rtc, int64_t value)
{
    return (uint8_t)(rtc->state.ram[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int32_t decode(const MC146818 *rtc, uint8_t value)
{
    return rtc->state.ram[REG_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 0xf);
}

static uint8_t encode_hour(const MC146818 *rtc, int32_t hour)
{
    if (rtc->state.ram[REG_B] & B_24H)
        return encode(rtc, hour);
    return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOURS_PM : 0);
}

static int32_t decode_hour(const MC146818 *rtc, uint8_t value)
{
    if (rtc->state.ram[REG_B] & B_24H)
        return decode(rtc, value);
    return decode(rtc, value & ~HOURS_PM) % 12 + (value & HOURS_PM ? 12 : 0);
}

/* Put the running time into the registers. */
static void time_to_registers(MC146818 *rtc, int64_t now_ns)
{
    uint8_t *ram = rtc->state.ram;
    int64_t seconds = floor_div(now_ns, NS_PER_SECOND);
    int64_t of_day = floor_mod(seconds, DAY_SECONDS);
    RtcTime time;
    date_from_days(floor_div(seconds, DAY_SECONDS), &time);
    ram[SECONDS] = encode(rtc, of_day % 60);
    ram[MINUTES] = encode(rtc, of_day / 60 % 60);
    ram[HOURS] = encode_hour(rtc, (int32_t)(of_day / 3600));
    ram[WEEKDAY] = encode(rtc, time.weekday + 1);
    ram[DAY] = encode(rtc, time.day);
    ram[MONTH] = encode(rtc, time.month);
    ram[YEAR] = encode(rtc, floor_mod(time.year, 100));
    ram[CENTURY] = encode(rtc, floor_mod(floor_div(time.year, 100), 100));
}

/* And the other way: the registers become the time, `fraction` ns into its second. Values out of range carry over.
 */
static void registers_to_time(MC146818 *rtc, int64_t fraction)
{
    const uint8_t *ram = rtc->state.ram;
    int32_t century = decode(rtc, ram[CENTURY]);
    if (century < 19 || century > 21) /* not maintained by this guest, or beyond 64 bits of nanoseconds */
        century = 20;
    int32_t month = (decode(rtc, ram[MONTH]) + 11) % 12 + 1;
    int64_t days = days_from_date(century * 100 + decode(rtc, ram[YEAR]) % 100, month, decode(rtc, ram[DAY]));
    int64_t seconds = days * DAY_SECONDS + decode_hour(rtc, ram[HOURS]) * 3600 + decode(rtc, ram[MINUTES]) * 60 +
                      decode(rtc, ram[SECONDS]);
    rtc->state.offset_ns = seconds * (int64_t)NS_PER_SECOND + fraction - host_time(rtc);
    rtc->state.synced_ns = rtc_now(rtc);
}

/* Ticks of the 32.768 kHz base in one period of PF, 0 for none (146818 table 5). */
static int64_t period_ticks(const MC146818 *rtc)
{
    unsigned rate = rtc->state.ram[REG_A] & A_RS;
    if (!rate || divider_held(rtc))
        return 0;
    return rate < 3 ? 1 << (rate + 6) : 1 << (rate - 1);
}

/* Which period a time is in; periods divide the second, so they are counted from its start. */
static int64_t period_index(int64_t time_ns, int64_t ticks)
{
    int64_t in_second = floor_mod(time_ns, NS_PER_SECOND) * TIME_BASE_HZ / (int64_t)NS_PER_SECOND;
    return floor_div(time_ns, NS_PER_SECOND) * (TIME_BASE_HZ / ticks) + in_second / ticks;
}

static bool alarm_matches(const MC146818 *rtc, unsigned reg, int32_t value)
{
    uint8_t alarm = rtc->state.ram[reg];
    if (alarm >= ALARM_ANY)
        return true;
    return value == (reg == HOURS_ALARM ? decode_hour(rtc, alarm) : decode(rtc, alarm));
}

/* Start, in ns, of the first second after `time_ns`'s that the alarm matches; INT64_MAX if it can match none. */
static int64_t next_alarm(const MC146818 *rtc, int64_t time_ns)
{
    int64_t second = floor_div(time_ns, NS_PER_SECOND) + 1;
    int64_t end = second + DAY_SECONDS;
    while (second < end) {
        int32_t of_day = (int32_t)floor_mod(second, DAY_SECONDS);
        if (!alarm_matches(rtc, HOURS_ALARM, of_day / 3600))
            second += 3600 - of_day % 3600;
        else if (!alarm_matches(rtc, MINUTES_ALARM, of_day / 60 % 60))
            second += 60 - of_day % 60;
        else if (!alarm_matches(rtc, SECONDS_ALARM, of_day % 60))
            second++;
        else
            return second * (int64_t)NS_PER_SECOND;
    }
    return INT64_MAX;
}

/* Set the flags of everything that happened since the last time, enabled or not (146818 "Register C"). */
static void sync_flags(MC146818 *rtc)
{
    MC146818State *s = &rtc->state;
    int64_t now = rtc_now(rtc), ticks = period_ticks(rtc);
    if (ticks && period_index(now, ticks) != period_index(s->synced_ns, ticks))
        s->ram[REG_C] |= C_PF;
    if (!is_held(rtc)) {
        bool new_second = floor_div(now, NS_PER_SECOND) != floor_div(s->synced_ns, NS_PER_SECOND);
        if (new_second)
            s->ram[REG_C] |= C_UF;
        if (new_second && !(s->ram[REG_C] & C_AF) && now >= next_alarm(rtc, s->synced_ns))
            s->ram[REG_C] |= C_AF;
    }
    s->synced_ns = now;
}

/* RTC time of the next enabled event whose flag is not up yet. */
static int64_t next_event(const MC146818 *rtc)
{
    int64_t now = rtc->state.synced_ns, second = floor_div(now, NS_PER_SECOND) * (int64_t)NS_PER_SECOND;
    uint8_t wanted = rtc->state.ram[REG_B] & ~rtc->state.ram[REG_C];
    int64_t event = INT64_MAX, ticks = period_ticks(rtc);
    if ((wanted & B_PIE) && ticks) {
        int64_t in_second = (now - second) * TIME_BASE_HZ / (int64_t)NS_PER_SECOND;
        int64_t next = (in_second / ticks + 1) * ticks;
        event = second + (next * (int64_t)NS_PER_SECOND + TIME_BASE_HZ - 1) / TIME_BASE_HZ;
    }
    if (is_held(rtc))
        return event;
    if (wanted & B_UIE)
        event = MIN(event, second + (int64_t)NS_PER_SECOND);
    if (wanted & B_AIE)
        event = MIN(event, next_alarm(rtc, now));
    return event;
}

static void mc146818_update(MC146818 *rtc)
{
    uint8_t *ram = rtc->state.ram;
    bool irqf = ram[REG_B] & ram[REG_C] & C_FLAGS; /* the enable bits are where the flags are */
    ram[REG_C] = (ram[REG_C] & C_FLAGS) | (irqf ? C_IRQF : 0);
    irq_line_set(rtc->irq, irqf);
    int64_t event = irqf ? INT64_MAX : next_event(rtc);
    if (event == INT64_MAX)
        timer_disarm(rtc->timer);
    else
        timer_arm(rtc->timer, clock_now(rtc->device.board->clock) + (uint64_t)(event - rtc->state.synced_ns));
}

static void mc146818_expired(void *opaque)
{
    MC146818 *rtc = opaque;
    pthread_mutex_lock(&rtc->device.lock);
    sync_flags(rtc);
    mc146818_update(rtc);
    pthread_mutex_unlock(&rtc->device.lock);
}

static bool is_time(unsigned index)
{
    return index <= YEAR ? index != SECONDS_ALARM && index != MINUTES_ALARM && index != HOURS_ALARM
                         : index == CENTURY;
}

/* Changes of A and B may hold the time or let it go. */
static void write_control(MC146818 *rtc, unsigned reg, uint8_t value)
{
    uint8_t *ram = rtc->state.ram;
    bool was_held = is_held(rtc), divider_was_held = divider_held(rtc);
    int64_t fraction = floor_mod(rtc_now(rtc), NS_PER_SECOND);
    if (!was_held)
        time_to_registers(rtc, rtc_now(rtc));
    if (reg == REG_A) {
        ram[REG_A] = value & ~A_UIP;
    } else {
        if (value & B_SET)
            value &= ~B_UIE; /* 146818 "UIE" */
        ram[REG_B] = value;
    }
    if (divider_was_held && !divider_held(rtc)) {
        /* The first update comes half a second after the divider is let go (146818 "DV2, DV1, DV0"). */
        fraction = NS_PER_SECOND / 2;
        rtc->state.offset_ns += fraction - floor_mod(rtc_now(rtc), NS_PER_SECOND);
        rtc->state.synced_ns = rtc_now(rtc);
    }
    if (was_held && !is_held(rtc))
        registers_to_time(rtc, fraction);
}

static void write_register(MC146818 *rtc, unsigned index, uint8_t value)
{
    sync_flags(rtc);
    switch (index) {
    case REG_A:
    case REG_B:
        write_control(rtc, index, value);
        break;
    case REG_C:
    case REG_D:
        return; /* read-only */
    default:
        if (is_time(index) && !is_held(rtc)) {
            int64_t now = rtc_now(rtc);
            time_to_registers(rtc, now);
            rtc->state.ram[index] = value;
            registers_to_time(rtc, floor_mod(now, NS_PER_SECOND));
        } else {
            rtc->state.ram[index] = value;
        }
    }
    mc146818_update(rtc);
}

static uint8_t read_register(MC146818 *rtc, unsigned index)
{
    uint8_t *ram = rtc->state.ram;
    uint8_t value;
    switch (index) {
    case REG_A: {
        int64_t left = (int64_t)NS_PER_SECOND - floor_mod(rtc_now(rtc), NS_PER_SECOND);
        return ram[REG_A] | (!is_held(rtc) && left <= UIP_NS ? A_UIP : 0);
    }
    case REG_C:
        sync_flags(rtc);
        mc146818_update(rtc);
        value = ram[REG_C];
        ram[REG_C] = 0;
        mc146818_update(rtc);
        return value;
    case REG_D:
        return D_VRT;
    default:
        if (is_time(index) && !is_held(rtc))
            time_to_registers(rtc, rtc_now(rtc));
        return ram[index];
    }
}

enum { PORT_INDEX, PORT_DATA, PORT_UPPER_INDEX, PORT_UPPER_DATA };

static uint64_t mc146818_read(void *opaque, uint32_t region, uint64_t offset, uint32_t size)
{
    MC146818 *rtc = opaque;
    if (offset == PORT_UPPER_DATA)
        return rtc->state.upper[rtc->state.upper_index];
    return offset == PORT_DATA ? read_register(rtc, rtc->state.index) : 0xff; /* the indices are write-only */
}

static void write_upper(MC146818 *rtc, uint64_t offset, uint32_t size, uint64_t value)
{
    if (offset == PORT_UPPER_INDEX) {
        rtc->state.upper_index = value & 0x7f;
        if (size == 1)
            return;
        value >>= 8; /* `out 0x72, ax` */
    }
    rtc->state.upper[rtc->state.upper_index] = (uint8_t)value;
}

static void mc146818_write(void *opaque, uint32_t region, uint64_t offset, uint32_t size, uint64_t value)
{
    MC146818 *rtc = opaque;
    if (offset == PORT_DATA) {
        write_register(rtc, rtc->state.index, (uint8_t)value);
        return;
    }
    if (offset != PORT_INDEX) {
        write_upper(rtc, offset, size, value);
        return;
    }
    rtc->state.index = value & 0x7f;
    rtc->state.nmi_disabled = (value >> 7) & 1;
    if (size > 1) /* `out 0x70, ax`: index, then data */
        write_register(rtc, rtc->state.index, (uint8_t)(value >> 8));
}

/* RESET clears interrupt enables and flags; battery keeps the time and the memory (146818 "RESET"). */
static void mc146818_reset(Device *device)
{
    MC146818 *rtc = container_of(device, MC146818, device);
    sync_flags(rtc);
    rtc->state.ram[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE);
    rtc->state.ram[REG_C] = 0;
    rtc->state.nmi_disabled = 0;
    mc146818_update(rtc);
}

static void mc146818_destroy(Device *device) { timer_free(container_of(device, MC146818, device)->timer); }

static void mc146818_save(Device *device, void *state)
{
    MC146818 *rtc = container_of(device, MC146818, device);
    sync_flags(rtc);
    mc146818_update(rtc);
    *(MC146818State *)state = rtc->state;
}

static int mc146818_restore(Device *device, const void *state)
{
    MC146818 *rtc = container_of(device, MC146818, device);
    const MC146818State *saved = state;
    const int64_t earliest = -4000000000ll * (int64_t)NS_PER_SECOND; /* 1843 */
    const int64_t latest = 8000000000ll * (int64_t)NS_PER_SECOND;    /* 2223 */
    int64_t now;
    if (saved->index > 127 || saved->upper_index > 127 || saved->nmi_disabled > 1 || saved->synced_ns < earliest ||
        saved->synced_ns > latest || __builtin_add_overflow(host_time(rtc), saved->offset_ns, &now) ||
        now < earliest || now > latest)
        return -EINVAL;
    rtc->state = *saved;
    rtc->state.ram[REG_A] &= ~A_UIP;
    mc146818_update(rtc);
    return 0;
}

int mc146818_set_nvram(Device *device, uint32_t index, uint8_t value)
{
    MC146818 *rtc = container_of(device, MC146818, device);
    if (index <= REG_D || index > 255 || index == CENTURY)
        return -EINVAL;
    pthread_mutex_lock(&device->lock);
    *(index < 128 ? &rtc->state.ram[index] : &rtc->state.upper[index - 128]) = value;
    pthread_mutex_unlock(&device->lock);
    return 0;
}

int mc146818_nvram(Device *device, uint32_t index)
{
    MC146818 *rtc = container_of(device, MC146818, device);
    if (index > 255)
        return -EINVAL;
    pthread_mutex_lock(&device->lock);
    int value = index > 127      ? rtc->state.upper[index - 128]
                : index == REG_C ? rtc->state.ram[REG_C]
                                 : read_register(rtc, index);
    pthread_mutex_unlock(&device->lock);
    return value;
}

bool mc146818_nmi_disabled(Device *device)
{
    MC146818 *rtc = container_of(device, MC146818, device);
    return __atomic_load_n(&rtc->state.nmi_disabled, __ATOMIC_RELAXED);
}

static const DeviceClass mc146818_class = {
    .name = "mc146818",
    .ops = {mc146818_read, mc146818_write},
    .reset = mc146818_reset,
    .destroy = mc146818_destroy,
    .state_size = sizeof(MC146818State),
    .state_version = MC146818_STATE_VERSION,
    .save = mc146818_save,
    .restore = mc146818_restore,
};

Device *mc146818_new(Board *board, IrqLine *irq)
{
    MC146818 *rtc = calloc(1, sizeof *rtc);
    if (!rtc)
        return NULL;
    device_init(&rtc->device, &mc146818_class, board);
    rtc->irq = irq;
    rtc->timer = timer_new(board->clock, mc146818_expired, rtc);
    if (!rtc->timer) {
        device_free(&rtc->device);
        return NULL;
    }
    /* As a PC's firmware leaves it: 32.768 kHz base, 1024 Hz rate, BCD, 24 hours. */
    rtc->state.ram[REG_A] = 0x26;
    rtc->state.ram[REG_B] = B_24H;
    rtc->state.ram[REG_D] = D_VRT;
    rtc->state.synced_ns = rtc_now(rtc);
    mc146818_reset(&rtc->device);
    return &rtc->device;
}
