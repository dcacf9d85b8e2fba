"""Write text into CSV files such that a spreadsheet program runs none of it."""

import re
import unicodedata

WIDE = "\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"

FORMULA = ("=", "+", "-", "@", *WIDE)
"""First characters of a cell that a spreadsheet program reads as a formula."""

NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def csv_cell(value: object) -> object:
    r"""Return a cell's value such that a spreadsheet program shows it and runs nothing.

    Only text is changed: control characters are written as escapes (`\t`, `\x07`), and text that would be read as a
    formula gets an apostrophe before it. Numbers stay as they are, also those that are given as text (`-0.5`).
    """
    if not isinstance(value, str):
        return value
    text = "".join(_escaped(character) for character in value)
    if text.lstrip().startswith(FORMULA) and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def csv_path(path: object) -> str:
    """Return a file's path as a cell's text, which a program can still open.

    A relative path that would be read as a formula gets `./` before it and names the same file. Control characters are
    written as escapes, as in `csv_cell`.
    """
    text = "".join(_escaped(character) for character in str(path))
    return f"./{text}" if text.lstrip().startswith(FORMULA) else text


def _escaped(character: str) -> str:
    is_control = unicodedata.category(character) in ("Cc", "Zl", "Zp")
    return character.encode("unicode_escape").decode() if is_control else character
