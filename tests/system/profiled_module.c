/* SPDX-License-Identifier: MIT
 *
 * profiled_module.c: a library that allocates (test_profile.py).
 */
#include <stdlib.h>

void *module_keep(size_t size, void *(*allocate)(size_t));

void *module_keep(size_t size, void *(*allocate)(size_t)) {
    void *block = malloc(size);
    return block != NULL ? allocate(size) : NULL;
}
