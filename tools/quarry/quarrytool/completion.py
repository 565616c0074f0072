# SPDX-License-Identifier: MIT
"""quarry completion: what bash needs to complete command lines of this tool."""
import argparse
from typing import Any

from . import show

_SCRIPT = """_quarry() {{
    local words= values= word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}}
    case ${{COMP_WORDS[1]}} in
{cases}
    *) words="{verbs}" ;;
    esac
    [ "$COMP_CWORD" -eq 1 ] && words="{verbs}"
    # Behind -- is a command, behind some options or their = a value: as bash completes them by itself.
    [[ " ${{COMP_WORDS[*]:0:COMP_CWORD}} " == *" -- "* || " = $values " == *" $before "* ]] && return
    if [[ $word == -* || $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    elif [[ " {of_process} " == *" ${{COMP_WORDS[1]}} "* ||
        " {with_others} " == *" ${{COMP_WORDS[1]}} "* && ($word == [0-9]* || $COMP_CWORD -eq 2) ]]; then
        COMPREPLY=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$word"))
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
    if arguments.json:
        show.print_json({name: _long(parser) for name, parser in verbs.items()})
        return 0
    print(
        _SCRIPT.format(
            verbs=" ".join(verbs),
            of_process="why top slabinfo buddyinfo map doctor trim stats",
            with_others="record limit set",
            cases="\n".join(
                f'    {name}) words="{" ".join(_long(parser))}" '
                f'values="{" ".join(text for text, valued in _options(parser) if valued)}" ;;'
                for name, parser in verbs.items()
            ),
        )
    )
    return 0


def _options(parser: argparse.ArgumentParser) -> list[tuple[str, bool]]:
    """Each option in each of its forms, and whether the word behind it is its value."""
    return [
        (text, action.nargs is None)
        for action in parser._actions  # pylint: disable=protected-access
        for text in action.option_strings
    ]


def _long(parser: argparse.ArgumentParser) -> list[str]:
    return [text for text, _ in _options(parser) if text.startswith("--")]
