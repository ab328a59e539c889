"""The schema of what a run leaves: names of files, and what each JSON file holds. Readers of a file start here."""

from __future__ import annotations

from typing import Any, TypedDict

SCHEMA_NAME = "hf_hybrid run folder"
SCHEMA_VERSION = 2
EVENTS_NAME, HEARTBEAT_NAME, NOT_FINITE_NAME = "events.jsonl", "heartbeat.json", "not_finite"
LOCK_NAME = "run.lock"
OUTPUTS_NAME = "outputs.jsonl"  # see `output_list.py`
MANIFEST_NAME = "manifest.json"  # of folders whose files are listed with their hashes
MODEL_NAME, EVALUATIONS_NAME, BUNDLE_NAME = "model", "evaluations", "bundle"
PER_QUERY_NAME = "per_query.parquet"  # of an evaluation
MOST_VALUES_BYTES = 50 * 2**20  # of this file in a bundle; a larger one is not included there
STATE_NAME = "hybrid_state.json"  # of a checkpoint: its run, and which of its files are the model
STATUSES = ("running", "finished", "interrupted", "failed")
# Retrieval settings: their names in files, and in text.
SETTINGS = {"monolingual": "monolingual", "cross_lingual": "cross-lingual", "multilingual": "multilingual"}
SCORE_GROUPS = (*SETTINGS, "bias")  # of `Scores`, in the order of tables
# Files that every run writes, or may write, whatever it is.
FIXED_NAMES = (
    *("run.json", "plan.json", "eval.json", "resources.json", "resources.jsonl", "curve.jsonl", "card.json"),
    *("README.md", EVENTS_NAME, HEARTBEAT_NAME),
    *(f"{EVALUATIONS_NAME}/{when}/{PER_QUERY_NAME}" for when in ("before", "after")),
)


class Run(TypedDict):
    """`run.json`."""

    config: dict[str, Any]  # every argument
    changed: list[str]  # arguments that a rerun must set: they decide its result and differ from their defaults
    corpus: dict[str, Any]  # fingerprint, items_per_language, license, source; at the end how many texts were cut
    mix: str
    plan: dict[str, Any]  # steps and pairs per language pair
    seed: int
    world_size: int
    environment: dict[str, Any]  # versions, device names, git revision
    status: str  # one of STATUSES
    identity: dict[str, Any]  # what must be equal for the run to resume
    # architecture, num_parameters, embedding_size, max_length, pooling, normalize, projection, prompts, flops_terms,
    # commit (of the checkpoint on the Hub that training began from), step (at the end: whose weights the model has)
    model: dict[str, Any]


def is_mlm(run: Run) -> bool:
    """Return whether a run is masked language modeling: its plan has a number for each block of a batch."""
    return run["mix"] == "mlm"


class Plan(TypedDict):
    """`plan.json`."""

    language_pairs: list[dict[str, str]]  # batch type and language pair
    batches: list[int]  # for each batch of the run the number of its language pair
    fingerprint: str  # sha256 of these, as `schedule.plan_fingerprint` makes it


class Share(TypedDict):
    """Costs of one language or one language pair."""

    steps: int
    tokens: int
    time_s: float


class ResourceLine(TypedDict):
    """A line of `resources.jsonl`: what the steps since the line before took. `resources.py` adds the lines up."""

    step: int
    time_s: float
    setup_time_s: float  # of the process that took these steps, in its first line
    pairs: int
    tokens: int
    padding_tokens: int
    sum_squared_lengths: int  # over the sequences, in tokens squared
    predicted_tokens: int  # by a language model's head
    batch_type: str | None  # None when the steps are of several batch types
    language_pair: str | None  # None when the steps are of several language pairs
    loss: float | None
    data_wait_s: float
    peak_device_memory_gib: list[float] | None  # of each rank, since its process began
    peak_host_memory_gib: list[float]  # of each rank, since its process began
    host_memory_gib: float  # resident now, the highest of all ranks
    energy_wh: float | None  # summed over ranks
    energy_source: str | None  # nvml, rapl, codecarbon
    embedding_bytes: int  # sent by all ranks: embeddings and their gradients
    weight_bytes: int  # sent by all ranks: weights and their gradients, by formula
    per_language: dict[str, Share]
    per_language_pair: dict[str, Share]


class CurveLine(TypedDict):
    """A line of `curve.jsonl`: an evaluation during training, and what training had taken until then."""

    step: int
    train_time_s: float
    tokens: int
    energy_wh: float | None
    measures: dict[str, float]  # "multilingual/MAP" and the others of `flatten_scores`


class BytesSent(TypedDict):
    """Bytes that all processes sent in training."""

    embeddings: int  # counted: embeddings and their gradients
    weights: int  # weights and their gradients, by the formula
    formula: str


class Resources(TypedDict):
    """`resources.json`. None means: not measured."""

    train_time_s: float
    setup_time_s: float
    num_steps: int
    num_pairs: int
    tokens: int
    padding_tokens: int
    pairs_per_s: float | None
    tokens_per_s: float | None
    flops: float | None
    flops_formula: str
    flops_terms: dict[str, int] | None  # the values of its variables, but `tokens`
    mfu: float | None
    peak_device_memory_gib: list[float] | None  # per rank
    peak_host_memory_gib: list[float]  # per rank
    energy_wh: float | None  # summed over ranks
    energy_source: str | None  # nvml, rapl, codecarbon
    per_language: dict[str, Share]
    per_language_pair: dict[str, Share]
    bytes_sent: BytesSent | None  # None on one process


class Scores(TypedDict):
    """One evaluation; a measure is named as in the literature (`MAP`, `nDCG@10`, `MRR@10`, `Recall@100`)."""

    monolingual: dict[str, float]
    cross_lingual: dict[str, float]
    multilingual: dict[str, float]
    bias: dict[str, float]  # rank_distance, PEER, MRC@10, same_language_share@10 and others, see `bias.py`
    pairs: dict[str, dict[str, float]]  # "de-en": query language, passage language
    num_queries: int


class _Evaluation(TypedDict):
    before: Scores | None
    after: Scores | None
    evaluated: dict[str, Any]  # corpus, languages, settings, measures, max_queries; of recipes/eval.py the model too


class Evaluation(_Evaluation, total=False):
    """`eval.json`."""

    values_bytes: dict[str, int]  # of a run: size of per_query.parquet `before` and `after`


class CardOptions(TypedDict, total=False):
    """`card.json`: what the model card says and no other file of the run knows. None, or absent: not known."""

    repo_id: str | None  # where the model is published, as in user/name
    license: str | None  # of the model
    base_model: str | None  # Hub id of the checkpoint that training began from
    datasets: list[str] | None  # Hub ids of the training data
    carbon_intensity_g_per_kwh: float | None  # of the electricity that the run used
    carbon_intensity_source: str | None  # who says so, for which place and time
    pictures: bool | None  # False where none could be drawn: then the card refers to none
