/* SPDX-License-Identifier: MIT
 *
 * rawread.h: reading a raw log, all threads' records in the order of their sequence numbers.
 */
#ifndef TRACE_RAWREAD_H
#define TRACE_RAWREAD_H

#include "format.h"

struct raw_record {
    enum raw_operation operation;
    uint32_t thread;
    uint64_t sequence;
    uint64_t size;
    uint64_t address;
    uint64_t alignment; /* log2 */
    uint64_t time_ns;   /* for RAW_TIME: of the clock that all threads share */
    bool last;          /* of its thread */
};

struct raw_log;

/* The log of a file; exits if the file is none. */
struct raw_log *raw_open(const char *path);
const struct raw_header *raw_header(const struct raw_log *log);
/* The next record; false at the end. Exits if the log is damaged. */
bool raw_next(struct raw_log *log, struct raw_record *record);
void raw_close(struct raw_log *log);

#endif /* TRACE_RAWREAD_H */
