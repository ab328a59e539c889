"""The sections of a model card: tables of bounded size from the files of a run, and what was not measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_hybrid.records.schema import MOST_VALUES_BYTES, SETTINGS, Resources, Scores, is_mlm
from hf_hybrid.records.scores import first_measure, pair_matrix
from hf_hybrid.utils.text import Markdown, escape, join_names, sentence, table, to_plain_text

from .card_metadata import (
    ESTIMATES,
    CardFiles,
    corpus_name,
    emissions,
    hardware,
    is_hub_id,
    name_eval_corpus,
    preset_of,
)

_TOP_PAIRS = 5
_BATCH_TYPES = {
    "mono": "queries and passages in one language",
    "cross": "queries in one language, passages in another one",
    "pool": "queries in one language, passages of each item in several",
    "mixed": "each query and each passage in a language of its own",
}
# Model types whose AutoModel has a dense layer over the first token's state; a test holds it against transformers.
_WITH_POOLER = ("albert", "bert", "camembert", "ernie", "mpnet", "rembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
_ENERGY = {
    "nvml": "measured by the meters of the GPUs (NVML), without the host",
    "rapl": "measured by the meters of the processors (RAPL), without memory and the rest of the machine",
    "codecarbon": "an estimate by codecarbon for the whole machine, not a meter's figure",
}


# Numbers


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    Example:

        >>> duration(12.34), duration(600), duration(36_000)
        ('12.3 s', '10.0 min', '10.0 h')
    """
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200)):
        if seconds < most:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 3600:,.1f} h"


def _known(value: Any, shown: Callable[[Any], str] = "{:,}".format) -> str:
    return NOT_MEASURED if value is None else shown(value)


# What it is


def facts(files: CardFiles) -> Markdown:
    """Build the section on the model."""
    model, prompts = files.model, files.model.get("prompts") or {}
    base = files.base_model
    start = f"[{escape(base)}](https://huggingface.co/{base})" if base else None
    rows = [
        ["Architecture", model.get("architecture", NOT_RECORDED)],
        ["Parameters", _known(model.get("num_parameters"))],
        ["Vectors", f"{model['embedding_size']} numbers, float32" if model else NOT_RECORDED],
        ["Longest text", f"{model['max_length']:,} tokens; the rest is cut" if model else NOT_RECORDED],
        ["Pooling", _pooling(model) if model else NOT_RECORDED],
        ["Compared by", ("cosine" if model["normalize"] else "dot product") if model else NOT_RECORDED],
        ["Before queries", _quoted(prompts.get("query"))],
        ["Before passages", _quoted(prompts.get("passage"))],
        ["Trained from", Markdown(start) if start else files.began_from or "random weights"],
        ["Languages", join_names(files.languages)],
        ["License", files.options.get("license") or "none given"],
    ]
    return table(["Model", files.name], rows, texts=(0, 1))


def _pooling(model: Mapping[str, Any]) -> str:
    names = {"mean": "mean of all tokens", "cls": "first token", "pooler": "first token, dense layer, tanh"}
    layer = ", then a dense layer" if _has_projection(model) else ""
    return names.get(model["pooling"], str(model["pooling"])) + layer


def _has_projection(model: Mapping[str, Any]) -> bool:
    """A dense layer that `AutoModel` does not know of: a `pooler` it has."""
    return bool(model.get("projection")) and model["pooling"] != "pooler"


def _quoted(prompt: str | None) -> str:
    return f'"{prompt}"' if prompt else "nothing"


def code(files: CardFiles) -> dict[str, Any]:
    """Words of Python for the blocks of code."""
    model, prompts = files.model, files.model.get("prompts") or {}
    return {
        "repo": _literal(files.options.get("repo_id") or f"{files.folder}/model"),
        "query_prompt": _literal(prompts.get("query") or ""),
        "passage_prompt": _literal(prompts.get("passage") or ""),
        "max_length": model.get("max_length"),
        "pooling": model.get("pooling"),
        "normalize": model.get("normalize"),
        "unused_pooler": model.get("architecture") in _WITH_POOLER and model["pooling"] != "pooler",
        "plain_states": bool(model) and not _has_projection(model),  # what AutoModel gives needs only pooling
    }


def _literal(text: str) -> Markdown:
    """A text in Python, in double quotes where they need no escape."""
    literal = repr(text)
    return Markdown(literal if '"' in literal else f'"{literal[1:-1]}"')


# Training and data


def training(files: CardFiles) -> dict[str, Any]:
    """Mix, plan and settings."""
    run = files.run
    language_pairs = run["plan"].get("language_pairs")
    if not isinstance(language_pairs, list):  # as in older files
        language_pairs = []
    if is_mlm(run):
        return _language_modeling(files, language_pairs)
    total = sum(pair["steps"] for pair in language_pairs)
    batch_types = list(dict.fromkeys(pair["batch_type"] for pair in language_pairs))
    rows = []
    for batch_type in batch_types:
        own = [pair for pair in language_pairs if pair["batch_type"] == batch_type]
        steps, pairs = (sum(pair[name] for pair in own) for name in ("steps", "pairs"))
        rows.append(
            [
                batch_type,
                f"{steps:,}",
                f"{steps / total:.1%}",
                f"{pairs:,}",
                f"{len(own):,}",
                _BATCH_TYPES.get(batch_type),
            ]
        )
    largest = sorted(
        language_pairs,
        key=lambda pair: (
            -pair["pairs"],
            pair["batch_type"],
            pair["language_pair"],
        ),
    )[:_TOP_PAIRS]
    top = [
        [
            pair["language_pair"].replace("->", " → "),
            pair["batch_type"],
            *(f"{pair[name]:,}" for name in ("steps", "pairs", "items")),
        ]
        for pair in largest
    ]
    return {
        "mix": run["mix"],
        "num_batches": f"{total:,}",
        "batch_types": language_pairs
        and table(
            ["Batch type", "Batches", "Share", "Queries", "Language pairs", "What a batch is"], rows, texts=(0, 5)
        ),
        "num_language_pairs": f"{len(language_pairs):,}",
        "top": table(["Language pair", "Batch type", "Batches", "Queries", "Items"], top, texts=(0, 1)),
        "settings": _training_settings(files),
        "plan": files.plan["fingerprint"] if files.plan else run.get("identity", {}).get("plan"),
    }


def _language_modeling(files: CardFiles, language_pairs: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Blocks of each language, and settings."""
    total, length = (
        sum(pair["blocks"] for pair in language_pairs),
        files.run["config"]["block_length"],
    )
    rows = [
        [
            pair["language_pair"],
            f"{pair['blocks']:,}",
            f"{pair['blocks'] / total:.1%}",
            f"{pair['blocks'] * length / pair['tokens']:,.1f}",
            f"{pair['items']:,}",
        ]
        for pair in language_pairs[:MOST_ROWS]
    ]
    return {
        "mix": "mlm",
        "num_blocks": f"{total:,}",
        "num_language_pairs": f"{len(language_pairs):,}",
        "languages": table(["Language", "Blocks", "Share", "Passes over its texts", "Texts"], rows),
        "settings": _training_settings(files),
        "plan": files.plan["fingerprint"] if files.plan else files.run.get("identity", {}).get("plan"),
    }


def _training_settings(files: CardFiles) -> Markdown:
    run = files.run
    config = {**run.get("identity", {}), **run["config"]}  # the first where no recipe told its arguments
    names = {
        "Blocks in a batch" if is_mlm(run) else "Queries in a batch": "global_batch_size",
        "Optimizer steps": "max_steps",
        "Batches a step": "gradient_accumulation_steps",
        "Learning rate": "learning_rate",
        "Schedule": "lr_scheduler_type",
        "Warm-up": "warmup_steps",
        "Optimizer": "optim",
        "Weight decay": "weight_decay",
        "Temperature": "temperature",
        "Smoothing": "smoothing",
        "Hard negatives": "num_negatives",
        "Most tokens of a query": "max_query_length",
        "Most tokens of a passage": "max_passage_length",
        "Tokens of a block": "block_length",
        "Masks": "masking",
        "Passes until masks repeat": "mask_duplicates",
        "Share of tokens predicted": "mlm_probability",
        "Whole words": "whole_word_mask",
    }
    if is_mlm(run):  # no text is cut
        names = {title: name for title, name in names.items() if not title.startswith("Most tokens")}
    rows = [[title, config[name]] for title, name in names.items() if config.get(name) is not None]
    if config.get("load_best_model_at_end"):
        step, metric = files.model.get("step", NOT_RECORDED), config.get("metric_for_best_model")
        rows.append(["Checkpoint taken", f"step {step}, the best by {metric} on the evaluation corpus"])
    rows += [["Precision", files.precision], ["Seed", run["seed"]]]
    return table(["Setting", "Value"], rows)


def data(files: CardFiles) -> Markdown:
    """Corpora with their licenses."""
    corpus, evaluated = files.run["corpus"], files.evaluated
    counts = list(corpus["items_per_language"].values())
    span = f"{min(counts):,}" + (f" to {max(counts):,}" if max(counts) > min(counts) else "") if counts else "0"
    source = corpus.get("source") or {}
    trained = [
        "Training",
        *_source(source, corpus.get("license")),
        len(counts),
        f"{span} items",
        corpus["fingerprint"],
    ]
    rows = [trained]
    if evaluated:
        source = evaluated.get("corpus") or {}
        languages, scores = len(evaluated.get("languages") or []), files.scores or files.evaluation["before"]
        queries = f"{scores['num_queries']:,} queries in all" if scores else NOT_MEASURED
        fingerprint = evaluated.get("corpus_fingerprint")
        title = "Evaluation, held out" if files.held_out else "Evaluation"
        rows.append([title, *_source(source, source.get("license")), languages, queries, fingerprint])
    rows = [[*row[:-1], str(row[-1] or NOT_RECORDED)[:12]] for row in rows]
    head = ["For", "Corpus", "Revision", "License", "Languages", "In each language", "Fingerprint"]
    return table(head, rows, texts=(0, 1, 2, 3, 5, 6))


def _source(source: Mapping[str, Any], license: str | None) -> list[Any]:
    preset = preset_of(source)
    name: Any = corpus_name(source)
    if preset and is_hub_id(preset.repo):
        name = Markdown(f"[{preset.repo}]({preset.url})")
    revision = str(source.get("revision") or NOT_RECORDED)
    return [name, revision[:12] if len(revision) == 40 else revision, license or "unknown"]


# Resources


def resources(files: CardFiles) -> dict[str, Any]:
    """Build the section on costs."""
    found = files.resources
    if found is None:
        return {}
    computed = found["tokens"] + found["padding_tokens"]
    gib = "{:.2f} GiB".format
    rows = [
        ["Training", duration(found["train_time_s"])],
        ["Set-up", duration(found["setup_time_s"])],
        ["Optimizer steps", _known(found["num_steps"])],
        ["Queries", f"{found['num_pairs']:,} ({_known(found['pairs_per_s'], '{:,.1f} a second'.format)})"],
        ["Tokens", f"{found['tokens']:,} ({_known(found['tokens_per_s'], '{:,.0f} a second'.format)})"],
        ["Padding", f"{found['padding_tokens']:,} tokens, {found['padding_tokens'] / max(computed, 1):.1%} of all"],
        ["Operations", _known(found["flops"], "{:.3e} FLOP".format)],
        ["Share of the devices' peak", _known(found["mfu"], "{:.1%}".format)],
        ["Memory of a device, peak", _known(max(found["peak_device_memory_gib"] or [], default=None), gib)],
        ["Memory of a process on the host, peak", _known(max(found["peak_host_memory_gib"], default=None), gib)],
        ["Sent between processes", _sent(found.get("bytes_sent"), files.run["world_size"])],
        ["Energy", _energy(found["energy_wh"], found["energy_source"])],
        *_emissions(files),
        ["Hardware", hardware(files.run)],
        ["Software", _software(files.run["environment"])],
    ]
    return {
        "totals": table(["What", "How much"], rows, texts=(0, 1)),
        "formula": _formula(found),
        "languages": _cost_table(found["per_language"], found["train_time_s"]),
        "languages_shown": describe_shown_rows(len(found["per_language"]), "that took most and", "that took least"),
    }


def _formula(resources: Resources) -> Markdown | None:
    if resources["flops"] is None:
        return None
    values = [f"{name}={value}" for name, value in (resources["flops_terms"] or {}).items() if value]
    return escape(", ".join([resources["flops_formula"], *values]), most=500)


def _cost_table(shares: Mapping[str, Any], total_s: float) -> Markdown:
    order = sorted(shares, key=lambda name: (-shares[name]["time_s"], name))
    names = order if len(order) <= MOST_ROWS else [*order[:EXTREMES], *order[-EXTREMES:]]
    rows = [
        [
            name,
            f"{shares[name]['steps']:,}",
            f"{shares[name]['tokens']:,}",
            duration(shares[name]["time_s"]),
            f"{shares[name]['time_s'] / total_s:.1%}" if total_s else None,
        ]
        for name in names
    ]
    return table(["Language", "Steps with it", "Tokens", "Time", "Share of time"], rows)


def _sent(sent: Mapping[str, Any] | None, world_size: int) -> str:
    if sent is None:
        return "nothing: one process" if world_size == 1 else NOT_MEASURED
    embeddings, weights = (f"{sent[name] / 2**30:,.2f} GiB" for name in ("embeddings", "weights"))
    return f"{embeddings} of embeddings; {weights} of gradients and weights, by formula"


def _energy(energy_wh: float | None, source: str | None) -> str:
    if energy_wh is None:
        return NOT_MEASURED
    return f"{energy_wh:,.2f} Wh, {_ENERGY.get(source or '', f'by {source}')}"


def _emissions(files: CardFiles) -> list[list[Any]]:
    found = emissions(files)
    return [["Emissions", sentence("{emissions:,.2f} g of CO2; {source}", **found)]] if found else []


def _software(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions") or {}
    named = [f"Python {environment['python']}"] if environment.get("python") else []
    named += [f"{name} {versions[name]}" for name in ("torch", "transformers", "accelerate") if name in versions]
    return to_plain_text(", ".join(named), most=200) or NOT_RECORDED


NOT_MEASURED, NOT_RECORDED = "not measured", "not recorded"


MOST_ROWS, EXTREMES = 20, 5  # languages up to which each has its row, and rows at either end where they are more


_BIAS = {
    "rank_distance": "ranks between the first and the last translation of the right passage; 0 is best",
    "PEER": "1: the right passages of all languages rank alike; 0: they do not",
    "same_language_share@10": "share of the first ten passages that are in the language of the query",
    "same_language_recall@100": "right passages in the language of the query among the first 100",
    "other_language_recall@100": "right passages in other languages among the first 100",
    "MRC@10": "correlation of the rankings that parallel queries get; 1: the same ranking in every language",
}


def score(value: float | None, name: str = "") -> str:
    """A measure with the digits that it is given with."""
    if value is None:
        return NOT_MEASURED
    return f"{value:,.1f}" if name.endswith("rank_distance") else f"{value:.4f}"


def results(files: CardFiles) -> dict[str, Any]:
    """Settings before and after, languages, bias, and what pictures there are."""
    before, after = files.evaluation["before"], files.scores
    found = after or before
    if found is None:
        return {}
    measure = first_measure(found) if found["pairs"] else None
    pictures = has_pictures(files)
    return {
        "corpus": name_eval_corpus(files),
        "precision": files.precision,
        "num_queries": f"{found['num_queries']:,}",
        "num_languages": len(languages_of(found)),
        "when": [name for name, scores in (("before", before), ("after", after)) if scores is not None],
        "measure": measure,
        "settings": _settings_table(before, after),
        "languages": _language_table(after, measure) if after and after["pairs"] and measure else None,
        "languages_shown": describe_shown_rows(len(languages_of(found)), "best and", "worst"),
        "bias": _bias_table(before, after) if found["bias"] else None,
        "picture": pictures,
        "change_picture": pictures and before is not None and bool(before["pairs"]),
    }


def has_pictures(files: CardFiles) -> bool:
    """Return whether the card has heat maps: there are several pairs, and they can be drawn."""
    several = files.scores is not None and len(files.scores["pairs"]) > 1
    return several and files.options.get("pictures") is not False


def _settings_table(before: Scores | None, after: Scores | None) -> Markdown:
    flat = [_flat(scores) for scores in (before, after)]
    measures = list(dict.fromkeys(name for found in flat for _, name in found))

    def score_of(key: tuple[str, str]) -> Any:
        first, second = (found.get(key) for found in flat)
        return score(first, key[1]) if after is None else _arrow(first, second, key[1])

    rows = [[title, *(score_of((setting, name)) for name in measures)] for setting, title in SETTINGS.items()]
    return table(["Setting", *measures], rows)


def _flat(scores: Scores | None) -> dict[tuple[str, str], float]:
    if scores is None:
        return {}
    return {(setting, name): value for setting in SETTINGS for name, value in scores[setting].items()}  # type: ignore[literal-required]


def _arrow(before: float | None, after: float | None, name: str) -> Any:
    if before is None:
        return score(after, name)
    return Markdown(
        f"{score(before, name)} → {'**' + score(after, name) + '**' if after is not None else NOT_MEASURED}"
    )


def language_means(scores: Scores, measure: str) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Return scores of each language: monolingual, mean as query language, and mean as passage language.

    Example:

        >>> pairs = {"de-de": {"MAP": 0.8}, "de-en": {"MAP": 0.5}, "de-fr": {"MAP": 0.25}, "en-de": {"MAP": 0.5}}
        >>> language_means({"pairs": pairs}, "MAP")["de"]
        (0.8, 0.375, 0.5)
    """
    rows, columns, value_QP = pair_matrix(scores, measure)

    def mean(values: list[float]) -> float | None:
        known = [value for value in values if not np.isnan(value)]
        return float(np.mean(known)) if known else None

    found = {}
    for name in dict.fromkeys([*rows, *columns]):
        as_query = value_QP[rows.index(name)].tolist() if name in rows else []
        as_passage = value_QP[:, columns.index(name)].tolist() if name in columns else []
        own = as_query[columns.index(name)] if name in rows and name in columns else float("nan")
        others = [value for other, value in zip(columns, as_query, strict=False) if other != name]
        to_it = [value for other, value in zip(rows, as_passage, strict=False) if other != name]
        found[name] = mean([own]), mean(others), mean(to_it)
    return found


def _language_table(scores: Scores, measure: str) -> Markdown:
    means = language_means(scores, measure)
    columns = [column for column in (0, 1, 2) if any(found[column] is not None for found in means.values())]
    order = sorted(means, key=lambda name: -(means[name][columns[0]] or 0.0))
    names = list(means) if len(means) <= MOST_ROWS else [*order[:EXTREMES], *order[-EXTREMES:]]
    titles = ["Monolingual", "Queries in it, passages in others", "Passages in it, queries in others"]
    head = ["Language", *(titles[column] for column in columns)]
    return table(head, [[name, *(score(means[name][column]) for column in columns)] for name in names])


def _bias_table(before: Scores | None, after: Scores | None) -> Markdown:
    columns = {title: scores["bias"] for title, scores in (("before", before), ("after", after)) if scores}
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    shown = [
        [name, *(score(values.get(name), name) for values in columns.values()), _BIAS.get(name)] for name in names
    ]
    return table(["Measure", *columns, "What it says"], shown, texts=(0, len(columns) + 1))


def describe_shown_rows(number: int, first: str, last: str) -> str:
    """Say which rows a shortened table has."""
    return f", the {EXTREMES} {first} the {EXTREMES} {last} of {number}" if number > MOST_ROWS else ""


def languages_of(scores: Scores) -> list[str]:
    """Return the languages that have a pair."""
    return list(language_means(scores, first_measure(scores))) if scores["pairs"] else []


_WEAKEST = 3  # languages that are named


def limits(files: CardFiles) -> list[Markdown]:
    """Build the section on limitations."""
    run, model, source = files.run, files.model, files.run["corpus"].get("source") or {}
    most = {"length": model.get("max_length"), "query_length": _told(files, "max_query_length")}
    counts = run["corpus"].get("texts")  # absent in older files it was written down
    most |= {"cut": f"{counts['truncated_texts']:,}", "texts": f"{counts['texts']:,}"} if counts else {}
    of_pairs = bool(model) and not is_mlm(run)
    estimated = files.resources is not None and files.resources["energy_source"] in ESTIMATES
    conditions = {
        "Texts are cut at {length} tokens, queries in training at {query_length}; how many texts that cut is not "
        "recorded here.": of_pairs and not counts,
        "Texts are cut at {length} tokens, queries in training at {query_length}, which cut {cut} of the {texts} "
        "training texts.": of_pairs and bool(counts),
        "Texts are cut at {length} tokens; in training none was.": bool(model) and is_mlm(run),
        "It was trained once, with seed {seed}: how much scores vary from seed to seed was not measured.": True,
        "Not measured: other domains, long documents, misspelt text, several languages in one text, and social bias "
        "or harmful content in what is found.": True,
        "The training texts are sentences made from templates: the model is an example, not one to use.": (
            source.get("format") == "sample"
        ),
        "Its publisher has named no license for the model.": not files.options.get("license"),
        "The license of the training data is not known.": (run["corpus"].get("license") or "unknown") == "unknown",
        "The energy is an estimate; no meter was read.": estimated,
    }
    said = [sentence(words, seed=run["seed"], **most) for words, true in conditions.items() if true]
    return [*_of_scores(files), *said]


def _told(files: CardFiles, name: str) -> Any:
    """An argument; of a run that no recipe started, as the trainer had it."""
    return {**files.run.get("identity", {}), **files.run["config"]}.get(name, NOT_RECORDED)


def _of_scores(files: CardFiles) -> list[Markdown]:
    scores, evaluated = files.scores, files.evaluated
    if scores is None:
        return [Markdown("It was not evaluated after training: nothing is known of its quality.")]
    said = []
    if evaluated:
        held_out = "items held out of the training corpus, similar texts"
        where = held_out if files.held_out else "the one corpus {name}"
        name = corpus_name(evaluated.get("corpus") or {})
        said.append(sentence(f"The scores are those of {where}: they say little of other texts.", name=name))
    if files.run["config"].get("load_best_model_at_end"):
        words = "The checkpoint was chosen, by {metric}, on the corpus that the scores are of: they flatter it."
        said.append(sentence(words, metric=_told(files, "metric_for_best_model")))
    if (most := evaluated.get("max_queries")) is not None:
        said.append(sentence("Of each language only the first {most} queries were evaluated.", most=most))
    if (size := max(files.evaluation.get("values_bytes", {}).values(), default=0)) > MOST_VALUES_BYTES:
        words = "The values of single queries ({size} MiB) were too large to publish: they cannot prove the scores."
        said.append(sentence(words, size=f"{size / 2**20:,.0f}"))
    if scores["pairs"]:
        said += _of_languages(files.languages, scores)
    if (share := scores["bias"].get("same_language_share@10")) is not None and len(languages_of(scores)) > 1:
        said.append(
            Markdown(f"In a pool of all languages {share:.0%} of the first ten passages are in the query's own.")
        )
    return said


def _of_languages(trained: Sequence[str], scores: Scores) -> list[Markdown]:
    evaluated, measure = languages_of(scores), first_measure(scores)
    means = language_means(scores, measure)
    said = []
    if unseen := [name for name in evaluated if name not in trained]:
        said.append(Markdown(f"Evaluated without having been trained on: {join_names(unseen)}."))
    if unknown := [name for name in trained if name not in evaluated]:
        said.append(Markdown(f"Trained on, but not evaluated: {join_names(unknown)}."))
    for column, title in ((0, "within one language"), (1, "as the language of queries to others")):
        known = {name: found[column] for name, found in means.items() if found[column] is not None}
        weakest = sorted(known, key=lambda name: (known[name], name))[:_WEAKEST]
        if len(known) > _WEAKEST:
            told = ", ".join(f"{escape(name)} ({known[name]:.3f})" for name in weakest)
            said.append(Markdown(f"Weakest {title}, by {escape(measure)}: {told}."))
    return said
