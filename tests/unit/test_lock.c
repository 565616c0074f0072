/* SPDX-License-Identifier: MIT
 *
 * test_lock.c: mutual exclusion, sleeping and waking, ranks, recursion, and what a fork child sees.
 */
#include "unit_support.h"

#include "lock.h"

#include <pthread.h>
#include <semaphore.h>

enum { THREADS = 8, ROUNDS = 20000 };

static struct lock lock = LOCK_INITIALISER(LOCK_PAGE);
static struct lock low = LOCK_INITIALISER(LOCK_CLASS);
static size_t plain, other; /* guarded by lock */

static void *count_under_lock(void *argument) {
    (void)argument;
    for (size_t i = 0; i < ROUNDS; i++) {
        lock_take(&lock);
        must(lock_held(&lock));
        size_t seen = plain;
        must(other == seen);
        plain = seen + 1;
        if (i % 64 == 0)
            sched_yield(); /* makes others wait, and sleep */
        other++;
        lock_drop(&lock);
    }
    return NULL;
}

static void only_one_thread_is_inside(void) {
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, count_under_lock, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_join(threads[i], NULL) == 0);
    must(plain == (size_t)THREADS * ROUNDS && other == plain);
    must(lock.word == 0);
}

static sem_t taken, release;

static void *hold(void *argument) {
    (void)argument;
    lock_take(&lock);
    sem_post(&taken);
    sem_wait(&release);
    lock_drop(&lock);
    return NULL;
}

/* Starts a thread and returns when it holds the lock. */
static pthread_t start_holder(void) {
    pthread_t thread;
    sem_init(&taken, 0, 0);
    sem_init(&release, 0, 0);
    must(pthread_create(&thread, NULL, hold, NULL) == 0);
    sem_wait(&taken);
    return thread;
}

static void *take_and_drop(void *argument) {
    (void)argument;
    lock_take(&lock);
    plain++;
    lock_drop(&lock);
    return NULL;
}

static void sleepers_are_all_woken(void) {
    pthread_t holder = start_holder(), sleepers[THREADS];
    must(!lock_held(&lock) && lock.word != 0);
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_create(&sleepers[i], NULL, take_and_drop, NULL) == 0);
    while (__atomic_load_n(&fake_os.waits, __ATOMIC_RELAXED) < THREADS)
        sched_yield();
    must(lock.word & 1);
    sem_post(&release);
    must(pthread_join(holder, NULL) == 0);
    for (size_t i = 0; i < THREADS; i++)
        must(pthread_join(sleepers[i], NULL) == 0);
    must(plain == THREADS && lock.word == 0);
}

/* While there was never a second thread, no wake is due and no word keeps a trace. */
static void one_thread_makes_no_calls(void) {
    must(lock_single_thread());
    for (size_t i = 0; i < 1000; i++) {
        lock_take(&lock);
        must(lock_held(&lock) && (lock.word & 1) == 0);
        lock_drop(&lock);
        must(!lock_held(&lock) && lock.word == 0);
    }
    must(fake_os.waits == 0 && fake_os.wakes == 0);
}

static void *report_self(void *argument) {
    *(uint64_t *)argument = lock_self();
    return NULL;
}

static void every_thread_has_a_word(void) {
    uint64_t of_thread = 0;
    must(lock_self() == lock_self() && lock_self() % 2 == 0 && lock_self() != 0);
    in_thread(report_self, &of_thread);
    must(of_thread % 2 == 0 && of_thread != 0 && of_thread != lock_self());
    must(!lock_single_thread());
}

/* ---- ranks and recursion ------------------------------------------------------------------------- */

static void ranks_may_rise(void) {
    lock_take(&low);
    lock_take(&lock);
    lock_drop(&lock);
    lock_take(&lock);
    lock_drop(&low); /* in any order */
    lock_drop(&lock);
    lock_take(&low);
    lock_drop(&low);
}

static void take_downwards(void) {
    lock_take(&lock);
    lock_take(&low);
}

static void take_an_equal_rank(void) {
    static struct lock equal = LOCK_INITIALISER(LOCK_PAGE);
    lock_take(&lock);
    lock_take(&equal);
}

static void drop_what_is_not_held(void) {
    lock_drop(&lock);
}

static bool trapped(struct outcome outcome) {
    return died_of(outcome, SIGILL) || died_of(outcome, SIGTRAP);
}

static void wrong_orders_trap(void **state) {
    (void)state;
    assert_true(trapped(run_and_catch(take_downwards)));
    assert_true(trapped(run_and_catch(take_an_equal_rank)));
    assert_true(trapped(run_and_catch(drop_what_is_not_held)));
}

static void take_twice(void) {
    lock_take(&lock);
    lock_take(&lock);
}

static void take_twice_among_threads(void) {
    sem_init(&release, 0, 0);
    pthread_t thread;
    lock_take(&lock);
    must(pthread_create(&thread, NULL, take_and_drop, NULL) == 0);
    while (__atomic_load_n(&fake_os.waits, __ATOMIC_RELAXED) == 0)
        sched_yield();
    lock_take(&lock); /* its word has the sleepers' bit now */
}

static void recursion_is_reported(void **state) {
    (void)state;
    void (*const bodies[])(void) = {take_twice, take_twice_among_threads};
    for (size_t i = 0; i < COUNT_OF(bodies); i++) {
        struct outcome outcome = run_and_catch(bodies[i]);
        assert_true(died_of(outcome, SIGABRT));
        static const char expected[] = "quarry: a signal handler called the allocator while it "
                                       "interrupted the allocator; ";
        assert_memory_equal(outcome.text, expected, sizeof expected - 1);
        assert_ptr_equal(strchr(outcome.text, '\n'), outcome.text + strlen(outcome.text) - 1);
    }
}

/* ---- fork ---------------------------------------------------------------------------------------- */

static void a_lock_of_a_missing_thread_is_broken(void) {
    pthread_t holder = start_holder();
    must(lock_broken(&lock)); /* as it would be in a child */
    pid_t pid = fork();
    if (pid == 0) {
        must(lock_broken(&lock) && !lock_held(&lock));
        lock_repair(&lock);
        must(!lock_broken(&lock) && lock.word == 0);
        lock_take(&lock);
        must(lock_held(&lock) && !lock_broken(&lock));
        lock_drop(&lock);
        _exit(0);
    }
    must(wait_for(pid) == 0);
    sem_post(&release);
    must(pthread_join(holder, NULL) == 0);
    must(!lock_broken(&lock));
}

/* A handler's fork: the child goes on under the lock. */
static void a_lock_of_the_forking_thread_is_not(void) {
    uint64_t unused;
    in_thread(report_self, &unused);
    lock_take(&lock);
    pid_t pid = fork();
    if (pid == 0) {
        must(lock_held(&lock) && !lock_broken(&lock));
        lock_drop(&lock);
        must(!lock_broken(&lock));
        _exit(0);
    }
    must(wait_for(pid) == 0);
    lock_drop(&lock);
}

static void a_broken_lock_with_sleepers_is_repaired(void) {
    lock.word = 0x5000 | 1;
    must(lock_broken(&lock));
    lock_repair(&lock);
    lock_take(&lock);
    lock_drop(&lock);
    must(lock.word == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(only_one_thread_is_inside),
        body_test(sleepers_are_all_woken),
        body_test(one_thread_makes_no_calls),
        body_test(every_thread_has_a_word),
        body_test(ranks_may_rise),
        cmocka_unit_test(wrong_orders_trap),
        cmocka_unit_test(recursion_is_reported),
        body_test(a_lock_of_a_missing_thread_is_broken),
        body_test(a_lock_of_the_forking_thread_is_not),
        body_test(a_broken_lock_with_sleepers_is_repaired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
