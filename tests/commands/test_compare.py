import csv
import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from kd_lightning.__main__ import main
from kd_lightning.cli import lightning
from kd_lightning.reports.columns import cells, terminal_table
from kd_lightning.reports.comparison import collect
from kd_lightning.reports.results import read_results
from kd_lightning.stage import Stage
from kd_lightning.utils.terminal import FILE_WIDTH
from tests.commands.made import HINTON_RULES, made_recipe, write_run
from tests.reports.test_html import Page

ROOT = Path(__file__).parents[2]
NAMES = ("teacher", "distill_feature_map", "distill_without_3")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, (one, many, agreement) in enumerate([(0.1, 10.0, 0.985), (0.3, 90.0, 0.987), (0.2, 30.0, 0.989)]):
        latency = {"batch_1": one, "batch_128": many}
        write_run(tmp_path, "teacher", seed, latency=latency, threads=1)
        test = {"errors": 3044 + 200 * seed, "images": 10000, "agreement": agreement}
        write_run(tmp_path, "distill_feature_map", seed, latency={"batch_128": many}, threads=1, test=test)
        bias_correction = {rule: {"errors": 704, "class_errors": 126 + seed} for rule in HINTON_RULES}
        write_run(
            tmp_path, "distill_without_3", seed, latency=latency, threads=1, test=test, bias_correction=bias_correction
        )
    return tmp_path


@pytest.fixture
def folder(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs, from the one that it lies in, where no recipe is of its name."""
    monkeypatch.chdir(runs)
    return Path("made")


def shown(folder: Path) -> list[dict[str, str]]:
    return cells(collect(made_recipe(), folder, "command"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", *words]) == 2
    assert not list(Path().rglob("report.html"))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    return line


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    """The rows, by name."""
    capsys.readouterr()
    assert main(["compare", *map(str, words), "--format", "json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}


def test_latency_is_the_median_over_seeds_and_agreement_the_mean_in_percent(runs: Path) -> None:
    teacher, distilled, *_ = shown(runs)
    assert (teacher["ms, batch 1"], teacher["ms, batch 128"], teacher["agrees with teacher"]) == ("0.200", "30.000", "")
    assert (distilled["ms, batch 1"], distilled["ms, batch 128"]) == ("", "30.000")
    assert distilled["agrees with teacher"] == "98.70 ± 0.20%"


def test_agreement_is_that_of_the_student_as_trained(runs: Path) -> None:
    rules = shown(runs)[2:]
    assert [row["agrees with teacher"] for row in rules] == ["98.70 ± 0.20%", "", ""]
    assert [row["ms, batch 1"] for row in rules] == 3 * ["0.200"]


def test_runs_from_before_latency_was_measured_are_compared_without_it(tmp_path: Path) -> None:
    write_run(tmp_path, "teacher", 0)
    assert set(shown(tmp_path)[0]) == {"stage", "published", "ours", "n", "parameters", "MiB", "seconds"}
    write_run(tmp_path, "teacher", 1, latency={"batch_1": 0.5, "batch_128": 7.0}, threads=1)
    (row,) = shown(tmp_path)
    assert (row["n"], row["ms, batch 1"], row["ms, batch 128"]) == ("2", "0.500", "7.000")
    (latency,) = [row.latency for row in collect(made_recipe(), tmp_path, "").rows]
    assert latency == {"batch_1": [None, 0.5], "batch_128": [None, 7.0]}  # whose they are stays known


def test_names_and_figures_stay_whole_in_a_file(runs: Path) -> None:
    console = Console(width=FILE_WIDTH, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(terminal_table(collect(made_recipe(), runs, "command")))
    text = capture.get()
    for whole in (*NAMES, "74 (best of 5 seeds)", "3244.0 ± 200.0", "98.70 ± 0.20%", "2,395,210", "1234.5", "30.000"):
        assert whole in text


def test_every_format_has_the_figures_of_the_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "Runs in made (accuracy in % on the test set)" in out
    assert "report: lightning_logs/compare/report.html" in out
    record = json.loads(Path("lightning_logs/compare/comparison.json").read_text())
    rows = as_json(capsys, folder)
    assert list(rows.values()) == record["rows"]
    assert main(["compare", str(folder), "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(lines) == 3 + 3 + 9
    for line in lines:
        stage, _, rule = line["stage"].partition(", ")
        results, place = read_results(folder / stage / f"seed_{line['seed']}"), int(line["seed"])
        errors = 704 if rule else results["test"]["errors"]
        assert (int(line["errors"]), float(line["accuracy"])) == (errors, round(1 - errors / 10000, 6))
        assert rows[line["stage"]]["errors"][place] == errors
        assert rows[line["stage"]]["figures"][place] == pytest.approx(100 - errors / 100)
        assert float(line["seconds"]) == rows[line["stage"]]["seconds"][place] == results["fit"]["seconds"]
        assert line["ms_batch_128"] == str(results["latency"]["batch_128"])
        assert line["agreement"] == (str(results["test"].get("agreement", "")) if rule in ("", "as trained") else "")


CLASS_FIGURES = {"recall": [0.9, 0.75], "precision": [0.8, 0.5], "f1": [0.85, 0.6]}


def write_class_figures() -> None:
    for seed, macro_f1 in enumerate((0.7251, 0.7351)):
        by_class = {"class_names": ["cat", "dog, red"], "class_images": [5000, 5000], "class_figures": CLASS_FIGURES}
        write_run(Path(), "a", seed, **by_class, test={"errors": 10, "images": 10000, "macro_f1": macro_f1})
    write_run(Path(), "b", 0)  # by a version without these figures


def test_the_columns_of_a_table_are_chosen_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_class_figures()
    comparison = collect(replace(made_recipe(), stages={name: Stage(name, {}) for name in "ab"}), Path(), "command")
    assert cells(comparison, ["macro_f1", "accuracy", "recall"]) == [
        {
            "stage": "a",
            "macro-F1": "73.01 ± 0.71%",
            "accuracy": "99.90 ± 0.00%",
            "recall cat": "90.00 ± 0.00%",
            "recall dog, red": "75.00 ± 0.00%",
        },
        {"stage": "b", "macro-F1": "", "accuracy": "99.2%", "recall cat": "", "recall dog, red": ""},
    ]
    usual = cells(comparison)[0]
    assert list(cells(comparison, ["default", "macro_f1"])[0]) == [*usual, "macro-F1"]
    assert main(["compare", "made", "--columns", "f1,default"]) == 0
    assert list(Page(Path("lightning_logs/compare/report.html").read_text()).table("Ours")[0])[:4] == [
        *("stage", "F1 cat", "F1 dog, red", "ours")
    ]
    capsys.readouterr()
    assert main(["compare", "made", "--format", "csv", "--columns", "seed,macro_f1,precision"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        'stage,seed,macro_f1,precision_cat,"precision_dog, red"',
        "a,0,0.7251,0.8,0.5",
        "a,1,0.7351,0.8,0.5",
        "b,0,,,",
    ]
    assert main(["compare", "made", "--format", "csv"]) == 0
    (line, *_) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (line["macro_f1"], "precision_cat" in line) == ("0.7251", False)
    # A comparison.json has all figures but those of each class.
    record = "lightning_logs/compare/comparison.json"
    assert main(["compare", record, "--format", "csv", "--columns", "seed,macro_f1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["a,0,0.7251", "a,1,0.7351", "b,0,"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--columns", "macrof1,seed"), "--columns: macrof1 found, some of default, stage, seed, published, ours, n,"),
        (("--columns", "recal"), ", threads, seconds, recall, precision, f1 expected"),
        (("--columns", "ours", "--format", "csv"), "--columns: ours found, some of default, stage, seed, published,"),
        (("--columns", "n", "--format", "json"), "--columns: found with --format json, which has all figures; table"),
    ],
)
def test_a_column_that_is_not_there_is_one_line(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_class_figures()
    assert message in refused(capsys, "made", *words)


def test_runs_of_a_recipe_have_its_figures_wherever_they_are_named(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    Path("configs/made").mkdir(parents=True)
    stages = {
        "teacher": {"config": "a.yaml", "published": 67},
        "distill_feature_map": {"config": "b.yaml", "teacher": "teacher", "published": "74 (best of 5 seeds)"},
    }
    recipe = {"title": "Made", "source": "nowhere", "metric": "errors", "stages": stages}
    Path("configs/made/recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    whole = as_json(capsys, "made", "--runs", ".")
    assert [(row["name"], row["published"]) for row in whole.values()][:2] == [
        ("teacher", 67),
        ("distill_feature_map", "74 (best of 5 seeds)"),
    ]
    assert whole["distill_feature_map"]["figures"] == [3044.0, 3244.0, 3444.0]
    assert whole["distill_feature_map"]["reduction"] == 0.0
    assert "distill_without_3, as trained" in whole  # which the recipe does not have
    Path("elsewhere").mkdir()
    Path("made").rename("elsewhere/made")
    assert as_json(capsys, "made", "--runs", "elsewhere") == as_json(capsys, "configs/made", "--runs", "elsewhere")
    assert as_json(capsys, "made", "--runs", "elsewhere") == whole
    student = as_json(capsys, "elsewhere/made/distill_feature_map")
    assert student["distill_feature_map"]["published"] == "74 (best of 5 seeds)"
    one = as_json(capsys, "elsewhere/made/distill_feature_map/seed_1/results.json")
    assert one["distill_feature_map"]["errors"] == [3244]


@pytest.mark.slow
def test_runs_of_no_recipe_share_a_row_where_they_differ_in_nothing_but_the_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    config = lightning.parse(["fit", f"--config={ROOT / 'configs/digits/baseline.yaml'}"])
    config["trainer"] = {"max_epochs": 1, "limit_train_batches": 1, "enable_progress_bar": False}
    Path("own.yaml").write_text(yaml.safe_dump(config))
    options = [("0",), ("1",), ("1", "--model.optimizer.lr=0.1")]
    for version, (seed, *more) in enumerate(options):
        words = ["--config=own.yaml", f"--seed_everything={seed}", *more]
        assert main(["fit", *words]) == 0
        run = Path("lightning_logs", f"version_{version}")
        logger = "--trainer.logger=lightning.pytorch.loggers.TensorBoardLogger"
        where = [logger, "--trainer.logger.save_dir=.", f"--trainer.logger.version={version}"]
        assert main(["test", *words, *where, f"--ckpt_path={run}"]) == 0
    shutil.copytree("lightning_logs/version_0", "lightning_logs/version_3")
    errors = [read_results(Path("lightning_logs", f"version_{n}"))["test"]["errors"] for n in range(4)]
    rows = as_json(capsys, "lightning_logs")
    assert {name: (row["seeds"], row["errors"]) for name, row in rows.items()} == {
        "lightning_logs/version_1, version_3": ([1, 0], [errors[1], errors[3]]),
        "lightning_logs/version_2": ([1], [errors[2]]),
    }
    assert main(["compare", "lightning_logs"]) == 0
    told = "left out: lightning_logs/version_0 (the seed and settings of lightning_logs/version_3)"
    assert told in capsys.readouterr().err
    assert as_json(capsys, "lightning_logs/version_1", "lightning_logs/version_1")["lightning_logs"]["seeds"] == [1]


def test_runs_that_cannot_be_compared_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path(), "not_tested", 0, test=None)
    write_run(Path(), "not_trained", 0, fit=None)
    write_run(Path(), "no_errors", 0, test={"images": 10})
    write_run(Path(), "no_images", 0, test={"errors": 1, "images": 0})
    write_run(Path(), "confusion", 0, class_names=["a", "b"], confusion=[[1, 2]])
    write_run(Path(), "machine", 0, machine=["a", "list"])
    write_run(Path(), "below_0", 0, test={"errors": -1, "images": 10})
    write_run(Path(), "all_and_more", 0, test={"errors": 11, "images": 10})
    write_run(Path(), "agreement", 0, test={"errors": 1, "images": 10, "agreement": float("nan")})
    by_class = {"class_names": ["a"], "class_images": [1]}
    write_run(Path(), "f1", 0, **by_class, class_figures={"recall": [1.0], "precision": [1.0], "f1": []})
    write_run(Path(), "command", 0, command=5)
    write_run(Path(), "data", 0, data="abc")
    (write_run(Path(), "cut", 0) / "results.json").write_text('{"fit": {"sec')
    (write_run(Path(), "a_list", 0) / "results.json").write_text("[1, 2]")
    assert main(["compare", str(folder)]) == 0
    assert sorted(capsys.readouterr().err.splitlines()) == [
        "left out: made/a_list/seed_0 (no results.json that can be read)",
        "left out: made/agreement/seed_0 (results.json is damaged)",
        "left out: made/all_and_more/seed_0 (results.json is damaged)",
        "left out: made/below_0/seed_0 (results.json is damaged)",
        "left out: made/command/seed_0 (results.json is damaged)",
        "left out: made/confusion/seed_0 (results.json is damaged)",
        "left out: made/cut/seed_0 (no results.json that can be read)",
        "left out: made/data/seed_0 (results.json is damaged)",
        "left out: made/f1/seed_0 (results.json is damaged)",
        "left out: made/machine/seed_0 (results.json is damaged)",
        "left out: made/no_errors/seed_0 (results.json is damaged)",
        "left out: made/no_images/seed_0 (results.json is damaged)",
        "left out: made/not_tested/seed_0 (not tested)",
        "left out: made/not_trained/seed_0 (not trained)",
    ]
    assert {name.partition(",")[0] for name in as_json(capsys, folder)} == set(NAMES)


def test_comparisons_of_one_name_are_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = [tmp_path / folder / "comparison.json" for folder in ("a", "b", "c/b")]
    for file in files:
        file.parent.mkdir(parents=True)
        shutil.copy(ROOT / "lightning_logs/measured/digits.json", file)
    rows = as_json(capsys, *files)
    assert [name for name in rows if "teacher" in name] == ["a teacher", "b teacher", f"{files[2]} teacher"]


def test_comparisons_of_several_metrics_are_compared_by_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    measured = ROOT / "lightning_logs" / "measured"
    rows = as_json(capsys, measured / "mnist_hinton.json", measured / "mnist_transfer.json")
    assert rows["mnist_hinton baseline"]["published"] == 98.54  # 146 errors of 10,000
    assert rows["mnist_hinton distill_only_7_8, as trained"]["published"] == "errors: 4730 (47.3 %)"
    assert rows["mnist_transfer distill"]["published"] == 97.1  # 9710 right
    assert rows["mnist_transfer teacher"]["figures"] == [pytest.approx(98.73)]
    (record,) = [json.loads((measured / "mnist_hinton.json").read_text())]
    alone = as_json(capsys, measured / "mnist_hinton.json")
    assert [row["figures"] for row in alone.values()] == [row["figures"] for row in record["rows"]]


def test_json_and_csv_write_a_report_only_where_one_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("json", "csv"):
        assert main(["compare", str(folder), "--format", name]) == 0
        assert not list(Path().rglob("report.html"))
    capsys.readouterr()
    assert main(["compare", str(folder), "--format", "json", "--output", "here"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(Path("here/comparison.json").read_text())
    assert captured.err == "report: here/report.html\n"
    assert Path("here/report.html").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "compare: the following arguments are required: RUNS"),
        (("nowhere",), "compare: nowhere found, a run folder, a folder of runs (with results.json in them), a recipe"),
        (("empty",), "compare: empty found, a run folder"),
        (("known",), "compare: no run of known found in lightning_logs/known"),
        (("untested",), "compare: untested found, a run that was trained and tested expected"),
        (("made", "--format", "xml"), "argument --format: invalid choice: 'xml'"),
        (("not.json",), "not.json: not a comparison ("),
        (("other.json",), "other.json: not a comparison ('rows'), a comparison.json expected"),
        (("nan.json",), "nan.json: not a comparison (a: figures [nan])"),
        (("below_0.json",), "below_0.json: not a comparison (a: errors [-1] of 10 images)"),
        (("endless.json",), "endless.json: not a comparison (a: published inf)"),
        (("short.json",), "short.json: not a comparison (a: 2 runs"),
        (("broken.yaml",), "broken.yaml: not a recipe"),
        (("binary.yaml",), "binary.yaml: not a recipe ('utf-8' codec can't decode byte 0x89"),
        (("last.ckpt",), "compare: last.ckpt found, a run folder, a folder of runs (with results.json in them), a"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], message: str, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("empty").mkdir()
    Path("configs/known").mkdir(parents=True)
    Path("configs/known/recipe.yaml").write_text("title: x\nstages: {a: {config: a.yaml}}")
    write_run(Path(), "a", 0, test=None).rename("untested")
    row = {"name": "a", "published": None, "figures": [1.0], "errors": [1], "images": 10, "class_errors": []}
    row |= {"parameters": 1, "mebibytes": 1.0, "reduction": None, "seconds": [1.0]}
    record = {"title": "", "source": "", "metric": "errors", "command": "", "versions": {}, "machine": {}}
    Path("not.json").write_text("{")
    Path("other.json").write_text("{}")
    for name, damaged in {
        "nan": {"figures": [float("nan")]},
        "below_0": {"errors": [-1]},
        "endless": {"published": float("inf")},
        "short": {"errors": [1, 2]},
    }.items():
        Path(f"{name}.json").write_text(json.dumps({**record, "rows": [{**row, **damaged}]}))
    Path("broken.yaml").write_text("stages: [")
    for name in ("binary.yaml", "last.ckpt"):
        Path(name).write_bytes(b"\x89PNG")
    assert message in refused(capsys, *words)


def test_comparing_does_not_wait_for_torch() -> None:
    code = "import sys; from kd_lightning.commands import compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["compare", "lightning_logs/measured/digits.json", "--format=csv"]])
def test_a_reader_that_has_gone_is_no_mistake(words: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kd_lightning", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
