/* SPDX-License-Identifier: MIT
 *
 * os_port: the part of the system-call seam that control.c alone uses: a thread, and a socket to ask it by.
 *
 * RULE     As in os.c: syscall() is the only wrapper of libc's that is used for what may be interposed or cancelled.
 */
#include "os.h"
#include "os_internal.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>

/* The program's own descriptors are low: shells and daemons use numbers that they chose. */
enum { PORT_DESCRIPTOR_MIN = 512 };

#define THREAD_STACK_BYTES ((size_t)256 << 10)

/* A thread that has ended has no memory to read from.  Unlike /proc this needs no descriptor. */
bool os_main_may_have_ended(void) {
    char byte = 1, copy;
    struct iovec to = {&copy, 1}, from = {&byte, 1};
    return call(SYS_process_vm_readv, os_process(), (long)&to, 1, (long)&from, 1, 0) != 1;
}

/* libc's pthread_sigmask leaves the signals by which libc itself reaches each thread (setuid). */
bool os_start_thread(void *(*run)(void *)) {
    int saved = errno;
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&thread, &attributes, run, NULL);
    if (failed == EINVAL) { /* the program's thread-local variables need more */
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        failed = pthread_create(&thread, &attributes, run, NULL);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
    return !failed;
}

void os_name_thread(const char *name) {
    call(SYS_prctl, PR_SET_NAME, (long)name, 0, 0, 0, 0);
}

void os_at_fork(void (*in_child)(void)) {
    pthread_atfork(NULL, NULL, in_child);
}

static uint64_t file_of(int descriptor) {
    struct stat status;
    bool known = descriptor >= 0 && call(SYS_fstat, descriptor, (long)&status, 0, 0, 0, 0) == 0;
    return known && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

bool os_port_open(struct os_port *port, const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval second = {.tv_sec = 1};
    int on = 1;
    size_t length = min_size(strlen(name), sizeof address.sun_path - 1);
    memcpy(address.sun_path + 1, name, length);
    length += offsetof(struct sockaddr_un, sun_path) + 1;
    long low = call(SYS_socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0, 0);
    if (low < 0)
        return false;
    bool good =
        call(SYS_setsockopt, low, SOL_SOCKET, SO_PASSCRED, (long)&on, sizeof on, 0) == 0 &&
        call(SYS_setsockopt, low, SOL_SOCKET, SO_SNDTIMEO, (long)&second, sizeof second, 0) == 0 &&
        call(SYS_bind, low, (long)&address, (long)length, 0, 0, 0) == 0;
    long high = good ? call(SYS_fcntl, low, F_DUPFD_CLOEXEC, PORT_DESCRIPTOR_MIN, 0, 0, 0) : -1;
    if (!good || high >= 0)
        call(SYS_close, low, 0, 0, 0, 0, 0);
    port->descriptor = !good ? -1 : (int)(high >= 0 ? high : low);
    port->file = file_of(port->descriptor);
    return good;
}

bool os_port_is_open(const struct os_port *port) {
    return port->descriptor >= 0 && file_of(port->descriptor) == port->file;
}

void os_port_close(struct os_port *port) {
    if (os_port_is_open(port))
        call(SYS_close, port->descriptor, 0, 0, 0, 0, 0);
    port->descriptor = -1;
}

static void note_credentials(struct msghdr *message, struct os_peer *peer) {
    peer->trusted = false;
    peer->user = (unsigned)-1;
    struct cmsghdr *control = CMSG_FIRSTHDR(message);
    if (!control || control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_CREDENTIALS)
        return;
    struct ucred credentials;
    memcpy(&credentials, CMSG_DATA(control), sizeof credentials);
    peer->user = credentials.uid;
    peer->trusted =
        credentials.uid == 0 || credentials.uid == (unsigned)call(SYS_geteuid, 0, 0, 0, 0, 0, 0);
}

enum os_received os_receive(const struct os_port *port, uint64_t timeout_ns, struct os_peer *peer,
                            char *text, size_t bytes, size_t *length) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec part = {text, bytes};
    struct msghdr message = {.msg_name = peer->address,
                             .msg_namelen = sizeof peer->address,
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct timespec timeout = {(time_t)(timeout_ns / 1000000000u),
                               (long)(timeout_ns % 1000000000u)};
    struct pollfd waiting = {.fd = port->descriptor, .events = POLLIN};
    if (call(SYS_ppoll, (long)&waiting, 1, (long)&timeout, 0, 0, 0) <= 0)
        return OS_QUIET;
    if (!os_port_is_open(port))
        return OS_LOST;
    long got = call(SYS_recvmsg, port->descriptor, (long)&message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC,
                    0, 0, 0);
    if (got < 0)
        return OS_QUIET;
    *length = (size_t)got;
    peer->address_bytes = message.msg_namelen;
    note_credentials(&message, peer);
    return OS_REQUEST;
}

bool os_send(const struct os_port *port, const struct os_peer *peer, const char *text,
             size_t bytes) {
    return peer->address_bytes > 0 && os_port_is_open(port) &&
           call(SYS_sendto, port->descriptor, (long)text, (long)bytes, MSG_NOSIGNAL,
                (long)peer->address, peer->address_bytes) == (long)bytes;
}
