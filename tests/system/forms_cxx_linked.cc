/* SPDX-License-Identifier: MIT
 *
 * C++: every form of new and delete, containers, exceptions and threads, on blocks of Quarry.
 */
#include "self_check.h"

#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <quarry.h>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#pragma weak quarry_version
#pragma weak quarry_malloc_usable_size

namespace {

bool is_quarrys(void *block, size_t size) {
    return block && quarry_malloc_usable_size(block) >= size;
}

struct alignas(128) Aligned {
    char bytes[300];
};

/* A constructor of a global object runs before main. */
std::string early = std::string(100, 'e') + "arly";

void test_operators() {
    for (size_t size : {size_t(0), size_t(1), size_t(100), size_t(5000), size_t(500000)}) {
        void *one = ::operator new(size), *many = ::operator new[](size);
        void *quiet = ::operator new(size, std::nothrow);
        CHECK(is_quarrys(one, size) && is_quarrys(many, size) && is_quarrys(quiet, size));
        ::operator delete(one, size);
        ::operator delete[](many);
        ::operator delete(quiet, std::nothrow);
        for (size_t align : {32, 256, 4096, 65536}) {
            void *aligned = ::operator new(size, std::align_val_t(align));
            void *array = ::operator new[](size, std::align_val_t(align), std::nothrow);
            CHECK(reinterpret_cast<uintptr_t>(aligned) % align == 0);
            CHECK(reinterpret_cast<uintptr_t>(array) % align == 0);
            CHECK(is_quarrys(aligned, size) && is_quarrys(array, size));
            ::operator delete(aligned, size, std::align_val_t(align));
            ::operator delete[](array, std::align_val_t(align));
        }
    }
    auto *object = new Aligned;
    CHECK(reinterpret_cast<uintptr_t>(object) % 128 == 0);
    delete object;
    delete static_cast<Aligned *>(nullptr);
}

int handler_calls;

void test_out_of_memory() {
    bool thrown = false;
    std::set_new_handler([] {
        if (++handler_calls == 3)
            std::set_new_handler(nullptr);
    });
    try {
        ::operator delete(::operator new(size_t(PTRDIFF_MAX)));
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown && handler_calls == 3);
    CHECK(::operator new(size_t(PTRDIFF_MAX), std::nothrow) == nullptr);
}

void test_containers() {
    std::map<std::string, std::vector<int>> table;
    for (int i = 0; i < 3000; i++)
        table[std::to_string(i % 500) + std::string(size_t(i % 60), 'x')].push_back(i);
    size_t total = 0;
    for (const auto &entry : table)
        total += entry.second.size();
    CHECK(total == 3000);
    auto shared = std::make_shared<std::string>("shared by threads");
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; i++)
        threads.emplace_back([shared] {
            thread_local std::vector<std::string> own;
            for (int j = 0; j < 1000; j++)
                own.push_back(*shared + std::to_string(j));
            CHECK(own.back() == "shared by threads999");
        });
    for (auto &thread : threads)
        thread.join();
    CHECK(shared.use_count() == 1);
}

void test_exceptions() {
    int caught = 0;
    for (int i = 0; i < 1000; i++)
        try {
            throw std::runtime_error("thrown " + std::to_string(i));
        } catch (const std::runtime_error &error) {
            caught += error.what() == "thrown " + std::to_string(i);
        }
    CHECK(caught == 1000);
}

} // namespace

int main() {
    if (!quarry_version) {
        say("this program does not run on Quarry\n");
        return 4;
    }
    say("Quarry %s\n", quarry_version());
    CHECK(is_quarrys(&early[0], 104));
    test_operators();
    test_out_of_memory();
    test_containers();
    test_exceptions();
    return finish();
}
