/* SPDX-License-Identifier: MIT
 *
 * credit: how much time giving memory back by itself may take.
 *
 * PURPOSE  Make the cost of giving back a share of the program's own time, whatever it does.
 *
 * RULE     Calls, pages purged, and the faults on pages that are wanted again are charged by what they cost in general.
 *          They are paid from CREDIT_FIRST_NS, what growing has earned (up to BURST_NS), then SHARE_PERCENT of the CPU time
 *          that the process uses, or REST_PERCENT of the time that passes if that is more: a program that hardly works any
 *          longer pays its debts as well, and then gives back.  Nobody has more than BURST_NS.
 *          Holes leave RUNS_NS.  Where a trim threshold is set they alone are charged, to SET_SHARE_PERCENT, and a
 *          debt of BURST_NS.
 *
 * LOCKING  None: all is relaxed, and a look lost to another thread's is made up for by the next.
 */
#include "lock.h"
#include "os.h"
#include "page_internal.h"

#define S page_state

enum { SHARE_PERCENT = 3, SET_SHARE_PERCENT = 10, REST_PERCENT = 1 };

void purge_spend(uint64_t ns) {
    __atomic_fetch_sub(&S.credit_ns, (int64_t)ns, __ATOMIC_RELAXED);
}

uint64_t purge_calls_ns(size_t calls, size_t pages) {
    uint64_t call_ns = PURGE_CALL_NS + (lock_single_thread() ? 0 : SHOOTDOWN_NS);
    return calls * call_ns + pages * PURGE_NS;
}

void purge_spend_calls(size_t calls, size_t pages) {
    purge_spend(purge_calls_ns(calls, pages));
}

/* What has to go whatever it costs is not charged, lest nothing be left for holes. */
void purge_spend_on_runs(uint64_t ns) {
    if (!LOAD_RELAXED(S.trim_threshold_set))
        purge_spend(ns);
}

void purge_spend_faults(size_t pages) {
    purge_spend(pages * FAULT_NS);
}

static unsigned share_percent(void) {
    return LOAD_RELAXED(S.trim_threshold_set) ? SET_SHARE_PERCENT : SHARE_PERCENT;
}

/* Time since the last call with that note; 0 for the first. */
static uint64_t since(uint64_t *note, uint64_t now, uint64_t first) {
    uint64_t last = __atomic_exchange_n(note, now, __ATOMIC_RELAXED);
    last = last ? last : first;
    return now > last ? now - last : 0;
}

/* Credits what the process has worked since the last time. */
static void earn_credit(uint64_t now) {
    uint64_t worked = since(&S.credited_cpu_ns, os_cpu_ns(), 0) * share_percent() / 100;
    uint64_t passed = since(&S.credited_ns, now, now) * REST_PERCENT / 100;
    int64_t room = (int64_t)BURST_NS - LOAD_RELAXED(S.credit_ns);
    if (room > 0)
        __atomic_fetch_add(&S.credit_ns,
                           (int64_t)min_size(max_size(worked, passed), (uint64_t)room),
                           __ATOMIC_RELAXED);
}

/* A page that is given back once costs less than the fault that brought it.  So a heap of some hundred
 * megabytes may shrink at once, and a short program with a small one is not made to fault twice. */
void purge_earn_growth(size_t pages) {
    uint64_t earned = min_size(pages * GROWTH_NS, BURST_NS - CREDIT_FIRST_NS - S.growth_ns);
    S.growth_ns += earned;
    __atomic_fetch_add(&S.credit_ns, (int64_t)earned, __ATOMIC_RELAXED);
}

bool purge_debt_is_bearable(void) {
    return LOAD_RELAXED(S.credit_ns) > -(int64_t)BURST_NS;
}

/* How long a program that does nothing else but work takes to earn so much. */
static uint64_t time_to_earn(int64_t ns) {
    return (uint64_t)ns * 100 / share_percent();
}

/* The CPU clock is a system call: it is not read before what is missing can be there.  A clock that was set back, as in a
 * process that is restored elsewhere, does not put that off. */
bool purge_affordable(enum purge_kind kind) {
    bool set = LOAD_RELAXED(S.trim_threshold_set);
    int64_t reserve = set ? -(int64_t)BURST_NS : kind == PURGE_HOLES ? (int64_t)RUNS_NS : 0;
    int64_t missing = reserve - LOAD_RELAXED(S.credit_ns);
    if ((kind == PURGE_RUNS && set) || missing < 0)
        return true;
    uint64_t now = os_clock_ns(), retry = LOAD_RELAXED(S.credit_retry_ns[kind]);
    if (now < retry && retry - now <= time_to_earn(missing))
        return false;
    earn_credit(now);
    missing = reserve - LOAD_RELAXED(S.credit_ns);
    if (missing >= 0)
        STORE_RELAXED(S.credit_retry_ns[kind], now + time_to_earn(missing));
    return missing < 0;
}
