"""What the figures of a model card do not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .card_metadata import ESTIMATES, CardFiles, corpus_name
from .card_results import NOT_RECORDED, language_means, languages_of
from .markdown import Markdown, escape, listed, sentence
from .records import MOST_VALUES_BYTES, Scores
from .report import first_measure

_WEAKEST = 3  # languages that are named


def limits(files: CardFiles) -> list[Markdown]:
    """What the figures do not say."""
    run, model, source = files.run, files.model, files.run["corpus"].get("source") or {}
    most = {"length": model.get("max_length"), "query_length": _told(files, "max_query_length")}
    counts = run["corpus"].get("texts")  # absent in files of before it was written down
    most |= {"cut": f"{counts['truncated_texts']:,}", "texts": f"{counts['texts']:,}"} if counts else {}
    of_pairs = bool(model) and run["mix"] != "mlm"
    estimated = files.resources is not None and files.resources["energy_source"] in ESTIMATES
    conditions = {
        "Texts are cut at {length} tokens, queries in training at {query_length}; how many texts that cut is not "
        "recorded here.": of_pairs and not counts,
        "Texts are cut at {length} tokens, queries in training at {query_length}, which cut {cut} of the {texts} "
        "training texts.": of_pairs and bool(counts),
        "Texts are cut at {length} tokens; in training none was.": bool(model) and run["mix"] == "mlm",
        "It was trained once, with seed {seed}: how much scores vary from seed to seed was not measured.": True,
        "Not measured: other domains, long documents, misspelt text, several languages in one text, and social bias "
        "or harmful content in what is found.": True,
        "The training texts are sentences made from templates: the model is an example, not one to use.": (
            source.get("format") == "sample"
        ),
        "Its publisher has named no licence for the model.": not files.options.get("licence"),
        "The licence of the training data is not known.": (run["corpus"].get("licence") or "unknown") == "unknown",
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
        held_out = "items held out of the training corpus, texts of the same kind"
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
        said.append(Markdown(f"Evaluated without having been trained on: {listed(unseen)}."))
    if unknown := [name for name in trained if name not in evaluated]:
        said.append(Markdown(f"Trained on, but not evaluated: {listed(unknown)}."))
    for column, title in ((0, "within one language"), (1, "as the language of queries to others")):
        known = {name: found[column] for name, found in means.items() if found[column] is not None}
        weakest = sorted(known, key=lambda name: (known[name], name))[:_WEAKEST]
        if len(known) > _WEAKEST:
            told = ", ".join(f"{escape(name)} ({known[name]:.3f})" for name in weakest)
            said.append(Markdown(f"Weakest {title}, by {escape(measure)}: {told}."))
    return said
