/* SPDX-License-Identifier: MIT
 *
 * rawlog.h: writing the raw log, from inside the traced program.
 *
 * Nothing here allocates through the traced names, is a cancellation point, or changes errno.
 */
#ifndef TRACE_RAWLOG_H
#define TRACE_RAWLOG_H

#include "format.h"

/* Call first, before the allocator is called. True if this call is to be recorded; then
 * rawlog_leave has to follow. False within another call of the same thread, and where nothing is
 * recorded. */
bool rawlog_enter(void);
void rawlog_leave(void);

/* Where the call stands among all calls: to be taken before a block is given back, and after one
 * was received. So whoever receives an address comes later than whoever gave it up. */
uint64_t rawlog_sequence(void);

/* Between enter and leave. */
void rawlog_allocated(enum raw_operation operation, uint64_t sequence, size_t size,
                      const void *block, size_t alignment);
void rawlog_freed(uint64_t sequence, const void *block);
void rawlog_reallocating(uint64_t sequence, size_t size, const void *block);
void rawlog_reallocated(uint64_t sequence, const void *block);

#endif /* TRACE_RAWLOG_H */
