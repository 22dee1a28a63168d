"""MLflow's settings within a block, and one error type for all that it raises."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from medcore.errors import MedcoreError, TrackingError, brief
from search.base.logins import hide_login

#: What MLflow reads from the environment. A variable that the user has set wins.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # a server that is away must not hold a search up
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or a model gets the project files of the current folder
}
_NOISY = ("mlflow", "alembic", "alembic.runtime.migration", "urllib3.connectionpool", "sqlalchemy")
#: What MLflow says of a database that another version wrote or that is read-only -> what to do about it.
_REMEDIES = {
    "out-of-date database schema": "another version of MLflow made this database; copy it, then run `mlflow db "
    "upgrade` with its address, or install the version that made it",
    "Can't locate revision": "a newer MLflow made this database; install that version, or give another --tracking-uri",
    "attempt to write a readonly database": "attempt to write a readonly database; make it and its folder writable, or "
    "give another --tracking-uri",
    "file is not a database": "this file is not a database; delete it, or give another --tracking-uri",
}
_settings_lock = threading.RLock()


@contextmanager
def mlflow_settings(**variables: str) -> Iterator[None]:
    """Set MLflow up for the block.

    Environment variables and log levels are restored afterwards. MLflow takes these settings from nowhere else. They
    belong to the whole process, so one thread at a time may have them.

    Args:
        **variables: Further environment variables, which win over the user's.
    """
    with _settings_lock:
        wanted = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ} | variables
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        loggers = [logging.getLogger(name) for name in _NOISY]
        levels = [logger.level for logger in loggers]
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)  # MLflow raises its errors too
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@contextmanager
def mlflow_errors() -> Iterator[None]:
    """Turn errors of MLflow into `TrackingError`.

    These are all that MLflow, its transports and its artifact stores raise.
    """
    try:
        yield
    except MedcoreError:
        raise
    except Exception as error:
        raise TrackingError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """First line of an error without logins, with a remedy where the line has none.

    Only the cause of a failed request, because the address is known.
    """
    line = hide_login(brief(error, first=2000))
    for sign, reason in _REMEDIES.items():
        if sign in str(error):
            return reason
    return re.sub(r"^.*\(Caused by (.*)\)$", r"\1", line)[:200]
