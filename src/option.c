/* SPDX-License-Identifier: MIT
 *
 * option: the table of parameters, and its three parsers: mallopt, variables, GLIBC_TUNABLES.
 *
 * VALUES   Numbers as C writes them; those that count bytes may end with K, M, G or T.
 * ORDER    Variables first, then GLIBC_TUNABLES (which wins, as in glibc), then mallopt whenever it
 *          is called.  Nothing is read in set-uid programs.
 * FAILURE  A malformed or out-of-range value leaves the default in force; under QUARRY_VERBOSE a line
 *          on standard error says so.
 */
#include "option.h"

#include "cache.h"
#include "harden.h"
#include "heap.h"
#include "limit.h"
#include "meta.h"
#include "os.h"
#include "page.h"
#include "report.h"
#include "slab.h"

#include <limits.h>
#include <malloc.h>
#include <quarry.h>
#include <string.h>

#define TABLES_RESERVED ((size_t)512 << 10)

static bool keeps_all, maps_nothing;

/* Enough for the caches of some threads; where it ends, caches stay shallow.  And what is free already: a
 * program may have left parts of its blocks alone. */
static void make_resident(void) {
    os_make_code_resident();
    pagemap_make_resident();
    meta_reserve(TABLES_RESERVED);
    os_make_resident(slab_classes, sizeof slab_classes);
    slab_make_resident();
    page_make_resident();
}

/* Who sets both wants no faults: docs/REALTIME.md.  Later tables need not be resident any more where one is taken back. */
static void prepare_realtime(void) {
    if (LOAD_RELAXED(keeps_all) && LOAD_RELAXED(maps_nothing))
        make_resident();
    else
        meta_end_reserve();
}

static void set_trim_threshold(size_t value) {
    heap_end_dynamic_threshold();
    page_set_trim_threshold(value);
    cache_rules_changed(); /* no more runs are cached */
    STORE_RELAXED(keeps_all, value == SIZE_MAX);
    prepare_realtime();
}

static void set_top_pad(size_t value) {
    heap_end_dynamic_threshold();
    page_set_top_pad(value);
}

static void set_mmap_threshold(size_t value) {
    heap_end_dynamic_threshold();
    heap_set_mmap_threshold(value);
}

static void set_mmap_max(size_t value) {
    heap_end_dynamic_threshold();
    heap_set_mmap_max(value);
    STORE_RELAXED(maps_nothing, value == 0);
    prepare_realtime();
}

static void set_perturb(size_t value) {
    harden_set_perturb((unsigned)value);
}

static void set_limit(size_t value) {
    limit_set(value ? value : limit_of_cgroup());
}

static void set_huge(size_t value) {
    os_set_huge(value != 0);
}

static void set_check(size_t value) {
    heap_set_check(value != 0);
}

/* As glibc's debugging malloc.  Whoever goes on after a wrong free needs all of them found. */
static void set_check_action(size_t value) {
    report_set_action(value);
    heap_set_check(true);
}

static void set_zero(size_t value) {
    harden_set_zero(value != 0);
}

static bool blocks_may_exist;

/* What all blocks have or none, in a process that allocated before libc knew its environment. */
static bool too_late(const char *variable) {
    struct line line = {0};
    if (!blocks_may_exist || !option_verbose())
        return blocks_may_exist;
    line_text(&line, "quarry: ");
    line_text(&line, variable);
    line_text(&line, ": not in force: this program allocates before it has an environment\n");
    os_write_error(line.text, line.length);
    return true;
}

static void set_canary(size_t value) {
    if (value && !too_late("QUARRY_CANARY"))
        harden_begin_canaries();
}

static void set_guard(size_t value) {
    if (value && !too_late("QUARRY_GUARD"))
        harden_begin_guards(value);
}

bool option_control;

static void set_control(size_t value) {
    option_control = value != 0;
}

#define ANY LONG_MIN, LONG_MAX

const struct option option_table[] = {
    {"trim_threshold", "MALLOC_TRIM_THRESHOLD_", "trim_threshold", M_TRIM_THRESHOLD, ANY, NULL,
     set_trim_threshold,
     "bytes of dirty free memory to keep at most; -1: give nothing back, and keep headroom",
     OPTION_BYTES},
    {"top_pad", "MALLOC_TOP_PAD_", "top_pad", M_TOP_PAD, ANY, NULL, set_top_pad,
     "bytes to ask for beyond the need when the heap grows, and to leave when it is trimmed",
     OPTION_BYTES},
    {"mmap_threshold", "MALLOC_MMAP_THRESHOLD_", "mmap_threshold", M_MMAP_THRESHOLD, ANY, NULL,
     set_mmap_threshold, "bytes from which on a block is a mapping of its own", OPTION_BYTES},
    {"mmap_max", "MALLOC_MMAP_MAX_", "mmap_max", M_MMAP_MAX, 0, LONG_MAX, NULL, set_mmap_max,
     "number of such mappings at most; 0: none", OPTION_AT_LEAST},
    {"headroom", "QUARRY_HEADROOM", NULL, QUARRY_M_HEADROOM, 0, 100, NULL, page_set_headroom,
     "where trim_threshold is -1: percent of the most memory ever in use to keep resident beside "
     "it",
     0},
    {"perturb", "MALLOC_PERTURB_", "perturb", M_PERTURB, 0, 255, NULL, set_perturb,
     "fill freed memory with this byte and allocated memory with its complement; 0: do not",
     OPTION_LOW_BITS},
    {"mxfast", NULL, "mxfast", M_MXFAST, 0, 160, NULL, cache_set_deep_limit,
     "size in bytes of the largest objects of which a thread may cache more than 64 (128 where "
     "there are threads)",
     OPTION_BYTES},
    {"arena_test", "MALLOC_ARENA_TEST", "arena_test", M_ARENA_TEST, 1, LONG_MAX, NULL,
     slab_set_shard_test, "lock shards that are made without counting processors", OPTION_PASSES},
    {"arena_max", "MALLOC_ARENA_MAX", "arena_max", M_ARENA_MAX, 1, LONG_MAX, NULL,
     slab_set_shard_max,
     "lock shards of the size classes at most, up to 64; if not set, 8 a processor", OPTION_PASSES},
    {"tcache_count", NULL, "tcache_count", QUARRY_M_TCACHE_COUNT, 0, 65535, NULL,
     cache_set_capacity_limit, "objects that a thread caches of one size at most", 0},
    {"tcache_max", NULL, "tcache_max", QUARRY_M_TCACHE_MAX, 0, LONG_MAX, NULL, cache_set_size_limit,
     "size in bytes of the largest objects that threads cache", OPTION_BYTES},
    {"drain", "QUARRY_DRAIN", NULL, QUARRY_M_DRAIN, 0, 2, "never|asked|idle", cache_set_drains,
     "when what other threads have cached is taken back: never, when malloc_trim is called, an "
     "idle "
     "heap given back (control) or memory refused, or also when they are idle for a second",
     0},
    {"hugetlb", NULL, "hugetlb", QUARRY_M_HUGETLB, 0, LONG_MAX, NULL, set_huge,
     "1 or more: ask for transparent huge pages, for the heap and for mappings from 1 MiB on", 0},
    {"huge_share", "QUARRY_HUGE_SHARE", NULL, QUARRY_M_HUGE_SHARE, 0, 100, NULL,
     page_set_huge_share,
     "percent of what is in use that may be resident and free for the sake of huge pages, from "
     "which small blocks are then cut; 0: none",
     0},
    {"limit", "QUARRY_LIMIT", NULL, 0, 1, LONG_MAX, "auto", set_limit,
     "bytes that the allocator may hold; then it gives back, then it fails; auto: what the cgroup "
     "may",
     OPTION_BYTES},
    {"check", "QUARRY_CHECK", NULL, QUARRY_M_CHECK, 0, 1, NULL, set_check,
     "1: no caches, so that every wrong free is reported at once", 0},
    {"check_action", "MALLOC_CHECK_", "check", M_CHECK_ACTION, 0, 3, NULL, set_check_action,
     "check as above, and what a wrong pointer does, the sum of 1: print a line, 2: abort; without "
     "2 the "
     "call does nothing",
     OPTION_LOW_BITS},
    {"zero", "QUARRY_ZERO", NULL, QUARRY_M_ZERO, 0, 1, NULL, set_zero,
     "1: clear freed memory at once, where perturb does not fill it", 0},
    {"quarantine", "QUARRY_QUARANTINE", NULL, QUARRY_M_QUARANTINE, 0, LONG_MAX, NULL,
     harden_set_quarantine,
     "bytes of freed blocks that wait before their memory serves again; writes to them are found",
     OPTION_BYTES},
    {"canary", "QUARRY_CANARY", NULL, 0, 0, 1, NULL, set_canary,
     "1: find writes beyond a block when it is freed or resized", OPTION_AT_START},
    {"guard", "QUARRY_GUARD", NULL, 0, 0, LONG_MAX, NULL, set_guard,
     "bytes from which on a block ends at an inaccessible page; 0: none",
     OPTION_BYTES | OPTION_AT_START},
    {"foreign", "QUARRY_FOREIGN", NULL, QUARRY_M_FOREIGN, 0, 2, "abort|leak|libc", heap_set_foreign,
     "what free does with a pointer of another allocator: report and abort, ignore it, hand it to "
     "libc",
     0},
    {"control", "QUARRY_CONTROL", NULL, 0, 0, 1, NULL, set_control,
     "1: a thread that waits for what 'quarry trim', 'limit', 'stats' and 'set' ask for, and gives "
     "an idle heap back",
     OPTION_AT_START},
};

const unsigned option_count = sizeof option_table / sizeof option_table[0];

static bool digit_of(char c, unsigned base, unsigned *digit) {
    if (c >= '0' && c <= '9')
        *digit = (unsigned)(c - '0');
    else if (c >= 'a' && c <= 'f')
        *digit = (unsigned)(c - 'a') + 10;
    else if (c >= 'A' && c <= 'F')
        *digit = (unsigned)(c - 'A') + 10;
    else
        return false;
    return *digit < base;
}

/* K, M, G or T, for powers of 1024, and behind it nothing, B or iB: how many bits to shift by. */
static bool parse_suffix(const char *text, const char *end, unsigned *shift) {
    static const char units[] = "KMGTkmgt";
    const char *unit = text < end ? memchr(units, *text, sizeof units - 1) : NULL;
    size_t more = unit ? (size_t)(end - text) - 1 : 0;
    *shift = unit ? 10 * (unsigned)((unit - units) % 4 + 1) : 0;
    if (!unit)
        return text == end;
    return more == 0 || (more == 1 && text[1] == 'B') ||
           (more == 2 && memcmp(text + 1, "iB", 2) == 0);
}

/* A number as C writes it (decimal, 0x, 0), with a sign; then, where it may be one of bytes and is not
 * negative, a suffix; and nothing else up to the end. */
static bool parse_number(const char *text, const char *end, bool bytes, long *number) {
    bool negative = *text == '-';
    unsigned base = 10, digit;
    unsigned long value = 0;
    text += *text == '-' || *text == '+';
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        base = 16;
        text += 2;
    } else if (text[0] == '0') {
        base = 8;
    }
    const char *first = text;
    for (; digit_of(*text, base, &digit); text++)
        if (__builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, digit, &value) || value > LONG_MAX)
            return false;
    unsigned shift = 0;
    bool whole = bytes && !negative ? parse_suffix(text, end, &shift) : text == end;
    if (value > (unsigned long)LONG_MAX >> shift)
        return false;
    *number = negative ? -(long)value : (long)(value << shift);
    return text != first && whole;
}

/* The index of a word of the option. */
static bool parse_word(const char *words, const char *text, const char *end, long *number) {
    size_t length = (size_t)(end - text);
    *number = 0;
    for (const char *word = words; word; (*number)++) {
        const char *bar = strchrnul(word, '|');
        if ((size_t)(bar - word) == length && memcmp(word, text, length) == 0)
            return true;
        word = *bar ? bar + 1 : NULL;
    }
    return false;
}

/* What the user set, for those who report it; written by mallopt of any thread. */
static struct {
    long value;
    bool is_set;
} settings[sizeof option_table / sizeof option_table[0]];

static void apply(const struct option *option, long value) {
    size_t i = (size_t)(option - option_table);
    STORE_RELAXED(settings[i].value, value);
    STORE_RELEASE(settings[i].is_set, true);
    option->apply((size_t)value);
}

const struct option *option_named(const char *name) {
    for (unsigned i = 0; i < option_count; i++)
        if (strcmp(option_table[i].name, name) == 0)
            return &option_table[i];
    return NULL;
}

void option_forget(const struct option *option) {
    STORE_RELEASE(settings[option - option_table].is_set, false);
}

bool option_is_set(unsigned index, long *value) {
    bool is_set = LOAD_ACQUIRE(settings[index].is_set);
    *value = LOAD_RELAXED(settings[index].value);
    return is_set;
}

/* Read with the others: later the program may be changing its environment. */
static bool verbose;

bool option_verbose(void) {
    return LOAD_RELAXED(verbose);
}

static void read_verbose(void) {
    bool ready;
    const char *text = os_environment("QUARRY_VERBOSE", &ready);
    STORE_RELAXED(verbose, text && *text && strcmp(text, "0") != 0);
}

/* Words name the values from 0 on; where there are others as well, both are told. */
void option_range(const struct option *option, struct line *line) {
    long words = option->words != NULL;
    for (const char *c = option->words; c && *c; c++)
        words += *c == '|';
    if (option->minimum == LONG_MIN) {
        line_text(line, "any number");
    } else if (words == 0 || option->maximum >= words) {
        line_number(line, (size_t)option->minimum);
        line_text(line, option->maximum == LONG_MAX ? " or more" : " .. ");
        if (option->maximum != LONG_MAX)
            line_number(line, (size_t)option->maximum);
        line_text(line, words ? ", " : "");
    }
    for (const char *c = option->words; c && *c; c++)
        line_text(line, *c == '|' ? ", " : (char[]){*c, 0});
}

/* prefix and name say where the value was read. */
static void report_malformed(const struct option *option, const char *prefix, const char *name,
                             const char *text, const char *end) {
    char value[64] = {0};
    struct line line = {0};
    memcpy(value, text, min_size((size_t)(end - text), sizeof value - 1));
    line_text(&line, "quarry: ");
    line_text(&line, prefix);
    line_text(&line, name);
    line_text(&line, ": '");
    line_text(&line, value);
    line_text(&line, "' is not one of: ");
    option_range(option, &line);
    if (option->flags & OPTION_BYTES)
        line_text(&line, " (in bytes, or with K, M, G or T)");
    line_text(&line, "; the default stays\n");
    os_write_error(line.text, line.length);
}

static bool in_range(const struct option *option, long number) {
    return number >= option->minimum && number <= option->maximum;
}

static bool parse_value(const struct option *option, const char *text, const char *end,
                        long *number) {
    return parse_word(option->words, text, end, number) ||
           (parse_number(text, end, option->flags & OPTION_BYTES, number) &&
            in_range(option, *number));
}

static void apply_text(const struct option *option, const char *prefix, const char *name,
                       const char *text, const char *end) {
    long number;
    if (parse_value(option, text, end, &number))
        apply(option, number);
    else if (option_verbose())
        report_malformed(option, prefix, name, text, end);
}

/* Most processes have none of ours: then the names of the options need not be resident, but for these. */
static const char beginning_glibc[] = "MALLOC_", beginning_own[] = "QUARRY_";
static const char beginning_tunables[] = "GLIBC_TUNABLES";

static void read_variables(void) {
    bool ready;
    if (!os_environment_has(beginning_glibc) && !os_environment_has(beginning_own))
        return;
    read_verbose();
    for (unsigned i = 0; i < option_count; i++) {
        const char *variable = option_table[i].environment;
        const char *text = variable ? os_environment(variable, &ready) : NULL;
        if (text)
            apply_text(&option_table[i], "", variable, text, text + strlen(text));
    }
}

/* GLIBC_TUNABLES=name=value:name=value; later entries win. */
static void read_tunables(const char *text) {
    static const char prefix[] = "glibc.malloc.";
    while (text && *text) {
        const char *end = strchrnul(text, ':');
        const char *equals = memchr(text, '=', (size_t)(end - text));
        if (equals && strncmp(text, prefix, sizeof prefix - 1) == 0) {
            const char *key = text + sizeof prefix - 1;
            size_t length = (size_t)(equals - key);
            for (unsigned i = 0; i < option_count; i++) {
                const char *tunable = option_table[i].tunable;
                if (tunable && strlen(tunable) == length && memcmp(tunable, key, length) == 0)
                    apply_text(&option_table[i], prefix, tunable, equals + 1, end);
            }
        }
        text = *end ? end + 1 : end;
    }
}

static bool environment_seen;

static void read_environment(void) {
    bool ready;
    const char *tunables = os_environment(beginning_tunables, &ready);
    environment_seen = ready;
    read_variables();
    read_tunables(tunables);
}

void option_init(void) {
    read_environment();
}

void option_late(void) {
    blocks_may_exist = true;
    if (!environment_seen)
        read_environment();
}

/* What glibc's mallopt makes of a number that it takes and a variable may not have; false if it takes none. */
static bool come_into_range(const struct option *option, long *number) {
    if (option->flags & OPTION_LOW_BITS)
        *number &= option->maximum;
    else if (option->flags & OPTION_AT_LEAST)
        *number = option->minimum;
    else
        return false;
    return true;
}

int option_set(int number, int value) {
    for (unsigned i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        long wanted = value;
        if (option->number == 0 || option->number != number)
            continue;
        if (in_range(option, wanted) || come_into_range(option, &wanted))
            apply(option, wanted);
        else
            return (option->flags & OPTION_PASSES) != 0;
    }
    return 1;
}

bool option_set_text(const struct option *option, const char *text, long *value) {
    bool good = parse_value(option, text, text + strlen(text), value);
    if (good)
        apply(option, *value);
    return good;
}

bool option_parse_bytes(const char *text, size_t *bytes) {
    long number;
    bool good = parse_number(text, text + strlen(text), true, &number) && number >= 0;
    if (good)
        *bytes = (size_t)number;
    return good;
}
