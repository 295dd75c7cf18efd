"""How the steps of a run are computed: chosen once, by a measurement, for all of its trainings (`speed.py`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from buildup.errors import RequestError, unknown

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
    deterministic: bool = False
    """The same bits again on a device of this type, by kernels that may be slower. On CPU cores it costs nothing that
    could be measured: steps of resnet18 in bfloat16 took 0.96, 1.04 and 1.03 times as long (torch 2.15)."""

    def __str__(self) -> str:
        """For people and logs.

        >>> print(Execution(precision="bf16", channels_last=True))
        bf16, channels-last, eager steps
        """
        memory = "channels-last" if self.channels_last else "channels-first"
        return f"{self.precision}, {memory}, {self.steps} steps{', deterministic' if self.deterministic else ''}"

    @property
    def words(self) -> str:
        """What `--execution` would have to say for it.

        >>> Execution(precision="bf16", channels_last=True).words
        'bf16,channels-last,eager'
        """
        return str(self).replace(" steps", "").replace(", ", ",")


WORDS: Mapping[str, tuple[str, Any]] = {
    "float32": ("precision", "float32"),
    "bf16": ("precision", "bf16"),
    "channels-first": ("channels_last", False),
    "channels-last": ("channels_last", True),
    "eager": ("steps", "eager"),
    "captured": ("steps", "captured"),
    "compiled": ("steps", "compiled"),
    "deterministic": ("deterministic", True),
}
"""What a person may ask for, and what that settles."""


def parse_execution(text: str, device: str) -> dict[str, Any]:
    """What of an execution was asked for; the rest is left to a measurement.

    >>> parse_execution("float32, deterministic", "cpu")
    {'precision': 'float32', 'deterministic': True}
    """
    words = [word.strip() for word in text.split(",")]
    problems = [unknown("word of --execution", word, WORDS) for word in words if word not in WORDS]
    settled: dict[str, Any] = {}
    said: dict[str, str] = {}
    for word in words:
        if word not in WORDS:
            continue
        field, value = WORDS[word]
        if field in said:
            problems.append(f"--execution: {said[field]} and {word} exclude each other. Leave one of them out.")
        settled[field], said[field] = value, word
    if settled.get("steps", "eager") != "eager" and not device.startswith("cuda"):
        problems.append(f"--execution: {settled['steps']} steps need a CUDA device, and the device is {device}.")
    if problems:
        raise RequestError(*problems)
    return settled


def execution_from_words(words: str) -> Execution:
    """The execution that `Execution.words` wrote down."""
    return Execution(**dict(WORDS[word] for word in words.split(",")))
