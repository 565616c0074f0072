/* SPDX-License-Identifier: MIT
 *
 * recording.h: runs a command with the recorder preloaded.
 */
#ifndef TRACE_RECORDING_H
#define TRACE_RECORDING_H

#include <stdbool.h>
#include <stddef.h>

struct recording {
    const char *file;    /* the trace to be made */
    const char *library; /* the allocator; NULL: Quarry; "": what the program has */
    const char *limit;   /* bytes of raw log per process, or NULL */
    bool follow;         /* child processes, too */
    bool largest; /* keep the trace of the longest log only, also if a child's; not with follow */
    char **command;
};

/* Records and converts. Returns the exit status for the tool: the command's. */
int record_command(const struct recording *recording);

#endif /* TRACE_RECORDING_H */
