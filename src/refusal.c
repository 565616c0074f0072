/* SPDX-License-Identifier: MIT
 *
 * refusal: why the limit said no, once, for who wants to know (QUARRY_VERBOSE).
 *
 * A program that gets NULL may say no more than "out of memory".  What is free and yet of no use lies beside
 * live blocks or in the caches of threads: all else was given back before.
 */
#include "cache.h"
#include "heap_internal.h"
#include "limit.h"
#include "option.h"
#include "os.h"
#include "report.h"
#include "slab.h"

/* Free objects of slabs that hold others, and what threads keep at hand. */
static size_t stranded_bytes(void) {
    struct cache_counts cached;
    struct slab_counts slab;
    cache_count(&cached);
    size_t bytes = cached.cached_bytes;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        slab_count(i, &slab);
        bytes += slab.free_objects * size_classes[i].size;
    }
    return bytes;
}

static void explain(size_t more_bytes) {
    struct line line = {0};
    line_text(&line, "quarry: QUARRY_LIMIT: ");
    line_number(&line, more_bytes);
    line_text(&line, " bytes refused: ");
    line_number(&line, limit_held_bytes());
    line_text(&line, " are held, the limit is ");
    line_number(&line, limit_get());
    line_text(&line, "; ");
    line_number(&line, stranded_bytes());
    line_text(&line,
              " of them are free, but beside live blocks or in threads' caches; see 'quarry why ");
    line_number(&line, os_process());
    line_text(&line, "'\n");
    os_write_error(line.text, line.length);
}

SELDOM void heap_refuse(size_t more_bytes) {
    if (limit_count_failure(more_bytes) && option_verbose())
        explain(more_bytes);
}
