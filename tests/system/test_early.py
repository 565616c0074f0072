#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quarry works from the first instruction of a process to the last, in any environment.

Allocations before any constructor (of the library too), after main, in the last destructors of
threads; with descriptors closed, without environment, and in a set-uid program, whose environment
is not to be believed.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SYSTEM = os.path.join(tap.BUILD, "system")
MODULE = os.path.join(SYSTEM, "early_module.so")
DEBUG_LIBRARY = os.path.join(tap.BUILD, "debug", "libquarry.so")
PHASES = ["preinit", "constructor", "on Quarry", "ends of threads", "main", "atexit", "destructor"]
NOBODY = 65534
FORMS = {
    "preloaded": ("", tap.LIBRARY),
    "preloaded, with assertions": ("", DEBUG_LIBRARY),
    "shared": (".shared", None),
    "archive": (".archive", None),
    "static": (".static", None),
    "static-pie": (".static-pie", None),
}


def spawn(*command, **options):
    """As tap.run, with subprocess's own options and exactly the environment given."""
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120,
               "check": False, "env": {}} | options
    return subprocess.run(command, **options)


def describe(result):
    return f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}"


def has_phases(name, result, phases):
    lines = (result.stdout or "").splitlines()
    good = (result.returncode == 0 and lines[:-1] == phases and
            re.match(r"[1-9]\d* checks$", lines[-1]) and not result.stderr)
    tap.check(name, good, describe(result))


def probe(result):
    return dict(line.split("=", 1) for line in (result.stdout or "").splitlines() if "=" in line)


def preload_only(*libraries):
    """The environment that preloads them; a None counts for nothing."""
    return {"LD_PRELOAD": " ".join(libraries)} if all(libraries) else {}


def check_phases():
    for form, (suffix, library) in FORMS.items():
        program = os.path.join(SYSTEM, "early_linked" + suffix)
        environment = preload_only(library)
        has_phases(f"blocks of every phase of a process are good in later ones ({form})",
                   spawn(program, env=environment), PHASES)
        has_phases(f"the same where main's thread ends first ({form})",
                   spawn(program, "main-ends-first", env=environment),
                   PHASES[:5] + ["after main's thread"] + PHASES[5:])


def check_first_constructor():
    program = os.path.join(SYSTEM, "early_linked")
    for form, library in (("release", tap.LIBRARY), ("debug", DEBUG_LIBRARY)):
        environment = preload_only(library, MODULE)
        trace = spawn(program, env=environment | {"LD_DEBUG": "files"}).stderr
        order = [os.path.basename(path)
                 for path in re.findall(r"calling (?:init|fini): (\S+)", trace)
                 if "early_module" in path or "libquarry" in path]
        tap.equal(f"a library is initialised before libquarry and finished after it ({form})",
                  order, ["early_module.so", "libquarry.so", "libquarry.so", "early_module.so"])
        result = spawn(program, env=environment | {"EARLY_MODULE_TELLS": "1"})
        lines = result.stdout.splitlines()
        tap.check(f"it may allocate first and free last, in threads as well ({form})",
                  result.returncode == 0 and lines[:2] == ["preinit", "module: constructor"] and
                  lines[-1] == "module: destructor, 0 failures", describe(result))


def check_late_environment():
    """The first allocation may come before libc has an environment; parameters count even then."""
    keys, filled = ("on_quarry", "fill_malloc", "fill_free", "cached_100"), ["1", "90", "165", "0"]
    result = spawn(os.path.join(SYSTEM, "probe_linked"),
                   env=preload_only(tap.LIBRARY, MODULE) | {"MALLOC_PERTURB_": "165"})
    tap.equal("variables are obeyed although allocations preceded the library's constructor",
              [probe(result).get(key) for key in keys], filled)
    for form, (suffix, library) in FORMS.items():
        for variables in ({"MALLOC_PERTURB_": "165"},
                          {"GLIBC_TUNABLES": "glibc.malloc.perturb=165"}):
            result = spawn(os.path.join(SYSTEM, "probe_linked" + suffix), "early",
                           env=preload_only(library) | variables)
            tap.equal(f"and although they preceded all constructors ({form}, {min(variables)})",
                      [probe(result).get(key) for key in keys], filled)


def check_poor_environments():
    for form, (suffix, library) in FORMS.items():
        program = os.path.join(SYSTEM, "early_linked" + suffix)
        environment = preload_only(library)
        result = spawn(program, "silent", env=environment, stdin=None, capture_output=False,
                       preexec_fn=lambda: os.closerange(0, 100))
        tap.check(f"with descriptors 0 to 2 closed ({form})", result.returncode == 0,
                  describe(result))
        result = spawn(os.path.join(SYSTEM, "probe_linked" + suffix), env=environment, pass_fds=())
        seen = probe(result)
        tap.equal(f"with no environment but what preloads, and no descriptor is opened ({form})",
                  [result.returncode, seen.get("on_quarry"), seen.get("environment"),
                   seen.get("descriptors", "").split()],
                  [0, "1", str(len(environment)), ["0", "1", "2"]])


def check_set_uid():
    """A set-uid program runs as root for nobody, whose environment is ignored."""
    names = {"archive": "a set-uid program linked with the archive reads no variables",
             "static": "a static set-uid program reads no variables"}
    for form, name in names.items():
        with tempfile.TemporaryDirectory(prefix="quarry-suid-") as folder:
            os.chmod(folder, 0o755)
            program = shutil.copy(os.path.join(SYSTEM, "probe_linked." + form), folder)
            hostile = {"MALLOC_PERTURB_": "165", "MALLOC_MMAP_THRESHOLD_": "20000", "QUARRY_CHECK": "1",
                       "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"}
            keys = ("fill_malloc", "fill_free", "cached_100", "mapped_40k", "secure")
            if os.geteuid() != 0:
                tap.skip(name, "only root can make a set-uid program for another user")
                continue
            os.chmod(program, 0o755)
            plain = probe(spawn(program, env=hostile, user=NOBODY))
            tap.equal(f"the variables would act in a program that is not set-uid ({form})",
                      [plain.get(key) for key in keys], ["90", "165", "0", "1", "0"])
            os.chmod(program, 0o4755)
            secure = probe(spawn(program, env=hostile, user=NOBODY))
            if secure.get("secure") == "0":
                tap.skip(name, "the kernel ignores the set-uid bit in the temporary directory")
                continue
            tap.equal(name, [secure.get(key) for key in keys], ["none", "none", "1", "0", "1"])


check_phases()
check_first_constructor()
check_late_environment()
check_poor_environments()
check_set_uid()
tap.done()
