/* SPDX-License-Identifier: MIT
 *
 * heaps.h: first-class heaps, for those who repair them.  The rest is public: quarry.h.
 */
#ifndef QUARRY_HEAPS_H
#define QUARRY_HEAPS_H

#include "base.h"

/* Fork repair: rebuilds the heaps that another thread was cut in. */
void heaps_repair(void);

#endif
