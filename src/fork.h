/* SPDX-License-Identifier: MIT
 *
 * fork.h: noticing that this process is a fork child, and repairing what the fork cut.
 */
#ifndef QUARRY_FORK_H
#define QUARRY_FORK_H

#include "base.h"

/* A word that reads 1 until the process forks, then 0 in the child.  Called once. */
uint32_t *fork_watch(void);
void fork_watch_late(void); /* called once after it, when allocating is possible */

/* Repairs everything and sets the word to 1; threads that come meanwhile wait. */
void fork_repair(uint32_t *word);

#endif
