"""Retrieval sets on the Hugging Face Hub: one table, and a reader for each layout that they come in.

To add a set, add a row to `PRESETS`. Set `revision` to `PARQUET_BRANCH` for a repository that is a script: its data
then come from the parquet files that the Hub converted it to.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_hybrid.data.corpus import ParallelCorpus
from hf_hybrid.data.languages import (
    choose_languages,
)

from .build import build_once, stamp_files
from .items import StrPath
from .judgments import build_judged
from .rows import ITEM, BadRows, Judged, Rows, check_retrieval_set, check_table, dataset_rows, read_tsv

if TYPE_CHECKING:
    from datasets import Dataset

PARQUET_BRANCH = "refs/convert/parquet"
NUM_NEGATIVES = 16  # hard negatives kept for each positive of mMARCO's triples, which have up to a hundred


@dataclass(frozen=True)
class Preset:
    """One set on the Hub.

    Args:
        repo (`str`): its id; `{language}` stands for the source's own code where each language is a repository.
        revision (`str`): commit, branch or `PARQUET_BRANCH`.
        license (`str`): as its card or the authors say; `"unknown"` where they do not.
        languages (`dict[str, str]`): BCP-47 code to the source's own.
        layout (`str`): key of `LAYOUTS`.
        split (`str`): the split to read unless another is asked for.
        config (`str`, *optional*): name of the configurations; `{language}` and `{part}` (corpus, queries, qrels)
            stand for theirs.
        columns (`dict[str, str]`, *optional*): the source's column names to ours, for the layout `"squad"`.
    """

    repo: str
    revision: str
    license: str
    languages: Mapping[str, str]
    layout: str
    split: str
    config: str = "{language}"
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """URL of its card."""
        return f"https://huggingface.co/datasets/{self.repo}"


Reader = Callable[[Preset, str, str, str, BadRows], "pa.Table | Judged"]


def read_preset(preset: Preset, repo: str, language: str, split: str, bad: BadRows) -> pa.Table | Judged:
    """One language of a set.

    Args:
        preset (`Preset`): its row.
        repo (`str`): `preset.repo`, or a local folder with the same files.
        language (`str`): BCP-47 code, a key of `preset.languages`.
        split (`str`): split to read.
        bad (`BadRows`): what happens to bad rows.

    Returns:
        `pa.Table` with the columns of `ITEM` for question-answering sets, `Judged` for retrieval sets.
    """
    code = preset.languages[language]
    return LAYOUTS[preset.layout](preset, repo.format(language=code), code, split, bad)


def _read_squad(preset: Preset, repo: str, code: str, split: str, bad: BadRows) -> pa.Table:
    """Question-answering rows: the question is the query, the whole context the passage."""
    config = preset.config.format(language=code)
    dataset = _load(repo, config, split, preset.revision).rename_columns(dict(preset.columns))
    rows = dataset_rows(dataset.select_columns(["id", "query", "passage"]), f"{repo} ({config}, {split})")
    return check_table(rows, ITEM, bad, key="id")


def _read_retrieval(preset: Preset, repo: str, code: str, split: str, bad: BadRows) -> Judged:
    """Three configurations, as the repositories of mteb and NanoBEIR have them."""
    configs = [preset.config.format(language=code, part=part) for part in ("corpus", "queries", "qrels")]
    sources = [dataset_rows(_load(repo, c, split, preset.revision), f"{repo} ({c}, {split})") for c in configs]
    documents, queries, judgments = sources
    return check_retrieval_set(documents, queries, judgments._replace(rows=_one_by_one(judgments)), bad)


def _read_beir(preset: Preset, repo: str, code: str, split: str, bad: BadRows) -> Judged:
    """Configurations `corpus` and `queries` of one repository, judgments as a file of another."""
    documents, queries = (
        dataset_rows(_load(repo, part, part, preset.revision), f"{repo} ({part})") for part in ("corpus", "queries")
    )
    path = _file(f"{repo}-qrels", f"{split}.tsv", "main")
    return check_retrieval_set(documents, queries, read_tsv(path, bad, ["query-id", "corpus-id", "score"]), bad)


def _read_mmarco(preset: Preset, repo: str, code: str, split: str, bad: BadRows) -> Judged:
    """Raw tables without header: passages and queries of a language, triples or judgments for all of them."""
    texts = ("_id", "text")
    small = {"train": "train", "dev": "dev.small"}.get(split)
    if small is None:
        raise ValueError(f"{repo} has no split {split!r}; give 'train' (triples) or 'dev' (the 6,980 queries).")
    collection = _file(repo, f"data/google/collections/{code}_collection.tsv", preset.revision)
    topics = _file(repo, f"data/google/queries/{split}/{code}_queries.{small}.tsv", preset.revision)
    documents, queries = (read_tsv(path, bad, texts, header=False) for path in (collection, topics))
    if split == "dev":
        path = _file(repo, "data/qrels.dev.small.tsv", preset.revision)
        judgments = read_tsv(path, bad, ["query-id", "iteration", "corpus-id", "score"], header=False)
        return check_retrieval_set(documents, queries, judgments, bad)
    path = _file(repo, "data/triples.train.ids.small.tsv", preset.revision)
    triples, dropped = _triples(path)
    bad.counts[f"negatives_beyond_{NUM_NEGATIVES}"] = dropped  # the same file for all languages
    return check_retrieval_set(
        _only(documents, triples["corpus-id"]), _only(queries, triples["query-id"]), _as_rows(path, triples), bad
    )


LAYOUTS: dict[str, Reader] = {
    "squad": _read_squad,
    "retrieval": _read_retrieval,
    "beir": _read_beir,
    "mmarco": _read_mmarco,
}


def _load(repo: str, config: str, split: str, revision: str) -> Dataset:
    from datasets import load_dataset

    at = None if Path(repo).is_dir() else revision
    try:
        if revision == PARQUET_BRANCH:
            return load_dataset(repo, data_files={split: f"{config}/{split}/*.parquet"}, revision=at, split=split)
        splits = load_dataset(repo, config, revision=at)
    except Exception as error:  # damaged files, scripts, missing columns: what is raised has no common class
        raise ValueError(f"{repo} ({config}) cannot be read as a data set: {error or type(error).__name__}") from error
    if split not in splits and len(splits) > 1:
        raise ValueError(f"{repo} ({config}) has no split {split!r}; give one of {', '.join(splits)}.")
    return splits.get(split) or next(iter(splits.values()))


def _file(repo: str, name: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    if Path(repo).is_dir():
        return Path(repo) / name
    return Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision))


def _one_by_one(judgments: Rows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The qrels of NanoBEIR have no scores, and some rows have a list of documents."""
    for number, row in judgments.rows:
        documents = row.get("corpus-id")
        for document in documents if isinstance(documents, list) else [documents]:
            yield number, {"score": 1, **row, "corpus-id": document}


@lru_cache(maxsize=1)  # one file for all languages
def _triples(path: Path) -> tuple[pa.Table, int]:
    """Judgments from triples of query, positive and negative: 1 for positives, 0 for the first negatives of each.

    Beside them, how many negatives were skipped.
    """
    from pyarrow import csv

    columns = ["query", "positive", "negative"]
    numbers = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.uint32()), null_values=[])
    try:
        table = csv.read_csv(path, csv.ReadOptions(column_names=columns), csv.ParseOptions(delimiter="\t"), numbers)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: {error}; allowed are lines of three ids, numbers below 2^32.") from None
    query, positive, negative = (table[column].to_numpy().astype(np.int64) for column in columns)
    pairs = query << 32 | positive
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    kept = order[rank < NUM_NEGATIVES]
    positives = pairs[order[starts]]
    negatives = np.setdiff1d(query[kept] << 32 | negative[kept], positives)
    judged_pairs = np.concatenate([positives, negatives])
    ids = {"query-id": judged_pairs >> 32, "corpus-id": judged_pairs & 0xFFFFFFFF}
    judgments = pa.table({**ids, "score": np.repeat([1, 0], [len(positives), len(negatives)])})
    return judgments, len(order) - len(kept)


def _as_rows(path: Path, table: pa.Table) -> Rows:
    batches = (batch.to_pylist() for batch in table.to_batches(max_chunksize=65_536))
    return Rows(str(path), "judgment", enumerate((row for batch in batches for row in batch), start=1))


def _only(source: Rows, ids: pa.ChunkedArray) -> Rows:
    """Keep only the passages that the triples name: training needs no other candidates."""
    wanted = {str(number) for number in np.unique(ids.to_numpy())}
    return source._replace(rows=((number, row) for number, row in source.rows if row["_id"] in wanted))


def _same(codes: str) -> dict[str, str]:
    return {code: code for code in codes.split()}


_XQUAD = "ar de el en es hi ru th tr vi zh"
_MIRACL = "ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh"
_MLQA = {"ar": "ara", "de": "deu", "en": "eng", "es": "spa", "hi": "hin", "vi": "vie", "zh": "zho"}
_MMARCO = {
    "ar": "arabic",
    "zh": "chinese",
    "nl": "dutch",
    "en": "english",
    "fr": "french",
    "de": "german",
    "hi": "hindi",
    "id": "indonesian",
    "it": "italian",
    "ja": "japanese",
    "pt": "portuguese",
    "ru": "russian",
    "es": "spanish",
    "vi": "vietnamese",
}
_MTEB = "{language}-{part}"
_QUESTIONS = {"question": "query", "context": "passage"}
_NANO = {
    "ArguAna": "c0b2a891577e87141baf768b28e7acb997ac5680",
    "ClimateFever": "2fe8eb61630d248dc0bd1a13e4b7f6406b4a3e2a",
    "DBPedia": "d190b64f4888205f70b5bfdd4fdf806100139dd0",
    "FEVER": "58c0c39b5718de4c64ba115e30ae830f25fc6c62",
    "FiQA2018": "6af7d1d165dab5c41840440ee33373d3a459483a",
    "HotpotQA": "d226781cb805c360229d14c2efa8672d11226075",
    "MSMARCO": "f579311c703483afcec3062f58fe69e9f0813843",
    "NFCorpus": "4484b487f178125827f7dda052f1b2f5673548d6",
    "NQ": "4104e3376fe243f0bd4845e204b01c0fc3f7d1d7",
    "Quora": "eb9418faade7449e869be388846f287aa3535b64",
    "SCIDOCS": "06cff48c8ebea5f46e3effa29573fc22a5b9d8fc",
    "SciFact": "3e75543b8006c013ec14d36a17dd3010eb139f72",
    "Touche2020": "cc244b553d65a88fb66d913907146fe4c33aef29",
}
_NANO_LANGUAGES = "ar de en es fr it ja ko no pt sv"
_BEIR = (
    "arguana climate-fever dbpedia-entity fever fiqa hotpotqa msmarco nfcorpus nq quora scidocs scifact trec-covid "
    "webis-touche2020"
)

# fmt: off
PRESETS: dict[str, Preset] = {
    "xquad": Preset("google/xquad", "main", "cc-by-sa-4.0", _same(f"{_XQUAD} ro"), "squad", "validation",
                    "xquad.{language}", _QUESTIONS),
    # The Hub's copy has no sentence breaks, so its passages are contexts; `from_xquad_r` reads the original files.
    "xquad-r": Preset("google-research-datasets/xquad_r", "main", "cc-by-sa-4.0", _same(_XQUAD), "squad", "validation",
                      columns=_QUESTIONS),
    "xquad-retrieval": Preset("mteb/XQuADRetrieval", "194842d6a49baddf6cd3f4d5130ab3c7756268d2", "cc-by-sa-4.0",
                              _same(f"{_XQUAD} ro"), "retrieval", "validation", _MTEB),
    # Ids are shared by the languages, so `mlqa.de.de` and `mlqa.en.en` hold all that `mlqa.en.de` has.
    "mlqa": Preset("facebook/mlqa", PARQUET_BRANCH, "cc-by-sa-3.0", _same("ar de en es hi vi zh"), "squad", "test",
                   "mlqa.{language}.{language}", _QUESTIONS),
    "mlqa-retrieval": Preset("mteb/MLQARetrieval", "5bef8b6e2601af974fb1a1cca03fd702229be4b6", "cc-by-sa-3.0", _MLQA,
                             "retrieval", "test", "{language}-{language}-{part}"),
    "miracl": Preset("mteb/MIRACLRetrieval", "9c09abc13478308c27598f350e31d8f06b9b5481", "cc-by-sa-4.0",
                     _same(_MIRACL), "retrieval", "dev", _MTEB),
    "mmarco": Preset("unicamp-dl/mmarco", "main", "apache-2.0", _MMARCO, "mmarco", "train"),
    "mmarco-retrieval": Preset("lopozz/MMarcoRetrievalMultilingual", "44480423f56a42b948edd899c707e640b8e46f19",
                               "apache-2.0", _same("ar de es fr hi id it ja nl pt ru vi zh"), "retrieval", "dev",
                               _MTEB),
    # Thirteen sets in one repository of each language: choose one by its split.
    "nanobeir": Preset("hakari-bench/NanoBEIR-{language}", "main", "unknown",
                       _same(f"{_NANO_LANGUAGES} sr th vi"), "retrieval", "NanoMSMARCO", "{part}"),
    # The same sets, a repository each, every language with the same ids.
    **{f"nanobeir-{name.lower()}": Preset(f"mteb/MultilingualNano{name}Retrieval", commit, "cc-by-4.0",
                                          _same(_NANO_LANGUAGES), "retrieval", "test", _MTEB)
       for name, commit in _NANO.items()},
    **{f"beir-{name}": Preset(f"BeIR/{name}", PARQUET_BRANCH, "cc-by-sa-4.0", _same("en"), "beir", "test")
       for name in _BEIR.split()},
}
# fmt: on


def from_preset(
    name: str,
    languages: Sequence[str] | None = None,
    split: str | None = None,
    on_bad_row: str = "refuse",
    cache_dir: StrPath | None = None,
    repo: str | None = None,
) -> ParallelCorpus:
    """A retrieval set on the Hub by its name in `PRESETS`.

    Args:
        name (`str`): key of `PRESETS`.
        split (`str`, *optional*): another split than the preset's own.
        repo (`str`, *optional*): another repository, or a local folder, with the same files.
        languages, on_bad_row, cache_dir: as for every source, see `load.py`.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}{nearest_preset(name)}; give one of {', '.join(PRESETS)}.")
    preset = PRESETS[name]
    repo, split = repo or preset.repo, split or preset.split
    chosen = list(choose_languages(preset.languages, languages, f"preset {name!r}"))
    source = {"format": "hub", "preset": name, "id": repo, "revision": preset.revision, "license": preset.license}
    build = partial(build_judged, read=lambda code, bad: read_preset(preset, repo, code, split, bad), languages=chosen)
    key = [chosen, split, *stamp_files(Path(repo).rglob("*") if Path(repo).is_dir() else ())]
    return build_once(build, {**source, "url": preset.url}, key, on_bad_row, cache_dir)


def nearest_preset(name: str) -> str:
    near = difflib.get_close_matches(name, PRESETS, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
