/* SPDX-License-Identifier: MIT
 *
 * info: the statistics in glibc's formats: mallinfo, malloc_stats, malloc_info.
 *
 * One arena is reported.  Blocks in threads' caches count as in use, as glibc counts its own.
 */
#include "api.h"
#include "figures.h"
#include "heap.h"
#include "option.h"
#include "os.h"
#include "report.h"
#include "stats.h"

#include <malloc.h>

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

void api_malloc_stats(void) {
    struct stats stats;
    struct quarry_stats own;
    figures_read(&own, &stats);
    size_t system = stats.system_bytes, in_use = system - stats.free_bytes;
    write_heading("Arena 0:\n");
    write_figure("system bytes    ", (uint32_t)system);
    write_figure("in use bytes    ", (uint32_t)in_use);
    write_heading("Total (incl. mmap):\n");
    write_figure("system bytes    ", (uint32_t)(system + stats.mapping.bytes));
    write_figure("in use bytes    ", (uint32_t)(in_use + stats.mapping.bytes));
    write_figure("max mmap regions", (uint32_t)stats.mapping.peak_count);
    write_figure("max mmap bytes  ", stats.mapping.peak_bytes);
    write_own_figures(&own);
}

static void print_sizes(FILE *stream, const struct stats *stats) {
    unsigned from = 1;
    fputs("<sizes>\n", stream);
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        size_t count = stats->slab[i].free_objects, size = size_classes[i].size;
        if (count)
            fprintf(stream, "  <size from=\"%u\" to=\"%zu\" total=\"%zu\" count=\"%zu\"/>\n", from,
                    size, count * size, count);
        from = (unsigned)size + 1;
    }
    fputs("</sizes>\n", stream);
}

static void print_totals(FILE *stream, const struct stats *stats) {
    fprintf(stream,
            "<total type=\"fast\" count=\"0\" size=\"0\"/>\n"
            "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n",
            stats->free_chunks, stats->free_bytes);
}

static void print_system(FILE *stream, const struct stats *stats) {
    fprintf(stream,
            "<system type=\"current\" size=\"%zu\"/>\n"
            "<system type=\"max\" size=\"%zu\"/>\n"
            "<aspace type=\"total\" size=\"%zu\"/>\n"
            "<aspace type=\"mprotect\" size=\"%zu\"/>\n",
            stats->system_bytes, stats->peak_system_bytes, stats->system_bytes,
            stats->system_bytes);
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
    struct stats stats;
    struct quarry_stats own;
    if (options != 0)
        return EINVAL;
    figures_read(&own, &stats);
    fputs("<malloc version=\"1\">\n<heap nr=\"0\">\n", stream);
    print_sizes(stream, &stats);
    print_totals(stream, &stats);
    print_system(stream, &stats);
    fputs("</heap>\n", stream);
    print_totals(stream, &stats);
    fprintf(stream, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n", stats.mapping.count,
            stats.mapped_bytes);
    print_system(stream, &stats);
    print_own(stream, &own);
    fputs("</malloc>\n", stream);
    return 0;
}
