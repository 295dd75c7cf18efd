"""The tables of the documentation are those of the result files."""

import pytest

import tables
from buildup.errors import BuildupError
from tables import PAGES, ROOT, TABLES, with_tables, write_pages

JUDGING = (ROOT / "docs/judging.md").read_text()


def test_every_page_is_as_its_results_say() -> None:
    assert write_pages({"check": True})[1] == {"written": []}


def test_every_table_is_shown() -> None:
    pages = "".join((ROOT / name).read_text() for name in PAGES)
    assert all(f"<!-- table {name} -->\n| " in pages for name in TABLES)


def test_a_changed_number_is_written_anew() -> None:
    start = JUDGING.index("<!-- table null -->")
    spoiled = JUDGING[:start] + JUDGING[start:].replace("| 0.2 |", "| 0.3 |", 1)
    assert spoiled != JUDGING
    assert with_tables(spoiled) == JUDGING


def test_a_table_that_is_not_known_is_named() -> None:
    with pytest.raises(BuildupError, match=r"No table is called nul\. There are null, "):
        with_tables("<!-- table nul -->\n<!-- end -->\n")


def test_a_missing_result_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    with pytest.raises(BuildupError, match=r"null\.json: no such result"):
        with_tables(JUDGING)
