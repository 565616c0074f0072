/* SPDX-License-Identifier: MIT
 *
 * report.h: one line on standard error, then SIGABRT, for what the program did wrong.
 *
 * Lines are "quarry: FUNCTION(ADDRESS): REASON".  Nothing here allocates; a pointer that is
 * none of ours is looked for among the mappings, under their lock.  Where the user wants no abort these
 * functions return, and the caller leaves the pointer alone.
 */
#ifndef QUARRY_REPORT_H
#define QUARRY_REPORT_H

#include "slab.h"

/* A growing line of text in a fixed buffer; what does not fit is cut. */
struct line {
    size_t length;
    char text[256];
};

void line_text(struct line *line, const char *text);
void line_number(struct line *line, size_t number);
void line_address(struct line *line, uintptr_t address);

/* M_CHECK_ACTION: bit 0 prints the line, bit 1 aborts; both at first.  Other bits say nothing. */
void report_set_action(size_t bits);

/* A pointer that slab_give refused. */
void report_slab_misuse(const char *function, const void *pointer, enum slab_status status);

/* A pointer that is the start of no block. */
void report_bad_pointer(const char *function, const void *pointer);

/* A heap or a cache of objects that there is not, or no longer. */
void report_unknown(const char *function, const void *pointer, const char *kind);

/* A size or an alignment that does not belong to the block. */
void report_bad_size(const char *function, const void *pointer, size_t size, size_t usable);
void report_bad_alignment(const char *function, const void *pointer, size_t alignment);

/* A block that was written beyond, and its size (SIZE_MAX: that is lost, too); one that was written to while
 * it waited in quarantine. */
void report_overrun(const char *function, const void *pointer, size_t size);
void report_late_write(const void *pointer);

#endif
