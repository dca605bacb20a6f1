#include <stdarg.h>
#include <stdio.h>

#include "common/common.h"

int error_set(Error *error, int code, const char *format, ...)
{
    if (error) {
        va_list args;
        va_start(args, format);
        error->code = code;
        vsnprintf(error->text, sizeof error->text, format, args);
        va_end(args);
    }
    return -code;
}
