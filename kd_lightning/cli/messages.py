"""Shorten the errors of jsonargparse and Lightning to one line that names the option, what was found and expected."""

import re

from lightning.fabric.utilities.exceptions import MisconfigurationException

from kd_lightning.errors import UserError
from kd_lightning.utils.extras import EXTRAS, not_installed

MAX_VALUE_LENGTH = 120
"""Characters of a wrong value in a message."""

MAX_MESSAGE_LENGTH = 2000
"""Characters of a message whose value cannot be separated from the rest."""

OPTION_ERRORS = (
    "Early stopping conditioned on metric",
    "Found more than one stateful callback",
    "`val_check_interval`",
    "`DeviceStatsMonitor` cannot log",
)
"""First words of Lightning's errors about options that have no exception class of their own."""


MISSING = re.compile(
    rf"class_path '(({'|'.join(EXTRAS)})\.[^']*)': (?:No module named|import of) '?\2\b"
    r'|(\S+: \w+ is not installed: pip install "[^"]*")'
)
"""jsonargparse's words for a class path of a package that is not installed, or ours for it."""


def is_option_error(error: Exception) -> bool:
    """Return whether Lightning raised an error for options that it cannot honour; any other may be a bug."""
    return isinstance(error, MisconfigurationException) or str(error).strip().startswith(OPTION_ERRORS)


def root_cause(error: BaseException) -> BaseException:
    """Return the first `UserError` in a chain of causes, else its last exception."""
    return error if isinstance(error, UserError) or not error.__cause__ else root_cause(error.__cause__)


def shorten(message: str) -> str:
    """Return a parser's message as one line, without the types that it tried in turn."""
    message = " ".join(message.split())
    if missing := MISSING.search(message):  # by a nested parser, and the one around it
        return missing[3] or f"{missing[1]}: {not_installed(missing[2])}"
    key, tried, rest = message.partition(": Does not validate against any of the Union subtypes")
    if not tried:
        return message if len(message) <= MAX_MESSAGE_LENGTH else f"{message[:MAX_MESSAGE_LENGTH]} …"
    reasons, _, value = rest.partition("Errors: - ")[2].partition(" Given value type: ")
    found = value.partition("Given value: ")[2]
    # The longest reason is the one that names something.
    reason = max((reason for reason in reasons.split(" - ") if "NoneType" not in reason), key=len)
    found = found if len(found) <= MAX_VALUE_LENGTH else f"{found[:MAX_VALUE_LENGTH]} …"
    return f"{key.removeprefix('Parser key ')}: {reason}; found {found}"
