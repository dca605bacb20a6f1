/*
 * What the guest did wrong, kept for whoever asks: a bounded log that C threads write and Python reads.
 * Nothing on the guest's path ever blocks on it or prints.
 */
#ifndef PYVMM_IO_EVENT_LOG_H
#define PYVMM_IO_EVENT_LOG_H

#include "common/common.h"

typedef struct EventLog EventLog;

EventLog *event_log_new(void);
void event_log_free(EventLog *log);
/* Keeps the newest 256 messages of up to 159 bytes; older ones are counted as lost. */
void event_log_add(EventLog *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Take the oldest message; returns its length, 0 when there is none. */
size_t event_log_take(EventLog *log, char *text, size_t size);
uint64_t event_log_lost(const EventLog *log);

#endif
