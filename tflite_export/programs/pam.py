r"""tfmot-pam: one multitask model out of trained Keras models, from the shell.

tfmot-pam merge     one model in which every combination of tasks runs only what it needs
tfmot-pam compress  the least computation that keeps the accuracy; resumes when called again
tfmot-pam report    what every combination costs, and how accurate it is
tfmot-pam export    TFLite files of the combinations

tfmot-pam COMMAND --help lists a command's flags, with examples. A first call:

tfmot-pam compress --model=digit=digit.keras --model=speaker=speaker.keras --data=train.npz \
    --output_dir=out
"""

from __future__ import annotations

import difflib
import importlib
import sys

from tflite_export.programs.running import run_program, tell

COMMANDS = ("merge", "compress", "report", "export")
_HELP = ("help", "-h", "-help", "--help", "--helpfull", "--helpshort")


def run() -> None:
    """Runs the command that the process's command line names; the console script's entry."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in _HELP:
        sys.stdout.write(__doc__)
        sys.exit(0 if arguments else tell("no command is given"))
    command = arguments[0]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"Did you mean {close[0]!r}?" if close else "tfmot-pam help lists them."
        sys.exit(tell(f"there is no command {command!r}; expected one of {list(COMMANDS)}. {hint}"))
    sys.argv = [f"tfmot-pam {command}", *arguments[1:]]
    program = importlib.import_module(f"tflite_export.programs.{command}")
    run_program(program.main, program.define_flags, program.__doc__)


if __name__ == "__main__":
    run()
