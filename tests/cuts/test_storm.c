/* SPDX-License-Identifier: MIT
 * runner: timeout=900
 *
 * test_storm.c: threads allocate and come and go as fast as they can while the process forks, and
 * each child is checked.
 */
#include "child_support.h"
#include "ledger_support.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum {
    THREADS = 4,
    FORKS = 2000,
    AT_ONCE = 3,
    HANG_SECONDS = 100,
    SLOTS_EACH = 150,
    OPERATIONS = 2000, /* of one thread, then another takes its place */
};

#define IN_HANDS (16 * MIB) /* what threads hold in their hands at any time: runs, above all */

static atomic_bool stop;
static uint64_t seed;

static void operate(struct rng *rng, unsigned first) {
    unsigned slot = first + (unsigned)rng_below(rng, SLOTS_EACH);
    size_t size = rng_below(rng, (size_t)16 << rng_below(rng, 15)) + 1;
    size_t dice = rng_below(rng, 100);
    if (!ledger_live(slot)) {
        if (dice < 10)
            ledger_take_aligned(slot, (size_t)16 << dice, size);
        else if (dice < 15)
            ledger_take_zero(slot, size);
        else
            ledger_take(slot, size);
    } else if (dice < 20) {
        ledger_resize(slot, size);
    } else {
        ledger_give(slot);
    }
    if (rng_below(rng, 500) == 0)
        quarry_malloc_trim(0);
}

struct turn {
    unsigned thread;
    uint64_t seed;
};

static void *take_turn(void *argument) {
    const struct turn *turn = argument;
    struct rng rng = {turn->seed};
    for (unsigned i = 0; i < OPERATIONS && !atomic_load(&stop); i++)
        operate(&rng, LEDGER_CUT + turn->thread * SLOTS_EACH);
    return NULL;
}

static void *keep_running(void *argument) {
    struct turn turn = {(unsigned)(uintptr_t)argument, mix64(seed + (uintptr_t)argument)};
    while (!atomic_load(&stop)) {
        pthread_t thread;
        must(pthread_create(&thread, NULL, take_turn, &turn) == 0);
        must(pthread_join(thread, NULL) == 0);
        turn.seed = mix64(turn.seed);
    }
    return NULL;
}

static void reap(void) {
    int status = 0;
    must(wait(&status) > 0);
    if (status != 0)
        fprintf(stderr, "# a child ended with status 0x%x\n", (unsigned)status);
    must(status == 0);
}

static void fork_and_check(unsigned number) {
    pid_t pid = number % 2 ? fork() : _Fork();
    must(pid >= 0);
    if (pid > 0)
        return;
    alarm(HANG_SECONDS);
    struct expectation expectation = {number, 64 << number % 8, IN_HANDS};
    child_check(&expectation);
    _exit(0);
}

static void run_storm(void) {
    pthread_t keeper[THREADS];
    must(quarry_mallopt(M_TRIM_THRESHOLD, MIB) == 1);
    for (unsigned i = 0; i < 40; i++)
        ledger_take(LEDGER_SETUP + i, 16 << i % 14);
    for (uintptr_t i = 0; i < THREADS; i++)
        must(pthread_create(&keeper[i], NULL, keep_running, (void *)i) == 0);
    for (unsigned number = 0; number < FORKS; number++) {
        if (number >= AT_ONCE)
            reap();
        fork_and_check(number);
    }
    for (unsigned i = 0; i < AT_ONCE; i++)
        reap();
    atomic_store(&stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        must(pthread_join(keeper[i], NULL) == 0);
    child_verify();
    ledger_check();
    ledger_give_live(0, LEDGER_SLOTS);
    quarry_malloc_trim(0);
    child_verify();
    must(child_bytes_in_use() == 0);
}

static void children_of_a_storm_are_whole(void **state) {
    (void)state;
    seed = test_seed();
    assert_child_succeeds(run_storm);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(children_of_a_storm_are_whole)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
