/* SPDX-License-Identifier: MIT
 *
 * scenario_support.h: one for each slow path.  setup runs in the thread that forks, warm in the
 * thread that is cut; the stores of run are where it is cut.
 */
#ifndef SCENARIO_SUPPORT_H
#define SCENARIO_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>

struct scenario {
    const char *name;
    void (*setup)(void);
    void (*warm)(unsigned first); /* first: its first slot in the ledger */
    void (*run)(unsigned first);
    bool through_exit; /* the thread's end is cut as well */
    size_t focus;
    size_t leak_bytes;
};

extern const struct scenario scenarios[];
extern const unsigned scenario_count;

/* quarantine_support.c */
void setup_quarantine(void);
void run_quarantine(unsigned first);
void run_mode(unsigned first);

/* huge_support.c */
void setup_huge(void);
void run_huge(unsigned first);

/* peak_support.c */
void setup_peak(void);
void run_peak(unsigned first);

/* anything_support.c */
void run_moves(unsigned first);
void run_anything(unsigned first);

/* last_support.c */
void setup_last(void);
void warm_last(unsigned first);
void run_last(unsigned first);
void setup_last_crossing(void);
void run_last_crossing(unsigned first);
void setup_kept(void);
void warm_kept(unsigned first);
void run_kept(unsigned first);

/* drain_support.c */
void setup_drain(void);
void run_drain(unsigned first);

/* The scenario of that name. */
const struct scenario *scenario_named(const char *name);

#endif /* SCENARIO_SUPPORT_H */
