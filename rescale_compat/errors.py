"""The error of this project that its user can mend."""


class RescaleError(ValueError):
    """An argument, option or file is at fault; the message names it and says what would be right.

    The command prints it in one line. Any other ``ValueError`` is a bug and has a traceback.
    """
