"""Bad YAML files, command lines, runs and judgments: the answer says what is wrong, and nothing is guessed."""

from __future__ import annotations

import contextlib
import html
import io
import os
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_hybrid.evaluation.heat_map import pair_heat_map
from hf_hybrid.metrics.beir_cross_lingual import trec
from hf_hybrid.metrics.beir_cross_lingual.beir_cross_lingual import BeirCrossLingual
from hf_hybrid.training.arguments import DataArguments, HybridTrainingArguments, ModelArguments
from hf_hybrid.utils.options import parse_arguments
from tests.support.bad_inputs import Case, Refused, check, recipe, write
from tests.support.recipe_runs import run_recipe, write_jsonl_corpus, write_model

ALL = [ModelArguments, DataArguments, HybridTrainingArguments]
HOSTILE = "<script>alert('$x_{')</script>"


# YAML


def parsed(path: Path, *words: str) -> tuple[Any, ...]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_arguments(ALL, ["--config", str(path), "--use_cpu", "true", *words])
    except SystemExit as stopped:
        assert "Traceback" not in said.getvalue()
        raise Refused(f"{stopped.code} {said.getvalue()}") from None


def laughs(first: str, *names: str) -> str:
    """Each line holds the one before nine times: nine lines are 3 GB of text."""
    lines = [f"{first}: &l0 [{','.join('x' * 9)}]"]
    lines += [f"{name}: &l{n + 1} [{','.join([f'*l{n}'] * 9)}]" for n, name in enumerate(names)]
    return "\n".join(lines)


TEXTS = (
    "language_pairs",
    "exclude",
    "mix",
    "run_name",
    "eval_languages",
    "train_corpus",
    "eval_corpus",
    "pooling",
    "energy",
)
YAML: list[tuple[str, str | bytes, Any]] = [
    ("a tag that runs code", "mix: !!python/object/apply:os.system ['touch CANARY']", "no.* constructor .*os.system"),
    ("a tag that makes a module", "mix: !!python/module:os", "no.* constructor for the tag"),
    ("a billion laughs", laughs("languages", *TEXTS), "language_pairs: expected one value, got .*quotes"),
    ("a billion laughs in unknown options", laughs("a", *"bcdefghij"), "a is not known; see --help"),
    ("a list in itself", "mix: &a [*a]", r"mix: expected text such as 'mono=0\.5,cross=0\.5'"),
    ("an option twice", "max_steps: 3\nmax_steps: 4\n", "max_steps is given twice"),
    ("an option twice in two spellings", "max_steps: 3\nmax-steps: 4\n", "max_steps is given twice"),
    ("an option with a hyphen", "max-steps: 4\n", lambda found: found[2].max_steps == 4),
    ("a tab", "max_steps:\t3\n\tseed: 4\n", r"line 1, column 11|line 2, column 1"),
    ("a list at the top", "- max_steps: 3", "expected lines of `option: value`, got list"),
    ("a word at the top", "max_steps", "expected lines of `option: value`, got str"),
    ("two documents", "max_steps: 3\n---\nmax_steps: 4\n", "expected a single document"),
    ("a number for an option", "1: 2", "expected lines of `option: value`, got the option 1"),
    ("a list for an option", "? [a]\n: 2", "found unhashable key"),
    ("an option that nobody knows", "learning_rte: 1", "learning_rte is not known; did you mean learning_rate"),
    ("another YAML file within", "config: other.yaml", "config is given twice, or belongs on the command line"),
    ("an object for a number", "max_steps: {a: 1}", r"max_steps: expected one value, got \{'a': 1\}"),
    ("a list for a number", "max_steps: [1, 2]", r"max_steps: expected one value, got \[1, 2\]"),
    ("nothing for a number", "max_steps:\n", "max_steps: expected one value, got None"),
    ("nothing for a text", "mix: null", "mix: expected text such as 'mono=0.5,cross=0.5', got None"),
    ("nothing where that is the default", "languages: null", lambda found: found[1].languages is None),
    (
        "a date for a folder",
        "output_dir: 2020-01-01",
        r"output_dir: expected text .*date.*put words and dates in quotes",
    ),
    ("a date that is none", "output_dir: 2020-13-45", "month must be in 1"),
    ("bytes for a folder", "output_dir: !!binary aGVsbG8=", "output_dir: expected text"),
    (
        "Norwegian",
        "languages: [de, no]",
        r"languages: YAML reads a word of \['de', False\] as true or false; .*quotes",
    ),
    ("a hole in a list", "languages: [de, null]", r"languages: expected one value, got \['de', None\]"),
    ("a number that is NaN", "temperature: .nan", "temperature must be between .* got nan"),
    ("an infinite number", "temperature: .inf", "temperature must be between .* got inf"),
    ("100,000 levels", "mix: " + "[" * 100_000, "maximum recursion depth exceeded"),
    ("a byte order mark", b"\xef\xbb\xbfmax_steps: 3\n", lambda found: found[2].max_steps == 3),
    ("UTF-16, as PowerShell writes it", "max_steps: 3\n".encode("utf-16"), lambda found: found[2].max_steps == 3),
    ("Latin-1", "run_name: Müll".encode("latin-1"), r"#x00fc: invalid start byte"),
    ("a NUL", b"max_steps: 3\n\0", "special characters are not allowed"),
    ("an empty file", "", "expected lines of `option: value`, got NoneType"),
    ("an unknown batch type", "mix: magic=1", "'magic' is not a batch type"),
    ("a share that is NaN", "mix: mono=nan", "mix shares must be finite"),
    ("shares of nothing", "mix: mono=0", "mix shares must be .*not all zero"),
    ("a negative share", "mix: mono=-1", "mix shares must be .*not negative"),
]


@pytest.mark.parametrize(("what", "text", "answer"), YAML, ids=[what for what, *_ in YAML])
def test_bad_yaml(what: str, text: str | bytes, answer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = text if isinstance(text, bytes) else text.replace("CANARY", str(tmp_path / "canary")).encode()
    case = Case(f"YAML: {what}", lambda folder: write(folder / "config.yaml", content), parsed, answer)
    check(case, tmp_path, monkeypatch)


# Command lines


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    folder = tmp_path_factory.mktemp("places")
    corpus, model = write_jsonl_corpus(folder / "corpus", num_items=12), write_model(folder / "model")
    common = ["--use_cpu", "true", "--cache_dir", folder / "cache"]
    small = ["--global_batch_size", 4, "--max_steps", 2, "--bf16", "false", "--energy", "none", "--dry_run"]
    return {
        "train": [*common, *small, "--train_corpus", corpus, "--model_name_or_path", model],
        "eval": [*common, "--corpus", corpus, "--model", model],
    }


COMMANDS: list[tuple[str, str, str]] = [
    ("train", "--max_steps -5", "max_steps must be between .* got -5"),
    ("train", "--max_steps 1e3", "invalid int value: '1e3'"),
    ("train", "--mix magic=1", "'magic' is not a batch type"),
    ("train", "--mix mono=nan", "mix shares must be finite"),
    ("train", "--languages ,", r"languages=\['', ''\]: .* has ar, de, en, hi, zh; name each once"),
    ("train", "--languages xx", r"languages=\['xx'\]: .* has ar, de"),
    ("train", "--language_pairs fr->*", "language_pairs: 'fr->\\*' matches no pair of the languages ar, de"),
    ("train", "--language_pairs (((", r"language_pairs: '\(\(\(' matches no pair"),
    ("train", "--exclude *->*", "no 'mono' language pair has two items or more"),
    ("train", "--temperature nan", "temperature must be between .* got nan"),
    ("train", "--global_batch_size -4", "-4"),
    ("train", "--smoothing nan", "smoothing must be between 0 and 1"),
    ("train", "--max_positives -3", "max_positives must be between 1"),
    ("train", "--max_passage_length 0", "max_passage_length must be between 3 and"),
    ("train", "--max_passage_length -1", "max_passage_length must be between 3 and"),
    ("train", "--max_query_length -3", "max_query_length must be between .* got -3"),
    ("train", "--max_steps 100000000000", "max_steps must be between 1 and 100,000,000"),
    ("train", "--learning_rate nan", "learning_rate must be between 0 and 100"),
    ("train", "--learning_rate -1", "learning_rate must be between .* got -1.0"),
    ("train", "--weight_decay inf", "weight_decay must be between .* got inf"),
    ("train", "--temperature 1e-300", "temperature must be between .* got 1e-300"),
    ("train", "--gradient_accumulation_steps 0", "gradient_accumulation_steps must be between .* got 0"),
    ("train", "--dataloader_num_workers -1", "dataloader_num_workers must be between .* got -1"),
    ("train", "--save_steps 0", "save_steps must be between .* got 0.0"),
    ("train", "--attention_dropout nan", "attention_dropout must be between .* got nan"),
    ("train", "--scratch_num_layers 0", "scratch_num_layers must be between .* got 0"),
    ("train", "--energy magic", "energy='magic' is not supported: choose one of auto"),
    ("train", "--held_out inf", "held_out=inf of 12 items"),
    ("train", "--held_out 1.5", "held_out=1.5 of 12 items"),
    ("train", "--output_dir FILE", "FILE|input"),
    ("train", "--corpus_format magic", "give one of auto, built, jsonl"),
    ("train", "--on_bad_row magic", 'give "refuse"'),
    ("train", "--attention_dropout 7", "7"),
    ("train", "--seed 99999999999999999999", "[Ss]eed"),
    ("train", "--config FILE", "expected lines of `option: value`, got str"),
    ("eval", "--held_out nan", "held_out=nan of 12 items"),
    ("eval", "--held_out inf", "held_out=inf of 12 items"),
    ("eval", "--held_out 1.5", "held_out=1.5 of 12 items .* give a share between 0 and 1 or a number of items"),
    ("eval", "--held_out 1e30", "of 12 items"),
    ("eval", "--max_length 0", "max_length must be between 3 and"),
    ("eval", "--max_length -1", "max_length must be between 3 and"),
    ("eval", "--max_queries -1", "max_queries=-1: give at least 1|at least 1"),
    ("eval", "--languages de,,en", r"languages=\['de', '', 'en'\]: .* name each once"),
    ("eval", "--measures nDCG@-1", "measure 'nDCG@-1': give MAP"),
    ("eval", "--measures nDCG@0", "measure 'nDCG@0': give MAP"),
    ("eval", f"--measures {HOSTILE}", "measure '<script>.*: give MAP|measure \"<script>.*: give MAP"),
    ("eval", "--settings bilingual", "give some of monolingual, cross_lingual, multilingual"),
    ("eval", "--output_dir FILE", "is a file; name a folder"),
    ("eval", "--output_dir FILE/below", "Not a directory"),
    ("eval", "--cache_dir FILE", "Not a directory"),
    ("eval", "--corpus FILE", "is a file; a corpus is a folder"),
    ("eval", "--corpus a\0b", "neither a folder nor a preset"),
    ("eval", f"--model {HOSTILE}", "is no folder here"),
    ("eval", "--model ../nothing", "'../nothing' is no folder here"),
    ("eval", "--compare FILE", "must be the output of an evaluation"),
    ("eval", "--run_depth 0 --save_runs true", "run_depth must be between 1"),
]


@pytest.mark.parametrize(("name", "words", "answer"), COMMANDS, ids=[f"{n} {words}" for n, words, _ in COMMANDS])
def test_a_bad_command(
    name: str,
    words: str,
    answer: str,
    places: dict[str, list[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(file: Path) -> None:
        given = [word.replace("FILE", str(file)) for word in words.split(" ")]
        recipe(name, *places[name], "--output_dir", tmp_path / "output", *given)

    check(Case(f"{name}.py {words}", lambda f: write(f / "file", "some text"), read, answer), tmp_path, monkeypatch)
    assert not (tmp_path / "output" / "eval.json").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(places: dict[str, list[object]], tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(Refused, match="Permission denied"):
        recipe("eval", *places["eval"], "--output_dir", tmp_path / "output")


def test_a_folder_where_there_can_be_none(places: dict[str, list[object]]) -> None:
    with pytest.raises(Refused, match=r"/proc/nothing"):
        recipe("eval", *places["eval"], "--output_dir", "/proc/nothing/output")


@pytest.mark.slow
def test_the_door_of_a_process_of_its_own(tmp_path: Path) -> None:
    config = write(tmp_path / "config.yaml", f"mix: !!python/object/apply:os.system ['touch {tmp_path / 'canary'}']")
    found = run_recipe("--config", config, launch=[sys.executable], check=False)
    assert found.returncode == 2
    assert "could not determine a constructor" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "canary").exists()


# Runs and judgments


RUN, QRELS, BEIR = "q Q0 d 1 0.5 tag\n", "q 0 d 1\n", "query-id\tcorpus-id\tscore\n"
Change = Callable[[], Any]
TABLES: list[tuple[str, Callable[[Path], Any], str | bytes, Any]] = [
    (
        "run with a score NaN",
        trec.read_run,
        RUN.replace("0.5", "nan"),
        "line 1: found the score 'nan'; allowed is a fin",
    ),
    ("run with an infinite score", trec.read_run, RUN.replace("0.5", "-inf"), "line 1: found the score '-inf'"),
    ("run with a score 1e999", trec.read_run, RUN.replace("0.5", "1e999"), "line 1: found the score '1e999'"),
    ("run with a word for a score", trec.read_run, RUN.replace("0.5", "high"), "line 1: found the score 'high'"),
    (
        "run with a word for a rank",
        trec.read_run,
        RUN.replace(" 1 ", " first "),
        lambda found: found[0]["scores"] == [0.5],
    ),
    ("run with a document twice", trec.read_run, RUN * 2, "line 2: found document 'd' of query 'q' a second time"),
    ("run of five columns", trec.read_run, RUN.replace(" tag", ""), "line 1: found 5 columns .* allowed is 6 columns"),
    (
        "run of seven columns",
        trec.read_run,
        RUN.replace("tag", "t g"),
        "line 1: found 7 columns .* allowed is 6 columns",
    ),
    ("run with a byte order mark", trec.read_run, "\ufeff" + RUN, "line 1: found a byte order mark; allowed is UTF-8"),
    ("run in UTF-16", trec.read_run, RUN.encode("utf-16"), "line 1: found .* not UTF-8"),
    ("run with a NUL", trec.read_run, RUN.replace("d", "d\0"), "line 1: found .*with a NUL"),
    ("run of nothing", trec.read_run, "\n\n", "found no line, allowed is at least one"),
    ("run compressed", trec.read_run, b"\x1f\x8b\x08\x00abc", "line 1: found .* not UTF-8"),
    ("run with an id of 10 MB", trec.read_run, RUN.replace("d", "d" * 10_000_000), lambda found: len(found) == 1),
    (
        "run with a name that is HTML",
        trec.read_run,
        RUN.replace("d", "<b>"),
        lambda found: found[0]["doc_ids"] == ["<b>"],
    ),
    (
        "judgments with -1",
        trec.read_qrels,
        "q 0 d -1\n",
        "line 1: found the relevance '-1'; allowed is a whole number",
    ),
    ("judgments with a half", trec.read_qrels, "q 0 d 0.5\n", "line 1: found the relevance '0.5'"),
    ("judgments with NaN", trec.read_qrels, "q 0 d nan\n", "line 1: found the relevance 'nan'"),
    ("judgments that crash trec_eval", trec.read_qrels, "q 0 d 1000000\n", "'1000000'; .* from 0 to 10000"),
    ("judgments of 5,000 digits", trec.read_qrels, f"q 0 d {'9' * 5000}\n", "line 1: found the relevance '9999"),
    ("judgments of three columns", trec.read_qrels, "q d 1\n", "line 1: found 3 columns .* allowed is 4 columns"),
    (
        "judgments that contradict",
        trec.read_qrels,
        "q 0 d 1\nq 0 d 0\n",
        "line 2: found document 'd' of query 'q' a sec",
    ),
    ("languages that contradict", trec.read_languages, "d\ten\nd\tde\n", "line 2: found 'd' a second time"),
]


@pytest.mark.parametrize(("what", "read", "text", "answer"), TABLES, ids=[what for what, *_ in TABLES])
def test_bad_runs_and_judgments(
    what: str,
    read: Callable[[Path], Any],
    text: str | bytes,
    answer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check(Case(what, lambda folder: write(folder / "table.txt", text), read, answer), tmp_path, monkeypatch)


def test_a_split_in_a_folder_above(tmp_path: Path) -> None:
    write(tmp_path / "secret.tsv", f"{BEIR}q\td\t1\n")
    write(tmp_path / "folder" / "qrels" / "test.tsv", f"{BEIR}q\td\t1\n")
    with pytest.raises(ValueError, match=r"allowed splits of this folder are \['test'\]"):
        trec.read_beir_qrels(tmp_path / "folder", "../../secret")


PREDICTION = {"query_id": "q", "doc_ids": ["a", "b"], "scores": [0.9, 0.8]}
REFERENCE = {"query_id": "q", "doc_ids": ["a"], "relevance": [1]}
DOCUMENTS = {"a": "en", "b": "de"}
SCORES: list[tuple[str, dict[str, Any], str]] = [
    ("scores NaN", {"scores": [float("nan"), 1]}, "query 'q': scores must be finite numbers, number 1 is nan"),
    ("an infinite score", {"scores": [1, float("inf")]}, "query 'q': scores must be finite numbers, number 2 is inf"),
    ("scores that are words", {"scores": ["a", "b"]}, "query 'q': scores must be finite numbers, found"),
    ("scores that are one number", {"scores": 1.0}, "query 'q': give lists, one of doc_ids and one of scores"),
    ("no scores", {"scores": None}, "query 'q': give lists"),
    ("complex scores", {"scores": [1j, 2]}, "query 'q': scores must be finite numbers"),
    ("too few scores", {"scores": [1]}, "query 'q': 2 doc_ids and 1 scores"),
    ("a table of scores", {"scores": np.ones((2, 2))}, "don't match the expected format|scores must be"),
    ("documents in one word", {"doc_ids": "ab"}, "query 'q': give lists"),
    ("documents that are numbers", {"doc_ids": [1, 2]}, "query 'q': document id 1 must be a string, give '1'"),
    ("a document twice", {"doc_ids": ["a", "a"]}, "query 'q': document 'a' comes 2 times"),
    ("no query id", {"query_id": ""}, "found an empty query_id"),
    ("a relevance of -1", {"relevance": [-1]}, "query 'q': found the relevance -1; allowed are whole numbers"),
    ("half a relevance", {"relevance": [0.5]}, "query 'q': found the relevance 0.5"),
    ("a relevance that is NaN", {"relevance": [float("nan")]}, "query 'q': relevance must be finite numbers"),
    ("a relevance that crashes trec_eval", {"relevance": [1_000_000]}, r"found the relevance 1e\+06; .* to 10000"),
    ("a relevance of 31 digits", {"relevance": [10**30]}, r"found the relevance 1e\+30"),
    ("depths of nothing", {"k_values": [0]}, r"k_values=\[0\]: give whole numbers from 1"),
    ("a policy that is none", {"policy": "magic"}, "policy 'magic': give one of hf_hybrid"),
    ("predictions that are a number", {"predictions": 5}, "predictions is a int: give a list"),
    ("predictions that are words", {"predictions": ["x"]}, "predictions: found str, give query_id"),
    ("predictions of nothing", {"predictions": [], "references": []}, "no query of 0 references counts"),
    ("a language that is a number", {"doc_languages": {**DOCUMENTS, "a": 1}}, "doc_languages: found the language 1"),
    ("a document without language", {"doc_languages": {"a": "en"}}, "doc_languages: 1 of the ids .* 'b' is the first"),
    ("languages in a list", {"doc_languages": ["en"]}, "doc_languages is a list: give a dict"),
]


@pytest.mark.parametrize(("what", "change", "answer"), SCORES, ids=[what for what, *_ in SCORES])
def test_bad_calls_of_the_metric(
    what: str, change: dict[str, Any], answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {
        "predictions": [PREDICTION | {key: value for key, value in change.items() if key in PREDICTION}],
        "references": [REFERENCE | {key: value for key, value in change.items() if key in ("relevance",)}],
    }
    rest = {key: value for key, value in change.items() if key not in {*PREDICTION, *REFERENCE}}
    languages = {"query_languages": {"q": "en"}} if "doc_languages" in change else {}
    compute = partial(BeirCrossLingual().compute, **{**both, **languages, **rest})
    check(Case(f"metric: {what}", lambda _: None, lambda _: compute(), answer), tmp_path, monkeypatch)


# HTML in names


def test_a_picture_takes_names_as_text(tmp_path: Path) -> None:
    scores = {"pairs": {"de-en": {"MAP": 0.5}}}
    picture = pair_heat_map(scores, tmp_path / "map.svg", title=HOSTILE)  # type: ignore[arg-type]
    content = picture.read_text(encoding="utf-8")
    assert "<script" not in content
    assert html.escape("<script>", quote=False) in content  # the title is there, as text
    with pytest.raises(ValueError, match=r"The pair .<script>"):
        pair_heat_map({"pairs": {HOSTILE: {"MAP": 0.5}}}, tmp_path / "map.svg")  # type: ignore[typeddict-item]


def test_the_space_of_the_metric_shows_names_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = types.ModuleType("gradio")
    for name in ("Interface", "File", "Textbox", "Dropdown", "Dataframe", "JSON"):
        setattr(shown, name, lambda *_, **__: None)
    shown.Error = type("Error", (Exception,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gradio", shown)
    monkeypatch.delitem(sys.modules, "hf_hybrid.metrics.beir_cross_lingual.app", raising=False)
    from hf_hybrid.metrics.beir_cross_lingual import app

    run = write(tmp_path / "run.txt", RUN.replace("0.5", "<script>"))
    qrels = write(tmp_path / "qrels.txt", QRELS)
    with pytest.raises(shown.Error, match="&lt;script&gt;"):
        app.score(str(run), str(qrels), None, None, "10", "hf_hybrid")
