"""`doctor`: what works on this machine, what does not, and what to do about it."""

from dataclasses import asdict

from buildup.cli.output import AsJson, answer, log, using_ray

MARKS = {"ok": "ok   ", "note": "note ", "fails": "FAILS"}


def doctor(
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    storage: str | None = None,
    ray: str | None = None,
    as_json: AsJson = False,
) -> int:
    """What works here, what does not, and what to do; exits with 1 where no search could run.

    Example: buildup doctor --dataset cifar100

    Args:
        dataset: digits, cued-digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR.
        data_dir: Where cifar10 and cifar100 are, or are downloaded to.
        storage: An Optuna storage to try.
        ray: Address of a Ray cluster to try.
    """
    log.info("Checking this machine ...")
    from buildup.engine.doctor import check_machine

    with using_ray():
        checks = check_machine(dataset=dataset, data_dir=data_dir, storage=storage, ray=ray)
    lines = []
    for check in checks:
        lines.append(f"{MARKS[check.state]}  {check.name:<10} {check.found}")
        lines += [f"                  {line}" for line in check.advice.splitlines()]
    healthy = all(check.state != "fails" for check in checks)
    lines += ["", "A search can run here." if healthy else "A search can't run here yet: see what FAILS."]
    return answer("\n".join(lines), [asdict(check) for check in checks], as_json=as_json, code=0 if healthy else 1)
