#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "io/event_log.h"

#define CAPACITY     256
#define MESSAGE_SIZE 160

struct EventLog {
    pthread_mutex_t lock;
    uint32_t head; /* oldest */
    uint32_t count;
    uint64_t lost;
    char messages[CAPACITY][MESSAGE_SIZE];
};

EventLog *event_log_new(void)
{
    EventLog *log = calloc(1, sizeof *log);
    if (log)
        pthread_mutex_init(&log->lock, NULL);
    return log;
}

void event_log_free(EventLog *log)
{
    if (!log)
        return;
    pthread_mutex_destroy(&log->lock);
    free(log);
}

void event_log_add(EventLog *log, const char *format, ...)
{
    pthread_mutex_lock(&log->lock);
    if (log->count == CAPACITY) {
        log->head = (log->head + 1) % CAPACITY;
        log->count--;
        log->lost++;
    }
    va_list args;
    va_start(args, format);
    vsnprintf(log->messages[(log->head + log->count) % CAPACITY], MESSAGE_SIZE, format, args);
    va_end(args);
    log->count++;
    pthread_mutex_unlock(&log->lock);
}

size_t event_log_take(EventLog *log, char *text, size_t size)
{
    size_t length = 0;
    pthread_mutex_lock(&log->lock);
    if (log->count && size) {
        snprintf(text, size, "%s", log->messages[log->head]);
        length = strlen(text);
        log->head = (log->head + 1) % CAPACITY;
        log->count--;
    }
    pthread_mutex_unlock(&log->lock);
    return length;
}

uint64_t event_log_lost(const EventLog *log) { return log->lost; }
