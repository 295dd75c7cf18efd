"""`buildup plan`."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, answer
from buildup.settings import SearchSettings


def plan(settings: Annotated[SearchSettings, Flags] = SearchSettings(), *, as_json: AsJson = False) -> int:
    """Say what a search would train and cost. Nothing is trained but a few timing steps.

    Example: buildup plan --base resnet50 --dataset cifar100 --data-dir data
    """
    from buildup.engine.plan import make_plan, plan_to_values
    from buildup.engine.summaries import plan_text

    made = make_plan(settings)
    return answer(plan_text(made), plan_to_values(made), as_json=as_json)
