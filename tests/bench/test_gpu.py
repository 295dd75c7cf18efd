"""`bench/gpu.py`, rehearsed on a CPU."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu
from answer import append_line, read_lines
from gpu import FILE, SECTIONS, bench_for, main


def fake(monkeypatch: pytest.MonkeyPatch, **values: Any) -> list[str]:
    """Sections give these values, or raise these errors, without a process."""
    measured = []

    def in_a_process(name: str, bench: object, left: float) -> dict[str, Any]:
        measured.append(name)
        return {"section": name, "device": "CPU", "seconds": 1.0, **values.get(name, {"values": {"what": 1.5}})}

    monkeypatch.setattr(gpu, "_in_a_process", in_a_process)
    return measured


def test_a_stopped_bench_continues_and_repeats_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = fake(monkeypatch, memory={"error": "CUDA error"})
    assert main([str(tmp_path), "--device", "cpu", "--only", "memory,epoch"]) == 0
    assert measured == ["memory", "epoch"]
    assert "failed: CUDA error" in capsys.readouterr().out
    again = fake(monkeypatch)
    assert main([str(tmp_path), "--device", "cpu", "--json"]) == 0
    assert again == [name for name in SECTIONS if name != "epoch"]
    assert set(json.loads(capsys.readouterr().out)["sections"]) == set(SECTIONS)


def test_a_section_that_does_not_fit_into_the_time_is_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = fake(monkeypatch)
    assert main([str(tmp_path), "--device", "cpu", "--minutes", "1.1"]) == 0
    assert measured == [name for name, section in SECTIONS.items() if section.seconds <= 60]
    assert "not measured" in capsys.readouterr().out


def test_all_sections_fit_into_the_ten_minutes_that_they_get() -> None:
    assert sum(section.seconds for section in SECTIONS.values()) <= 600


def test_the_tests_for_a_gpu_are_found_without_ray_and_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "optuna"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not on this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = gpu.tests(bench_for("cpu", None))
    assert found["summary"].startswith("7 passed" if torch.cuda.is_available() else "7 failed")


def test_a_crash_or_a_hang_costs_its_section_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crashed:
        returncode = -11

        def __init__(self, command: list[str], **how: object) -> None:
            assert how["start_new_session"]

        def communicate(self, timeout: float) -> tuple[str, str]:
            assert timeout <= gpu.LIMIT * SECTIONS["epoch"].seconds
            return "", "one line\nSegmentation fault\n"

    monkeypatch.setattr(subprocess, "Popen", Crashed)
    assert main([str(tmp_path), "--device", "cpu", "--minutes", "600", "--only", "epoch"]) == 0
    (line,) = read_lines(tmp_path / FILE)
    assert line["error"] == "Segmentation fault"


def test_a_rehearsal_is_no_result_of_another_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_line(tmp_path / FILE, {"section": "epoch", "device": "some GPU", "values": {"share": 1.0}, "seconds": 1})
    measured = fake(monkeypatch)
    assert main([str(tmp_path), "--device", "cpu", "--only", "epoch"]) == 0
    assert measured == ["epoch"]


def test_wrong_flags_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no"), "--device", "cpu", "--minutes", "x", "--only", "sped"]) == 2
    said = capsys.readouterr().err
    assert "--minutes x" in said
    assert "did you mean 'speed'" in said
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_every_section_runs_on_a_cpu(tmp_path: Path) -> None:
    sections = [name for name in SECTIONS if name != "tests"]
    assert main([str(tmp_path), "--device", "cpu", "--minutes", "60", "--only", ",".join(sections)]) == 0
    lines = {line["section"]: line for line in read_lines(tmp_path / FILE)}
    assert {name: line.get("error") for name, line in lines.items()} == dict.fromkeys(sections)
    assert lines["epoch"]["values"]["reported share"] == pytest.approx(1, abs=0.05)
    assert lines["hessian"]["values"]["largest difference, in its shares"] == 0
