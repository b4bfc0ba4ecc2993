"""The manual page and the completions of shells, made from the parser of the arguments."""

from __future__ import annotations

from ..version import __version__
from .arguments import DETAILS, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action, ArgumentParser

_FILES = {"FILE", "PATH"}  # what shells complete with names of files
_POLICIES = ("backoff", "1", "5", "30", "60")  # some values of --reconnect


def _is_optional(action: Action) -> bool:
    """Whether the argument may be left out; then it comes behind an equals sign."""
    return str(action.metavar).startswith("[=")


def _help(action: Action) -> str:
    return (action.help or "") % vars(action)


def _metavar(action: Action) -> str:
    """The placeholder of the argument; empty if the option takes none."""
    if action.nargs == 0:
        return ""
    if action.choices:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def _roff(text: str) -> str:
    """Escape *text*, so that roff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    # A line that begins with a dot would be a request; \& is a character of no width.
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in text.splitlines())


def man_page(parser: ArgumentParser) -> str:
    """The manual page, in roff with the man macros."""
    lines = [
        f'.TH WSMINI 1 "" "wsmini {__version__}" "User Commands"',
        ".SH NAME",
        r"wsmini \- talk to a WebSocket server",
        ".SH SYNOPSIS",
        r".B python \-m wsmini",
        r"[\fIoptions\fR] \fIURL\fR",
        ".SH DESCRIPTION",
        ".PP",
        _roff(DETAILS.strip()).replace("\n\n", "\n.PP\n"),
        ".SH OPTIONS",
    ]
    _, *groups = parser._action_groups  # the first one is that of the URL
    for group in groups:
        lines.append(f".SS {str(group.title).capitalize()}")
        for action in group._group_actions:
            metavar = _metavar(action)
            names = ", ".join(rf"\fB{_roff(name)}\fR" for name in action.option_strings)
            space = "" if _is_optional(action) else " "
            lines += [".TP", f"{names}{space}\\fI{_roff(metavar)}\\fR" if metavar else names]
            lines.append(_roff(_help(action)))
    lines.append(".SH EXIT STATUS")
    for status in Status:
        lines += [".TP", rf"\fB{status:d}\fR", _roff(status.meaning)]
    return "\n".join(lines) + "\n"


def completion(parser: ArgumentParser, shell: str) -> str:
    """A script with which *shell*, ``bash`` or ``zsh``, completes the options of ``wsmini``."""
    actions = [action for action in parser._actions if action.option_strings]
    return _zsh(actions) if shell == "zsh" else _bash(actions)


def _bash(actions: list[Action]) -> str:
    files = [action for action in actions if action.metavar in _FILES]
    others = [a for a in actions if a not in files and _metavar(a) and not _is_optional(a)]
    policies = " ".join(_POLICIES)
    return f"""\
# For ~/.bashrc, with: wsmini() {{ python3 -m wsmini "$@"; }}
_wsmini() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    # --option=value comes as three words.
    if [[ $word == = ]]; then word=
    elif [[ $before == = ]]; then before=${{COMP_WORDS[COMP_CWORD-2]}}=; fi
    [[ ${{COMP_WORDS[COMP_CWORD]}} == = ]] && before+==
    case $before in
        --reconnect=) COMPREPLY=($(compgen -W '{policies}' -- "$word")); return ;;
        *=) before=${{before%=}} ;;
    esac
    case $before in
        --completion) COMPREPLY=($(compgen -W 'bash zsh' -- "$word")) ;;
        {_names(files, "|")}) COMPREPLY=($(compgen -f -- "$word")) ;;
        {_names(others, "|")}) COMPREPLY=() ;;
        *) COMPREPLY=($(compgen -W '{_names(actions, " ")}' -- "$word")) ;;
    esac
}}
complete -o filenames -F _wsmini wsmini
"""


def _names(actions: list[Action], separator: str) -> str:
    return separator.join(name for action in actions for name in action.option_strings)


def _zsh(actions: list[Action]) -> str:
    specs = []
    for action in actions:
        # zsh reads brackets and colons in a specification, and the shell the quotes around it.
        text = _help(action).replace("\\", "").replace("[", "(").replace("]", ")")
        text = text.replace(":", "\\:").replace("'", "'\\''")
        what = _metavar(action).replace(":", " ").replace("'", "").replace("|", " ")
        if _is_optional(action):  # "=-": only behind an equals sign
            what = f"::when:({' '.join(_POLICIES)})"
        elif action.choices:
            what = f":{action.dest}:({what})"
        elif what:
            what = f":{what}:_files" if action.metavar in _FILES else f":{what}: "
        for name in action.option_strings:
            name += "=-" if _is_optional(action) else ""
            specs.append(f"    '*{name}[{text}]{what}' \\\n")
    return (
        "#compdef wsmini\n"
        '# For ~/.zshrc, behind compinit, with: wsmini() { python3 -m wsmini "$@" }\n'
        f"_wsmini() {{\n  _arguments \\\n{''.join(specs)}"
        "    '1:URL:{compadd -S \"\" ws:// wss://}'\n}\n"
        "compdef _wsmini wsmini\n"
    )
