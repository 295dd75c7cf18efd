"""All that is to be measured on a GPU, in the minutes that one is at hand.

Each section runs in a process of its own with a time limit, so a crash or a hang costs one section. Results are lines
of `gpu.jsonl` in the folder; the same call continues after a stop with the sections that have no line there. A section
that does not fit into the time left is left for the next call. With `--device cpu`, all sections run on small
networks, as a rehearsal.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import attention
from answer import answer, append_line, read_lines
from buildup.diagnostics.hessian import batch_eigenvalues
from buildup.engine.problems import Problems
from buildup.errors import BuildupError
from buildup.files import cores
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.models.build import build
from buildup.models.read import read_network
from buildup.report.text_table import aligned
from buildup.space.load import load
from buildup.strategies.moves import from_layout
from buildup.training import speed
from buildup.training.data import load_data
from buildup.training.execution import check_device, torch_settings
from buildup.training.execution_words import Execution
from buildup.training.feed import Feed, on_device
from buildup.training.fit import Job, fit
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.train_step import Stepper, create_training_model, make_optimizer, prepare_model
from train import LOADERS, compare, made_up

ROOT = Path(__file__).parents[1]
FILE = "gpu.jsonl"
STEPS = ("eager", "captured", "compiled")
SILENT_STEPS = 100
GOALS = {96: 15_000, 512: 24_000}
"""Images/s of a ResNet-50 at 32 px on an H200, by batch size: goals, not measurements."""
ALTERNET_SHARE = 0.85
"""The goal for an AlterNet's speed, in shares of its parent's."""
LIMIT = 2
"""A section may take so many times what is expected."""
CAP = {"cuda": 0.02}
"""The share of the memory in which a batch should not fit, and its halves should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is measured, by the kind of the device."""

    device: torch.device
    base: str
    size: int
    classes: int
    batches: tuple[int, ...]
    alternet: str
    """The layout of a candidate with attention at the ends of its last stages."""
    data: str
    data_dir: str | None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def parent(self, channels: int = 3) -> Network:
        return read_network(self.base, input_shape=(channels, self.size, self.size), num_classes=self.classes)

    def networks(self) -> tuple[Network, Network]:
        """The parent and a candidate."""
        parent = self.parent()
        return parent, from_layout(self.alternet, parent, load("alternet"))

    @property
    def forms(self) -> tuple[Execution, ...]:
        """The forms of a step that this device has."""
        usual = speed.default_execution(load_recipe("paper"), str(self.device))
        return tuple(replace(usual, steps=form) for form in (STEPS if self.on_gpu else STEPS[:1]))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One question."""

    question: str
    seconds: float
    """That it is expected to take at most on a GPU."""
    measure: Callable[[Bench], dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="where the results are, or go")
    for flag, metavar, text in (
        ("--minutes", "N", "how long in all (default: 10)"),
        ("--device", "NAME", "cuda (default), cuda:N, or cpu for a rehearsal"),
        ("--data-dir", "DIR", "the folder with CIFAR-100; without it, `accuracy` trains on the digits"),
        ("--only", "NAME,NAME", f"of {', '.join(SECTIONS)}"),
        ("--section", "NAME", "measure one section in this process, and print its values"),
    ):
        parser.add_argument(flag, metavar=metavar, help=text)
    parser.add_argument("--table", action="store_true", help="only print the table of the results so far")
    return answer(parser, gpu, arguments)


def gpu(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Measure all sections that have no result yet; the table of all as text and as values."""
    problems = Problems()
    minutes = problems.number("--minutes", flags["minutes"], 10.0, most=24 * 60.0)
    only = (flags["only"] or ",".join(SECTIONS)).split(",")
    for name in [*only, *filter(None, [flags["section"]])]:
        problems.choice("section", name, "", tuple(SECTIONS))
    bench = None
    with problems.caught():
        bench = bench_for(check_device(flags["device"] or "cuda"), flags["data_dir"])
    problems.raise_any()
    assert bench is not None
    if flags["section"]:
        values = SECTIONS[flags["section"]].measure(bench)
        return json.dumps(values), values
    folder = Path(flags["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    lines = read_lines(folder / FILE)
    done = {line["section"] for line in lines if "error" not in line and line["device"] == _name(bench.device)}
    for name in () if flags["table"] else only:
        left = end - time.monotonic()
        if name in done or SECTIONS[name].seconds > left:
            continue
        line = _in_a_process(name, bench, min(left, LIMIT * SECTIONS[name].seconds))
        append_line(folder / FILE, line)
        print(f"{name}: {line['seconds']:.0f} s{', ' + line['error'] if 'error' in line else ''}", file=sys.stderr)
    latest = {line["section"]: line for line in read_lines(folder / FILE)}
    return table(latest), {"sections": latest}


def bench_for(device: str, data_dir: str | None) -> Bench:
    """The sizes for a device."""
    place = torch.device(device)
    if place.type == "cuda":
        data = "cifar100" if data_dir else "digits"
        return Bench(
            device=place,
            base="resnet50",
            size=32,
            classes=100,
            batches=tuple(GOALS),
            alternet="CCC|CCCM|CCCCCM|CCM",
            data=data,
            data_dir=data_dir,
        )
    return Bench(
        device=place,
        base="resnet10t",
        size=16,
        classes=10,
        batches=(8,),
        alternet="CC|CC|CM|CM",
        data="digits",
        data_dir=None,
    )


def table(lines: Mapping[str, Mapping[str, Any]]) -> str:
    """One row for each number of each section."""
    rows = [["section", "what", "value"]]
    for name in SECTIONS:
        line = lines.get(name)
        if line is None:
            rows.append([name, SECTIONS[name].question, "not measured"])
        elif "error" in line:
            rows.append([name, SECTIONS[name].question, f"failed: {line['error']}"])
        else:
            rows += [[name, what, _said(value)] for what, value in line["values"].items()]
    return "\n".join(aligned(rows))


def tests(bench: Bench) -> dict[str, Any]:
    """The tests that need a GPU, without what the others need: Ray, and the plugins of `addopts`."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider"]
    options += ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"]
    command = [sys.executable, "-m", "pytest", *options, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    return {"summary": last.strip("= "), "passed": done.returncode == 0 and "passed" in last}


def silent_steps(bench: Bench) -> dict[str, Any]:
    """Whether a step or its data waits for the device, by torch's own guard."""
    found: dict[str, Any] = {}
    for network in bench.networks():
        for execution in bench.forms:
            batches, stepper, recipe = _training(bench, network, execution, bench.batches[0])
            inputs, targets = next(batches)
            stepper(inputs, targets, lr=recipe.lr)
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("error")
            for inputs, targets in islice(batches, SILENT_STEPS if bench.on_gpu else 2):
                stepper(inputs, targets, lr=recipe.lr)
            if bench.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
            found[f"{layout(network)}, {execution.steps}"] = "no wait"
    return found


def images_per_second(bench: Bench) -> dict[str, Any]:
    """How fast each form of a step trains, beside a loop with mixed precision."""
    found: dict[str, Any] = {}
    recipe = load_recipe("paper")
    for batch in bench.batches:
        rates = []
        for network in bench.networks():
            rows = compare(
                network,
                layout(network),
                recipe,
                batch=batch,
                device=str(bench.device),
                threads=cores(),
                workers=min(LOADERS, cores()) if bench.on_gpu else 0,
                executions=bench.forms,
            )
            for row in rows:
                found[f"batch {batch}, {row.layout}, {row.variant}, {row.execution}: images/s"] = row.images_per_s
            rates.append(max(row.images_per_s for row in rows if row.variant == "ours"))
        if bench.on_gpu:
            found[f"batch {batch}: parent's images/s over the goal of {GOALS[batch]:,}"] = rates[0] / GOALS[batch]
        found[f"batch {batch}: AlterNet's share of its parent's speed (goal {ALTERNET_SHARE})"] = rates[1] / rates[0]
    return found


def attention_layers(bench: Bench) -> dict[str, Any]:
    """How fast the attention layer is beside other ways to write it."""
    rows = [
        row
        for setting in attention.SETTINGS[: 3 if bench.on_gpu else 1]
        for row in attention.compare(
            setting, 512 if bench.on_gpu else 2, bench.device, rounds=10 if bench.on_gpu else 1
        )
    ]
    return {
        f"{row.setting.in_chs}->{row.setting.out_chs} at {row.setting.size} px, {row.precision}, {row.variant}: ms":
            row.milliseconds
        for row in rows
    }  # fmt: skip


def epoch_time(bench: Bench) -> dict[str, Any]:
    """Whether the reported seconds of epochs are all of a training's time, checkpoints included."""
    times = [time.perf_counter()]
    reported = []
    with tempfile.TemporaryDirectory() as folder:
        for epoch in fit(_job(bench, folder, epochs=4)):
            times.append(time.perf_counter())
            reported.append(epoch.metrics["seconds"])
    wall = times[-1] - times[1]
    return {
        "seconds of epochs 2 to 4 by the wall clock": wall,
        "reported": sum(reported[1:]),
        "reported share": sum(reported[1:]) / wall,
        "seconds before the end of epoch 1": times[1] - times[0],
    }


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """Whether a training whose batch does not fit is made again with each batch in two parts."""
    with tempfile.TemporaryDirectory() as folder:
        job = _job(bench, folder, epochs=1)
        job = replace(job, recipe=replace(job.recipe, batch_size=1024 if bench.on_gpu else 8))
        ended = "trained"
        try:
            for _ in fit(replace(job, device_share=CAP.get(bench.device.type, 1.0))):
                pass
        except BuildupError as error:
            ended = str(error)
        log = (Path(folder) / "log.txt").read_text()
    return {"in parts": "Once more" in log, "end": ended}


def hessian(bench: Bench) -> dict[str, Any]:
    """How far the largest eigenvalues are from those of the CPU, and how far they would be with TF32."""
    network = bench.parent()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, *network.input_shape, generator=generator)
    targets = torch.randn(16, network.num_classes, generator=generator).softmax(1)

    def eigenvalues(place: str) -> Sequence[float]:
        model = build(network, seed=0, device=torch.device(place)).eval()
        batches = ((images.to(place), targets.to(place)),)
        (spectrum,) = batch_eigenvalues(model, batches, weight_decay=0.0, seed=0)
        return spectrum.values

    ours, theirs = eigenvalues("cpu"), eigenvalues(str(bench.device))
    with patch("buildup.diagnostics.hessian.ieee_float32", lambda device: nullcontext()):
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        rough = eigenvalues(str(bench.device))
    furthest, with_tf32 = (max(abs(a - b) for a, b in zip(ours, each, strict=True)) for each in (theirs, rough))
    return {
        "largest eigenvalue": ours[0],
        "largest difference, in its shares": furthest / abs(ours[0]),
        "largest difference with TF32": with_tf32 / abs(ours[0]),
    }


def accuracy(bench: Bench) -> dict[str, Any]:
    """Whether `quick` comes to the accuracy that it states."""
    with tempfile.TemporaryDirectory() as folder:
        job = _job(bench, folder, epochs=load_recipe("quick").epochs if bench.on_gpu else 1)
        *_, last = list(fit(job))
    expected = load_recipe("quick").expected.get(f"{bench.base} {bench.data}")
    return {"accuracy": last.metrics["accuracy"], "stated": expected, "images/s": last.metrics["throughput"]}


SECTIONS: Mapping[str, Section] = {
    "tests": Section(question="do the tests that need a GPU pass?", seconds=60, measure=tests),
    "waits": Section(question="does a step wait for the device?", seconds=60, measure=silent_steps),
    "speed": Section(question="how fast are steps, data included?", seconds=190, measure=images_per_second),
    "memory": Section(question="is a batch that does not fit trained in parts?", seconds=30, measure=out_of_memory),
    "epoch": Section(question="is an epoch's time what is reported?", seconds=30, measure=epoch_time),
    "hessian": Section(question="are eigenvalues those of the CPU?", seconds=45, measure=hessian),
    "attention": Section(question="how fast is the attention layer?", seconds=35, measure=attention_layers),
    "accuracy": Section(question="does `quick` come to its accuracy?", seconds=150, measure=accuracy),
}
"""In the order in which they are measured."""


def _in_a_process(name: str, bench: Bench, left: float) -> dict[str, Any]:
    """The line of a section that was measured in a process of its own."""
    command = [sys.executable, __file__, "-", "--section", name, "--device", str(bench.device), "--json"]
    command += ["--data-dir", bench.data_dir] if bench.data_dir else []
    line: dict[str, Any] = {"section": name, "device": _name(bench.device), "torch": torch.__version__}
    began = time.monotonic()
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        out, error = process.communicate(timeout=left)
        if process.returncode:
            line["error"] = (error.strip().splitlines() or ["no output"])[-1]
            line["stderr"] = error[-4000:]
        else:
            line["values"] = json.loads(out)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with what it has started, which would keep the GPU
        process.communicate()
        line["error"] = f"not ended after {left:.0f} s"
    return {**line, "seconds": round(time.monotonic() - began, 1)}


def _training(bench: Bench, network: Network, execution: Execution, batch: int) -> tuple[Any, Stepper, Recipe]:
    """Endless batches of made-up images, and what trains on them."""
    recipe = replace(load_recipe("paper"), batch_size=batch, min_steps=1)
    data = on_device(made_up(network), bench.device)
    index = torch.arange(len(data.labels))
    feed = Feed(recipe=recipe, dataset=data, train=index, val=index, seed=0, device=bench.device)
    with torch_settings(cores(), deterministic=False):
        model = create_training_model(network, recipe, seed=0, device=bench.device).train()
        model = prepare_model(model, network, execution)
        stepper = Stepper(model, make_optimizer(model, recipe, execution), recipe, execution)
        shape = (batch, *network.input_shape)
        stepper.capture(
            torch.zeros(shape, device=bench.device), torch.zeros(batch, network.num_classes, device=bench.device)
        )
    whole = (pair for number in range(1, sys.maxsize) for pair in feed.epoch(number) if len(pair[0]) == batch)
    return whole, stepper, recipe


def _job(bench: Bench, folder: str, *, epochs: int) -> Job:
    data = load_data(bench.data, bench.data_dir, bench.size if bench.data == "digits" else None)
    network = read_network(
        bench.base, input_shape=(data.channels, data.image_size, data.image_size), num_classes=data.num_classes
    )
    return Job(
        network=network,
        seed=0,
        dataset=bench.data,
        data_dir=bench.data_dir,
        image_size=data.image_size,
        recipe=load_recipe("quick").with_epochs(epochs),
        device=str(bench.device),
        threads=4 if bench.on_gpu else 1,
        execution=bench.forms[min(1, len(bench.forms) - 1)],
        fraction=1.0 if bench.on_gpu else 0.1,
        folder=folder,
    )


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _said(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
