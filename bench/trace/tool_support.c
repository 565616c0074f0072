/* SPDX-License-Identifier: MIT
 *
 * tool_support.c: messages, memory, progress.
 */
#include "tool.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define FIRST_ROOM 1024

static void print_line(const char *format, va_list arguments) {
    char text[8192];
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): wrong where it reads several files */
    vsnprintf(text, sizeof text, format, arguments);
    tool_progress_end();
    dprintf(2, "%s: %s\n", tool_name, text);
}

void tool_fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line(format, arguments);
    va_end(arguments);
    _exit(1);
}

void tool_refuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_line(format, arguments);
    va_end(arguments);
    _exit(2);
}

static void *map(size_t bytes, int more_flags) {
    void *memory = mmap(NULL, bytes > 0 ? bytes : 1, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | more_flags, -1, 0);
    if (memory == MAP_FAILED) {
        tool_fail("no memory for a table of %zu bytes: %s", bytes, strerror(errno));
    }
    return memory;
}

void *tool_map(size_t bytes) {
    return map(bytes, 0);
}

void *tool_map_resident(size_t bytes) {
    return map(bytes, MAP_POPULATE);
}

void tool_unmap(void *memory, size_t bytes) {
    if (memory != NULL) {
        munmap(memory, bytes > 0 ? bytes : 1);
    }
}

void *tool_grow(void *table, size_t *room, size_t wanted, size_t entry_bytes) {
    if (wanted <= *room) {
        return table;
    }
    size_t larger = *room > 0 ? *room : FIRST_ROOM;
    while (larger < wanted) {
        larger *= 2;
    }
    void *moved = tool_map(larger * entry_bytes);
    if (table != NULL) {
        memcpy(moved, table, *room * entry_bytes);
        tool_unmap(table, *room * entry_bytes);
    }
    *room = larger;
    return moved;
}

void tool_clean(char *text, size_t room) {
    text[room - 1] = '\0';
    for (char *at = text; *at != '\0'; at++) {
        if (*at < ' ' || *at > '~') {
            *at = '?';
        }
    }
}

/* ---- Progress -------------------------------------------------------------------------------- */

static pthread_mutex_t drawing = PTHREAD_MUTEX_INITIALIZER;
static double begun, last_drawn;
static int on_terminal = -1;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void draw(const char *what, uint64_t done, uint64_t total) {
    double now = seconds();
    if (last_drawn == 0) {
        begun = last_drawn = now;
    }
    if (now - last_drawn < 1 || done == 0) {
        return;
    }
    last_drawn = now;
    double left = (now - begun) * (double)(total - done) / (double)done;
    dprintf(2, "\r\033[K%s: %s %.0f %%, about %.0f s left", tool_name, what,
            100.0 * (double)done / (double)total, left);
}

void tool_progress(const char *what, uint64_t done, uint64_t total) {
    if (on_terminal < 0) {
        on_terminal = isatty(2);
    }
    if (on_terminal && total >= done && pthread_mutex_trylock(&drawing) == 0) {
        draw(what, done, total);
        pthread_mutex_unlock(&drawing);
    }
}

void tool_progress_end(void) {
    if (on_terminal > 0 && last_drawn != begun) {
        dprintf(2, "\r\033[K");
    }
    begun = last_drawn = 0;
}
