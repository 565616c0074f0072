# SPDX-License-Identifier: MIT
"""quarry completion: what bash needs to complete command lines of this tool."""
import argparse
from typing import Any

from . import show

_SCRIPT = """_quarry() {{
    local words=
    case ${{COMP_WORDS[1]}} in
{cases}
    *) words="{verbs}" ;;
    esac
    [ "$COMP_CWORD" -eq 1 ] && words="{verbs}"
    if [[ ${{COMP_WORDS[COMP_CWORD]}} == -* || $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    elif [[ " {of_processes} " == *" ${{COMP_WORDS[1]}} "* ]]; then
        COMPREPLY=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
complete -o default -F _quarry quarry"""


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "completion",
        help="command line completion for bash",
        description="Prints a bash function that completes verbs, options and process numbers; load it by: "
        'eval "$(quarry completion)"',
    )
    parser.add_argument("--json", action="store_true", help="the verbs and their options as JSON")
    parser.set_defaults(run=lambda arguments: main(arguments, verbs.choices))


def main(arguments: argparse.Namespace, verbs: dict[str, argparse.ArgumentParser]) -> int:
    """The verb."""
    options = {
        name: [
            text
            for action in parser._actions  # pylint: disable=protected-access
            for text in action.option_strings
            if text.startswith("--")
        ]
        for name, parser in verbs.items()
    }
    if arguments.json:
        show.print_json(options)
        return 0
    print(
        _SCRIPT.format(
            verbs=" ".join(verbs),
            of_processes="why top slabinfo buddyinfo map record doctor trim limit stats set",
            cases="\n".join(
                f'    {name}) words="{" ".join(words)}" ;;' for name, words in options.items()
            ),
        )
    )
    return 0
