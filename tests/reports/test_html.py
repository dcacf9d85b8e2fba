import re
import sys
import tomllib
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from kd_lightning.__main__ import main
from kd_lightning.reports import html as report
from kd_lightning.reports.by_class import CLASS_FIGURES
from kd_lightning.reports.results import read_results
from tests.commands.made import HINTON_RULES, write_run

ROOT = Path(__file__).parents[2]
VOID = {"meta", "br", "hr", "img", "input", "link"}
MEASURED = ROOT / "lightning_logs" / "measured"
HOSTILE = """<script>alert(1)</script>"'&<b>"""


class Page(HTMLParser):
    """What a browser would find: elements with their words, each end tag where it belongs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        element = Element(tag, {name: value or "" for name, value in attrs}, list(self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.words += data

    def all(self, tag: str) -> list["Element"]:
        return [element for element in self.elements if element.tag == tag]

    def within(self, outer: "Element", *tags: str) -> list["Element"]:
        return [element for element in self.elements if outer in element.around and element.tag in tags]

    def table(self, caption: str) -> list[list[str]]:
        (table,) = [t for t in self.all("table") if any(c.words.startswith(caption) for c in self.within(t, "caption"))]
        return [[cell.words for cell in self.within(line, "th", "td")] for line in self.within(table, "tr")]


class Element:
    def __init__(self, tag: str, attributes: dict[str, str], around: list["Element"]) -> None:
        self.tag, self.attributes, self.around, self.words = tag, attributes, around, ""


def counts(errors: int, classes: int = 10, images: int = 10000) -> list[list[int]]:
    """A confusion matrix: class 1 is predicted class 0, and nothing else for anything."""
    matrix = [[images // classes if row == column else 0 for column in range(classes)] for row in range(classes)]
    matrix[1][0], matrix[1][1] = errors, matrix[1][1] - errors
    return matrix


def write_all(classes: int = 10, names: tuple[str, ...] = ()) -> None:
    """Runs of a teacher and of two kinds of student, with everything that results hold."""
    for stage, seeds in {"teacher": 1, "distill": 3, "without_3": 3}.items():
        for seed in range(seeds):
            errors = 80 + 3 * seed
            write_run(
                Path(),
                stage,
                seed,
                test={"errors": errors, "images": 10000, "agreement": 0.98 + seed / 1000},
                network={"name": "MLP", "parameters": 1000, "mebibytes": 9.0 if stage == "teacher" else 0.1 + seed},
                latency={"batch_1": 0.1 + seed, "batch_128": 2.0},
                threads=1,
                class_names=list(names) or [f"class {n}" for n in range(classes)],
                class_images=classes * [10000 // classes],
                class_figures={kind: [0.5 + seed / 10, *((classes - 1) * [0.99])] for kind in CLASS_FIGURES},
                confusion=counts(errors, classes),
                config={"model": {"temperature": 4.0}, "trainer": {"max_epochs": 3}, "data": {}},
                bias_correction={rule: {"errors": 70, "class_errors": 1} for rule in HINTON_RULES}
                if stage == "without_3"
                else None,
            )


def page(*words: str) -> Page:
    assert main(["compare", *(words or ("made",)), "--output", "out"]) == 0
    return Page(Path("out/report.html").read_text())


@pytest.fixture(autouse=True)
def _from_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def pages() -> dict[str, Page]:
    write_all()
    whole = page()
    write_all(classes=31)
    return {"made": whole, "many classes": page(), "measured": page(*map(str, sorted(MEASURED.glob("*.json"))))}


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing() -> None:
    for found in pages().values():
        assert {element.tag for element in found.elements}.isdisjoint({"script", "link", "img", "iframe", "object"})
        for element in found.elements:
            assert all(name not in element.attributes for name in ("src", "srcset", "style", "action", "xlink:href"))
            assert not any(name.startswith("on") for name in element.attributes)
            assert element.attributes.get("href", "#").startswith("#")
        (style,) = found.all("style")
        assert "url(" not in style.words
        assert "@import" not in style.words
        assert "prefers-color-scheme: dark" in style.words
    policy = [meta.attributes["content"] for meta in found.all("meta") if "http-equiv" in meta.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_what_a_screen_reader_needs_is_there() -> None:
    for found in pages().values():
        ids = [element.attributes["id"] for element in found.elements if "id" in element.attributes]
        assert len(ids) == len(set(ids))
        for element in found.elements:
            named = [*element.attributes.get("aria-labelledby", "").split(), element.attributes.get("href", "#")[1:]]
            assert set(filter(None, named)) <= set(ids)
        assert found.all("html")[0].attributes["lang"] == "en"
        assert any(meta.attributes.get("name") == "viewport" for meta in found.all("meta"))
        assert [len(found.all(tag)) for tag in ("h1", "main", "header", "nav", "footer")] == [1, 1, 1, 1, 1]
        levels = [int(element.tag[1]) for element in found.elements if re.fullmatch(r"h\d", element.tag)]
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
        for table in found.all("table"):
            assert [caption.words.strip() for caption in found.within(table, "caption")] != [""]
            assert all(cell.attributes["scope"] in ("row", "col") for cell in found.within(table, "th"))
            assert table.around[-1].attributes["tabindex"] == "0"  # a wide one is scrolled with the keyboard
        outermost = [svg for svg in found.all("svg") if not any(around.tag == "svg" for around in svg.around)]
        assert outermost
        for svg in outermost:
            assert svg.attributes["role"] == "img"
            title, text = svg.attributes["aria-labelledby"].split()
            assert {e.attributes.get("id") for e in found.within(svg, "title", "desc")} >= {title, text}
        for details in found.all("details"):
            assert found.elements[found.elements.index(details) + 1].tag == "summary"
        assert {element.tag for element in found.elements if "tabindex" in element.attributes} <= {"div", "pre"}


def test_the_page_shows_the_figures_of_the_results() -> None:
    write_all()
    found = page()
    head, *lines = found.table("Ours: accuracy in %")
    teacher = next(dict(zip(head, line, strict=True)) for line in lines if line[0] == "teacher")
    assert (teacher["ours"], teacher["errors"], teacher["n"]) == ("99.2 (99.01 to 99.36)", "80", "1")
    distilled = next(dict(zip(head, line, strict=True)) for line in lines if line[0] == "distill")
    assert (distilled["ours"], distilled["errors"]) == ("99.17 ± 0.03", "83.0 ± 3.0")
    assert distilled["agrees with teacher"] == "98.10 ± 0.10%"
    head, *lines = found.table("Every run")
    assert len(lines) == 1 + 3 + 9
    for line in lines:
        shown = dict(zip(head, line, strict=True))
        stage, _, rule = shown["stage"].partition(", ")
        results = read_results(Path("made", stage, f"seed_{shown['seed']}"))
        assert shown["errors"] == str(70 if rule else results["test"]["errors"])
        assert float(shown["ms_batch_1"]) == results["latency"]["batch_1"]
        assert float(shown["seconds"]) == results["fit"]["seconds"]
    dots = [dot for dot in found.all("circle") if dot.attributes["class"] == "dot" and dot.words]
    assert sorted(dot.words for dot in dots)[-1] == "seed 2: 99.3"


def test_the_figures_of_each_class_are_means_over_the_runs_of_a_stage() -> None:
    write_all()
    found = page()
    head, first, second, *others = found.table("distill: recall, precision and F1 of each class")
    assert head == ["class", "images", "recall", "precision", "f1"]
    assert first == ["class 0", "1000", "0.600", "0.600", "0.600"]
    assert (second[2], len(others)) == ("0.990", 8)
    assert next(s.words for s in found.all("summary") if "means of" in s.words) == "distill: means of 3 runs"
    write_all(classes=101)
    found = page()
    assert found.table("teacher: recall, precision and F1 of each class")[1][0] == "class 0"  # the worst
    assert len(found.table("teacher: recall, precision and F1 of each class")) == 1 + 100
    assert "teacher, the 100 of 101 classes with the lowest F1" in {s.words for s in found.all("summary")}


def test_a_confusion_matrix_adds_up_the_runs_of_its_stage() -> None:
    write_all()
    found = page()
    head, *lines = found.table("distill: label (rows)")
    assert head == ["", *(f"class {n}" for n in range(10))]
    assert lines[1] == ["class 1", "249", "2751", *(8 * ["0"])]  # 80 + 83 + 86 predicted class 0
    assert lines[2] == ["class 2", "0", "0", "3000", *(7 * ["0"])]
    assert "distill: 249 errors of 30000, sum of 3 runs" in {s.words for s in found.all("summary")}
    assert {cell.attributes["class"] for cell in found.all("td") if cell.words == "249"} == {"e5"}


def test_errors_are_shaded_by_their_number_and_what_is_right_is_not() -> None:
    shades = [[cell.shade for cell in row] for row in report._shaded([[9, 0, 1], [10, 90, 4], [5, 6, 0]])]
    assert shades == [["right", "none", "e1"], ["e5", "right", "e2"], ["e3", "e3", "right"]]
    assert report._shaded([[9]]) == [[report.Cell(9, "right")]]


def test_of_many_classes_the_most_confused_pairs_are_shown() -> None:
    write_all(classes=31)
    found = page()
    assert "31 classes, more than the 30 that a readable matrix can have" in found.all("main")[0].words
    assert found.table("distill: the most confused pairs") == [
        ["label", "predicted", "errors", "images of the label"],
        ["class 1", "class 0", "249", "966"],  # three times 322
    ]
    many = [[0 if label == place else label + place for place in range(9)] for label in range(9)]
    pairs = report.most_confused(many, "abcdefghi")
    assert (len(pairs), pairs[0]["label"], pairs[0]["errors"]) == (20, "h", 15)


def test_many_rows_are_numbers_in_the_pictures_of_cost_and_few_are_names() -> None:
    few = page(str(MEASURED / "digits.json"))
    assert not few.all("ol")
    assert {text.words for text in few.all("text")} >= {"teacher", "baseline", "distill"}
    many = page(str(MEASURED / "mnist_hinton.json"))
    names = [line[0] for line in many.table("Ours: errors")[1:]]
    assert [item.words for item in many.all("li") if item.around[-1].tag == "ol"] == names
    (size, *_) = [figure for figure in many.all("figure") if "Accuracy against size" in figure.words]
    labels = [text.words for text in many.within(size, "text") if text.attributes["class"] == "name"]
    assert labels == [str(place) for place in range(1, len(names) + 1)]
    assert f"{names[1]}: 98.60 ± 0.08 %, 4.871 MiB" in size.words


def test_what_users_write_is_shown_as_they_wrote_it() -> None:
    names = (HOSTILE, *(f"class {n}" for n in range(1, 10)))
    write_all(names=names)
    results = {
        "confusion": counts(80),
        "class_names": list(names),
        "config": {"model": {"net": HOSTILE}, "trainer": {}, "data": {}},
        "command": ["fit", f"--config={HOSTILE}"],
        "label": HOSTILE,
        "machine": {HOSTILE: HOSTILE},
        "commit": HOSTILE,
    }
    write_run(Path(), "<i>stage", 0, **results)
    found = page()
    assert {element.tag for element in found.elements}.isdisjoint({"script", "b", "i"})
    words = found.all("main")[0].words
    assert words.count(HOSTILE) >= 8
    assert "<i>stage: label (rows)" in words
    assert HOSTILE in found.table("<i>stage: label (rows)")[0]


def test_the_page_says_how_it_was_measured() -> None:
    write_all()
    found = page()
    (origin,) = [section for section in found.all("section") if section.attributes["id"] == "origin"]
    for words in (
        "kd-lightning compare made --output out",
        "2.14.1",
        "a processor",
        "temperature: 4.0",
        "max_epochs: 3",
    ):
        assert words in origin.words
    assert found.table("distill: its runs and their commands")[1:] == [
        [f"made/distill/seed_{n}", str(n), f"label_distill_{n}", "kd-lightning reproduce made"] for n in range(3)
    ]


def test_a_large_comparison_is_a_small_file() -> None:
    names = [f"a class with a rather long name, number {n}" for n in range(30)]
    matrix = [[100 + row + column for column in range(30)] for row in range(30)]
    config = {"model": {f"option_{n}": "a value" for n in range(200)}, "trainer": {}, "data": {}}
    for stage in range(20):
        for seed in range(5):
            parts = {"class_names": names, "confusion": matrix, "config": config}
            write_run(Path(), f"distill_{stage}", seed, **parts, latency={"batch_1": 1.0, "batch_128": 2.0})
    page()
    assert Path("out/report.html").stat().st_size < 2_000_000


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_letters_and_marks_stand_out_from_their_ground(scheme: int) -> None:
    """The contrast is that of WCAG 2.2, 1.4.3 and 1.4.11."""
    style = (ROOT / "kd_lightning/reports/templates/report.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", style, re.S)[scheme]))
    letters = [("text", "ground"), ("quiet", "ground"), ("text", "panel"), ("accent", "ground")]
    letters += [("on-pale", f"e{n}") for n in (1, 2, 3)] + [("on-strong", f"e{n}") for n in (4, 5)]
    for pairs, least in ((letters, 4.5), ([("accent", "ground"), ("published", "ground")], 3.0)):
        for one, other in pairs:
            light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (one, other)


def test_the_page_is_part_of_the_package() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "kd_lightning" in build["only-include"]
    packed = {file for file in Path(report.__file__).parent.rglob("*") if file.suffix in (".html", ".css")}
    assert {file.name for file in packed} == {"report.html", "charts.html", "report.css"}
