/* SPDX-License-Identifier: MIT
 *
 * profiled.c: known allocations by known functions (test_profile.py).
 *
 * usage: profiled known | kill | hold | balanced | random | passing | threads | fork | signal |
 *                 module FILE | locked | registered
 */
#include <dlfcn.h>
#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define APART __attribute__((noinline, noclone))
#define SMALL 1000
#define SMALL_BYTES 100
#define RANDOM 400000
#define MEDIUM 2000
#define PASSING 2000000
#define THREADS 4
#define EACH 2000
#define SIGNALS 300

static void *kept[8 * SMALL];
static int kept_count;

static void keep(void *block) {
    kept[kept_count++] = block;
}

APART static void keep_small(void) {
    for (int i = 0; i < SMALL; i++) {
        keep(malloc(SMALL_BYTES));
    }
}

APART static void keep_large(void) {
    for (int i = 0; i < 3; i++) {
        keep(calloc(1 << 10, 1 << 10));
    }
}

APART static void keep_aligned(void) {
    void *block = NULL;
    keep(posix_memalign(&block, 256, 5000) == 0 ? block : NULL);
    keep(memalign(64, 6000));
    keep(aligned_alloc(64, 6400));
    keep(valloc(7000));
    keep(pvalloc(1));
}

APART static void drop(void) {
    for (int i = 0; i < 500; i++) {
        free(malloc(64));
    }
}

APART static void resize(void) {
    void *block = malloc(300);
    block = realloc(block, 200000);
    if (realloc(block, (size_t)1 << 62) != NULL) {
        exit(3);
    }
    keep(realloc(block, 700));
    block = realloc(NULL, 50);
    keep(realloc(block, 0));
}

static int known(void) {
    keep_small();
    keep_large();
    keep_aligned();
    drop();
    resize();
    return 0;
}

static int hold(void) {
    known();
    puts("ready");
    fflush(stdout);
    return getchar() == EOF ? 0 : 1;
}

/* Ends with nothing of its own live; standard output has a buffer. */
static int balanced(void) {
    known();
    puts("done");
    while (kept_count > 0) {
        free(kept[--kept_count]);
    }
    return 0;
}

APART static void *make_random_list(void) {
    void **head = NULL;
    for (int i = 0; i < RANDOM; i++) {
        void **node = malloc(sizeof node + (size_t)(i % 113));
        *node = head;
        head = node;
    }
    return head;
}

APART static void pass_medium(void) {
    for (int i = 0; i < MEDIUM; i++) {
        free(malloc(16 << 10));
    }
}

static int allocate_random(void) {
    keep(make_random_list());
    pass_medium();
    keep_large();
    return 0;
}

APART static void pass(int count) {
    for (int i = 0; i < count; i++) {
        free(malloc(100));
    }
}

static int passing(void) {
    pass(PASSING);
    return 0;
}

/* ---- Threads --------------------------------------------------------------------------------- */

static void *made[THREADS][EACH];

APART static void *thread_keep(void *mine) {
    for (int i = 0; i < EACH; i++) {
        ((void **)mine)[i] = malloc(48);
    }
    return NULL;
}

/* Each thread frees what the next one made, but for the last tenth. */
APART static void *thread_free(void *others) {
    for (int i = 0; i < EACH - EACH / 10; i++) {
        free(((void **)others)[i]);
    }
    return NULL;
}

static void run_threads(void *(*work)(void *), int shift) {
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&threads[i], NULL, work, made[(i + shift) % THREADS]);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static int threads(void) {
    run_threads(thread_keep, 0);
    run_threads(thread_free, 1);
    return 0;
}

/* ---- Processes ------------------------------------------------------------------------------- */

APART static void child_keep(void) {
    keep(malloc(12345));
}

/* The child frees what it inherited; that stays the parent's.  As daemons do, they have no environment then. */
static int fork_child(void) {
    int status = 0;
    keep_small();
    clearenv();
    pid_t pid = fork();
    if (pid == 0) {
        while (kept_count > 0) {
            free(kept[--kept_count]);
        }
        child_keep();
        printf("%d\n", (int)getpid());
        return 0;
    }
    return waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
}

/* ---- Signals --------------------------------------------------------------------------------- */

static volatile sig_atomic_t signals;

APART static void allocate_in_handler(void) {
    free(malloc(64));
}

static void handle(int number) {
    (void)number;
    allocate_in_handler();
    signals = signals + 1;
}

/* The handler interrupts the profiler, for that is where the time goes; it needs an allocator that may
 * be interrupted, as profiled_ring_module.c. */
static int interrupted(void) {
    struct sigaction action = {.sa_handler = handle};
    struct itimerval often = {{0, 200}, {0, 200}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    while (signals < SIGNALS) {
        pass(100);
    }
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    return 0;
}

/* ---- Code of others -------------------------------------------------------------------------- */

APART static void *called_back(size_t size) {
    return malloc(size + 1);
}

static int call_module(const char *file) {
    void *module = dlopen(file, RTLD_NOW);
    void *(*call)(size_t, void *(*)(size_t)) = NULL;
    void *found = module != NULL ? dlsym(module, "module_keep") : NULL;
    if (found == NULL) {
        return 1;
    }
    memcpy(&call, &found, sizeof found);
    keep(call(7777, called_back));
    return dlclose(module);
}

/* A thread allocates while another has the loader's lock, which older unwinders needed. */
static pthread_barrier_t lock_is_taken;

static void *allocate_meanwhile(void *unused) {
    pthread_barrier_wait(&lock_is_taken);
    keep_small();
    return unused;
}

static int wait_with_lock(struct dl_phdr_info *info, size_t size, void *thread) {
    (void)info;
    (void)size;
    pthread_barrier_wait(&lock_is_taken);
    return pthread_join(*(pthread_t *)thread, NULL) == 0 ? 1 : 2;
}

static int locked(void) {
    pthread_t thread;
    pthread_barrier_init(&lock_is_taken, NULL, 2);
    pthread_create(&thread, NULL, allocate_meanwhile, NULL);
    return dl_iterate_phdr(wait_with_lock, &thread) - 1;
}

/* As a compiler at run time does; an empty table. */
static int registered(void) {
    extern void __register_frame(void *);
    static uint32_t table;
    keep_small();
    __register_frame(&table);
    keep_large();
    return 0;
}

int main(int count, char **words) {
    static const struct {
        const char *name;
        int (*run)(void);
    } modes[] = {{"known", known},           {"hold", hold},
                 {"balanced", balanced},     {"random", allocate_random},
                 {"passing", passing},       {"threads", threads},
                 {"fork", fork_child},       {"signal", interrupted},
                 {"registered", registered}, {"locked", locked}};
    if (count == 3 && strcmp(words[1], "module") == 0) {
        return call_module(words[2]);
    }
    if (count == 2 && strcmp(words[1], "kill") == 0) {
        known();
        return raise(SIGKILL);
    }
    for (size_t i = 0; count == 2 && i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(words[1], modes[i].name) == 0) {
            return modes[i].run();
        }
    }
    return 2;
}
