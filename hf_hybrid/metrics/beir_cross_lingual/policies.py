"""Names of the measures, and what each evaluation package means by them (standard library only, leaf).

Two packages that print "MRR@10" need not agree: one puts documents of equal score in the order of their ids, one in
the order given; one divides by all queries, one by those with results. A `Policy` says each such thing in a field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, NamedTuple

MEASURES = ("MAP", "nDCG@10", "MRR@10", "Recall@100")

_FORMS = {
    "MAP": "MAP or MAP@k",
    "nDCG": "nDCG or nDCG@k",
    "MRR": "MRR or MRR@k",
    "Recall": "Recall@k",
    "P": "P@k",
    "success": "success@k",
    "R-precision": "R-precision",
}

_OTHER_NAMES = {
    "precision": "P",
    "recip_rank": "MRR",
    "rprec": "R-precision",
    "accuracy": "success",
    "hit_rate": "success",
}

Ties = Literal["pessimistic", "id_descending", "id_ascending", "as_given"]
Missing = Literal["left_out", "zero"]


class Measure(NamedTuple):
    """A parsed name: `nDCG@10` is `Measure("nDCG", 10)`, `MAP` is `Measure("MAP", None)`."""

    name: str
    cutoff: int | None


def parse_measure(name: str) -> Measure:
    """The measure that a name stands for.

    Args:
        name (`str`): `MAP`, `MAP@k`, `nDCG`, `nDCG@k`, `MRR`, `MRR@k`, `Recall@k`, `P@k`, `success@k` or
            `R-precision`, where `k` is a whole number from 1.

    Returns:
        `Measure`: Its name and its cutoff, `None` for the whole ranking.

    Raises:
        ValueError: When there is no such measure; the message has the nearest.

    Example:

        >>> parse_measure("nDCG@10")
        Measure(name='nDCG', cutoff=10)
        >>> parse_measure("ndcg@10")
        Traceback (most recent call last):
        ...
        ValueError: measure 'ndcg@10': ... Did you mean 'nDCG@10'?
    """
    found = re.fullmatch(r"([^@]+)(?:@([1-9][0-9]*))?", str(name), flags=re.ASCII)
    if found and found[1] in _FORMS:
        form = _FORMS[found[1]]
        if ("@k" in form) if found[2] else (form == found[1] or " or " in form):
            return Measure(found[1], int(found[2]) if found[2] else None)
    raise ValueError(
        f"measure {name!r}: give {', '.join(_FORMS.values())}, with k a whole number from 1. "
        f"Did you mean {_nearest(name)!r}?"
    )


def _nearest(name: str) -> str:
    name, at, cutoff = str(name).partition("@")
    known = {name.lower(): name for name in _FORMS} | _OTHER_NAMES
    near = known[get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]]
    if "@k" not in _FORMS[near] or (not at and " or " in _FORMS[near]):
        return near
    return f"{near}@{cutoff if re.fullmatch('[1-9][0-9]*', cutoff, flags=re.ASCII) else 10}"


@dataclass(frozen=True)
class Policy:
    """The evaluation rules of a package.

    Args:
        name (`str`): What it is called in messages and results.
        ties (`str`, *optional*, defaults to `"pessimistic"`): Order of documents with the same score: `"pessimistic"`
            (those that are not relevant first, then from the lowest grade to the highest), `"id_descending"` or
            `"id_ascending"` (by document id, code point by code point), `"as_given"` (in the order of the run).
        score_type (`str`, *optional*, defaults to `"float64"`): Scores are rounded to this first; `"float32"` makes
            ties of scores that differ in the eighth digit.
        own_id (`str`, *optional*, defaults to `"keep"`): A retrieved document with the id of the query: `"keep"`, or
            `"drop"` it from the run. If it is relevant, it then counts as not retrieved.
        no_judgments (`str`, *optional*, defaults to `"left_out"`): A query whose references list no document is
            `"left_out"` of the mean or counts as `"zero"`.
        no_relevant (`str`, *optional*, defaults to `"left_out"`): The same for one whose documents are all not
            relevant.
        not_in_run (`str`, *optional*, defaults to `"zero"`): The same for one without an entry in the run. An entry
            without documents counts as zero in every package.
        gain (`str`, *optional*, defaults to `"linear"`): What nDCG gains by a document: its relevance, or 1
            (`"binary"`). All other measures are binary: relevance above 0.
        average_precision_over (`str`, *optional*, defaults to `"all"`): What the sum in MAP@k is divided by: `"all"`
            relevant documents, or at most the `"cutoff"`.
        decimals (`int`, *optional*): The mean is rounded to these; by default not at all.
        summation (`str`, *optional*, defaults to `"running"`): `"running"` adds the values one after another,
            `"builtin"` is Python's `sum`, which compensates from Python 3.12 on. The last bit decides how a mean that
            lies between two rounded ones is rounded.
        exceptions (`tuple[tuple[str, Policy], ...]`, *optional*): Measures, such as `"MRR"`, that the package
            computes by other rules.

    Example:

        >>> POLICIES["beir"].ties, POLICIES["beir"].of("MRR").ties
        ('id_descending', 'as_given')
        >>> by_id = replace(POLICIES["hf_hybrid"], name="by id", ties="id_ascending")
    """

    name: str
    ties: Ties = "pessimistic"
    score_type: Literal["float64", "float32"] = "float64"
    own_id: Literal["keep", "drop"] = "keep"
    no_judgments: Missing = "left_out"
    no_relevant: Missing = "left_out"
    not_in_run: Missing = "zero"
    gain: Literal["linear", "binary"] = "linear"
    average_precision_over: Literal["all", "cutoff"] = "all"
    decimals: int | None = None
    summation: Literal["running", "builtin"] = "running"
    exceptions: tuple[tuple[str, Policy], ...] = ()

    def of(self, name: str) -> Policy:
        """Return the rules for a measure, such as `"MRR"`."""
        return dict(self.exceptions).get(name, self)


def _policies() -> dict[str, Policy]:
    ours = Policy("hf_hybrid")
    trec = Policy("trec_eval", "id_descending", "float32", no_relevant="zero", not_in_run="left_out")
    beir = replace(trec, name="beir", own_id="drop", decimals=5)
    # BEIR's own code sorts in Python, which leaves ties as they come, and divides by all queries of the references.
    of_beir = replace(beir, ties="as_given", score_type="float64", no_judgments="zero", not_in_run="zero")
    mteb = replace(trec, name="mteb", decimals=5, summation="builtin")
    of_mteb = replace(mteb, score_type="float64", no_judgments="zero", decimals=None)
    return {
        "hf_hybrid": ours,
        "trec_eval": trec,
        "beir": replace(beir, exceptions=(("MRR", of_beir), ("success", of_beir))),
        "mteb": replace(mteb, exceptions=(("MRR", of_mteb),)),
        "sentence-transformers": Policy(
            "sentence-transformers", "id_ascending", gain="binary", average_precision_over="cutoff"
        ),
    }


POLICIES: dict[str, Policy] = _policies()
"""The policies that have a name; `hf_hybrid` is the default everywhere.

`trec_eval` is what pytrec_eval 0.5 computes, averaged as `trec_eval` does: over queries that have judgments and are
in the run. `beir` (2.2) and `mteb` (2.26) call pytrec_eval for all but their own MRR (BEIR: also accuracy, our
`success@k`). `beir` drops a document with the query's id, which is its default; for `ignore_identical_ids=False` use
`replace(POLICIES["beir"], own_id="keep")` (and the same for its exceptions); `mteb` keeps it, unless a task says
otherwise. `sentence-transformers` (6.2) knows no grades.
"""


def find_policy(policy: str | Policy) -> Policy:
    """The policy of that name; one that is a `Policy` already is given back.

    Args:
        policy (`str` or `Policy`): A key of `POLICIES`, or rules of your own.

    Returns:
        `Policy`: The rules.

    Raises:
        ValueError: When there is no policy of that name.

    Example:

        >>> find_policy("beir").decimals
        5
    """
    if isinstance(policy, Policy):
        return policy
    if policy not in POLICIES:
        near = get_close_matches(str(policy).lower(), POLICIES, n=1, cutoff=0.0)[0]
        raise ValueError(f"policy {policy!r}: give one of {', '.join(POLICIES)}, or a Policy. Did you mean {near!r}?")
    return POLICIES[policy]
