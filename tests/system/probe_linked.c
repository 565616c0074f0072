/* SPDX-License-Identifier: MIT
 *
 * Prints, as NAME=VALUE lines, which parameters are in force, judged by what the allocator does.
 * Arguments of the form PARAMETER:VALUE are given to mallopt first; "early" allocates before libc has
 * an environment.
 */
#include "self_check.h"

#include <fcntl.h>
#include <malloc.h>
#include <quarry.h>
#include <sys/auxv.h>

#pragma weak quarry_version

extern char **environ;

static void run_preinit(int argc, char **argv, char **environment) {
    (void)environment;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "early") == 0) {
            void *block = malloc(100);
            free(malloc(3000));
            free(block);
        }
}

__attribute__((section(".preinit_array"), used)) static void (*preinit)(int, char **,
                                                                        char **) = run_preinit;

static size_t count_environment(void) {
    size_t count = 0;
    while (environ && environ[count])
        count++;
    return count;
}

static void print_descriptors(void) {
    say("descriptors=");
    for (int fd = 0; fd < 100; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            say("%d ", fd);
    say("\n");
}

/* What fills a block: "none" if it is not one and the same byte throughout, or zero. */
static void print_fill(const char *name, const unsigned char *block, size_t bytes) {
    if (block[0] && all_bytes(block, bytes, block[0]))
        say("%s=%d\n", name, block[0]);
    else
        say("%s=none\n", name);
}

static void print_fills(void) {
    unsigned char *volatile neighbour = malloc(1000); /* keeps the slab */
    unsigned char *volatile block = malloc(1000);
    print_fill("fill_malloc", block, 1000);
    for (int i = 0; i < 1000; i++)
        block[i] = (unsigned char)(i + 1);
    free(block);
    print_fill("fill_free", block, 1000);
    unsigned char *cleared = calloc(1000, 1);
    say("calloc=%s\n", all_bytes(cleared, 1000, 0) ? "zero" : "dirty");
    free(cleared);
    free(neighbour);
}

/* A cache hands out what was freed last, a slab what has the lowest address. */
static void print_cached(const char *name, size_t size) {
    void *low, *high;
    for (int i = 0; i < 200; i++) {
        void *blocks[20];
        for (int j = 0; j < 20; j++)
            blocks[j] = malloc(size);
        for (int j = 0; j < 20; j++)
            free(blocks[j]);
    }
    low = malloc(size);
    high = malloc(size);
    if (low > high) {
        void *other = low;
        low = high;
        high = other;
    }
    free(low);
    free(high);
    void *next = malloc(size);
    say("%s=%d\n", name, next == high);
    free(next);
}

static void print_mapped(const char *name, size_t size) {
    size_t before = mallinfo2().hblks;
    void *block = malloc(size);
    say("%s=%d\n", name, mallinfo2().hblks > before);
    free(block);
}

int main(int argc, char **argv) {
    void *second, *first;
    for (int i = 1; i < argc; i++) {
        char *colon = strchr(argv[i], ':');
        if (colon)
            say("mallopt=%d\n", mallopt(atoi(argv[i]), atoi(colon + 1)));
    }
    say("on_quarry=%d\n", quarry_version != NULL);
    say("secure=%d\n", getauxval(AT_SECURE) != 0);
    say("environment=%zu\n", count_environment());
    print_fills();
    print_cached("cached_100", 100);
    print_cached("cached_2000", 2000);
    print_mapped("mapped_40k", 40000);
    print_mapped("mapped_200k", 200000);
    first = malloc(1 << 20);
    size_t before = mallinfo2().hblks;
    second = malloc(1 << 20);
    say("second_mapped=%d\n", mallinfo2().hblks > before);
    free(first);
    free(second);
    print_descriptors();
    return finish();
}
