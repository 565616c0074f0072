/* SPDX-License-Identifier: MIT
 *
 * figures.h: the public statistics, and the one table that all their writers go through.
 */
#ifndef QUARRY_FIGURES_H
#define QUARRY_FIGURES_H

#include "base.h"
#include "sink.h"

#include <quarry.h>

enum figure_kind { FIGURE_BYTES, FIGURE_COUNT, FIGURE_BYTES_EVER, FIGURE_COUNT_EVER };

struct figure {
    const char *name;      /* of the field of struct quarry_stats */
    enum figure_kind kind; /* EVER: it only grows */
    size_t offset;
    const char *help;
};

extern const struct figure figure_table[];
extern const unsigned figure_count;

/* One reading of the heap, in the public form and in the library's own (stats.h). */
struct stats;
struct shard_stats;
void figures_read(struct quarry_stats *out, struct stats *stats, struct shard_stats *shards,
                  uint32_t count);

/* All figures, in a format of quarry_write_stats, and the end of the sink; false if there is none such.
 * They are read before anything is written: whoever writes may allocate. */
bool figures_write(enum quarry_format format, struct sink *out);

uint64_t figure_value(const struct figure *figure, const struct quarry_stats *stats);

#endif
