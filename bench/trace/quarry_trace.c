/* SPDX-License-Identifier: MIT
 *
 * quarry_trace.c: records the allocations of a program, and shows traces.
 */
#include <ctype.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "dump.h"
#include "recording.h"
#include "tool.h"

#define LIMIT_LEAST 65536

const char *tool_name = "quarry_trace";

struct options {
    struct recording recording;
    const char *dump, *convert;
};

static void print_help(void) {
    printf("usage: quarry_trace -o FILE [options] -- COMMAND [ARGUMENT...]\n"
           "       quarry_trace --convert RAW -o FILE\n"
           "       quarry_trace --dump FILE\n\n"
           "Runs a command with Quarry preloaded and records every call of malloc and its family.\n"
           "quarry_replay plays the trace on any allocator.\n\n"
           "  -o FILE           the trace to make\n"
           "  --follow          record child processes too, in FILE.PID\n"
           "  --largest         of the command and its children, keep the longest trace, in FILE;\n"
           "                    not with --follow\n"
           "  --library LIB.so  preload this allocator; 'none': the program's own\n"
           "  --limit BYTES     end a process's recording when its raw log has so many bytes\n"
           "                    (at least %d; K, M, G may follow; default 2G)\n"
           "  --convert RAW     make a trace of a raw log, left where this tool was killed\n"
           "  --dump FILE       print a trace as text\n"
           "  --help            this text\n\n"
           "Exit status: that of the command (128 and the signal's number if it was killed), 127\n"
           "if it cannot be run; else 0, or 1 if something failed, or 2 for a wrong command line.\n"
           "See also quarry_trace(1).\n",
           LIMIT_LEAST);
}

/* Checks the number, and writes it without its unit. */
static const char *parse_limit(const char *text) {
    static char bytes[32];
    static const char units[] = "KMG";
    char *end = NULL;
    unsigned long long value = strtoull(text, &end, 10);
    const char *unit = *end != '\0' ? strchr(units, toupper((unsigned char)*end)) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    bool whole = isdigit((unsigned char)text[0]) && end[unit ? 1 : 0] == '\0';
    if (!whole || value > (1ull << 62 >> shift) || value << shift < LIMIT_LEAST) {
        tool_refuse("--limit '%s': give a number of bytes, at least %d", text, LIMIT_LEAST);
    }
    snprintf(bytes, sizeof bytes, "%llu", value << shift);
    return bytes;
}

static struct options parse_options(int count, char **arguments) {
    static const struct option known[] = {
        {"output", required_argument, NULL, 'o'},
        {"follow", no_argument, NULL, 'f'},
        {"largest", no_argument, NULL, 'g'},
        {"library", required_argument, NULL, 'l'},
        {"limit", required_argument, NULL, 'm'},
        {"convert", required_argument, NULL, 'c'},
        {"dump", required_argument, NULL, 'd'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options options = {0};
    struct recording *recording = &options.recording;
    /* +: the command's own options are not ours. */
    for (int option = 0; (option = getopt_long(count, arguments, "+o:", known, NULL)) != -1;) {
        switch (option) {
        case 'o':
            recording->file = optarg;
            break;
        case 'f':
            recording->follow = true;
            break;
        case 'g':
            recording->largest = true;
            break;
        case 'l':
            recording->library = strcmp(optarg, "none") == 0 ? "" : optarg;
            break;
        case 'm':
            recording->limit = parse_limit(optarg);
            break;
        case 'c':
            options.convert = optarg;
            break;
        case 'd':
            options.dump = optarg;
            break;
        case 'h':
            print_help();
            exit(0);
        default:
            tool_refuse("try --help");
        }
    }
    if (recording->follow && recording->largest) {
        tool_refuse("--follow and --largest exclude each other: leave one out; try --help");
    }
    recording->command = arguments + optind;
    return options;
}

static int convert_one(const struct options *options) {
    struct trace_header header;
    if (options->recording.file == NULL) {
        tool_refuse("--convert needs -o FILE for the trace; try --help");
    }
    if (!convert(options->convert, options->recording.file, &header)) {
        tool_fail("%s holds no call: no trace was made", options->convert);
    }
    return 0;
}

int main(int count, char **arguments) {
    struct options options = parse_options(count, arguments);
    bool has_command = options.recording.command[0] != NULL;
    if ((options.dump || options.convert) && has_command) {
        tool_refuse("unexpected argument '%s'; try --help", options.recording.command[0]);
    }
    if (options.dump != NULL) {
        dump_trace(options.dump);
        return 0;
    }
    if (options.convert != NULL) {
        return convert_one(&options);
    }
    if (!has_command || options.recording.file == NULL) {
        tool_refuse("give -o FILE and a command; try --help");
    }
    return record_command(&options.recording);
}
