/* SPDX-License-Identifier: MIT
 *
 * play.h: plays a trace on the malloc that this process has.
 */
#ifndef TRACE_PLAY_H
#define TRACE_PLAY_H

#include "reader.h"

struct playing {
    const struct trace *trace;
    bool verify; /* write and check every byte */
};

/* What was found whole, the same under every allocator. */
struct played {
    uint64_t calls, verified, checksum;
    double seconds;
};

/* Makes the tables; call before the level of RSS is noted. */
void play_prepare(const struct playing *playing);
/* Plays everything; exits with one line if a block has lost its content or memory runs out. */
struct played play(void);
/* Checks the blocks that the program never freed, adding to what was found whole. */
void play_check_rest(struct played *played);

#endif /* TRACE_PLAY_H */
