"""What `benchmarks/language_growth.py` calls flat and linear, and that its training is the same for all L."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
COUNTS = (2, 4, 8, 16, 33, 64, 100)


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with children in this process: imports are paid once."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("language_growth")
    monkeypatch.setattr(module, "run_child", lambda script, job: module._CHILDREN[job["child"]](job))
    return module


def test_texts_have_one_length_in_all_languages(growth: ModuleType) -> None:
    tokenizer, first, second = growth.word_tokenizer(), growth.word_texts("de", 40), growth.word_texts("fr", 40)
    assert first != second
    for texts in (first, second):
        for side, words in zip(texts, (growth.QUERY_WORDS, growth.PASSAGE_WORDS), strict=True):
            ids = tokenizer(side)["input_ids"]
            assert {len(sequence) for sequence in ids} == {words + 2}  # and [CLS], [SEP]
            assert all(tokenizer.unk_token_id not in sequence for sequence in ids)


@pytest.mark.parametrize(
    ("change", "noise", "flat"), [(0.0, 0.0, True), (0.0, 0.02, True), (0.05, 0.01, True), (0.3, 0.02, False)]
)
def test_flat(growth: ModuleType, change: float, noise: float, flat: bool) -> None:
    draw = np.random.default_rng(0)
    runs = [
        (count, {"step_time_s": 1 + change * (count - 2) / 98 + noise * float(draw.standard_normal())})
        for count in COUNTS
        for _ in range(3)
    ]
    fit = growth.fit_all(runs)["step_time_s"]
    low, high = fit["relative_change_interval_95"]
    assert fit["flat"] == flat
    assert low - 1e-9 <= change <= high + 1e-9
    assert (high - low > 0.01) == (noise > 0)


def test_noise_that_hides_growth_is_not_called_flat(growth: ModuleType) -> None:
    draw = np.random.default_rng(0)
    runs = [(count, {"step_time_s": 1 + 0.5 * float(draw.random())}) for count in COUNTS]
    fit = growth.fit_all(runs)["step_time_s"]
    low, high = fit["slope_interval_95"]
    assert low < 0 < high  # no growth to be seen, and none to be ruled out
    assert not fit["flat"]


def test_linear(growth: ModuleType) -> None:
    def fit(power: float) -> dict:
        return growth.fit_all([(count, {"setup_time_s": 3 + 0.5 * count**power}) for count in COUNTS])["setup_time_s"]

    line = fit(1)
    assert line["linear"]
    assert line["slope_per_language"] == pytest.approx(0.5)
    assert line["intercept"] == pytest.approx(3)
    assert line["r2_of_medians"] == pytest.approx(1)
    assert not fit(4)["linear"]
    assert not fit(-1)["linear"]


def test_a_batch_that_would_be_short_is_refused(growth: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        growth.parse(["--json", "x", "--train_items", "100", "--batch_size", "32"])
    assert "--train_items 100 is no multiple of --batch_size 32" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_rows(growth: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = {"languages": "2,3,5", "repeats": 2, "items": 150, "peer_items": 20, "train_items": 16, "batch_size": 8}
    sizes |= {"train_steps": 4, "hidden_size": 16, "layers": 1, "json": tmp_path / "rows.json", "peer_seconds": 0}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["language_growth.py", *words])
    growth.main()
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [row["languages"] for row in found["rows"]] == [2, 3, 5]
    assert set(found["fits"]) == {
        "setup_time_s", "host_memory_mib", "step_time_s", "step_cpu_time_s", "token_cache_time_s",
        "peak_host_memory_mib",
    }  # fmt: skip
    for row in found["rows"]:
        training = row["training"]
        assert training["tokens_per_step"] == 8 * (growth.QUERY_WORDS + growth.PASSAGE_WORDS + 4)
        assert training["num_steps"] == 2 * 4
        low, high = training["step_time_quartiles_s"]
        assert 0 < low <= training["step_time_s"] <= high
        assert training["step_cpu_time_s"] > 0
        assert training["token_cache_time_s"] > 0
    first = found["rows"][0]
    assert first["peer"]["datasets"] == 4
    assert first["ratio"]["setup_time_s"] == pytest.approx(
        first["peer"]["setup_time_s"] / first["ours_at_peer_items"]["setup_time_s"]
    )
    assert all(row["peer"] is None for row in found["rows"][1:])  # it took longer than 0 seconds


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_the_training_does_not_pay_for_the_token_cache(growth: ModuleType, tmp_path: Path) -> None:
    growth.build_corpus(tmp_path / "corpus", 2, 8, growth.word_texts)
    words = ["--json", "x", "--train_items", "8", "--batch_size", "8", "--train_steps", "2", "--hidden_size", "16"]
    args = growth.parse([*words, "--layers", "1"])
    assert growth.measure_training(args, tmp_path, 2)["token_cache_time_s"] > 0
    (tmp_path / "cache" / "tokens" / "of another tokenizer").mkdir(parents=True)
    with pytest.raises(AssertionError, match="the token cache was made again"):
        growth.measure_in_child("training", args, tmp_path, 2, 8)
