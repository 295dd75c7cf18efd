"""The model card of an exported network: what it is, how it came about, how sure that is, how to load it."""

from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.final_table import how, markdown_final
from buildup.report.findings import Findings, cost_text, flat
from buildup.report.text_table import code, graph_text, markdown_table
from buildup.report.words import accuracies, clean
from buildup.trials.final_result import Final
from buildup.trials.objective import ACCURACY, Objective
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
        "library_name: timm",
        "tags: [image-classification, timm, alternet, buildup]",
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


def _final(final: Final) -> list[str]:
    return ["### On test images", "", final.verdict, "", *markdown_final(final), "", how(final), ""]


def _row(name: str, scores: list[float], objective: Objective) -> str:
    average = objective.shown(sum(scores) / len(scores)) if scores else "not known"
    return f"| {name} | {accuracies(scores)} | {average} |"
