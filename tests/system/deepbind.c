/* SPDX-License-Identifier: MIT
 *
 * Frees blocks that a module with another malloc has made.
 *
 * usage: deepbind MODULE, with Quarry preloaded
 */
#include "self_check.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>

int main(int argc, char **argv) {
    static const size_t sizes[] = {10, 1000, 50000, 1 << 20};
    MUST(argc == 2);
    void *handle = dlopen(argv[1], RTLD_NOW | RTLD_DEEPBIND);
    if (!handle)
        say("%s\n", dlerror());
    MUST(handle);
    void *(*take)(size_t) = (void *(*)(size_t))dlsym(handle, "module_take");
    size_t (*in_use)(void) = (size_t(*)(void))dlsym(handle, "module_in_use");
    MUST(take && in_use);
    size_t taken = 0, before = in_use();
    void *blocks[8];
    for (int i = 0; i < 8; i++) {
        blocks[i] = take(sizes[i % 4]);
        taken += sizes[i % 4];
        MUST(blocks[i]);
    }
    CHECK(in_use() >= before + taken); /* libc's figures: the module does use libc's malloc */
    say("first block %p\n", blocks[0]);
    errno = 7;
    for (int i = 0; i < 8; i++)
        free(blocks[i]);
    CHECK(errno == 7);
    say("given back: %s\n", in_use() < before + sizes[3] ? "yes" : "no");
    char *own = strdup("still fine");
    CHECK(strcmp(own, "still fine") == 0);
    free(own);
    return finish();
}
