/* SPDX-License-Identifier: MIT
 *
 * limit: fail softly, before somebody else fails hard.
 *
 * PURPOSE  A process that exceeds its cgroup is killed; one that gets NULL can give up a cache, or
 *          say what it wanted.
 *
 * RULE     held = runs and slabs in use (cached objects and holes included) + mappings + tables +
 *          dirty pages.  Where a request for as many new pages would bring held above the limit, as
 *          many dirty pages are given back; where that would not do, it is refused.  Threads that ask at the same time may exceed
 *          the limit by what they ask for: it is looked up without a lock.
 *
 * CGROUP   Version 2: memory.max of the cgroup and of those above it.  Version 1: the same with
 *          memory.limit_in_bytes.  In a container the own cgroup may not be visible by the name that
 *          /proc/self/cgroup gives; then the top of what is mounted is the container's.
 */
#include "limit.h"

#include "mapping.h"
#include "meta.h"
#include "os.h"
#include "page.h"

#include <string.h>

enum {
    PATH_BYTES = 512,
    MAP_BYTES_PER_PAGE = 75, /* a head word, a class, a descriptor, an extent's end */
};

size_t limit_bytes = LIMIT_NONE;
static size_t refusals;

void limit_set(size_t bytes) {
    STORE_RELAXED(limit_bytes, bytes);
}

size_t limit_get(void) {
    return LOAD_RELAXED(limit_bytes);
}

size_t limit_refusals(void) {
    return LOAD_RELAXED(refusals);
}

static size_t with_map(size_t bytes) {
    return bytes + (bytes >> PAGE_SHIFT) * MAP_BYTES_PER_PAGE;
}

size_t limit_held_bytes(void) {
    return with_map(page_live_bytes() + page_dirty_bytes()) + mapping_live_bytes() +
           meta_mapped_bytes();
}

/* How far held would be above the limit; SIZE_MAX where no number is that large. */
static size_t excess(size_t more_bytes) {
    size_t held = limit_held_bytes();
    size_t limit = LOAD_RELAXED(limit_bytes);
    if (__builtin_add_overflow(held, more_bytes, &held))
        return SIZE_MAX;
    return held > limit ? held - limit : 0;
}

bool limit_has_room(size_t more_bytes) {
    return LOAD_RELAXED(limit_bytes) == LIMIT_NONE || excess(more_bytes) == 0;
}

bool limit_admits_slowly(size_t more_bytes) {
    size_t too_many = excess(more_bytes);
    if (too_many == 0)
        return true;
    if (too_many > with_map(page_dirty_bytes()))
        return false;
    page_purge(too_many);
    return excess(more_bytes) == 0;
}

bool limit_count_failure(size_t more_bytes) {
    return LOAD_RELAXED(limit_bytes) != LIMIT_NONE && excess(more_bytes) != 0 &&
           __atomic_fetch_add(&refusals, 1, __ATOMIC_RELAXED) == 0;
}

/* ---- the cgroup ---------------------------------------------------------------------------------- */

/* More than any machine has: what version 1 says where there is no limit. */
#define UNLIMITED ((size_t)1 << 60)

/* The number in a file; LIMIT_NONE where there is none, as in "max". */
static size_t read_number(const char *path) {
    char text[32];
    size_t length = os_read_file(path, text, sizeof text), number = 0;
    for (size_t i = 0; i < length && text[i] >= '0' && text[i] <= '9'; i++)
        if (__builtin_mul_overflow(number, (size_t)10, &number) ||
            __builtin_add_overflow(number, (size_t)(text[i] - '0'), &number))
            return LIMIT_NONE;
    bool any = length && text[0] >= '0' && text[0] <= '9';
    return any && number < UNLIMITED ? number : LIMIT_NONE;
}

/* Appends bytes of text at a place of a name, unless it is too long; returns the next place. */
static size_t append(char name[PATH_BYTES], size_t at, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes && at + i < PATH_BYTES; i++)
        name[at + i] = text[i];
    return at + bytes;
}

/* The least limit of a cgroup and those above it; path holds a name of length bytes. */
static size_t least_limit(const char *mount, const char *path, size_t length, const char *file) {
    char name[PATH_BYTES];
    size_t least = LIMIT_NONE;
    for (;;) {
        size_t at = append(name, append(name, 0, mount, strlen(mount)), path, length);
        if (append(name, at, file, strlen(file) + 1) <= sizeof name)
            least = min_size(least, read_number(name));
        if (length == 0)
            return least;
        while (length > 0 && path[--length] != '/') {
        }
    }
}

/* A line is "number:controllers:path"; in version 2 there are no controllers. */
static size_t limit_by_line(const char *line, const char *end) {
    const char *first = memchr(line, ':', (size_t)(end - line));
    const char *second = first ? memchr(first + 1, ':', (size_t)(end - first - 1)) : NULL;
    if (!second)
        return LIMIT_NONE;
    size_t controllers = (size_t)(second - first - 1), length = (size_t)(end - second - 1);
    if (controllers == 0)
        return least_limit("/sys/fs/cgroup", second + 1, length, "/memory.max");
    if (controllers == 6 && memcmp(first + 1, "memory", 6) == 0)
        return least_limit("/sys/fs/cgroup/memory", second + 1, length, "/memory.limit_in_bytes");
    return LIMIT_NONE;
}

size_t limit_of_cgroup(void) {
    char text[2048];
    size_t length = os_read_file("/proc/self/cgroup", text, sizeof text), least = LIMIT_NONE;
    const char *line = text, *end;
    for (; (end = memchr(line, '\n', (size_t)(text + length - line))) != NULL; line = end + 1)
        least = min_size(least, limit_by_line(line, end));
    return least == LIMIT_NONE ? LIMIT_NONE : least - least / 16;
}
