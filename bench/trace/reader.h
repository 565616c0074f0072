/* SPDX-License-Identifier: MIT
 *
 * reader.h: reading a trace, each thread's records by themselves.
 */
#ifndef TRACE_READER_H
#define TRACE_READER_H

#include "format.h"

struct trace {
    const char *path;
    int fd;
    struct trace_header header;
    struct trace_place *places; /* of all chunks */
    size_t place_count, place_room;
    uint32_t *first; /* per thread: its first chunk, as index + 1 */
    uint64_t bytes;  /* of the file */
};

/* The position in one thread's records, with a buffer of its own. */
struct trace_cursor {
    uint32_t thread;
    uint32_t next;     /* chunk, as index + 1; 0 if there is none */
    uint64_t offset;   /* of the buffer in the file */
    uint32_t expected; /* records left in the buffer */
    const unsigned char *at, *end;
    unsigned char *buffer;
};

/* Opens the file and finds its chunks; exits if it is no trace. */
void trace_open(struct trace *trace, const char *path);
void trace_close(struct trace *trace);

void trace_begin(const struct trace *trace, struct trace_cursor *cursor, uint32_t thread);
/* The next record, its numbers in range; false at the end. Exits if the file is damaged. */
bool trace_next(const struct trace *trace, struct trace_cursor *cursor,
                struct trace_record *record);
void trace_end(struct trace_cursor *cursor);
/* Ends the program: the record before the cursor says what cannot be. */
_Noreturn void trace_fail(const struct trace *trace, const struct trace_cursor *cursor,
                          const char *what);

#endif /* TRACE_READER_H */
