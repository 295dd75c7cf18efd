"""`python -m buildup` and the `buildup` command."""

import sys

from buildup.cli import main


def run() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
