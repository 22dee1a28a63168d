"""Work-arounds for packages that do not fit each other."""

from __future__ import annotations

from torch.library import Library

#: Declarations of operators, which vanish if nothing refers to them.
_declared: list[Library] = []


def import_torchvision() -> None:
    """Import torchvision even if its compiled operators do not fit the torch in use.

    In that case torchvision stops at registering shapes for `nms` and `qnms`, which do not exist. Prompted prediction
    needs neither, so both are declared without an implementation.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    else:
        return
    library = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
    import torchvision  # noqa: F401
