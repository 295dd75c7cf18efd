"""How training steps are computed, as values without torch: precision, memory layout and the form of the steps.

All trainings of a run share one execution. Precision and memory layout follow from the recipe and the kind of device,
not from a measurement, so that one command computes the same on all machines of a kind. Only on CUDA does a measurement
(`speed.py`) choose the form of the steps, which compute the same but for rounding.
"""

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from buildup.errors import RequestError, unknown

Precision = Literal["float32", "bf16"]
Steps = Literal["eager", "captured", "compiled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Equal for a candidate and its parent, because the last digits of sums depend on it."""

    precision: Precision = "float32"
    """Of the multiplications; weights and their updates are always float32."""
    channels_last: bool = False
    steps: Steps = "eager"
    """`captured` replays a step as one CUDA graph; `compiled` also has torch compile each block first."""
    deterministic: bool = False
    """Repeat the same bits on a device of this type, by kernels that may be slower. On CPU cores no cost was measured:
    steps of resnet18 in bfloat16 took 0.96, 1.04 and 1.03 times as long (torch 2.15)."""

    def __str__(self) -> str:
        """For people and logs.

        >>> print(Execution(precision="bf16", channels_last=True))
        bf16, channels-last, eager steps
        """
        memory = "channels-last" if self.channels_last else "channels-first"
        return f"{self.precision}, {memory}, {self.steps} steps{', deterministic' if self.deterministic else ''}"

    @property
    def words(self) -> str:
        """The value of `--execution` that asks for it.

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
"""The words of `--execution`, with the field that each sets and its value."""


def parse_execution(text: str, device: str) -> dict[str, Any]:
    """The fields of an execution that a user asked for. A measurement chooses the others.

    >>> parse_execution("float32, deterministic", "cpu")
    {'precision': 'float32', 'deterministic': True}
    """
    problems = []
    settled: dict[str, Any] = {}
    word_of: dict[str, str] = {}
    for word in (word.strip() for word in text.split(",")):
        if word not in WORDS:
            problems.append(unknown("word of --execution", word, WORDS))
            continue
        field, value = WORDS[word]
        if field in word_of:
            problems.append(f"--execution: {word_of[field]} and {word} exclude each other. Leave one of them out.")
        settled[field], word_of[field] = value, word
    if settled.get("steps", "eager") != "eager" and not device.startswith("cuda"):
        problems.append(f"--execution: {settled['steps']} steps need a CUDA device, and the device is {device}.")
    if settled.get("channels_last") and device == "mps":  # PyTorch issue 175189
        problems.append("--execution: torch computes channels-last norms wrong on an Apple GPU. Use channels-first.")
    if problems:
        raise RequestError(*problems)
    return settled


def execution_from_words(words: str) -> Execution:
    """The inverse of `Execution.words`."""
    return Execution(**dict(WORDS[word] for word in words.split(",")))


def processor_name() -> str:
    name = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return name
