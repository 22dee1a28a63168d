"""Compress promptable medical segmentation models; `medcore.api` describes the functions that this package offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medcore.api import allocate, evaluate, export, load, load_images, prune, recover, refit, score

__all__ = ["allocate", "evaluate", "export", "load", "load_images", "prune", "recover", "refit", "score"]


def __getattr__(name: str) -> Any:
    """Return a function of `medcore.api`, which is imported when it is first asked for.

    So `import medcore` does not load torch. Nodes of a cluster import parts of the package before they have torch.
    """
    if name in __all__:
        from medcore import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
