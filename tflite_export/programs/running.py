"""What the command-line programs have in common: one start, one way to say what is wrong."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags

WRONG = 2  # exit code of everything that the user can mend


def run_program(
    main: Callable[[Sequence[str]], int], define_flags: Callable[[], None], usage: str | None
) -> None:
    """Runs an absl program on the process's command line and exits with its code.

    absl takes the text and the flags of `--help` from the module that Python started, which for
    an installed console script is a stub that knows neither; so they are put there.

    Args:
        main: Takes the arguments that are no flags and returns the exit code.
        define_flags: Defines the program's flags.
        usage: The text above the flags.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # It tells of every second tracing.
    before = set(flags.FLAGS)
    define_flags()
    sys.modules["__main__"].__doc__ = usage
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main, flags_parser=_parsed)


def explained(action: Callable[[], None], argv: Sequence[str]) -> int:
    """Runs what a program does; errors of the user's input become a message and exit code 2.

    Args:
        action: What to do.
        argv: The command line without its flags: the program's name and nothing else.

    Returns:
        The exit code: 0, or 2 after a line about what is wrong.
    """
    try:
        if len(argv) > 1:
            raise ValueError(
                f"Unexpected arguments. Received: {list(argv[1:])}. Write every option as "
                "--name=value; --help lists them."
            )
        action()
    except (ImportError, OSError, TypeError, ValueError) as error:
        return tell(error)
    except KeyboardInterrupt:
        return tell("interrupted")
    return 0


def main_of(action: Callable[[flags.FlagValues], None]) -> Callable[..., int]:
    """The main function of a program that does something with its parsed flags."""

    def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> int:
        return explained(lambda: action(values), argv)

    return main


def tell(error: object) -> int:
    """Writes what is wrong in one line and returns the exit code."""
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return WRONG


def _parsed(argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags; a bad flag ends the program as any other error does."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(tell(f"{error}. --help lists the flags."))
