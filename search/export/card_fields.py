"""What the user states for the head of a model card with `--card KEY=VALUE`, by the Hugging Face Hub's keys."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medcore.errors import ConfigError

Fields = dict[str, str | list[str]]

#: Names as the Hub takes them: of a licence, and of a model or a data set.
_LICENCE, _REPOSITORY = re.compile(r"[a-z0-9][a-z0-9.+-]*"), re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
#: Form of each value, and an example.
_FORMS = {
    "license": (_LICENCE, "apache-2.0"),
    "license_name": (_LICENCE, "my-licence"),
    "license_link": (re.compile(r"LICENSE(\.[a-z]+)?|https?://[^\s<>\"']+"), "https://example.org/licence"),
    "base_model": (_REPOSITORY, "owner/name"),
    "datasets": (_REPOSITORY, "owner/name,owner/other"),
}


def card_fields(texts: Iterable[str]) -> Fields:
    """Return what the texts state; each is `KEY=VALUE`, and `datasets` takes several names.

    Raises:
        ConfigError: A key is unknown or given twice, a value has another form, or a licence of one's own has no name.
    """
    fields: Fields = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in _FORMS:
            raise ConfigError(f"--card {text}: give KEY=VALUE; the keys are {', '.join(_FORMS)}")
        if key in fields:
            raise ConfigError(f"--card {text}: {key} is given twice; give it once")
        form, example = _FORMS[key]
        values = value.split(",") if key == "datasets" else [value]
        if not all(form.fullmatch(each) for each in values):
            raise ConfigError(f"--card {text}: {key} has another form, such as {key}={example}")
        fields[key] = values if key == "datasets" else value
    if ("license_name" in fields) != (fields.get("license") == "other"):
        raise ConfigError("--card license=other needs license_name=NAME too, and no other licence takes a name")
    return fields
