"""The exception for errors that the user can correct."""


class RescaleError(ValueError):
    """An argument, option or file is invalid; the message names it and what would be valid.

    The command prints the message in one line. Any other ``ValueError`` is a bug, and the command
    prints its traceback.
    """
