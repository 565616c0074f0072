/* SPDX-License-Identifier: MIT
 *
 * slab_shard: the shards of the class lists.
 *
 * PURPOSE  Let threads that are in each other's way take objects from lists of their own, without
 *          giving each of them memory of its own.
 *
 * TERMS    shard    one list, lock and set of counters per class.  Shard 0 is there from the start.
 *          home     the shard that a thread takes from; 0 at first.  What it gives goes to the shard
 *                   of the slab.
 *          lane     the same for objects of up to LANE_OBJECT_MAX bytes: from the start one of as many
 *                   as there are processors, in turn.  Else two threads that begin together have objects
 *                   in the same lines, for ever: freed, they come back to the thread that freed them.
 *
 * HOW      A thread that had to wait WAITS_TO_MOVE times in WAIT_WINDOW uses of locks moves to the
 *          next shard, with the objects, small or not, that it waited for.  When it has been in all
 *          there are, it makes one, up to the limit:
 *          M_ARENA_MAX; else M_ARENA_TEST, and beyond that 8 for each processor, as glibc's arenas.
 *          A shard whose list of a class is empty takes a slab over from one that can spare it before it
 *          opens one.  It does not sleep for that, and leaves the last slab to a shard that uses it: there
 *          a slab of its own is what it needs.  So most free objects are found wherever they are, and no
 *          thread's end strands more than an eighth of what it had.
 *
 * INVARIANTS
 *   INV-SLAB-5  A slab's shard exists; the slab counts there and, if listed at all, is listed there.
 *
 * LOCKING  slab->shard changes while the locks of both shards are held; nobody sleeps for the second.
 *          Whoever wants the lock of a slab's shard looks again when it has it (slab_lock_shard_of).
 *          Shards are made without a lock, by two exchanges; they stay for ever.
 *
 * FORK     In the middle of a move both locks are broken, so both lists are made anew
 *          (slab_repair.c).
 *
 * COST     One addition per batch, and a load to learn that there is one shard.  Where there are more, as in
 *          all programs with threads: the slab of a batch is looked up before its lock.
 *
 * WHY NOT  A shard per processor from the start, for all classes: each has a slab of every class in use.
 *          Those of a lane are 1 to 4 pages long.
 *          The home in the thread's cache: those that wait most have none.
 */
#include "meta.h"
#include "os.h"
#include "slab_internal.h"

enum {
    WAITS_TO_MOVE = 64,
    WAIT_WINDOW = 512,
    GRABS = 100,
    SPARE_SHARE = 8,  /* of a shard's objects are free, or it keeps its slabs */
    TEST_DEFAULT = 8, /* glibc's */
    PER_PROCESSOR = 8,
    LANES_MAX = 8, /* each has a slab of the smallest classes */
    PROCESSORS_UNKNOWN = 2,
};

__thread struct slab_home slab_home;

static size_t shard_max; /* 0: not set */
static size_t shard_test = TEST_DEFAULT;
static unsigned processors_known; /* 0: not asked for yet */
static uint32_t lanes_given =
    1; /* and one more: not in .bss, where it would be a page's first use */

void slab_set_shard_max(size_t shards) {
    STORE_RELAXED(shard_max, shards);
}

void slab_set_shard_test(size_t shards) {
    STORE_RELAXED(shard_test, shards);
    STORE_RELAXED(processors_known, 0);
}

static void prepare(struct slab_class *classes, uint32_t number) {
    for (unsigned i = 0; i < CLASS_COUNT; i++) {
        lock_set_rank(&classes[i].lock, LOCK_CLASS);
        if (number > 0) /* what is zero is not written, and costs no page */
            classes[i].shard = (uint16_t)number;
    }
}

void slab_init(void) {
    prepare(slab_classes, 0);
    slab_shards[0] = slab_classes;
    STORE_RELEASE(slab_shard_count, 1);
}

/* A system call: once. */
static unsigned processors(void) {
    unsigned known = LOAD_RELAXED(processors_known);
    if (!known) {
        known = os_processors();
        known = known ? known : PROCESSORS_UNKNOWN;
        STORE_RELAXED(processors_known, known);
    }
    return known;
}

/* How many there may be, where there are count. */
static size_t shard_limit(uint32_t count) {
    size_t most = LOAD_RELAXED(shard_max);
    if (most == 0 && count >= LOAD_RELAXED(shard_test))
        most = (size_t)PER_PROCESSOR * processors();
    return most == 0 ? SHARD_MAX : min_size(most, SHARD_MAX);
}

/* True if the shard of this number exists now, whoever made it.  A fork may cut its maker between the
 * exchanges; then the next one takes what there is. */
static bool add_shard(uint32_t number) {
    if (number >= shard_limit(number))
        return false;
    struct slab_class *none = NULL, *classes = meta_take_ready(CLASS_COUNT * sizeof *classes);
    if (!classes)
        return false;
    prepare(classes, number);
    if (!__atomic_compare_exchange_n(&slab_shards[number], &none, classes, false, __ATOMIC_RELEASE,
                                     __ATOMIC_ACQUIRE))
        meta_give(classes, CLASS_COUNT * sizeof *classes);
    uint32_t expected = number;
    __atomic_compare_exchange_n(&slab_shard_count, &expected, number + 1, false, __ATOMIC_ACQ_REL,
                                __ATOMIC_ACQUIRE);
    return true;
}

/* Another thread had the lock in the shard that the calling one takes from: that one, or a better. */
static uint32_t after_wait(uint32_t here) {
    struct slab_home *home = &slab_home;
    if (home->uses > WAIT_WINDOW)
        home->uses = home->waits = 0;
    if (++home->waits < WAITS_TO_MOVE)
        return here;
    home->uses = home->waits = 0;
    uint32_t count = LOAD_ACQUIRE(slab_shard_count);
    if (home->tried + 1 >= count && add_shard(count)) {
        home->tried = 0;
        return count;
    }
    home->tried = home->tried + 1 >= count ? 0 : home->tried + 1;
    return (here + 1) % count;
}

void slab_shard_waited(uint32_t shard) {
    if (shard == slab_home.shard)
        slab_home.shard = after_wait(shard);
}

void slab_lane_waited(uint32_t shard) {
    if (shard + 1 == slab_home.lane)
        slab_home.lane = 1 + after_wait(shard);
}

static uint32_t next_turn(void) {
    if (!lock_single_thread())
        return __atomic_fetch_add(&lanes_given, 1, __ATOMIC_RELAXED) - 1;
    STORE_RELAXED(lanes_given, lanes_given + 1);
    return lanes_given - 2;
}

/* The next one in turn, or one of those that there are.  Who is alone asks for no processors. */
static uint32_t next_lane(void) {
    uint32_t turn = next_turn(), count;
    if (turn == 0 || LOAD_RELAXED(shard_max) == 1)
        return 0;
    uint32_t lane = turn % (uint32_t)min_size(processors(), LANES_MAX);
    while ((count = LOAD_ACQUIRE(slab_shard_count)) <= lane && add_shard(count))
        continue;
    return lane % count;
}

void slab_enter(uint32_t *lane) {
    if (LIKELY(slab_home.lane != 0))
        return;
    if (*lane == 0)
        *lane = 1 + next_lane();
    slab_home.lane = *lane;
}

void slab_lock_contended(struct slab_class *class) {
    unsigned class_index = (unsigned)(class - slab_class_in(class->shard, 0));
    if (slab_home.lane && slab_has_lane(class_index))
        slab_lane_waited(class->shard);
    else
        slab_shard_waited(class->shard);
    lock_take(&class->lock);
}

struct slab_class *slab_lock_shard_of(const struct slab *slab, unsigned class_index) {
    for (;;) {
        struct slab_class *class = slab_class_in(LOAD_ACQUIRE(slab->shard), class_index);
        lock_take(&class->lock);
        if (LIKELY(LOAD_ACQUIRE(slab->shard) == class->shard))
            return class;
        lock_drop(&class->lock);
    }
}

struct slab_class *slab_class_of(unsigned class_index, const void *object) {
    const struct slab *slab = slab_find(class_index, (uintptr_t)object);
    return slab_class_in(slab ? LOAD_RELAXED(slab->shard) : 0, class_index);
}

struct slab *slab_follow(struct slab_class **class, unsigned class_index, struct slab *slab,
                         uintptr_t address, struct slab_class **fallen) {
    do {
        slab_drop_class(*class, &size_classes[class_index], fallen);
        *class = slab_class_in(LOAD_RELAXED(slab->shard), class_index);
        slab_lock(*class);
        slab = slab_find(class_index, address);
    } while (slab && LOAD_RELAXED(slab->shard) != (*class)->shard);
    return slab;
}

/* The peak moves along, so that neither shard seems to have fallen, or not to have. */
static void move_slab(struct slab_class *from, struct slab_class *to, struct slab *slab) {
    size_t live = slab->objects - slab->free_count;
    uint32_t holes = slab_forget_holes(from, slab);
    slab_list_remove(from, slab);
    STORE_RELAXED(from->slabs, from->slabs - 1);
    slab_add_objects(from, 0 - (size_t)slab->objects, 0 - (size_t)slab->free_count);
    from->high_live -= min_size(from->high_live, live);
    STORE_RELAXED(slab->shard, (uint8_t)to->shard);
    slab_list_push(to, slab);
    STORE_RELAXED(to->slabs, to->slabs + 1);
    slab_add_objects(to, slab->objects, slab->free_count);
    to->high_live += live;
    to->holes_outstanding += holes;
}

/* The slab that the other shard would take from next is left to it, unless nobody has taken from there
 * since it was asked last: two threads would take it from each other for ever.  One that is empty goes first. */
static struct slab *spare_slab(struct slab_class *from) {
    struct slab *slab = from->partial;
    if (slab && slab->next) {
        if (slab->prev->free_count == slab->prev->objects)
            return slab->prev;
        for (unsigned i = 0; i < 8 && slab->next; i++)
            slab = slab->next;
        return slab;
    }
    bool in_use = from->in_use;
    from->in_use = 0;
    return in_use ? NULL : slab;
}

/* Who holds the lock has done in a moment, unless it has lost its processor.  Giving up at once costs
 * an eighth more memory where many threads mix their blocks: slabs are opened that were not needed. */
static bool grab_soon(struct lock *lock) {
    for (unsigned i = 0; i < GRABS; i++) {
        if (LOAD_RELAXED(lock->word) == 0 && lock_grab(lock))
            return true;
        lock_pause();
    }
    return false;
}

/* A shard with fewer free objects is about to use them.  Taken from it, a slab holds objects of threads of both for as
 * long as it lives, and its lines move between their processors. */
static bool can_spare(const struct slab_class *from) {
    return LOAD_RELAXED(from->partial) &&
           LOAD_RELAXED(from->free_objects) * SPARE_SHARE >= LOAD_RELAXED(from->objects);
}

static bool take_over_from(struct slab_class *from, struct slab_class *to) {
    if (!can_spare(from) || !grab_soon(&from->lock))
        return false;
    struct slab *slab = spare_slab(from);
    if (slab)
        move_slab(from, to, slab);
    lock_let_go(&from->lock);
    return slab != NULL;
}

bool slab_take_over(struct slab_class *class, unsigned class_index) {
    uint32_t count = LOAD_ACQUIRE(slab_shard_count);
    for (uint32_t i = 1; i < count; i++)
        if (take_over_from(slab_class_in((class->shard + i) % count, class_index), class))
            return true;
    return false;
}
