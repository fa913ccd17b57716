"""How work that takes long is shown: live on terminals, in lines elsewhere, or not at all."""

from __future__ import annotations

import re

import pytest

import tfmot_pam
from tests.quick_compress import QUICK, both, samples
from tfmot_pam.display import Display, Lines, Live, find_display


@pytest.fixture(scope="module")
def models():
    return both()


@pytest.fixture
def terminal(monkeypatch):
    """Rich then takes any stream for a terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize(
    ("verbose", "elsewhere", "on_terminal"),
    [(0, Display, Display), (1, Lines, Live), ("auto", Lines, Live), (2, Lines, Lines)],
)
def test_where_what_is_shown(verbose, elsewhere, on_terminal, request):
    assert type(find_display(verbose, "merge")) is elsewhere
    request.getfixturevalue("terminal")
    assert type(find_display(verbose, "merge")) is on_terminal


def test_a_terminal_that_cannot_move_gets_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert type(find_display(1, "merge")) is Lines


@pytest.mark.parametrize("verbose", [3, -1, "loud", None])
def test_unknown_words_are_named(verbose):
    with pytest.raises(ValueError, match=r"`verbose` must be 0, 1, 2 or \"auto\". Received: "):
        find_display(verbose, "merge")


def test_lines_have_what_has_ended(capsys):
    with Lines("compress") as display:
        display.show("late", 0.1, "cut 1")
        display.show("late", 0.2, line="cut 1: kept")
        display.say("Merging pays.")
    assert capsys.readouterr().out == "compress: late: cut 1: kept\ncompress: Merging pays.\n"


def test_live_lines_have_every_part_and_what_it_is_at(terminal, capsys):
    with find_display(1, "compress") as display:
        display.show("late-[trunk]", 0.25, "cut 1 | 2.0 M MACs expected")
        display.show("late-[trunk]", 0.5, line="cut 1: kept")
        display.show("separate", 1.0)
        display.say("Merging [pays].")
    shown = plain(capsys.readouterr().out)
    assert "compress: Merging [pays]." in shown
    first, second = shown.splitlines()[-2:]  # as they are in the end
    assert re.match(r"late-\[trunk\] .* 50% .*cut 1 \| 2\.0 M MACs expected", first)
    assert re.match(r"separate .* 100%", second)
    assert "kept" not in shown


def test_live_lines_end_with_an_error(terminal, capsys):
    def fail(display):
        with display:
            display.show("late", 0.25)
            raise KeyError

    with pytest.raises(KeyError):
        fail(find_display(1, "compress"))
    assert capsys.readouterr().out.endswith("\x1b[?25h")  # the cursor is there again


@pytest.mark.slow
def test_searches_of_workers_are_shown_live(models, terminal, capsys):
    options = {**QUICK, "effort": 1, "target": 0.8, "arms": ["separate"], "verbose": 1}
    tfmot_pam.compress(models, samples(), 0.1, workers=2, **options)
    shown = plain(capsys.readouterr().out)
    for task in models:
        state = rf"separate-separate-{task} .*\| of the tolerance: {task} -?\d+ %"
        assert re.search(state, shown)
        assert re.search(rf"separate-separate-{task} [^\n]* 100%", shown)
    assert "not within tolerance" not in shown
