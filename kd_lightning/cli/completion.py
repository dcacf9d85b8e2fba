"""Completion of `kd-lightning` in a shell: commands, their options, recipes and files."""

import re
from collections.abc import Sequence

from kd_lightning.cli.help import page_of
from kd_lightning.errors import UserError
from kd_lightning.recipe import CONFIGS, SHIPPED, recipe_names

BASH = """\
_kd_lightning() {
    local word=${COMP_WORDS[COMP_CWORD]} words="" recipe
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="@COMMANDS@"
    elif [ "${word#-}" != "$word" ]; then
        case ${COMP_WORDS[1]} in
@OPTIONS@
        esac
    elif [ "$COMP_CWORD" -eq 2 ] && [ "${COMP_WORDS[1]}" = completion ]; then
        words="@SHELLS@"
    elif [ "$COMP_CWORD" -eq 2 ] && [ "${COMP_WORDS[1]}" = recipes ]; then
        words=copy
    elif [ "$COMP_CWORD" -eq 3 ] && [ "${COMP_WORDS[1]}" = recipes ]; then
        words="@RECIPES@"
    elif [ "$COMP_CWORD" -eq 2 ] && [[ ${COMP_WORDS[1]} = reproduce || ${COMP_WORDS[1]} = compare ]]; then
        words="@RECIPES@"
        for recipe in $(ls @CONFIGS@/*/recipe.yaml 2> /dev/null); do
            recipe=${recipe#@CONFIGS@/}
            words="$words ${recipe%/recipe.yaml}"
        done
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word" | sort -u))
}
complete -o bashdefault -o default -F _kd_lightning kd-lightning
"""
"""bash completes file names where no word fits."""

ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"

FISH = """\
set -l commands @COMMANDS@
complete -c kd-lightning -n "not __fish_seen_subcommand_from $commands" -f -a "$commands"
complete -c kd-lightning -n "__fish_seen_subcommand_from completion" -f -a "@SHELLS@"
complete -c kd-lightning -n "__fish_seen_subcommand_from recipes" -f -a copy
complete -c kd-lightning -n "__fish_seen_subcommand_from reproduce compare copy" -a "@RECIPES@"
complete -c kd-lightning -n "__fish_seen_subcommand_from reproduce compare" \\
    -a "(set -l files @CONFIGS@/*/recipe.yaml; string replace -r '@CONFIGS@/(.*)/recipe.yaml' '\\$1' \\$files)"
@OPTIONS@
"""

SHELLS = ("bash", "zsh", "fish")


def script_for(words: Sequence[str], commands: Sequence[str]) -> str:
    """Return the script that completes `kd-lightning` in a shell.

    Args:
        words: the words after `kd-lightning completion`: one of `SHELLS`.
        commands: all commands of `kd-lightning`.

    Raises:
        UserError: an unknown shell, or none.
    """
    if len(words) != 1 or words[0] not in SHELLS:
        raise UserError(f"completion: {' '.join(words) or 'nothing'} found, one of {', '.join(SHELLS)} expected")
    fish = words[0] == "fish"
    lines = [(_fish_options if fish else _bash_options)(command, _options(command)) for command in commands]
    script = FISH if fish else (ZSH if words[0] == "zsh" else "") + BASH
    marks = {"COMMANDS": " ".join(commands), "SHELLS": " ".join(SHELLS), "CONFIGS": str(CONFIGS)}
    marks["RECIPES"] = " ".join(recipe_names(SHIPPED))
    for mark, text in {**marks, "OPTIONS": "\n".join(line for line in lines if line)}.items():
        script = script.replace(f"@{mark}@", text)
    return script


def _options(command: str) -> list[str]:
    """Return the options in a command's help page."""
    return sorted({*re.findall(r"--[a-z][\w.]*\w", page_of(command) or "")})


def _bash_options(command: str, options: list[str]) -> str:
    return f'            {command}) words="{" ".join(options)}" ;;' if options else ""


def _fish_options(command: str, options: list[str]) -> str:
    seen = f'complete -c kd-lightning -n "__fish_seen_subcommand_from {command}"'
    return "\n".join(f"{seen} -l {option.removeprefix('--')}" for option in options)
