"""What the workers should train, most important first."""

from buildup.rules.base import View
from buildup.trials.training import Training


def wanted(view: View) -> tuple[Training, ...]:
    """The trainings to run, most important first.

    Only what the next verdict waits for. Both successors of a verdict are known (`Rule.propose` takes imagined
    decisions as well as real ones), so this is the place where trainings ahead of a verdict are to be added.
    """
    return view.needed
