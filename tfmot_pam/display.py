"""How work that takes long is shown: a live line for each part on a terminal, else plain lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Display:
    """Takes what is going on, and shows nothing of it.

    Args:
        name: What runs, such as `"compress"`.
    """

    def __init__(self, name: str):
        self.name = name

    def show(self, part: str, done: float, state: str = "", line: str = "") -> None:
        """Takes how far a part of the work is.

        Args:
            part: What the part is called.
            done: The share that is done, 0..1.
            state: What it is at, for a line that changes.
            line: What has just ended, for a line that stays; "" where nothing has.
        """

    def say(self, text: str) -> None:
        """Takes a sentence that stays."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends what is shown."""


class Lines(Display):
    """A line for whatever has ended, at once: for logs and pipes."""

    def show(self, part: str, done: float, state: str = "", line: str = "") -> None:
        if line:
            self.say(f"{part}: {line}")

    def say(self, text: str) -> None:
        sys.stdout.write(f"{self.name}: {text}\n")
        sys.stdout.flush()


class Live(Display):
    """A line for each part, with a bar and the time that is left: for terminals and notebooks."""

    def __enter__(self) -> Live:
        from rich import console, progress

        self._progress = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=16),
            progress.TaskProgressColumn(),
            progress.TimeRemainingColumn(compact=True),
            progress.TextColumn("{task.fields[state]}", markup=False),
            console=console.Console(),  # and not rich's own, of what was the stream before
            refresh_per_second=4,
        )
        self._lines: dict[str, Any] = {}
        self._progress.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._progress.stop()

    def show(self, part: str, done: float, state: str = "", line: str = "") -> None:
        if part not in self._lines:
            self._lines[part] = self._progress.add_task(part, total=1.0, state="")
        # A part that says nothing new keeps what it said.
        told: dict[str, Any] = {"state": state} if state else {}
        self._progress.update(self._lines[part], completed=done, **told)

    def say(self, text: str) -> None:
        self._progress.console.print(f"{self.name}: {text}", markup=False, highlight=False)


def find_display(verbose: int | str, name: str) -> Display:
    """The display of a call.

    Args:
        verbose: 0 for silence; 1 or `"auto"` for live lines, where there is no terminal plain
            ones; 2 for plain lines.
        name: What runs.

    Raises:
        ValueError: `verbose` is none of these.
    """
    if verbose not in (0, 1, 2, "auto"):
        raise ValueError(
            f'`verbose` must be 0, 1, 2 or "auto". Received: {verbose!r}. Pass 0 for silence, 2 '
            "for a line for whatever has ended."
        )
    if verbose == 0:
        return Display(name)
    from rich.console import Console

    console = Console()
    live = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
    return Live(name) if live and verbose != 2 else Lines(name)
