/* SPDX-License-Identifier: MIT
 *
 * A module that is loaded with RTLD_DEEPBIND, so that it finds libc's names before the program's.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

void *module_take(size_t bytes);
void *module_grow(void *block, size_t bytes);
void module_give(void *block);
void *module_keepsake(void);
int module_rand(void);

static char *keepsake;

/* Before dlopen returns. */
static __attribute__((constructor)) void begin(void) {
    keepsake = strdup("made by a constructor");
}

void *module_take(size_t bytes) {
    void *block = malloc(bytes);
    return block ? memset(block, 'm', bytes) : NULL;
}

void *module_grow(void *block, size_t bytes) {
    return realloc(block, bytes);
}

void module_give(void *block) {
    free(block);
}

void *module_keepsake(void) {
    return keepsake;
}

int module_rand(void) {
    return rand();
}
