"""Logins are removed from addresses before these are shown."""

from __future__ import annotations

import json
import random
import string
from urllib.parse import urlsplit

import pytest
import yaml

from search.base.logins import hide_login


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("http://user:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql://h/db?user=a&password=s3&ssl=1", "postgresql://h/db?user=…&password=…&ssl=1"),
        ('["http://host","x@y"]', '["http://host","x@y"]'),
    ],
)
def test_logins_are_hidden_wherever_an_address_holds_them(text: str, public: str) -> None:
    assert hide_login(text) == public


def test_a_password_of_any_legal_characters_is_hidden() -> None:
    """RFC 3986: unreserved characters, delimiters of parts and escapes; in an address, a configuration, a message."""
    rng = random.Random(0)
    legal = string.ascii_letters + string.digits + "-._~" + "!$&'()*+,;=" + ":" + "%"
    for _ in range(100):
        first, second = ("".join(rng.choices(legal, k=rng.randint(1, 12))) for _ in range(2))
        inner = second.replace("&", "'") + rng.choice(["", "/", "?", "@", "'", ":"])
        for address, public in (
            (f"https://me:{first}@host:5000/mlflow", "https://host:5000/mlflow"),
            (f"https://{first}@host", "https://host"),
            (f"http://h/x@y?a=1&password={inner}", "http://h/x@y?a=1&password=…"),
            (f"http://h/?token={inner}&b=it's", "http://h/?token=…&b=it's"),
            (f"postgresql+psycopg2://me:{first}/{second}@host/db", "postgresql+psycopg2://host/db"),
        ):
            assert hide_login(address) == public
            assert urlsplit(public).username is None
            for values, hidden in ((address, public), ([address, "x@y"], [public, "x@y"])):
                shown = yaml.safe_load(hide_login(yaml.safe_dump({"tracking": {"uri": values}, "mail": "x@y"})))
                assert shown == {"tracking": {"uri": hidden}, "mail": "x@y"}
                assert json.loads(hide_login(json.dumps([values, "x@y"]))) == [hidden, "x@y"]
            assert hide_login(f"MLflow at {address} is away") == f"MLflow at {public} is away"
