/*
 * The date from the CMOS clock (Motorola MC146818A data sheet: registers 0-9, status A and B). The century is taken
 * as 20.
 */
#include "kernel.h"
#include "x86.h"

#define CMOS_INDEX 0x70
#define CMOS_DATA  0x71
#define STATUS_A   0x0a
#define STATUS_B   0x0b
#define A_UPDATING 0x80
#define B_24_HOURS 0x02
#define B_BINARY   0x04
#define HOUR_PM    0x80

typedef struct RtcTime {
    uint8_t second, minute, hour, day, month, year;
} RtcTime;

static uint8_t cmos_read(uint8_t index)
{
    outb(CMOS_INDEX, index);
    return inb(CMOS_DATA);
}

static RtcTime rtc_sample(void)
{
    for (unsigned spins = 0; cmos_read(STATUS_A) & A_UPDATING && spins < 10000; spins++)
        pause();
    return (RtcTime){.second = cmos_read(0),
                     .minute = cmos_read(2),
                     .hour = cmos_read(4),
                     .day = cmos_read(7),
                     .month = cmos_read(8),
                     .year = cmos_read(9)};
}

static uint8_t from_bcd(uint8_t value) { return (uint8_t)((value >> 4) * 10 + (value & 15)); }

/* Two equal samples: no update came between the registers. */
static RtcTime rtc_read(void)
{
    RtcTime now = rtc_sample(), before;
    unsigned tries = 0;
    do {
        before = now;
        now = rtc_sample();
    } while (memcmp(&now, &before, sizeof(now)) && ++tries < 10);

    uint8_t status = cmos_read(STATUS_B);
    bool pm = now.hour & HOUR_PM;
    now.hour &= (uint8_t)~HOUR_PM;
    if (!(status & B_BINARY)) {
        now.second = from_bcd(now.second);
        now.minute = from_bcd(now.minute);
        now.hour = from_bcd(now.hour);
        now.day = from_bcd(now.day);
        now.month = from_bcd(now.month);
        now.year = from_bcd(now.year);
    }
    if (!(status & B_24_HOURS))
        now.hour = (uint8_t)(now.hour % 12 + (pm ? 12 : 0));
    return now;
}

void command_date(int argc, char **argv)
{
    (void)argc, (void)argv;
    RtcTime t = rtc_read();
    print("20%02u-%02u-%02u %02u:%02u:%02u (CMOS clock)\n", t.year, t.month, t.day, t.hour, t.minute, t.second);
}
