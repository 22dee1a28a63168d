"""Work-arounds for packages that do not fit each other, or that import more than is needed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from typing import Any

import torch
from torch import nn
from torch.library import Library
from torch.overrides import TorchFunctionMode

#: Declarations of operators, which vanish if nothing refers to them.
_declared: list[Library] = []

#: What modules fill their weights with.
_FILLS = {nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, torch.Tensor.normal_, torch.Tensor.uniform_}


def defer_init(name: str, before: Callable[[], None]) -> None:
    """Make a package's modules importable without running its `__init__`.

    The `__init__` runs as usual when code first reads a name that it defines, as `from package import name` does. A
    package that is imported already stays as it is.

    Args:
        name: The package.
        before: Called before the `__init__` runs.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or (loader := spec.loader) is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package, lock, ran = module_from_spec(spec), threading.RLock(), False

    def read(attribute: str) -> Any:
        nonlocal ran
        # tools look for special names in every module; only `from package import *` needs the package for it
        wanted = attribute == "__all__" or not attribute.startswith("__")
        with lock:
            if wanted and not ran:
                ran = True  # the `__init__` itself may look for a name that does not exist
                try:
                    before()
                    loader.exec_module(package)
                except BaseException:
                    ran = False
                    raise
        try:
            return vars(package)[attribute]
        except KeyError:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}") from None

    vars(package)["__getattr__"] = read
    sys.modules[name] = package


class NoRandomNumbers(TorchFunctionMode):
    """A block in which modules get no random weights, for models whose tensors have no values.

    On device "meta" torch computes random numbers by Python code that imports `torch._dynamo`. That would cost each
    process that loads a model a second and 70 MB.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _FILLS:
            return args[0] if args else kwargs["tensor"]
        if function is torch.randn:  # on the CPU, because arithmetic on "meta" imports the same package
            return torch.empty(*args, **kwargs | {"device": "cpu"})
        return function(*args, **kwargs)


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
