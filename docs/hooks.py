"""Parts of the site that are made when it is built: reference pages, and links to files outside of docs/."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.structure.files import File, Files

from search.cli.reference import command_page, configuration_page

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the reference pages."""
    for name, page in (("configuration.md", configuration_page), ("commands.md", command_page)):
        files.append(File.generated(config, name, content=page()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to files of the repository, which the site does not have, into their paths."""
    return _OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2].removeprefix('../')}`)", markdown)
