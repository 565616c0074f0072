/* SPDX-License-Identifier: MIT
 *
 * quarry_replay.c: plays a trace on whatever malloc it is run with.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "../workloads/workload.h"
#include "check.h"
#include "play.h"
#include "tool.h"

#define IDLE_MOST 3600

const char *tool_name = "quarry_replay";
/* The figures are those of the workloads. */
const struct workload workload = {.name = "quarry_replay"};
struct settings settings;
struct worker *workers;

struct options {
    const char *file;
    bool verify, check_only, no_check;
};

static void print_help(void) {
    printf(
        "usage: quarry_replay [options] FILE\n\n"
        "Plays a trace, made by quarry_trace, on the malloc that this process has: preload the\n"
        "one to be measured. Each thread's calls are made in a thread of its own; where a block\n"
        "passes from one to another, they wait for each other as they did. Contents are written\n"
        "and verified.\n\n"
        "  --verify          write and check every byte, not a word per page: slower\n"
        "  --report FILE     write figures as lines key=value\n"
        "  --idle SECONDS    rest at the end, then note the RSS\n"
        "  --check-only      see whether the trace can be played; play nothing\n"
        "  --no-check        do not look beforehand: a damaged trace may hang or crash then;\n"
        "                    not with --check-only\n"
        "  --help            this text\n\n"
        "Prints how many calls were made and how many blocks were found whole, with a checksum:\n"
        "the same text under every allocator. Exit status: 0, or 1 if the trace is damaged, a\n"
        "block had lost its content or memory ran out, or 2 for a wrong command line.\n"
        "See also quarry_replay(1).\n");
}

static double parse_seconds(const char *text) {
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= 0 && value <= IDLE_MOST)) {
        tool_refuse("--idle '%s': give a number of seconds from 0 to %d", text, IDLE_MOST);
    }
    return value;
}

static struct options parse_options(int count, char **arguments) {
    static const struct option known[] = {
        {"verify", no_argument, NULL, 'v'},
        {"report", required_argument, NULL, 'r'},
        {"idle", required_argument, NULL, 'i'},
        {"check-only", no_argument, NULL, 'c'},
        {"no-check", no_argument, NULL, 'n'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options options = {0};
    for (int option = 0; (option = getopt_long(count, arguments, "", known, NULL)) != -1;) {
        switch (option) {
        case 'v':
            options.verify = true;
            break;
        case 'r':
            settings.report = optarg;
            break;
        case 'i':
            settings.idle = parse_seconds(optarg);
            break;
        case 'c':
            options.check_only = true;
            break;
        case 'n':
            options.no_check = true;
            break;
        case 'h':
            print_help();
            exit(0);
        default:
            tool_refuse("try --help");
        }
    }
    if (options.check_only && options.no_check) {
        tool_refuse("--check-only and --no-check exclude each other: leave one out; try --help");
    }
    if (optind + 1 != count) {
        tool_refuse("give the name of one trace; try --help");
    }
    options.file = arguments[optind];
    return options;
}

int main(int count, char **arguments) {
    struct options options = parse_options(count, arguments);
    struct trace trace;
    trace_open(&trace, options.file);
    if (!options.no_check) {
        check_trace(&trace);
    }
    if (options.check_only) {
        printf("%s can be played: %llu calls in %u threads\n", options.file,
               (unsigned long long)trace.header.calls, trace.header.threads);
        return 0;
    }
    settings.threads = trace.header.threads;
    workers = tool_map_resident(settings.threads * sizeof *workers);
    play_prepare(&(struct playing){.trace = &trace, .verify = options.verify});
    figures_begin();
    struct played played = play();
    figures_end(played.seconds);
    figures_rest();
    play_check_rest(&played);
    figures_write();
    printf("%llu calls, %llu blocks verified, checksum %016llx\n", (unsigned long long)played.calls,
           (unsigned long long)played.verified, (unsigned long long)played.checksum);
    return fflush(stdout) == 0 ? 0 : 1;
}
