/* SPDX-License-Identifier: MIT
 *
 * info: the statistics in glibc's formats: mallinfo, malloc_stats, malloc_info.
 *
 * Each lock shard of the class lists is reported as an arena; what is not in slabs is the first one's.
 * Blocks in threads' caches count as in use, as glibc counts its own.
 */
#include "api.h"
#include "figures.h"
#include "heap.h"
#include "meta.h"
#include "option.h"
#include "os.h"
#include "report.h"
#include "stats.h"

#include <malloc.h>

/* What one call tells, read at once. */
struct reading {
    struct stats stats;
    struct quarry_stats own;
    struct shard_stats *shards, first;
    uint32_t count;
};

/* Without memory for them the shards are told as one. */
static void begin_reading(struct reading *reading) {
    heap_enter();
    reading->count = LOAD_ACQUIRE(slab_shard_count);
    reading->first = (struct shard_stats){0};
    reading->shards =
        reading->count == 1 ? NULL : meta_take(reading->count * sizeof *reading->shards);
    if (!reading->shards) {
        reading->count = 1;
        reading->shards = &reading->first;
    }
    figures_read(&reading->own, &reading->stats, reading->shards, reading->count);
}

static void end_reading(struct reading *reading) {
    if (reading->shards != &reading->first)
        meta_give(reading->shards, reading->count * sizeof *reading->shards);
}

/* As glibc's, arena, uordblks and hblkhd include what the blocks cost beyond what the program may
 * use: here the words of the page map and the entries of the table of mappings.  Arena is also what
 * malloc_stats and malloc_info tell as "system". */
struct mallinfo2 api_mallinfo2(void) {
    struct stats stats;
    heap_enter();
    stats_read(&stats);
    return (struct mallinfo2){
        .arena = stats.system_bytes,
        .ordblks = stats.free_places,
        .hblks = stats.mapping.count,
        .hblkhd = stats.mapped_bytes,
        .uordblks = stats.system_bytes - stats.free_bytes,
        .fordblks = stats.free_bytes,
        .keepcost = stats.page.top_bytes,
    };
}

struct mallinfo api_mallinfo(void) {
    struct mallinfo2 info = api_mallinfo2();
    return (struct mallinfo){
        .arena = (int)info.arena,
        .ordblks = (int)info.ordblks,
        .hblks = (int)info.hblks,
        .hblkhd = (int)info.hblkhd,
        .uordblks = (int)info.uordblks,
        .fordblks = (int)info.fordblks,
        .keepcost = (int)info.keepcost,
    };
}

/* "name = " and a number right-aligned in ten columns, as glibc's printf("%10u") does. */
static void write_figure(const char *name, size_t number) {
    struct line line = {0}, digits = {0};
    line_number(&digits, number);
    line_text(&line, name);
    line_text(&line, " = ");
    for (size_t i = digits.length; i < 10; i++)
        line_text(&line, " ");
    digits.text[digits.length] = 0;
    line_text(&line, digits.text);
    line_text(&line, "\n");
    os_write_error(line.text, line.length);
}

static void write_heading(const char *text) {
    struct line line = {0};
    line_text(&line, text);
    os_write_error(line.text, line.length);
}

/* Behind glibc's lines, in the same form. */
static void write_own_figures(const struct quarry_stats *stats) {
    write_heading("Quarry:\n");
    for (unsigned i = 0; i < figure_count; i++)
        write_figure(figure_table[i].name, figure_value(&figure_table[i], stats));
}

static void write_arena(size_t number, const struct shard_stats *shard) {
    struct line line = {0};
    line_text(&line, "Arena ");
    line_number(&line, number);
    line_text(&line, ":\n");
    os_write_error(line.text, line.length);
    write_figure("system bytes    ", (uint32_t)shard->system_bytes);
    size_t in_use = shard->system_bytes - min_size(shard->system_bytes, shard->free_bytes);
    write_figure("in use bytes    ", (uint32_t)in_use);
}

void api_malloc_stats(void) {
    struct reading reading;
    const struct stats *stats = &reading.stats;
    begin_reading(&reading);
    for (uint32_t i = 0; i < reading.count; i++)
        write_arena(i, &reading.shards[i]);
    size_t system = stats->system_bytes + stats->mapping.bytes;
    write_heading("Total (incl. mmap):\n");
    write_figure("system bytes    ", (uint32_t)system);
    write_figure("in use bytes    ", (uint32_t)(system - stats->free_bytes));
    write_figure("max mmap regions", (uint32_t)stats->mapping.peak_count);
    write_figure("max mmap bytes  ", stats->mapping.peak_bytes);
    write_own_figures(&reading.own);
    end_reading(&reading);
}

static void print_sizes(FILE *stream, const struct shard_stats *shard) {
    unsigned from = 1;
    fputs("<sizes>\n", stream);
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        size_t count = shard->free_objects[i], size = size_classes[i].size;
        if (count)
            fprintf(stream, "  <size from=\"%u\" to=\"%zu\" total=\"%zu\" count=\"%zu\"/>\n", from,
                    size, count * size, count);
        from = (unsigned)size + 1;
    }
    fputs("</sizes>\n", stream);
}

static void print_totals(FILE *stream, size_t free_chunks, size_t free_bytes) {
    fprintf(stream,
            "<total type=\"fast\" count=\"0\" size=\"0\"/>\n"
            "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n",
            free_chunks, free_bytes);
}

static void print_system(FILE *stream, size_t bytes, size_t peak_bytes) {
    fprintf(stream,
            "<system type=\"current\" size=\"%zu\"/>\n"
            "<system type=\"max\" size=\"%zu\"/>\n"
            "<aspace type=\"total\" size=\"%zu\"/>\n"
            "<aspace type=\"mprotect\" size=\"%zu\"/>\n",
            bytes, peak_bytes, bytes, bytes);
}

/* The peak is known of all together. */
static void print_heap(FILE *stream, unsigned number, const struct shard_stats *shard,
                       size_t peak_bytes) {
    fprintf(stream, "<heap nr=\"%u\">\n", number);
    print_sizes(stream, shard);
    print_totals(stream, shard->free_chunks, shard->free_bytes);
    print_system(stream, shard->system_bytes, peak_bytes);
    fputs("</heap>\n", stream);
}

/* In an element of its own at the end, which readers of glibc's format pass over. */
static void print_own(FILE *stream, const struct quarry_stats *stats) {
    fprintf(stream, "<quarry version=\"%s\">\n", quarry_version());
    for (unsigned i = 0; i < figure_count; i++)
        fprintf(stream, "<figure name=\"%s\" value=\"%llu\"/>\n", figure_table[i].name,
                (unsigned long long)figure_value(&figure_table[i], stats));
    for (unsigned i = 0; i < option_count; i++) {
        long value;
        if (option_is_set(i, &value))
            fprintf(stream, "<option name=\"%s\" value=\"%ld\"/>\n", option_table[i].name, value);
    }
    fputs("</quarry>\n", stream);
}

/* The figures are read before anything is printed: stdio may allocate. */
int api_malloc_info(int options, FILE *stream) {
    struct reading reading;
    const struct stats *stats = &reading.stats;
    if (options != 0)
        return EINVAL;
    begin_reading(&reading);
    size_t others = stats->system_bytes - reading.shards[0].system_bytes;
    fputs("<malloc version=\"1\">\n", stream);
    for (uint32_t i = 0; i < reading.count; i++) {
        const struct shard_stats *shard = &reading.shards[i];
        print_heap(stream, i, shard,
                   i == 0 ? stats->peak_system_bytes - others : shard->system_bytes);
    }
    print_totals(stream, stats->free_chunks, stats->free_bytes);
    fprintf(stream, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n", stats->mapping.count,
            stats->mapped_bytes);
    print_system(stream, stats->system_bytes, stats->peak_system_bytes);
    print_own(stream, &reading.own);
    fputs("</malloc>\n", stream);
    end_reading(&reading);
    return 0;
}
