"""Commands, code and figures of the README and the documentation."""

import json
import re
import shlex
import sys
from pathlib import Path
from statistics import mean, median

import pytest
import torch
import yaml
from PIL import Image
from torchvision.models import resnet18

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.cli.arguments import (
    compare_arguments,
    export_arguments,
    predict_arguments,
    reproduce_arguments,
    sweep_arguments,
)
from kd_lightning.recipe import find_recipe
from kd_lightning.reports.column import mean_and_spread
from tests.pages import NOT_MEASURED, make_distillation, result_tables

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "lightning_logs" / "measured" / "digits.json"
README = (ROOT / "README.md").read_text()
OWN_DATA = (ROOT / "docs" / "own_data.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))]
LINES = [
    line.partition("  #")[0].strip()
    for page in PAGES
    for block in re.findall(r"```sh\n(.*?)```", page, re.S)
    for line in block.replace("\\\n", " ").splitlines()
]
COMMANDS = sorted({line for line in LINES if line.startswith("kd-lightning ") and "…" not in line})
OF_A_RUN = [line for line in COMMANDS if "--config lightning_logs/" in line]


def example(language, name):
    return re.search(rf"```{language}\n(# {name}.*?)```", OWN_DATA, re.S).group(1)


@pytest.mark.parametrize("command", [line for line in COMMANDS if line not in OF_A_RUN])
def test_every_command_refers_to_existing_things(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    words = shlex.split(command)[1:]
    if words[0] == "reproduce":
        if not (Path("configs") / words[1]).is_dir():
            return  # a file that docs/own_data.md shows, which another test runs
        words = [word for word in words if not word.startswith("my_data")]
        options, _ = reproduce_arguments().parse_known_args(words[2:])
        find_recipe(words[1], Path("configs")).choose(options.stages.split(",") if options.stages else None)
    elif words[0] == "compare":
        options = compare_arguments().parse_args(words[1:])
        for word in options.what:
            if word.endswith(".json") and not options.verify:  # the slow suite verifies what it has trained
                assert main(["compare", word, f"--output={tmp_path}"]) == 0
            elif not word.startswith("lightning_logs/"):
                find_recipe(word, Path("configs"))
    elif words[0] == "sweep":
        options, overrides = sweep_arguments().parse_known_args(words[1:])
        lightning.parse(["fit", f"--config={options.config}", *overrides])
    elif words[0] == "recipes":
        assert main(words) == 0
    elif words[0] == "export":
        export_arguments().parse_args(words[1:])
    elif words[0] == "predict" and not words[1].startswith("-"):
        predict_arguments().parse_args(words[1:])
    elif "--print_config" not in words:
        lightning.parse(words)


def test_commands_on_a_run_work_after_that_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    config = f"--config={ROOT / 'configs' / 'digits' / 'teacher.yaml'}"
    assert main(["fit", config, "--trainer.max_epochs=1", "--trainer.logger.version=mine"]) == 0
    assert OF_A_RUN
    for command in OF_A_RUN:
        assert main(shlex.split(command)[1:]) == 0


def test_a_student_in_under_ten_lines_of_python(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"## From Python\n\n```python\n(.*?)```", README, re.S).group(1)
    assert len([line for line in snippet.splitlines() if line]) < 10
    names = {}
    exec(snippet, names)
    results = names["Trainer"](logger=False).test(names["student"], names["digits"], verbose=False)
    assert results[0]["test/accuracy"] > 0.8


def test_own_data_and_network_in_one_yaml(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    Path("mine.py").write_text(example("python", "mine.py"))
    Path("mine.yaml").write_text(example("yaml", "mine.yaml"))
    Path("my_images").mkdir()
    for part, size in (("train", 40), ("test", 10)):
        image = torch.randint(0, 256, (size, 3, 64, 64), dtype=torch.uint8)
        torch.save({"image": image, "label": torch.arange(size) % 2}, f"my_images/{part}.pt")
    torch.save(resnet18(num_classes=2).state_dict(), "my_teacher.pt")
    words = ["--config", "mine.yaml", "--trainer.max_epochs=1", "--data.val_size=10", "--data.batch_size=15"]
    assert main(["fit", *words, "--trainer.default_root_dir=runs"]) == 0
    (best,) = Path("runs").rglob("best.ckpt")
    assert main(["test", *words, f"--ckpt_path={best}", "--trainer.default_root_dir=runs"]) == 0
    sys.modules.pop("mine")


@pytest.mark.slow
def test_own_images_distil_resnet_18_with_one_yaml(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    Path("flowers.yaml").write_text(example("yaml", "flowers.yaml"))
    for c, name in enumerate(("daisy", "rose", "tulip")):
        (tmp_path / "flowers" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (80, 70), (80 * c, 5 * i, 40)).save(tmp_path / "flowers" / name / f"{i}.jpg")
    words = ["--trainer.max_epochs=1", "--data.batch_size=12", "--data.image_size=64", "--trainer.precision=32-true"]
    assert main(["reproduce", "flowers.yaml", "--seeds=1", *words]) == 0
    record = json.loads(Path("lightning_logs/flowers/comparison.json").read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert {name: len(row["errors"]) for name, row in rows.items()} == {"teacher": 1, "baseline": 1, "distill": 1}
    assert rows["teacher"]["parameters"] == 11_178_051  # ResNet-18 of three classes
    assert rows["distill"]["reduction"] > 0.9
    assert len(rows["distill"]["agreement"]) == 1
    recipe = yaml.safe_load(Path("flowers.yaml").read_text())
    recipe["stages"]["distill"]["config"]["model"]["init_args"].update(
        yaml.safe_load(re.search(r"```yaml\n( +init_args:\n +hard_weight.*?)```", OWN_DATA, re.S)[1])["init_args"]
    )
    Path("matched.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert main(["reproduce", "matched.yaml", "--stages=distill", "--seeds=1", *words]) == 0


def table_lines(page):
    text = (ROOT / page).read_text()
    return (
        text[text.index("<!-- results -->") : text.index("<!-- end of results -->")].split("\n\n")[1].splitlines()[2:]
    )


def test_the_readme_is_short_and_its_table_is_up_to_date():
    assert len(README.splitlines()) <= 250
    assert "\n".join(table_lines("README.md")) in result_tables.headlines(result_tables.read())
    recipes = {file.parent.name for file in ROOT.glob("configs/*/recipe.yaml")}
    assert len(table_lines("README.md")) == len(recipes - NOT_MEASURED) <= 8


def test_an_interval_uses_student_s_t():
    # By hand: mean 4, standard deviation 2, and t = 4.303 for two degrees of freedom: 4 ± 4.303 * 2 / sqrt(3).
    text = result_tables.interval([2.0, 4.0, 6.0], 2)
    assert text.replace("\N{NO-BREAK SPACE}", " ") == "4.00 (-0.97 to 8.97)"


def test_the_picture_s_text_quotes_what_was_measured():
    rows = {row["name"]: row for row in json.loads(DIGITS.read_text())["rows"]}
    for name in ("teacher", "distill_unlabelled", "baseline"):
        accuracy = 100 * (1 - mean(rows[name]["errors"]) / rows[name]["images"])
        assert f" {accuracy:.1f} %" in README
    assert f" {rows['distill']['parameters']:,} parameters" in README


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_picture_shows_what_was_measured(mode):
    figure = make_distillation.draw(torch.zeros(8, 8), 9, [0.1] * 10, json.loads(DIGITS.read_text()), mode)
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert texts == ["teacher: 96.9 %", "student on labels: 87.1 %", "distilled student: 92.2 %"]
    assert all(text in README for text in ("96.9 %", "87.1 %", "92.2 %"))
    assert (ROOT / "docs" / "pictures" / f"distillation_{mode}.png").is_file()


def test_the_table_of_all_results_quotes_what_was_measured():
    assert "\n".join(table_lines("docs/results.md")) in result_tables.all_results(result_tables.read())
    recipe, quoted = "", 0
    for line in table_lines("docs/results.md"):
        name, stage, published, ours, seeds = (cell.strip() for cell in line.strip("|").split("|"))
        recipe = re.match(r"`(\w+)`", name)[1] if name else recipe
        record = json.loads((ROOT / "lightning_logs" / "measured" / f"{recipe}.json").read_text())
        (row,) = [row for row in record["rows"] if row["name"] == stage.replace("`", "")]
        figure = mean_and_spread(row["figures"], 2 if record["metric"] == "accuracy" else 1)
        assert (ours, seeds) == (f"**{figure}**", str(len(row["figures"]))), line
        assert published
        quoted += 1
    assert quoted == sum(
        len(json.loads(file.read_text())["rows"]) for file in (ROOT / "lightning_logs" / "measured").glob("*.json")
    )


def test_the_gain_from_a_published_teacher_quotes_what_was_measured():
    rows = {row["name"]: row["figures"] for row in result_tables.read()["cifar10_resnet56"]["rows"]}
    pairs = zip(rows["distill_resnet56"], rows["baseline_improved"], strict=True)
    gain = result_tables.interval([distilled - alone for distilled, alone in pairs], 2)
    assert f"gains {gain.replace(result_tables.NO_BREAK, ' ')} points" in (ROOT / "docs" / "results.md").read_text()


def test_speeds_are_those_of_the_last_records():
    lines = (ROOT / "benchmarks" / "records.jsonl").read_text().splitlines()
    last = {(record["name"], record["threads"]): record for record in map(json.loads, lines)}
    page = (ROOT / "docs" / "speed.md").read_text()
    record, quoted = {}, set()
    for line in re.findall(r"^\| (?:`| \|).*", page[: page.index("## Why")], re.M):
        work, ours, against, its, part, _ = (cell.strip() for cell in line[1:-1].split("|"))
        if work:
            name = re.match(r"`(\w+)`", work)[1]
            record = last[name, 2 if "2 threads" in work else 1]
            assert ours == summary(record["figures"]["ours"], record["unit"])
            quoted.add(name)
        if against:
            assert its == summary(record["figures"][against], record["unit"])
            assert part == f"{record['ours / it'][against]:.2f}"
    assert quoted == {name for name, _ in last}


def summary(figures, unit):
    middle, low, high = (f"{float(f'{of(figures):.3g}'):g}" for of in (median, min, max))
    return f"{middle} {unit} ({low} to {high})"
