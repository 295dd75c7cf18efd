"""What a person typed, turned into `Settings` with everything they name at hand; every problem is named at once."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildup.commands.problems import Problems
from buildup.errors import RequestError
from buildup.graph.network import Network
from buildup.models.pretrained import find_pretrained
from buildup.models.read import read
from buildup.rules.limits import Limits
from buildup.rules.moves import start, with_look_ahead
from buildup.rules.strategies import procedure_of
from buildup.search.folder import check_free, cores, folder_of
from buildup.search.settings import Settings, parse_duration
from buildup.search.state import costs_of
from buildup.search.storage import check_storage
from buildup.search.strategies import STRATEGIES
from buildup.space.load import load
from buildup.space.schema import SearchSpace
from buildup.training.data import DataInfo, describe_data, fraction_text, parse_fraction
from buildup.training.device import check_device, device_count
from buildup.training.execution import parse_execution
from buildup.training.recipe import Recipe, load_recipe
from buildup.training.speed import Speed, choose, usual
from buildup.trials.objective import OBJECTIVES

DEFAULT_SEEDS = 3
MOST_WORKERS_A_CORE = 4
"""Without a cluster or GPUs, more trainings side by side only wait for each other and fill the memory."""
GPU_THREADS = 4
"""CPU threads beside a GPU, which has little for them to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that can be carried out."""

    folder: Path
    settings: Settings
    space: SearchSpace
    recipe: Recipe
    data: DataInfo
    network: Network
    """Where the search starts: the base, with the blocks that the space adds."""
    speeds: tuple[Speed, ...]
    """What this machine was measured to do, the chosen execution first; nothing for another machine's devices."""


def resolve(flags: Mapping[str, str | bool | None], *, new_run: bool = True) -> Request:
    """The request behind the flags of `search` and `plan`; raises with all problems at once and writes nothing."""
    text = {name: value if isinstance(value, str) else None for name, value in flags.items()}
    problems = Problems()
    for name in ("base", "dataset"):
        if not text.get(name):
            problems.found.append(f"--{name} is missing.")

    seeds = problems.whole("--seeds", text.get("seeds"), DEFAULT_SEEDS, most=1000)
    hardware = _hardware(problems, text, seeds)
    settled: dict[str, Any] = {}
    with problems.caught():
        settled = parse_execution(words, hardware.device) if (words := text.get("execution")) else {}
    strategy = problems.choice("strategy", text.get("strategy"), "alternet", tuple(STRATEGIES))
    limits = Limits(
        max_params=problems.whole("--max-params", text.get("max_params"), 0, most=10**12) or None,
        max_macs=problems.whole("--max-macs", text.get("max_macs"), 0, most=10**15) or None,
    )
    first_seed = problems.whole("--seed", text.get("seed"), 0, least=0, most=2**31 - 1)
    share = 1.0
    with problems.caught():
        share = parse_fraction(text.get("fraction") or "1")
    budget = problems.parsed("--time-budget", parse_duration, text.get("time_budget"))

    space = None
    with problems.caught():
        space = load(text.get("space") or "alternet")
        space = with_look_ahead(space) if flags.get("look_ahead") else space
    recipe = None
    with problems.caught():
        recipe = load_recipe(text.get("recipe") or "quick")
    epochs = problems.whole("--epochs", text.get("epochs"), recipe.epochs if recipe else 1, most=100_000)
    objective = problems.choice("objective", text.get("objective"), "accuracy", tuple(OBJECTIVES))
    early_drop = problems.number("--early-drop", text.get("early_drop"), 0.0, least=0.001, most=0.3) or None
    inherit = problems.number("--inherit", text.get("inherit"), 0.0, least=0.01, most=1) or None
    if inherit and not STRATEGIES[strategy].builds_up:
        problems.found.append(
            f"--inherit with --strategy {strategy}: its candidates are no steps from a parent that was kept. Leave "
            f"--inherit out, or use the build-up rule."
        )
    if inherit and early_drop:
        problems.found.append(
            "--inherit with --early-drop: what inherited is short already, and its curves begin where a parent's "
            "ended. Use one of them."
        )
    judge = problems.judge(text.get("judge"), space.judge if space else "likely", seeds)

    data, dataset = None, _absolute_dataset(text.get("dataset") or "")
    if dataset:
        with problems.caught():
            data = describe_data(dataset, text.get("data_dir"), fraction=share)
    network = None
    if text.get("base"):
        with problems.caught():
            network = read(
                str(text["base"]),
                input_shape=(data.channels, data.image_size, data.image_size) if data else (3, 224, 224),
                num_classes=data.num_classes if data else 1000,
                stem=space.stem if space else "auto",
            )
    pretrained = None
    if network and data and text.get("pretrained") is not None:
        with problems.caught():
            pretrained = find_pretrained(network, str(text["base"]), text["pretrained"] or "")
    if network and space and data:
        with problems.caught():
            network = start(network, space)
            check_strategy(network, space, strategy, limits, first_seed)

    prior = problems.prior(text.get("prior"), "none", network, space)

    folder = folder_of(text.get("run") or f"{text.get('base')}-{Path(dataset.partition(':')[2] or dataset).name}")
    if new_run:
        with problems.caught():
            check_free(folder)
        with problems.caught():
            check_storage(text.get("storage"), folder.name)
    max_trials = problems.whole("--max-trials", text.get("max_trials"), 0) or None
    problems.raise_any()
    assert data is not None
    assert network is not None
    assert space is not None
    assert recipe is not None
    recipe = recipe.with_epochs(epochs) if epochs != recipe.epochs else recipe
    # On a given cluster this machine may have no such device, or another one of its kind.
    speeds = (
        ()
        if text.get("ray")
        else _measured(network, recipe, data, device=hardware.device, threads=hardware.threads, settled=settled)
    )
    settings = Settings(
        base=network.base,
        dataset=dataset,
        data_dir=_absolute(text.get("data_dir")),
        image_size=data.image_size,
        space=text.get("space") or "alternet",
        recipe=text.get("recipe") or "quick",
        epochs=epochs,
        seeds=seeds,
        strategy=strategy,
        judge=judge,
        workers=hardware.workers,
        gpus_per_trial=hardware.gpus,
        threads=hardware.threads,
        device=hardware.device,
        execution=speeds[0].execution if speeds else replace(usual(recipe, hardware.device), **settled),
        fraction=fraction_text(share),
        seed=first_seed,
        look_ahead=bool(flags.get("look_ahead")),
        storage=text.get("storage"),
        ray=text.get("ray"),
        max_trials=max_trials,
        time_budget=budget,
        allow_weak_base=bool(flags.get("allow_weak_base")),
        pretrained=pretrained,
        max_params=limits.max_params,
        max_macs=limits.max_macs,
        reuse=bool(flags.get("reuse")),
        prior=prior,
        objective=objective,
        early_drop=early_drop,
        inherit=inherit,
    )
    return Request(
        folder=folder,
        settings=settings,
        space=space,
        recipe=recipe,
        data=data,
        network=network,
        speeds=speeds,
    )


def check_strategy(network: Network, space: SearchSpace, strategy: str, limits: Limits, seed: int) -> None:
    """Refuse limits that no candidate would be trained under, and what the strategy itself refuses."""
    steps = procedure_of(
        network,
        space,
        strategy=STRATEGIES[strategy],
        judge="point",
        seeds=1,
        first_seed=seed,
        costs=costs_of,
        limits=limits,
    )
    if steps.rule.first and not steps.fits_any:
        params, macs = costs_of(steps.base)
        raise RequestError(
            f"no candidate would be trained. Of the first, {steps.too_large(steps.rule.first.candidate)}, "
            f"and none that would follow it fits. The base itself has {params:,} parameters and {macs:,} MACs."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hardware:
    device: str
    workers: int
    gpus: float
    """Of one training."""
    threads: int
    """Of one training."""


def _hardware(problems: Problems, text: Mapping[str, str | None], seeds: int) -> _Hardware:
    """What trains. On a given cluster this machine's own devices and cores say nothing, so little is assumed."""
    cluster = text.get("ray") is not None
    gpus = problems.number("--gpus-per-trial", text.get("gpus_per_trial"), 0.0, most=1024)
    device = text.get("device") or ("cuda" if cluster and gpus else "auto")
    with problems.caught():
        device = device if cluster and device.startswith("cuda") else check_device(device)
    on_gpu = device.startswith("cuda")
    if gpus and not on_gpu:
        problems.found.append(
            f"--gpus-per-trial {gpus:g}: the device is {device}, which has no GPU. Leave it out, or use --ray."
        )
    if text.get("gpus_per_trial") is None and on_gpu:
        gpus = 1.0
    # One training a GPU; on a CPU one a core, but no more than there are seeds to train side by side.
    usual = seeds if cluster else device_count(device) if on_gpu else max(1, min(cores(), seeds))
    most_workers = 100_000 if cluster or on_gpu else MOST_WORKERS_A_CORE * cores()
    workers = problems.whole("--workers", text.get("workers"), usual, most=most_workers)
    most_threads = GPU_THREADS if on_gpu else cores()
    threads = most_threads if on_gpu and cluster else 1 if cluster else max(1, min(most_threads, cores() // workers))
    return _Hardware(device=device, workers=workers, gpus=gpus, threads=threads)


def _measured(
    network: Network, recipe: Recipe, data: DataInfo, *, device: str, threads: int, settled: Mapping[str, Any]
) -> tuple[Speed, ...]:
    resolved = recipe.resolved(train_images=data.train_images)
    steps = resolved.epochs * max(1, data.train_images // resolved.batch_size)
    return choose(network, resolved, device=device, threads=threads, steps=steps, settled=settled)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _absolute_dataset(name: str) -> str:
    kind, _, folder = name.partition(":")
    return f"{kind}:{Path(folder).absolute()}" if folder else name
