#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The library shows the program exactly the names in preload/symbols*.txt, and needs only libc."""
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

ARCHIVE = os.path.join(tap.BUILD, "release", "libquarry.a")


def read(*path):
    with open(os.path.join(tap.ROOT, *path), encoding="utf-8") as file:
        return file.read()


def defined(*command):
    """The names and type letters in nm's output: {name: letter}."""
    found = re.findall(r"^[0-9a-f]+ ([A-Za-z]) (\S+)$", tap.run(*command).stdout, re.MULTILINE)
    return {name: letter for letter, name in found}


def difference(got, wanted):
    return f"not expected: {sorted(got - wanted)}\nmissing: {sorted(wanted - got)}"


listed = read("preload", "symbols.txt").split("\n")[:-1]
declared = set(re.findall(r"^QUARRY_API [^;]*?\b(quarry_\w+)\(", read("include", "quarry.h"),
                          re.MULTILINE))
tap.equal("the list is sorted and has no name twice", listed, sorted(set(listed)))
tap.check("the list has every function of quarry.h", declared and declared <= set(listed),
          sorted(declared - set(listed)))
tap.equal("the list has no quarry_ function that quarry.h lacks",
          {name for name in listed if name.startswith("quarry_")} - declared, {"quarry_public"})

only_shared = read("preload", "symbols-shared.txt").split("\n")[:-1]
shared = defined("nm", "-D", "--defined-only", tap.LIBRARY)
wanted = set(listed) | set(only_shared)
tap.check("libquarry.so exports the names in both lists and no other",
          set(shared) == wanted, difference(set(shared), wanted))
tap.check("libquarry.so exports functions, and quarry_public as data",
          all(letter in ("DBR" if name == "quarry_public" else "T")
              for name, letter in shared.items()), shared)

needed = re.findall(r"\(NEEDED\).*\[(.*)\]", tap.run("readelf", "-dW", tap.LIBRARY).stdout)
tap.equal("libquarry.so needs libc alone", needed, ["libc.so.6"])

members = tap.run("ar", "t", ARCHIVE).stdout.split()
tap.equal("libquarry.a is one object, so that all entry points come together", len(members), 1)
static = set(defined("nm", "-g", "--defined-only", ARCHIVE))
tap.check("libquarry.a defines the names in the list and no other global one",
          static == set(listed), difference(static, set(listed)))

strange = re.findall(r" U (__(?:asan|ubsan|tsan|sanitizer|gcov|llvm)\w*)",
                     tap.run("nm", ARCHIVE).stdout)
tap.equal("libquarry.a was built without instrumentation", strange, [])

# A name that leaks would show: the same comparison, on a library that does export one more.
planted = set(defined("nm", "-g", "--defined-only",
                      os.path.join(tap.BUILD, "debug", "libquarry-core.a")))
tap.check("internal names would be noticed", planted - set(listed), "the core has no internal name")
tap.done()
