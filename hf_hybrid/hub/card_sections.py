"""The sections of a model card: tables of bounded size from the records of a run, and what was not measured."""

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
    describe_hardware,
    estimate_emissions,
    find_preset,
    is_hub_id,
    name_eval_corpus,
)

NOT_MEASURED, NOT_RECORDED = "not measured", "not recorded"
_MOST_ROWS, _EXTREMES = 20, 5  # languages that each get a row; rows at either end of a longer table
_TOP_PAIRS = 5
_WEAKEST = 3  # languages that are named
_BATCH_TYPES = {
    "mono": "queries and passages in one language",
    "cross": "queries in one language, passages in another one",
    "pool": "queries in one language, passages of each item in several",
    "mixed": "each query and each passage in a language of its own",
}
# Model types whose AutoModel has a dense layer over the first token's state; a test holds it against transformers.
_WITH_POOLER = ("albert", "bert", "camembert", "ernie", "mpnet", "rembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
_POOLINGS = {"mean": "mean of all tokens", "cls": "first token", "pooler": "first token, dense layer, tanh"}
_METERS = {
    "nvml": "measured by the meters of the GPUs (NVML), without the host",
    "rapl": "measured by the meters of the processors (RAPL), without memory and the rest of the machine",
    "codecarbon": "estimated by codecarbon for the whole machine, without a meter",
}
_BIAS = {
    "rank_distance": "ranks between the first and the last translation of the right passage; 0 is best",
    "PEER": "1: the right passages of all languages rank alike; 0: they do not",
    "same_language_share@10": "share of the first ten passages that are in the language of the query",
    "same_language_recall@100": "right passages in the language of the query among the first 100",
    "other_language_recall@100": "right passages in other languages among the first 100",
    "MRC@10": "correlation of the rankings of parallel queries; 1: the same ranking in every language",
}
_SETTINGS_OF_RUN = {
    "Optimizer steps": "max_steps",
    "Batches per step": "gradient_accumulation_steps",
    "Learning rate": "learning_rate",
    "Schedule": "lr_scheduler_type",
    "Warm-up": "warmup_steps",
    "Optimizer": "optim",
    "Weight decay": "weight_decay",
    "Temperature": "temperature",
    "Smoothing": "smoothing",
    "Hard negatives": "num_negatives",
    "Longest query, in tokens": "max_query_length",
    "Longest passage, in tokens": "max_passage_length",
    "Tokens per block": "block_length",
    "Masks": "masking",
    "Passes until masks repeat": "mask_duplicates",
    "Share of tokens predicted": "mlm_probability",
    "Whole words": "whole_word_mask",
}


def format_duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours.

    Example:

        >>> format_duration(12.34), format_duration(600), format_duration(36_000)
        ('12.3 s', '10.0 min', '10.0 h')
    """
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200)):
        if seconds < most:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds / 3600:,.1f} h"


def _known(value: Any, show: Callable[[Any], str] = "{:,}".format) -> str:
    return NOT_MEASURED if value is None else show(value)


def build_facts(files: CardFiles) -> Markdown:
    """Build the table of facts about the model."""
    model, base = files.model, files.base_model
    prompts = {side: f'"{text}"' if text else "nothing" for side, text in model["prompts"].items()}
    layer = ", then a dense layer" if _has_projection(model) else ""
    rows = [
        ["Architecture", model["architecture"]],
        ["Parameters", f"{model['num_parameters']:,}"],
        ["Vectors", f"{model['embedding_size']} numbers, float32"],
        ["Longest text", f"{model['max_length']:,} tokens; longer texts are cut"],
        ["Pooling", _POOLINGS.get(model["pooling"], str(model["pooling"])) + layer],
        ["Similarity", "cosine" if model["normalize"] else "dot product"],
        ["Query prompt", prompts["query"]],
        ["Passage prompt", prompts["passage"]],
        [
            "Trained from",
            Markdown(f"[{escape(base)}](https://huggingface.co/{base})") if base else files.start or "random weights",
        ],
        ["Languages", join_names(files.languages)],
        ["License", files.options.get("license") or "none given"],
    ]
    return table(["Model", files.name], rows, texts=(0, 1))


def _has_projection(model: Mapping[str, Any]) -> bool:
    """Return whether the vector needs a dense layer that `AutoModel` does not have."""
    return bool(model.get("projection")) and model["pooling"] != "pooler"


def build_code(files: CardFiles) -> dict[str, Any]:
    """Return the Python literals and choices of the code blocks."""
    model = files.model
    return {
        "repo": _literal(files.options.get("repo_id") or f"{files.folder}/model"),
        "query_prompt": _literal(model["prompts"]["query"] or ""),
        "passage_prompt": _literal(model["prompts"]["passage"] or ""),
        **{name: model[name] for name in ("max_length", "pooling", "normalize")},
        "unused_pooler": model["architecture"] in _WITH_POOLER and model["pooling"] != "pooler",
        "plain_states": not _has_projection(model),  # pooling the states of AutoModel gives the vector
    }


def _literal(text: str) -> Markdown:
    """Return a Python literal, in double quotes where they need no escape."""
    literal = repr(text)
    return Markdown(literal if '"' in literal else f'"{literal[1:-1]}"')


def build_training(files: CardFiles) -> dict[str, Any]:
    """Build the section on mix, plan and settings."""
    run = files.run
    pairs = run["plan"]["language_pairs"]
    content = {
        "mix": run["mix"],
        "num_language_pairs": f"{len(pairs):,}",
        "settings": _settings_of_run(files),
        "plan": run["identity"]["plan"],
    }
    return content | (_build_mlm_plan(run, pairs) if is_mlm(run) else _build_plan(pairs))


def _build_plan(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Build the tables of batch types and of the largest language pairs."""
    total, rows = sum(pair["steps"] for pair in pairs), []
    for batch_type in dict.fromkeys(pair["batch_type"] for pair in pairs):
        own = [pair for pair in pairs if pair["batch_type"] == batch_type]
        steps, queries = (sum(pair[name] for pair in own) for name in ("steps", "pairs"))
        numbers = (f"{steps:,}", f"{steps / total:.1%}", f"{queries:,}", f"{len(own):,}")
        rows.append([batch_type, *numbers, _BATCH_TYPES.get(batch_type)])
    largest = sorted(pairs, key=lambda pair: (-pair["pairs"], pair["batch_type"], pair["language_pair"]))[:_TOP_PAIRS]
    top = [
        [
            pair["language_pair"].replace("->", " → "),
            pair["batch_type"],
            *(f"{pair[name]:,}" for name in ("steps", "pairs", "items")),
        ]
        for pair in largest
    ]
    head = ["Batch type", "Batches", "Share", "Queries", "Language pairs", "Content of a batch"]
    return {
        "num_batches": f"{total:,}",
        "batch_types": table(head, rows, texts=(0, 5)),
        "top": table(["Language pair", "Batch type", "Batches", "Queries", "Items"], top, texts=(0, 1)),
    }


def _build_mlm_plan(run: Mapping[str, Any], languages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Build the table of blocks of each language."""
    total, length = sum(language["blocks"] for language in languages), run["config"]["block_length"]
    rows = [
        [
            language["language_pair"],
            f"{language['blocks']:,}",
            f"{language['blocks'] / total:.1%}",
            f"{language['blocks'] * length / language['tokens']:,.1f}",
            f"{language['items']:,}",
        ]
        for language in languages[:_MOST_ROWS]
    ]
    head = ["Language", "Blocks", "Share", "Passes over its texts", "Texts"]
    return {"mix": "mlm", "num_blocks": f"{total:,}", "languages": table(head, rows)}


def _settings_of_run(files: CardFiles) -> Markdown:
    run, config = files.run, files.arguments
    names = {"Blocks per batch" if is_mlm(run) else "Queries per batch": "global_batch_size", **_SETTINGS_OF_RUN}
    if is_mlm(run):  # no text is cut
        names = {title: name for title, name in names.items() if not title.startswith("Longest")}
    rows = [[title, config[name]] for title, name in names.items() if config.get(name) is not None]
    if config.get("load_best_model_at_end"):
        step, metric = files.model.get("step", NOT_RECORDED), config.get("metric_for_best_model")
        rows.append(["Checkpoint", f"step {step}, the best by {metric} on the evaluation corpus"])
    return table(["Setting", "Value"], [*rows, ["Precision", files.precision], ["Seed", run["seed"]]])


def build_data(files: CardFiles) -> Markdown:
    """Build the table of corpora with their licenses."""
    corpus, evaluated = files.run["corpus"], files.evaluated
    counts = list(corpus["items_per_language"].values())
    span = f"{min(counts, default=0):,}" + (f" to {max(counts):,}" if len({*counts}) > 1 else "")
    trained = [*_source(corpus.get("source") or {}, corpus.get("license")), len(counts), f"{span} items"]
    rows = [["Training", *trained, corpus["fingerprint"]]]
    if evaluated:
        source, scores = evaluated.get("corpus") or {}, files.scores or files.evaluation["before"]
        queries = f"{scores['num_queries']:,} queries in all" if scores else NOT_MEASURED
        measured = [*_source(source, source.get("license")), len(evaluated.get("languages") or []), queries]
        title = "Evaluation, held out" if files.is_held_out else "Evaluation"
        rows.append([title, *measured, evaluated.get("corpus_fingerprint")])
    rows = [[*row[:-1], str(row[-1] or NOT_RECORDED)[:12]] for row in rows]
    head = ["For", "Corpus", "Revision", "License", "Languages", "In each language", "Fingerprint"]
    return table(head, rows, texts=(0, 1, 2, 3, 5, 6))


def _source(source: Mapping[str, Any], license: str | None) -> list[Any]:
    preset, name = find_preset(source), corpus_name(source)
    if preset and is_hub_id(preset.repo):
        name = Markdown(f"[{preset.repo}]({preset.url})")
    revision = str(source.get("revision") or NOT_RECORDED)
    return [name, revision[:12] if len(revision) == 40 else revision, license or "unknown"]


def build_resources_section(files: CardFiles) -> dict[str, Any]:
    """Build the section on time, tokens, memory and energy."""
    found = files.resources
    if found is None:
        return {}
    computed = found["tokens"] + found["padding_tokens"]
    gib = "{:.2f} GiB".format
    rows = [
        ["Training", format_duration(found["train_time_s"])],
        ["Set-up", format_duration(found["setup_time_s"])],
        ["Optimizer steps", f"{found['num_steps']:,}"],
        ["Queries", f"{found['num_pairs']:,} ({_known(found['pairs_per_s'], '{:,.1f} per second'.format)})"],
        ["Tokens", f"{found['tokens']:,} ({_known(found['tokens_per_s'], '{:,.0f} per second'.format)})"],
        ["Padding", f"{found['padding_tokens']:,} tokens, {found['padding_tokens'] / max(computed, 1):.1%} of all"],
        ["FLOPs", _known(found["flops"], "{:.3e}".format)],
        ["Share of the devices' peak (MFU)", _known(found["mfu"], "{:.1%}".format)],
        ["Peak memory of a device", _known(max(found["peak_device_memory_gib"] or [], default=None), gib)],
        ["Peak memory of a process on the host", _known(max(found["peak_host_memory_gib"], default=None), gib)],
        ["Sent between processes", _describe_bytes_sent(found["bytes_sent"], files.run["world_size"])],
        ["Energy", _describe_energy(found)],
        *(
            [["Emissions", sentence("{emissions:,.2f} g of CO2; {source}", **co2)]]
            if (co2 := estimate_emissions(files))
            else []
        ),
        ["Hardware", describe_hardware(files.run)],
        ["Software", _describe_software(files.run["environment"])],
    ]
    return {
        "totals": table(["Resource", "Amount"], rows, texts=(0, 1)),
        "formula": _describe_formula(found),
        "languages": _build_cost_table(found["per_language"], found["train_time_s"]),
        "languages_shown": _describe_rows(len(found["per_language"]), "most", "least expensive"),
    }


def _describe_formula(resources: Resources) -> Markdown | None:
    if resources["flops"] is None:
        return None
    values = [f"{name}={value}" for name, value in (resources["flops_terms"] or {}).items() if value]
    return escape(", ".join([resources["flops_formula"], *values]), most=500)


def _build_cost_table(shares: Mapping[str, Any], total_s: float) -> Markdown:
    names = _shorten(sorted(shares, key=lambda name: (-shares[name]["time_s"], name)))
    rows = [
        [
            name,
            f"{shares[name]['steps']:,}",
            f"{shares[name]['tokens']:,}",
            format_duration(shares[name]["time_s"]),
            f"{shares[name]['time_s'] / total_s:.1%}" if total_s else None,
        ]
        for name in names
    ]
    return table(["Language", "Steps with it", "Tokens", "Time", "Share of time"], rows)


def _shorten(names: list[str]) -> list[str]:
    """Return the names of a table's rows, or both ends of a long list."""
    return names if len(names) <= _MOST_ROWS else [*names[:_EXTREMES], *names[-_EXTREMES:]]


def _describe_rows(number: int, first: str, last: str) -> str:
    """Say which rows a shortened table has."""
    return f", the {_EXTREMES} {first} and the {_EXTREMES} {last} of {number}" if number > _MOST_ROWS else ""


def _describe_bytes_sent(sent: Mapping[str, Any] | None, world_size: int) -> str:
    if sent is None:
        return "nothing: one process" if world_size == 1 else NOT_MEASURED
    embeddings, weights = (f"{sent[name] / 2**30:,.2f} GiB" for name in ("embeddings", "weights"))
    return f"{embeddings} of embeddings; {weights} of gradients and weights, by formula"


def _describe_energy(resources: Resources) -> str:
    energy_wh, source = resources["energy_wh"], resources["energy_source"]
    return NOT_MEASURED if energy_wh is None else f"{energy_wh:,.2f} Wh, {_METERS.get(source or '', f'by {source}')}"


def _describe_software(environment: Mapping[str, Any]) -> str:
    versions = {"Python": environment.get("python"), **(environment.get("versions") or {})}
    shown = [
        f"{name} {versions[name]}" for name in ("Python", "torch", "transformers", "accelerate") if versions.get(name)
    ]
    return to_plain_text(", ".join(shown), most=200) or NOT_RECORDED


def _format_score(value: float | None, name: str) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:,.1f}" if name.endswith("rank_distance") else f"{value:.4f}"


def build_results(files: CardFiles) -> dict[str, Any]:
    """Build the section on scores before and after training, of languages and of bias."""
    before, after = files.evaluation["before"], files.scores
    found = after or before
    if found is None:
        return {}
    measure = first_measure(found) if found["pairs"] else None
    languages = list_languages(found)
    has_pictures = after is not None and len(after["pairs"]) > 1 and files.options.get("pictures") is not False
    return {
        "corpus": name_eval_corpus(files),
        "precision": files.precision,
        "num_queries": f"{found['num_queries']:,}",
        "num_languages": len(languages),
        "when": [name for name, scores in (("before", before), ("after", after)) if scores is not None],
        "measure": measure,
        "settings": _build_settings_table(before, after),
        "languages": _build_language_table(after, measure) if after and measure else None,
        "languages_shown": _describe_rows(len(languages), "best", "worst"),
        "bias": _build_bias_table(before, after) if found["bias"] else None,
        "picture": has_pictures,
        "change_picture": has_pictures and before is not None and bool(before["pairs"]),
    }


def _build_settings_table(before: Scores | None, after: Scores | None) -> Markdown:
    columns: list[dict[str, dict[str, float]]] = [
        {setting: scores[setting] for setting in SETTINGS} if scores else {setting: {} for setting in SETTINGS}  # type: ignore[literal-required]
        for scores in (before, after)
    ]
    measures = dict.fromkeys(name for found in columns for values in found.values() for name in values)

    def show(setting: str, name: str) -> str:
        first, second = (found[setting].get(name) for found in columns)
        shown = [] if first is None and after is not None else [_format_score(first, name)]
        if after is not None:
            bold = "**" if shown and second is not None else ""
            shown.append(f"{bold}{_format_score(second, name)}{bold}")
        return Markdown(" → ".join(shown))

    rows = [[title, *(show(setting, name) for name in measures)] for setting, title in SETTINGS.items()]
    return table(["Setting", *measures], rows)


def language_means(scores: Scores, measure: str) -> dict[str, tuple[float | None, float | None, float | None]]:
    """Return scores of each language: monolingual, mean as query language, and mean as passage language.

    Example:

        >>> pairs = {"de-de": {"MAP": 0.8}, "de-en": {"MAP": 0.5}, "de-fr": {"MAP": 0.25}, "en-de": {"MAP": 0.5}}
        >>> language_means({"pairs": pairs}, "MAP")["de"]
        (0.8, 0.375, 0.5)
    """
    rows, columns, value_QP = pair_matrix(scores, measure)
    value = {(row, column): value_QP[i, j] for i, row in enumerate(rows) for j, column in enumerate(columns)}

    def mean(pairs: Sequence[tuple[str, str]]) -> float | None:
        known = [value[pair] for pair in pairs if not np.isnan(value.get(pair, np.nan))]
        return float(np.mean(known)) if known else None

    return {
        name: (
            mean([(name, name)]),
            mean([(name, other) for other in columns if other != name]),
            mean([(other, name) for other in rows if other != name]),
        )
        for name in dict.fromkeys([*rows, *columns])
    }


def _build_language_table(scores: Scores, measure: str) -> Markdown:
    means = language_means(scores, measure)
    titles = ["Monolingual", "Queries in it, passages in others", "Passages in it, queries in others"]
    columns = [column for column in range(3) if any(found[column] is not None for found in means.values())]
    order = list(means)
    if len(order) > _MOST_ROWS:
        order.sort(key=lambda name: -(means[name][columns[0]] or 0.0))
    rows = [[name, *(_format_score(means[name][column], measure) for column in columns)] for name in _shorten(order)]
    return table(["Language", *(titles[column] for column in columns)], rows)


def _build_bias_table(before: Scores | None, after: Scores | None) -> Markdown:
    columns = {title: scores["bias"] for title, scores in (("before", before), ("after", after)) if scores}
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [
        [name, *(_format_score(values.get(name), name) for values in columns.values()), _BIAS.get(name)]
        for name in names
    ]
    return table(["Measure", *columns, "Meaning"], rows, texts=(0, len(columns) + 1))


def list_languages(scores: Scores) -> list[str]:
    """Return the languages that have a pair."""
    return list(language_means(scores, first_measure(scores))) if scores["pairs"] else []


def list_limitations(files: CardFiles) -> list[Markdown]:
    """Return the limitations that follow from the records, one sentence each."""
    run, source, counts = files.run, files.run["corpus"].get("source") or {}, files.run["corpus"].get("texts")
    values: dict[str, Any] = {"length": files.model["max_length"], "seed": run["seed"]}
    values["query_length"] = files.arguments.get("max_query_length", NOT_RECORDED)
    if counts:
        values |= {"cut": f"{counts['truncated_texts']:,}", "texts": f"{counts['texts']:,}"}
    cut = "Texts are cut at {length} tokens, and queries in training at {query_length}"
    conditions = {
        f"{cut}. The number of cut training texts is not recorded.": not is_mlm(run) and not counts,
        f"{cut}: {{cut}} of the {{texts}} training texts were cut.": not is_mlm(run) and bool(counts),
        "Texts are cut at {length} tokens; no text was cut in training.": is_mlm(run),
        "The model was trained once, with seed {seed}: the variance between seeds was not measured.": True,
        "Not measured: other domains, long documents, misspelled text, several languages in one text, and social bias "
        "or harmful content in the results.": True,
        "The training texts are sentences from templates: the model is an example, not for use.": (
            source.get("format") == "sample"
        ),
        "The publisher named no license for the model.": not files.options.get("license"),
        "The license of the training data is not known.": (run["corpus"].get("license") or "unknown") == "unknown",
        "The energy is an estimate, without a meter.": (
            files.resources is not None and files.resources["energy_source"] in ESTIMATES
        ),
    }
    said = [sentence(words, **values) for words, applies in conditions.items() if applies]
    return [*_limitations_of_scores(files), *said]


def _limitations_of_scores(files: CardFiles) -> list[Markdown]:
    scores, evaluated = files.scores, files.evaluated
    if scores is None:
        return [Markdown("The model was not evaluated after training: its quality is not known.")]
    said = []
    if evaluated:
        held_out = "items held out of the training corpus, which are similar texts"
        where = held_out if files.is_held_out else "one corpus, {name}"
        name = corpus_name(evaluated.get("corpus") or {})
        said.append(sentence(f"The scores are for {where}. They may not hold for other texts.", name=name))
    if files.arguments.get("load_best_model_at_end"):
        words = "The checkpoint was chosen by {metric} on the evaluation corpus, so the scores are optimistic."
        said.append(sentence(words, metric=files.arguments.get("metric_for_best_model")))
    if (most := evaluated.get("max_queries")) is not None:
        said.append(sentence("Only the first {most} queries of each language were evaluated.", most=most))
    if (size := max(files.evaluation.get("values_bytes", {}).values(), default=0)) > MOST_VALUES_BYTES:
        words = "The scores of single queries ({size} MiB) were too large to publish, so nobody can check the means."
        said.append(sentence(words, size=f"{size / 2**20:,.0f}"))
    if scores["pairs"]:
        said += _limitations_of_languages(files.languages, scores)
    if (share := scores["bias"].get("same_language_share@10")) is not None and len(list_languages(scores)) > 1:
        words = f"In a pool of all languages, {share:.0%} of the first ten passages are in the language of the query."
        said.append(Markdown(words))
    return said


def _limitations_of_languages(trained: Sequence[str], scores: Scores) -> list[Markdown]:
    measure = first_measure(scores)
    means = language_means(scores, measure)
    said = []
    if unseen := [name for name in means if name not in trained]:
        said.append(Markdown(f"Evaluated without training: {join_names(unseen)}."))
    if unknown := [name for name in trained if name not in means]:
        said.append(Markdown(f"Trained, but not evaluated: {join_names(unknown)}."))
    for column, title in ((0, "within one language"), (1, "with queries in one language and passages in others")):
        known = {name: found[column] for name, found in means.items() if found[column] is not None}
        weakest = sorted(known, key=lambda name: (known[name], name))[:_WEAKEST]
        if len(known) > _WEAKEST:
            shown = ", ".join(f"{escape(name)} ({known[name]:.3f})" for name in weakest)
            said.append(Markdown(f"Weakest {title}, by {escape(measure)}: {shown}."))
    return said
