/* SPDX-License-Identifier: MIT
 *
 * A program of a user of the installed library; valid as C and as C++.  Its blocks pass between
 * malloc and the prefixed functions, which works only where Quarry is its malloc.
 */
#include <quarry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *block = (char *)malloc(100);
    if (!block || quarry_malloc_usable_size(block) < 100)
        return 1;
    memset(block, 'q', 100);
    block = (char *)quarry_realloc(block, 100000);
    if (!block || malloc_usable_size(block) < 100000 || block[0] != 'q' || block[99] != 'q')
        return 2;
    free(block);
    quarry_free(memalign(256, 10));
    puts(quarry_version());
    return 0;
}
