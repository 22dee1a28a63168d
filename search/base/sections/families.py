"""Settings that every family of groups has: written `PREFIX_FAMILY` in files, kept as a mapping by family.

The families are those of all registered architectures, so a new architecture has its settings without a change here.
Words of earlier versions stay valid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from medcore.models.architectures import KINDS, families
from medcore.models.sites import Family
from medcore.models.spec import DEFAULT_KIND
from search.base.sections.fields import Section
from search.base.sections.old_words import VIT_WORDS


class FamilySection(Section):
    """A section with settings by family.

    Attributes:
        by_family: name of such a setting -> its default for a family.
    """

    by_family: ClassVar[Mapping[str, Callable[[Family], Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        """Collect the keys of each setting into one mapping.

        Families without a key get defaults.

        Raises:
            ValueError: A setting is given twice, or for a family that is not known.
        """
        if not isinstance(given, Mapping):
            return given
        if twice := [f"{old} and {new}" for old, new in VIT_WORDS.items() if old in given and new in given]:
            raise ValueError(f"{', '.join(twice)} are the same setting; give one of them")
        values = {VIT_WORDS.get(key, key): value for key, value in given.items()}
        known = families()
        for prefix, default in cls.by_family.items():
            explicit = values.pop(prefix, {})
            if not isinstance(explicit, Mapping) or not explicit.keys() <= known.keys():
                raise ValueError(f"{prefix} takes values by family ({', '.join(known)}), not {explicit!r}")
            written = {name: values.pop(f"{prefix}_{name}") for name in known if f"{prefix}_{name}" in values}
            if both := [f"{prefix}_{name} and {prefix}.{name}" for name in written if name in explicit]:
                raise ValueError(f"{', '.join(both)} are the same setting; give one of them")
            values[prefix] = {name: default(family) for name, family in known.items()} | dict(explicit) | written
        return values

    @model_serializer(mode="wrap")
    def _scatter(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write one key per family, in the place of the mapping.

        Defaults of families that only a plug-in knows are left out, so that the values of a study that does not need
        the plug-in can be read without it.
        """
        flat: dict[str, Any] = {}
        known, own = families(), {family.name for family in KINDS[DEFAULT_KIND].encoder_families}
        for name, value in handler(self).items():
            if name in self.by_family:
                default, given = self.by_family[name], getattr(self, name)
                kept = {family for family in value if family in own or given[family] != default(known[family])}
                flat |= {f"{name}_{family}": each for family, each in value.items() if family in kept}
            else:
                flat[name] = value
        return flat


def file_keys(parts: Sequence[str]) -> list[str]:
    """Return the parts of a key as files have them: a setting and its family are one part."""
    prefixes, known = {prefix for section in FamilySection.__subclasses__() for prefix in section.by_family}, families()
    keys: list[str] = []
    for before, part in zip(["", *parts], parts, strict=False):
        if before in prefixes and part in known:
            keys[-1] = f"{before}_{part}"
        else:
            keys.append(part)
    return keys
