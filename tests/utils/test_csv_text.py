import csv
import io

import pytest

from kd_lightning.utils.csv_text import csv_cell, csv_path


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1+1", "'  =1+1"),
        ("\N{FULLWIDTH EQUALS SIGN}1", "'\N{FULLWIDTH EQUALS SIGN}1"),
        ("\t=1+1", r"\t=1+1"),
        ("\r=1+1", r"\r=1+1"),
        ("a\nb\x07\x85\u2028", r"a\nb\x07\x85\u2028"),
        ("-0.5", "-0.5"),
        ("+3", "+3"),
        ("-1e-05", "-1e-05"),
        ("distill, as trained", "distill, as trained"),
        ("caf\udce9.png", "caf\udce9.png"),  # a file name in another encoding keeps its bytes
        ("", ""),
        (-0.5, -0.5),
        (None, None),
        (3, 3),
    ],
)
def test_a_cell_runs_nothing_and_a_number_stays_one(value: object, written: object) -> None:
    assert csv_cell(value) == written
    text = io.StringIO()
    csv.writer(text).writerow([csv_cell(value)])
    assert len(text.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("test/ant/0.png", "test/ant/0.png"),
        ("/abs/=x.png", "/abs/=x.png"),
        ("=x.png", "./=x.png"),
        ("  @x.png", "./  @x.png"),
        ("-5", "./-5"),
        ("\N{FULLWIDTH EQUALS SIGN}x", "./\N{FULLWIDTH EQUALS SIGN}x"),
        ("\nx\x07", "\\nx\\x07"),
    ],
)
def test_a_path_stays_one_that_can_be_opened(path, cell):
    assert csv_path(path) == cell
