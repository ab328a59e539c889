"""All languages against all, from one encoding.

1. The queries and the passages of each language are encoded once: 2L sets for L languages.
2. A block of queries is scored against the passages of all languages, the pool. Of the scores only this is kept: how
   many passages score at least as high as each relevant one, in its own language and in the pool.
3. Those counts are ranks, and the ranks give every measure of every setting: monolingual and cross-lingual pairs from
   the counts within a language, multilingual and bias from those in the pool.

Shape letters: Q queries of a language, B of a block, N passages of the pool, L languages, I items, R relevant passages
of all the queries in question, D size of an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from . import distributed
from .metrics.beir_cross_lingual import ranking

if TYPE_CHECKING:
    from .corpus import ParallelCorpus
    from .encoder import HybridEncoder
    from .records import Scores

# Scores held at once, or those of one query where the pool is larger: 16 MiB, and as much again for comparisons.
_BLOCK_SCORES = 2**22
_SHARE_DEPTH = 10


class _Relevant(NamedTuple):
    """What is relevant to the queries of one language, by query; a passage by its place in the pool."""

    query_R: np.ndarray
    language_R: np.ndarray
    passage_R: np.ndarray
    gain_R: np.ndarray

    def take(self, chosen: np.ndarray | slice) -> _Relevant:
        return _Relevant(*(column[chosen] for column in self))


class _Ranks(NamedTuple):
    """Ranks of the relevant passages, and how much of each query's first places its own language has."""

    own_R: np.ndarray
    pool_R: np.ndarray
    same_language_share_Q: np.ndarray


def evaluate_retrieval(
    encoder: HybridEncoder,
    corpus: ParallelCorpus,
    *,
    batch_tokens: int = 16_384,
    max_queries: int | None = None,
    show_progress: bool = False,
) -> Scores:
    """Scores of an encoder in the monolingual, the cross-lingual and the multilingual setting.

    A measure is averaged over the queries of a pair of languages (of a language, in the multilingual setting), then
    over the pairs. Queries without a relevant passage in a pair do not count there; rank distance is that of the
    queries with relevant passages in several languages. Scores are inner products in float32, whatever precision the
    encoder runs in.

    Args:
        encoder (`HybridEncoder`): The model; with several processes, each encodes its share of every batch.
        corpus (`ParallelCorpus`): Items are the judgements; all `candidates` of a language can be retrieved.
        batch_tokens (`int`, *optional*, defaults to 16384): Most tokens of one forward pass of a process.
        max_queries (`int`, *optional*): Use the first so many queries of each language that have a relevant passage;
            all by default.
        show_progress (`bool`, *optional*, defaults to `False`): Show a bar.

    Returns:
        `Scores`: As in `eval.json`; the same on all processes.

    Raises:
        ValueError: When no query of the corpus has a relevant passage, `max_queries` is below 1, or embeddings are not
            finite.
    """
    if max_queries is not None and max_queries < 1:
        raise ValueError(f"max_queries={max_queries}: give at least 1, or None for all queries.")
    languages = list(enumerate(corpus.languages))
    candidates = [corpus.candidates(language) for language in corpus.languages]
    judgements = [_judgements(corpus, number, candidates, max_queries) for number, _ in languages]
    if not any(len(rows) for rows, _ in judgements):
        raise ValueError("nothing to evaluate: no query of the corpus has a relevant passage in any language.")
    bar = tqdm(total=2 * len(languages), desc="Evaluating", unit="set", disable=not show_progress, leave=False)

    def encode(side: int, language: str, rows: np.ndarray) -> torch.Tensor:
        embeddings = _encode(encoder, corpus, side, language, rows, batch_tokens)
        bar.update()
        return embeddings

    with bar:
        pool_ND = torch.cat([encode(corpus.PASSAGE, language, candidates[number]) for number, language in languages])
        sizes = [len(rows) for rows in candidates]
        tally = _Tally(corpus.languages)
        for (number, language), (rows, relevant) in zip(languages, judgements, strict=True):
            queries_QD = encode(corpus.QUERY, language, rows)
            if len(rows):
                tally.add(number, relevant, _rank(queries_QD, pool_ND, sizes, relevant, number))
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


def _judgements(
    corpus: ParallelCorpus, language: int, candidates: list[np.ndarray], max_queries: int | None
) -> tuple[np.ndarray, _Relevant]:
    """Rows of the queries of one language that have a relevant passage anywhere, and those passages."""
    passages = corpus.rows[..., corpus.PASSAGE]
    query_rows = corpus.rows[:, language, corpus.QUERY]
    judged = (query_rows >= 0) & (corpus.relevance > 0) & (passages >= 0).any(axis=1)
    items = np.flatnonzero(judged)
    rows, query_I = np.unique(query_rows[items], return_inverse=True)
    item_R, language_R = np.nonzero(passages[items] >= 0)
    passage_R = _places_in_pool(passages[items][item_R, language_R], language_R, candidates)
    gain_R = corpus.relevance[items][item_R]
    # a query may have the same passage through several items: it counts once, with the highest grade
    order = np.lexsort((-gain_R, passage_R, query_I[item_R]))
    found = _Relevant(query_I[item_R], language_R, passage_R, gain_R).take(order)
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(found.query_R) > 0) | (np.diff(found.passage_R) > 0)
    found = found.take(new)
    return rows[:max_queries], found if max_queries is None else found.take(found.query_R < max_queries)


def _places_in_pool(rows_R: np.ndarray, language_R: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    places_R = np.empty(len(rows_R), dtype=np.int64)
    start = 0
    for language, known in enumerate(candidates):
        here = language_R == language
        places_R[here] = start + np.searchsorted(known, rows_R[here])
        start += len(known)
    return places_R


def _encode(
    encoder: HybridEncoder, corpus: ParallelCorpus, side: int, language: str, rows: np.ndarray, batch_tokens: int
) -> torch.Tensor:
    """Embeddings `(len(rows), D)` of the texts in increasing `rows`, each process having encoded its share."""
    import pyarrow as pa  # here, so that the trainer imports where only a model and tokens are at hand

    texts = corpus.queries(language) if side == corpus.QUERY else corpus.passages(language)
    wanted = np.zeros(len(texts), dtype=bool)
    wanted[rows] = True
    chosen = texts.filter(pa.array(wanted)).to_pylist()  # `take` would join the chunks, which may pass 2 GiB
    name = ("query", "passage")[side]
    share = (distributed.rank(), distributed.world_size())
    own = encoder.encode(chosen, name, batch_tokens=batch_tokens, share=share)
    embeddings = distributed.sum_over_ranks(torch.as_tensor(own, dtype=torch.float32, device=encoder.device))
    if not embeddings.isfinite().all():
        raise ValueError(
            f"Embeddings of {name} texts in {language!r} are not finite (NaN or infinite), so nothing can be ranked. "
            "Has training diverged (lower the learning rate), or do values overflow in float16 (use bf16)?"
        )
    return embeddings


def _rank(
    queries_QD: torch.Tensor, pool_ND: torch.Tensor, sizes: list[int], relevant: _Relevant, own_language: int
) -> _Ranks:
    """Step 2 for the queries of one language; `sizes` says how many passages of the pool each language has."""
    height = max(1, _BLOCK_SCORES // len(pool_ND))
    found, shares = [], []
    for first in range(0, len(queries_QD), height):
        with torch.autocast(pool_ND.device.type, enabled=False):  # bf16 would make ties of near scores
            scores_BN = queries_QD[first : first + height] @ pool_ND.T
        shares.append(_same_language_share(scores_BN, sizes, own_language))
        start, end = np.searchsorted(relevant.query_R, [first, first + height])
        for begin in range(start, end, height):
            part = relevant.take(slice(begin, min(begin + height, end)))
            found.append(_count_at_least(scores_BN, part._replace(query_R=part.query_R - first), sizes))
    own_R, pool_R, score_R = (np.concatenate(column) for column in zip(*found, strict=True))
    query_R, language_R, _, gain_R = relevant
    return _Ranks(
        ranking.relevant_ranks(own_R, query_R * len(sizes) + language_R, score_R, gain_R),
        ranking.relevant_ranks(pool_R, query_R, score_R, gain_R),
        np.concatenate(shares),
    )


def _count_at_least(
    scores_BN: torch.Tensor, relevant: _Relevant, sizes: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many passages score at least as high as each relevant one in its language and in the pool, and its score.

    Its score is read from the scores it is compared with: computed apart it could be off by a rounding.
    """
    query_R, language_R, passage_R = (torch.from_numpy(column).to(scores_BN.device) for column in relevant[:3])
    score_R = scores_BN[query_R, passage_R]
    counts_RL = _count_by_language(scores_BN[query_R] >= score_R[:, None], sizes)
    own_R = counts_RL.gather(1, language_R[:, None]).squeeze(1)
    return own_R.cpu().numpy(), counts_RL.sum(dim=1).cpu().numpy(), score_R.cpu().numpy()


def _same_language_share(scores_BN: torch.Tensor, sizes: list[int], own_language: int) -> np.ndarray:
    """Share of one language among the first places of each query; passages that tie for the last places share them."""
    depth = min(_SHARE_DEPTH, scores_BN.shape[1])
    last_B1 = scores_BN.topk(depth, dim=1).values[:, -1:]
    above_BL, tied_BL = (
        _count_by_language(chosen_BN, sizes).cpu().numpy() for chosen_BN in (scores_BN > last_B1, scores_BN == last_B1)
    )
    places_B = depth - above_BL.sum(axis=1)
    return (above_BL[:, own_language] + places_B * tied_BL[:, own_language] / tied_BL.sum(axis=1)) / depth


def _count_by_language(chosen_BN: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    return torch.stack([part.count_nonzero(dim=1) for part in chosen_BN.split(sizes, dim=1)], dim=1)


class _Tally:
    """Step 3: means over queries, by pair and by query language, then over those."""

    def __init__(self, languages: tuple[str, ...]) -> None:
        self.languages, self.num_queries = languages, 0
        self.pairs: dict[tuple[int, int], dict[str, float]] = {}
        self.pool: list[dict[str, float]] = []
        self.bias: list[dict[str, float]] = []

    def add(self, query_language: int, relevant: _Relevant, ranks: _Ranks) -> None:
        """Take in the queries of one language, each of which has a relevant passage."""
        for language in np.unique(relevant.language_R).tolist():
            chosen = relevant.language_R == language
            self.pairs[query_language, language] = _means(relevant.take(chosen), ranks.own_R[chosen])
        self.pool.append(_means(relevant, ranks.pool_R))
        self.bias.append({"same_language_share@10": float(ranks.same_language_share_Q.mean())})
        num_queries = len(ranks.same_language_share_Q)
        self.num_queries += num_queries
        pairs = np.unique(np.stack([relevant.query_R, relevant.language_R]), axis=1)
        several_Q = np.bincount(pairs[0], minlength=num_queries) > 1
        if several_Q.any():
            distance_Q = ranking.rank_distance(relevant.query_R, ranks.pool_R, num_queries)
            self.bias[-1]["rank_distance"] = float(distance_Q[several_Q].mean())

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


def _means(relevant: _Relevant, ranks_R: np.ndarray) -> dict[str, float]:
    judged, query_R = np.unique(relevant.query_R, return_inverse=True)
    values = ranking.measures(query_R, ranks_R, relevant.gain_R, len(judged))
    return {name: float(value_Q.mean()) for name, value_Q in values.items()}


def _macro(found: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each measure over those that have it."""
    names = dict.fromkeys(name for scores in found for name in scores)
    return {name: float(np.mean([scores[name] for scores in found if name in scores])) for name in names}
