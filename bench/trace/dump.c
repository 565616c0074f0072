/* SPDX-License-Identifier: MIT
 *
 * dump.c: see dump.h, and docs/TRACE.md for the meaning of the lines.
 */
#include "dump.h"

#include <errno.h>
#include <stdio.h>

#include "reader.h"
#include "tool.h"

static const char *const names[] = {
    [TRACE_MALLOC] = "malloc", [TRACE_CALLOC] = "calloc",   [TRACE_ALIGNED] = "memalign",
    [TRACE_FREE] = "free",     [TRACE_REALLOC] = "realloc", [TRACE_START] = "start",
    [TRACE_JOIN] = "join",     [TRACE_TIME] = "time",
};

static void print_header(const struct trace_header *header) {
    printf("# quarry trace %u of %.64s%s\n", header->version, header->command,
           header->flags & TRACE_INCOMPLETE ? ", incomplete" : "");
    printf("# %llu calls in %u threads, %u block numbers, at most %llu bytes live, %.3f s\n",
           (unsigned long long)header->calls, header->threads, header->slots,
           (unsigned long long)header->live_peak, (double)header->duration_ns * 1e-9);
    printf("# left out: %llu calls that failed, %llu frees of blocks that were not recorded\n",
           (unsigned long long)header->failed, (unsigned long long)header->foreign);
}

static void print_record(const struct trace_record *record) {
    if (record->operation == TRACE_TIME) {
        printf("time %llu\n", (unsigned long long)record->size);
        return;
    }
    printf("%s %u", names[record->operation], record->block);
    if (record->operation <= TRACE_REALLOC && record->operation != TRACE_FREE) {
        printf(" %llu", (unsigned long long)record->size);
    }
    if (record->operation == TRACE_ALIGNED) {
        printf(" %llu", 1ull << record->alignment);
    }
    if (record->crossing) {
        printf(" after %u", record->generation);
    }
    putchar('\n');
}

void dump_trace(const char *path) {
    struct trace trace;
    struct trace_cursor cursor;
    struct trace_record record;
    trace_open(&trace, path);
    print_header(&trace.header);
    for (uint32_t thread = 0; thread < trace.header.threads; thread++) {
        printf("thread %u\n", thread);
        trace_begin(&trace, &cursor, thread);
        while (trace_next(&trace, &cursor, &record)) {
            print_record(&record);
        }
        trace_end(&cursor);
    }
    trace_close(&trace);
    if (fflush(stdout) != 0) {
        tool_fail("cannot write the text: %s", strerror(errno));
    }
}
