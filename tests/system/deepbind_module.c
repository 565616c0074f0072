/* SPDX-License-Identifier: MIT
 *
 * A module that is loaded with RTLD_DEEPBIND and so keeps libc's malloc in a program on Quarry.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *module_take(size_t bytes);
size_t module_in_use(void);

void *module_take(size_t bytes) {
    void *block = malloc(bytes);
    return block ? memset(block, 'm', bytes) : NULL;
}

size_t module_in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}
