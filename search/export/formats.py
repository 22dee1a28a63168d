"""The formats of `medcore export`, and whether one fits the place that the user names."""

from __future__ import annotations

from pathlib import Path

from medcore.errors import ConfigError
from medcore.registry import Registry
from search.export import pyfunc_export
from search.export.format import ExportFormat
from search.export.kinds import checkpoint, huggingface, onnx, standalone

FORMATS: Registry[ExportFormat] = Registry("export format")
for _format in (checkpoint.FORMAT, standalone.FORMAT, onnx.FORMAT, pyfunc_export.FORMAT, huggingface.FORMAT):
    FORMATS.register(_format.name)(_format)

CARD = "MODEL_CARD.md"
#: Endings by which a user names a single file.
_FILE_ENDINGS = (".safetensors", ".onnx", ".pth")


def check_target(name: str, out: Path) -> ExportFormat:
    """Check that a format can be written to a place.

    Args:
        name: Name of the format.
        out: File or folder to write.

    Returns:
        The format.

    Raises:
        ConfigError: The format is unknown, the place does not fit it or holds files of others, or a package is missing.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format {name}: unknown; known are {', '.join(FORMATS.names())}")
    kind = FORMATS[name]
    if kind.suffix is not None and out.suffix != kind.suffix:
        raise ConfigError(f"--out {out}: the file name must end in {kind.suffix}")
    if kind.is_folder and (out.suffix in _FILE_ENDINGS or out.is_file()):
        raise ConfigError(f"--out {out}: {name} writes several files; give a folder")
    if any(parent.name == "trials" and (parent.parent / "study.json").is_file() for parent in out.resolve().parents):
        raise ConfigError(f"--out {out}: lies among a study's trials, whose files are its own; give another place")
    if kind.is_folder:
        foreign = sorted(name for name in kind.files.keys() - earlier_files(out) if (out / name).exists())
        if foreign:
            raise ConfigError(f"--out {out}: it holds {foreign[0]}, which no export wrote; give another folder")
    kind.requires()
    return kind


def exported(out: Path) -> list[str]:
    """Return the names of the files in a folder that the last export into it wrote."""
    return [name for name in _all_files() if (out / name).is_file()]


def earlier_files(folder: Path) -> set[str]:
    """Return names of files in a folder that belong to an earlier export.

    Args:
        folder: Any folder. Without a card it has none; without its marker, a format has none.
    """
    if not (folder / CARD).is_file():
        return set()
    there = [kind for kind in _folder_formats() if kind.marker is None or (folder / kind.marker).is_file()]
    return {CARD, *(name for kind in there for name in kind.files)}


def _all_files() -> tuple[str, ...]:
    return (*dict.fromkeys(name for kind in _folder_formats() for name in kind.files), CARD)


def _folder_formats() -> list[ExportFormat]:
    return [FORMATS[name] for name in FORMATS.names() if FORMATS[name].is_folder]
