"""`verify` passes what is untouched, and finds what was altered, whether or not the manifest was rebuilt to hide it.

    VERIFY_TABLE=verify.md pytest tests/verification/test_verify.py

writes what was altered and what was found as a Markdown table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet
import pytest

from hf_hybrid.commands import console
from hf_hybrid.data.batches.schedule import plan_fingerprint
from hf_hybrid.hub.bundle import RECORD_NAMES, write_bundle
from hf_hybrid.hub.card_metadata import CardFiles
from hf_hybrid.hub.model_card import build_card, build_pictures, read_files
from hf_hybrid.records.manifest import write_manifest
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.training.arguments import DataArguments, ModelArguments
from hf_hybrid.verification import rebuild
from hf_hybrid.verification.files import Given, RunFiles
from hf_hybrid.verification.findings import OK, UNKNOWN, WRONG, Finding, compare, format_findings
from hf_hybrid.verification.raw_files import check_manifest
from hf_hybrid.verification.rerun import compare_runs, unlike_machines
from hf_hybrid.verification.verify import FOLDER_TYPES, verify
from tests.support.bundles import change, contents, finished_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = finished_run(tmp_path_factory.mktemp("verify"))
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(run_folder: Path) -> Path:
    return run_folder / "bundle"


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of the same scores are drawn once for all tests; drawing takes longer than all else."""

    def draw(files: CardFiles) -> dict[str, bytes]:
        key = json.dumps([files.evaluation, files.options])
        return DRAWN.get(key) or DRAWN.setdefault(key, build_pictures(files))

    monkeypatch.setattr(rebuild, "build_pictures", draw)


DRAWN: dict[str, dict[str, bytes]] = {}


def wrong(path: Path) -> list[Finding]:
    return [finding for finding in verify(path) if finding.status == WRONG]


# Untouched


def test_an_untouched_bundle_passes_and_most_of_it_is_known(run_folder: Path, bundle: Path) -> None:
    alone, around = verify(bundle), verify(run_folder)
    for found in (alone, around):
        assert [finding for finding in found if finding.status == WRONG] == []
        assert len([finding for finding in found if finding.status == OK]) > 200
        unknown = {finding.place for finding in found if finding.status == UNKNOWN} - {"model.json"}
        assert {re.sub("before|after", "...", place) for place in unknown} == {
            "eval.json: ...: bias: MRC@10",
        }
    checked = {finding.check for finding in around if finding.status == OK}
    assert checked == {*FOLDER_TYPES[0].checks}


def test_every_number_of_the_scores_is_worked_out_again(bundle: Path) -> None:
    def leaves(place: str, value: Any) -> Iterator[str]:
        for key, inner in value.items():
            yield from leaves(f"{place}: {key}", inner) if isinstance(inner, dict) else [f"{place}: {key}"]

    scores = RunFolder(bundle).read_eval()
    told = {place for when in ("before", "after") for place in leaves(f"eval.json: {when}", scores[when])}
    known = {finding.place for finding in verify(bundle) if finding.check == "scores" and finding.status == OK}
    assert {place for place in told - known if "MRC" not in place} == set()
    assert len(told) > 50


def test_a_published_repository_passes(run_folder: Path, tmp_path: Path) -> None:
    repository = published(run_folder, tmp_path / "repository")
    assert wrong(repository) == []
    ok = {finding.place for finding in verify(repository) if finding.status == OK and finding.check == "model"}
    assert "model.safetensors" in ok


def published(run_folder: Path, repository: Path) -> Path:
    """As it is downloaded: the model's files at the root, and beside them what is published of the run."""
    shutil.copytree(run_folder / "model", repository, ignore=shutil.ignore_patterns("manifest.json"))
    shutil.copytree(run_folder / "bundle", repository / "bundle")
    for name in {path.name for path in (run_folder / "bundle").iterdir()} & {
        *RECORD_NAMES,
        "card.json",
        "README.md",
        "pictures",
    }:
        source = run_folder / "bundle" / name
        shutil.copytree(source, repository / name) if source.is_dir() else shutil.copy(source, repository)
    return repository


def test_a_run_folder_without_a_bundle_is_checked_as_far_as_it_goes(run_folder: Path, tmp_path: Path) -> None:
    names = shutil.ignore_patterns("bundle", "checkpoint-*")
    folder = Path(shutil.copytree(run_folder, tmp_path / "run", ignore=names))
    found = verify(folder)
    assert [finding for finding in found if finding.status == WRONG] == []
    unknown = {finding.place for finding in found if finding.status == UNKNOWN}
    assert {"manifest.json", "requirements.txt"} <= unknown
    change(folder / "resources.json", {"tokens": 1})
    assert "resources.json: tokens" in {finding.place for finding in wrong(folder)}


def test_of_a_run_that_has_not_come_to_its_end_the_rest_is_checked(run_folder: Path, tmp_path: Path) -> None:
    """As it is downloaded after `push.py --unfinished`: records without log and bundle, and some not written yet."""
    names = shutil.ignore_patterns("bundle", "checkpoint-*", "events.jsonl", "after")
    folder = Path(shutil.copytree(run_folder, tmp_path / "run", ignore=names))
    change(folder / "run.json", {"status": "interrupted"})
    change(folder / "eval.json", {"after": None})
    lines = (folder / "resources.jsonl").read_text().splitlines(keepends=True)
    (folder / "resources.jsonl").write_text("".join(lines[:-1]))
    shutil.rmtree(folder / "pictures")
    make_card_anew(folder)
    found = verify(folder)
    assert [finding for finding in found if finding.status == WRONG] == []
    ends = [finding.reason for finding in found if finding.place == "run.json: status"]
    assert ends == ["the run is interrupted at step 6 of 8; only what exists is checked"]
    assert {"plan", "scores", "card"} <= {finding.check for finding in found if finding.status == OK}
    change(folder / "eval.json", {"before.multilingual.MAP": 0.99})
    make_card_anew(folder)
    assert [finding.place for finding in wrong(folder)] == ["eval.json: before: multilingual: MAP"]


def test_files_that_are_not_there_are_told_once_and_never_ok(run_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run_folder / "bundle", tmp_path / "bundle"))
    for name in ("plan.json", "eval.json", "curve.jsonl"):
        (copy / name).unlink()
    found = verify(copy)
    assert not {"curve.jsonl", "card.json"} & {finding.place for finding in found if finding.status == OK}
    told = [finding.place for finding in found if finding.status == WRONG]
    assert sorted(told) == ["curve.jsonl", "eval.json", "plan.json"]
    needed = {
        finding.check for finding in found if finding.status == UNKNOWN and "needs it: eval.json" in finding.reason
    }
    assert {"card", "drawn", "scores"} <= needed


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is none of these: .*There is no run.json"):
        verify(tmp_path)


# Altered


class Forgery(NamedTuple):
    """An alteration.

    Args:
        what (`str`): In words.
        do (`Callable`): Does it to a bundle.
        place (`str`, *optional*): Pattern of a place that is found even where card and manifest were rebuilt; None
            where nothing can be found then.
    """

    what: str
    do: Callable[[Path], object]
    place: str | None


def text(name: str, old: str, new: str) -> Callable[[Path], object]:
    """Replaces the first match of a pattern in a file of text."""

    def do(bundle: Path) -> None:
        before = (bundle / name).read_text(encoding="utf-8")
        after = re.sub(old, new, before, count=1)
        assert after != before, f"{old!r} is not in {name}"
        (bundle / name).write_text(after, encoding="utf-8")

    return do


def values(name: str, **found: Any) -> Callable[[Path], object]:
    """Sets keys of a JSON file; `__` stands for a level."""
    return lambda bundle: change(bundle / name, {key.replace("__", "."): value for key, value in found.items()})


def content(name: str, function: Callable[[Any], object]) -> Callable[[Path], object]:
    return lambda bundle: change(bundle / name, function)


def line(number: int, file: str = "resources.jsonl", **found: Any) -> Callable[[Path], object]:
    """Sets keys of a line."""

    def do(bundle: Path) -> None:
        lines = [json.loads(text) for text in (bundle / file).read_text().splitlines()]
        lines[number].update({key: value(lines[number][key]) for key, value in found.items()})
        (bundle / file).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return do


def gone(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).unlink()


def byte(name: str, place: int) -> Callable[[Path], object]:
    def do(bundle: Path) -> None:
        found = bytearray((bundle / name).read_bytes())
        found[place] ^= 1
        (bundle / name).write_bytes(found)

    return do


def added(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).write_bytes(b"added")


def per_query(function: Callable[[pa.Table], pa.Table]) -> Callable[[Path], object]:
    def do(bundle: Path) -> None:
        path = bundle / PER_QUERY
        pyarrow.parquet.write_table(function(pyarrow.parquet.read_table(path)), path)

    return do


def better(table: pa.Table) -> pa.Table:
    """One query has found its passage after all."""
    found = table["MAP"].to_pylist()
    worst = min(range(len(found)), key=found.__getitem__)
    return table.set_column(
        table.column_names.index("MAP"), "MAP", pa.array([*found[:worst], 1.0, *found[worst + 1 :]])
    )


def swapped(plan: dict[str, Any]) -> None:
    """Two batches of the plan change places."""
    batches = plan["batches"]
    other = next(number for number, pair in enumerate(batches) if pair != batches[0])
    batches[0], batches[other] = batches[other], batches[0]


def swapped_and_hashed(bundle: Path) -> None:
    """The same, with all fingerprints rebuilt."""
    change(bundle / "plan.json", swapped)
    plan = json.loads((bundle / "plan.json").read_text())
    made = plan_fingerprint(
        [(pair["batch_type"], pair["language_pair"]) for pair in plan["language_pairs"]],
        plan["batches"],
    )
    change(bundle / "plan.json", {"fingerprint": made})
    change(bundle / "run.json", {"identity.plan": made})


def renamed(run: dict[str, Any]) -> None:
    items = run["corpus"]["items_per_language"]
    run["corpus"]["items_per_language"] = {"fr" if name == "de" else name: count for name, count in items.items()}


def plus(amount: float) -> Callable[[float], float]:
    return lambda value: value + amount


def shorter(table: pa.Table) -> pa.Table:
    return table.slice(1)


def measured(value: float) -> Callable[[dict[str, float]], dict[str, float]]:
    return lambda measures: {**measures, "multilingual/MAP": value}


def exchanged(bundle: Path) -> None:
    line(0, pairs=plus(1))(bundle)
    line(1, pairs=plus(-1))(bundle)


def removed_as_too_large(bundle: Path) -> None:
    (bundle / PER_QUERY).unlink()
    change(bundle / "eval.json", {"values_bytes.after": 10**9})


def locked(name: str) -> Callable[[Path], object]:
    return text("requirements.txt", f"(?m)^{name}==.*$", f"{name}==1.0")


run, scores, totals = (partial(values, name) for name in ("run.json", "eval.json", "resources.json"))
point = partial(line, file="curve.jsonl")  # after steps 2, 4, 6 and 8, where lines of the log end after 3, 6 and 8
PER_QUERY = "evaluations/after/per_query.parquet"
HASH = "0123456789abcdef" * 4
SEEDS = {"config__seed": 43, "identity__seed": 43, "identity__data_seed": 43, "seed": 43}
FORGERIES = [
    Forgery("a digit in a table of the card", text("README.md", r"(\| 0\.\d)\d", r"\g<1>x"), "README.md, line"),
    Forgery("a license in the card", text("README.md", r"Unicode-3\.0", "MIT"), "README.md, line"),
    Forgery("a line more in the card", text("README.md", r"\Z", "The best model.\n"), "README.md, line"),
    Forgery("a byte of the log, in a score", text("events.jsonl", r'"MAP": 0\.', '"MAP": 1.'), "before: MAP"),
    Forgery("the reason of the stop", text("events.jsonl", '"finished"', '"told to"'), "last stop"),
    Forgery("processes in the log", text("events.jsonl", '"world_size": 1', '"world_size": 8'), "world_size"),
    Forgery("the log, cut short", text("events.jsonl", r"(?s)\A[^\n]*\n", ""), "events"),
    Forgery("the log, removed", gone("events.jsonl"), "events.jsonl$"),
    Forgery("the card, removed", gone("README.md"), "README.md$"),
    Forgery("values of queries, removed", gone(PER_QUERY), PER_QUERY),
    Forgery("a picture, removed", gone("pictures/pairs_after.png"), "pairs_after.png$"),
    Forgery("a file, added", added("more.bin"), "more.bin$"),
    Forgery("a picture, added", added("pictures/more.png"), "more.png$"),
    Forgery("a byte of a picture", byte("pictures/pairs_after.png", -20), "pairs_after.png$"),
    Forgery("the plan, two batches swapped", content("plan.json", swapped), "plan.json: fingerprint"),
    Forgery("the same with new fingerprints", swapped_and_hashed, "plan.json: fingerprint"),
    Forgery("steps of a language pair", text("run.json", r'"steps": (\d)', r'"steps": 1\1'), "plan: steps"),
    Forgery("another corpus", run(corpus__fingerprint=HASH), "run.json: corpus: fingerprint"),
    Forgery("another corpus, twice", run(corpus__fingerprint=HASH, identity__corpus=HASH), "corpus: fingerprint"),
    Forgery("another evaluation corpus", scores(evaluated__corpus_fingerprint=HASH), "evaluated: corpus_fingerprint"),
    Forgery("the license of the corpus", run(corpus__license="MIT"), "run.json: corpus: license"),
    Forgery("the license, twice", run(corpus__license="MIT", corpus__source__license="MIT"), "source: license"),
    Forgery("the name of a language", content("run.json", renamed), "plan.json: language pairs: de->de"),
    Forgery("the seed", run(config__seed=43), "identity: seed"),
    Forgery("the seed, in all places", run(**SEEDS), "plan.json: fingerprint"),
    Forgery("the mix", run(mix="mono=0.25,cross=0.75"), "run.json: mix"),
    Forgery("the learning rate", run(config__learning_rate=1e-5), "identity: learning_rate"),
    Forgery("the number of steps", run(config__max_steps=80), "identity: max_steps"),
    Forgery("how the run ended", run(status="failed"), "run.json: status"),
    Forgery("the version of torch", run(environment__versions__torch="1.0"), "versions: torch"),
    Forgery("the version of Python", run(environment__python="3.9.0"), "environment: python"),
    Forgery("the lock, a version", locked("transformers"), "versions: transformers"),
    Forgery("a key twice in a record", text("run.json", '"seed": 42', '"seed": 7, "seed": 42'), "run.json$"),
    Forgery("half a line", text("events.jsonl", r"(?s)(.{200}).*", r"\1"), "events.jsonl$"),
    Forgery("half a record", text("eval.json", r"(?s)(.{200}).*", r"\1"), "eval.json$"),
    Forgery("a text for a number", totals(num_pairs="many"), "resources.json: num_pairs"),
    Forgery("the total of tokens", totals(tokens=10**6), "resources.json: tokens"),
    Forgery("tokens of a line", line(1, tokens=plus(1)), "resources.json: tokens"),
    Forgery("pairs of two lines, in exchange", exchanged, "line 1: pairs"),
    Forgery("the batch type of a line", line(0, batch_type=lambda found: "pool"), "line 1: batch_type"),
    Forgery("the step of a line", line(0, step=plus(1)), "resources.jsonl, line"),
    Forgery("the energy", totals(energy_wh=0.75), "resources.json: energy_wh"),
    Forgery("the energy, skipped", totals(energy_wh=None, energy_source=None), "resources.json: energy_wh"),
    Forgery("the source of energy", totals(energy_source="nvml"), "resources.json: energy_source"),
    Forgery("the time", totals(train_time_s=0.1), "resources.json: train_time_s"),
    Forgery("the time of set-up", totals(setup_time_s=0.1), "resources.json: setup_time_s"),
    Forgery("the pairs a second", totals(pairs_per_s=9999.0), "resources.json: pairs_per_s"),
    Forgery("tokens of a language", totals(per_language__de__tokens=7), "per_language: de: tokens"),
    Forgery("steps of a language", totals(per_language__de__steps=1), "per_language: de: steps"),
    Forgery("the operations", totals(flops=1e15), "resources.json: flops"),
    Forgery("the peak of memory, lowered", totals(peak_host_memory_gib=[0.001]), "peak_host_memory_gib"),
    Forgery("a value of a query", per_query(better), "eval.json: after: .*: MAP"),
    Forgery("a query skipped", per_query(shorter), "eval.json: after: .*: MAP"),
    Forgery("the score of a setting", scores(after__multilingual__MAP=0.99), "after: multilingual: MAP"),
    Forgery("the score of a pair", scores(**{"before__pairs__de-en__nDCG@10": 0.99}), "before: pairs: de-en: nDCG@10"),
    Forgery("the rank distance", scores(after__bias__rank_distance=1.5), "bias: rank_distance"),
    Forgery("the number of queries", scores(after__num_queries=4800), "after: num_queries"),
    Forgery("the scores from before, skipped", scores(before=None), "eval.json: before"),
    Forgery("values, removed as too large", removed_as_too_large, "eval.json: values_bytes: after"),
    Forgery("the step of the model", run(model__step=3), "run.json: model: step"),
    Forgery("the step of a point of the curve", point(1, step=plus(-1)), "curve.jsonl, line 2: tokens"),
    Forgery("the order of the curve", point(2, step=plus(-2)), "curve.jsonl, line 3: step"),
    Forgery("a point after the end of the run", point(3, step=plus(1)), "curve.jsonl, line 4: step"),
    Forgery("tokens until a point", point(2, tokens=plus(1)), "curve.jsonl, line 3: tokens"),
    Forgery("tokens until a point between two lines", point(1, tokens=plus(10**6)), "curve.jsonl, line 2: tokens"),
    Forgery("the time until a point", point(2, train_time_s=plus(-1e-3)), "curve.jsonl, line 3: train_time_s"),
    Forgery("the energy until a point", point(1, energy_wh=plus(1.0)), "curve.jsonl, line 2: energy_wh"),
    Forgery("the energy until a point, skipped", point(1, energy_wh=lambda _: None), "line 2: energy_wh"),
    Forgery("the last score of the curve", point(3, measures=measured(0.99)), "line 4: measures: multilingual/MAP"),
    Forgery("the last scores of the curve, skipped", point(3, measures=lambda _: {}), "line 4: measures"),
    Forgery("the rank correlation of queries", scores(**{"after__bias__MRC@10": 0.9}), "line 4: .*bias/MRC@10"),
    Forgery("half a line of the curve", text("curve.jsonl", r"(?s)(.{200}).*", r"\1"), "curve.jsonl$"),
    # without a witness
    Forgery("a score on the way", point(0, measures=measured(0.99)), None),
    Forgery("a point of the curve, skipped", text("curve.jsonl", r"\A[^\n]*\n", ""), None),
    Forgery("a loss", line(1, loss=plus(-1)), None),
    Forgery("the rank correlation of queries, before", scores(**{"before__bias__MRC@10": 0.9}), None),
    Forgery("the lock, of what run.json does not name", locked("pytest"), None),
    Forgery("the hash of a file of the model", text("model.json", '"sha256": ".', '"sha256": "x'), None),
]  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES, ids=[forgery.what for forgery in FORGERIES])
def test_an_altered_bundle_is_found(forgery: Forgery, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    forgery.do(copy)
    altered = {
        name for name in {*contents(bundle), *contents(copy)} if contents(bundle).get(name) != contents(copy).get(name)
    }
    plainly = [finding for finding in check_manifest(RunFiles(copy, copy)) if finding.status == WRONG]
    assert altered
    assert {finding.place for finding in plainly} == altered
    if "README.md" not in altered:
        make_card_anew(copy)
    write_manifest(copy)
    found = wrong(copy)
    if forgery.place is None:
        assert found == [], "it is found, so say so in the list"
    else:
        assert any(re.search(forgery.place, one.place) for one in found), found
    add_row(forgery.what, plainly, [one for one in found if re.search(forgery.place or "", one.place)])


def make_card_anew(bundle: Path) -> None:
    """As a clever forger would, where records that cannot be read do not prevent it."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
        (bundle / "README.md").write_text(build_card(read_files(bundle)), encoding="utf-8")


def add_row(what: str, by_manifest: list[Finding], otherwise: list[Finding]) -> None:
    if (table := os.environ.get("VERIFY_TABLE")) is None:
        return
    path = Path(table)
    if not path.exists():
        path.write_text("| altered | found by the manifest | with card and manifest rebuilt |\n|---|---|---|\n")
    columns = [f"{one[0].place}: {one[0].reason}" if one else "not found" for one in (by_manifest, otherwise)]
    shown = [
        re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", column).replace("|", "\\|") for column in (what, *columns)
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(column[:200] for column in shown)} |\n")


@pytest.mark.parametrize("name", ["manifest.json", "model.json", "requirements.txt"])
def test_a_bundle_without_what_vouches_for_it_is_a_bundle_still(name: str, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copy / name).unlink()
    assert name in {finding.place for finding in wrong(copy)}


@pytest.mark.parametrize("kind", ["run folder", "repository"])
def test_an_altered_model_is_found(kind: str, run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if kind == "repository":
        published(run_folder, folder)
    else:
        shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = next(path for path in folder.rglob("model.safetensors"))
    byte(weights.name, -1)(weights.parent)
    (weights.parent / "pytorch_model.bin").write_bytes(b"another model")
    found = {finding.place: finding.reason for finding in wrong(folder)}
    name = weights.relative_to(folder).as_posix()
    assert found.keys() == {name, "pytorch_model.bin"}
    assert "was altered: expected SHA-256" in found[name]
    add_row(f"a byte of the weights in a {kind}", [], [one for one in wrong(folder) if one.place == name])


def test_a_published_file_that_is_not_that_of_the_bundle_is_found(run_folder: Path, tmp_path: Path) -> None:
    repository = published(run_folder, tmp_path / "repository")
    change(repository / "eval.json", {"after.multilingual.MAP": 0.99})
    text("README.md", r"(\| 0\.\d)\d", r"\g<1>x")(repository)
    found = {finding.place.split(", line")[0] for finding in wrong(repository)}
    assert found == {"eval.json: after: multilingual: MAP", "README.md"}


@pytest.mark.parametrize("name", ["manifest.json", "model.json"])
def test_a_manifest_that_names_other_folders_is_not_followed(name: str, run_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoint-*")))
    (tmp_path / "secret").write_text("not yours")
    elsewhere = {"../../secret": {"bytes": 9, "sha256": HASH}}
    change(folder / "bundle" / name, lambda manifest: manifest["files"].update(elsewhere))
    told = {finding.place: finding.reason for finding in wrong(folder)}
    assert told[name] == "names '../../secret', which lies elsewhere"
    assert "secret" not in "".join(told)


# Corpora that are not built in


def test_without_the_corpus_it_says_how_to_give_it(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    change(copy / "run.json", {"config.train_corpus": "help"})
    unknown = {finding.place: finding.reason for finding in verify(copy) if finding.status == UNKNOWN}
    assert unknown["run.json: corpus"] == "the run used 'help': give --train_corpus FOLDER"
    given = Given(train_corpus="sample")
    places = {finding.place for finding in verify(copy, given) if finding.check == "corpus" and finding.status == OK}
    assert "run.json: corpus: fingerprint" in places
    elsewhere = Given(train_corpus=str(tmp_path))
    told = [finding.reason for finding in verify(copy, elsewhere) if finding.place == "run.json: corpus"]
    assert "the corpus could not be opened" in told[0]


def test_a_built_in_corpus_of_another_release_is_not_known(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    change(copy / "run.json", {"corpus.source.revision": "babel 1.0"})
    found = [finding for finding in verify(copy) if finding.check == "corpus" and finding.status != OK]
    assert [finding.status for finding in found] == [UNKNOWN]
    assert re.search(r"it was built from babel 1\.0, and here from babel 2", found[0].reason)
    change(copy / "run.json", {"corpus.fingerprint": HASH, "identity.corpus": HASH})
    again = [finding for finding in verify(copy) if finding.check == "corpus" and finding.status != OK]
    assert again == found, "that would be another corpus, not a forged one"


def test_a_card_of_another_release_is_not_called_forged(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    text("README.md", r"Unicode-3\.0", "MIT")(copy)
    assert "README.md, line" in str([finding.place for finding in wrong(copy) if finding.check == "card"])
    text("requirements.txt", "(?m)^hf-hybrid==.*$", "hf-hybrid==0.0.7")(copy)
    found = [finding for finding in verify(copy) if finding.check == "card"]
    assert [finding.status for finding in found] == [UNKNOWN]
    assert re.fullmatch(r"it was made by hf-hybrid 0\.0\.7; here is .*", found[0].reason)


def test_a_picture_that_other_machines_drew_is_not_called_forged(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    byte("pictures/pairs_after.png", -20)(copy)
    change(copy / "run.json", {"environment.platform": "Plan9-4.0-vax"})
    found = {finding.place: finding.status for finding in verify(copy) if finding.check == "drawn"}
    assert found == {"pictures/pairs_after.png": UNKNOWN, "pictures/pairs_change.png": OK}


def test_a_picture_is_not_called_forged_where_none_can_be_drawn(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    found = {finding.place: (finding.status, finding.reason) for finding in verify(copy) if finding.check == "drawn"}
    reason = "matplotlib is not installed here"
    assert found == {f"pictures/pairs_{name}.png": (UNKNOWN, reason) for name in ("after", "change")}
    (copy / "pictures" / "pairs_after.png").unlink()
    added("pictures/more.png")(copy)
    assert {one.place for one in wrong(copy) if one.check == "drawn"} == {
        "pictures/pairs_after.png",
        "pictures/more.png",
    }


def test_a_run_whose_machine_could_not_draw_is_not_called_forged(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    shutil.rmtree(copy / "pictures")
    RunFolder(copy).write_card_options({**RunFolder(copy).read_card_options(), "pictures": False})
    make_card_anew(copy)
    write_manifest(copy)
    assert wrong(copy) == []
    (copy / "pictures").mkdir()
    added("pictures/pairs_after.png")(copy)
    assert "pictures/pairs_after.png" in {one.place for one in wrong(copy) if one.check == "drawn"}


def test_of_a_run_that_no_recipe_started_what_it_lacks_is_not_known(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    arguments = {field.name for group in (ModelArguments, DataArguments) for field in dataclasses.fields(group)}
    change(copy / "run.json", lambda run: [run["config"].pop(name, None) for name in arguments])
    make_card_anew(copy)
    write_manifest(copy)
    found = verify(copy)
    assert [finding for finding in found if finding.status == WRONG] == []
    unknown = {finding.place: finding.reason for finding in found if finding.status == UNKNOWN}
    for place in ("run.json: corpus", "run.json: identity: max_query_length", "plan.json: what the texts decide"):
        assert unknown[place] == "the run was made in Python; run.json lacks train_corpus"
    assert len([finding for finding in found if finding.status == OK]) > 200


# Made again


def test_a_run_made_again_is_compared_bit_for_bit_on_the_same_machine(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "again"))
    assert {finding.status for finding in compare_runs(bundle, copy)} == {OK, UNKNOWN}
    line(1, loss=lambda loss: loss * (1 + 1e-6))(copy)
    change(copy / "eval.json", {"after.pairs.de-en.MAP": 0.25, "after.multilingual.MAP": 0.2})
    found = {finding.place for finding in compare_runs(bundle, copy) if finding.status == WRONG}
    step = RunFolder(copy).read_resource_lines()[0][1]["step"]
    assert found == {
        f"resources.jsonl: loss of step: {step}",
        "eval.json: after: pairs: de-en: MAP",
        "eval.json: after: multilingual: MAP",
    }


@pytest.mark.parametrize(("loss", "score", "expected"), [(1.04, 0.009, 0), (1.06, 0.011, 2)])
def test_elsewhere_it_is_compared_within_tolerances(
    loss: float, score: float, expected: int, bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "again"))
    change(copy / "run.json", {"environment.cpu_count": 1024})
    line(1, loss=lambda value: value * loss)(copy)
    known = RunFolder(bundle).read_eval()["after"]
    assert known is not None
    change(copy / "eval.json", {"after.multilingual.MAP": known["multilingual"]["MAP"] + score})
    assert len([finding for finding in compare_runs(bundle, copy) if finding.status == WRONG]) == expected


def test_another_run_is_no_rerun(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "again"))
    change(copy / "run.json", {"identity.seed": 7, "environment.cpu_count": 1024})
    found = [finding.place for finding in compare_runs(bundle, copy) if finding.status == WRONG]
    assert found == ["run.json: identity: seed"]


# The recipe


def recipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: Any) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["recipes/verify.py", *map(str, options)])
    with pytest.raises(SystemExit) as stop:
        console.main(["verify", *map(str, options)])
    return int(stop.value.code or 0), *capsys.readouterr()


def test_the_recipe_says_what_is_wrong(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = partial(recipe, capsys, monkeypatch)
    code, said, _ = call(bundle)
    assert code == 0
    assert re.search(r"^0 wrong, \d+ ok, \d+ unknown$", said, re.MULTILINE)
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    change(copy / "resources.json", {"tokens": 1})
    code, said, _ = call("--path", copy)
    assert code == 1
    assert re.search(r"^wrong: resources.json: tokens: expected \d+, found 1  \(resources\)$", said, re.MULTILINE)
    assert said.count("\n") < 70


def test_a_run_is_made_again_and_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    options = {"languages": "de,en", "held_out": 30, "max_steps": 3, "global_batch_size": 16, "logging_steps": 1}
    options |= {"scratch_hidden_size": 32, "scratch_vocab_size": 500, "energy": "none", "use_cpu": True}
    options |= {"cpu_threads": 1, "output_dir": tmp_path / "first", "disable_tqdm": True}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr("sys.argv", ["recipes/train.py", *words])
    logger = logging.getLogger("hf_hybrid")
    before = logger.handlers[:], logger.level, logger.propagate
    console.main(["train", *words])
    logger.handlers[:], logger.level, logger.propagate = before
    write_bundle(tmp_path / "first")
    alone = shutil.copytree(tmp_path / "first" / "bundle", tmp_path / "downloaded")  # nothing else is left of it
    again = ["--rerun", "--output_dir", tmp_path / "again"]
    code, said, error = recipe(capsys, monkeypatch, alone, *again)
    assert code == 0, said + error
    assert "Compared bit for bit: versions, machine, processes and threads are the same." in said
    assert re.search(r"^rerun +resources.jsonl +3 +0 +0$", said, re.MULTILINE)
    assert re.search(r"^rerun +eval.json +\d\d+ +0 +0$", said, re.MULTILINE)


def test_a_folder_that_holds_a_run_is_not_taken_for_the_second(
    bundle: Path, run_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", None)  # nothing is trained
    code, _, said = recipe(capsys, monkeypatch, bundle, "--rerun", "--output_dir", run_folder)
    assert code == 2
    assert f"--output_dir {run_folder} already holds a run: name a new folder" in said


@pytest.mark.parametrize("name", ["cpu", "cpu_threads"])
def test_another_processor_or_number_of_threads_promises_no_bits(name: str, bundle: Path) -> None:
    here = RunFolder(bundle).read_run()
    assert here["environment"][name]
    assert unlike_machines(here, here) == []
    for value in ("another", None):  # None: as in runs from before it was recorded
        other: Any = {**here, "environment": {**here["environment"], name: value}}
        assert any(reason.startswith(f"{name}: ") for reason in unlike_machines(other, here))
    assert unlike_machines(other, other) != []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--path"),
        (["nowhere"], "There is no folder nowhere."),
        (["user/name"], "download it first, `hf download user/name --local-dir name`"),
        ([__file__], "is a file: give its folder"),
        (["x", "--tolerance", "2"], "give a number from 0 to 1"),
        (["x", "--rerunn"], "did you mean --rerun"),
    ],
)
def test_mistakes_are_explained(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, said = recipe(capsys, monkeypatch, *options)
    assert code == 2
    assert told in said
    assert "Traceback" not in said


# Findings


def test_values_of_another_type_are_not_the_same() -> None:
    pairs = [(1, True), (0, False), (1, "1"), (None, 0), ([1], [1, 2]), ({"a": 1}, [1]), (float("nan"), 1.0)]
    for expected, found in pairs:
        assert [finding.status for finding in compare("x", "file", expected, found)] == [WRONG], (expected, found)
    assert [finding.status for finding in compare("x", "file", 1, 1.0)] == [OK]
    assert [finding.status for finding in compare("x", "file", 0.1 + 0.2, 0.3)] == [OK]
    assert [finding.status for finding in compare("x", "file", 0.3, 0.3 + 1e-8)] == [WRONG]


def test_the_table_counts_by_file_and_tells_all_that_is_wrong() -> None:
    findings = [Finding("plan", OK, f"plan.json: language pairs[{number}]") for number in range(500)]
    findings += [Finding("plan", WRONG, f"run.json: {number}", "expected b") for number in range(30)]
    told = format_findings(findings)
    assert re.search(r"^plan +plan.json +500 +0 +0$", told, re.MULTILINE)
    assert told.count("wrong: run.json") == 30
    assert told.count("\n") < 40
