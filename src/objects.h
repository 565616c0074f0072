/* SPDX-License-Identifier: MIT
 *
 * objects.h: object caches, for those who list and repair them.  The rest is public: quarry.h.
 */
#ifndef QUARRY_OBJECTS_H
#define QUARRY_OBJECTS_H

#include "base.h"

/* Fork repair: rebuilds the lists of caches that another thread was cut in. */
void objects_repair(void);

#endif
