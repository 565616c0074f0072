/* SPDX-License-Identifier: MIT
 *
 * Two threads allocate small blocks in turn; how many pairs of 64-byte lines hold blocks of both?
 *
 * usage: lanes SIZE    prints the number
 */
#include "self_check.h"

#include <pthread.h>

enum { BLOCKS = 600, PAIR = 128 };

static pthread_barrier_t step;
static size_t size;

static void *allocate(void *blocks) {
    for (unsigned i = 0; i < BLOCKS; i++) {
        pthread_barrier_wait(&step);
        ((uintptr_t *)blocks)[i] = (uintptr_t)malloc(size);
    }
    return NULL;
}

static int touches(const uintptr_t *blocks, uintptr_t pair) {
    for (unsigned i = 0; i < BLOCKS; i++)
        if (blocks[i] / PAIR <= pair && pair <= (blocks[i] + size - 1) / PAIR)
            return 1;
    return 0;
}

int main(int count, char **arguments) {
    static uintptr_t blocks[2][BLOCKS];
    pthread_t threads[2];
    unsigned shared = 0;
    uintptr_t last = 0;
    if (count != 2 || (size = strtoul(arguments[1], NULL, 10)) == 0)
        return 2;
    if (pthread_barrier_init(&step, NULL, 2) != 0)
        return 3;
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, allocate, blocks[i]) != 0)
            return 3;
    for (int i = 0; i < 2; i++)
        if (pthread_join(threads[i], NULL) != 0)
            return 3;
    for (unsigned i = 0; i < BLOCKS; i++)
        for (uintptr_t pair = blocks[0][i] / PAIR; pair <= (blocks[0][i] + size - 1) / PAIR; pair++)
            if (pair != last && touches(blocks[1], pair)) {
                shared++;
                last = pair;
            }
    printf("%u\n", shared);
    return 0;
}
