/* SPDX-License-Identifier: MIT
 *
 * writer.h: writing a trace.
 */
#ifndef TRACE_WRITER_H
#define TRACE_WRITER_H

#include "format.h"

struct writer;

/* Creates the file; exits if it cannot. */
struct writer *writer_open(const char *path);
/* Appends to the thread's records. */
void writer_put(struct writer *writer, uint32_t thread, const struct trace_record *record);
/* Writes what is left and the header, in which records and threads are filled in. */
void writer_close(struct writer *writer, struct trace_header *header);

#endif /* TRACE_WRITER_H */
