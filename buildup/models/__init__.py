"""Read timm models as networks, and build networks as timm models; importing it registers our models with timm."""

from buildup.models import zoo as zoo
