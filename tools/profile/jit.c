/* SPDX-License-Identifier: MIT
 *
 * jit.c
 *
 * PURPOSE  Notices that unwind tables are registered at run time, as compilers of LLVM do. libgcc
 *          then keeps them under a lock, allocates while it holds it, and takes it in each search.
 */
#include <dlfcn.h>
#include <string.h>

#include "sampler.h"

#define REGISTERS(name, parameters, arguments)                   \
    __attribute__((visibility("default"))) void name parameters; \
    void name parameters {                                       \
        __typeof__(&(name)) following = NULL;                    \
        find(&following, #name);                                 \
        following arguments;                                     \
    }

static void find(void *pointer, const char *name) {
    sampler_unwinder_locks();
    void *function = dlsym(RTLD_NEXT, name);
    memcpy(pointer, &function, sizeof function);
}

REGISTERS(__register_frame, (void *begin), (begin))
REGISTERS(__register_frame_table, (void *begin), (begin))
REGISTERS(__register_frame_info, (const void *begin, void *object), (begin, object))
REGISTERS(__register_frame_info_table, (void *begin, void *object), (begin, object))
REGISTERS(__register_frame_info_bases, (const void *begin, void *object, void *text, void *data),
          (begin, object, text, data))
REGISTERS(__register_frame_info_table_bases, (void *begin, void *object, void *text, void *data),
          (begin, object, text, data))
