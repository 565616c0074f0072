/* SPDX-License-Identifier: MIT
 *
 * control_support.c: the part of the fake operating system that control.c calls (there are no sockets and
 * no threads here), and which thread is the first.
 */
#include "os.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

unsigned os_process(void) {
    return 1;
}

bool os_is_first_thread(void) {
    return syscall(SYS_gettid) == getpid();
}

bool os_main_may_have_ended(void) {
    return false;
}

bool os_start_thread(void *(*run)(void *)) {
    (void)run;
    return false;
}

void os_name_thread(const char *name) {
    (void)name;
}

void os_at_fork(void (*in_child)(void)) {
    pthread_atfork(NULL, NULL, in_child);
}

bool os_port_open(struct os_port *port, const char *name) {
    (void)name;
    port->descriptor = -1;
    return false;
}

bool os_port_is_open(const struct os_port *port) {
    return port->descriptor >= 0;
}

void os_port_close(struct os_port *port) {
    port->descriptor = -1;
}

enum os_received os_receive(const struct os_port *port, uint64_t timeout_ns, struct os_peer *peer,
                            char *text, size_t bytes, size_t *length) {
    (void)port, (void)timeout_ns, (void)text, (void)bytes;
    *length = peer->address_bytes = 0;
    return OS_QUIET;
}

bool os_send(const struct os_port *port, const struct os_peer *peer, const char *text,
             size_t bytes) {
    (void)port, (void)peer, (void)text, (void)bytes;
    return false;
}
