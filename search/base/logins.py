"""Remove logins from addresses before they are shown or logged."""

from __future__ import annotations

import re

#: An address in a text. It has no space and no ", but an apostrophe is legal in a password.
_WORD = re.compile(r"""('?)([^\s"]+)""")
#: A login in front of a database's host. SQLAlchemy takes everything up to the @ as the password, even a slash.
_DATABASE_LOGIN = re.compile(r"(?i)((?:postgres(?:ql)?|mysql|mssql)(?:\+\w+)?://)[^:/@]*:[^@]*@")
_LOGIN = re.compile(r"(?<=://)[^/]*@")
_PARAMETERS = r"user|username|pwd|\w*(?:password|passwd|token|secret)|odbc_connect"
_PARAMETER = re.compile(rf"(?i)([?&](?:{_PARAMETERS})=)[^&]*")


def hide_login(text: str) -> str:
    """Return a text whose addresses have no user and password.

    They are hidden before the host and among the parameters. This holds for all characters that an address may have. If
    the end of a login is unclear, more is hidden.
    """
    return _WORD.sub(lambda found: _hidden(*found.groups()), text)


def _hidden(quote: str, word: str) -> str:
    """Return a word without its logins.

    `quote` is an apostrophe before it, whose partner ends it, as in YAML.
    """
    address, end, rest = word.rpartition("'") if quote and "'" in word else (word, "", "")
    address = _LOGIN.sub("", _DATABASE_LOGIN.sub(r"\1", address))
    return quote + _PARAMETER.sub(r"\1…", address) + end + rest
