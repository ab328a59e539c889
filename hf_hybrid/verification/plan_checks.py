"""The plan of a run against its arguments, its fingerprint and the texts; the corpora against their fingerprints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_hybrid.data.batches.mix import BATCH_TYPES, MixConfig, largest_remainder
from hf_hybrid.data.batches.schedule import HybridSchedule, plan_fingerprint
from hf_hybrid.evaluation.aggregate import POOL
from hf_hybrid.utils.redaction import publishable

from .evidence import Evidence, Unreadable, explain_python_run
from .findings import ROUNDING, UNKNOWN, Finding, check, compare

if TYPE_CHECKING:
    from hf_hybrid.data.corpus import ParallelCorpus
    from hf_hybrid.records.schema import Run


def check_plan(evidence: Evidence) -> Iterator[Finding]:
    """The plan against its fingerprint, the arguments, and what `run.json` tells of it."""
    run, plan = evidence.run, evidence.plan
    config, identity, language_pairs = run["config"], run["identity"], plan["language_pairs"]
    names = [(pair["batch_type"], pair["language_pair"]) for pair in language_pairs]
    known = all(type(number) is int and 0 <= number < len(language_pairs) for number in plan["batches"])
    yield check(
        "plan", "plan.json: batches", known, f"has a number that is none of its {len(language_pairs)} language pairs'"
    )
    if not known:
        return
    yield from compare("plan", "plan.json: fingerprint", plan_fingerprint(names, plan["batches"]), plan["fingerprint"])
    yield from compare("plan", "run.json: identity: plan", plan["fingerprint"], identity["plan"])
    num_batches = len(evidence.batches(0, config["max_steps"]))
    yield from compare("plan", "plan.json: number of batches", num_batches, len(plan["batches"]))
    steps = Counter(names[number] for number in plan["batches"])
    counted = "blocks" if evidence.is_mlm else "steps"
    told = {
        " ".join((row["batch_type"], row["language_pair"])): row[counted]
        for row in run["plan"]["language_pairs"]
        if row[counted]
    }
    yield from compare("plan", "run.json: plan: steps", {" ".join(name): count for name, count in steps.items()}, told)
    yield from _check_mlm_shares(run, steps) if evidence.is_mlm else _check_shares(run["mix"], steps)
    yield from _check_arguments(config, identity, run)
    yield from _check_languages(run, names)


def _check_shares(mix: str, steps: Counter[tuple[str, str]]) -> Iterator[Finding]:
    shares, total = MixConfig.parse(mix), sum(steps.values())
    batch_types = [batch_type for batch_type in BATCH_TYPES if getattr(shares, batch_type)]
    expected = largest_remainder(np.array([getattr(shares, batch_type) for batch_type in batch_types]), total).tolist()
    found: Counter[str] = Counter()
    for (batch_type, _), count in steps.items():
        found[batch_type] += count
    planned = {batch_type: count for batch_type, count in zip(batch_types, expected, strict=True) if count}
    yield from compare("plan", "plan.json: steps of each batch type", planned, dict(found))


def _check_mlm_shares(run: Mapping[str, Any], blocks: Counter[tuple[str, str]]) -> Iterator[Finding]:
    """Each language has its exact share, rounded up or down."""
    rows, total = run["plan"]["language_pairs"], sum(blocks.values())
    weights = [row["tokens"] ** run["config"]["smoothing"] for row in rows]
    for row, weight in zip(rows, weights, strict=True):
        share, found = total * weight / sum(weights), blocks[row["batch_type"], row["language_pair"]]
        told = f"expected {share:.2f} rounded up or down, found {found}"
        yield check("plan", f"plan.json: blocks of {row['language_pair']}", abs(found - share) < 1 + ROUNDING, told)


def _check_arguments(config: Mapping[str, Any], identity: Mapping[str, Any], run: Run) -> Iterator[Finding]:
    """What is said several times is said alike."""
    data_seed = config["seed"] if config["data_seed"] is None else config["data_seed"]
    longest = run["model"]["max_length"]  # of what the model can read
    reason = explain_python_run(run)
    lengths = {"max_query_length": config.get("max_query_length", longest), "max_passage_length": longest}
    lengths = {name: min(length, longest) for name, length in lengths.items()}
    for name, value in identity.items():
        if reason and name in lengths:
            yield Finding("plan", UNKNOWN, f"run.json: identity: {name}", reason)
            continue
        expected = {**config, "data_seed": data_seed, **lengths}.get(name, value)
        yield from compare("plan", f"run.json: identity: {name}", expected, value)
    yield from compare("plan", "run.json: seed", identity["data_seed"], run["seed"])
    yield from compare("plan", "run.json: mix", identity["mix"], run["mix"])


def _check_languages(run: Mapping[str, Any], names: list[tuple[str, str]]) -> Iterator[Finding]:
    """Check the languages of each pair, and the items of monolingual pairs."""
    items = run["corpus"]["items_per_language"]
    for batch_type, name in names:
        query, _, passage = name.partition("->")
        fits = {"mono": query == passage, "cross": query != passage, "pool": passage == POOL, "mixed": query == POOL}
        told = f"{batch_type} {name} is no language pair of the languages {', '.join(items)}"
        holds = fits.get(batch_type, True) and {query, passage or query} <= {*items, POOL}
        yield check("plan", f"plan.json: language pairs: {name}", holds, told)
    for row in run["plan"]["language_pairs"]:
        if row["batch_type"] == "mono":
            language = row["language_pair"].partition("->")[0]
            yield from compare("plan", f"run.json: plan: {row['language_pair']}: items", items[language], row["items"])


# Corpora


def check_corpus(evidence: Evidence) -> Iterator[Finding]:
    """The corpora by their fingerprints, and the plan rebuilt from them, as far as they are available."""
    run, evaluated = evidence.run, evidence.evaluation["evaluated"]
    corpus = run["corpus"]
    yield from compare("corpus", "run.json: corpus: fingerprint", run["identity"]["corpus"], corpus["fingerprint"])
    yield from compare("corpus", "run.json: corpus: license", corpus["source"].get("license"), corpus["license"])
    try:
        train, held_out = evidence.corpora
    except Unreadable as error:
        for place in ("run.json: corpus", "eval.json: evaluated", "plan.json: what the texts decide"):
            yield Finding("corpus", UNKNOWN, place, str(error))
        return
    here, there = train.source.get("revision"), corpus["source"].get("revision")
    if here != there:  # another release of what the corpus is made of
        yield Finding("corpus", UNKNOWN, "run.json: corpus", f"it was made of {there}, and is made of {here} here")
        if train.fingerprint != corpus["fingerprint"]:
            return
    expected = {"fingerprint": train.fingerprint, **_items(train)}
    yield from compare("corpus", "run.json: corpus", expected, {name: corpus[name] for name in expected})
    yield from _check_source("run.json: corpus: source", train, corpus["source"])
    expected = {"corpus_fingerprint": held_out.fingerprint, "languages": list(held_out.languages)}
    yield from compare("corpus", "eval.json: evaluated", expected, {name: evaluated[name] for name in expected})
    yield from _check_source("eval.json: evaluated: corpus", held_out, evaluated["corpus"])
    if evidence.is_mlm:
        told = "its blocks follow from the texts and the model's tokenizer"
        yield Finding("corpus", UNKNOWN, "plan.json: what the texts decide", told)
    else:
        yield from _check_schedule(evidence, train)


def _check_source(place: str, corpus: ParallelCorpus, told: Mapping[str, Any]) -> Iterator[Finding]:
    """What is known of the source; a folder may have another name here, and may have lost its data set card."""
    named = ("revision",) if corpus.source.get("format") in ("sample", "hub") else ("revision", "path")
    expected = {name: value for name, value in publishable(corpus.source).items() if name not in named}
    yield from compare("corpus", place, expected, {name: told[name] for name in expected if name in told})


def _items(corpus: ParallelCorpus) -> dict[str, Any]:
    counts = corpus.pair_counts()
    return {"items_per_language": {name: int(counts[i, i]) for i, name in enumerate(corpus.languages)}}


def _check_schedule(evidence: Evidence, corpus: ParallelCorpus) -> Iterator[Finding]:
    """The plan, rebuilt; the pairs of each line and the steps of each language by its batches."""
    run, config = evidence.run, evidence.run["config"]
    schedule = HybridSchedule(
        corpus,
        config["mix"],
        num_steps=config["max_steps"] * config["gradient_accumulation_steps"],
        seed=run["identity"]["data_seed"],
        **{
            name: config[name]
            for name in ("global_batch_size", "smoothing", "language_pairs", "exclude", "max_positives")
        },
    )
    yield from compare("corpus", "plan.json: fingerprint", schedule.fingerprint, evidence.plan["fingerprint"])
    yield from compare("corpus", "run.json: plan: language pairs", schedule.plan(), run["plan"]["language_pairs"])
    if schedule.fingerprint != evidence.plan["fingerprint"]:
        return
    steps: Counter[str] = Counter()
    for number, (line, (first, end)) in enumerate(zip(evidence.lines, evidence.spans, strict=True), start=1):
        pairs = 0
        for step in range(first, end):
            batches = [schedule.batch(batch) for batch in evidence.batches(step, step + 1)]
            pairs += sum(len(batch.items) for batch in batches)
            parts = [part for batch in batches for part in (batch.query_languages, batch.positive_languages)]
            steps.update(corpus.languages[language] for language in np.unique(np.concatenate(parts)))
        yield from compare("corpus", f"resources.jsonl, line {number}: pairs", pairs, line["pairs"])
    found = {name: share["steps"] for name, share in evidence.resources["per_language"].items()}
    yield from compare("corpus", "resources.json: per_language: steps", dict(steps), found)
