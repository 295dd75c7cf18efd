"""Graph to timm module and back; importing it registers our models with timm."""

from buildup.models import baselines as baselines
from buildup.models import zoo as zoo
