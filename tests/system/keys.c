/* SPDX-License-Identifier: MIT
 *
 * Takes every thread-specific key there is, and writes rubbish under all of them, those of others
 * included: programs do that through a key that they never created.  Then threads allocate and end.
 */
#include "self_check.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>

static void *run(void *argument) {
    char *blocks[300];
    if (argument)
        for (pthread_key_t key = 0; key < PTHREAD_KEYS_MAX; key++)
            pthread_setspecific(key, argument);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 300; i++) {
            blocks[i] = malloc(i * 5);
            MUST(blocks[i]);
            fill(blocks[i], i * 5, i);
        }
        for (unsigned i = 0; i < 300; i++) {
            CHECK(intact(blocks[i], i * 5, i));
            free(blocks[i]);
        }
    }
    if (argument)
        for (pthread_key_t key = 0; key < PTHREAD_KEYS_MAX; key++)
            pthread_setspecific(key, argument);
    return NULL;
}

/* A program that has not made its key yet uses key 0. */
static void check_first_key(void) {
    static pthread_key_t not_made;
    pthread_key_t made;
    free(malloc(10));
    CHECK(pthread_getspecific(not_made) == NULL);
    CHECK(pthread_setspecific(not_made, &made) == EINVAL);
    MUST(pthread_key_create(&made, NULL) == 0);
    CHECK(made == 0);
    MUST(pthread_key_delete(made) == 0);
}

int main(void) {
    pthread_key_t key;
    int keys = 0, error;
    static char rubbish[] = "rubbish";
    check_first_key();
    while ((error = pthread_key_create(&key, NULL)) == 0)
        keys++;
    CHECK(error == EAGAIN);
    for (int i = 0; i < 40; i++) {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, run, i % 2 ? rubbish : NULL) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
    run(rubbish);
    say("keys=%d of %d\n", keys, PTHREAD_KEYS_MAX);
    return finish();
}
