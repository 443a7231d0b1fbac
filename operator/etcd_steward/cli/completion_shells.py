"""How bash, zsh and fish ask this program what could be typed next, and insert the answer.

click brings scripts for all three; these differ where etcd's keys need it. What ends in a slash
goes on, so no blank is put behind it. bash splits words at `:` and `=`, which keys and URLs may
hold, and replaces only what stands behind the last of them: so it sends the line as it is, and gets
the rest of a word. It inserts what it gets as it is, so that is quoted here: whoever may write a
key must not choose what others' shells run. zsh and fish quote what they insert themselves. Nothing
is asked on the terminal: standard input is empty.
"""

import os
import re

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
)

from etcd_steward.cli.completion_words import last_word

_SPECIAL = {
    "": re.compile(r"[^\w@%+=:,./-]", re.ASCII),
    "'": re.compile("'"),
    '"': re.compile(r'[$`"\\!]'),
}
"""What must not stand as it is, by the quote that is open before it."""

_BASH = """\
%(complete_func)s() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case ${line%%%%,*} in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${line#*,}") ;;
        esac
    done < <(COMP_LINE=$COMP_LINE COMP_POINT=$COMP_POINT COMP_WORDBREAKS=$COMP_WORDBREAKS \\
        %(complete_var)s=bash_complete "$1" </dev/null 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then
        compopt -o nospace
    fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a plain folders described response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1

    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
%(complete_var)s=zsh_complete %(prog_name)s </dev/null 2>/dev/null)}")

    for type key descr in ${response}; do
        if [[ $type == dir ]]; then
            _path_files -/
        elif [[ $type == file ]]; then
            _path_files -f
        elif [[ $descr != _ ]]; then
            described+=("$key:$descr")
        elif [[ $key == */ ]]; then
            folders+=("$key")
        else
            plain+=("$key")
        fi
    done

    (( $#described )) && _describe -V unsorted described -U
    (( $#folders )) && compadd -V folders -S '' -a folders
    (( $#plain )) && compadd -V plain -a plain
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
function %(complete_func)s
    set -l line (commandline -cp | string collect)
    set -l word (commandline -ct | string collect)
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS="$line" COMP_CWORD="$word" \\
        %(prog_name)s </dev/null 2>/dev/null)
    for completion in $response
        set -l found (string split -m 1 , -- $completion)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case plain
                printf '%%s\n' $found[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


@add_completion_class
class _Bash(BashComplete):
    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """What stands before the cursor, and the word at it."""
        line = os.fsencode(os.environ["COMP_LINE"])[: int(os.environ["COMP_POINT"])]
        self._word = last_word(os.fsdecode(line), os.environ["COMP_WORDBREAKS"])
        return self._word.before[1:], self._word.text

    def format_completion(self, item: CompletionItem[str]) -> str:
        """What bash puts in place of the part of the word that it knows of."""
        word = self._word
        value = _SPECIAL[word.quote].sub(self._escaped, item.value[word.kept :])
        return f"{item.type},{value}"

    def _escaped(self, special: re.Match[str]) -> str:
        char, quote = special[0], self._word.quote
        if quote == "'":
            return r"'\''"
        # Between double quotes a backslash keeps `!` from its meaning, but stays.
        return f"\"'{char}'\"" if quote and char == "!" else f"\\{char}"


@add_completion_class
class _Zsh(ZshComplete):
    source_template = _ZSH


@add_completion_class
class _Fish(FishComplete):
    source_template = _FISH
