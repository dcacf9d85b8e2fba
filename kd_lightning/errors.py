"""The error for mistakes of users."""


class UserError(Exception):
    """A mistake in options, files or data that the user can correct.

    The message is one line that names the option or file, what was found and what was expected. The console command
    prints it without a traceback and exits with status 2.
    """


class DivergedError(UserError):
    """A training whose losses, weights or validation figures are not finite."""


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks, or its class if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
