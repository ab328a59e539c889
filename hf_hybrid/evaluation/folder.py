"""The output folder of an evaluation: its default name, and which evaluation it holds."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from hf_hybrid.records.output_folder import OutputFolder, differences
from hf_hybrid.records.run_folder import RunFolder
from hf_hybrid.records.schema import PER_QUERY_NAME

COMPARISON_NAME, HEAT_MAP_NAME, BM25_NAME = "comparison.json", "heat_map.png", "bm25"
# Options that change the numbers; which corpus, languages and items are used is in the fingerprint of the corpus.
_DECISIVE = ("revision", "library", "pooling", "query_prompt", "passage_prompt", "max_length", "dtype", "index")
_MOST_CHARACTERS = 60


def default_folder(model: str, corpus: str, revision: str | None = None) -> str:
    """Return where an evaluation goes by default: a folder of its own for each model and corpus.

    Example:

        >>> default_folder("runs/sample-hybrid/model", "sample")
        'runs/eval/sample-hybrid-on-sample'
        >>> default_folder("intfloat/multilingual-e5-small", "data/xquad-r/", revision="v2")
        'runs/eval/intfloat--multilingual-e5-small-v2-on-xquad-r'
    """
    return (
        f"runs/eval/{_slug(_model_name(model))}{f'-{_slug(revision)}' if revision else ''}-on-{_slug(_last(corpus))}"
    )


def open_evaluation(
    folder: str | os.PathLike[str], evaluated: Mapping[str, Any], names: Sequence[str], overwrite: bool = False
) -> OutputFolder:
    """Open the output folder of an evaluation before anything is evaluated.

    Args:
        folder (`str` or `Path`): The folder.
        evaluated (`Mapping[str, Any]`): What `eval.json` will say of the evaluation, with `model` and `arguments`.
        names (`Sequence[str]`): The files that it will write.
        overwrite (`bool`, *optional*, defaults to `False`): Delete the files of the evaluation that the folder holds.

    Raises:
        ValueError: When the folder holds another evaluation, another type of output, or a file that no recipe wrote
            where this one is to write.
    """
    outputs = OutputFolder(folder)
    outputs.check_type("evaluation")
    if not overwrite and (outputs.path / "eval.json").is_file():
        then, now = RunFolder(outputs).read_eval().get("evaluated", {}), evaluated
        same_corpus = then.get("corpus_fingerprint") == now["corpus_fingerprint"]
        if changed := differences(*(_identity(found, same_corpus) for found in (then, now))):
            raise ValueError(
                f"{outputs.path} holds another evaluation: {'; '.join(changed)}. Choose another output_dir, or "
                "replace that evaluation with --overwrite."
            )
    outputs.begin("evaluation", *names)
    if overwrite:
        outputs.delete_all()
    return outputs


def list_planned_files(
    languages: Sequence[str], settings: Sequence[str], save_runs: bool, bm25: bool, compares: bool
) -> list[str]:
    """Return the files that an evaluation writes, but for embeddings.

    Example:

        >>> list_planned_files(["de"], ["multilingual"], save_runs=True, bm25=False, compares=False)
        ['eval.json', 'per_query.parquet', 'runs/de-all.trec', 'qrels/de-all.qrels', 'heat_map.png']
    """
    pairs = [f"{query}-{passage}" for query in languages for passage in languages if _asks(query, passage, settings)]
    pairs += [f"{query}-all" for query in languages] if "multilingual" in settings else []
    names = ["eval.json", PER_QUERY_NAME]
    names += [name for pair in pairs if save_runs for name in (f"runs/{pair}.trec", f"qrels/{pair}.qrels")]
    names += [f"{BM25_NAME}/{name}" for name in names] if bm25 else []
    return [*names, HEAT_MAP_NAME, *([COMPARISON_NAME] if compares else [])]


def _asks(query: str, passage: str, settings: Sequence[str]) -> bool:
    return ("monolingual" if query == passage else "cross_lingual") in settings


def _identity(evaluated: Mapping[str, Any], same_corpus: bool) -> dict[str, Any]:
    """Return the differences that make it another evaluation."""
    arguments = evaluated.get("arguments", {})
    name, languages = arguments.get("corpus"), evaluated.get("languages", [])
    words = f"{name} in {len(languages)} languages, fingerprint {str(evaluated.get('corpus_fingerprint'))[:8]}"
    return {
        "model": PurePath(str(evaluated.get("model"))).as_posix(),
        "corpus": None if same_corpus else words,
        "max_queries": evaluated.get("max_queries"),
        **{option: arguments.get(option) for option in _DECISIVE},
    }


def _model_name(model: str) -> str:
    """Name of a model on the Hub, or of the run folder that a local one is in."""
    if not os.path.isdir(model) and model.count("/") < 2 and not model.startswith((".", "/", "~")):
        return model
    path = Path(model).resolve()
    if path.name == "model":
        return path.parent.name
    return f"{path.parent.name}-{path.name}" if re.fullmatch(r"checkpoint-\d+", path.name) else path.name


def _last(corpus: str) -> str:
    return Path(corpus).resolve().name if os.path.isdir(corpus) or "/" in corpus else corpus


def _slug(name: str) -> str:
    """A name that every file system takes; what had to be changed has a hash of the name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("/", "--")).strip("-.")[:_MOST_CHARACTERS]
    if plain.replace("--", "/") == name:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{plain}-{digest}" if plain else digest
