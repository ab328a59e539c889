"""The cards of `model_cards/` are those of the records beside them, and small."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_hybrid.data.batches.schedule import plan_fingerprint
from hf_hybrid.hub.model_card import build_card, read_files
from hf_hybrid.records.run_folder import RunFolder
from tests.support.recipe_runs import REPOSITORY

CARDS = sorted(path.parent for path in REPOSITORY.glob("model_cards/*/README.md"))


def test_there_are_cards() -> None:
    assert "sample-hybrid" in [folder.name for folder in CARDS]


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_a_card_is_that_of_its_records(folder: Path) -> None:
    assert (folder / "README.md").read_text(encoding="utf-8") == build_card(read_files(folder))
    run, plan = RunFolder(folder).read_run(), RunFolder(folder).read_plan()
    assert run["status"] == "finished"
    language_pairs = [(pair["batch_type"], pair["language_pair"]) for pair in plan["language_pairs"]]
    assert plan_fingerprint(language_pairs, plan["batches"]) == plan["fingerprint"] == run["identity"]["plan"]
    lines, torn = RunFolder(folder).read_resource_lines()
    assert (sum(line["tokens"] for line in lines), torn) == (RunFolder(folder).read_resources()["tokens"], 0)


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_a_card_has_no_weights_and_little_else(folder: Path) -> None:
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert {Path(name).suffix for name in sizes} <= {".md", ".json", ".jsonl", ".png"}
    assert sum(sizes.values()) < 2**20
