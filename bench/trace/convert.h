/* SPDX-License-Identifier: MIT
 *
 * convert.h: from a raw log to a trace.
 */
#ifndef TRACE_CONVERT_H
#define TRACE_CONVERT_H

#include "format.h"

/* Converts; exits if the log is damaged or the trace cannot be written. *header is what the trace
 * begins with. False, and no trace, if the log holds no call. */
bool convert(const char *raw_path, const char *trace_path, struct trace_header *header);

#endif /* TRACE_CONVERT_H */
