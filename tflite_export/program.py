"""What the command-line programs have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags


def run_program(
    main: Callable[[Sequence[str]], int], define_flags: Callable[[], None], usage: str
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
    before = set(flags.FLAGS)
    define_flags()
    sys.modules["__main__"].__doc__ = usage
    for name in set(flags.FLAGS) - before:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main)


def explained(action: Callable[[], None], argv: Sequence[str]) -> int:
    """Runs what a program does; errors of the user's input become a message and exit code 1.

    Args:
        action: What to do.
        argv: The command line without its flags: the program's name and nothing else.

    Returns:
        The exit code: 0, or 1 after a message about what is wrong.
    """
    try:
        if len(argv) > 1:
            raise ValueError(
                f"Unexpected arguments. Received: {list(argv[1:])}. Write every option as "
                "--name=value; --help lists them."
            )
        action()
    except (OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0
