"""Counts what happens in a run by Ray's metrics, which Prometheus reads.

The counters are the driver's. Ray's agent on its machine serves them, at the port of `ray start --metrics-export-port`,
if `ray[default]` is installed there. Without it they go nowhere.
"""

from collections.abc import Callable, Mapping

from ray.util.metrics import Counter

from buildup.trials.decision import Decision
from buildup.trials.event import Event

COUNTED: Mapping[str, tuple[str, str]] = {
    "trainings_started": ("", "Attempts at trainings that a worker began."),
    "trainings_finished": ("", "Trainings that ended with a score."),
    "trainings_failed": ("reason", "Trainings that ended without a score; unneeded: a verdict fell without it."),
    "epochs": ("", "Epochs of trainings."),
    "retries": ("", "Attempts that ended by a fault or an exception and are followed by another."),
    "stalls": ("", "Workers that were ended, because they had reported nothing for too long."),
    "verdicts": ("verdict", "Candidates that were kept or dropped."),
}
"""By name: the label beside `run`, and what is counted. Ray serves `epochs` as `ray_buildup_epochs_total`."""

Count = Callable[[str, str], None]
"""Adds one to a counter, with the value of its label, if it has one."""


def counting(run: str) -> Count:
    run = run.encode("ascii", "backslashreplace").decode()  # Ray takes no other letters
    counters = {
        name: (label, Counter(f"buildup_{name}", description=what, tag_keys=("run", *([label] if label else []))))
        for name, (label, what) in COUNTED.items()
    }

    def count(name: str, value: str = "") -> None:
        label, counter = counters[name]
        counter.inc(tags={"run": run} | ({label: value} if label else {}))

    return count


def verdict_counter(run: str) -> Callable[[Event | Decision], None]:
    count = counting(run)

    def see(news: Event | Decision) -> None:
        if isinstance(news, Decision):
            count("verdicts", news.verdict)

    return see
