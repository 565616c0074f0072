/* SPDX-License-Identifier: MIT
 *
 * os.h: the one seam to the operating system.  Every system call of the library is made here;
 * tests link another implementation with scripted memory and failures.
 *
 * Contract: any call may fail at any moment.  None changes errno, allocates, takes a lock, or is a
 * cancellation point.  All are thread-safe except the break calls, whose caller holds the page lock.
 */
#ifndef QUARRY_OS_H
#define QUARRY_OS_H

#include "base.h"

/* The system's page size: a power of two, at least PAGE_BYTES. */
size_t os_page_bytes(void);

/* The current program break, or NULL where there is none. */
void *os_break_now(void);

/* Raises the break by bytes; returns the old break (which may lie above the last one we saw, where
 * the program itself calls sbrk), or NULL. */
void *os_break_grow(size_t bytes);

/* Lowers the break from top by bytes; false and no effect where the break is not at top. */
bool os_break_shrink(void *top, size_t bytes);

/* Maps zeroed, private memory.  os_map_at fails unless it gets exactly the address asked for, and
 * never replaces a mapping; os_map takes what the kernel gives.  NULL on failure. */
void *os_map(size_t bytes);
void *os_map_at(void *address, size_t bytes);

bool os_unmap(void *address, size_t bytes);

/* Resizes a mapping made by os_map, moving it if may_move; returns its address, or NULL and the
 * old mapping is untouched. */
void *os_remap(void *address, size_t old_bytes, size_t new_bytes, bool may_move);

/* Whether memory from now on, in pieces worth it, should be huge pages (transparent ones). */
void os_set_huge(bool wanted);

/* Makes a mapped range inaccessible, and its memory goes; false, and nothing done, on failure.  It stays
 * mapped, until it is unmapped. */
bool os_seal(void *address, size_t bytes);

/* Lets the process write to the pages of a range that was mapped for reading, or no longer; false, and nothing done, on
 * failure. */
bool os_set_writable(const void *address, size_t bytes, bool writable);

/* Gives the physical pages of a range back, also those that are locked where not all of the process is (Linux 5.18).
 * True if they are gone and read as zero from now on; false (mlockall, an exotic kernel) leaves content and residency
 * unknown. */
bool os_purge(void *address, size_t bytes);

/* Tells for each system page of a range whether it is resident: bit 0 of its byte.  False where the
 * kernel does not say, as for a range that is not wholly mapped. */
bool os_resident(void *address, size_t bytes, uint8_t *pages);

/* Makes a range resident and writable at once; false if that failed or is not supported. */
bool os_populate(void *address, size_t bytes);

/* Makes a huge page of a range, aligned and as long as one, of which nobody uses anything: resident and
 * zero; false if the kernel does not. */
bool os_make_huge(void *address, size_t bytes);

/* The same by all means, for memory that other threads may be writing to. */
static inline void os_make_resident(void *address, size_t bytes) {
    size_t step = os_page_bytes();
    uintptr_t start = round_down((uintptr_t)address, step);
    uintptr_t end = round_up((uintptr_t)address + bytes, step);
    if (os_populate((void *)start, end - start))
        return;
    for (; start < end; start += step)
        __atomic_fetch_or((uint8_t *)start, 0, __ATOMIC_RELAXED);
}

/* Makes the library's code resident (in a static program: the program's), where the kernel can (5.14). */
void os_make_code_resident(void);

/* A page that reads 1 until the process forks, then 0 in the child; NULL where not supported. */
uint32_t *os_fork_page(void);

/* Sleeps while *word == expected (spurious returns are allowed) / wakes up to count sleepers. */
void os_wait(uint32_t *word, uint32_t expected);
void os_wake(uint32_t *word, int count);
void os_yield(void);

/* Each other thread of the process has executed a full memory barrier between the call and its return; false
 * where the kernel cannot do that. */
bool os_barrier(void);

/* A number that nobody can guess; where the kernel has none, one that differs between processes. */
uint64_t os_random(void);

/* Processors that the process may run on; 0 where the kernel does not say. */
unsigned os_processors(void);

/* Monotonic time in nanoseconds, coarse or not; 0 where there is none.  No system call on usual
 * hardware. */
uint64_t os_clock_ns(void);

/* CPU time that the process has used, in nanoseconds; a system call. */
uint64_t os_cpu_ns(void);

/* Value of an environment variable, or NULL; NULL for all in set-uid programs.  *ready is false if
 * the environment is not there yet (very early calls). */
const char *os_environment(const char *name, bool *ready);

/* Whether there is a variable that begins so, in a set-uid program as well. */
bool os_environment_has(const char *prefix);

/* Reads a small file of the kernel from its start; returns how many bytes, 0 where that fails. */
size_t os_read_file(const char *path, char *text, size_t bytes);

/* Writes to file descriptor 2, best effort. */
void os_write_error(const char *text, size_t bytes);

_Noreturn void os_abort(void);

/* The number of this process, as it sees itself. */
unsigned os_process(void);

/* Whether the calling thread is the first of a process that has memory of its own: in a child of fork the one that
 * forked.  False in a child that shares its parent's memory, and where libc does not know that it was forked. */
bool os_is_first_thread(void);

/* ---- os_port.c, for control.c ------------------------------------------------------------------------------- */

/* False while the main thread runs; true when it has ended, or where that cannot be told. */
bool os_main_may_have_ended(void);

/* Starts a detached thread that takes none of the program's signals; false where that fails.  May
 * allocate. */
bool os_start_thread(void *(*run)(void *));

/* What the calling thread is called by ps and top; up to 15 characters. */
void os_name_thread(const char *name);

/* Has a function called in each child of fork, not of vfork and _Fork.  May allocate. */
void os_at_fork(void (*in_child)(void));

/* A datagram socket that processes of this machine reach by an abstract name: nothing lies in a file
 * system, and the name goes with the process.  exec closes it.  A program that closes what it does not
 * know closes it, too, and may have another file under its number: no call takes that for ours. */
struct os_port {
    int descriptor; /* -1: none */
    uint64_t file;
};

/* Who asked: where the answer goes, and the user, as the kernel says. */
struct os_peer {
    uint32_t address_bytes;
    unsigned user;
    bool trusted; /* the user of this process, or root */
    char address[112];
};

enum os_received { OS_QUIET, OS_REQUEST, OS_LOST };

/* False where there is no such socket, or the name is taken. */
bool os_port_open(struct os_port *port, const char *name);
bool os_port_is_open(const struct os_port *port);
void os_port_close(struct os_port *port);

/* Waits for a request, at most so long (without a port: just so long), or for less.  *length is at
 * most bytes; what is longer is cut. */
enum os_received os_receive(const struct os_port *port, uint64_t timeout_ns, struct os_peer *peer,
                            char *text, size_t bytes, size_t *length);

/* False if the peer is gone, or did not make room for the answer within a second. */
bool os_send(const struct os_port *port, const struct os_peer *peer, const char *text,
             size_t bytes);

#endif
