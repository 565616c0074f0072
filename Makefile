# SPDX-License-Identifier: MIT
# Builds, tests and installs Quarry.  `make help` lists the targets.
#
# Each variant has a folder of its own, build/<variant>/, and never shares an object with another;
# build/<variant>/flags holds how it is compiled, so that a change of flags rebuilds it.

#help: Variables, given as `make NAME=value`:
#help:   CC CFLAGS CPPFLAGS LDFLAGS   compiler and flags of the release build ("-O2 -g")
#help:   CROSS_COMPILE=PREFIX-        compiler and binutils for another machine, as aarch64-linux-gnu-
#help:   WERROR=-Werror               warnings are errors (always so in the check targets)
#help:   ONLY=PATTERN                 run only the tests whose label matches, as in ONLY='unit/*'
#help:   JOBS=N                       how many commands and tests at once (all processors, 2 tests)
#help:   BENCH=OPTIONS                passed to bench/run.py, as in BENCH='larson --runs 9'
#help:   V=1                          show whole commands
#help:   PREFIX=/usr/local DESTDIR=   where to install, absolute; also BINDIR, LIBDIR, INCLUDEDIR,
#help:                                MANDIR, COMPLETIONDIR
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
CROSS_COMPILE ?=
ifneq ($(CROSS_COMPILE),)
CC = $(CROSS_COMPILE)gcc
CXX = $(CROSS_COMPILE)g++
AR = $(CROSS_COMPILE)ar
LD = $(CROSS_COMPILE)ld
endif
CFLAGS ?= -O2 -g
CLANG ?= clang
OBJCOPY ?= $(CROSS_COMPILE)objcopy
WERROR ?=
JOBS ?= $(shell nproc)

VERSION := $(shell awk '/define QUARRY_VERSION_/ {v = v s $$3; s = "."} END {print v}' include/quarry.h)
SONAME := libquarry.so.$(firstword $(subst ., ,$(VERSION)))

# ---- How each variant is compiled ---------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wconversion \
  -Wvla -Wundef -Wwrite-strings
# Inside an allocator the compiler must not know what malloc is: it would turn a malloc and a memset
# into a calloc, or drop a store into memory that it believes to be freed.
NO_BUILTIN := $(addprefix -fno-builtin-,malloc free calloc realloc memalign aligned_alloc \
  posix_memalign valloc pvalloc)
# Empty, so that a file may define it again.
GNU := -std=gnu11 -D_GNU_SOURCE=
# One set of position-independent objects serves the shared library and the archive.
LIB_FLAGS := $(GNU) -Iinclude -Isrc -fPIC -fvisibility=hidden -ftls-model=initial-exec \
  -fno-plt -fno-semantic-interposition $(NO_BUILTIN) $(WARNINGS)
# Tests ask for impossible sizes and misuse blocks on purpose, and no call of theirs may be elided.
TEST_FLAGS := $(GNU) -Iinclude -Isrc -Itests -Itests/unit -Itests/api -fno-builtin -Wall -Wextra \
  -Wno-unknown-warning-option -Wno-alloc-size-larger-than -Wno-use-after-free \
  -Wno-free-nonheap-object
# nodelete: blocks outlive a dlclose, so must the code that frees them.  What the library calls of itself is its own.
# nostartfiles: see preload/start.c.
SO_FLAGS := -shared -nostartfiles -Wl,-soname,$(SONAME) -Wl,-z,relro,-z,now,-z,defs,-z,nodelete,-z,noexecstack \
  -Wl,--as-needed -Wl,--hash-style=gnu -Wl,-O1 -Wl,--gc-sections \
  -Wl,-Bsymbolic-functions

# What most programs never use, in pages of its own (GNU ld; others do without).
APART := src/layout.ld
APART_FLAG := -Wl,-T,$(APART)
SO_FLAGS += $(if $(findstring GNU ld,$(shell $(CC) $(LDFLAGS) -Wl,--version 2>/dev/null)),$(APART_FLAG))

# Relocations in a twentieth of the room, where the linker writes and libc (2.36) reads them so.
comma := ,
SO_FLAGS += $(if $(shell $(CC) $(LDFLAGS) -Wl,--help 2>/dev/null | grep -q pack-relative-relocs && \
  grep -q GLIBC_ABI_DT_RELR "$$($(CC) -print-file-name=libc.so.6)" 2>/dev/null && echo yes),-Wl$(comma)-z$(comma)pack-relative-relocs)

VARIANTS := release debug asan ubsan tsan cuts fuzz
DEBUG := -O1 -g -fno-omit-frame-pointer -DQUARRY_DEBUG
# No bytecode, for objcopy cannot make the names in it local; no trace of where it was built.
FLAGS_release := $(CPPFLAGS) $(CFLAGS) -fno-lto -ffunction-sections -fdata-sections -ffile-prefix-map=$(CURDIR)=.
SMALL_release := -Os
BARE_release := -fno-asynchronous-unwind-tables
DENSE_release := -fno-align-functions -fno-align-jumps -fno-align-loops -fno-align-labels
FLAGS_debug := $(DEBUG)
FLAGS_asan := $(DEBUG) -fsanitize=address
FLAGS_ubsan := $(DEBUG) -fsanitize=undefined -fno-sanitize-recover=all
FLAGS_tsan := $(DEBUG) -fsanitize=thread
FLAGS_cuts := $(DEBUG)
FLAGS_libc := $(DEBUG) -DTEST_LIBC
# Only the library's own stores are traced: the test defines __sanitizer_cov_store*, and the two
# functions that stand in for stores that the compiler does not trace.
TRACE_cuts := -fsanitize-coverage=func,trace-stores -fno-builtin-memcpy -fno-builtin-memset \
  -Dmemcpy=cut_memcpy -Dmemset=cut_memset
CC_cuts = $(CLANG)
# What libFuzzer steers by.
FLAGS_fuzz := $(DEBUG) -fsanitize=fuzzer-no-link,address
CC_fuzz = $(CLANG)
compiler = $(or $(CC_$1),$(CC))

# ---- Sources ------------------------------------------------------------------------------------

CORE := $(wildcard src/*.c)
# Compiled for size, for every process that preloads the library maps its code: what runs once or
# seldom, or waits for the kernel anyway.
SELDOM := $(patsubst %,src/%.c,option report info stats figures figures_write sink control ledger limit \
  objects heaps fork os os_port vdso zone headroom huge meta mapping purge credit sizeclass cache_repair page_repair slab_repair \
  slab_shard slab_trim cache_runs cache_rules cache_drain cache_watch hot last \
  harden quarantine refusal) preload/deepbind.c
# Called often, but not in a loop of its own: without padding.
DENSE := $(patsubst %,src/%.c,buddy fit extent page keep pagemap slab heap resize api cache cache_capacity)
# Never on the way to an abort or to code of the program: debuggers have .debug_frame.
NO_UNWIND := $(patsubst %,src/%.c,buddy fit extent hot last keep sizeclass pagemap control ledger limit stats \
  cache_repair cache_rules cache_drain cache_watch page_repair slab_repair slab_shard quarantine refusal)
PRELOAD := preload/malloc.c
# What makes sense in the shared library only.
SHARED := $(filter-out $(PRELOAD),$(wildcard preload/*.c))
# Files named *_support.c (and the fake operating system) are linked into every test of their folder.
UNIT_SUPPORT := $(wildcard tests/unit/*_support.c tests/unit/fake_os.c)
API_SUPPORT := $(wildcard tests/api/*_support.c)
CUTS_SUPPORT := $(wildcard tests/cuts/*_support.c)
UNIT := $(filter-out $(UNIT_SUPPORT),$(wildcard tests/unit/*.c))
API := $(filter-out $(API_SUPPORT),$(wildcard tests/api/*.c))
CUTS := $(filter-out $(CUTS_SUPPORT),$(wildcard tests/cuts/*.c))
objects = $(patsubst %.c,build/$1/%.o,$2)
programs = $(patsubst %.c,build/$1/%,$2)

ifdef V
say = @:
else
say = @printf '  %-7s %s\n'
MUTE := @
endif

.PHONY: all debug setup check check-fast lint demo install uninstall clean help programs format run FORCE
.DELETE_ON_ERROR:
.SECONDARY:

#help: Targets:
#help:   all           the library: build/release/libquarry.so and .a (the default); what quarry rt and
#help:                 quarry profile need
all: build/release/libquarry.so build/release/libquarry.a build/tools/rt/realtime \
  build/release/libquarry_profile.so
#help:   debug         the same with assertions, in build/debug/
debug: build/debug/libquarry.so build/debug/libquarry.a

# ---- Rules of one variant -----------------------------------------------------------------------

define variant_rules
build/$1/flags: FORCE
	@mkdir -p $$(@D)
	@echo '$$(call compiler,$1) $$(LIB_FLAGS) $$(TEST_FLAGS) $$(FLAGS_$1) $$(TRACE_$1) $$(LDFLAGS)' \
	  '$$(SO_FLAGS) $$(CORE) $$(PRELOAD) $$(SHARED)' >$$@.new; cmp -s $$@.new $$@ || cp $$@.new $$@

$(call objects,$1,$(CORE) $(PRELOAD) $(SHARED)): build/$1/%.o: %.c build/$1/flags
	@mkdir -p $$(@D)
	$$(say) CC $$@
	$$(MUTE)$$(call compiler,$1) $$(LIB_FLAGS) $$(FLAGS_$1) $$(TRACE_$1) \
	  $$(if $$(filter $$<,$$(SELDOM)),$$(SMALL_$1)) \
	  $$(if $$(filter $$<,$$(DENSE)),$$(DENSE_$1)) \
	  $$(if $$(filter $$<,$$(NO_UNWIND)),$$(BARE_$1)) $$(WERROR) -MMD -MP -c $$< -o $$@

build/$1/tests/%.o: tests/%.c build/$1/flags
	@mkdir -p $$(@D)
	$$(say) CC $$@
	$$(MUTE)$$(call compiler,$1) $$(TEST_FLAGS) $$(FLAGS_$1) $$(WERROR) -MMD -MP -c $$< -o $$@

# Tests keep libc's malloc: they link the core without preload/.
build/$1/libquarry-core.a: $(call objects,$1,$(CORE)) build/$1/flags
	$$(say) AR $$@
	$$(MUTE)rm -f $$@ && $$(AR) rcsD $$@ $$(filter %.o,$$^)

$(call programs,$1,$(UNIT)): build/$1/%: build/$1/%.o $(call objects,$1,$(UNIT_SUPPORT) \
  $(filter-out src/os.c src/os_port.c,$(CORE)))
	$$(link_test)
$(call programs,$1,$(API)): build/$1/%: build/$1/%.o $(call objects,$1,$(API_SUPPORT)) \
  $(if $(filter libc,$1),,build/$1/libquarry-core.a)
	$$(link_test)
$(call programs,$1,$(CUTS)): build/$1/%: build/$1/%.o $(call objects,$1,$(CUTS_SUPPORT)) \
  build/$1/libquarry-core.a
	$$(link_test)
$(call programs,$1,$(UNIT) $(API) $(CUTS)): private link_test = $$(say) LINK $$@; \
  $$(call compiler,$1) $$(FLAGS_$1) $$(LDFLAGS) $$^ -o $$@ -Wl,--as-needed -lcmocka -pthread

build/$1/libquarry.so: $(call objects,$1,$(CORE) $(PRELOAD) $(SHARED)) $(APART) build/$1/flags
	$$(say) LINK $$@
	$$(MUTE)$$(call compiler,$1) $$(FLAGS_$1) $$(LDFLAGS) $$(SO_FLAGS) $$(filter %.o,$$^) -o $$@
	@ln -sf $$(@F) $$(@D)/$$(SONAME)

# One object with all internal names made local: none can clash with a name of the program, and
# whatever pulls in one entry point pulls in all, so that libc's malloc.o is never linked as well.
build/$1/libquarry.a: $(call objects,$1,$(CORE) $(PRELOAD)) build/$1/flags
	$$(say) AR $$@
	$$(MUTE)$$(LD) -r $$(filter %.o,$$^) -o $$(@D)/quarry.o
	$$(MUTE)$$(OBJCOPY) --localize-hidden $$(@D)/quarry.o
	$$(MUTE)rm -f $$@ && $$(AR) rcsD $$@ $$(@D)/quarry.o
endef
$(foreach v,$(VARIANTS) libc,$(eval $(call variant_rules,$v)))
-include $(shell find build -name '*.d' 2>/dev/null)

# ---- Programs and libraries that the scripts in tests/system run --------------------------------
# NAME.c        build/system/NAME, linked with libc alone (to be run with the library preloaded)
# NAME_linked.c also NAME_linked.shared, .archive, .static and .static-pie: each way to link Quarry
# NAME_core.c   linked with the core of the debug variant: quarry_ names beside libc's malloc
# NAME_module.c build/system/NAME_module.so, to be loaded by dlopen
# NAME.cc       build/system/NAME, C++; NAME_linked.cc as above

SYSTEM_C := $(wildcard tests/system/*.c)
SYSTEM_CXX := $(wildcard tests/system/*.cc)
MODULES := $(filter %_module.c,$(SYSTEM_C))
LINKED := $(patsubst tests/%,build/%,$(basename $(filter %_linked.c %_linked.cc,\
  $(SYSTEM_C) $(SYSTEM_CXX))))
SYSTEM_PROGRAMS := $(patsubst tests/%.c,build/%,$(filter-out $(MODULES),$(SYSTEM_C))) \
  $(patsubst tests/%.cc,build/%,$(SYSTEM_CXX)) $(patsubst tests/%.c,build/%.so,$(MODULES)) \
  $(foreach way,shared archive static static-pie,$(addsuffix .$(way),$(LINKED)))
SYSTEM_FLAGS = -O1 -g -fno-builtin -Iinclude -Wall -Wextra -Wno-alloc-size-larger-than \
  -Wno-use-after-free -Wno-free-nonheap-object $(WERROR) -MMD -MP -MF $@.d -pthread
ARCHIVE := build/release/libquarry.a
define build_system
@mkdir -p $(@D)
$(say) CC $@
$(MUTE)$(if $(filter %.cc,$<),$(CXX) -std=c++17,$(CC) $(GNU)) $(SYSTEM_FLAGS)
endef

build/system/%_module.so: tests/system/%_module.c Makefile
	$(build_system) -fPIC -shared $< -o $@
build/system/%_core: tests/system/%_core.c build/debug/libquarry-core.a Makefile
	$(build_system) $< -o $@ build/debug/libquarry-core.a

# A C++ program may have no reference to malloc of its own; libstdc++'s come too late for the linker.
insist = $(if $(filter %.cc,$<),-Wl$(comma)-u$(comma)malloc -Wl$(comma)--no-as-needed)
define linked_rules
build/system/%_linked.shared: tests/system/%_linked.$1 build/release/libquarry.so Makefile
	$$(build_system) $$< -o $$@ -Wl,-rpath,'$$$$ORIGIN/../release' -Lbuild/release $$(insist) -lquarry
build/system/%_linked.archive: tests/system/%_linked.$1 $(ARCHIVE) Makefile
	$$(build_system) $$< -o $$@ $$(insist) $(ARCHIVE)
build/system/%_linked.static: tests/system/%_linked.$1 $(ARCHIVE) Makefile
	$$(build_system) -static $$< -o $$@ $$(insist) $(ARCHIVE)
build/system/%_linked.static-pie: tests/system/%_linked.$1 $(ARCHIVE) Makefile
	$$(build_system) -fPIE -static-pie $$< -o $$@ $$(insist) $(ARCHIVE)
endef
$(foreach language,c cc,$(eval $(call linked_rules,$(language))))

build/system/%: tests/system/%.c Makefile
	$(build_system) $< -o $@ $(LINK_$*)
build/system/%: tests/system/%.cc Makefile
	$(build_system) $< -o $@

# Its module is found where it lies, as long as dlopen is asked by the program itself.
LINK_deepbind := -Wl,-rpath,'$$ORIGIN'

# ---- Benchmarks ---------------------------------------------------------------------------------
# bench/micro/NAME.c      build/bench/micro/NAME, on Google Benchmark through gbench.h
# bench/workloads/NAME.c  build/bench/workloads/NAME, with all *_support.c beside it
# bench/exact/NAME.c      build/bench/exact/NAME: fixed loops and phases that are counted
# bench/latency/NAME.c    build/bench/latency/NAME: times single calls
# bench/trace/*.c         recorder and player of traces
# None is linked with an allocator: the runner preloads each in turn.

MICRO := $(patsubst %.c,build/%,$(wildcard bench/micro/*.c))
WORKLOAD := $(patsubst %.c,build/%,$(filter-out %_support.c,$(wildcard bench/workloads/*.c)))
WORKLOAD_SUPPORT := $(patsubst %.c,build/%.o,$(wildcard bench/workloads/*_support.c))
EXACT := $(patsubst %.c,build/%,$(wildcard bench/exact/*.c bench/latency/*.c))
# Of the trace tools: what is in both, in the recorder, in the recording tool, in the player.
trace_objects = $(patsubst %,build/bench/trace/%.o,$1)
# What libraries that stand before the allocator share.
SHIM := $(patsubst %.c,build/%.o,$(wildcard tools/shim/*.c))
RECORDER := $(call trace_objects,recorder rawlog) $(SHIM)
RECORDING := $(call trace_objects,quarry_trace recording convert rawread addresses writer dump)
PLAYER := $(call trace_objects,quarry_replay play check content) \
  build/bench/workloads/figures_support.o
TRACE := $(addprefix build/bench/trace/,libquarry_trace.so quarry_trace quarry_replay)
BENCH_PROGRAMS = $(MICRO) $(WORKLOAD) $(EXACT) $(TRACE)
BENCH_FLAGS = $(GNU) -Itools -O2 -g $(NO_BUILTIN) $(WARNINGS) $(WERROR) -pthread -MMD -MP
define build_bench
@mkdir -p $(@D)
$(say) CC $@
$(MUTE)
endef

build/bench/%.o: bench/%.c Makefile
	$(build_bench)$(CC) $(BENCH_FLAGS) -c $< -o $@
build/bench/micro/%.o: bench/micro/%.cc Makefile
	$(build_bench)$(CXX) -std=c++17 -O2 -g -Wall -Wextra $(WERROR) -pthread -MMD -MP -c $< -o $@
$(MICRO): build/bench/micro/%: build/bench/micro/%.o build/bench/micro/gbench.o
	$(build_bench)$(CXX) $^ -o $@ -lbenchmark -pthread
$(WORKLOAD): build/bench/workloads/%: build/bench/workloads/%.o $(WORKLOAD_SUPPORT)
	$(build_bench)$(CC) $^ -o $@ -pthread -lm
$(EXACT): build/bench/%: build/bench/%.o
	$(build_bench)$(CC) $^ -o $@ -pthread -rdynamic
$(RECORDER): BENCH_FLAGS += -fPIC -fvisibility=hidden
build/bench/trace/libquarry_trace.so: $(RECORDER)
	$(build_bench)$(CC) -shared -Wl,-z,defs,-z,now,-z,nodelete $^ -o $@ -pthread
build/bench/trace/quarry_trace: $(RECORDING) $(call trace_objects,reader tool_support)
build/bench/trace/quarry_replay: $(PLAYER) $(call trace_objects,reader tool_support)
$(filter %/quarry_trace %/quarry_replay,$(TRACE)):
	$(build_bench)$(CC) $^ -o $@ -pthread

# ---- What quarry rt runs, as its test does ------------------------------------------------------
# Linked with libc alone, as the benchmarks are; no name may be looked up for the first time in its section.

REALTIME := build/tools/rt/realtime
build/tools/%.o: tools/%.c Makefile
	$(build_bench)$(CC) $(BENCH_FLAGS) -c $< -o $@
$(REALTIME): %: %.o
	$(build_bench)$(CC) $^ -o $@ -pthread -Wl,-z,now

# ---- What quarry profile preloads ---------------------------------------------------------------

PROFILER := build/release/libquarry_profile.so
PROFILER_OBJECTS := $(patsubst %.c,build/%.o,$(wildcard tools/profile/*.c)) $(SHIM)
$(PROFILER_OBJECTS): BENCH_FLAGS += -fPIC -fvisibility=hidden -ffile-prefix-map=$(CURDIR)=.
$(PROFILER): $(PROFILER_OBJECTS)
	$(build_bench)$(CC) -shared -shared-libgcc -Wl,-z,defs,-z,now,-z,nodelete,-z,relro $^ -o $@

#help:   bench         compares allocators, after installing Debian's rivals; writes build/bench/results/
bench: bench-setup
	bench/run.py $(BENCH)
#help:   bench-quick   the same in under two minutes, with small tasks; says little about times
bench-quick: bench-setup
	bench/run.py --quick $(BENCH)
#help:   bench-latency  how long single calls take, beside Debian's rivals; half a minute
bench-latency: bench-setup
	bench/latency.py $(BENCH)
#help:   bench-programs  builds the programs of the benchmarks and runs none
bench-programs: $(BENCH_PROGRAMS)
.PHONY: bench bench-quick bench-latency bench-programs bench-setup
#help:   bench-setup   installs the packages of the benchmarks
bench-setup:
	tools/setup.sh build demo bench
	+@$(MAKE) --no-print-directory -j$(JOBS) all bench-programs

# ---- Tests --------------------------------------------------------------------------------------
# A test suite is a name, the executables to run, and what else has to be built for them.

SUITES := lint unit debug libc asan ubsan tsan cuts system
FAST := unit debug libc cuts system
# Scripts are tests if they may be executed; the others are helpers.
scripts = $(shell find $1 -maxdepth 1 -perm -u+x \( -name '*.sh' -o -name '*.py' \) 2>/dev/null | sort)
RUN_lint := $(call scripts,tests/lint)
RUN_unit := $(call programs,debug,$(UNIT))
$(foreach v,debug libc asan ubsan tsan,$(eval RUN_$v := $(call programs,$v,$(API))))
RUN_cuts := $(call programs,cuts,$(CUTS))
RUN_system := $(call scripts,tests/system)
NEEDS_system = build/release/libquarry.so $(ARCHIVE) build/debug/libquarry.so $(SYSTEM_PROGRAMS) \
  $(REALTIME) $(PROFILER) $(BENCH_PROGRAMS) $(call programs,debug,$(API))
suite_needs = $(filter build/%,$(RUN_$1)) $(NEEDS_$1)

# Builds what the suites in RUN need, then runs them.
run: $(foreach s,$(RUN),$(call suite_needs,$s))
	@tests/run.py $(RUN_OPTIONS) $(if $(ONLY),--only '$(ONLY)') $(foreach s,$(RUN),$s: $(RUN_$s))
run_suites = +@$(MAKE) --no-print-directory -j$(JOBS) WERROR=-Werror run

#help:   check         every test, after installing the Debian packages that are missing
check: setup
	$(run_suites) RUN='$(SUITES)'
#help:   check-fast    for daily work: no set-up, no sanitizers, no valgrind, no lint
check-fast:
	$(run_suites) RUN='$(FAST)' RUN_OPTIONS=--fast
#help:   test-SUITE    one of: lint unit debug libc asan ubsan tsan cuts system
.PHONY: $(addprefix test-,$(SUITES))
$(addprefix test-,$(SUITES)): test-%:
	$(run_suites) RUN='$*'
#help:   lint          the same as test-lint
lint: test-lint
#help:   format        lays out the C sources as .clang-format says
format:
	clang-format -i $$(git ls-files '*.c' '*.h')
#help:   programs      builds every test program and runs none
programs: $(foreach s,$(SUITES),$(call suite_needs,$s))

#help:   setup         installs the missing packages of tools/packages.txt
setup:
	tools/setup.sh build check demo
#help:   demo          shows Quarry at work with real programs
demo:
	tools/setup.sh build demo
	+@$(MAKE) --no-print-directory -j$(JOBS) all
	tools/demo/demo.py
#help:   tutorial      writes docs/TUTORIAL.md again, with what its commands print here
tutorial: all
	tools/tutorial/make_tutorial.py
.PHONY: tutorial

# ---- The long suite -----------------------------------------------------------------------------

SOAK_VARIANTS := release debug asan
SOAK_API := $(addprefix tests/api/,test_model test_model_threads test_threads test_thread_end test_fork)
FUZZ := build/fuzz/tests/soak/fuzz_calls
SOAK_PROGRAMS := build/soak/repeat $(FUZZ) $(foreach v,$(SOAK_VARIANTS),$(SOAK_API:%=build/$v/%)) \
  $(addprefix build/debug/tests/unit/,test_page_random test_slab_random) build/cuts/tests/cuts/test_storm

build/soak/%: tests/soak/%.c Makefile
	$(build_system) $< -o $@
$(FUZZ): %: %.o build/fuzz/libquarry-core.a
	$(say) LINK $@
	$(MUTE)$(CLANG) -fsanitize=fuzzer,address $^ -o $@ -pthread
#help:   soak          the long suite: terminal views, browser, hours of the allocator at will (45 minutes);
#help:                 SOAK_MINUTES=N, SOAK=OPTIONS of tests/soak/run.py
soak:
	tools/setup.sh build check demo bench soak
	+@$(MAKE) --no-print-directory -j$(JOBS) WERROR=-Werror $(NEEDS_system) $(SOAK_PROGRAMS)
	tests/soak/run.py $(if $(SOAK_MINUTES),--minutes $(SOAK_MINUTES)) $(SOAK)
.PHONY: soak

# ---- Installation -------------------------------------------------------------------------------

# A link or a .pc file with a relative path leads nowhere.  An empty PREFIX is the root.
absolute = $(if $(filter-out /%,$(or $($1),.)),$(error $1='$($1)' is no absolute path: give one, as in \
  $1=$(abspath $2/$($1))))
ifneq ($(filter install uninstall,$(MAKECMDGOALS)),)
$(if $(PREFIX),$(call absolute,PREFIX,$(CURDIR)))
$(foreach v,BINDIR LIBDIR INCLUDEDIR MANDIR COMPLETIONDIR,$(call absolute,$v,$(PREFIX)))
endif

SHARED_FILE := libquarry.so.$(VERSION)
MAN_PAGES := $(wildcard docs/man/*.[1-8])
man_path = $(MANDIR)/man$(patsubst .%,%,$(suffix $1))/$(notdir $1)
CMAKEDIR := $(LIBDIR)/cmake/quarry
# The tools look for the libraries that they preload in ../libexec/quarry, from where they are.
LIBEXECDIR := $(dir $(BINDIR))libexec/quarry
# The command quarry is a script that finds its modules in ../share/quarry, from where it is.
QUARRY_TOOL := tools/quarry/quarry
QUARRY_MODULES := $(wildcard tools/quarry/quarrytool/*.py)
MODULEDIR := $(dir $(BINDIR))share/quarry/quarrytool
TOOLS := $(filter-out %.so,$(TRACE))
RECORDING_LIBRARY := $(filter %.so,$(TRACE))
INSTALLED := $(addprefix $(LIBDIR)/,$(SHARED_FILE) $(SONAME) libquarry.so libquarry.a \
  pkgconfig/quarry.pc) $(INCLUDEDIR)/quarry.h \
  $(CMAKEDIR)/quarry-config.cmake $(CMAKEDIR)/quarry-config-version.cmake \
  $(addprefix $(BINDIR)/,$(notdir $(TOOLS) $(QUARRY_TOOL))) \
  $(addprefix $(MODULEDIR)/,$(notdir $(QUARRY_MODULES)) OPTIONS.md VERSION) $(COMPLETIONDIR)/quarry \
  $(addprefix $(LIBEXECDIR)/,libquarry.so $(notdir $(RECORDING_LIBRARY) $(PROFILER) $(REALTIME))) \
  $(foreach m,$(MAN_PAGES),$(call man_path,$m))
fill_in = sed -e 's|@VERSION@|$(VERSION)|g' -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@LIBDIR@|$(LIBDIR)|g' \
  -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|g' -e 's|@SHARED_FILE@|$(SHARED_FILE)|g' -e 's|@SONAME@|$(SONAME)|g' \
  -e "s|@INCLUDE_FROM_CMAKE@|$$(realpath -ms --relative-to=$(CMAKEDIR) $(INCLUDEDIR))|g"

#help:   install       library, header, tools, manual pages, completion, pkg-config and CMake files
install: all $(TRACE)
	install -d $(sort $(addprefix $(DESTDIR),$(dir $(INSTALLED))))
	install -m 755 build/release/libquarry.so $(DESTDIR)$(LIBDIR)/$(SHARED_FILE)
	ln -sf $(SHARED_FILE) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libquarry.so
	install -m 644 build/release/libquarry.a $(DESTDIR)$(LIBDIR)/libquarry.a
	install -m 644 include/quarry.h $(DESTDIR)$(INCLUDEDIR)/quarry.h
	$(fill_in) tools/pkg/quarry.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/quarry.pc
	$(fill_in) tools/pkg/quarry-config.cmake.in >$(DESTDIR)$(CMAKEDIR)/quarry-config.cmake
	$(fill_in) tools/pkg/quarry-config-version.cmake.in \
	  >$(DESTDIR)$(CMAKEDIR)/quarry-config-version.cmake
	install -m 755 $(TOOLS) $(QUARRY_TOOL) $(DESTDIR)$(BINDIR)
	install -m 644 $(QUARRY_MODULES) docs/OPTIONS.md $(DESTDIR)$(MODULEDIR)
	echo $(VERSION) >$(DESTDIR)$(MODULEDIR)/VERSION
	install -m 644 tools/quarry/completion.bash $(DESTDIR)$(COMPLETIONDIR)/quarry
	install -m 755 $(RECORDING_LIBRARY) $(PROFILER) $(REALTIME) $(DESTDIR)$(LIBEXECDIR)
	ln -sf $(LIBDIR)/$(SONAME) $(DESTDIR)$(LIBEXECDIR)/libquarry.so
	$(foreach m,$(MAN_PAGES),install -m 644 $m $(DESTDIR)$(call man_path,$m);)

#help:   uninstall     removes what install has written, given the same variables
uninstall:
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	-@rmdir $(DESTDIR)$(CMAKEDIR) $(DESTDIR)$(LIBEXECDIR) $(DESTDIR)$(MODULEDIR) \
	  $(DESTDIR)$(dir $(MODULEDIR))

#help:   clean         removes build/; no other target ever does
clean:
	rm -rf build
#help:   help          this text
help:
	@sed -n 's/^#help: \{0,1\}//p' Makefile
