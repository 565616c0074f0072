/* SPDX-License-Identifier: MIT
 *
 * test_page_credit.c: the time that giving back may take.
 */
#include "run_support.h"

#include "page_internal.h"

#define SECOND_NS ((uint64_t)1000 * 1000 * 1000)

/* No CPU time passes, and none is left to be credited. */
static void stop_time(int64_t credit_ns) {
    fake_os.clock_step_ns = 0;
    page_state.credited_cpu_ns = UINT64_MAX;
    page_state.credit_ns = credit_ns;
}

/* Growing earns time, up to a burst; to shrink and grow again earns nothing. */
static void growing_earns_time(void) {
    must(page_state.credit_ns == (int64_t)CREDIT_FIRST_NS);
    uintptr_t run = take_dirty(1000);
    struct page_counts now;
    page_count(&now);
    int64_t earned = (int64_t)((now.peak_zone_bytes >> PAGE_SHIFT) * GROWTH_NS);
    must(page_state.credit_ns == (int64_t)CREDIT_FIRST_NS + earned);
    must(page_run_give(run));
    page_trim(0);
    int64_t credit = page_state.credit_ns;
    take_dirty(900);
    must(page_state.credit_ns <= credit);
    must(page_run_take(60000, PAGE_BYTES, &(bool){false}) != 0);
    must(page_state.growth_ns == BURST_NS - CREDIT_FIRST_NS);
    must_be_sound();
}

static void holes_leave_time_for_runs(void) {
    stop_time((int64_t)RUNS_NS);
    must(purge_affordable(PURGE_RUNS) && !purge_affordable(PURGE_HOLES));
    stop_time((int64_t)RUNS_NS + 1);
    must(purge_affordable(PURGE_HOLES));
    stop_time(0);
    must(!purge_affordable(PURGE_RUNS));
    page_set_trim_threshold(MIB); /* then runs need none */
    stop_time(1);
    must(purge_affordable(PURGE_HOLES));
}

/* They are limited in time where a threshold is set as well, and runs are not charged. */
static void holes_have_a_tenth_under_a_threshold(void) {
    fake_os.clock_step_ns = 0;
    page_set_trim_threshold(MIB);
    uintptr_t run = take_dirty(1000);
    page_state.credited_cpu_ns = fake_os.clock_ns;
    page_state.credit_ns = -(int64_t)BURST_NS;
    must(purge_affordable(PURGE_RUNS) && !purge_affordable(PURGE_HOLES));
    must(page_run_give(run) && take_dirty(1000) == run && give_back_calls() > 0);
    must(page_state.credit_ns == -(int64_t)BURST_NS);
    fake_os.clock_ns += 1000;
    must(purge_affordable(PURGE_HOLES) && page_state.credit_ns == 100 - (int64_t)BURST_NS);
}

/* Time that passes, of which the process works a part. */
static void pass(uint64_t ns, uint64_t worked_ns) {
    fake_os.clock_ns += ns;
    fake_os.idle_ns += ns - worked_ns;
}

static void begin_in_debt(int64_t debt_ns) {
    fake_os.clock_step_ns = 0;
    page_state.credit_ns = 0;
    purge_affordable(PURGE_RUNS); /* notes what has passed so far */
    page_state.credit_ns = -debt_ns;
    page_state.credit_retry_ns[PURGE_RUNS] = 0;
}

static void who_works_earns_three_percent(void) {
    begin_in_debt(30 * 1000 * 1000);
    pass(SECOND_NS, SECOND_NS);
    must(!purge_affordable(PURGE_RUNS) && page_state.credit_ns == 0);
    pass(SECOND_NS / 1000, SECOND_NS / 1000);
    must(purge_affordable(PURGE_RUNS) && page_state.credit_ns == 30 * 1000);
    page_state.credit_ns = 0;
    page_state.credit_retry_ns[PURGE_RUNS] = 0;
    pass(1000 * SECOND_NS, 1000 * SECOND_NS);
    must(purge_affordable(PURGE_RUNS) && page_state.credit_ns == (int64_t)BURST_NS);
}

/* It is not the program that waits for its debts to be paid. */
static void who_rests_earns_a_hundredth(void) {
    begin_in_debt(90 * 1000 * 1000);
    for (int i = 0; i < 9; i++) {
        must(!purge_affordable(PURGE_RUNS));
        pass(SECOND_NS, SECOND_NS / 10);
    }
    page_state.credit_retry_ns[PURGE_RUNS] = 0;
    must(!purge_affordable(PURGE_RUNS) && page_state.credit_ns == 0);
    pass(SECOND_NS, SECOND_NS / 10);
    must(purge_affordable(PURGE_RUNS) && page_state.credit_ns == 10 * 1000 * 1000);
}

/* A heap that stops gives back although it had breathed on credit. */
static void a_debt_of_faults_is_paid_by_time(void) {
    uintptr_t run = take_dirty(20000), small = take_dirty(1);
    fake_os.clock_step_ns = 0;
    page_state.credit_ns = -90 * 1000 * 1000;
    page_state.budget_pages = 0;
    must(page_run_give(run));
    for (int i = 0; i < 60 && dirty_bytes() > 2 * MIB; i++) {
        pass(SECOND_NS, 1000 * 1000);
        must(page_run_give(small));
        small = take_dirty(1);
        page_settle_old();
    }
    must(dirty_bytes() <= 2 * MIB);
    must_be_sound();
}

/* The CPU clock is a system call: it is read when the debt may be paid, and no sooner. */
static void the_clock_is_not_read_in_vain(void) {
    begin_in_debt(30 * 1000 * 1000);
    must(!purge_affordable(PURGE_RUNS));
    uint64_t noted = page_state.credited_cpu_ns;
    pass(SECOND_NS / 2, SECOND_NS / 2);
    must(!purge_affordable(PURGE_RUNS) && page_state.credited_cpu_ns == noted);
    pass(SECOND_NS / 2, SECOND_NS / 2);
    must(!purge_affordable(PURGE_RUNS) && page_state.credited_cpu_ns != noted);
}

static void a_clock_set_back_puts_nothing_off(void) {
    fake_os.clock_ns = 1000000 * SECOND_NS;
    begin_in_debt(30 * 1000 * 1000);
    must(!purge_affordable(PURGE_RUNS));
    fake_os.clock_ns = 10 * SECOND_NS;
    must(!purge_affordable(PURGE_RUNS)); /* notes the new time */
    pass(SECOND_NS + 1000, SECOND_NS + 1000);
    must(purge_affordable(PURGE_RUNS));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(growing_earns_time),
        body_test(holes_leave_time_for_runs),
        body_test(holes_have_a_tenth_under_a_threshold),
        body_test(who_works_earns_three_percent),
        body_test(who_rests_earns_a_hundredth),
        body_test(a_debt_of_faults_is_paid_by_time),
        body_test(the_clock_is_not_read_in_vain),
        body_test(a_clock_set_back_puts_nothing_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
