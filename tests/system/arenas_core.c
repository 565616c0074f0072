/* SPDX-License-Identifier: MIT
 *
 * A thread that has to wait for others again and again, until it has had every lock shard that there
 * may be; then what malloc_info and malloc_stats say of them.
 *
 * usage: arenas_core ROUNDS [NUMBER=VALUE ...]    after mallopt(NUMBER, VALUE); alone on one processor
 */
#include "../contend.h"
#include "self_check.h"

#include <quarry.h>

/* So that the number of processors is the same everywhere. */
static void use_one_processor(void) {
    cpu_set_t allowed, one;
    MUST(sched_getaffinity(0, sizeof allowed, &allowed) == 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &allowed)) {
            CPU_SET(i, &one);
            break;
        }
    MUST(sched_setaffinity(0, sizeof one, &one) == 0);
}

static void set_parameters(int count, char **arguments) {
    for (int i = 0; i < count; i++) {
        int number, value;
        MUST(sscanf(arguments[i], "%d=%d", &number, &value) == 2);
        MUST(quarry_mallopt(number, value) == 1);
    }
}

/* Leaves slabs with free objects in each shard that it comes to. */
static void wait_often(long rounds) {
    enum { KEPT = 20 };
    static struct contender contender;
    void *kept[KEPT];
    MUST(contender_start(&contender));
    for (long i = 0; i < rounds; i++) {
        contend(&contender);
        if (slab_home.shard == contender.shard)
            continue;
        slab_home.shard = contender.shard;
        for (unsigned k = 0; k < KEPT; k++)
            MUST(kept[k] = quarry_malloc(16 + 100 * k));
        for (unsigned k = 0; k < KEPT; k += 2)
            quarry_free(kept[k]);
    }
    MUST(contender_end(&contender));
}

int main(int count, char **arguments) {
    MUST(count >= 2);
    use_one_processor();
    quarry_free(quarry_malloc(1));
    MUST(quarry_mallopt(QUARRY_M_TCACHE_COUNT, 0) == 1);
    set_parameters(count - 2, arguments + 2);
    wait_often(atol(arguments[1]));
    quarry_malloc_stats();
    MUST(quarry_malloc_info(0, stdout) == 0);
    MUST(fflush(stdout) == 0);
    _exit(check_failures != 0);
}
