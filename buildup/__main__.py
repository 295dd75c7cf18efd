"""`python -m buildup` and the `buildup` command."""

import io
import os
import sys

from buildup.cli.main import main

LEFT_AT_ONCE = (1, 2, 130)
"""Exit codes of a failure, a refusal and an interrupt, with which the process ends without exit handlers. Those of Ray
would take seconds; and where the same cause has ended processes of Ray, they would wait for these for a minute, and
then end this process with another code."""


def run() -> None:
    if "--verbose" not in sys.argv:
        # Ray prints what its daemons say on our stdout, and reads this when it is imported.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    for stream in (sys.stdout, sys.stderr):
        # A console or pipe of few letters, as on Windows, shows `?` for others.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    code = main(sys.argv[1:])
    if code in LEFT_AT_ONCE:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
