"""All languages against all, from one encoding.

1. The queries and the passages of each language are encoded once: 2L sets for L languages.
2. Each block of queries is scored against the passages of each language in turn; of the scores only this is kept: how many
   documents score at least as high as each relevant one, in its own language and in the pool of all.
3. Those counts are ranks, and the ranks give every measure of every setting: monolingual and cross-lingual pairs from the
   counts within a language, multilingual and bias from those in the pool.

Shape letters: Q queries of a block, N passages of a language, R relevant passages, D size of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from . import distributed
from .encoder import HybridEncoder
from .metrics.beir_cross_lingual import ranking
from .records import Scores

if TYPE_CHECKING:
    from .corpus import ParallelCorpus

_BLOCK_SCORES = 2**24  # scores held at once, 64 MiB in float32
_SHARE_DEPTH = 10


@dataclass(frozen=True)
class _Queries:
    """The queries of one language with what is relevant to them in each; `relevant` is (query, language, candidate, gain)."""

    rows: np.ndarray
    relevant: np.ndarray


def evaluate_retrieval(
    encoder: HybridEncoder,
    corpus: ParallelCorpus,
    *,
    batch_tokens: int = 16_384,
    max_queries: int | None = None,
    show_progress: bool = False,
) -> Scores:
    """Scores of an encoder in the monolingual, the cross-lingual and the multilingual setting.

    A measure is averaged over the queries of a pair of languages (of a language, in the multilingual setting), then over
    the pairs.  Queries without a relevant passage in a pair do not count there.

    Args:
        encoder (`HybridEncoder`): The model; with several processes, each encodes its share of every batch.
        corpus (`ParallelCorpus`): Items are the judgements; all `candidates` of a language can be retrieved.
        batch_tokens (`int`, *optional*, defaults to 16384): Most tokens of one forward pass over all processes.
        max_queries (`int`, *optional*): Use the first so many queries of each language.
        show_progress (`bool`, *optional*, defaults to `False`): Show a bar.

    Returns:
        `Scores`: As in `eval.json`; the same on all processes.

    Raises:
        ValueError: When no query of the corpus has a relevant passage.
    """
    candidates = [corpus.candidates(language) for language in corpus.languages]
    queries = [_queries(corpus, language, candidates, max_queries) for language in range(len(corpus.languages))]
    if not any(len(found.relevant) for found in queries):
        raise ValueError("nothing to evaluate: no query of the corpus has a relevant passage in any language.")
    steps = tqdm(total=3 * len(corpus.languages), desc="Evaluating", unit="set", disable=not show_progress, leave=False)
    with steps:
        passages = []
        for language, rows in zip(corpus.languages, candidates, strict=True):
            passages.append(_encode(encoder, corpus, corpus.PASSAGE, language, rows, batch_tokens))
            steps.update()
        tally = _Tally(corpus.languages)
        for number, found in enumerate(queries):
            language = corpus.languages[number]
            embedded = _encode(encoder, corpus, corpus.QUERY, language, found.rows, batch_tokens)
            steps.update()
            if len(found.relevant):
                tally.add(number, found.relevant, *_rank(embedded, passages, found.relevant, number))
            steps.update()
    return tally.scores()


def flatten_scores(scores: Scores) -> dict[str, float]:
    """`{"multilingual/MAP": ..., "bias/rank_distance": ...}`: the settings and the bias, without the pairs.

    Example:

        >>> flatten_scores({"monolingual": {"MAP": 0.5}, "cross_lingual": {}, "multilingual": {}, "bias": {},
        ...                 "pairs": {}, "num_queries": 1})
        {'monolingual/MAP': 0.5}
    """
    groups = ("monolingual", "cross_lingual", "multilingual", "bias")
    return {f"{group}/{name}": value for group in groups for name, value in scores[group].items()}  # type: ignore[literal-required]


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
    rows = [("measure", "before", "after")]
    earlier = flatten_scores(before) if before else {}
    for name, value in flatten_scores(after).items():
        digits = 1 if name.endswith("rank_distance") else 4
        rows.append((name, f"{earlier[name]:.{digits}f}" if name in earlier else "-", f"{value:.{digits}f}"))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{name:<{width}}  {first:>8} {second:>8}" for name, first, second in rows)


def _queries(corpus: ParallelCorpus, language: int, candidates: list[np.ndarray], most: int | None) -> _Queries:
    rows = corpus.rows
    items = np.flatnonzero(rows[:, language, corpus.QUERY] >= 0)
    query_rows, query_of_item = np.unique(rows[items, language, corpus.QUERY], return_inverse=True)
    relevant = []
    for passage_language, known in enumerate(candidates):
        passage_rows = rows[items, passage_language, corpus.PASSAGE]
        there = np.flatnonzero(passage_rows >= 0)
        columns = [query_of_item[there], np.full(len(there), passage_language), np.searchsorted(known, passage_rows[there])]
        judged, first = np.unique(np.stack(columns, axis=1), axis=0, return_index=True)
        relevant.append(np.column_stack([judged, corpus.relevance[items[there[first]]]]))
    found = np.concatenate(relevant)
    if most is not None:
        query_rows, found = query_rows[:most], found[found[:, 0] < most]
    return _Queries(query_rows, found)


def _encode(
    encoder: HybridEncoder, corpus: ParallelCorpus, side: int, language: str, rows: np.ndarray, batch_tokens: int
) -> torch.Tensor:
    """Embeddings `(N, D)` of the texts in `rows`, on the encoder's device, each process having encoded its share."""
    texts = corpus.queries(language) if side == corpus.QUERY else corpus.passages(language)
    chosen = texts.take(rows).to_pylist()
    share = (distributed.rank(), distributed.world_size())
    embeddings = encoder.encode(chosen, ("query", "passage")[side], batch_tokens=batch_tokens, share=share)
    return distributed.sum_over_ranks(torch.from_numpy(embeddings).to(encoder.device))


def _rank(
    queries: torch.Tensor, passages: list[torch.Tensor], relevant: np.ndarray, own_language: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each relevant passage its rank within its language and in the pool; for each query the share of its own language
    among the first ten of the pool."""
    own, pool = np.zeros(len(relevant), dtype=np.int64), np.zeros(len(relevant), dtype=np.int64)
    score = np.zeros(len(relevant), dtype=np.float32)
    same_language = np.zeros(len(queries))
    height = max(1, _BLOCK_SCORES // sum(len(part) for part in passages))
    for first in range(0, len(queries), height):
        block = queries[first : first + height]
        scores = [block @ part.T for part in passages]
        here = np.flatnonzero((relevant[:, 0] >= first) & (relevant[:, 0] < first + height))
        query = torch.from_numpy(relevant[here, 0] - first).to(block.device)
        relevant_score = _pick(scores, query, relevant[here])
        score[here] = relevant_score.cpu().numpy()
        for language, scores_QN in enumerate(scores):
            count = _count_at_least(scores_QN, query, relevant_score)
            pool[here] += count
            own[here] += np.where(relevant[here, 1] == language, count, 0)
        same_language[first : first + height] = _same_language_share(scores, own_language)
    own_keys = relevant[:, 0] * len(passages) + relevant[:, 1]
    return ranking.relevant_ranks(own, own_keys, score), ranking.relevant_ranks(pool, relevant[:, 0], score), same_language


def _pick(scores: list[torch.Tensor], query: torch.Tensor, relevant: np.ndarray) -> torch.Tensor:
    picked = scores[0].new_empty(len(relevant))
    for language, scores_QN in enumerate(scores):
        chosen = np.flatnonzero(relevant[:, 1] == language)
        picked[chosen] = scores_QN[query[chosen], torch.from_numpy(relevant[chosen, 2]).to(query.device)]
    return picked


def _count_at_least(scores_QN: torch.Tensor, query_R: torch.Tensor, score_R: torch.Tensor) -> np.ndarray:
    counts, height = [], max(1, _BLOCK_SCORES // max(1, scores_QN.shape[1]))
    for first in range(0, len(query_R), height):
        part = slice(first, first + height)
        counts.append((scores_QN[query_R[part]] >= score_R[part, None]).sum(dim=1))
    return torch.cat(counts).cpu().numpy() if counts else np.zeros(0, dtype=np.int64)


def _same_language_share(scores: list[torch.Tensor], own_language: int) -> np.ndarray:
    best, languages = [], []
    for language, scores_QN in enumerate(scores):
        top = scores_QN.topk(min(_SHARE_DEPTH, scores_QN.shape[1]), dim=1).values
        best.append(top)
        languages.append(torch.full_like(top, language, dtype=torch.long))
    depth = min(_SHARE_DEPTH, sum(part.shape[1] for part in best))
    chosen = torch.cat(best, dim=1).topk(depth, dim=1).indices
    return (torch.cat(languages, dim=1).gather(1, chosen) == own_language).float().mean(dim=1).cpu().numpy()


class _Tally:
    """Means over queries, by pair and by query language."""

    def __init__(self, languages: tuple[str, ...]) -> None:
        self.languages, self.num_queries = languages, 0
        self.pairs: dict[tuple[int, int], dict[str, float]] = {}
        self.pool: list[dict[str, float]] = []
        self.bias: list[dict[str, float]] = []

    def add(self, query_language: int, relevant: np.ndarray, own: np.ndarray, pool: np.ndarray, share: np.ndarray) -> None:
        """Take in the ranks of the relevant passages of one language's queries."""
        for language in np.unique(relevant[:, 1]).tolist():
            chosen = relevant[:, 1] == language
            self.pairs[query_language, language] = _means(relevant[chosen], own[chosen])
        judged, query = np.unique(relevant[:, 0], return_inverse=True)
        self.num_queries += len(judged)
        self.pool.append(_means(relevant, pool))
        distance = ranking.rank_distance(query, pool, len(judged)).mean()
        self.bias.append({"rank_distance": float(distance), "same_language_share@10": float(share[judged].mean())})

    def scores(self) -> Scores:
        """The means of the means."""
        mono = [found for (query, passage), found in self.pairs.items() if query == passage]
        cross = [found for (query, passage), found in self.pairs.items() if query != passage]
        return {
            "monolingual": _macro(mono),
            "cross_lingual": _macro(cross),
            "multilingual": _macro(self.pool),
            "bias": _macro(self.bias),
            "pairs": {f"{self.languages[q]}-{self.languages[p]}": found for (q, p), found in self.pairs.items()},
            "num_queries": self.num_queries,
        }


def _means(relevant: np.ndarray, ranks: np.ndarray) -> dict[str, float]:
    judged, query = np.unique(relevant[:, 0], return_inverse=True)
    values = ranking.measures(query, ranks, relevant[:, 3], len(judged))
    return {name: float(value.mean()) for name, value in values.items()}


def _macro(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]} if found else {}
