"""One HTML document: its frame, and its file. Knows nothing of what is in it."""

import os
import tempfile
from html import escape
from pathlib import Path

from tracestore.pages.style import STYLE_SHEET

__all__ = ["render_document", "write_page"]


def render_document(title: str, lead: str, body: str, footer: str) -> str:
    """Put the parts of a page into one document without scripts, fonts or pictures from elsewhere.

    Parameters
    ----------
    title
        Heading, as text.
    lead
        What stands below the heading, as HTML.
    body
        Sections, as HTML.
    footer
        Last line, as text.

    Examples
    --------
    >>> "<h1>Size &lt; 3</h1>" in render_document("Size < 3", "", "<p>None.</p>", "")
    True
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE_SHEET}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{escape(title)}</h1>\n{lead}\n</header>\n"
        f"<main>\n{body}\n<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def write_page(path: str | Path, text: str) -> Path:
    """Replace a file in one step, so that nobody ever sees half a page.

    Parameters
    ----------
    path
        The file; its folder is made.
    text
        The document.

    Examples
    --------
    >>> write_page("made/page.html", "<p>Hello.</p>").read_text()
    '<p>Hello.</p>'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target
