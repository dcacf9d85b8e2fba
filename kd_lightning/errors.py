"""What a user did wrong, in one line."""


class UserError(Exception):
    """A mistake that its user can mend.

    The message is one line that names the file or option, what was found and what was expected. The console
    command prints it without a traceback and exits with status 2.
    """


def one_line(error: Exception) -> str:
    """What an error says, without line breaks; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
