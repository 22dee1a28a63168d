"""What the user says about masks. Configurations and options need it before NumPy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What is a sample: all of a mask's object, each of its connected parts, or each of its labels.
Objects = Literal["whole", "components", "labels"]
#: The labels of the object: every value but 0, some values, or what the file says by itself.
Labels = Literal["any"] | tuple[int, ...] | None


@dataclass(frozen=True)
class MaskRules:
    """What the user says about masks.

    Attributes:
        labels: Labels of the object.
        ignore: Labels of pixels that count in no loss, metric or box.
        objects: What is a sample.
        smallest: Objects of fewer pixels are no samples if a mask is more than one. They are background, as the other
            objects of the mask are.
    """

    labels: Labels = None
    ignore: tuple[int, ...] = ()
    objects: Objects = "whole"
    smallest: int = 1


#: No rules.
AS_THE_FILE_SAYS = MaskRules()
