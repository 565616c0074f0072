/* SPDX-License-Identifier: MIT
 *
 * slabs: a thousand objects each of a few sizes; then every second one is freed.
 */
#include "step.h"

enum { OBJECTS = 1000, SIZES = 6 };
static const size_t sizes[SIZES] = {16, 24, 100, 1000, 1024, 4096};
static char *objects[SIZES][OBJECTS];

int main(void) {
    for (int size = 0; size < SIZES; size++)
        for (int i = 0; i < OBJECTS; i++)
            objects[size][i] = written(sizes[size]);
    say("1000 objects each of 16, 24, 100, 1000, 1024 and 4096 bytes");
    wait_for_enter();
    for (int size = 0; size < SIZES; size++)
        for (int i = 0; i < OBJECTS; i += 2)
            free(objects[size][i]);
    say("every second one is free");
    wait_for_enter();
    return 0;
}
