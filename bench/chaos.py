"""Does a search decide the same if its driver is killed again and again, on one cluster that lives through all of it?

The script starts a Ray cluster on this machine, makes each search once undisturbed, and then again with SIGKILLs of its
driver at random moments and `buildup resume` after each. A search ends by itself; then the next one begins, until
there were as many kills as asked for. Each search appends a line to `kills.jsonl` in the folder, so the same call
continues where it was stopped: only the kills of the search of that moment are lost.
"""

import argparse
import json
import logging
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

import buildup
from answer import answer, append_line, read_lines
from buildup.engine.problems import Problems
from buildup.store.run_dir import FINAL, attempt_folder, attempts

SEEDS, REPEATS = 4, 5
"""So many different searches are made in turn, each of them several times in a row."""
ASKED = (
    *("--base", "test_resnet", "--dataset", "digits", "--fraction", "1/8", "--epochs", "30", "--seeds", "2"),
    *("--set", "min_steps=4", "--workers", "2", "--allow-weak-base", "--execution", "float32,channels-last,eager"),
)
WORKER = b"ray::ResourceTrainable"
LEAK_PATIENCE = 60.0
"""Seconds after the end of a search in which its workers must have ended."""
STUCK = 3600.0
"""Seconds after which a driver that goes on without an end counts as hanging."""


@dataclass(slots=True, kw_only=True)
class Place:
    """Where the searches run, and how fast."""

    folder: Path
    address: str
    temporary: Path
    """For what killed drivers leave behind."""
    start_up: float = 60.0
    """Seconds from the start of a driver to its first epoch, lately. Kills come within twice that time."""
    workers: int = 0
    """How many workers were seen in the search of now. Where none are found, none could be found to leak."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, kill, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="where the results are, or go")
    parser.add_argument("--kills", metavar="N", help="stop after so many, earlier ones included (default: 200)")
    parser.add_argument("--table", action="store_true", help="only print the table of the kills so far")
    return answer(parser, chaos, arguments)


def chaos(flags: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Search and kill until there were as many kills as asked for; the table of all as text and as values."""
    problems = Problems()
    kills = problems.whole("--kills", flags["kills"], 200)
    problems.raise_any()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster ends, too
    folder = Path(flags["folder"]).absolute()
    file = folder / "kills.jsonl"
    lines = read_lines(file)
    if not flags["table"] and killed(lines) < kills:
        folder.mkdir(parents=True, exist_ok=True)
        with cluster() as (address, temporary):
            place = Place(folder=folder, address=address, temporary=temporary)
            while killed(lines) < kills:
                lines.append(killed_search(place, len(lines), kills - killed(lines)))
                append_line(file, lines[-1])
                print(f"{killed(lines)} kills; {json.dumps(lines[-1])}", file=sys.stderr, flush=True)
    values = summary(lines)
    return table(values), values


def killed_search(place: Place, number: int, most: int) -> dict[str, Any]:
    """Make a search whose driver is killed up to so many times: its line."""
    chance, seed = random.Random(number), number // REPEATS % SEEDS
    expected = undisturbed(place, seed)
    run, kills = place.folder / "runs" / f"killed-{number}", list[dict[str, Any]]()
    shutil.rmtree(run, ignore_errors=True)
    while True:
        seconds = chance.uniform(0, 2 * place.start_up) if len(kills) < most else STUCK
        before = epochs_of(run)
        code, said, lasted = drive(place, run, seed, seconds)
        if code is not None:
            break
        epochs, finished = epochs_of(run) - before, len(list(run.glob(f"trainings/*/*/{FINAL}")))
        place.start_up *= 1 if epochs else 1.25  # the machine may be busier than it was
        kills.append({"after": round(lasted, 1), "epochs": epochs, "finished": finished})
    line = {"search": number, "seed": seed, "kills": kills, "exit": code}
    line |= checked(run, expected) if code == 0 else {"said": said[-500:]}
    line["workers"], place.workers = place.workers, 0
    if line.get("equal"):
        shutil.rmtree(run)
    return line


def drive(place: Place, run: Path, seed: int, seconds: float) -> tuple[int | None, str, float]:
    """Search for so long at most: the exit code, what was said, and the seconds. Without a code, it was killed."""
    before, began, started = epochs_of(run), time.monotonic(), False
    driver = start_driver(place, run, seed)
    try:
        while driver.poll() is None and (lasted := time.monotonic() - began) < seconds:
            if not started and epochs_of(run) > before:
                started, place.start_up = True, (place.start_up + lasted) / 2
                place.workers = max(place.workers, len(workers()))
            time.sleep(0.1)
        ended = driver.poll()
    finally:
        driver.kill()
        driver.wait()
    said = (place.temporary / "said").read_text(encoding="utf-8", errors="replace")
    if ended is None and seconds >= STUCK:
        return -1, f"no end within {STUCK:g} s", seconds
    return ended, said, time.monotonic() - began


def checked(run: Path, expected: Sequence[Any]) -> dict[str, Any]:
    """What a search that was killed came to."""
    opened = buildup.open_run(run)
    trained = [(path, attempts(path)) for path in run.glob("trainings/*")]
    records = [[number for number in own if (attempt_folder(path, number) / FINAL).exists()] for path, own in trained]
    return {
        "equal": decisions(run) == expected,
        "status": opened.status,
        "trainings": sum(map(bool, records)),
        "attempts": sum(len(own) for _, own in trained),
        "repeated": sum(bool(ended) and ended[0] != own[-1] for (_, own), ended in zip(trained, records, strict=True)),
        "running": sum(trial.state is TrialState.RUNNING for trial in opened.study.trials),
        "leaked": leaked(),
    }


def leaked() -> list[str]:
    """The workers, placement groups and reserved resources that are left when no driver is there."""
    end = time.monotonic() + LEAK_PATIENCE
    while (left := _left()) and time.monotonic() < end:
        time.sleep(0.5)
    return left


def _left() -> list[str]:
    import ray  # it reads the token when it is imported
    from ray.util.placement_group import placement_group_table

    groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    reserved = [name for name in ("CPU", "GPU") if free.get(name, 0) != total.get(name, 0)]
    return [f"worker {pid}" for pid in workers()] + [f"placement group {one['state']}" for one in groups] + reserved


def workers() -> list[int]:
    """The processes of this machine that train for Ray, below this process. Tune gives their class its name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(WORKER) and os.getpid() in ancestors(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def ancestors(pid: int) -> list[int]:
    """The processes above a process."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def undisturbed(place: Place, seed: int) -> list[Any]:
    """The decisions of a search that nobody kills."""
    run, ended = place.folder / "runs" / f"undisturbed-{seed}", place.folder / "runs" / f"undisturbed-{seed}.txt"
    if not ended.exists():
        shutil.rmtree(run, ignore_errors=True)
        code, said, _ = drive(place, run, seed, STUCK)
        if code:
            raise SystemExit(f"the undisturbed search of seed {seed} failed:\n{said}")
        ended.write_text(said, encoding="utf-8")
    return decisions(run)


def start_driver(place: Place, run: Path, seed: int) -> "subprocess.Popen[bytes]":
    """Start a search, or go on with it if it has begun."""
    command = [sys.executable, "-m", "buildup"]
    if (run / "run.yaml").exists():
        command += ["resume", str(run)]
    else:
        command += ["search", *ASKED, "--seed", str(1000 * seed), "--run", str(run), "--ray", place.address]
    environment = {**os.environ, "TMPDIR": str(place.temporary)}
    with (place.temporary / "said").open("w", encoding="utf-8") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said, cwd=place.folder)


def epochs_of(run: Path) -> int:
    """The epochs that a search has recorded so far."""
    return sum(path.read_bytes().count(b"\n") for path in run.glob("trainings/*/metrics.jsonl"))


def decisions(run: Path) -> list[Any]:
    """The decisions of a search, in order."""
    return [json.loads(line) for line in (run / "decisions.jsonl").read_text(encoding="utf-8").splitlines()]


@contextmanager
def cluster() -> Iterator[tuple[str, Path]]:
    """A cluster of this machine, and a folder that goes with it."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    import ray  # it reads the token when it is imported

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    temporary = Path(tempfile.mkdtemp(prefix="chaos-"))  # short: the path of a socket has at most 107 characters
    flags = ["--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    program = [str(Path(sys.executable).parent / "ray"), "start", *flags, f"--temp-dir={temporary / 'ray'}"]
    with (temporary / "log").open("w") as log:
        head = subprocess.Popen(program, stdout=log, stderr=log)
    try:
        while not ray.is_initialized():
            with suppress(ConnectionError):  # it is not up yet
                ray.init(address=f"127.0.0.1:{port}", log_to_driver=False, logging_level=logging.CRITICAL)
            if head.poll() is not None:
                raise SystemExit(f"ray start failed:\n{(temporary / 'log').read_text()}")
        yield f"127.0.0.1:{port}", temporary
    finally:
        ray.shutdown()
        head.terminate()
        head.wait(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)


def killed(lines: Sequence[Mapping[str, Any]]) -> int:
    """How many kills these searches had."""
    return sum(len(line["kills"]) for line in lines)


def summary(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the lines come to."""
    kills = [kill for line in lines for kill in line["kills"]]
    return {
        "searches": len(lines),
        "kills": len(kills),
        "kills_before_an_epoch": sum(not kill["epochs"] for kill in kills),
        "trainings": sum(line.get("trainings", 0) for line in lines),
        "attempts": sum(line.get("attempts", 0) for line in lines),
        "not_finished": sum(line.get("status") != "finished" for line in lines),
        "other_decisions": sum(not line.get("equal") for line in lines),
        "repeated": sum(line.get("repeated", 0) for line in lines),
        "running": sum(line.get("running", 0) for line in lines),
        "leaked": sum(len(line.get("leaked", ())) for line in lines),
        "searches_with_workers_seen": sum(bool(line.get("workers")) for line in lines),
    }


def table(values: Mapping[str, Any]) -> str:
    """The summary as text."""
    return (
        f"{values['kills']} kills of the driver in {values['searches']} searches, {values['kills_before_an_epoch']} of "
        f"them before its first epoch. {values['attempts']} attempts for {values['trainings']} finished trainings.\n"
        f"Searches that did not finish: {values['not_finished']}; with other decisions than the undisturbed search: "
        f"{values['other_decisions']}; finished trainings that were done again: {values['repeated']}; trials left "
        f"running: {values['running']}; leaked workers, placement groups or resources: {values['leaked']}. Processes "
        f"of workers were seen in {values['searches_with_workers_seen']} searches while they ran."
    )


if __name__ == "__main__":
    sys.exit(main())
