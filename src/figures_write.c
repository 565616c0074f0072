/* SPDX-License-Identifier: MIT
 *
 * figures_write: the public statistics as text, JSON and OpenMetrics.
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

static unsigned long long column_value(const struct quarry_class_stats *class, unsigned column) {
    return *(const uint64_t *)(const void *)((const char *)class + columns[column].offset);
}

static unsigned long long value_of(const struct snapshot *snapshot, unsigned i) {
    return figure_value(&figure_table[i], &snapshot->stats);
}

static void write_text_caches(FILE *stream, const struct snapshot *snapshot) {
    fprintf(stream, "\n%zu object caches\n", snapshot->caches_all);
    if (snapshot->caches)
        fprintf(stream, "\n%-31s %10s %14s %14s %14s %14s\n", "object cache", "size", "slabs",
                "bytes", "live_objects", "free_objects");
    for (size_t i = 0; i < snapshot->caches; i++) {
        const struct quarry_cache_stats *cache = &snapshot->cache[i];
        fprintf(stream, "%-31s %10llu %14llu %14llu %14llu %14llu\n", cache->name,
                (unsigned long long)cache->size, (unsigned long long)cache->slabs,
                (unsigned long long)cache->bytes, (unsigned long long)cache->live_objects,
                (unsigned long long)cache->free_objects);
    }
}

static void write_text(FILE *stream, const struct snapshot *snapshot) {
    for (unsigned i = 0; i < figure_count; i++)
        fprintf(stream, "%-24s %15llu  %s\n", figure_table[i].name, value_of(snapshot, i),
                figure_table[i].help);
    fprintf(stream, "\n%10s", "size");
    for (unsigned column = 0; column < COLUMNS; column++)
        fprintf(stream, " %14s", columns[column].name);
    fputc('\n', stream);
    for (unsigned i = 0; i < CLASSES; i++) {
        if (!snapshot->class[i].slabs)
            continue;
        fprintf(stream, "%10llu", (unsigned long long)snapshot->class[i].size);
        for (unsigned column = 0; column < COLUMNS; column++)
            fprintf(stream, " %14llu", column_value(&snapshot->class[i], column));
        fputc('\n', stream);
    }
    write_text_caches(stream, snapshot);
}

static const char cache_row[] = "%s\n    {\"name\": \"%s\", \"size\": %llu, \"slabs\": %llu, "
                                "\"bytes\": %llu, \"live_objects\": %llu, \"free_objects\": %llu}";

static void write_json_caches(FILE *stream, const struct snapshot *snapshot) {
    fprintf(stream, ",\n  \"object_cache_count\": %zu,\n  \"object_caches\": [",
            snapshot->caches_all);
    for (size_t i = 0; i < snapshot->caches; i++) {
        const struct quarry_cache_stats *cache = &snapshot->cache[i];
        fprintf(stream, cache_row, i ? "," : "", cache->name, (unsigned long long)cache->size,
                (unsigned long long)cache->slabs, (unsigned long long)cache->bytes,
                (unsigned long long)cache->live_objects, (unsigned long long)cache->free_objects);
    }
    fputs("\n  ]", stream);
}

static void write_metrics_caches(FILE *stream, const struct snapshot *snapshot) {
    static const char *const families[] = {"live", "free"};
    fprintf(stream,
            "# TYPE quarry_object_caches gauge\n"
            "# HELP quarry_object_caches object caches, of which the newest %d are told of\n"
            "quarry_object_caches %zu\n",
            CACHES_MOST, snapshot->caches_all);
    for (int family = 0; family < 2; family++) {
        fprintf(stream,
                "# TYPE quarry_object_cache_%s_objects gauge\n"
                "# HELP quarry_object_cache_%s_objects %s objects of an object cache\n",
                families[family], families[family], families[family]);
        for (size_t i = 0; i < snapshot->caches; i++) {
            const struct quarry_cache_stats *cache = &snapshot->cache[i];
            fprintf(stream, "quarry_object_cache_%s_objects{cache=\"%s\"} %llu\n", families[family],
                    cache->name,
                    (unsigned long long)(family ? cache->free_objects : cache->live_objects));
        }
    }
}

static void write_json(FILE *stream, const struct snapshot *snapshot) {
    fprintf(stream, "{\n  \"version\": %d", QUARRY_STATS_VERSION);
    for (unsigned i = 0; i < figure_count; i++)
        fprintf(stream, ",\n  \"%s\": %llu", figure_table[i].name, value_of(snapshot, i));
    fputs(",\n  \"classes\": [", stream);
    for (unsigned i = 0; i < CLASSES; i++) {
        fprintf(stream, "%s\n    {\"size\": %llu", i ? "," : "",
                (unsigned long long)snapshot->class[i].size);
        for (unsigned column = 0; column < COLUMNS; column++)
            fprintf(stream, ", \"%s\": %llu", columns[column].name,
                    column_value(&snapshot->class[i], column));
        fputc('}', stream);
    }
    fputs("\n  ]", stream);
    write_json_caches(stream, snapshot);
    fputs("\n}\n", stream);
}

/* A name ends with its unit; what only grows is a counter, whose sample ends with _total. */
static void write_openmetrics(FILE *stream, const struct snapshot *snapshot) {
    for (unsigned i = 0; i < figure_count; i++) {
        const struct figure *figure = &figure_table[i];
        bool counter = figure->kind == FIGURE_BYTES_EVER || figure->kind == FIGURE_COUNT_EVER;
        fprintf(stream, "# TYPE quarry_%s %s\n", figure->name, counter ? "counter" : "gauge");
        if (figure->kind == FIGURE_BYTES || figure->kind == FIGURE_BYTES_EVER)
            fprintf(stream, "# UNIT quarry_%s bytes\n", figure->name);
        fprintf(stream, "# HELP quarry_%s %s\nquarry_%s%s %llu\n", figure->name, figure->help,
                figure->name, counter ? "_total" : "", value_of(snapshot, i));
    }
    for (unsigned column = 0; column < COLUMNS; column++) {
        fprintf(stream, "# TYPE quarry_class_%s gauge\n# HELP quarry_class_%s %s\n",
                columns[column].name, columns[column].name, columns[column].help);
        for (unsigned i = 0; i < CLASSES; i++)
            fprintf(stream, "quarry_class_%s{size=\"%llu\"} %llu\n", columns[column].name,
                    (unsigned long long)snapshot->class[i].size,
                    column_value(&snapshot->class[i], column));
    }
    write_metrics_caches(stream, snapshot);
    fputs("# EOF\n", stream);
}

int quarry_write_stats(FILE *stream, enum quarry_format format) {
    static void (*const writers[])(FILE *, const struct snapshot *) = {
        [QUARRY_TEXT] = write_text,
        [QUARRY_JSON] = write_json,
        [QUARRY_OPENMETRICS] = write_openmetrics,
    };
    struct snapshot snapshot;
    if ((unsigned)format >= sizeof writers / sizeof writers[0])
        return EINVAL;
    quarry_stats(&snapshot.stats, sizeof snapshot.stats);
    quarry_class_stats(snapshot.class, CLASSES);
    snapshot.caches_all = quarry_cache_stats(snapshot.cache, CACHES_MOST);
    snapshot.caches = min_size(snapshot.caches_all, CACHES_MOST);
    writers[format](stream, &snapshot);
    return 0;
}
