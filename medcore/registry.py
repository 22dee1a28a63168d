"""Registries of the things that a setting chooses by name. Users can add their own entries."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Generic, TypeVar

from medcore.errors import ConfigError, brief

T = TypeVar("T")

#: Environment variable with the modules to import before the first look-up, separated by commas.
PLUGINS = "MEDCORE_PLUGINS"


class Registry(Generic[T]):
    """Entries by name, in the order of their registration.

    Modules named in `MEDCORE_PLUGINS` are imported before the first look-up, so that a user's entries exist in every
    process that inherits the environment, worker processes included.
    """

    def __init__(self, what: str) -> None:
        """Create an empty registry; `what` names an entry in messages."""
        self._what = what
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds an object as `name`.

        Args:
            name: name of the entry.

        Raises:
            ValueError: another object has this name.
        """

        def add(entry: T) -> T:
            if self._entries.setdefault(name, entry) is not entry:
                raise ValueError(f"{self._what} '{name}' is registered twice")
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """Return the entry of this name.

        Raises:
            MedcoreError: there is none; the message lists the known names.
        """
        if name not in self:
            raise ConfigError(f"unknown {self._what} '{name}'; known are {', '.join(self.names())}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> tuple[str, ...]:
        """Return the known names in the order of their registration."""
        load_plugins()
        return tuple(self._entries)


def plugin_variables() -> dict[str, str]:
    """Return the environment variables that make another process load the same plug-ins."""
    return {PLUGINS: os.environ[PLUGINS]} if PLUGINS in os.environ else {}


def plugin_names() -> list[str]:
    """Return the modules that `MEDCORE_PLUGINS` names."""
    return list(filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))))


@lru_cache(maxsize=1)
def load_plugins() -> None:
    """Import the modules named in `MEDCORE_PLUGINS`, once per process.

    Raises:
        MedcoreError: a module cannot be imported.
    """
    for module in plugin_names():
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001  a user's module may raise anything
            reason = f"{type(error).__name__}: {brief(error)}"
            raise ConfigError(f"{PLUGINS}: cannot import {module} ({reason})") from None
