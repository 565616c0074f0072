/* SPDX-License-Identifier: MIT
 *
 * check.h: is a trace one that can be played?
 */
#ifndef TRACE_CHECK_H
#define TRACE_CHECK_H

#include "reader.h"

/* Exits unless each record finds its block in the state it needs, each thread begins and ends, and
 * no threads wait for one another in a circle. */
void check_trace(const struct trace *trace);

#endif /* TRACE_CHECK_H */
