/* SPDX-License-Identifier: MIT
 *
 * figures_write: the public statistics as text, JSON and OpenMetrics, to a stream or to whoever asks
 * from outside (control.c).
 */
#include "figures.h"
#include "sizeclass.h"

#include <errno.h>

enum { CLASSES = CLASS_COUNT - 1, CACHES_MOST = 64 };

struct snapshot {
    struct quarry_stats stats;
    struct quarry_class_stats class[CLASSES];
    struct quarry_cache_stats cache[CACHES_MOST]; /* the newest object caches */
    size_t caches, caches_all;                    /* of them; of all */
};

/* The columns of a class, for writers that name them. */
static const struct {
    const char *name, *help;
    size_t offset;
} columns[] = {
    {"slabs", "slabs of the size class", offsetof(struct quarry_class_stats, slabs)},
    {"partial_slabs", "of these, with free objects",
     offsetof(struct quarry_class_stats, partial_slabs)},
    {"taken_objects", "objects that are live or in threads' caches",
     offsetof(struct quarry_class_stats, taken_objects)},
    {"cached_objects", "of these, in threads' caches",
     offsetof(struct quarry_class_stats, cached_objects)},
    {"free_objects", "free objects in slabs", offsetof(struct quarry_class_stats, free_objects)},
};

enum { COLUMNS = sizeof columns / sizeof columns[0] };

static uint64_t column_value(const struct quarry_class_stats *class, unsigned column) {
    return *(const uint64_t *)(const void *)((const char *)class + columns[column].offset);
}

static uint64_t value_of(const struct snapshot *snapshot, unsigned i) {
    return figure_value(&figure_table[i], &snapshot->stats);
}

static void write_text_caches(struct sink *out, const struct snapshot *snapshot) {
    sink_print(out, "\n%zu object caches\n", snapshot->caches_all);
    if (snapshot->caches)
        sink_print(out, "\n%-31s %10s %14s %14s %14s %14s\n", "object cache", "size", "slabs",
                   "bytes", "live_objects", "free_objects");
    for (size_t i = 0; i < snapshot->caches; i++) {
        const struct quarry_cache_stats *cache = &snapshot->cache[i];
        sink_print(out, "%-31s %10zu %14zu %14zu %14zu %14zu\n", cache->name, cache->size,
                   cache->slabs, cache->bytes, cache->live_objects, cache->free_objects);
    }
}

static void write_text(struct sink *out, const struct snapshot *snapshot) {
    for (unsigned i = 0; i < figure_count; i++)
        sink_print(out, "%-24s %15zu  %s\n", figure_table[i].name, value_of(snapshot, i),
                   figure_table[i].help);
    sink_print(out, "\n%10s", "size");
    for (unsigned column = 0; column < COLUMNS; column++)
        sink_print(out, " %14s", columns[column].name);
    sink_print(out, "\n");
    for (unsigned i = 0; i < CLASSES; i++) {
        if (!snapshot->class[i].slabs)
            continue;
        sink_print(out, "%10zu", snapshot->class[i].size);
        for (unsigned column = 0; column < COLUMNS; column++)
            sink_print(out, " %14zu", column_value(&snapshot->class[i], column));
        sink_print(out, "\n");
    }
    write_text_caches(out, snapshot);
}

static const char cache_row[] = "%s\n    {\"name\": \"%s\", \"size\": %zu, \"slabs\": %zu, "
                                "\"bytes\": %zu, \"live_objects\": %zu, \"free_objects\": %zu}";

static void write_json_caches(struct sink *out, const struct snapshot *snapshot) {
    sink_print(out, ",\n  \"object_cache_count\": %zu,\n  \"object_caches\": [",
               snapshot->caches_all);
    for (size_t i = 0; i < snapshot->caches; i++) {
        const struct quarry_cache_stats *cache = &snapshot->cache[i];
        sink_print(out, cache_row, i ? "," : "", cache->name, cache->size, cache->slabs,
                   cache->bytes, cache->live_objects, cache->free_objects);
    }
    sink_print(out, "\n  ]");
}

static void write_metrics_caches(struct sink *out, const struct snapshot *snapshot) {
    static const char *const families[] = {"live", "free"};
    sink_print(out,
               "# TYPE quarry_object_caches gauge\n"
               "# HELP quarry_object_caches object caches, of which the newest %zu are told of\n"
               "quarry_object_caches %zu\n",
               (size_t)CACHES_MOST, snapshot->caches_all);
    for (int family = 0; family < 2; family++) {
        sink_print(out,
                   "# TYPE quarry_object_cache_%s_objects gauge\n"
                   "# HELP quarry_object_cache_%s_objects %s objects of an object cache\n",
                   families[family], families[family], families[family]);
        for (size_t i = 0; i < snapshot->caches; i++) {
            const struct quarry_cache_stats *cache = &snapshot->cache[i];
            sink_print(out, "quarry_object_cache_%s_objects{cache=\"%s\"} %zu\n", families[family],
                       cache->name, (family ? cache->free_objects : cache->live_objects));
        }
    }
}

static void write_json(struct sink *out, const struct snapshot *snapshot) {
    sink_print(out, "{\n  \"version\": %zu", (size_t)QUARRY_STATS_VERSION);
    for (unsigned i = 0; i < figure_count; i++)
        sink_print(out, ",\n  \"%s\": %zu", figure_table[i].name, value_of(snapshot, i));
    sink_print(out, ",\n  \"classes\": [");
    for (unsigned i = 0; i < CLASSES; i++) {
        sink_print(out, "%s\n    {\"size\": %zu", i ? "," : "", snapshot->class[i].size);
        for (unsigned column = 0; column < COLUMNS; column++)
            sink_print(out, ", \"%s\": %zu", columns[column].name,
                       column_value(&snapshot->class[i], column));
        sink_print(out, "}");
    }
    sink_print(out, "\n  ]");
    write_json_caches(out, snapshot);
    sink_print(out, "\n}\n");
}

/* A name ends with its unit; what only grows is a counter, whose sample ends with _total. */
static void write_openmetrics(struct sink *out, const struct snapshot *snapshot) {
    for (unsigned i = 0; i < figure_count; i++) {
        const struct figure *figure = &figure_table[i];
        bool counter = figure->kind == FIGURE_BYTES_EVER || figure->kind == FIGURE_COUNT_EVER;
        sink_print(out, "# TYPE quarry_%s %s\n", figure->name, counter ? "counter" : "gauge");
        if (figure->kind == FIGURE_BYTES || figure->kind == FIGURE_BYTES_EVER)
            sink_print(out, "# UNIT quarry_%s bytes\n", figure->name);
        sink_print(out, "# HELP quarry_%s %s\nquarry_%s%s %zu\n", figure->name, figure->help,
                   figure->name, counter ? "_total" : "", value_of(snapshot, i));
    }
    for (unsigned column = 0; column < COLUMNS; column++) {
        sink_print(out, "# TYPE quarry_class_%s gauge\n# HELP quarry_class_%s %s\n",
                   columns[column].name, columns[column].name, columns[column].help);
        for (unsigned i = 0; i < CLASSES; i++)
            sink_print(out, "quarry_class_%s{size=\"%zu\"} %zu\n", columns[column].name,
                       snapshot->class[i].size, column_value(&snapshot->class[i], column));
    }
    write_metrics_caches(out, snapshot);
    sink_print(out, "# EOF\n");
}

bool figures_write(enum quarry_format format, struct sink *out) {
    static void (*const writers[])(struct sink *, const struct snapshot *) = {
        [QUARRY_TEXT] = write_text,
        [QUARRY_JSON] = write_json,
        [QUARRY_OPENMETRICS] = write_openmetrics,
    };
    struct snapshot snapshot;
    if ((unsigned)format >= sizeof writers / sizeof writers[0])
        return false;
    quarry_stats(&snapshot.stats, sizeof snapshot.stats);
    quarry_class_stats(snapshot.class, CLASSES);
    snapshot.caches_all = quarry_cache_stats(snapshot.cache, CACHES_MOST);
    snapshot.caches = min_size(snapshot.caches_all, CACHES_MOST);
    writers[format](out, &snapshot);
    sink_end(out);
    return true;
}

static void write_stream(void *stream, const char *text, size_t bytes) {
    fwrite(text, 1, bytes, stream);
}

int quarry_write_stats(FILE *stream, enum quarry_format format) {
    struct sink out = {.write = write_stream, .target = stream};
    return figures_write(format, &out) ? 0 : EINVAL;
}
