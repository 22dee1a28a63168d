"""The reference pages of the documentation, made from the configuration's models and from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import getdoc
from typing import Any

import typer
import yaml
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

from search.base.config import Config, validate
from search.base.sections.dimensions import Choices, Range
from search.base.sections.families import FamilySection
from search.base.sections.fields import Section
from search.cli.main import app

_REQUIRED: dict[str, Any] = {
    "study": "NAME",
    "model": {"base": "FILE", "adapted": "FILE"},
    "data": {"folders": ["FOLDER"]},
}


def configuration_page() -> str:
    """Return a Markdown page with every key of a configuration, its default and its meaning."""
    lines = [
        "# Configuration",
        "A configuration is one YAML file. Only `study`, `model.base`, `model.adapted` and `data.folders` are required."
        " A key that is not on this page is an error.",
    ]
    return "\n\n".join([*lines, *_section(Config, validate(_REQUIRED, "reference"), "")]) + "\n"


def command_page() -> str:
    """Return a Markdown page with every command, its arguments and its options."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return "\n\n".join(["# Commands", *_group(root, "medcore")]) + "\n"


def _section(kind: type[Section], values: Section, path: str) -> Iterator[str]:
    """Yield the parts of one section's text; sections within it follow its own keys."""
    if path:
        yield f"## `{path}`" if "." not in path else f"### `{path}`"
        yield _paragraphs(kind)
    flat = values.model_dump(mode="json")
    rows = ["| key | default | meaning |", "|---|---|---|"]
    inner = {name: value for name in kind.model_fields if _is_section(value := getattr(values, name))}
    for key, default in flat.items():
        if key not in inner:
            field = kind.model_fields[_field_name(kind, key)]
            rows.append(f"| `{key}` | {_default(path, key, default)} | {_cell(_meaning(field))} |")
    yield "\n".join(rows)
    for name, value in inner.items():
        yield from _section(type(value), value, f"{path}.{name}" if path else name)


def _is_section(value: Any) -> bool:
    """Tell whether a value has keys of its own on the page; a dimension's are explained with all dimensions."""
    return isinstance(value, Section) and not isinstance(value, (Range, Choices))


def _field_name(kind: type[Section], key: str) -> str:
    """Return the field of a key of the file; settings by family have one key for each family."""
    if key in kind.model_fields or not issubclass(kind, FamilySection):
        return key
    return next(prefix for prefix in kind.by_family if key.startswith(f"{prefix}_"))


def _default(path: str, key: str, value: Any) -> str:
    where: Any = _REQUIRED
    for part in filter(None, [*path.split("."), key]):
        where = where.get(part) if isinstance(where, Mapping) else None
    if where is not None:
        return "required"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return f"`{_cell(text.removesuffix(chr(10)).removesuffix('...').strip())}`"


def _meaning(field: FieldInfo) -> str:
    limits = [
        f"{sign} {limit:g}"
        for part in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if isinstance(limit := getattr(part, name, None), (int, float))
    ]
    return "; ".join(filter(None, [field.description or "", ", ".join(limits)]))


def _group(group: TyperGroup, name: str) -> Iterator[str]:
    """Yield the text of each command of a group, in its order."""
    for word, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _group(command, f"{name} {word}")
        else:
            yield from _command(command, f"{name} {word}")


def _command(command: Any, name: str) -> Iterator[str]:
    yield f"## `{name}`"
    yield (command.help or "").strip()
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option" and part.name != "help"]
    words = [name, *(_metavar(part) for part in arguments), *(["[OPTIONS]"] if options else [])]
    yield f"```text\n{' '.join(words)}\n```"
    rows = [f"| `{_metavar(part)}` | {_help(part)} |" for part in arguments]
    rows += [f"| `{' / '.join([*part.opts, *part.secondary_opts])}` | {_help(part)} |" for part in options]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows])


def _metavar(part: Any) -> str:
    name = part.metavar or (part.name or "").upper()
    return name if part.required else f"[{name}]"


def _help(part: Any) -> str:
    text = str(getattr(part, "help", None) or "")
    default = part.default
    if isinstance(default, (bool, type(None))) or callable(default) or default in ((), []):
        return _cell(text)
    return _cell(f"{text} Default: `{default}`.".strip())


def _paragraphs(kind: type[Section]) -> str:
    return (getdoc(kind) or "").partition("\n\nAttributes:")[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
