/* SPDX-License-Identifier: MIT
 *
 * store.c
 *
 * LAYOUT   The header, a table of references to stacks, and records from there on. The file is mapped
 *          and shared: what has been stored is the kernel's, also if the process is killed in the next
 *          moment. 16 MiB of addresses are mapped at once; the file is extended by pieces of 64 KiB
 *          before they are written to, for a store into a page that the disk has no room for would
 *          kill the program.
 *
 * LOCKING  Records are given out by an atomic counter. One thread at a time extends the file; one
 *          that finds another at it goes without.
 *
 * FAILURE  Without space, descriptors or permission the file stays as long as it is.
 */
#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "shim/quiet.h"

#define PIECE_BYTES 65536u
#define RECORD_ALIGNMENT 8u
#define RECORDS_START (PROFILE_HEADER_BYTES + PROFILE_SLOTS * (uint32_t)sizeof(profile_reference))

static unsigned char *file;
static char file_path[4096];
static struct stat file_created;
static atomic_flag extending = ATOMIC_FLAG_INIT;

struct profile_header *store_header(void) {
    return (struct profile_header *)file;
}

void *store_at(profile_reference reference) {
    return file + reference;
}

_Atomic profile_reference *store_slots(void) {
    return (_Atomic profile_reference *)(file + PROFILE_HEADER_BYTES);
}

/* A new file: the old one may be mapped by another process, which must not lose it. */
static int create(const char *path) {
    struct stat about;
    if (lstat(path, &about) == 0 && S_ISREG(about.st_mode) && unlink(path) != 0) {
        return -1;
    }
    return quiet_open(path, O_RDWR | O_CREAT | O_EXCL);
}

static void describe(uint64_t rate, uint32_t extended) {
    struct profile_header *header = store_header();
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    header->version = PROFILE_VERSION;
    header->pid = (uint32_t)getpid();
    header->rate = rate;
    header->started_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    header->slots = PROFILE_SLOTS;
    quiet_command(header->command, sizeof header->command);
    atomic_store(&header->used, RECORDS_START);
    atomic_store(&header->extended, extended);
    header->others = store_allocate(sizeof(struct profile_stack));
    atomic_thread_fence(memory_order_release);
    memcpy(header->magic, PROFILE_MAGIC, sizeof header->magic);
}

/* Gives the new file its first bytes, and maps it. 0, or an error number. */
static int map(int fd, uint32_t bytes) {
    if (fstat(fd, &file_created) != 0) {
        return errno;
    }
    int error = quiet_extend(fd, 0, bytes);
    if (error != 0) {
        return error;
    }
    void *memory = mmap(NULL, PROFILE_BYTES_MOST, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        return errno;
    }
    file = memory;
    return 0;
}

int store_open(const char *path, uint64_t rate) {
    uint32_t bytes = RECORDS_START + PIECE_BYTES - RECORDS_START % PIECE_BYTES;
    if (strlen(path) >= sizeof file_path) {
        return ENAMETOOLONG;
    }
    int fd = create(path);
    if (fd < 0) {
        return errno;
    }
    int error = map(fd, bytes);
    quiet_close(fd);
    if (error != 0) {
        unlink(path);
        return error;
    }
    memcpy(file_path, path, strlen(path) + 1);
    describe(rate, bytes);
    return 0;
}

void store_leave(void) {
    munmap(file, PROFILE_BYTES_MOST);
    file = NULL;
    atomic_flag_clear(&extending);
}

static int extend(uint32_t from, uint32_t to) {
    int fd = quiet_open(file_path, O_RDWR);
    if (fd < 0) {
        return errno;
    }
    struct stat about;
    bool ours = fstat(fd, &about) == 0 && about.st_dev == file_created.st_dev &&
                about.st_ino == file_created.st_ino;
    int error = ours ? quiet_extend(fd, from, to - from) : ESTALE;
    quiet_close(fd);
    return error;
}

/* Whether the file reaches that far, at last. */
static bool reach(uint32_t end) {
    struct profile_header *header = store_header();
    if (end <= atomic_load_explicit(&header->extended, memory_order_acquire)) {
        return true;
    }
    if (atomic_load(&header->error) != 0 || atomic_flag_test_and_set(&extending)) {
        return false;
    }
    uint32_t extended = atomic_load(&header->extended);
    if (end > extended) {
        uint32_t wanted = (end + PIECE_BYTES - 1) / PIECE_BYTES * PIECE_BYTES;
        int error = extend(extended, wanted);
        atomic_store(&header->error, (uint32_t)error);
        extended = error == 0 ? wanted : extended;
        atomic_store_explicit(&header->extended, extended, memory_order_release);
    }
    atomic_flag_clear(&extending);
    return end <= extended;
}

profile_reference store_allocate(size_t bytes) {
    struct profile_header *header = store_header();
    uint32_t whole = (uint32_t)(bytes + RECORD_ALIGNMENT - 1) & ~(RECORD_ALIGNMENT - 1);
    uint32_t at = atomic_load_explicit(&header->used, memory_order_relaxed);
    do {
        if (whole > PROFILE_BYTES_MOST - at || !reach(at + whole)) {
            return 0;
        }
    } while (!atomic_compare_exchange_weak_explicit(&header->used, &at, at + whole,
                                                    memory_order_relaxed, memory_order_relaxed));
    return at;
}
