#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Installs, builds programs against what was installed as its users do, and uninstalls."""
import glob
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

CONSUMER = os.path.join(tap.ROOT, "tests", "system", "consumer")
with open(os.path.join(tap.ROOT, "include", "quarry.h"), encoding="utf-8") as header:
    VERSION = ".".join(re.findall(r"#define QUARRY_VERSION_\w+ (\d+)", header.read()))
MAJOR, MINOR, _ = VERSION.split(".")
MULTIARCH = tap.run("cc", "-print-multiarch").stdout.strip()


def make(name, target, **variables):
    return tap.succeeds(name, "make", "--no-print-directory", target,
                        *(f"{key}={value}" for key, value in variables.items()))


def files_in(tree):
    return sorted(os.path.relpath(os.path.join(at, name), tree)
                  for at, _, names in os.walk(tree) for name in names)


def files_wanted(library, header="include", manual="share/man", prefix=""):
    pages = [f"{manual}/man{page[-1]}/{os.path.basename(page)}"
             for page in glob.glob(os.path.join(tap.ROOT, "docs", "man", "*.[1-8]"))]
    names = ["libquarry.a", "libquarry.so", "libquarry.so." + MAJOR, "libquarry.so." + VERSION,
             "pkgconfig/quarry.pc", "cmake/quarry/quarry-config.cmake",
             "cmake/quarry/quarry-config-version.cmake"]
    tools = [prefix + name for name in ("bin/quarry", "bin/quarry_trace", "bin/quarry_replay",
                                        "libexec/quarry/libquarry_trace.so",
                                        "libexec/quarry/libquarry_profile.so",
                                        "libexec/quarry/libquarry.so",
                                        "libexec/quarry/realtime")]
    tools += [f"{prefix}share/quarry/quarrytool/{os.path.basename(module)}" for module in glob.glob(
        os.path.join(tap.ROOT, "tools", "quarry", "quarrytool", "*.py"))]
    tools += [prefix + name for name in ("share/quarry/quarrytool/OPTIONS.md", "share/quarry/quarrytool/VERSION",
                                         "share/bash-completion/completions/quarry")]
    return sorted([f"{library}/{name}" for name in names] + [f"{header}/quarry.h"] + pages + tools)


def prints_version(name, *program, **options):
    result = tap.run(*program, **options)
    tap.check(name, result.returncode == 0 and result.stdout == VERSION + "\n",
              f"exit status {result.returncode}\n{result.stdout}{result.stderr}")


def pkg_config(prefix, *words):
    result = tap.run("pkg-config", *words, "quarry",
                     PKG_CONFIG_PATH=os.path.join(prefix, "lib", "pkgconfig"))
    return result.stdout.split()


def check_compilers(prefix, work):
    """Programs built by hand with pkg-config's flags, in each way to link."""
    tap.equal("pkg-config knows the version", pkg_config(prefix, "--modversion"), [VERSION])
    flags, libs = pkg_config(prefix, "--cflags"), pkg_config(prefix, "--libs")
    static_libs = pkg_config(prefix, "--static", "--libs")
    library = os.path.join(prefix, "lib")
    ways = {"shared": ["cc", *libs],
            "shared, linked only as needed": ["cc", "-Wl,--as-needed", *libs],
            "static": ["cc", "-static", *static_libs],
            "static, position-independent": ["cc", "-static-pie", *static_libs],
            "C++": ["c++", "-x", "c++", *libs],
            "C++ without malloc": ["c++", "-Wl,--as-needed", *libs],
            "C++ without malloc, static": ["c++", "-static", *static_libs]}
    for way, (compiler, *words) in ways.items():
        program = os.path.join(work, "program")
        source = os.path.join(CONSUMER,
                              "only_new.cc" if "without malloc" in way else "consumer.c")
        tap.succeeds(f"a program is built with pkg-config ({way})", compiler, "-Wall", "-Werror",
                     *flags, *words[:-len(libs)], source, *words[-len(libs):], "-o", program)
        prints_version(f"and runs ({way})", program, LD_LIBRARY_PATH=library)


def check_cmake(prefix, work):
    build = os.path.join(work, "cmake")

    def configure(version):
        return ["cmake", "-S", CONSUMER, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}",
                f"-DWANTED_VERSION={version}"]

    for version in (f"{MAJOR}.{int(MINOR) + 1}", str(int(MAJOR) + 1)):
        result = tap.run(*configure(version))
        tap.check(f"CMake refuses version {VERSION} where {version} is asked for",
                  result.returncode != 0 and "version" in result.stderr, result.stderr)
    tap.succeeds("CMake finds the package", *configure(f"{MAJOR}.{MINOR}"))
    tap.succeeds("CMake builds programs with it", "cmake", "--build", build)
    for program in ("shared", "archive", "static", "shared_cxx", "archive_cxx", "static_cxx"):
        prints_version(f"a program that CMake built runs ({program})", os.path.join(build, program))


def check_tools(prefix, work):
    """The installed tools find each other and the library."""
    trace = os.path.join(work, "true.trace")
    tap.succeeds("the installed quarry_trace records", os.path.join(prefix, "bin", "quarry_trace"),
                 "-o", trace, "--", "ls", work)
    tap.succeeds("the installed quarry_replay replays",
                 os.path.join(prefix, "bin", "quarry_replay"), trace)
    ran = tap.run(os.path.join(prefix, "bin", "quarry"), "run", "--", "ls", work)
    tap.check("the installed quarry finds its modules and the library", ran.returncode == 0
              and "heap at the end" in ran.stderr, ran.stderr)
    tap.succeeds("the installed quarry profile finds its library", os.path.join(
        prefix, "bin", "quarry"), "profile", "-o", os.path.join(work, "ls.prof"), "--", "ls", work)
    tap.check("and profiles", os.path.getsize(os.path.join(work, "ls.prof")) > 4096)
    prints_version("the installed quarry knows its version", "sh", "-c", '"$1" --version | cut -d " " -f 2',
                   "sh", os.path.join(prefix, "bin", "quarry"))
    ran = tap.run("sh", "-c", 'exec "$0" doctor $$', os.path.join(prefix, "bin", "quarry"),
                  MALLOC_ARENA_MAX="many")
    tap.check("the installed quarry doctor knows the options", "MALLOC_ARENA_MAX" in ran.stdout and
              "malformed" in ran.stdout, ran.stdout + ran.stderr)
    ran = tap.run("bash", "-c", '. "$0" && complete -p quarry',
                  os.path.join(prefix, "share", "bash-completion", "completions", "quarry"),
                  PATH=os.path.join(prefix, "bin") + ":" + os.environ["PATH"])
    tap.check("the installed completion completes", ran.stdout.endswith("-F _quarry quarry\n")
              and not ran.stderr, ran.stdout + ran.stderr)
    tap.succeeds("the installed quarry rt finds the program that it runs", os.path.join(
        prefix, "bin", "quarry"), "rt", "--no-calls", "--mix", "small", "--seed", "1")


def check_relative(work):
    """A folder that is not absolute would make links and .pc files that lead nowhere."""
    stage = os.path.join(work, "stage")
    for name, value in (("PREFIX", "relative"), ("PREFIX", "./relative"), ("LIBDIR", "lib"), ("BINDIR", "bin"),
                        ("INCLUDEDIR", ""), ("MANDIR", "man"), ("COMPLETIONDIR", "completions")):
        for target in ("install", "uninstall"):
            result = tap.run("make", "--no-print-directory", target, f"DESTDIR={stage}/", f"{name}={value}",
                             MAKEFLAGS="")  # else it warns of the make that runs this test
            tap.check(f"make {target} refuses {name}={value}, in one line", result.returncode == 2 and
                      f"{name}='{value}' is no absolute path: give one, as in {name}=/" in result.stderr and
                      result.stderr.count("\n") == 1 and not result.stdout and not os.path.exists(stage),
                      result.stdout + result.stderr)
    tap.succeeds("other targets have no use for it", "make", "--no-print-directory", "help", "PREFIX=relative")


with tempfile.TemporaryDirectory() as work:
    check_relative(work)
    prefix = os.path.join(work, "prefix")
    make("make install PREFIX works", "install", PREFIX=prefix)
    tap.equal("it installs the files it should", files_in(prefix), files_wanted("lib"))
    tap.equal("the links lead to the library",
              os.path.realpath(os.path.join(prefix, "lib", "libquarry.so")),
              os.path.join(prefix, "lib", "libquarry.so." + VERSION))
    check_compilers(prefix, work)
    check_cmake(prefix, work)
    check_tools(prefix, work)
    neighbour = os.path.join(prefix, "lib", "pkgconfig", "other.pc")
    with open(neighbour, "w", encoding="utf-8"):
        pass
    make("make uninstall works", "uninstall", PREFIX=prefix)
    tap.equal("it removes every file, and no other", files_in(prefix), ["lib/pkgconfig/other.pc"])
    tap.check("it removes the directory that is its own",
              not os.path.exists(os.path.join(prefix, "lib", "cmake", "quarry"))
              and not os.path.exists(os.path.join(prefix, "libexec", "quarry"))
              and not os.path.exists(os.path.join(prefix, "share", "quarry")))

with tempfile.TemporaryDirectory() as work:
    stage = os.path.join(work, "stage")
    where = {"DESTDIR": stage, "PREFIX": "/usr", "LIBDIR": f"/usr/lib/{MULTIARCH}",
             "INCLUDEDIR": "/usr/include/quarry", "MANDIR": "/usr/man"}
    make("make install DESTDIR works", "install", **where)
    tap.equal("it installs below DESTDIR, in the directories asked for", files_in(stage),
              files_wanted(f"usr/lib/{MULTIARCH}", "usr/include/quarry", "usr/man", "usr/"))
    mentions = [name for name in files_in(stage) if name.endswith((".pc", ".cmake"))
                and stage in open(os.path.join(stage, name), encoding="utf-8").read()]
    tap.equal("no file mentions DESTDIR", mentions, [])
    check_cmake(os.path.join(stage, "usr"), work)
    make("make uninstall DESTDIR works", "uninstall", **where)
    tap.equal("it removes every file", files_in(stage), [])
tap.done()
