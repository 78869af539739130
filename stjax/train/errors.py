"""Errors that end a run with one clear line and a non-zero exit."""


class RunError(RuntimeError):
    """Something outside the program is wrong, and the message says what and what to do."""
