"""How the steps of a run are computed: chosen once, by a measurement, for all of its trainings (`speed.py`)."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bf16"]
Steps = Literal["eager", "captured", "compiled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Equal for a candidate and its parent, because sums depend on it in their last digits."""

    precision: Precision = "float32"
    """Of the multiplications; weights and their changes are always float32."""
    channels_last: bool = False
    """How images lie in memory."""
    steps: Steps = "eager"
    """`captured` replays a step as one CUDA graph; `compiled` also has torch compile each block first."""

    def __str__(self) -> str:
        """For people and logs.

        >>> print(Execution(precision="bf16", channels_last=True))
        bf16, channels-last, eager steps
        """
        return f"{self.precision}, channels-{'last' if self.channels_last else 'first'}, {self.steps} steps"
