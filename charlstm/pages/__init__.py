"""The files that pages are made of: HTML with places to fill, styles, scripts.

`page.css` is what all pages share; each has its own `.html` and what else it
needs by the same name. A page is one file in the end, so they are put into it.
"""

from __future__ import annotations

import importlib.resources
import string


def read_page_file(name: str) -> str:
    """Read one of the files.

    Args:
        name: Such as "page.css".

    Returns:
        Its text.
    """
    return (importlib.resources.files(__name__) / name).read_text("utf-8")


def fill_page(name: str, /, **values: object) -> str:
    """Fill the places of an HTML file.

    Args:
        name: Such as "report.html".
        **values: For each `$place`, HTML that is put there as it is.

    Returns:
        The page.

    Raises:
        KeyError: If a place has no value.
    """
    return string.Template(read_page_file(name)).substitute(values)
