/* SPDX-License-Identifier: MIT
 *
 * vdso: the functions that the kernel lends each process.
 *
 * PURPOSE  Read a clock in some 20 ns, with locks held.
 *
 * LAYOUT   A small shared library that the kernel maps into each process; its address is in the auxiliary vector,
 *          its names are in its symbol table:
 *
 *            ELF header -> PT_LOAD     what addresses in it are relative to
 *                       -> PT_DYNAMIC  symbols, names, and a hash table that tells how many there are
 *
 * FAILURE  Without it, or without the name in it, NULL.
 *
 * WHY NOT  libc's clock_gettime: programs interpose it, and what they put in its place calls malloc (libfaketime reads
 *          a file).  A system call: ten times as slow, and a sandbox may refuse it.
 */
#include "vdso.h"

#include <link.h>
#include <string.h>
#include <sys/auxv.h>

#ifdef __x86_64__
#define CLOCK_NAME "__vdso_clock_gettime"
#else
#define CLOCK_NAME "__kernel_clock_gettime"
#endif

struct library {
    uintptr_t base, bias;
    const ElfW(Sym) * symbols;
    const char *names;
    const uint32_t *hash, *gnu_hash;
};

static const ElfW(Phdr) * part_of(const struct library *library, uint32_t type) {
    const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)library->base;
    const ElfW(Phdr) *part = (const ElfW(Phdr) *)(library->base + head->e_phoff);
    for (unsigned i = 0; i < head->e_phnum; i++)
        if (part[i].p_type == type)
            return &part[i];
    return NULL;
}

static bool read_library(uintptr_t base, struct library *library) {
    *library = (struct library){.base = base};
    if (!base)
        return false;
    const ElfW(Phdr) *load = part_of(library, PT_LOAD), *dynamic = part_of(library, PT_DYNAMIC);
    if (!load || !dynamic)
        return false;
    library->bias = base + load->p_offset - load->p_vaddr;
    const ElfW(Dyn) *entry = (const ElfW(Dyn) *)(base + dynamic->p_offset);
    for (; entry->d_tag != DT_NULL; entry++) {
        uintptr_t address = library->bias + entry->d_un.d_ptr;
        if (entry->d_tag == DT_SYMTAB)
            library->symbols = (const ElfW(Sym) *)address;
        else if (entry->d_tag == DT_STRTAB)
            library->names = (const char *)address;
        else if (entry->d_tag == DT_HASH)
            library->hash = (const uint32_t *)address;
        else if (entry->d_tag == DT_GNU_HASH)
            library->gnu_hash = (const uint32_t *)address;
    }
    return library->symbols && library->names && (library->hash || library->gnu_hash);
}

/* Beyond the last name of the table: newer kernels may have its GNU form only, whose last chain ends there. */
static uint32_t count_symbols(const struct library *library) {
    if (library->hash)
        return library->hash[1];
    const uint32_t *table = library->gnu_hash;
    uint32_t buckets = table[0], first = table[1], words = table[2], last = 0;
    const uint32_t *bucket = table + 4 + words * (sizeof(ElfW(Addr)) / sizeof(uint32_t));
    for (uint32_t i = 0; i < buckets; i++)
        last = bucket[i] > last ? bucket[i] : last;
    if (last < first)
        return 0;
    while (!(bucket[buckets + last - first] & 1))
        last++;
    return last + 1;
}

vdso_clock *vdso_clock_gettime(void) {
    struct library library;
    if (!read_library(getauxval(AT_SYSINFO_EHDR), &library))
        return NULL;
    for (uint32_t i = count_symbols(&library); i-- > 0;) {
        const ElfW(Sym) *symbol = &library.symbols[i];
        if (symbol->st_shndx != SHN_UNDEF &&
            strcmp(library.names + symbol->st_name, CLOCK_NAME) == 0)
            return (vdso_clock *)(library.bias + symbol->st_value);
    }
    return NULL;
}
