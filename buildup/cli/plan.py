"""`buildup plan`."""

from typing import Annotated

from cyclopts import Parameter

from buildup.cli.output import AsJson, Details, Flags, From, answer, reading, table_width, using_ray
from buildup.settings import SearchSettings

Anew = Annotated[bool, Parameter(help="Measure the speed of the base even if it is known from an earlier plan.")]


def plan(
    settings: Annotated[SearchSettings, Flags] = SearchSettings(),
    *,
    from_: From = None,
    anew: Anew = False,
    verbose: Details = False,
    as_json: AsJson = False,
) -> int:
    """Say what a search would train and cost. Nothing is trained but a few timing steps.

    Example: buildup plan --base resnet50 --dataset cifar100 --data-dir data
    """
    reading(settings.base)
    from buildup.engine.plan import make_plan, plan_to_values
    from buildup.engine.summaries import plan_text

    with using_ray():
        made = make_plan(settings, anew=anew)
    return answer(plan_text(made, width=table_width(verbose=verbose)), plan_to_values(made), as_json=as_json)
