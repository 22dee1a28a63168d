"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class MedcoreError(Exception):
    """A problem the user can mend: one line that says what is wrong, where, and what to do about it.

    The command line prints the message without a traceback and ends with exit code 2.
    """
