"""Shows the examples of docstrings as code in the site of documents.

They stand as doctests under "Example:", which the site's generator would set as running text.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example:\n(?P<lines>(?:[ ]{0,2}\S.*\n?)+)", re.MULTILINE)


def with_examples_as_code(text: str) -> str:
    """A docstring with its doctests in a fenced block."""
    return _EXAMPLE.sub(
        lambda found: f"Example:\n\n```pycon\n{found['lines'].rstrip()}\n```\n", text
    )


class Examples(griffe.Extension):
    """Changes every docstring that the site shows."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe for every function, class and module."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples_as_code(obj.docstring.value)
