"""`python -m buildup` and the `buildup` command."""

import os
import sys

from buildup.cli.main import main


def run() -> None:
    """Run the command line and leave with its exit code."""
    if "--verbose" not in sys.argv:
        # Ray prints what its daemons say on our stdout, and reads this when it is imported.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
