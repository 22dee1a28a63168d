"""Text of options: what is read, and one line for what is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medcore.errors import MedcoreError
from search.cli.options import Batches, Box, Fractions


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
