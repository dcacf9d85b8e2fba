"""A checkpoint's description, compared with the data that the checkpoint is used on."""

from dataclasses import replace
from typing import Any

import pytest

from kd_lightning.checkpoints.description import Description, compare_with_data
from kd_lightning.errors import UserError

COLOUR = Description(("ant", "bee", "cow"), (3, 8, 8), (3, 8, 8), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def compare(trained: Description, **shown: Any) -> list[int] | None:
    return compare_with_data(trained.plain(), replace(trained, **shown), "teacher_ckpt: teacher.ckpt")


@pytest.mark.parametrize(
    "shown",
    [
        {},
        {"mean": (0.5,), "std": (0.25,)},
        {"mean": (0.5004, 0.5, 0.4999), "std": (0.2504, 0.25, 0.25)},
        {"stored_shape": (3, 16, 16)},
        {"crop": False},
    ],
    ids=["equal", "one value for all channels", "rounded", "stored larger", "squeezed"],
)
def test_data_that_shows_the_same_fits(shown: dict[str, Any]) -> None:
    assert compare(COLOUR, **shown) is None


def test_the_same_classes_in_another_order_are_each_found_among_the_outputs() -> None:
    assert compare(COLOUR, class_names=("cow", "ant", "bee")) == [2, 0, 1]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"class_names": ("ant", "bee", "dog")}, r"class_names \[cow\] \(the data has \[dog\]\)"),
        ({"class_names": ("ant", "bee")}, r"class_names \[cow\] \(the data has \[ant, bee\]\)"),
        ({"class_names": ("bee", "ant", "ant")}, r"class_names \[cow\] \(the data has \[bee, ant, ant\]\)"),
        ({"mean": (0.3,)}, r"mean \[0\.5, 0\.5, 0\.5\] \(the data has \[0\.3\]\)"),
        ({"mean": (0.5, 0.5, 0.51)}, r"mean \[0\.5, 0\.5, 0\.5\] \(the data has \[0\.5, 0\.5, 0\.51\]\)"),
        ({"std": (1.0,)}, r"std \[0\.25, 0\.25, 0\.25\] \(the data has \[1\]\)"),
        ({"image_shape": (3, 9, 8)}, r"image_shape \[3, 8, 8\] \(the data has \[3, 9, 8\]\)"),
        (
            {"image_shape": (1, 8, 8), "stored_shape": (1, 8, 8), "mean": (0.5,), "std": (0.25,)},
            r"image_shape \[3, 8, 8\] \(the data has \[1, 8, 8\]\); ",
        ),
        ({"mean": (0.0,), "std": (1.0,)}, r"mean .* and std .*; make the data like that"),
    ],
)
def test_other_data_is_refused_with_both_sides_named(shown: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^teacher_ckpt: teacher.ckpt was trained with {said}"):
        compare(COLOUR, **shown)


def test_names_that_are_not_unique_have_no_other_order() -> None:
    twice = replace(COLOUR, class_names=("ant", "ant", "bee"))
    assert compare(twice) is None
    with pytest.raises(UserError, match=r"class_names \[ant, ant, bee\] \(the data has \[bee, ant, ant\]\)"):
        compare(twice, class_names=("bee", "ant", "ant"))


def test_of_many_classes_the_first_are_named() -> None:
    ours, theirs = (tuple(f"{word}_{number}" for number in range(1000)) for word in ("a", "b"))
    with pytest.raises(UserError) as caught:
        compare(replace(COLOUR, class_names=ours), class_names=theirs)
    assert "[a_0, a_1, a_2, a_3, a_4 and 995 more] (the data has [b_0, " in str(caught.value)


@pytest.mark.parametrize("plain", [None, "a foreign word", {"author": "somebody"}, 3])
def test_what_does_not_describe_itself_has_nothing_to_compare(plain: Any) -> None:
    assert compare_with_data(plain, COLOUR, "teacher_ckpt: foreign.pt") is None
    assert compare_with_data(COLOUR.plain(), object(), "teacher_ckpt: teacher.ckpt") is None


def test_a_malformed_description_is_one_line() -> None:
    with pytest.raises(UserError, match=r"teacher_ckpt: t.ckpt has an invalid description \(std: \[0.0\] found"):
        compare_with_data({**COLOUR.plain(), "std": [0.0]}, COLOUR, "teacher_ckpt: t.ckpt")
