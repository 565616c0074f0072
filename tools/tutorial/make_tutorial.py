#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes docs/TUTORIAL.md: runs the commands of tutorial.md.in and puts what they print in their place.

usage: make_tutorial.py        in a tree in which `make` has built the library

A place is a line of the template, or for `last` a part of one:

  {{start: COMMAND}}    starts a program and shows its first line; it waits for Enter (step.h)
  {{enter: PROGRAM}}    presses Enter; shows its next line
  {{end: PROGRAM}}      goes on until it ends; shows nothing
  {{run: COMMAND}}      runs a command of the shell; shows what it prints.  $(pidof PROGRAM) is the
                        program that was started here
  {{last: REGEX}}       the group of a regular expression, in what this chapter printed last

Before the colon of `run`, each once or more:

  status=N,M            the exit status may be one of these (0)
  from=REGEX to=REGEX   shows only lines from one that matches to before one that matches; `...` stands
                        for what is left out.  maybe=REGEX is a from that need not match
"""
import os
import re
import signal
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
TEMPLATE = os.path.join(HERE, "tutorial.md.in")
PAGE = os.path.join(ROOT, "docs", "TUTORIAL.md")
IMAGES = os.path.join("docs", "images")
PLACE = re.compile(r"\{\{(start|enter|end|run|last)((?: [a-z]+=\S+)*): (.+?)\}\}")
LIMIT_S = 60
CFLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-fno-builtin", "-Wall", "-Wextra"]


class Wrong(Exception):
    """A place that cannot be filled."""


def build():
    """Compiles the programs that are older than their source; lets matplotlib look for its fonts."""
    folder = os.path.join(ROOT, "build", "tutorial")
    os.makedirs(folder, exist_ok=True)
    header = os.path.join(HERE, "step.h")
    for name in sorted(os.listdir(HERE)):
        if not name.endswith(".c"):
            continue
        source, program = os.path.join(HERE, name), os.path.join(folder, name[:-2])
        newest = max(os.path.getmtime(source), os.path.getmtime(header))
        if os.path.exists(program) and os.path.getmtime(program) > newest:
            continue
        new = f"{program}.{os.getpid()}"
        subprocess.run([os.environ.get("CC", "cc"), *CFLAGS, source, "-o", new], check=True)
        os.rename(new, program)
    os.environ.setdefault("MPLCONFIGDIR", os.path.join(folder, "matplotlib"))
    subprocess.run(["/usr/bin/python3", "-c", "import matplotlib.font_manager"], check=True,
                   stderr=subprocess.DEVNULL)  # it says so where it does that for the first time


def clean_picture(path):
    """Takes out of a picture what nobody sees: blanks at the ends of lines, hundredths of points."""
    with open(path, encoding="utf-8") as file:
        lines = [re.sub(r"(?<=[ML\d] )(\d+\.\d)\d+|(\d+\.\d)\d+(?= \d)", r"\1\2", line.rstrip())
                 for line in file]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def trim(lines, words):
    """The lines that from, to and maybe leave, with `...` for the others."""
    pairs = [word.split("=", 1) for word in words]
    if not any(key in ("from", "maybe") for key, _ in pairs):
        return lines
    kept = set()
    for number, (key, pattern) in enumerate(pairs):
        if key not in ("from", "maybe"):
            continue
        first = next((at for at, line in enumerate(lines) if re.search(pattern, line)), None)
        if first is None:
            if key == "maybe":
                continue
            raise Wrong(f"no line matches {pattern}")
        last = len(lines)
        if number + 1 < len(pairs) and pairs[number + 1][0] == "to":
            last = next((at for at in range(first + 1, len(lines))
                         if re.search(pairs[number + 1][1], lines[at])), last)
        kept.update(range(first, last))
    result = []
    for at, line in enumerate(lines):
        if at in kept:
            result.append(line)
        elif not result or result[-1] != "...":
            result.append("...")
    return result


class Filler:
    """Fills the places of a template in order; pictures go to a folder below the root, or a given one."""

    def __init__(self, images=IMAGES):
        self.images = images
        self.programs = {}
        self.shown = []
        self.environment = {key: value for key, value in os.environ.items()
                            if not key.startswith(("MALLOC_", "QUARRY_CHECK", "GLIBC_TUNABLES"))}
        self.environment.update(COLUMNS="120", LC_ALL="C.UTF-8", NO_COLOR="1")

    def close(self):
        """Ends the programs that are still there."""
        for program in list(self.programs):
            try:
                self.end(program)
            except Wrong:
                pass  # what is wrong with it was told before

    def shell(self, command):
        """The command as the shell is given it: process ids and folders filled in."""
        command = re.sub(r"\$\(pidof (\w+)\)", lambda m: str(self.program(m[1]).pid), command)
        return command.replace(IMAGES + "/", self.images + "/")

    def program(self, name):
        if name not in self.programs:
            raise Wrong(f"{name} was not started")
        return self.programs[name]

    def tidy(self, text):
        """What a command printed, without what differs from run to run or tells of this machine."""
        for program in self.programs.values():
            pid = str(program.pid)
            text = re.sub(rf"^( *){pid}(?= )", rf"\g<1>{'PID':>{len(pid)}}", text, flags=re.MULTILINE)
            text = re.sub(rf"\b{pid}\b", "PID", text)
        text = text.replace(self.images + "/", IMAGES + "/").replace(ROOT + "/", "")
        return [line.rstrip() for line in text.rstrip("\n").split("\n")]

    def start(self, command):
        process = subprocess.Popen(["sh", "-c", "exec " + self.shell(command)], cwd=ROOT, text=True,
                                   env=self.environment, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        self.programs[os.path.basename(command.split()[-1])] = process
        return self.read_line(process)

    def enter(self, name):
        process = self.program(name)
        process.stdin.write("\n")
        process.stdin.flush()
        return self.read_line(process)

    @staticmethod
    def read_line(process):
        line = process.stdout.readline()
        if not line:
            raise Wrong(f"it ended with status {process.wait()}")
        return line

    def end(self, name):
        process = self.programs.pop(name)
        process.stdin.close()
        process.stdout.close()
        try:
            status = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        if status not in (0, -signal.SIGPIPE):
            raise Wrong(f"it ended with status {status}")

    def run(self, words, command):
        result = subprocess.run(["sh", "-c", self.shell(command)], cwd=ROOT, text=True,
                                env=self.environment, stdin=subprocess.DEVNULL, timeout=LIMIT_S,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        wanted = [w[len("status="):].split(",") for w in words if w.startswith("status=")] or [["0"]]
        if str(result.returncode) not in wanted[0]:
            raise Wrong(f"exit status {result.returncode}\n{result.stdout}")
        picture = re.search(re.escape(IMAGES) + r"/tutorial-\w+\.svg", command)
        if picture:
            clean_picture(os.path.join(ROOT, self.shell(picture[0])))
        return result.stdout

    def fill(self, kind, words, text):
        """What belongs in a place."""
        if kind == "last":
            found = next((m for m in (re.search(text, shown, re.MULTILINE)
                                      for shown in reversed(self.shown)) if m), None)
            if not found:
                raise Wrong(f"nothing of this chapter matches {text}")
            return found[1]
        if kind == "end":
            self.program(text)
            self.end(text)
            return ""
        printed = (self.run(words, text) if kind == "run" else
                   self.start(text) if kind == "start" else self.enter(text))
        lines = self.tidy(printed)
        self.shown.append("\n".join(lines))
        shown = trim(lines, words)
        typed = ["[Enter]" if kind == "enter" else "$ " + text]
        return "\n".join(["```", *typed, *[line for line in shown if printed.strip()], "```"])


def places(template):
    """The places of a template: kind, words, text."""
    return [(m[1], m[2].split(), m[3]) for m in PLACE.finditer(template)]


def make(template, images=IMAGES, told=None):
    """The page that a template becomes; told(place, what is wrong or None) hears of each place."""
    filler = Filler(images)

    def fill(match):
        if match.string.rfind("\n## ", 0, match.start()) > make.chapter:
            make.chapter = match.start()
            filler.shown.clear()
        wrong = None
        try:
            text = filler.fill(match[1], match[2].split(), match[3])
        except (Wrong, OSError, subprocess.SubprocessError) as error:
            wrong, text = str(error), match[0]
        if told:
            told(match[0], wrong)
        elif wrong:
            raise Wrong(f"{match[0]}: {wrong}")
        return text

    make.chapter = -1
    try:
        page = PLACE.sub(fill, template)
    finally:
        filler.close()
    page = re.sub(r"```\n+```\n", "", page)  # what follows at once is one listing
    return re.sub(r"\n{3,}", "\n\n", page)


def main():
    if len(sys.argv) > 1:
        sys.exit(__doc__.strip())
    build()
    with open(TEMPLATE, encoding="utf-8") as file:
        template = file.read()
    try:
        page = make(template)
    except Wrong as error:
        sys.exit(f"make_tutorial.py: {error}")
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(page)
    print(f"{os.path.relpath(PAGE, ROOT)}: {page.count(chr(10))} lines")


if __name__ == "__main__":
    main()
