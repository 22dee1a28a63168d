"""Exceptions that mean "the input or the machine is wrong", as opposed to "the program is wrong"."""


class MedcoreError(Exception):
    """A problem the user can mend: one line that says what is wrong, where, and what to do about it.

    The command line prints the message without a traceback and ends with exit code 2.
    """


class StorageError(MedcoreError):
    """A file could not be written: the disk is full, read-only or away. No fault of the work that wanted to write."""
