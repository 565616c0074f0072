/* SPDX-License-Identifier: MIT
 *
 * rawlog.c
 *
 * PURPOSE  Writes what the program does to a file, so that nothing is lost however it ends.
 *
 * LAYOUT   The file is mapped, shared: what has been stored is in the kernel's hands, also if the
 *          process is killed in the next moment. Each thread fills chunks of its own, the first of
 *          a page, later ones up to 64 pages, mapped while they are filled. A record's first byte
 *          is stored last; a chunk begins as zeros, so a record that was cut off does not exist.
 *
 * LOCKING  None. Chunks are given out by an atomic counter in the file's header.
 *
 * FORK     A page that the kernel wipes in children tells them that they are one. A child leaves
 *          its parent's chunks alone; it starts a file of its own if QUARRY_TRACE_FOLLOW is set,
 *          and records nothing otherwise.
 *
 * FAILURE  Without space, descriptors or permission recording ends; the error goes to the header.
 *
 * COST     Some 130 instructions, 6 bytes and one atomic addition per call; per chunk five system
 *          calls. The file is opened for each, by its path: programs close descriptors they do not
 *          know.
 */
#include "rawlog.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>
#include <time.h>
#include <unistd.h>

#include "shim/quiet.h"

#define CALLS_PER_TIME 256
/* A record, and the time before it. */
#define ROOM_LEAST ((ptrdiff_t)2 * RECORD_MOST)
#define IMAGES_MOST 10000
#define DEFAULT_LIMIT (2ull << 30)

/* One per thread. */
struct cursor {
    bool inside;
    bool numbered;
    uint32_t thread;
    uint32_t process; /* of which fork; a child finds another number here than its own */
    uint32_t until_time;
    uint32_t pages;
    unsigned char *chunk, *at, *end;
    uint64_t sequence, address, time_ns;
};
static _Thread_local struct cursor self __attribute__((tls_model("initial-exec")));

enum state { UNSETTLED, RECORDING, OFF };
static struct {
    _Atomic int state;
    _Atomic uint32_t *alive; /* in the page that is wiped in a fork child */
    struct raw_header *header;
    uint32_t process;
    pthread_key_t key;
    uint64_t pages_most;
    char path[4096];
} process;
static pthread_mutex_t settling = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint32_t threads;
static _Alignas(128) _Atomic uint64_t sequence;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void stop(int error) {
    if (process.header != NULL && process.header->error == 0) {
        process.header->error = (uint64_t)error;
    }
    atomic_store(&process.state, OFF);
}

static void *map_pages(int fd, uint64_t page, uint32_t pages) {
    size_t bytes = (size_t)pages * RAW_PAGE;
    int error = fd < 0 ? errno : quiet_extend(fd, page * RAW_PAGE, bytes);
    void *memory = MAP_FAILED;
    if (error == 0) {
        memory =
            mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(page * RAW_PAGE));
        error = memory == MAP_FAILED ? errno : 0;
    }
    if (error != 0) {
        stop(error);
        return NULL;
    }
    return memory;
}

/* ---- Starting -------------------------------------------------------------------------------- */

/* FILE.PID.N.raw, N being the first that is free: a process may become another program by exec. */
static int create_file(const char *base) {
    char *at = quiet_put_text(process.path, base);
    *at++ = '.';
    at = quiet_put_number(at, (uint64_t)getpid());
    for (unsigned image = 0; image < IMAGES_MOST; image++) {
        char *end = at;
        *end++ = '.';
        end = quiet_put_number(end, image);
        *quiet_put_text(end, ".raw") = '\0';
        int fd = quiet_open(process.path, O_RDWR | O_CREAT | O_EXCL);
        if (fd >= 0 || errno != EEXIST) {
            return fd;
        }
    }
    return -1;
}

/* Closes over the chunk of a thread that ends. If it calls again, it gets another. */
static void leave_chunk(void *cursor) {
    struct cursor *it = cursor;
    if (it->chunk != NULL && it->process == process.process) {
        munmap(it->chunk, (size_t)it->pages * RAW_PAGE);
    }
    it->chunk = it->at = it->end = NULL;
    it->pages = 0;
}

static bool is_wanted(void) {
    const char *only = getenv("QUARRY_TRACE_PID");
    return only == NULL || strtoul(only, NULL, 10) == (unsigned long)getpid();
}

static void open_file(void) {
    const char *base = secure_getenv("QUARRY_TRACE_FILE");
    const char *limit = getenv("QUARRY_TRACE_LIMIT");
    process.header = NULL;
    if (base == NULL || base[0] != '/' || strlen(base) > sizeof process.path - 64 || !is_wanted()) {
        stop(0);
        return;
    }
    uint64_t most = limit != NULL ? strtoull(limit, NULL, 10) : DEFAULT_LIMIT;
    process.pages_most = most / RAW_PAGE;
    int fd = create_file(base);
    struct raw_header *header = map_pages(fd, 0, 1);
    quiet_close(fd);
    if (header == NULL) {
        return;
    }
    header->version = 1;
    header->pid = (uint32_t)getpid();
    header->pages = 1;
    quiet_command(header->command, sizeof header->command);
    memcpy(header->magic, RAW_MAGIC, sizeof header->magic);
    process.header = header;
    atomic_store(&process.state, RECORDING);
}

static void settle(void) {
    process.alive = quiet_fork_mark();
    if (process.alive == NULL || pthread_key_create(&process.key, leave_chunk) != 0) {
        stop(0);
        return;
    }
    open_file();
}

/* In a child of fork: its one thread is here, whatever others the parent had. */
static void notice_fork(void) {
    process.process++;
    atomic_store(process.alive, 1);
    atomic_store(&threads, 0);
    atomic_store(&sequence, 0);
    if (process.header != NULL) {
        munmap(process.header, RAW_PAGE);
        process.header = NULL;
    }
    atomic_store(&process.state, OFF);
    if (getenv("QUARRY_TRACE_FOLLOW") != NULL) {
        open_file();
    }
}

static bool is_recording_slow(void) {
    int saved = errno;
    int state = atomic_load(&process.state);
    /* Before libc has its environment, nothing can be said. */
    if (state == UNSETTLED && environ != NULL) {
        pthread_mutex_lock(&settling);
        if (atomic_load(&process.state) == UNSETTLED) {
            settle();
        }
        pthread_mutex_unlock(&settling);
    } else if (process.alive != NULL && atomic_load(process.alive) == 0) {
        notice_fork();
    }
    errno = saved;
    return atomic_load(&process.state) == RECORDING;
}

static bool is_recording(void) {
    /* Relaxed: a thread that sees RECORDING was started, or told of a block, after the store. */
    int state = atomic_load_explicit(&process.state, memory_order_relaxed);
    if (state == RECORDING && atomic_load_explicit(process.alive, memory_order_relaxed) != 0) {
        return true;
    }
    return state != OFF && is_recording_slow();
}

bool rawlog_enter(void) {
    if (self.inside) {
        return false;
    }
    self.inside = true;
    self.inside = is_recording();
    return self.inside;
}

void rawlog_leave(void) {
    self.inside = false;
}

uint64_t rawlog_sequence(void) {
    if (__libc_single_threaded) {
        uint64_t next = atomic_load_explicit(&sequence, memory_order_relaxed) + 1;
        atomic_store_explicit(&sequence, next, memory_order_relaxed);
        return next;
    }
    return atomic_fetch_add_explicit(&sequence, 1, memory_order_relaxed) + 1;
}

/* ---- Records --------------------------------------------------------------------------------- */

static void begin_chunk(void *memory, uint32_t pages, uint64_t before) {
    struct raw_chunk *chunk = memory;
    self.chunk = memory;
    self.at = self.chunk + sizeof *chunk;
    self.end = self.chunk + (size_t)pages * RAW_PAGE;
    self.pages = pages;
    self.sequence = before;
    self.address = 0;
    self.time_ns = now_ns();
    self.until_time = CALLS_PER_TIME;
    chunk->pages = pages;
    chunk->thread = self.thread;
    chunk->sequence = before;
    chunk->time_ns = self.time_ns;
    __atomic_store_n(&chunk->magic, RAW_CHUNK_MAGIC, __ATOMIC_RELEASE);
}

static bool next_chunk(uint64_t before) {
    int saved = errno;
    if (self.process != process.process) {
        self = (struct cursor){.inside = true, .process = process.process};
    }
    if (!self.numbered) {
        self.thread = atomic_fetch_add(&threads, 1);
        self.numbered = true;
    }
    uint32_t pages = self.pages == 0 ? 1 : self.pages * 2;
    pages = pages > RAW_CHUNK_PAGES_MOST ? RAW_CHUNK_PAGES_MOST : pages;
    leave_chunk(&self);
    uint64_t page = __atomic_fetch_add(&process.header->pages, pages, __ATOMIC_RELAXED);
    void *memory = NULL;
    if (page + pages > process.pages_most) {
        stop(EFBIG);
    } else {
        int fd = quiet_open(process.path, O_RDWR);
        memory = map_pages(fd, page, pages);
        quiet_close(fd);
    }
    if (memory != NULL) {
        begin_chunk(memory, pages, before);
        pthread_setspecific(process.key, &self);
    }
    errno = saved;
    return memory != NULL;
}

/* Room for a record and for the time before it. False if recording has ended. */
static bool make_room(uint64_t number) {
    if (self.process != process.process || self.end - self.at < ROOM_LEAST) {
        return next_chunk(number - 1);
    }
    return true;
}

static void finish_record(unsigned char *end, enum raw_operation operation) {
    unsigned char *start = self.at;
    __atomic_store_n(start, (unsigned char)operation, __ATOMIC_RELEASE);
    self.at = end;
}

static void put_time(void) {
    uint64_t now = now_ns();
    finish_record(put_varint(self.at + 1, now - self.time_ns), RAW_TIME);
    self.time_ns = now;
    self.until_time = CALLS_PER_TIME;
}

static unsigned char *begin_record(uint64_t number) {
    if (!make_room(number)) {
        return NULL;
    }
    if (--self.until_time == 0) {
        put_time();
    }
    unsigned char *at = put_varint(self.at + 1, number - self.sequence);
    self.sequence = number;
    return at;
}

static unsigned char *put_address(unsigned char *at, const void *block) {
    uint64_t address = (uintptr_t)block;
    at = put_varint(at, fold_sign(address - self.address));
    self.address = address;
    return at;
}

void rawlog_allocated(enum raw_operation operation, uint64_t number, size_t size, const void *block,
                      size_t alignment) {
    unsigned char *at = begin_record(number);
    if (at == NULL) {
        return;
    }
    at = put_address(put_varint(at, size), block);
    if (operation == RAW_ALIGNED) {
        unsigned log2 = alignment > 1 ? 64 - (unsigned)__builtin_clzll(alignment - 1) : 0;
        at = put_varint(at, log2);
    }
    finish_record(at, operation);
}

void rawlog_freed(uint64_t number, const void *block) {
    unsigned char *at = begin_record(number);
    if (at != NULL) {
        finish_record(put_address(at, block), RAW_FREE);
    }
}

void rawlog_reallocating(uint64_t number, size_t size, const void *block) {
    unsigned char *at = begin_record(number);
    if (at != NULL) {
        finish_record(put_address(put_varint(at, size), block), RAW_REALLOC_BEGIN);
    }
}

void rawlog_reallocated(uint64_t number, const void *block) {
    unsigned char *at = begin_record(number);
    if (at != NULL) {
        finish_record(put_address(at, block), RAW_REALLOC_END);
    }
}
