"""Files of statistics: named arrays, and a header whose `format` says how to read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from medcore.errors import CheckpointError


def read_arrays(path: str | Path, format_name: str, what: str) -> tuple[Mapping[str, str], dict[str, np.ndarray]]:
    """Read a safetensors file of statistics.

    Args:
        path: the file.
        format_name: the only format that the caller knows.
        what: name of the contents in messages.

    Returns:
        The header, and the arrays by name.

    Raises:
        CheckpointError: the file is missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such {what}; compute it first") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable {what} ({error}); compute it again") from None
    if metadata.get("format") != format_name:
        raise CheckpointError(f"{path}: not a {what} of format {format_name}; compute it again")
    return metadata, arrays
