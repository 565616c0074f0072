/* SPDX-License-Identifier: MIT */
#include "cut_support.h"

#include "pagemap.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

sem_t cut_event;
atomic_uint cut_refused;

static __thread struct cutter *own_cutter;
static __thread uintptr_t stack_low, stack_high;

extern char __executable_start[];

uintptr_t cut_offset(uintptr_t pc) {
    return pc - (uintptr_t)__executable_start;
}

void cut_prepare(struct cutter *cutter) {
    memset(cutter, 0, sizeof *cutter);
    sem_init(&cutter->go, 0, 0);
}

/* The thread-local variables lie at the top of a stack (not of the first one); stores to them count. */
void cut_attach(struct cutter *cutter) {
    pthread_attr_t attributes;
    void *low;
    size_t bytes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &low, &bytes);
    pthread_attr_destroy(&attributes);
    stack_low = (uintptr_t)low;
    stack_high = stack_low + bytes;
    if ((uintptr_t)&own_cutter - stack_low < bytes)
        stack_high = (uintptr_t)&own_cutter - 2048;
    own_cutter = cutter;
}

void cut_disarm(void) {
    own_cutter->armed = false;
    own_cutter->ending = true;
}

void cut_release(struct cutter *cutter, unsigned stop_at) {
    cutter->stop_at = stop_at;
    atomic_store(&cutter->state, CUTTER_RUNNING);
    sem_post(&cutter->go);
}

static void halt(struct cutter *cutter, enum cutter_state state) {
    atomic_store(&cutter->state, state);
    sem_post(&cut_event);
    while (sem_wait(&cutter->go) != 0 && errno == EINTR)
        continue;
}

void cut_arm(void) {
    halt(own_cutter, CUTTER_READY);
    own_cutter->armed = true;
}

static bool counts(struct cutter *cutter, uintptr_t address) {
    if (!cutter || !cutter->armed)
        return false;
    if (address >= stack_low && address < stack_high)
        return false;
    return head_kind(pagemap_head(address)) == HEAD_ABSENT;
}

static void pass(struct cutter *cutter, uintptr_t address, uintptr_t pc) {
    if (++cutter->stores < cutter->stop_at)
        return;
    cutter->armed = false; /* what runs at the store is not cut itself */
    cutter->address = address;
    cutter->pc = pc;
    if (cutter->at_store)
        cutter->at_store(cutter);
    else
        halt(cutter, CUTTER_AT_STORE);
    if (own_cutter == cutter)
        cutter->armed = true;
}

static inline void before_store(const void *address, uintptr_t pc) {
    struct cutter *cutter = own_cutter;
    if (counts(cutter, (uintptr_t)address))
        pass(cutter, (uintptr_t)address, pc);
}

#define STORE_HOOK(bytes)                                              \
    void __sanitizer_cov_store##bytes(void *address);                  \
    void __sanitizer_cov_store##bytes(void *address) {                 \
        before_store(address, (uintptr_t)__builtin_return_address(0)); \
    }
STORE_HOOK(1)
STORE_HOOK(2)
STORE_HOOK(4)
STORE_HOOK(8)
STORE_HOOK(16)

/* The next piece of a copy: a word; of long ones, which only move contents or clear a block that
 * nobody knows yet, a page. */
static size_t piece(size_t bytes) {
    size_t most = bytes > 2048 ? PAGE_BYTES : sizeof(uint64_t);
    return bytes < most ? bytes : most;
}

void *cut_memcpy(void *to, const void *from, size_t bytes);
void *cut_memcpy(void *to, const void *from, size_t bytes) {
    char *out = to;
    const char *in = from;
    for (size_t part; bytes > 0; bytes -= part, out += part, in += part) {
        part = piece(bytes);
        before_store(out, (uintptr_t)__builtin_return_address(0));
        memcpy(out, in, part);
    }
    return to;
}

void *cut_memset(void *to, int byte, size_t bytes);
void *cut_memset(void *to, int byte, size_t bytes) {
    char *out = to;
    for (size_t part; bytes > 0; bytes -= part, out += part) {
        part = piece(bytes);
        before_store(out, (uintptr_t)__builtin_return_address(0));
        memset(out, byte, part);
    }
    return to;
}

/* ---- System calls ------------------------------------------------------------------------------ */

static void before_or_after_call(uintptr_t pc) {
    struct cutter *cutter = own_cutter;
    if (cutter && cutter->armed)
        pass(cutter, 0, pc);
}

typedef long system_call(long number, ...);
typedef void *move_break(intptr_t bytes);

/* In place of libc's, for all calls from this program. */
long syscall(long number, ...) {
    static _Atomic(system_call *) next;
    system_call *real = atomic_load(&next);
    if (!real) {
        real = (system_call *)dlsym(RTLD_NEXT, "syscall");
        atomic_store(&next, real);
    }
    long argument[6];
    va_list list;
    va_start(list, number);
    for (unsigned i = 0; i < 6; i++)
        argument[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_madvise &&
        ((argument[2] == MADV_WIPEONFORK && getenv(CUT_UNWIPED)) || /* as older kernels do */
         (argument[2] == MADV_DONTNEED && atomic_load(&cut_refused) & REFUSE_PURGING))) {
        errno = EINVAL;
        return -1;
    }
    struct cutter *cutter = own_cutter;
    bool sleeps = number == SYS_futex && argument[1] == FUTEX_WAIT_PRIVATE;
    if (sleeps && cutter && (cutter->armed || cutter->ending))
        halt(cutter, CUTTER_BLOCKED);
    if (!sleeps)
        before_or_after_call((uintptr_t)__builtin_return_address(0));
    long result =
        real(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
    int saved = errno;
    if (!sleeps)
        before_or_after_call((uintptr_t)__builtin_return_address(0));
    errno = saved;
    return result;
}

void *sbrk(intptr_t bytes) {
    static _Atomic(move_break *) next;
    move_break *real = atomic_load(&next);
    if (!real) {
        real = (move_break *)dlsym(RTLD_NEXT, "sbrk");
        atomic_store(&next, real);
    }
    unsigned refused = atomic_load(&cut_refused);
    if ((bytes > 0 && refused & REFUSE_RAISING_BREAK) ||
        (bytes < 0 && refused & REFUSE_LOWERING_BREAK)) {
        errno = ENOMEM;
        return (void *)-1;
    }
    before_or_after_call((uintptr_t)__builtin_return_address(0));
    void *old = real(bytes);
    before_or_after_call((uintptr_t)__builtin_return_address(0));
    return old;
}
