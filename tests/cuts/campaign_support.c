/* SPDX-License-Identifier: MIT */
#include "campaign_support.h"

#include "cache_internal.h"

#include "child_support.h"
#include "cut_support.h"
#include "ledger_support.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

enum { CHILDREN_AT_ONCE = 3, EXPLAINED_FAILURES = 5, HANG_SECONDS = 60, HANG_SECONDS_FAULTY = 10 };

/* Of the process that one scenario runs in. */
static const struct campaign *campaign;
static struct result *result; /* shared with the process that asked for it */
static bool quiet_failures;
static bool is_child;

static struct worker {
    const struct scenario *scenario;
    unsigned first;
    struct cutter cutter;
    pthread_t thread, watcher;
} cut_one, held_one;

/* ---- Children ---------------------------------------------------------------------------------- */

static struct child {
    pid_t pid;
    unsigned store;
    uintptr_t pc, address;
} running[CHILDREN_AT_ONCE];

static void explain(const struct child *child, int status) {
    if (quiet_failures || result->failures > EXPLAINED_FAILURES)
        return;
    char text[300];
    int length =
        snprintf(text, sizeof text, "# %s: cut at store %u of 0x%zx by the code at 0x%zx: %s %d\n",
                 campaign->scenario->name, child->store, (size_t)child->address,
                 (size_t)cut_offset(child->pc), WIFSIGNALED(status) ? "signal" : "exit",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    if (write(STDERR_FILENO, text, (size_t)length) < 0)
        _exit(2);
}

static void reap_one(void) {
    int status;
    pid_t pid = waitpid(-1, &status, 0);
    must(pid > 0);
    for (unsigned i = 0; i < CHILDREN_AT_ONCE; i++) {
        if (running[i].pid != pid)
            continue;
        if (status != 0) {
            __atomic_fetch_add(&result->failures, 1, __ATOMIC_RELAXED);
            explain(&running[i], status);
        }
        running[i].pid = 0;
        return;
    }
    must(!"a child that was started");
}

static struct child *free_place(void) {
    for (;;) {
        for (unsigned i = 0; i < CHILDREN_AT_ONCE; i++)
            if (running[i].pid == 0)
                return &running[i];
        reap_one();
    }
}

static void reap_all(void) {
    for (unsigned i = 0; i < CHILDREN_AT_ONCE; i++)
        while (running[i].pid != 0)
            reap_one();
}

static struct expectation expectation(unsigned store) {
    size_t held = campaign->held ? campaign->held->leak_bytes : 0;
    return (struct expectation){store, campaign->scenario->focus,
                                campaign->scenario->leak_bytes + held};
}

static void begin_child(void) {
    is_child = true;
    alarm(campaign->fault ? HANG_SECONDS_FAULTY : HANG_SECONDS);
    if (quiet_failures)
        must(freopen("/dev/null", "w", stderr) != NULL);
    if (campaign->fault)
        campaign->fault();
}

static void *use_in_thread(void *unused) {
    (void)unused;
    child_use_heap(campaign->scenario->focus, 1);
    return NULL;
}

/* The new thread repairs what the fork cut, and both go on at once. */
static void check_with_thread(unsigned store) {
    pthread_t thread;
    must(pthread_create(&thread, NULL, use_in_thread, NULL) == 0);
    if (store % 2 == 0)
        must(pthread_join(thread, NULL) == 0);
    child_use_heap(campaign->scenario->focus, 0);
    if (store % 2 != 0)
        must(pthread_join(thread, NULL) == 0);
}

static pthread_t first_thread;
static unsigned exit_store;

static void *check_after_exit(void *unused) {
    (void)unused;
    must(pthread_join(first_thread, NULL) == 0);
    struct expectation expected = expectation(exit_store);
    child_check(&expected);
    _exit(0);
}

static _Noreturn void end_first_thread(unsigned store) {
    pthread_t thread;
    first_thread = pthread_self();
    exit_store = store;
    must(pthread_create(&thread, NULL, check_after_exit, NULL) == 0);
    pthread_exit(NULL);
}

static _Noreturn void cut_repair(unsigned store);

/* _Fork runs no handlers; where the child starts threads, fork has to tell libc of it. */
static void fork_here(unsigned store, const struct cutter *cutter) {
    struct child *child = free_place();
    bool alone = campaign->mode == FORK_BY_ANOTHER || campaign->mode == FORK_BY_CUT_THREAD;
    pid_t pid = alone ? _Fork() : fork();
    must(pid >= 0);
    if (pid > 0) {
        *child = (struct child){pid, store, cutter->pc, cutter->address};
        __atomic_fetch_add(&result->children, 1, __ATOMIC_RELAXED);
        return;
    }
    begin_child();
    if (campaign->mode == FORK_BY_CUT_THREAD)
        return;
    if (campaign->mode == FORK_THEN_EXIT)
        end_first_thread(store);
    if (campaign->mode == FORK_THEN_FORK)
        cut_repair(store);
    if (campaign->mode == FORK_THEN_THREAD)
        check_with_thread(store);
    struct expectation expected = expectation(store);
    child_check(&expected);
    _exit(0);
}

/* ---- The threads that are cut ------------------------------------------------------------------ */

static unsigned store_at_fork;

/* The cut thread forks by itself; its child is not cut again. */
static void fork_at_store(struct cutter *cutter) {
    store_at_fork = cutter->stores;
    fork_here(cutter->stores, cutter);
    if (is_child)
        cut_attach(NULL);
    else
        cutter->stop_at = cutter->stores + campaign->stride;
}

static void *work(void *argument) {
    struct worker *worker = argument;
    cut_attach(&worker->cutter);
    worker->scenario->warm(worker->first);
    cut_arm();
    worker->scenario->run(worker->first);
    if (is_child && campaign->mode == FORK_BY_CUT_THREAD) {
        struct expectation expected = expectation(store_at_fork);
        child_check(&expected);
        _exit(0);
    }
    if (!worker->scenario->through_exit)
        cut_disarm();
    return NULL;
}

static void *watch(void *argument) {
    struct worker *worker = argument;
    must(pthread_create(&worker->thread, NULL, work, worker) == 0);
    must(pthread_join(worker->thread, NULL) == 0);
    atomic_store(&worker->cutter.state, CUTTER_FINISHED);
    sem_post(&cut_event);
    return NULL;
}

static void start_worker(struct worker *worker, const struct scenario *scenario, unsigned index) {
    worker->scenario = scenario;
    worker->first = LEDGER_CUT + index * LEDGER_CUT_EACH;
    cut_prepare(&worker->cutter);
    if (campaign->mode == FORK_BY_CUT_THREAD)
        worker->cutter.at_store = fork_at_store;
    must(pthread_create(&worker->watcher, NULL, watch, worker) == 0);
}

static enum cutter_state wait_for_halt(struct worker *worker) {
    for (;;) {
        enum cutter_state state = atomic_load(&worker->cutter.state);
        if (state != CUTTER_RUNNING)
            return state;
        while (sem_wait(&cut_event) != 0)
            must(errno == EINTR);
    }
}

/* True once it is finished; lets it go on where it halts. */
static bool run_on(struct worker *worker) {
    enum cutter_state state = atomic_load(&worker->cutter.state);
    if (state != CUTTER_RUNNING && state != CUTTER_FINISHED)
        cut_release(&worker->cutter, NEVER_STOP);
    return state == CUTTER_FINISHED;
}

/* Both at once, for each may wait for the other. */
static void run_both_to_end(void) {
    bool held = campaign->held != NULL;
    for (;;) {
        bool ends = run_on(&cut_one), held_ends = !held || run_on(&held_one);
        if (ends && held_ends)
            break;
        while (sem_wait(&cut_event) != 0)
            must(errno == EINTR);
    }
    must(pthread_join(cut_one.watcher, NULL) == 0);
    must(!held || pthread_join(held_one.watcher, NULL) == 0);
}

/* Forks wherever the thread halts; ends early where it needs a lock that the held one has. */
static void cut_until_finished(void) {
    enum cutter_state state;
    while ((state = wait_for_halt(&cut_one)) != CUTTER_FINISHED) {
        fork_here(cut_one.cutter.stores, &cut_one.cutter);
        if (state == CUTTER_BLOCKED)
            break;
        cut_release(&cut_one.cutter, cut_one.cutter.stores + campaign->stride);
    }
    result->blocked = state == CUTTER_BLOCKED;
}

/* ---- Forks of a child that repairs ------------------------------------------------------------- */

enum { REPAIR_STRIDE = 61 };

#define ORPHANS_LEFT (2 * MIB) /* in caches, where nobody is left who knows them for orphans */

static void nothing_first(unsigned first) {
    (void)first;
}

static void repair_and_adopt(unsigned first) {
    (void)first;
    quarry_free(quarry_malloc(50000));
    quarry_malloc_trim(0);
}

static void *control_first_thread(void *unused) {
    (void)unused;
    must(wait_for_halt(&cut_one) == CUTTER_READY);
    cut_release(&cut_one.cutter, campaign->offset);
    cut_until_finished();
    return NULL;
}

/* The thread that is cut is a new one, and the first one forks. */
static void cut_new_thread(void) {
    start_worker(&cut_one, campaign->scenario, 0);
    control_first_thread(NULL);
    run_both_to_end();
}

/* The other way round. */
static void cut_first_thread(void) {
    pthread_t controller;
    cut_prepare(&cut_one.cutter);
    must(pthread_create(&controller, NULL, control_first_thread, NULL) == 0);
    cut_attach(&cut_one.cutter);
    cut_arm();
    repair_and_adopt(0);
    cut_disarm();
    cut_attach(NULL);
    atomic_store(&cut_one.cutter.state, CUTTER_FINISHED);
    sem_post(&cut_event);
    must(pthread_join(controller, NULL) == 0);
}

static void cut_repair(unsigned store) {
    static struct scenario scenario;
    static struct campaign repair;
    scenario = *campaign->scenario;
    scenario.warm = nothing_first;
    scenario.run = repair_and_adopt;
    scenario.through_exit = false;
    scenario.leak_bytes += ORPHANS_LEFT;
    repair = (struct campaign){
        &scenario, FORK_BY_ANOTHER, REPAIR_STRIDE, 1 + store % REPAIR_STRIDE, NULL, NULL, 0};
    campaign = &repair;
    memset(running, 0, sizeof running);
    sem_init(&cut_event, 0, 0);
    if (store % 2)
        cut_first_thread();
    else
        cut_new_thread();
    reap_all();
    struct expectation expected = expectation(store);
    child_check(&expected);
    _exit(0);
}

/* ---- The process of a scenario ----------------------------------------------------------------- */

static void check_parent(void) {
    child_verify();
    ledger_check();
    ledger_give_live(0, LEDGER_SLOTS);
    quarry_malloc_trim(0);
    child_verify();
    must(child_bytes_in_use() == 0);
}

/* Looks for idle threads go by the clock: with them no two runs would have the same stores. */
static void look_for_nobody(void) {
    cache_shared.look_ns = UINT64_MAX / 2;
}

static void run_scenario(void) {
    alarm(CHILD_LIMIT_SECONDS);
    look_for_nobody();
    sem_init(&cut_event, 0, 0);
    campaign->scenario->setup();
    start_worker(&cut_one, campaign->scenario, 0);
    must(wait_for_halt(&cut_one) == CUTTER_READY);
    if (campaign->held) {
        start_worker(&held_one, campaign->held, 1);
        must(wait_for_halt(&held_one) == CUTTER_READY);
        cut_release(&held_one.cutter, campaign->held_at);
        wait_for_halt(&held_one);
    }
    cut_release(&cut_one.cutter, campaign->offset);
    if (campaign->mode != FORK_BY_CUT_THREAD)
        cut_until_finished();
    run_both_to_end();
    result->stores = cut_one.cutter.stores;
    result->held_stores = campaign->held ? held_one.cutter.stores : 0;
    reap_all();
    check_parent();
}

struct result campaign_run(const struct campaign *wanted, bool quiet) {
    result = mmap(NULL, sizeof *result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(result != MAP_FAILED);
    campaign = wanted;
    quiet_failures = quiet;
    int status = run_in_child(run_scenario);
    struct result copy = *result;
    copy.status = status;
    munmap(result, sizeof *result);
    return copy;
}

void campaign_all(void **mode) {
    const struct campaign_way *way = *mode;
    unsigned children = 0, failures = 0;
    for (unsigned i = 0; i < scenario_count; i++) {
        if (way->mode == FORK_BY_CUT_THREAD && scenarios[i].through_exit)
            continue;
        struct campaign each = {&scenarios[i], way->mode, way->stride, 1 + i % way->stride, NULL,
                                NULL,          0};
        struct result got = campaign_run(&each, false);
        assert_int_equal(got.status, 0);
        assert_true(got.children >= got.stores / way->stride);
        children += got.children;
        failures += got.failures;
    }
    printf("# at every %u. store: %u forks\n", way->stride, children);
    assert_true(children > scenario_count);
    assert_int_equal(failures, 0);
}
