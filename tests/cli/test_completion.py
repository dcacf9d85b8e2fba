"""Completion, asked as a shell asks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kd_lightning.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]
RECIPES = sorted(file.parent.name for file in ROOT.glob("configs/*/recipe.yaml"))


def offered(shell, *words, capsys, folder=ROOT):
    """What a shell offers for the last of the words typed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    typed = " ".join(f"'{word}'" for word in ("kd-lightning", *words))
    if shell == "fish":
        ask = f'complete -C "{" ".join(("kd-lightning", *words))}"'
    else:
        ask = f'COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _kd_lightning; printf "%s\\n" "${{COMPREPLY[@]}}"'
    if shell == "zsh":  # as its bashcompinit calls such a function
        ask = f"ask() {{ emulate -L sh; setopt ksharrays kshglob; {ask} }}; ask"
    done = subprocess.run(
        [shell, "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True, cwd=folder, timeout=60
    )
    assert not done.stderr
    found = [line.split("\t")[0] for line in done.stdout.splitlines() if line]
    # zsh itself leaves out what begins otherwise, after the function.
    return [word for word in found if shell != "zsh" or word.startswith(words[-1])]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], sorted(COMMANDS)),
        (["re"], ["recipes", "reproduce"]),
        (["recipes", ""], ["copy"]),
        (["recipes", "copy", "mnist"], [name for name in RECIPES if name.startswith("mnist")]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["reproduce", "mnist"], [name for name in RECIPES if name.startswith("mnist")]),
        (["compare", "digi"], ["digits"]),
        (["reproduce", "digits", "--se"], ["--seeds"]),
        (["fit", "--model.te"], ["--model.teacher_ckpt", "--model.temperature"]),
    ],
)
def test_words_are_offered(shell, words, expected, capsys):
    assert sorted(offered(shell, *words, capsys=capsys)) == expected


def test_files_are_left_to_bash(capsys):
    assert offered("bash", "fit", "--config", "configs/digits/te", capsys=capsys) == []
    assert main(["completion", "bash"]) == 0
    assert "complete -o bashdefault -o default -F _kd_lightning kd-lightning" in capsys.readouterr().out


def test_recipes_of_the_package_and_of_the_working_folder_are_offered(capsys, tmp_path):
    assert offered("bash", "reproduce", "", capsys=capsys, folder=tmp_path) == RECIPES
    (tmp_path / "configs/mine").mkdir(parents=True)
    (tmp_path / "configs/mine/recipe.yaml").touch()
    assert offered("bash", "reproduce", "", capsys=capsys, folder=tmp_path) == sorted([*RECIPES, "mine"])


@pytest.mark.parametrize("words", [[], ["csh"], ["bash", "zsh"]])
def test_other_shells_are_refused(words, capsys):
    assert main(["completion", *words]) == 2
    assert "one of bash, zsh, fish expected" in capsys.readouterr().err
