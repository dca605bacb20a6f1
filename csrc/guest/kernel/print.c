/*
 * print(): formatted text to the console. Knows %c %s %d %u %x with l, width, zero fill and left alignment; no
 * floats.
 */
#include "kernel.h"

#define PRINT_BUFFER 128

typedef struct Printer {
    char buffer[PRINT_BUFFER];
    size_t used;
} Printer;

static void printer_put(Printer *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (out->used == sizeof(out->buffer)) {
            serial_write(out->buffer, out->used);
            out->used = 0;
        }
        out->buffer[out->used++] = text[i];
    }
}

static void printer_field(Printer *out, const char *text, size_t size, size_t width, char fill, bool left)
{
    if (left)
        printer_put(out, text, size);
    for (size_t i = size; i < width; i++)
        printer_put(out, &fill, 1);
    if (!left)
        printer_put(out, text, size);
}

static size_t number_text(uint64_t value, unsigned base, bool negative, char *end)
{
    char *p = end;
    do {
        *--p = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (negative)
        *--p = '-';
    return (size_t)(end - p);
}

void print(const char *format, ...)
{
    Printer out = {.used = 0};
    va_list args;
    va_start(args, format);
    for (const char *p = format; *p; p++) {
        if (*p != '%') {
            printer_put(&out, p, 1);
            continue;
        }
        bool left = false, is_long = false;
        char fill = ' ', number[24];
        size_t width = 0, size;
        for (p++; *p == '-' || *p == '0'; p++) {
            left |= *p == '-';
            fill = *p == '0' ? '0' : fill;
        }
        for (; *p >= '0' && *p <= '9'; p++)
            width = width * 10 + (size_t)(*p - '0');
        for (; *p == 'l'; p++)
            is_long = true;
        if (*p == 's') {
            const char *s = va_arg(args, const char *);
            printer_field(&out, s, strlen(s), width, ' ', left);
        } else if (*p == 'c') {
            char c = (char)va_arg(args, int);
            printer_field(&out, &c, 1, width, ' ', left);
        } else if (*p == 'd') {
            long value = is_long ? va_arg(args, long) : va_arg(args, int);
            uint64_t magnitude = value < 0 ? -(uint64_t)value : (uint64_t)value;
            size = number_text(magnitude, 10, value < 0, number + sizeof(number));
            printer_field(&out, number + sizeof(number) - size, size, width, fill, left);
        } else if (*p == 'u' || *p == 'x') {
            uint64_t value = is_long ? va_arg(args, unsigned long) : va_arg(args, unsigned);
            size = number_text(value, *p == 'x' ? 16 : 10, false, number + sizeof(number));
            printer_field(&out, number + sizeof(number) - size, size, width, fill, left);
        } else if (*p) {
            printer_put(&out, p, 1);
        } else {
            break;
        }
    }
    va_end(args);
    serial_write(out.buffer, out.used);
}
