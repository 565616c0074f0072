/* SPDX-License-Identifier: MIT
 *
 * promise: 64 MiB asked for, a quarter written, a quarter read.
 */
#include "step.h"

#include <sys/resource.h>

static size_t before[2];
static long faults_before;

static void pages_of(size_t pages[2]) {
    char text[64] = "", *rest;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fgets(text, sizeof text, file) == NULL)
        exit(1);
    pages[0] = strtoul(text, &rest, 10);
    pages[1] = strtoul(rest, NULL, 10);
    fclose(file);
}

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void grown(const char *what) {
    size_t now[2];
    long count = faults();
    pages_of(now);
    say("%-16s %6.1f MiB more virtual, %5.1f MiB more resident, %5ld page faults", what,
        ((double)now[0] - (double)before[0]) / 256, ((double)now[1] - (double)before[1]) / 256,
        count - faults_before);
    faults_before = faults();
}

int main(void) {
    pages_of(before);
    faults_before = faults();
    volatile char *memory = must(malloc(64 * MIB));
    grown("malloc(64 MiB):");
    for (size_t at = 0; at < 16 * MIB; at += 4096)
        memory[at] = 1;
    grown("16 MiB written:");
    for (size_t at = 16 * MIB; at < 32 * MIB; at += 4096)
        (void)memory[at];
    grown("16 MiB read:");
    free((void *)memory);
    grown("free:");
    return 0;
}
