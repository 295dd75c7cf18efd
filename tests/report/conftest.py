"""The published search of the paper, as its report sees it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from buildup.graph.kinds import LocalAttention
from buildup.graph.layout import layout
from buildup.graph.network import Network, apply, replacement, sketch
from buildup.graph.serialize import fingerprint
from buildup.report.findings import Findings
from buildup.trials.decision import Decision
from buildup.trials.history import History
from buildup.trials.outcome import Epoch, Score

TRACE = (
    (("c4.3",), 0.97),
    (("c4.1",), 0.21),
    (("c3.5",), 0.11),
    (("c3.3",), -0.25),
    (("c3.3", "c3.1"), -0.58),
    (("c2.3",), 0.25),
    (("c2.1",), -0.63),
    (("c1.2",), -0.22),
)
"""What was tried on top of what was kept, and the gain in points."""

SeedOffsets = tuple[float, ...]


def search(*, judge: str, offsets: SeedOffsets, epochs: int, hostile: str = "") -> Findings:
    """The whole search with a seed for each offset; `hostile` is put wherever a run may hold foreign text."""
    base = replace(sketch("CCC|CCCC|CCCCCC|CCCC"), base=f"resnetv2_50{hostile}")
    history, best, best_score = _trained(History(), base, 82.48, offsets, epochs), base, 82.48
    for step, (paths, gain) in enumerate(TRACE, start=1):
        network, edits = best, []
        for path in paths:
            stage = int(path[1])
            kind = LocalAttention(heads=3 * 2 ** (stage - 1), window=4)
            edits.append(replacement(network, path, kind))
            network = apply(network, edits[-1])
        history = _trained(history, network, best_score + gain, offsets, epochs)
        level = {"likely": 0.6, "proven": 0.99, "point": 0.0}[judge]
        half = 0.1 if level else 0.0
        decision = Decision(
            step=step,
            candidate=fingerprint(network),
            parent=fingerprint(best),
            edit=", ".join(map(str, edits)) + hostile,
            layout=layout(network) + hostile,
            scores=tuple(best_score + gain + offset for offset in offsets),
            parent_scores=tuple(best_score + offset for offset in offsets),
            gain=gain,
            ci=(gain - half, gain + half),
            verdict="keep" if gain > 0 else "drop",
            reason=f"the reason of step {step}{hostile}",
            judge=judge,
            level=level,
            looks=1,
            seeds=len(offsets),
            params=28_160_036 + 1000 * step,
            macs=1_369_000_000 + 10**7 * step,
        )
        history = history.with_decision(decision)
        if decision.kept:
            best, best_score = network, best_score + gain
    return Findings(
        title=f"resnetv2_50 on cifar100{hostile}",
        run=f"resnetv2_50-cifar100{hostile}",
        settings={"base": "resnetv2_50", f"dataset{hostile}": "cifar100", "versions": {"timm": f"1.0{hostile}"}},
        base=base,
        winner=best,
        history=history,
        costs={fingerprint(base): (28_160_036, 1_369_000_000)},
        warnings=(f"the base is weak{hostile}",) if hostile else (),
        finished="Finished after 21 min.",
    )


def _trained(history: History, network: Network, accuracy: float, offsets: SeedOffsets, epochs: int) -> History:
    for seed, offset in enumerate(offsets):
        training = f"{fingerprint(network)}-s{seed}"
        for number in range(1, epochs + 1):
            value = (accuracy + offset) * number / epochs
            history = history.with_epoch(training, Epoch(number=number, metrics={"accuracy": value}))
        history = history.with_outcome(training, Score(accuracy=accuracy + offset, images=5000, seconds=40.0))
    return history


@pytest.fixture(scope="session")
def published() -> Findings:
    """Judged `likely` over three seeds of nine epochs."""
    return search(judge="likely", offsets=(0.0, 0.2, -0.2), epochs=9)


@pytest.fixture(scope="session")
def one_seed() -> Findings:
    """Judged by the larger mean of one seed, without epochs: what a table of scores gives."""
    return search(judge="point", offsets=(0.0,), epochs=0)


@pytest.fixture(scope="session")
def proven() -> Findings:
    """As if each step had passed a corrected interval."""
    return search(judge="proven", offsets=(0.0,) * 6, epochs=2)


@pytest.fixture(scope="session")
def with_text() -> Callable[[str], Findings]:
    """The search with a text in every place that holds foreign text."""
    return lambda hostile: search(judge="likely", offsets=(0.0, 0.1), epochs=3, hostile=hostile)


@pytest.fixture(scope="session")
def empty() -> Findings:
    """A run in which nothing has ended yet."""
    base = sketch("CC|CC")
    return Findings(
        title="a run", run="a run", settings={}, base=base, winner=base, history=History(), finished="Still running."
    )
