/* SPDX-License-Identifier: MIT
 *
 * dump.h: a trace as text.
 */
#ifndef TRACE_DUMP_H
#define TRACE_DUMP_H

/* Prints the header and all records, thread by thread, to stdout; exits if the file is damaged. */
void dump_trace(const char *path);

#endif /* TRACE_DUMP_H */
