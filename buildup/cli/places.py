"""`places`: where new blocks of a pretrained network come nearest to those that they replace."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, answer, interruptible, reading
from buildup.settings import PlacesSettings


def places(
    name: str, /, settings: Annotated[PlacesSettings, Flags] = PlacesSettings(), *, as_json: AsJson = False
) -> int:
    """Where attention comes nearest to what a trained network has there, and the order of stages that follows.

    Example: buildup places resnet18 --dataset folder:leaves

    Args:
        name: A timm model that `buildup models` lists.
    """
    reading(name)
    from buildup.engine.places import measure_places, places_values, table_of_places

    with interruptible():
        found = measure_places(name, settings)
    return answer(table_of_places(found), places_values(found), as_json=as_json)
