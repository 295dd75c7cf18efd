"""The model card of an exported network: what it is, how it came about, how sure that is, how to load it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from buildup.graph.fingerprint import fingerprint
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.final_table import how, markdown_final
from buildup.report.findings import Findings, cost_text, flat
from buildup.report.text_table import code, graph_text, markdown_table
from buildup.report.words import accuracies, clean
from buildup.trials.final_result import Final
from buildup.trials.objective import ACCURACY, OBJECTIVES, Objective
from buildup.trials.outcome import Score

LOADING = """\
```python
import timm
import buildup.models  # registers the entry point

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True)
```

Without buildup, with torch and timm alone: `alternet.py` in this folder is the same network in one file.

```python
from alternet import load

model = load()
```
"""

HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""What the hub calls them; sets of its own are typed as `hfds/NAME`."""

ONNX = """\
`model.onnx` holds it for onnxruntime. It takes batches of any size, prepared as `config.json` says, and images of other
sizes where its input names height and width.

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {"images": images})  # float32, as a numpy array
```
"""


def model_card(findings: Findings, network: Network, exported: Score, *, onnx: bool = False) -> str:
    """The card of one network of a search, as Markdown; with `onnx`, of a folder that has it in this form, too."""
    base, own, objective = findings.scores(findings.base), findings.scores(network), findings.objective
    reached = (
        "" if objective is ACCURACY else f", at a {objective.title} of {objective.shown(objective.value(exported))}"
    )
    cost = findings.cost(network)
    dataset = str(findings.settings.get("dataset", ""))
    lines = [
        "---",
        _metadata(findings, network, exported),
        "---",
        "",
        f"# {clean(network.base)} as `{clean(layout(network))}`",
        "",
        f"Made by the build-up rule from timm's {code(network.base)} on {code(dataset)}. "
        f"{findings.headline if network is findings.winner else 'It is one candidate of the search, not its winner.'}",
        "",
        "```",
        graph_text(network),
        "```",
        "",
        "## Scores",
        "",
        f"The weights here reached {exported.accuracy:.2f} % of {exported.images:,} validation images{reached}. "
        "They are those of the seed that did best, so this figure flatters them; the means do less.",
        "",
        f"| network | {objective.title}, every seed | mean |",
        "| --- | --- | --- |",
        _row("base", list(base.values()), objective),
        _row("this one", list(own.values()), objective),
        "",
        f"{cost_text(cost)}." if cost else "",
        "",
        *(_final(findings.final) if findings.final else [findings.claim]),
        findings.images,
        *[f"\n> {clean(warning)}" for warning in findings.warnings],
        "",
        "## Load it",
        "",
        LOADING,
        *([ONNX] if onnx else []),
        "## Decisions",
        "",
        markdown_table(findings.decisions),
        "",
        "## Settings",
        "",
        *[f"- {clean(name)}: {code(str(value))}" for name, value in flat(findings.settings)],
        "",
    ]
    return "\n".join(lines)


def _metadata(findings: Findings, network: Network, exported: Score) -> str:
    """What the hub reads of a card, as YAML."""
    start, dataset = findings.settings.get("pretrained"), _hub_dataset(findings)
    source = str(start["source"]) if isinstance(start, Mapping) else ""
    data = ModelCardData(
        # That of timm's code and ours; trained weights that it started from have terms of their own.
        license="unknown" if source else "apache-2.0",
        library_name="timm",
        tags=["image-classification", "timm", "alternet", "buildup"],
        base_model=f"timm/{source}" if source and not Path(source).is_absolute() else None,
        datasets=[dataset] if dataset else None,
        model_name=f"{clean(network.base)} {clean(layout(network))}",
        eval_results=list(_results(findings, network, exported)),
    )
    return data.to_yaml()


def _hub_dataset(findings: Findings) -> str | None:
    name = str(findings.settings.get("dataset", ""))
    return HUB_DATASETS.get(name) or (name.removeprefix("hfds/") if name.startswith("hfds/") else None)


def _results(findings: Findings, network: Network, exported: Score) -> Iterator[EvalResult]:
    """These weights on validation images, and this network trained anew on test images, if that was done."""
    dataset, objective = str(findings.settings.get("dataset", "")), findings.objective

    def result(metric: Objective, value: float, split: str, how: str) -> EvalResult:
        return EvalResult(
            task_type="image-classification",
            dataset_type=_hub_dataset(findings) or clean(dataset),
            dataset_name=clean(dataset),
            dataset_split=split,
            metric_type=metric.name,
            metric_value=round(value, 2),
            metric_name=f"{metric.name} in {metric.scale}, {how}",
        )

    seeds = len(findings.scores(network))
    for metric in (ACCURACY, objective) if objective is not ACCURACY else (ACCURACY,):
        how = f"these weights, the best of {seeds} seeds" if seeds > 1 else "these weights, one seed"
        yield result(metric, metric.value(exported), "validation", how)
    final = findings.final
    for one in final.contenders if final else ():
        if final and one.fingerprint == fingerprint(network) and one.mean is not None:
            interval = f", 95 % CI {one.ci[0]:.2f} to {one.ci[1]:.2f}" if one.ci else ""
            how = f"mean of {len(one.scores)} trainings of this network anew{interval}"
            yield result(OBJECTIVES[final.objective], one.mean, "test", how)
            break


def _final(final: Final) -> list[str]:
    return ["### On test images", "", final.verdict, "", *markdown_final(final), "", how(final), ""]


def _row(name: str, scores: list[float], objective: Objective) -> str:
    average = objective.shown(sum(scores) / len(scores)) if scores else "not known"
    return f"| {name} | {accuracies(scores)} | {average} |"
