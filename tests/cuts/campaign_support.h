/* SPDX-License-Identifier: MIT
 *
 * campaign_support.h: forks at every store of a scenario, and checks every child.
 */
#ifndef CAMPAIGN_SUPPORT_H
#define CAMPAIGN_SUPPORT_H

#include "scenario_support.h"

enum campaign_mode {
    FORK_BY_ANOTHER,    /* the child has the thread that called _Fork alone */
    FORK_THEN_THREAD,   /* ... and uses the heap first in a thread that it starts */
    FORK_THEN_EXIT,     /* ... and ends its first thread before anything else */
    FORK_THEN_FORK,     /* ... and is cut itself, by forks of its own, while it repairs */
    FORK_BY_CUT_THREAD, /* as from a signal handler: the child goes on in mid-change */
};

struct campaign {
    const struct scenario *scenario;
    enum campaign_mode mode;
    unsigned stride;     /* fork at every stride-th store */
    unsigned offset;     /* ... beginning with this one, from 1 on */
    void (*fault)(void); /* run in each child before anything else */

    /* A second thread stands still at its store held_at meanwhile. */
    const struct scenario *held;
    unsigned held_at;
};

struct result {
    unsigned stores, held_stores; /* that the scenario has */
    unsigned children, failures;
    bool blocked; /* the cut thread had to wait for the held one */
    int status;   /* of the process that the scenario ran in: 0 if all was well in it */
};

/* quiet: failures are expected and not explained. */
struct result campaign_run(const struct campaign *campaign, bool quiet);

struct campaign_way {
    enum campaign_mode mode;
    unsigned stride;
};

/* A cmocka test: all scenarios in one way, a struct campaign_way. */
void campaign_all(void **state);

#endif /* CAMPAIGN_SUPPORT_H */
