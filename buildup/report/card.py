"""The model card of an exported network: its layout, scores, claim, decisions and settings, and how to load it."""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from huggingface_hub import EvalResult, ModelCardData

from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.report.findings import Findings, cost_text, flat
from buildup.report.text_table import TextTable, code, decisions_markdown, final_protocol, graph_text, tabulate_final
from buildup.report.words import clean, scores_text
from buildup.trials.objective import ACCURACY, OBJECTIVES, Objective
from buildup.trials.outcome import Score
from buildup.trials.training import WeightsOrigin

LOADING = """\
```python
import timm
import buildup.models  # registers the entry point

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True)
```

`alternet.py` in this folder defines the same network in one file. It needs torch and timm, but not buildup.

```python
from alternet import load

model = load()
```

`config.json` says how images are scaled and cut. Image files were read by `buildup.training.image_files.open_image`:
upright, with 8 bits a channel, transparent pixels on white.
"""

HUB_DATASETS = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
"""Names on the Hugging Face Hub. Other datasets of the hub are named `hfds/NAME`."""

ONNX = """\
`model.onnx` is the same network for onnxruntime. It takes batches of any size, preprocessed as `config.json` says. It
takes other image sizes if its input has named height and width axes.

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {"images": images})  # float32, as a numpy array
```
"""


FOLDERS = r"(?:(?<=^)|(?<=:))/(?!/)\S*/(?=[^/\s])"
"""The folders before the last part of an absolute path, alone or behind `folder:`, but not of a URL."""


def model_card(
    findings: Findings,
    network: Network,
    exported: Score,
    *,
    onnx: bool = False,
    origin: WeightsOrigin | None = None,
) -> str:
    """The model card of a network of a search, which need not be the winner, as Markdown.

    `exported` is the score of the training whose weights are exported. With `onnx`, the folder also holds an ONNX
    model. `origin` is that of timm's weights that the trainings started from.
    """
    objective, dataset = findings.objective, re.sub(FOLDERS, "", str(findings.settings.get("dataset", "")))
    value = f", at a {objective.title} of {objective.shown(objective.value(exported))}"
    scores = [list(values.values()) for values in findings.paired_scores(network)]
    table = TextTable.by_column(
        ("network", "text", ["base", "this one"]),
        (f"{objective.title}, every seed of both", "text", [scores_text(values) for values in scores]),
        ("mean", "text", [objective.shown(fmean(values)) if values else "unknown" for values in scores]),
    )
    cost = findings.cost(network)
    final = []
    if one := findings.final:
        final = ["## Test scores", "", one.verdict, "", *tabulate_final(one).markdown(), "", final_protocol(one), ""]
    lines = [
        *("---", _metadata(findings, network, exported, origin), "---", ""),
        f"# {clean(network.title)} as `{clean(layout(network))}`",
        "",
        f"Derived from timm's {code(network.title)} by the build-up rule on {code(dataset)}. "
        f"{findings.headline if network is findings.winner else 'It is one candidate of the search, not its winner.'}",
        *_start(findings, origin),
        *(["", findings.imitations] if findings.imitations else []),
        "",
        "![The network as a diagram](network.svg)",
        "",
        *("```", graph_text(network), "```", ""),
        *final,
        "## Validation scores",
        "",
        f"These weights reach {exported.accuracy:.2f} % accuracy on {exported.images:,} validation images"
        f"{'' if objective is ACCURACY else value}. They are from the best seed, so this figure is overestimated; the "
        "means are less so.",
        *("", *table.markdown(), ""),
        *([f"{cost_text(cost)}.", ""] if cost else []),
        findings.claim,
        findings.images,
        *[f"\n> {clean(warning)}" for warning in findings.warnings],
        "",
        *("## Usage", "", LOADING),
        *([ONNX] if onnx else []),
        *("## Decisions", "", decisions_markdown(findings.decisions, findings.climb), ""),
        "## Settings",
        "",
        *_settings(findings),
        "",
    ]
    return "\n".join(lines)


def _start(findings: Findings, origin: WeightsOrigin | None) -> Iterator[str]:
    """Which weights the trainings started from, and their license."""
    source = str(findings.settings.get("pretrained") or "")
    if not source:
        return
    yield ""
    if origin is None:
        digest = str(findings.settings.get("pretrained_hash") or "")
        file = f"{code(Path(source).name)}{f' (hash {digest[:12]})' if digest else ''}"
        yield f"Trainings started from the weights in the file {file}, whose license is unknown."
        return
    terms = f"license {code(origin.license)}" if origin.license else "without a license"
    yield f"Trainings started from timm's weights {code(origin.name)} ({terms})."


def _metadata(findings: Findings, network: Network, exported: Score, origin: WeightsOrigin | None) -> str:
    start = findings.settings.get("pretrained")
    dataset = re.sub(FOLDERS, "", str(findings.settings.get("dataset", "")))
    on_hub = HUB_DATASETS.get(dataset) or (dataset.removeprefix("hfds/") if dataset.startswith("hfds/") else None)
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=on_hub or clean(dataset),
            dataset_name=clean(dataset),
            dataset_split=split,
            metric_type=metric.name,
            metric_value=round(value, 2),
            metric_name=f"{metric.name} in {metric.scale}, {how}",
        )
        for metric, value, split, how in _results(findings, network, exported)
    ]
    data = ModelCardData(
        # Without pretrained weights, that of timm and buildup.
        license=(origin.license if origin else "") or "unknown" if start else "apache-2.0",
        library_name="timm",
        tags=["image-classification", "timm", "alternet", "buildup"],
        base_model=origin.hub_id or None if origin else None,
        datasets=[on_hub] if on_hub else None,
        model_name=f"{clean(network.title)} {clean(layout(network))}",
        eval_results=results,
    )
    return data.to_yaml()


def _results(findings: Findings, network: Network, exported: Score) -> Iterator[tuple[Objective, float, str, str]]:
    """The scores of the retrained network on test images, if any, and of these weights on validation images."""
    objective, seeds, final = findings.objective, len(findings.scores(network)), findings.final
    for one in final.contenders if final else ():
        if final and one.fingerprint == fingerprint(network) and one.mean is not None:
            interval = f", 95 % CI {one.ci[0]:.2f} to {one.ci[1]:.2f}" if one.ci else ""
            how = f"mean of {len(one.scores)} trainings with fresh seeds{interval}"
            yield OBJECTIVES[final.objective], one.mean, "test", how
            break
    for metric in (ACCURACY, objective) if objective is not ACCURACY else (ACCURACY,):
        how = f"these weights, the best of {seeds} seeds" if seeds > 1 else "these weights, one seed"
        yield metric, metric.value(exported), "validation", how


def _settings(findings: Findings) -> Iterator[str]:
    """The settings as a list. A card may be published, so it has no folders of this machine."""
    for name, value in flat(findings.settings):
        if value not in ((), {}):
            yield f"- {clean(name)}: {code(re.sub(FOLDERS, '', str(value)))}"
