"""Hooks of mkdocs for links out of docs/: the site has no such pages, so they become code that names the file."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Replace links out of docs/.

    Raises:
        PluginError: a link names a file that does not exist.
    """
    folder = Path(config["docs_dir"])

    def name(link: re.Match[str]) -> str:
        target = (folder / page.file.src_uri).parent / link[2]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: there is no {link[2]}")
        path = target.resolve().relative_to(folder.parent.resolve())
        return link[1] if link[1].strip("`") == str(path) else f"{link[1]} (`{path}`)"

    return LINK.sub(name, markdown)
