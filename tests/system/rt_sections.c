/* SPDX-License-Identifier: MIT
 *
 * A program that marks a section for quarry rt, by close(-1000), and keeps what it promises or not.
 *
 * usage: rt_sections HOW
 *   clean    allocates and frees in the section
 *   fault    touches ten pages in it that it never touched before
 *   call     asks for its process number in it, three times
 *   thread   the same in another thread, while the first one waits without a call
 *   child    clean, in a child process
 *   twice    two sections, a system call between them
 *   status   clean, then ends with status 7
 *   open     never ends its section
 *   none     marks none
 */
#include "self_check.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { PAGES = 10, PAGE = 4096, CALLS = 3, RESERVE = 16 << 20 };

static int turn; /* 1: the other thread is there, 2: it may ask, 3: it has, 4: it may end */

static void mark(void) {
    close(-1000);
}

static void allocate(void) {
    for (int i = 0; i < 1000; i++)
        free(malloc((size_t)i + 1));
}

/* All that the section needs is resident, also the code of what it calls. */
static void prepare(void) {
    char *reserve = malloc(RESERVE);
    MUST(reserve != NULL);
    memset(reserve, 1, RESERVE);
    free(reserve);
    close(-1);
    syscall(SYS_getpid);
    allocate();
}

static void ask(void) {
    for (int i = 0; i < CALLS; i++)
        syscall(SYS_getpid);
}

static void set_turn(int to) {
    __atomic_store_n(&turn, to, __ATOMIC_RELEASE);
}

static void await_turn(int wanted) {
    while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != wanted)
        ;
}

static void *ask_in_turn(void *unused) {
    set_turn(1);
    await_turn(2);
    ask();
    set_turn(3);
    await_turn(4);
    return unused;
}

static void section(const char *how, char *pages) {
    mark();
    allocate();
    if (strcmp(how, "fault") == 0)
        for (int i = 0; i < PAGES; i++)
            ((volatile char *)pages)[(ptrdiff_t)i * PAGE] = 1;
    if (strcmp(how, "call") == 0)
        ask();
    if (strcmp(how, "thread") == 0) {
        set_turn(2);
        await_turn(3);
    }
    if (strcmp(how, "open") != 0)
        mark();
}

int main(int argc, char **argv) {
    pthread_t thread;
    MUST(argc == 2);
    const char *how = argv[1];
    char *pages = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(pages != MAP_FAILED);
    /* Or one fault might bring a huge page. */
    madvise(pages, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE);
    if (strcmp(how, "thread") == 0) {
        MUST(pthread_create(&thread, NULL, ask_in_turn, NULL) == 0);
        await_turn(1);
    }
    if (strcmp(how, "child") == 0 && fork() != 0)
        return wait(NULL) < 0;
    prepare();
    if (strcmp(how, "none") != 0)
        section(how, pages);
    if (strcmp(how, "twice") == 0) {
        ask();
        section(how, pages);
    }
    if (strcmp(how, "thread") == 0) {
        set_turn(4);
        pthread_join(thread, NULL);
    }
    return strcmp(how, "status") == 0 ? 7 : 0;
}
