"""All languages against all, from one encoding.

1. The queries and the passages of each language are encoded once: 2L sets for L languages.
2. A block of queries is scored against the passages of all languages, the pool. Of the scores only this is kept: how
   many passages score at least as high as each relevant one, in its own language and in the pool.
3. Those counts are ranks, and the ranks give every measure of every setting: monolingual and cross-lingual pairs from
   the counts within a language, multilingual and bias from those in the pool.

Shape letters: Q queries of a language, L languages, R relevant passages of all the queries in question, P top-k
passages that are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from hf_hybrid.metrics.beir_cross_lingual import ranking
from hf_hybrid.records.schema import SCORE_GROUPS, SETTINGS
from hf_hybrid.records.scores import flatten_scores
from hf_hybrid.retrieval.bm25 import TermPool
from hf_hybrid.retrieval.embeddings import EmbeddingStore, TextEncoder
from hf_hybrid.retrieval.faiss import FaissPool
from hf_hybrid.retrieval.search import Block, DensePool, Pool, Relevant, TopK
from hf_hybrid.utils import distributed

from .aggregate import BIAS_TOP_K, POOL, LanguageRanks, QueryValues, Tally, query_values, value_names
from .relevance import find_queries_with_qrels, judgments

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.records.schema import Scores

INDEXES = ("exact", "faiss")


class Details(Protocol):
    """A receiver of more than means, such as `per_query.EvaluationFiles`; called by the first process alone."""

    run_depth: int  # top k of each ranking that it wants, 0 for none

    def begin(self, names: Sequence[str]) -> None:
        """Hear, before the first language, which values there may be of a query."""
        ...

    def add(self, ranks: LanguageRanks, values: Sequence[QueryValues]) -> None:
        """Take in what the queries of one language gave."""
        ...


def evaluate_retrieval(
    model: Any,
    corpus: ParallelCorpus,
    *,
    settings: Sequence[str] = tuple(SETTINGS),
    measures: Sequence[str] = ranking.MEASURES,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    batch_tokens: int = 16_384,
    max_queries: int | None = None,
    embedding_dir: str | os.PathLike[str] | None = None,
    model_key: str | None = None,
    keep_embeddings: bool = False,
    index: str = "exact",
    details: Details | None = None,
    show_progress: bool = False,
) -> Scores:
    """Scores of a model in the monolingual, the cross-lingual and the multilingual setting.

    A measure is averaged over the queries of a language pair (of a language, in the multilingual setting), then
    over the pairs. Queries without a relevant passage in a pair do not count there; rank distance and PEER are those
    of the queries with relevant passages in several languages. Ties count against the model
    (`ranking.relevant_ranks`). Scores are computed in float32, whatever precision the model runs in.

    Args:
        model (`Any`): A `HybridEncoder`, a `SentenceTransformer`, or any object with `encode`: see
            `embeddings.TextEncoder`. With several processes, each encodes a share of every batch and ranks a share of
            the queries.
        corpus (`ParallelCorpus`): Items are the judgments; all `candidates` of a language can be retrieved.
        settings (`Sequence[str]`, *optional*): Some of `SETTINGS`, all by default. `"monolingual"` alone scores each
            language against its own passages only.
        measures (`Sequence[str]`, *optional*): Names as in `ranking.parse_measure`.
        query_prompt, passage_prompt (`str`, *optional*): Put before texts; by default what the model puts there.
        batch_tokens (`int`, *optional*, defaults to 16384): Most tokens of one forward pass of a `HybridEncoder`.
        max_queries (`int`, *optional*): Use the first so many queries of each language that have a relevant passage;
            all by default.
        embedding_dir (`str` or `Path`, *optional*): Where embeddings are kept until the end, so that a run which was
            killed resumes; by default a temporary folder.
        model_key (`str`, *optional*): Name of the model in `embedding_dir`, by default a hash of its weights.
        keep_embeddings (`bool`, *optional*, defaults to `False`): Leave them there, for further evaluations.
        index (`str`, *optional*, defaults to `"exact"`): `"faiss"` searches large languages approximately, see
            `faiss.FaissPool`: passages beyond its top k count as not found, without a rank distance.
        details (`Details`, *optional*): Is given what each query gave.
        show_progress (`bool`, *optional*, defaults to `False`): Show a bar.

    Returns:
        `Scores`: As in `eval.json`; the same on all processes.

    Raises:
        ValueError: When no query of the corpus has a relevant passage, an argument is not one of those above, or
            embeddings are not finite.

    Example:

        >>> from hf_hybrid.data.sources.sample import build_sample_corpus
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[1.0, len(text)] for text in texts])
        >>> corpus = build_sample_corpus(languages=["en", "de"])
        >>> scores = evaluate_retrieval(Lengths(), corpus, settings=["monolingual"], measures=["MRR@10"])
        >>> sorted(scores["pairs"]), 0 <= scores["monolingual"]["MRR@10"] < 0.5
        (['de-de', 'en-en'], True)
    """
    if index not in INDEXES:
        raise ValueError(f"index={index!r}: give one of {', '.join(INDEXES)}.")
    encoder = TextEncoder(model, query_prompt, passage_prompt, batch_tokens)
    with EmbeddingStore(encoder, corpus, embedding_dir, model_key, keep_embeddings) as store:

        def open_pool(view: ParallelCorpus, candidates: list[np.ndarray], queries: list[np.ndarray]) -> Pool:
            total = sum(map(len, candidates)) + sum(map(len, queries))
            with tqdm(total=total, desc="Encoding", unit="text", disable=not show_progress, leave=False) as bar:
                shards = [
                    [
                        store.shards(side, name, found, bar.update)
                        for name, found in zip(view.languages, rows, strict=True)
                    ]
                    for side, rows in ((view.PASSAGE, candidates), (view.QUERY, queries))
                ]
            if index == "faiss":
                return FaissPool(shards[1], shards[0])
            return DensePool(shards[1], shards[0], encoder.device)

        return evaluate_pool(open_pool, corpus, settings, measures, max_queries, details, show_progress)


def evaluate_pool(
    open_pool: Callable[[ParallelCorpus, list[np.ndarray], list[np.ndarray]], Pool],
    corpus: ParallelCorpus,
    settings: Sequence[str] = tuple(SETTINGS),
    measures: Sequence[str] = ranking.MEASURES,
    max_queries: int | None = None,
    details: Details | None = None,
    show_progress: bool = False,
) -> Scores:
    """Scores of whatever ranks passages: what `evaluate_retrieval` and `evaluate_bm25` share.

    Args:
        open_pool (`Callable`): Makes a `Pool` of a corpus, the rows of each language's passages and queries.
        corpus, settings, measures, max_queries, details, show_progress: As for `evaluate_retrieval`.

    Returns:
        `Scores`: As for `evaluate_retrieval`.

    Raises:
        ValueError: When there is nothing to evaluate, or an argument is not one of those allowed.
    """
    check_asked(settings, measures, max_queries)
    tally, top_k = Tally(corpus, settings), details.run_depth if details is not None else 0
    if details is not None and distributed.rank() == 0:
        details.begin(value_names(settings, measures))
    alone = tuple(settings) == ("monolingual",)
    for view in [corpus.select_languages([name]) for name in corpus.languages] if alone else [corpus]:
        for ranks in _rank_view(open_pool, view, max_queries, top_k, show_progress):
            values = query_values(ranks, settings, measures)
            tally.add(ranks, values, measures)
            if details is not None and distributed.rank() == 0:
                details.add(ranks, values)
    if tally.empty:
        raise ValueError(
            f"nothing to evaluate: no query has a relevant passage in the settings {', '.join(settings)}."
        )
    return tally.scores()


def what_is_evaluated(
    corpus: ParallelCorpus,
    settings: Sequence[str] = tuple(SETTINGS),
    measures: Sequence[str] = ranking.MEASURES,
    max_queries: int | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what `eval.json` records besides scores; `more` is included unchanged."""
    found = {"corpus": corpus.source, "corpus_fingerprint": corpus.fingerprint, "languages": list(corpus.languages)}
    return {**found, "settings": list(settings), "measures": list(measures), "max_queries": max_queries, **more}


def scores_table(before: Scores | None, after: Scores) -> str:
    """The settings before and after training, as text.

    Example:

        >>> scores: Scores = {"monolingual": {"MAP": 0.5}, "cross_lingual": {}, "multilingual": {},
        ...                   "bias": {"rank_distance": 12.0}, "pairs": {}, "num_queries": 1}
        >>> print(scores_table(None, scores))
        measure               before    after
        monolingual/MAP            -   0.5000
        bias/rank_distance         -     12.0
    """
    return table({"before": before, "after": after})


def table(columns: dict[str, Scores | None]) -> str:
    """The settings of several evaluations side by side, as text."""
    flat = {title: flatten_scores(scores) if scores else {} for title, scores in columns.items()}
    found_names = dict.fromkeys(name for found in flat.values() for name in found)
    names = sorted(found_names, key=lambda name: SCORE_GROUPS.index(name.partition("/")[0]))
    rows = [("measure", *flat)]
    for name in names:
        digits = 1 if name.endswith("rank_distance") else 4
        rows.append((name, *(f"{found[name]:.{digits}f}" if name in found else "-" for found in flat.values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  "
        + " ".join(f"{text:>{max(8, width)}}" for text, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


def check_asked(settings: Sequence[str], measures: Sequence[str], max_queries: int | None) -> None:
    """Refuse settings, measures and numbers of queries that there are not, before any work (ValueError)."""
    if not settings or not set(settings) <= set(SETTINGS):
        raise ValueError(f"settings={list(settings)}: give some of {', '.join(SETTINGS)}.")
    if max_queries is not None and max_queries < 1:
        raise ValueError(f"max_queries={max_queries}: give at least 1, or omit it for all queries.")
    if not measures:
        raise ValueError(f"measures={list(measures)}: give some, such as {', '.join(ranking.MEASURES)}.")
    for name in measures:
        ranking.parse_measure(name)


# Step 2: ranks


def _rank_view(
    open_pool: Callable[..., Pool], view: ParallelCorpus, max_queries: int | None, top_k: int, show_progress: bool
) -> Iterator[LanguageRanks]:
    """The ranks of the queries of each language; languages without judgments are passed over."""
    candidates = [view.candidates(language) for language in view.languages]
    query_rows = [find_queries_with_qrels(view, number, max_queries) for number in range(len(view.languages))]
    if not any(map(len, query_rows)):
        return
    pool = open_pool(view, candidates, query_rows)
    total = sum(map(len, query_rows))
    with tqdm(total=total, desc="Evaluating", unit="query", disable=not show_progress, leave=False) as bar:
        for number, rows in enumerate(query_rows):
            if len(rows):
                relevant = judgments(view, number, candidates, rows)
                own = list(_rank_blocks(pool, number, len(rows), relevant, top_k, bar.update))
                yield _joined_ranks(view, number, rows, candidates, relevant, own)


def _joined_ranks(
    view: ParallelCorpus,
    language: int,
    query_rows: np.ndarray,
    candidates: list[np.ndarray],
    relevant: Relevant,
    own: list[Block],
) -> LanguageRanks:
    """The blocks of all processes in one; longer rankings come to the first process alone, which writes them."""
    blocks = [block for found in distributed.from_all([block._replace(best=[]) for block in own]) for block in found]
    own_R, pool_R, score_R, share_Q, first_QP = map(np.concatenate, list(zip(*blocks, strict=True))[:5])
    longer = [lists for found in distributed.to_first([block.best for block in own]) for lists in found]
    pair_R = relevant.query_R * len(candidates) + relevant.language_R
    return LanguageRanks(
        query_language=view.languages[language],
        passage_languages=view.languages,
        query_rows=query_rows,
        candidates=candidates,
        relevant=relevant,
        own_rank_R=ranking.relevant_ranks(own_R, pair_R, score_R, relevant.gain_R),
        pool_rank_R=ranking.relevant_ranks(pool_R, relevant.query_R, score_R, relevant.gain_R),
        pool_last_R=pool_R,
        same_language_share_Q=share_Q,
        first_QP=first_QP,
        best=dict(zip((*view.languages, POOL), map(_joined, zip(*longer, strict=True)), strict=False)),
    )


def _rank_blocks(
    pool: Pool, language: int, num_queries: int, relevant: Relevant, top_k: int, advance: Callable[[int], Any]
) -> Iterator[Block]:
    """Block after block of this process' share of the queries of one language."""
    share = np.array_split(np.arange(num_queries), distributed.world_size())[distributed.rank()]
    height = pool.block_height
    for first in range(0, len(share), height):
        queries = slice(int(share[first]), int(share[min(first + height, len(share)) - 1]) + 1)
        begin, end = np.searchsorted(relevant.query_R, [queries.start, queries.stop])
        part = relevant.take(slice(begin, end))
        yield pool.rank(language, queries, part._replace(query_R=part.query_R - queries.start), BIAS_TOP_K, top_k)
        advance((queries.stop - queries.start) * distributed.world_size())


def _joined(parts: Sequence[TopK]) -> TopK:
    return TopK(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def evaluate_bm25(corpus: ParallelCorpus, **options: Any) -> Scores:
    """Scores of BM25 in all settings.

    Args:
        corpus (`ParallelCorpus`): What to evaluate on.
        **options: `settings`, `measures`, `max_queries`, `details` and `show_progress` of `evaluate_retrieval`.

    Example:

        >>> from hf_hybrid.data.sources.sample import build_sample_corpus
        >>> found = evaluate_bm25(build_sample_corpus(languages=["en", "de"]), max_queries=50)
        >>> found["monolingual"]["MAP"] > found["cross_lingual"]["MAP"] > 0
        True
    """
    open_pool = partial(TermPool, show_progress=options.get("show_progress", False))
    return evaluate_pool(open_pool, corpus, **options)
