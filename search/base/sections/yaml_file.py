"""YAML files of people: read strictly, and written so that they read back as they were.

Nothing in a file is run. Beyond PyYAML's safe loader

- `1e-4` is a number, as in YAML 1.2. YAML 1.1 wants `1.0e-4` and takes the other for text;
- a date is text, because no setting is one;
- a key that stands twice in a mapping is an error;
- the size of a file, its depth, and what its aliases repeat are bounded, and so are whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medcore.errors import ConfigError, brief

#: Most bytes of a file, levels of nesting, and nodes after each alias is replaced by what it stands for.
_BYTES, _LEVELS, _NODES = 4_000_000, 60, 200_000
#: Whole numbers of settings fit into 64 bits.
_LARGEST = 2**63 - 1
_FLOAT = "tag:yaml.org,2002:float"
_DATE = "tag:yaml.org,2002:timestamp"
#: A number with an exponent but without a point or without the sign of the exponent.
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+\Z")
#: Digits of a whole number that is worth reading.
_DIGITS = 100


def read_yaml(path: Path) -> Any:
    """Read a file as plain values.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigError: The file cannot be read, or is no such YAML; the message names the file and the line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError for a path that holds a null
        raise ConfigError(f"{path}: cannot be read ({brief(error, first=200)})") from None
    if len(content) > _BYTES:
        raise ConfigError(f"{path}: larger than {_BYTES // 1_000_000} MB, so it is no configuration")
    try:
        return yaml.load(content, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({_place(error)})") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({brief(error)[:200]})") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML (nested too deeply)") from None


def write_yaml(values: Any) -> str:
    """Return the text of a file that `read_yaml` reads as these plain values."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the rules of this module."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the root of the only document, after it is checked."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _check(node, {}, 0)
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes the text that `_Loader` would read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out each time."""
        return True


def _check(node: yaml.Node, sizes: dict[int, int], level: int) -> int:
    """Return the number of nodes below a node, each alias replaced by what it stands for.

    Args:
        node: The node.
        sizes: Sizes of the nodes that were counted, by identity; 0 for those that are being counted.
        level: Depth of the node.

    Raises:
        yaml.MarkedYAMLError: The document is too large or too deep, holds itself, or has a key twice.
    """
    known = sizes.get(id(node))
    if known == 0:
        raise _problem("an alias stands for something that holds it", node.start_mark)
    if level > _LEVELS:
        raise _problem(f"nested more than {_LEVELS} levels deep", node.start_mark)
    if known is not None:
        return known
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
    for child in _children(node):
        size += _check(child, sizes, level + 1)
        if size > _NODES:
            raise _problem(f"holds more than {_NODES} values after its aliases are written out", node.start_mark)
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            line = key.start_mark.line + 1
            if (key.tag, key.value) in first:
                before = first[key.tag, key.value]
                raise _problem(f"the key '{key.value}' stands in line {before} too; keep one of them", key.start_mark)
            first[key.tag, key.value] = line


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > _DIGITS:  # Python refuses thousands of digits
        raise _problem(f"a whole number of {len(node.value)} digits is too large", node.start_mark)
    try:
        value = int(loader.construct_yaml_int(node))
    except ValueError:
        raise _problem(f"'{node.value}' is no whole number; quote it if it is text", node.start_mark) from None
    if abs(value) > _LARGEST:
        raise _problem(f"the whole number {value} is too large; give at most {_LARGEST}", node.start_mark)
    return value


def _fraction(loader: _Loader, node: yaml.ScalarNode) -> float:
    try:
        return float(loader.construct_yaml_float(node))
    except (ValueError, OverflowError):
        raise _problem(f"'{node.value[:100]}' is no number; quote it if it is text", node.start_mark) from None


def _truth(loader: _Loader, node: yaml.ScalarNode) -> bool:
    try:
        return bool(loader.construct_yaml_bool(node))
    except KeyError:
        raise _problem(f"'{node.value[:100]}' is neither true nor false", node.start_mark) from None


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Return text, with each pair of surrogates that JSON writes as the one character that it is."""
    text = str(loader.construct_yaml_str(node))
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise _problem("text holds half of a surrogate pair", node.start_mark) from None


def _problem(reason: str, mark: yaml.Mark | None) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=reason, problem_mark=mark)


def _place(error: yaml.MarkedYAMLError) -> str:
    """Return an error's line and reason."""
    mark = error.problem_mark or error.context_mark
    reason = " ".join(filter(None, [error.context, error.problem])) or "unknown reason"
    return f"line {mark.line + 1}: {reason}" if mark is not None else reason


def _resolvers(known: Mapping[str, Sequence[tuple[str, Any]]], without: str = "") -> dict[str, list[tuple[str, Any]]]:
    """Return PyYAML's patterns by first character, with every number in exponent form and without one tag."""
    patterns = {first: [entry for entry in entries if entry[0] != without] for first, entries in known.items()}
    for first in "+-.0123456789":
        patterns.setdefault(first, []).insert(0, (_FLOAT, _EXPONENT))
    return patterns


_Loader.yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers, without=_DATE)
_Dumper.yaml_implicit_resolvers = _resolvers(yaml.SafeDumper.yaml_implicit_resolvers)
_Loader.add_constructor("tag:yaml.org,2002:bool", _truth)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor(_FLOAT, _fraction)
for _tag in ("tag:yaml.org,2002:str", _DATE):
    _Loader.add_constructor(_tag, _text)
