/* SPDX-License-Identifier: MIT
 *
 * tool.h: what quarry_trace and quarry_replay share besides the formats.
 */
#ifndef TRACE_TOOL_H
#define TRACE_TOOL_H

#include <stddef.h>
#include <stdint.h>

extern const char *tool_name;

/* Ends the program with one line. Status 1: the work failed; 2: the command line is wrong. */
_Noreturn void tool_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void tool_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Zeroed memory straight from the kernel: the replayer measures the allocator it runs on, so its
 * own tables must not come from there. Exits if there is none. */
void *tool_map(size_t bytes);
/* The same, with all its pages there already. */
void *tool_map_resident(size_t bytes);
void tool_unmap(void *memory, size_t bytes);
/* The table with room for at least `wanted` entries, its content kept; *room grows by doubling. */
void *tool_grow(void *table, size_t *room, size_t wanted, size_t entry_bytes);

/* A name from a file, made fit for a terminal: other bytes than printable ASCII become '?'. */
void tool_clean(char *text, size_t room);

/* A line on the terminal, at most once a second, with the share done and the time left. */
void tool_progress(const char *what, uint64_t done, uint64_t total);
void tool_progress_end(void);

#endif /* TRACE_TOOL_H */
