"""Text of options: what is read, and one line for what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medcore.data.formats.windows import ReadingRules
from medcore.errors import ConfigError, MedcoreError
from search.cli.options import Batches, Box, Fractions, reading_rules


def test_texts_are_read() -> None:
    assert Batches.parse("8,1,8").sizes == (1, 8) and str(Batches((1, 8))) == "1,8"
    assert Batches.parse(Batches((2,))).sizes == (2,)
    assert Fractions.parse("0.3,0.15").shares == (0.3, 0.15) and Fractions.parse("").shares == ()
    assert Box.parse("1,2,3.5,4").corners == (1.0, 2.0, 3.5, 4.0)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (Batches.parse, "1,two"),
        (Batches.parse, "0,1"),
        (Batches.parse, ""),
        (Fractions.parse, "half"),
        (Box.parse, "1,2,3"),
        (Box.parse, "1,2,3,x"),
    ],
)
def test_a_mistake_repeats_the_text(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(MedcoreError, match=f"'{text}': give "):
        parse(text)


def test_rules_for_masks() -> None:
    assert reading_rules(None, None, "whole", 1) == ReadingRules()
    assert reading_rules("any", "255", "components", 9) == ReadingRules("any", (255,), "components", 9)
    assert reading_rules("1,0xff0000", "-1,255", "labels", 1) == ReadingRules((1, 0xFF0000), (-1, 255), "labels", 1)
    for wrong in (("all", None, "whole"), ("1;2", None, "whole"), (None, "any", "whole"), (None, None, "parts")):
        with pytest.raises(MedcoreError, match=r"^--(labels|ignore|objects) "):
            reading_rules(*wrong, 1)


def test_a_window_is_a_preset_or_level_and_width() -> None:
    def window(text: str) -> object:
        return reading_rules(None, None, "whole", 1, text).window("any")

    assert window("40,400") == (40.0, 400.0) and window("-600,1500") == (-600.0, 1500.0) and window("lung") == "lung"
    for text in ("40", "40,0", "40,nan", "skull", "1,2,3", ","):
        with pytest.raises(ConfigError, match=r"LEVEL,WIDTH.*lung"):
            window(text)
