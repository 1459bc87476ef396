"""Show names that somebody else chose (ids, classes, runs) as they are, whatever reads the page they stand on."""

from __future__ import annotations

import html as _html
import re

from videoclip.errors import printable


def html(text: object) -> str:
    """Return text for the body of an HTML page, or for a quoted attribute."""
    return _html.escape(printable(str(text)))


def markdown(text: object) -> str:
    """Return text for a line or a table cell of a Markdown page, where no part of it is markup.

    Underscores inside words are none, so that names of components stay readable.
    """
    escaped = re.sub(r"(?<!\w)_|_(?!\w)|[\\`*\[\]|$~#]", r"\\\g<0>", printable(str(text)))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(text: object) -> str:
    """Return a Markdown code span; backticks, which would end it, become apostrophes."""
    return "`" + printable(str(text)).replace("`", "'").replace("|", "\\|") + "`"


def plotted(text: object) -> str:
    """Return text for a picture by matplotlib, which takes what stands between dollar signs for a formula."""
    return printable(str(text)).replace("$", r"\$")
