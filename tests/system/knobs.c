/* SPDX-License-Identifier: MIT
 *
 * Simple loads, whose system calls and resident memory show which parameters are in force.  A call
 * with file descriptor -1000 marks in a trace where the load begins and ends.
 *
 * usage: knobs breathe              20 MB in small and middle blocks, all freed
 *        knobs blocks SIZE COUNT    blocks, all alive at once
 *        knobs again SIZE COUNT     one block, allocated and freed again and again
 */
#include "self_check.h"

#include <fcntl.h>

static size_t resident(void) {
    char text[4096] = {0};
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    MUST(file >= 0 && read(file, text, sizeof text - 1) > 0);
    close(file);
    char *line = strstr(text, "\nRss:");
    MUST(line);
    return strtoul(line + 5, NULL, 10) * 1024;
}

static void mark(void) {
    close(-1000);
}

static void breathe(void) {
    enum { SMALL = 10000, MIDDLE = 500 };
    static char *small[SMALL], *middle[MIDDLE];
    free(malloc(1));
    size_t before = resident();
    mark();
    for (int i = 0; i < SMALL; i++)
        small[i] = memset(malloc(1000), 1, 1000);
    for (int i = 0; i < MIDDLE; i++)
        middle[i] = memset(malloc(20000), 1, 20000);
    size_t peak = resident();
    for (int i = 0; i < SMALL; i++)
        free(small[i]);
    for (int i = 0; i < MIDDLE; i++)
        free(middle[i]);
    mark();
    say("peak=%zu\n", peak - before);
    say("after=%zd\n", (ssize_t)(resident() - before));
}

static void allocate_blocks(size_t bytes, size_t count) {
    void **last = NULL;
    free(malloc(1));
    mark();
    for (size_t i = 0; i < count; i++) {
        void **block = malloc(bytes);
        MUST(block);
        *block = last;
        last = block;
    }
    mark();
}

static void allocate_again(size_t bytes, size_t count) {
    free(malloc(1));
    mark();
    for (size_t i = 0; i < count; i++) {
        char *block = malloc(bytes);
        MUST(block);
        block[0] = block[bytes - 1] = 1;
        free(block);
    }
    mark();
}

int main(int argc, char **argv) {
    MUST(argc >= 2);
    if (strcmp(argv[1], "breathe") == 0)
        breathe();
    else if (strcmp(argv[1], "blocks") == 0)
        allocate_blocks((size_t)atol(argv[2]), (size_t)atol(argv[3]));
    else
        allocate_again((size_t)atol(argv[2]), (size_t)atol(argv[3]));
    return finish();
}
