/* SPDX-License-Identifier: MIT
 *
 * mappings.c
 *
 * PURPOSE  Addresses become functions only after the process has ended, or in another one: each
 *          mapping that code was ever executed in is a record, so that libraries which were unloaded
 *          are known, too. /proc/self/maps is read when a new stack has an address that no record
 *          has, for the loader can only be asked under its lock.
 *
 * LOCKING  One thread at a time reads; one that finds another at it leaves it to the next new stack.
 */
#include "mappings.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shim/quiet.h"
#include "store.h"

#define MAPPINGS_MOST 4096
#define LINE_MOST 4608 /* a path, and what stands before it */

static atomic_flag reading = ATOMIC_FLAG_INIT;
static char buffer[2 * LINE_MOST];
static unsigned mapping_count;

static bool is_known(uint64_t address) {
    profile_reference at = atomic_load_explicit(&store_header()->mappings, memory_order_acquire);
    while (at != 0) {
        const struct profile_mapping *mapping = store_at(at);
        if (address - mapping->start < mapping->end - mapping->start) {
            return true;
        }
        at = mapping->previous;
    }
    return false;
}

static bool is_recorded(const struct profile_mapping *wanted, const char *path) {
    profile_reference at = atomic_load_explicit(&store_header()->mappings, memory_order_relaxed);
    while (at != 0) {
        const struct profile_mapping *mapping = store_at(at);
        if (mapping->start == wanted->start && mapping->end == wanted->end &&
            strcmp(mapping->path, path) == 0) {
            return true;
        }
        at = mapping->previous;
    }
    return false;
}

static void add(struct profile_mapping *mapping, const char *path) {
    mapping->path_bytes = (uint32_t)strlen(path) + 1;
    mapping->previous = atomic_load(&store_header()->mappings);
    profile_reference at =
        mapping_count < MAPPINGS_MOST ? store_allocate(sizeof *mapping + mapping->path_bytes) : 0;
    if (at != 0) {
        struct profile_mapping *record = store_at(at);
        *record = *mapping;
        memcpy(record->path, path, mapping->path_bytes);
        mapping_count++;
        atomic_store_explicit(&store_header()->mappings, at, memory_order_release);
    }
}

/* START-END PERMISSIONS OFFSET DEVICE INODE [PATH] */
static void take_line(char *line) {
    struct profile_mapping mapping = {0};
    char *at = NULL;
    mapping.start = strtoull(line, &at, 16);
    mapping.end = strtoull(at + (*at == '-'), &at, 16);
    if (strlen(at) < 6 || at[3] != 'x') {
        return;
    }
    mapping.offset = strtoull(at + 5, NULL, 16);
    const char *path = strpbrk(line, "/[");
    path = path != NULL ? path : "";
    if (!is_recorded(&mapping, path)) {
        add(&mapping, path);
    }
}

static void take_lines(int fd) {
    size_t held = 0;
    long got = 0;
    while ((got = syscall(SYS_read, fd, buffer + held, sizeof buffer - 1 - held)) > 0) {
        held += (size_t)got;
        buffer[held] = '\0';
        char *line = buffer;
        for (char *end = NULL; (end = strchr(line, '\n')) != NULL; line = end + 1) {
            *end = '\0';
            take_line(line);
        }
        held -= (size_t)(line - buffer);
        memmove(buffer, line, held);
    }
}

void mappings_note(const uint64_t *frames, uint32_t depth) {
    uint32_t known = 0;
    while (known < depth && is_known(frames[known] - 1)) {
        known++;
    }
    if (known == depth || atomic_flag_test_and_set(&reading)) {
        return;
    }
    int fd = quiet_open("/proc/self/maps", O_RDONLY);
    if (fd >= 0) {
        take_lines(fd);
        quiet_close(fd);
    }
    atomic_flag_clear(&reading);
}

void mappings_leave(void) {
    mapping_count = 0;
    atomic_flag_clear(&reading);
}
