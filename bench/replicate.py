"""Does one search come to the same answer with other seeds and another precision?

    python bench/replicate.py FOLDER -- --base resnet6 --dataset cued-digits --recipe quick-plain --epochs 4 --seeds 2

runs `buildup search` with the given flags and `--seed 0`, 100, ... 900, in float32 and in bfloat16, and `buildup final`
after each search. Each run appends a line to `replications.jsonl` in the folder, so the same call continues where it
was stopped.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from answer import append_line, read_lines

SEEDS = range(0, 1000, 100)
PRECISIONS = ("float32", "bf16")
FINAL_SEEDS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the flags, search again and again, print the answers."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the results are, or go")
    parser.add_argument("flags", nargs="*", help="of `buildup search`, behind --; none: only print the answers so far")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "replications.jsonl"
    done = {(line["precision"], line["seed"]) for line in read_lines(file)}
    for precision in PRECISIONS if given.flags else ():
        for seed in SEEDS:
            if (precision, seed) not in done:
                append_line(file, replicate(given.flags, precision, seed))
    print(text(read_lines(file)))
    return 0


def replicate(flags: Sequence[str], precision: str, seed: int) -> dict[str, Any]:
    """One search and its final in a folder that is removed: layout, gains and claim."""
    folder = Path(tempfile.mkdtemp())
    try:
        started = time.perf_counter()
        found = _buildup("search", *flags, "--seed", f"{seed}", "--execution", precision, "--run", f"{folder / 'run'}")
        seconds = time.perf_counter() - started
        decisions = [json.loads(line) for line in (folder / "run" / "decisions.jsonl").read_text().splitlines()]
        final = _buildup("final", f"{folder / 'run'}", "--seeds", f"{FINAL_SEEDS}") if any_kept(decisions) else None
    finally:
        shutil.rmtree(folder)
    return {
        "precision": precision,
        "seed": seed,
        "seconds": round(seconds, 1),
        "layout": found["layout"],
        "rounding": found["rounding"],
        "warnings": found["warnings"],
        "decisions": [{key: one[key] for key in ("edit", "verdict", "gain", "ci", "seeds")} for one in decisions],
        "final": final and {key: final["claims"][0][key] for key in ("gain", "ci", "claimed")},
    }


def any_kept(decisions: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a search found anything that a final could claim."""
    return any(one["verdict"] == "keep" for one in decisions)


def text(lines: Sequence[Mapping[str, Any]]) -> str:
    """How often each layout was found, and what the finals said.

    >>> line = {"precision": "bf16", "layout": "CC|CM", "seconds": 60.0, "final": {"claimed": True}}
    >>> print(text([line, {**line, "layout": "CC|CC", "final": None}]))
    bf16: 1 CC|CM, 1 CC|CC; 1 of 1 finals proved a gain; a search took 60 to 60 s
    """
    rows = []
    for precision in PRECISIONS:
        own = [line for line in lines if line["precision"] == precision]
        if own:
            layouts = Counter(one["layout"] for one in own).most_common()
            found = ", ".join(f"{count} {layout}" for layout, count in layouts)
            finals = [line["final"]["claimed"] for line in own if line["final"]]
            proved = f"{sum(finals)} of {len(finals)} finals proved a gain"
            least, most = (round(end(one["seconds"] for one in own)) for end in (min, max))
            rows.append(f"{precision}: {found}; {proved}; a search took {least} to {most} s")
    return "\n".join(rows)


def _buildup(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "buildup", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    values: dict[str, Any] = json.loads(done.stdout)
    return values


if __name__ == "__main__":
    sys.exit(main())
