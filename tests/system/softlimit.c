/* SPDX-License-Identifier: MIT
 *
 * Allocates up to the soft limit, in blocks of one size, and prints how many bytes that were; then
 * frees half of it and goes on with blocks of another size.
 *
 * usage: softlimit SIZE OTHER_SIZE MAX_BYTES
 */
#include "self_check.h"

#include <errno.h>
#include <quarry.h>

#pragma weak quarry_stats

struct block {
    struct block *next;
};

static struct block *all;

static size_t allocate(size_t bytes, size_t most) {
    size_t sum = 0;
    while (sum < most) {
        errno = 0;
        struct block *block = malloc(bytes);
        if (!block) {
            CHECK(errno == ENOMEM);
            break;
        }
        memset(block, 1, bytes);
        block->next = all;
        all = block;
        sum += bytes;
    }
    return sum;
}

static void free_blocks(size_t count) {
    for (; count > 0 && all; count--) {
        struct block *next = all->next;
        free(all);
        all = next;
    }
}

int main(int argc, char **argv) {
    MUST(argc == 4);
    size_t size = (size_t)atol(argv[1]), other = (size_t)atol(argv[2]);
    size_t most = (size_t)atol(argv[3]);
    size_t first = allocate(size, most);
    free_blocks(first / size / 2);
    struct quarry_stats stats;
    size_t second = allocate(other, most);
    void *grown = realloc(all, most);
    CHECK(!grown || first >= most);
    MUST(quarry_stats);
    quarry_stats(&stats, sizeof stats);
    say("first=%zu\nsecond=%zu\nresident=%llu\nlimit=%llu\nrefusals=%llu\n", first, second,
        (unsigned long long)stats.resident_bytes, (unsigned long long)stats.limit_bytes,
        (unsigned long long)stats.limit_refusals);
    return check_failures != 0;
}
