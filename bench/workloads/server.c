/* SPDX-License-Identifier: MIT
 *
 * server: many clients whose sessions last for random times, served by a pool of threads.
 *
 * A client logs in, sends some requests and leaves. Whichever thread is free takes the next client:
 * it allocates what the request needs for a moment (a parsed header, a buffer that grows, a reply),
 * adds something to the session's own state, and puts the client back into the line. So a session's
 * blocks come from many threads and all go by the hand of one. Between requests much stays live,
 * while every request leaves holes.
 */
#include <pthread.h>

#include "workload.h"

#define CLIENTS 3000
#define REQUESTS_EACH 300
#define STATE_MOST 24
#define MOMENTARY_MOST 12

struct client {
    void *state[STATE_MOST];
    uint32_t served;       /* requests, over all sessions */
    uint32_t session_left; /* requests of this session; 0: not logged in */
};

static struct client *clients;
static struct {
    pthread_mutex_t lock;
    uint32_t *ring;
    size_t first, filled;
    uint32_t requests_each;
} line = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void setup(void) {
    clients = workload_reserve(CLIENTS * sizeof *clients);
    line.ring = workload_reserve(CLIENTS * sizeof *line.ring);
    line.requests_each = (uint32_t)workload_scaled(REQUESTS_EACH);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        line.ring[line.filled++] = i;
    }
}

/* NULL when nobody waits: those who are being served go on with the thread that serves them. */
static struct client *take_client(void) {
    struct client *client = NULL;
    pthread_mutex_lock(&line.lock);
    if (line.filled > 0) {
        client = &clients[line.ring[line.first++ % CLIENTS]];
        line.filled--;
    }
    pthread_mutex_unlock(&line.lock);
    return client;
}

static void put_client(struct client *client) {
    pthread_mutex_lock(&line.lock);
    line.ring[(line.first + line.filled++) % CLIENTS] = (uint32_t)(client - clients);
    pthread_mutex_unlock(&line.lock);
}

static void log_out(struct worker *worker, struct client *client) {
    for (unsigned i = 0; i < STATE_MOST; i++) {
        block_drop(worker, client->state[i]);
        client->state[i] = NULL;
    }
}

static void log_in(struct worker *worker, struct client *client) {
    client->session_left = 1 + draw_below(worker, 1u << (1 + draw_below(worker, 7)));
    client->state[0] = block_new_zeroed(worker, 512);
    client->state[1] = block_new(worker, draw_size(worker, 64, 4096));
}

static void add_state(struct worker *worker, struct client *client) {
    void **place = &client->state[draw_below(worker, STATE_MOST)];
    if (*place != NULL && draw_below(worker, 2) == 0) {
        block_drop(worker, *place);
        *place = NULL;
    }
    size_t size = draw_size(worker, 16, 2048);
    *place = *place ? block_resize(worker, *place, size) : block_new(worker, size);
}

static void answer(struct worker *worker) {
    void *momentary[MOMENTARY_MOST];
    unsigned many = 3 + draw_below(worker, MOMENTARY_MOST - 3);
    for (unsigned i = 0; i < many; i++) {
        momentary[i] = block_new(worker, draw_size(worker, 16, 256));
    }
    void *buffer = block_new(worker, 256);
    for (size_t size = 512; size <= draw_size(worker, 1024, 65536); size *= 2) {
        buffer = block_resize(worker, buffer, size);
    }
    for (unsigned i = 0; i < many; i++) {
        block_drop(worker, momentary[i]);
    }
    block_drop(worker, buffer);
}

/* What happens follows from the client's number and the request's, whoever serves it. */
static void serve(struct worker *worker, struct client *client) {
    draw_restart(worker, (uint64_t)(client - clients) << 32 | client->served++);
    if (client->session_left == 0) {
        log_in(worker, client);
    }
    answer(worker);
    add_state(worker, client);
    if (--client->session_left == 0) {
        log_out(worker, client);
    }
}

static void work(struct worker *worker) {
    for (struct client *client = NULL; (client = take_client()) != NULL;) {
        serve(worker, client);
        if (client->served < line.requests_each) {
            put_client(client);
        }
    }
}

static void finish(struct worker *worker) {
    for (unsigned i = 0; i < CLIENTS; i++) {
        log_out(worker, &clients[i]);
    }
}

const struct workload workload = {
    .name = "server",
    .about = "Many clients with sessions of random length, served by a pool of threads.",
    .threads = 4,
    .minimum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
