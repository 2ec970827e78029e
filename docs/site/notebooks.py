"""Notebooks of docs/tutorials as pages of the site, with the outputs that are kept in them; a link to NAME.ipynb leads
to the page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = Path(__file__).parent.parent / "tutorials"
LINK = re.compile(r"(?<=\]\()([^)\s]+)\.ipynb(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    for path in sorted(FOLDER.glob("*.ipynb")):
        text, pictures = page_of(path)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return LINK.sub(r"\1.md", markdown)


def page_of(path: Path) -> tuple[str, dict[str, bytes]]:
    """The notebook in Markdown, and its pictures by the names that the page calls them."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![figure {len(pictures)}]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ()))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    first, *rest = parts
    where = f"[This page as a notebook](https://github.com/fairlead/fairlead/blob/main/docs/tutorials/{path.name})"
    return "\n\n".join([first, where, *rest]) + "\n", pictures
