#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=600
"""The Makefile rebuilds what a change affects and nothing else.  Works on a copy of the tree."""
import filecmp
import os
import re
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

# What the caller gave make must not matter here.
PLAIN = ["CPPFLAGS=", "LDFLAGS=", "WERROR="]
FAST = "CFLAGS=-O0 -g"


def compiled(output):
    """The sources that a build compiled, as its lines "CC build/release/src/x.o" tell."""
    return sorted(re.findall(r"CC +build/release/(\S+)\.o", output))


def sources_of(tree):
    return sorted(f"{folder}/{name[:-2]}" for folder in ("src", "preload")
                  for name in os.listdir(os.path.join(tree, folder)) if name.endswith(".c"))


with open(os.path.join(tap.ROOT, "Makefile"), encoding="utf-8") as file:
    makefile = file.read()
help_text = tap.run("make", "help", MAKEFLAGS="").stdout
public = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE)) - {"run"}
missing = [name for name in sorted(public) if not re.search(rf"^  {name}\b", help_text, re.MULTILINE)]
tap.check("make help names every target", len(public) > 10 and not missing, missing)
variables = set(re.findall(r"^([A-Z]+) \?= ", makefile, re.MULTILINE)) - {"CLANG", "OBJCOPY"}
missing = [name for name in sorted(variables) if name not in help_text]
tap.check("make help names every variable", len(variables) > 5 and not missing, missing)
cleaners = re.findall(r"^([a-z-]+):.*\bclean\b|\$\(MAKE\).*\bclean\b", makefile, re.MULTILINE)
tap.equal("no target runs clean", cleaners, [])

with tempfile.TemporaryDirectory() as work:
    tree, twin = os.path.join(work, "tree"), os.path.join(work, "longer", "twin")
    for copy in (tree, twin):
        os.makedirs(copy)
        shutil.copy(os.path.join(tap.ROOT, "Makefile"), copy)
        for folder in ("include", "src", "preload", "tools/rt"):
            shutil.copytree(os.path.join(tap.ROOT, folder), os.path.join(copy, folder))

    def build(*words, at=tree):
        return tap.run("make", "-j2", *PLAIN, *words, cwd=at, timeout=500, MAKEFLAGS="")

    def edit(name, text):
        with open(os.path.join(tree, name), "a", encoding="utf-8") as source:
            source.write(text)

    everything = sources_of(tree)
    first = build(FAST)
    tap.check("the first build compiles every source", first.returncode == 0 and everything
              and compiled(first.stdout) == everything, first.stdout + first.stderr)
    build(FAST, at=twin)
    products = ["libquarry.so", "libquarry.a"]
    tap.equal("a build in another place gives the same bytes", filecmp.cmpfiles(
        tree + "/build/release", twin + "/build/release", products, shallow=False)[0], products)
    tap.equal("a second one compiles nothing", compiled(build(FAST).stdout), [])
    crossed = build("-n", "V=1", "CROSS_COMPILE=other-").stdout
    tap.equal("for another machine each tool is that machine's",
              set(re.findall(r"^(?!other-)(\S*(?:gcc|cc|ld|ar|objcopy)) ", crossed, re.MULTILINE)), set())
    tap.equal("and all are used", {tool for tool in ("gcc", "ld", "ar", "objcopy")
                                   if not re.search(rf"^other-{tool} |&& other-{tool} ", crossed, re.MULTILINE)}, set())

    edit("include/quarry.h", "\n/* changed */\n")
    affected = compiled(build(FAST).stdout)
    tap.check("a changed header compiles those that include it again",
              affected and set(affected) <= set(everything), affected)
    edit("src/os.c", "\n/* changed */\n")
    tap.equal("a changed source is compiled alone", compiled(build(FAST).stdout), ["src/os"])
    tap.equal("changed flags compile everything again",
              compiled(build(FAST, "CPPFLAGS=-DCHANGED").stdout), everything)

    edit("src/added.c", "int added(int x);\nint added(int unused) {\n    return 1;\n}\n")
    warned = build(FAST)
    tap.check("a new source is found, and a warning is none of the user's errors",
              warned.returncode == 0 and "warning" in warned.stderr, warned.stderr)
    library = os.path.join(tree, "build", "release", "libquarry.a")
    tap.check("it is in the library", " added" in tap.run("nm", library).stdout)
    os.remove(os.path.join(tree, "src", "added.c"))
    build(FAST)
    tap.check("and no more when it is gone", " added" not in tap.run("nm", library).stdout)
    edit("src/added.c", "int added(int x);\nint added(int unused) {\n    return 1;\n}\n")
    refused = build(FAST, "WERROR=-Werror")
    tap.check("with WERROR=-Werror a warning is an error",
              refused.returncode != 0 and "-Werror=unused-parameter" in refused.stderr,
              refused.stderr)
tap.done()
