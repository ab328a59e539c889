"""Model cards: valid for the Hub, of bounded size, safe with any name, with code that gives the promised vectors."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import shlex
import shutil
import string
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import markdown
import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_eval_result, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from hf_hybrid.data.sources.presets import PRESETS
from hf_hybrid.hub import card_sections, model_card
from hf_hybrid.hub.card_metadata import (
    CardFiles,
    convert_languages,
    convert_license,
    list_eval_entries,
    list_eval_results,
)
from hf_hybrid.hub.model_card import build_card, read_files, write_card
from hf_hybrid.hub.rerun_command import build_command, command_options
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import CardOptions
from hf_hybrid.training.arguments import (
    DataArguments,
    EncoderArguments,
    HybridTrainingArguments,
    MlmTrainingArguments,
    ModelArguments,
)
from hf_hybrid.training.identity import read_run_like
from hf_hybrid.training.run import _model_record, run_training
from hf_hybrid.utils.options import MODEL, RERUN, find_changed_options, options_that_decide, parse_arguments
from hf_hybrid.utils.redaction import publishable
from hf_hybrid.utils.text import escape, table
from tests.support import families
from tests.support.card_runs import CODES, write_run
from tests.support.toy_runs import toy_trainer
from tests.support.toys import toy_corpus, toy_encoder

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
HOME = "/" + "home"
OPTIONS: CardOptions = {"repo_id": "user/help-hybrid", "license": "apache-2.0"}
JSON_FILES = ("run.json", "eval.json", "resources.json", "plan.json", "card.json")


@pytest.fixture(autouse=True)
def no_value_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default jinja puts nothing where a name of the template is not given."""
    monkeypatch.setattr(jinja2, "Template", functools.partial(jinja2.Template, undefined=jinja2.StrictUndefined))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "help", ["de", "en", "pt-BR"]).path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that a training has left."""
    path = tmp_path_factory.mktemp("runs") / "toy run"
    train, held_out = toy_corpus(num_items=40, languages=("de", "en")).split(held_out=10)
    model = toy_encoder(train, query_prompt="query: ", passage_prompt="passage: ")
    trainer = toy_trainer(path, train, model=model, eval_corpus=held_out, max_steps=3)
    run_training(trainer, RunFolder(path), [ModelArguments(), DataArguments(), trainer.args])
    return path


def change(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def metadata(folder: Path) -> dict[str, Any]:
    return ModelCard.load(folder / "README.md").data.to_dict()


# The whole


def test_a_run_has_its_card_without_being_asked_anything(trained: Path) -> None:
    path = write_card(trained)
    assert path == trained / "README.md"
    text = path.read_text(encoding="utf-8")
    assert text == build_card(read_files(trained))
    assert not (trained / "card.json").exists()
    assert re.search(r": \d+ of the [1-9]\d* training texts were cut\.", text)
    evaluation = json.loads((trained / "eval.json").read_text())
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        before, after = (evaluation[when][setting]["MAP"] for when in ("before", "after"))
        assert f"{before:.4f} → **{after:.4f}**" in text
    assert f"| rank_distance | {evaluation['before']['bias']['rank_distance']:,.1f} |" in text
    assert {found.name for found in (trained / "pictures").iterdir()} == {"pairs_after.png", "pairs_change.png"}
    assert "Energy | not measured" in text
    assert str(trained.parent) not in text


def test_the_same_files_give_the_same_bytes_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "run.json").read_text())["config"]
    places = {"output_dir": "/data/me/runs/help", "train_corpus": "/data/me/corpora/help"}
    change(folder, "run.json", config={**config, **places})
    text = write_card(folder, OPTIONS).read_bytes()
    pictures = {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}
    assert write_card(folder).read_bytes() == text
    assert {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()} == pictures
    published = tmp_path / "elsewhere"
    published.mkdir()
    for name in JSON_FILES:
        content = publishable(json.loads((folder / name).read_text()))
        (published / name).write_text(json.dumps(content))
    assert build_card(read_files(published)).encode() == text
    assert b"/data/" not in text


def test_size_hardly_depends_on_the_number_of_languages(tmp_path: Path) -> None:
    sizes = {
        number: len(build_card(read_files(write_run(tmp_path / str(number), CODES[:number]).path)))
        for number in (2, 16, 100)
    }
    assert sizes[100] < 40_000
    assert sizes[100] - sizes[16] < 1_500
    longest = write_run(tmp_path / "long", [f"{code}-Latn-{code.upper()}" for code in CODES[:100]]).path
    assert len(build_card(read_files(longest))) < 40_000


def test_a_template_lies_in_the_package_and_beside_the_cards() -> None:
    inside, beside = (ROOT / name / "model_card_template.md" for name in ("hf_hybrid/hub", "model_cards"))
    assert inside.read_bytes() == beside.read_bytes()


def test_the_card_is_written_without_torch() -> None:
    code = "import sys, hf_hybrid.hub.model_card; print({'torch', 'transformers', 'matplotlib'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == "set()"


# Code


def vectors(folder: Path, texts: dict[str, str] | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Those that each block of code in a card makes, where the run folder lies."""
    text = build_card(read_files(folder))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for old, new in (texts or {}).items():
            assert old in block
            block = block.replace(old, new)
        names: dict[str, Any] = {}
        exec(block, names)
        found.append((np.asarray(names["queries"]), np.asarray(names["passages"])))
    return found


def test_all_doors_give_the_same_vectors(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.parent)
    doors = vectors(trained)
    assert len(doors) == 3
    for queries, passages in doors[1:]:
        families.assert_near(queries, doors[0][0])
        families.assert_near(passages, doors[0][1])
    assert families.differ(doors[0][1][0], doors[0][1][1])


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("bert", {"pooling": "cls", "normalize": False}),
        ("xlm-roberta", {"pooling": "mean", "query_prompt": 'query: "\\', "passage_prompt": "passage: '"}),
        ("labse", {"max_length": 12}),
    ],
)
def test_each_pooling_is_written_out_right(
    family: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = families.encoder(family, **settings)
    folder = write_run(tmp_path / "run", ["de", "en"], model=_model_record(encoder)).path
    encoder.save_pretrained(folder / "model")
    monkeypatch.chdir(tmp_path)
    short, long = families.texts(3, 30)
    doors = vectors(folder, {"Welche Währung hat Japan?": short, "日本の通貨は円です。": long})
    assert len(doors) == 3
    for queries, passages in doors:
        families.assert_near(queries, encoder.encode([short], "query"))
        families.assert_near(passages, encoder.encode([long, "Lima is the capital of Peru."], "passage"))
    assert families.differ(doors[0][0], encoder.encode([long], "query"))


def test_a_pooler_that_is_not_used_is_told_of_where_transformers_has_one(folder: Path) -> None:
    told, model = "may report that weights of a pooler are missing", read_files(folder).model
    for architecture, pooling in (("bert", "mean"), ("bert", "pooler"), ("modernbert", "mean")):
        change(folder, "run.json", model={**model, "architecture": architecture, "pooling": pooling})
        assert (told in build_card(read_files(folder))) == ((architecture, pooling) == ("bert", "mean"))
    for architecture in card_sections._WITH_POOLER:
        model_class: Any = MODEL_MAPPING[CONFIG_MAPPING[architecture]]
        assert "add_pooling_layer" in inspect.signature(model_class).parameters


def test_a_card_of_no_repository_says_what_its_places_are(folder: Path) -> None:
    told = "In code and commands, replace help by the path of the run folder."
    assert told in build_card(read_files(folder))
    assert "--like help --output_dir runs/help-again" in build_card(read_files(folder))
    published = write_card(folder, OPTIONS).read_text()
    assert "the path of the run folder" not in published
    assert "--like user/help-hybrid --output_dir runs/help-hybrid-again" in published


def test_the_file_of_a_run_is_as_good_as_its_folder(folder: Path) -> None:
    assert read_run_like(str(folder / "run.json")) == read_run_like(str(folder))


def test_where_pooling_alone_makes_no_vector_the_card_says_so(folder: Path) -> None:
    change(folder, "run.json", model={**json.loads((folder / "run.json").read_text())["model"], "projection": True})
    text = build_card(read_files(folder))
    assert "AutoModel" in text
    assert "AutoModel.from_pretrained" not in text
    assert "mean of all tokens, then a dense layer" in text


# Metadata


def test_metadata_goes_through_the_checks_of_the_hub_client(folder: Path) -> None:
    write_card(folder, {**OPTIONS, "datasets": ["user/help"]})
    content = (folder / "README.md").read_text()
    found = metadata(folder)
    assert str(ModelCard(content)) == content
    assert ModelCardData(**yaml.safe_load(yaml.safe_dump(found))).to_dict() == found
    said = {
        name: found[name] for name in ("language", "license", "base_model", "datasets", "pipeline_tag", "library_name")
    }
    assert said == {
        "language": ["de", "en", "pt"],
        "license": "apache-2.0",
        "base_model": "intfloat/multilingual-e5-small",
        "datasets": ["user/help"],
        "pipeline_tag": "sentence-similarity",
        "library_name": "sentence-transformers",
    }
    assert {"sentence-transformers", "sentence-similarity", "feature-extraction"} < set(found["tags"])
    assert found["language_bcp47"] == ["pt-BR"]
    assert "co2_eq_emissions" not in found


def test_model_index_has_a_result_for_each_setting_and_bias(folder: Path) -> None:
    write_card(folder, OPTIONS)
    index = metadata(folder)["model-index"]
    name, results = model_index_to_eval_results(index)
    scores = RunFolder(folder).read_eval()["after"]
    assert name == "help-hybrid"
    assert scores is not None
    assert {(result.dataset_config, result.metric_name): result.metric_value for result in results} == {
        (setting, measure): pytest.approx(value, abs=1e-6)
        for setting in ("monolingual", "cross_lingual", "multilingual", "bias")
        for measure, value in scores[setting].items()
    }
    assert {result.dataset_type for result in results} == {"unknown"}  # a folder's name could be some data set's
    first: EvalResult = results[0]
    assert first.metric_type == "map"
    one = metadata_eval_result(
        model_pretty_name=name,
        task_pretty_name="Retrieval",
        task_id="text-retrieval",
        metrics_pretty_name="MAP",
        metrics_id="map",
        metrics_value=first.metric_value,
        dataset_pretty_name=first.dataset_name,
        dataset_id="unknown",
        dataset_config="monolingual",
    )["model-index"][0]["results"][0]
    assert index[0]["results"][0]["task"] == one["task"]
    assert index[0]["results"][0]["metrics"][0].items() <= one["metrics"][0].items()


@pytest.mark.parametrize(
    ("codes", "languages", "finer"),
    [
        (["zh-CN", "zh-Hant", "pt-BR"], ["zh", "pt"], ["zh-CN", "zh-Hant", "pt-BR"]),
        (["eng", "iw", "fil", "ckb", "cmn"], ["en", "he", "fil", "ckb", "cmn"], []),
        (["DE", "de-AT"], ["de"], ["de-AT"]),
        (["x-klingon", "", "german!", "toolonglanguage"], [], []),
    ],
)
def test_languages_are_those_that_the_hub_takes(codes: list[str], languages: list[str], finer: list[str]) -> None:
    assert convert_languages(codes) == (languages, finer)


def test_licenses_that_the_hub_does_not_know_have_a_name() -> None:
    assert convert_license("CC-BY-SA-4.0") == {"license": "cc-by-sa-4.0"}
    assert convert_license("My <b>own</b>\nterms") == {"license": "other", "license_name": "my-b-own-b-terms"}
    assert convert_license(None) == convert_license("") == {}
    known = {preset.license for preset in PRESETS.values()}
    assert [convert_license(license) for license in sorted(known)] == [
        {"license": license} for license in sorted(known)
    ]


def test_a_base_model_is_never_a_folder(folder: Path) -> None:
    write_card(folder)
    assert metadata(folder)["base_model"] == "intfloat/multilingual-e5-small"
    model = json.loads((folder / "run.json").read_text())["model"]
    change(folder, "run.json", model={**model, "commit": None})  # as of a folder runs/model, which reads like an id
    write_card(folder)
    assert "base_model" not in metadata(folder)
    write_card(folder, {"base_model": "user/base"})
    assert metadata(folder)["base_model"] == "user/base"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repo_id": "a/b/c"}, "'a/b/c' is not an id on the Hub"),
        ({"base_model": "../model"}, "not an id on the Hub"),
        ({"datasets": ["fine/one", "two words"]}, "'two words' is not an id on the Hub"),
        ({"carbon_intensity_g_per_kwh": 380.0}, "needs carbon_intensity_source: who"),
        ({"carbon_intensity_g_per_kwh": -1, "carbon_intensity_source": "s"}, "at least 0"),
    ],
)
def test_options_that_are_not_so_are_refused_before_anything_is_written(
    options: CardOptions, message: str, folder: Path
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ValueError, match=message):
        write_card(folder, options)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_emissions_need_the_energy_and_the_carbon_of_its_electricity(folder: Path) -> None:
    grid: CardOptions = {"carbon_intensity_g_per_kwh": 380, "carbon_intensity_source": "the grid's operator, 2025"}
    text = write_card(folder, grid).read_text()
    assert metadata(folder)["co2_eq_emissions"] == {
        "emissions": pytest.approx(52.25 / 1000 * 380),
        "source": "energy measured by nvml; 380 g of CO2 per kWh: the grid's operator, 2025",
        "training_type": "fine-tuning",
        "hardware_used": "2 x NVIDIA H100 80GB HBM3",
    }
    assert "| Emissions | 19.86 g of CO2;" in text
    change(folder, "resources.json", energy_wh=None, energy_source=None)
    text = write_card(folder, grid).read_text()
    assert "co2_eq_emissions" not in metadata(folder)
    assert "Energy | not measured" in text
    assert "Emissions" not in text


def test_benchmarks_of_the_hub_get_their_results(folder: Path) -> None:
    preset = PRESETS["mlqa-retrieval"]
    evaluation = json.loads((folder / "eval.json").read_text())
    source = {"format": "hub", "preset": "mlqa-retrieval", "id": preset.repo, "revision": preset.revision}
    change(folder, "eval.json", evaluated={**evaluation["evaluated"], "corpus": source})
    config = json.loads((folder / "run.json").read_text())["config"]
    change(folder, "run.json", config={**config, "eval_corpus": "mlqa-retrieval"})
    write_card(folder, OPTIONS)
    found = list((folder / ".eval_results").iterdir())
    assert [path.name for path in found] == ["MLQARetrieval.yaml"]
    content = yaml.safe_load(found[0].read_text())
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(content)}
    # pt-BR is no language of this set
    assert set(entries) == {"MLQARetrieval_deu-deu_test", "MLQARetrieval_eng-eng_test"}
    entry = entries["MLQARetrieval_deu-deu_test"]
    assert entry.value == pytest.approx(100 * evaluation["after"]["pairs"]["de-de"]["nDCG@10"], abs=1e-4)
    assert (entry.dataset_id, entry.dataset_revision) == (preset.repo, preset.revision)
    assert entry.source_url == "https://huggingface.co/user/help-hybrid/blob/main/eval.json"
    index = metadata(folder)["model-index"][0]["results"][0]["dataset"]
    assert (index["type"], index["revision"], index["split"]) == (preset.repo, preset.revision, "test")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_queries": 100},
        {"corpus": {"preset": "miracl", "id": "a copy", "revision": PRESETS["miracl"].revision}},
        {"corpus": {"preset": "xquad", "id": PRESETS["xquad"].repo, "revision": "main"}},
        {"corpus": {"path": "miracl"}},
    ],
)
def test_nothing_else_is_taken_for_a_benchmark(changes: dict[str, Any], folder: Path) -> None:
    preset = PRESETS["miracl"]
    whole = {"corpus": {"preset": "miracl", "id": preset.repo, "revision": preset.revision}, "max_queries": None}
    for evaluated, expected in ((whole, 2), ({**whole, **changes}, 0)):
        files = benchmarked(folder, evaluated)
        assert len(list_eval_entries(files)) == expected
        assert {result.dataset_type == preset.repo for result in list_eval_results(files)} == {expected > 0}


def benchmarked(folder: Path, evaluated: dict[str, Any], **source: Any) -> CardFiles:
    """A run that was evaluated on a corpus of its own; `source` is what is changed of the training corpus'."""
    files = read_files(folder)
    evaluation, run = {**files.evaluation, "evaluated": evaluated}, files.run
    config = {**run["config"], "eval_corpus": "miracl"}
    corpus = {**run["corpus"], "source": {**run["corpus"]["source"], **source}}
    return files._replace(evaluation=evaluation, run={**run, "config": config, "corpus": corpus})  # type: ignore[arg-type]


def test_items_held_out_of_a_benchmark_are_not_the_benchmark(folder: Path) -> None:
    preset = PRESETS["miracl"]
    source = {"preset": "miracl", "id": preset.repo, "revision": preset.revision}
    files = benchmarked(folder, {"corpus": source, "max_queries": None}, **source)
    assert list_eval_entries(files) == [], "it was trained on the same repository"
    config = {**files.run["config"], "eval_corpus": None}
    run = {**files.run, "config": config, "corpus": {**files.run["corpus"], "source": source}}
    held_out = files._replace(run=run)  # type: ignore[arg-type]
    assert list_eval_entries(held_out) == []
    found = list_eval_results(held_out)
    assert {(result.dataset_type, result.dataset_revision, result.dataset_split) for result in found} == {
        ("unknown", None, None)
    }
    assert found[0].dataset_name == "items held out of miracl (monolingual)"
    RunFolder(folder).write_run(run)  # type: ignore[arg-type]
    change(folder, "eval.json", evaluated=held_out.evaluated)
    assert "On items held out of miracl, " in build_card(read_files(folder))


# What is missing


def test_an_unfinished_run_says_so_first(folder: Path) -> None:
    change(folder, "run.json", status="interrupted")
    (folder / "resources.json").unlink()
    (folder / "plan.json").unlink()
    evaluation = json.loads((folder / "eval.json").read_text())
    change(folder, "eval.json", after=None)
    text = write_card(folder).read_text()
    body = text.split("\n# help\n", 1)[1]
    assert body.lstrip().startswith("> **This run is not finished.** Its status is interrupted")
    assert f"| {evaluation['before']['monolingual']['MAP']:.4f} |" in text
    assert "→" not in text.split("## Results")[1].split("##")[0]
    assert "languages, before training; higher is better" in text
    assert "against the records" in text
    assert "The model was not evaluated after training" in text
    assert "Resources were not measured." in text
    assert "model-index" not in text
    assert "pictures/" not in text


def test_a_run_without_scores_says_so(folder: Path) -> None:
    (folder / "eval.json").unlink()
    assert "The model was not evaluated." in write_card(folder).read_text()


def test_before_alone_is_missing(folder: Path) -> None:
    change(folder, "eval.json", before=None)
    text = write_card(folder).read_text()
    assert "→ **" not in text.split("\n| Setting |", 1)[1].split("\n\n")[0]
    assert [path.name for path in (folder / "pictures").iterdir()] == ["pairs_after.png"]
    assert "pairs_change" not in text


def test_without_matplotlib_no_picture_is_referred_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pictures/pairs_after.png" in write_card(folder, OPTIONS).read_text()
    with monkeypatch.context() as patched:
        patched.setattr(model_card.importlib.util, "find_spec", lambda name: None)
        text = write_card(folder).read_text()
    assert "pictures/" not in text
    assert not (folder / "pictures").exists()
    assert build_card(read_files(folder)) == text
    assert RunFolder(folder).read_card_options() == {**OPTIONS, "pictures": False}
    assert "pictures/pairs_after.png" in write_card(folder).read_text()
    assert RunFolder(folder).read_card_options() == OPTIONS


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run\.json"):
        write_card(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_no_recipe_started_names_no_command(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    run = json.loads((folder / "run.json").read_text())
    arguments = {field.name for group in (ModelArguments, DataArguments) for field in dataclasses.fields(group)}
    config = {name: value for name, value in run["config"].items() if name not in arguments}
    for model, told in (("mine-base, 0123", "mine-base"), ("from scratch, 0123", "random weights")):
        identity = {**run["identity"], "model": model, "max_query_length": 17}
        change(folder, "run.json", config=config, identity=identity)
        text = build_card(read_files(folder))
        assert f"| Trained from | {told} |" in text
        assert "queries in training at 17" in text
        assert "| Longest query, in tokens | 17 |" in text
        assert "accelerate launch" not in text
        assert "--like" not in text
        assert "recipes/sample" not in text
        assert "A Python program started this run" in text
    assert "accelerate launch recipes/train.py --like" in build_card(read_files(trained))


def test_pairs_of_languages_read_well_in_the_source_too(folder: Path) -> None:
    text = build_card(read_files(folder))
    assert "| de → en | cross |" in text
    assert "&#62;" not in text


def test_the_precision_of_the_measurements_is_told_where_that_of_the_code_is_another(folder: Path) -> None:
    told = "The scores were measured in bf16, as in training."
    assert told in build_card(read_files(folder))
    config = json.loads((folder / "run.json").read_text())["config"]
    change(folder, "run.json", config={**config, "bf16": False})
    assert "as in training" not in build_card(read_files(folder))


def test_the_card_names_no_package_that_nobody_has_published(folder: Path) -> None:
    assert not re.search("pip install [^`]*hf.hybrid", build_card(read_files(folder)))


# Limits that follow from the data


def test_limits_name_languages(folder: Path) -> None:
    evaluation = json.loads((folder / "eval.json").read_text())
    codes = ("de", "en", "sw", "ta")
    pairs = {f"{a}-{b}": {"MAP": 0.9 if a == b == "de" else 0.25} for a in codes for b in codes}
    pairs["sw-sw"] = {"MAP": 0.125}
    after = {**evaluation["after"], "pairs": pairs}
    change(folder, "eval.json", after=after, evaluated={**evaluation["evaluated"], "max_queries": 100})
    limits = build_card(read_files(folder)).split("## Limitations")[1].split("##")[0]
    assert "Evaluated without training: sw, ta." in limits
    assert "Trained, but not evaluated: pt-BR." in limits
    assert "Weakest within one language, by MAP: sw (0.125), en (0.250), ta (0.250)." in limits
    assert "Only the first 100 queries" in limits
    assert "one corpus, other-help" in limits


def test_held_out_items_are_told_from_another_corpus(trained: Path) -> None:
    assert "items held out of the training corpus" in build_card(read_files(trained))


def test_many_languages_are_shown_by_their_extremes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", CODES[:30]).path
    text = build_card(read_files(folder))
    scores = RunFolder(folder).read_eval()["after"]
    assert scores is not None
    means = {code: found[0] or 0 for code, found in card_sections.language_means(scores, "MAP").items()}
    order = sorted(means, key=lambda code: -means[code])
    rows = re.findall(r"^\| (\w\w) \| 0\.\d{4} \|", text, re.MULTILINE)
    assert rows == [*order[:5], *order[-5:]]
    assert "the 5 best and the 5 worst of 30" in text
    assert "and 10 more" in text


# The command


COMMANDS: dict[str, tuple[Any, ...]] = {
    "train": (ModelArguments, DataArguments, HybridTrainingArguments),
    "mlm": (EncoderArguments, DataArguments, MlmTrainingArguments),
}


def parse(command: str, words: list[str]) -> dict[str, Any]:
    """The options that decide a run, as `run.json` has them."""
    groups = parse_arguments(COMMANDS[command], words)[:3]
    config: dict[str, Any] = {}
    for group in groups:
        config |= group.to_dict() if hasattr(group, "to_dict") else dataclasses.asdict(group)
    names = [name for group in groups for name in options_that_decide(group, MODEL, RERUN)]
    changed = [name for group in groups for name in find_changed_options(group)]
    return {"config": {name: config[name] for name in names}, "changed": changed}


@pytest.mark.parametrize("start", ["--model_name_or_path intfloat/multilingual-e5-small", "--config sample/"])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_repeats_the_options_of_the_run(command: str, start: str) -> None:
    own = {
        "train": "--mix mono=0.5,pool=0.5 --symmetric true --max_query_length 20",
        "mlm": "--max_tokens 100000 --block_length 64 --masking dynamic --whole_word_mask true",
    }
    start += {"train": "hybrid", "mlm": "mlm"}[command] if start.endswith("/") else ""
    # weight_decay and max_passage_length are defaults that the sample settings change
    others = (
        "--query_prompt 'question: ' --max_passage_length 256 --weight_decay 0.0 --learning_rate 2e-4 --use_cpu true"
    )
    others += " --lr_scheduler_kwargs '{\"num_cycles\": 2}' --global_batch_size 32 --held_out 0.2 --save_steps 7"
    run: Any = {"mix": "mlm" if command == "mlm" else "hybrid"}
    run |= parse(command, shlex.split(f"{start} {own[command]} {others} --languages de,en"))
    words = shlex.split(build_command(run, ["de", "en"]).replace("\\\n", " "))
    assert words[:5] == ["accelerate", "launch", "-m", "hf_hybrid", command]
    repeated = parse(command, words[5:])
    assert len(run["changed"]) > 8
    assert repeated["config"] == run["config"]
    if "--model_name_or_path" in start:
        assert repeated["changed"] == run["changed"] == [word[2:] for word in words[5::2]]


def test_a_corpus_in_all_its_languages_names_them_if_the_sample_settings_have_others() -> None:
    run: Any = {"mix": "hybrid", **parse("train", ["--config", "sample/hybrid"])}
    run["config"]["languages"] = None
    assert command_options(run, ["de", "en"])["languages"] == "de,en"
    run = {"mix": "hybrid", **parse("train", ["--model_name_or_path", "user/e5"])}
    assert command_options(run, ["de", "en"]) == {"model_name_or_path": "user/e5"}


# What others have named

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a|b||c",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "`code` **bold** _it_ ~~no~~ $x$",
    "one\n\n# two\n---\nthree",
    "one\r\n| a | b |\r\n|---|---|",
    "---\nlicense: mit\n---",
    "```\n<b>out</b>\n```",
    "\u202egnp.exe\u2066\u200bx\x00\x1b[31m",
    "&lt;b&gt; &amp; <b",
    "https://evil.example www.evil.example me@evil.example @user",
    "{{ 7 * 7 }} {% raw %} ${x} %s",
    "'; rm -rf ~ #",
    '"""\nimport os\n"""',
    "x" * 1000,
    "key: [value",
    "\\",
    "]]>-->",
]


class Page(HTMLParser):
    """Tags of a page with what they have, and the language pairs of each row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: set[str] = set()
        self.attributes: set[str] = set()
        self.tables: list[list[int]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.links |= {value or "" for name, value in attributes if name in ("href", "src")}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += 1


def page(text: str) -> Page:
    return Page(markdown.markdown(ModelCard(text).text, extensions=["tables", "fenced_code"]))


def hostile_run(folder: Path, name: str) -> Path:
    """A run in which whatever can be named has this name."""
    found = write_run(folder, ["de", "en"])
    run = json.loads((folder / "run.json").read_text())
    texts = (
        "model_name_or_path",
        "train_corpus",
        "output_dir",
        "query_prompt",
        "optim",
        "lr_scheduler_type",
        "language_pairs",
    )
    config = {**run["config"], **dict.fromkeys(texts, name), "max_query_length": name}
    source = {"path": name, "revision": name, "license": name, "preset": name, "id": name, "url": name}
    language_pairs = [{**pair, "language_pair": name, "batch_type": name} for pair in run["plan"]["language_pairs"]]
    changes = {
        "config": config,
        "mix": name,
        "seed": name,
        "plan": {"language_pairs": language_pairs},
        "model": {**run["model"], "architecture": name, "pooling": name, "prompts": {"query": name, "passage": name}},
        "corpus": {"fingerprint": name, "items_per_language": {name: 3, "de": 4}, "license": name, "source": source},
        "environment": {"devices": [name], "versions": {"torch": name}, "python": name},
        "identity": {"plan": name},
    }
    change(folder, "run.json", **changes)
    evaluation = json.loads((folder / "eval.json").read_text())
    evaluated = {"corpus": source, "corpus_fingerprint": name, "languages": [name], "max_queries": name}
    for when in ("before", "after"):
        for group in ("monolingual", "bias"):
            evaluation[when][group][name] = 0.5
        evaluation[when]["pairs"] = {pair: {name: 0.5} for pair in evaluation[when]["pairs"]}
    change(folder, "eval.json", before=evaluation["before"], after=evaluation["after"], evaluated=evaluated)
    shares = {name: {"steps": 1, "tokens": 1, "time_s": 1.0}}
    change(folder, "resources.json", energy_source=name, flops_formula=name, per_language=shares)
    found.write_card_options({"license": name, "carbon_intensity_g_per_kwh": 1.0, "carbon_intensity_source": name})
    return folder


@pytest.fixture(scope="module")
def innocent_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_card(read_files(hostile_run(tmp_path_factory.mktemp("runs") / "innocent", "an innocent name")))


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_names(name: str, innocent_text: str, tmp_path: Path) -> None:
    innocent = page(innocent_text)
    text = build_card(read_files(hostile_run(tmp_path / "hostile", name)))
    found = page(text)
    assert found.tags == innocent.tags
    assert found.attributes == innocent.attributes
    assert found.links == innocent.links
    assert [len(set(rows)) for rows in found.tables] == [1] * len(innocent.tables)
    assert [len(rows) for rows in found.tables] == [len(rows) for rows in innocent.tables]
    assert text.count("\n---\n") == 1
    assert text.count("\n```") == innocent_text.count("\n```")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202a-\u202e\u2066-\u2069\u200b]", text)
    assert set(ModelCard(text).data.to_dict()) == set(ModelCard(innocent_text).data.to_dict())
    assert len(text) < 40_000
    for block in re.findall(r"```python\n(.*?)```\n", text, re.DOTALL):
        compile(block, "card", "exec")


@given(st.text(st.sampled_from(string.punctuation + "ab1 \n\t\u202e"), max_size=40))
def test_no_text_breaks_a_table(name: str) -> None:
    found = Page(markdown.markdown(table(["a", "b"], [[name, name], [f"x{name}", 1]]), extensions=["tables"]))
    assert found.tables == [[2, 2, 2]]
    assert found.tags == {"table", "thead", "tbody", "tr", "td", "th"}


def test_the_test_would_see_a_name_that_is_not_escaped() -> None:
    raw = "| a | b |\n|---|---|\n| <script>x</script> | a|b |"
    found = Page(markdown.markdown(raw, extensions=["tables"]))
    assert "script" in found.tags
    assert "<script>" not in escape("<script>")


# What may be shown


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("/data/me/corpora/help", "help"),
        ("/data/me/my corpora/help me/", "help me"),
        ("/scratch", "scratch"),
        (r"C:\Users\me\help", "help"),
        ("FileNotFoundError: '/data/me/x.json' is missing", "FileNotFoundError: 'x.json' is missing"),
        ("--config=/data/me/x.yaml --seed 1", "--config=x.yaml --seed 1"),
        ("file:///data/me/x.json is there", "x.json is there"),
        ("runs/help", "runs/help"),
        ("../../shared/me/help", "help"),
        ("~/secret/help", "help"),
        ("cannot read ~me/x.json or ../me/y.json", "cannot read x.json or y.json"),
        ("\\\\srv\\me\\help", "help"),
        ("D:/me/help", "help"),
        ("s3://bucket/me/help", "help"),
        ("not in s3://bucket/me/help, gs://me/help", "not in help, help"),
        ("/data/O'Brien/help", "help"),
        ("no /data/O'Brien/x.json here", "no x.json here"),
        ("no '/data/O'Brien and me/my x.json' here", "no 'my x.json' here"),
        ('no "~/my own/x y.json", no `../my own/x`', 'no "x y.json", no `x`'),
        ("it isn't /data/me/x and wasn't", "it isn't x and wasn't"),
        (f"{HOME}/me", "~"),
        ("see https://h.co/a/b/c and hf://user/name/x", "see https://h.co/a/b/c and hf://user/name/x"),
        ("https://huggingface.co/user/name/blob/main/x", "https://huggingface.co/user/name/blob/main/x"),
        ("hf_abcdefghijklmnopqrstuvwxyz", "hf_***"),
        ("https://me:secret@host.org/a/b?token=abc", "https://***@host.org/a/b?token=***"),
        ("6 * a / b, application/json, 1/2", "6 * a / b, application/json, 1/2"),
        ("/", "/"),
    ],
)
def test_what_is_published_holds_no_secret_and_no_place(given_text: str, shown: str) -> None:
    assert publishable(given_text) == shown
    nested = {given_text: [given_text, {"inner": (given_text, 1, None, True, 0.5)}]}
    assert publishable(nested) == {shown: [shown, {"inner": [shown, 1, None, True, 0.5]}]}
    assert publishable(publishable(given_text)) == shown


def test_a_home_and_a_working_directory_with_spaces_are_known_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "Jane Doe", tmp_path / "my own runs"
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert publishable(f"cannot open {home}/data/x.json") == "cannot open x.json"
    assert publishable(f"cannot open {here}/data/x.json") == "cannot open x.json"


def test_arguments_that_are_places_are_shown_by_their_last_part(folder: Path) -> None:
    places = ("output_dir", "train_corpus", "eval_corpus", "cache_dir", "resume_from_checkpoint", "deepspeed")
    config = dict.fromkeys((*places, "model_name_or_path"), "mine/of jane/help")
    shown = publishable({"config": config, "model": {"commit": None}})["config"]
    assert shown == dict.fromkeys(config, "help")
    assert publishable({"config": config})["config"] == shown
    of_hub = publishable({"config": {"model_name_or_path": "user/e5"}, "model": {"commit": "c" * 40}})
    assert of_hub["config"] == {"model_name_or_path": "user/e5"}
    assert publishable({"path": "runs/of jane/checkpoint-4"}) == {"path": "checkpoint-4"}
    no_places = {"config": {"train_corpus": "miracl", "fsdp_config": {"min_num_params": 0}, "deepspeed": None}}
    assert publishable(no_places) == no_places
    text = build_card(read_files(folder))
    assert "--train_corpus help" in text
    assert "corpora/" not in text


def test_a_token_of_this_machine_is_in_no_card(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "not-of-the-usual-form")
    run = json.loads((folder / "run.json").read_text())
    change(folder, "run.json", config={**run["config"], "train_corpus": "x?token=abc not-of-the-usual-form"})
    text = write_card(folder).read_text()
    assert "x?token=***" in text
    assert "not-of-the-usual-form" not in text
