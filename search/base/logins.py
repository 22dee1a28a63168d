"""Remove logins from addresses before they are shown or logged."""

from __future__ import annotations

import re

#: Where MLflow's client looks for a login; the first one goes with MLFLOW_TRACKING_PASSWORD.
_LOGINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")


#: Where an address may lie in a text: it has no space and no ", but an apostrophe is legal in a password.
_WORD = re.compile(r"""('?)([^\s"]+)""")


#: In front of a host. Of a database's address SQLAlchemy takes all up to the @ as password, a slash too.
_DATABASE_LOGIN = re.compile(r"(?i)((?:postgres(?:ql)?|mysql|mssql)(?:\+\w+)?://)[^:/@]*:[^@]*@")


_LOGIN = re.compile(r"(?<=://)[^/]*@")


_PARAMETERS = r"user|username|pwd|\w*(?:password|passwd|token|secret)|odbc_connect"


_PARAMETER = re.compile(rf"(?i)([?&](?:{_PARAMETERS})=)[^&]*")


def hide_login(text: str) -> str:
    """A text whose addresses have no user and password, neither in front of their host nor among their parameters.

    Sure for all characters that an address may have; where it is not clear what belongs to it, more is hidden.
    """
    return _WORD.sub(lambda found: _hidden(*found.groups()), text)


def _hidden(quote: str, word: str) -> str:
    """A word less its logins. `quote`: an apostrophe before it, whose partner ends the address, as in YAML."""
    address, end, rest = word.rpartition("'") if quote and "'" in word else (word, "", "")
    address = _LOGIN.sub("", _DATABASE_LOGIN.sub(r"\1", address))
    return quote + _PARAMETER.sub(r"\1…", address) + end + rest
