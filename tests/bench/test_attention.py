import json

import pytest
import torch

from attention import VERSIONS, Setting, compare, main
from buildup.models.layers import LocalAttention2d


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_all_versions_compute_the_same(version: object) -> None:
    assert callable(version)
    torch.manual_seed(0)
    ours = LocalAttention2d(6, 10, 3, 4, 3)
    torch.nn.init.normal_(ours.position_bias)
    x = torch.randn(2, 6, 6, 9)
    torch.testing.assert_close(version(ours)(x), ours(x), rtol=0, atol=1e-5)


def test_every_version_is_timed_in_both_precisions() -> None:
    setting = Setting(in_chs=8, out_chs=16, heads=1, size=4, window=2)
    rows = list(compare(setting, 2, torch.device("cpu"), rounds=1))
    assert [(row.precision, row.variant) for row in rows] == [
        (precision, name) for precision in ("float32", "bf16") for name in VERSIONS
    ]
    assert [row.ratio for row in rows if row.variant == "ours"] == [1, 1]
    assert all(row.milliseconds > 0 for row in rows)


@pytest.mark.slow
def test_the_bench_prints_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--batch", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert len(values["rows"]) == 30
    assert values["rows"][0]["setting"]["window"] == 4
