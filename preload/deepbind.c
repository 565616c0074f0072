/* SPDX-License-Identifier: MIT
 *
 * preload/deepbind.c: one malloc also for modules that are loaded with RTLD_DEEPBIND.
 *
 * PROBLEM  Such a module, and what comes with it, looks for names in the libraries that it needs before it looks where the
 *          program does.  So it finds libc's malloc and free, and the program this one's: the first block that
 *          one side makes and the other frees is the end of the process (PHP's extensions).
 *
 * HOW      Before the first such dlopen, the entries of malloc and its family in libc's table of dynamic symbols are made to
 *          lead here.  The module finds them in libc, as it wants to; all other names are what they were.  Who
 *          called dlopen decides where it searches, so that it is jumped to rather than called.
 *
 * RULES    Only where the program's malloc is ours: not if the library was loaded late.  libc itself, and all that was
 *          bound before, has this malloc already; what libc's gave to somebody who asked libc for it is freed by
 *          libc's free, if QUARRY_FOREIGN says so.
 *
 * LOCKING  One thread does it, others that come meanwhile wait.  An entry changes by one store.
 *
 * FORK     A child that is cut off in between goes on without.
 *
 * FAILURE  Where the table lies beside code, or the kernel does not let us write to it, all stays as it was.
 *
 * WHY NOT  To take RTLD_DEEPBIND away: the module's other names would be the program's, which is what it is there to
 *          prevent.
 */
#include "heap.h"
#include "os.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__aarch64__)

typedef void *open_function(const char *, int);

/* The trampoline's: what dlopen is really, after all that is to be done before. */
open_function *deepbind_before(int mode) __attribute__((visibility("hidden"), used));

#ifdef __x86_64__
__asm__(".pushsection .text.deepbind_dlopen,\"ax\",@progbits\n"
        ".globl dlopen\n"
        ".type dlopen, @function\n"
        "dlopen:\n"
        ".cfi_startproc\n"
        "  endbr64\n"
        "  push %rdi\n"
        "  .cfi_adjust_cfa_offset 8\n"
        "  push %rsi\n"
        "  .cfi_adjust_cfa_offset 8\n"
        "  sub $8, %rsp\n"
        "  .cfi_adjust_cfa_offset 8\n"
        "  mov %esi, %edi\n"
        "  call deepbind_before\n"
        "  add $8, %rsp\n"
        "  .cfi_adjust_cfa_offset -8\n"
        "  pop %rsi\n"
        "  .cfi_adjust_cfa_offset -8\n"
        "  pop %rdi\n"
        "  .cfi_adjust_cfa_offset -8\n"
        "  jmp *%rax\n"
        ".cfi_endproc\n"
        ".size dlopen, . - dlopen\n"
        ".popsection\n");
#else
__asm__(".pushsection .text.deepbind_dlopen,\"ax\",%progbits\n"
        ".globl dlopen\n"
        ".type dlopen, %function\n"
        "dlopen:\n"
        ".cfi_startproc\n"
        "  hint #34\n" /* bti c */
        "  stp x29, x30, [sp, #-32]!\n"
        "  .cfi_adjust_cfa_offset 32\n"
        "  stp x0, x1, [sp, #16]\n"
        "  mov w0, w1\n"
        "  bl deepbind_before\n"
        "  mov x16, x0\n"
        "  ldp x0, x1, [sp, #16]\n"
        "  ldp x29, x30, [sp], #32\n"
        "  .cfi_adjust_cfa_offset -32\n"
        "  br x16\n"
        ".cfi_endproc\n"
        ".size dlopen, . - dlopen\n"
        ".popsection\n");
#endif

/* One after the other, for pointers to them would be relocated in each process. */
static const char family[] =
    "malloc\0free\0calloc\0realloc\0memalign\0aligned_alloc\0posix_memalign\0valloc\0pvalloc\0"
    "malloc_usable_size\0mallopt\0malloc_trim\0mallinfo\0mallinfo2\0malloc_stats\0"
    "malloc_info\0cfree\0__libc_malloc\0__libc_free\0__libc_calloc\0__libc_realloc\0"
    "__libc_memalign\0__libc_valloc\0__libc_pvalloc\0__libc_mallopt\0__libc_mallinfo\0";

/* libc's, as the dynamic linker has it. */
struct table {
    uintptr_t bias;
    ElfW(Sym) * symbols;
    const char *names;
    const uint32_t *hashes;
};

/* Of libraries that the linker cannot write to the section has no addresses but offsets. */
static uintptr_t address_in(const struct link_map *map, uintptr_t value) {
    return value < map->l_addr ? map->l_addr + value : value;
}

static bool find_table(const struct link_map *map, struct table *table) {
    *table = (struct table){.bias = map->l_addr};
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        uintptr_t address = address_in(map, entry->d_un.d_ptr);
        if (entry->d_tag == DT_SYMTAB)
            table->symbols = (ElfW(Sym) *)address;
        else if (entry->d_tag == DT_STRTAB)
            table->names = (const char *)address;
        else if (entry->d_tag == DT_GNU_HASH)
            table->hashes = (const uint32_t *)address;
    }
    return table->symbols && table->names && table->hashes;
}

/* Whether the table lies in pages that hold nothing but data that is read. */
static bool lies_in_data(const struct table *table) {
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)table->bias;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return false;
    const ElfW(Phdr) *part = (const ElfW(Phdr) *)(table->bias + header->e_phoff);
    uintptr_t offset = (uintptr_t)table->symbols - table->bias;
    for (unsigned i = 0; i < header->e_phnum; i++, part++)
        if (part->p_type == PT_LOAD && offset - part->p_vaddr < part->p_filesz)
            return part->p_flags == PF_R;
    return false;
}

static uint32_t hash_of(const char *name) {
    uint32_t hash = 5381;
    for (; *name; name++)
        hash = hash * 33 + (uint8_t)*name;
    return hash;
}

/* One store to an entry that other threads may read meanwhile. */
static void lead_to(const struct table *table, ElfW(Sym) * symbol, const void *function) {
    if (os_set_writable(symbol, sizeof *symbol, true))
        STORE_RELEASE(symbol->st_value, (uintptr_t)function - table->bias);
    os_set_writable(symbol, sizeof *symbol, false);
}

/* All versions of a name: the entries of a bucket follow each other, the last one has an odd hash. */
static void redirect(const struct table *table, const char *name, const void *function) {
    uint32_t buckets = table->hashes[0], first = table->hashes[1], words = table->hashes[2];
    const uint32_t *bucket = table->hashes + 4 + words * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
    const uint32_t *chain = bucket + buckets;
    uint32_t hash = hash_of(name), index = bucket[hash % buckets];
    if (index < first)
        return;
    do {
        ElfW(Sym) *symbol = &table->symbols[index];
        if ((chain[index - first] | 1) == (hash | 1) && symbol->st_shndx != SHN_UNDEF &&
            ELF64_ST_TYPE(symbol->st_info) == STT_FUNC &&
            strcmp(table->names + symbol->st_name, name) == 0)
            lead_to(table, symbol, function);
    } while (!(chain[index++ - first] & 1));
}

/* Each name leads to what the program finds under it. */
static void redirect_family(const struct table *table, void *program) {
    for (const char *name = family; *name; name += strlen(name) + 1) {
        const void *function = dlsym(program, name);
        if (function)
            redirect(table, name, function);
    }
}

static void redirect_libc(open_function *open) {
    int (*info)(void *, int, void *) =
        (int (*)(void *, int, void *))(uintptr_t)dlsym(RTLD_NEXT, "dlinfo");
    void *program = open(NULL, RTLD_LAZY); /* RTLD_DEFAULT may begin with this library */
    void *libc = open("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    struct link_map *map = NULL;
    struct table table;
    if (program && libc && info && dlsym(program, "malloc") == (void *)(uintptr_t)malloc &&
        info(libc, RTLD_DI_LINKMAP, &map) == 0 && find_table(map, &table) && lies_in_data(&table)) {
        heap_set_foreign_free((void (*)(void *))(uintptr_t)dlsym(libc, "free"));
        redirect_family(&table, program);
    }
}

enum { NOT_YET, BEGUN, DONE };
enum { WAIT_YIELDS = 10000 };

static void redirect_once(open_function *open) {
    static uint32_t state;
    uint32_t expected = NOT_YET;
    if (__atomic_compare_exchange_n(&state, &expected, BEGUN, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_ACQUIRE)) {
        redirect_libc(open);
        STORE_RELEASE(state, DONE);
    }
    for (int i = 0; LOAD_ACQUIRE(state) != DONE && i < WAIT_YIELDS; i++)
        os_yield();
}

static void *no_dlopen(const char *name, int mode) {
    (void)name, (void)mode;
    return NULL;
}

open_function *deepbind_before(int mode) {
    static open_function *known;
    open_function *open = LOAD_RELAXED(known);
    if (!open) {
        open = (open_function *)(uintptr_t)dlsym(RTLD_NEXT, "dlopen");
        STORE_RELAXED(known, open);
    }
    if (open && mode & RTLD_DEEPBIND)
        redirect_once(open);
    return open ? open : no_dlopen;
}

#endif
