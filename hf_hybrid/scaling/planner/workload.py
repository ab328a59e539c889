"""The workload of a training run, in numbers that are known before it runs.

A `Workload` has the size of the corpus, of the batches and of the model, and how devices share the work. From it
follow tokens, operations and bytes: the causes of time and memory that `planner.py` weighs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hf_hybrid.data.batches.mix import MixConfig
from hf_hybrid.records.resources import encoder_flops
from hf_hybrid.training.communication import weight_bytes_sent

# Of the 34 bytes that a layer keeps of each element in 16 bits without attention scores (Korthikanti et al. 2022,
# arXiv 2205.05198), 2 are its input: all that gradient checkpointing keeps.
_INPUT_SHARE = 2 / 34
# Which of weights, gradients and optimizer states devices spread among them.
STRATEGIES = {
    "ddp": (False, False, False),
    "zero1": (False, False, True),
    "zero2": (False, True, True),
    "zero3": (True, True, True),
    "fsdp2": (True, True, True),
}
SHARDED = ("zero3", "fsdp2")


@dataclass(frozen=True)
class ModelSize:
    """An encoder's size.

    Args:
        num_layers (`int`): Layers.
        hidden_size (`int`): Width; feed-forward layers are taken for four times as wide.
        vocabulary (`int`): Rows of the embedding tables together.
        num_parameters (`int`, *optional*): All weights; by default those of the layers and of the tables.
        num_matmul_parameters (`int`, *optional*): Weights of linear layers; by default 12 * layers * width^2.

    Example:

        >>> ModelSize(12, 768, 250_516).parameters  # XLM-R base has 278 million
        277330944
    """

    num_layers: int
    hidden_size: int
    vocabulary: int
    num_parameters: int | None = None
    num_matmul_parameters: int | None = None

    @property
    def matmul_parameters(self) -> int:
        """Weights that every token is multiplied with."""
        return self.num_matmul_parameters or 12 * self.num_layers * self.hidden_size**2

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.num_parameters or self.matmul_parameters + self.vocabulary * self.hidden_size


@dataclass(frozen=True)
class Workload:
    """Workload of a run.

    Args:
        languages (`int`): L, of the training corpus.
        items (`int`): Items of each language, on average.
        model (`ModelSize`): The encoder.
        batch_size (`float`): Queries that a batch contrasts, over all devices.
        tokens_per_text (`float`): Mean length of queries and passages as they are trained on, in tokens, prompts
            included. It depends on corpus and tokenizer: a tokenizer says it of a few hundred texts.
        steps (`int`): Optimizer steps.
        mix (`str`, *optional*, defaults to `"mono=0.5,cross=0.5"`): Shares of the batch types.
        max_positives (`int`, *optional*, defaults to 4): Most passages of a query in a pool batch; no more than L.
        num_negatives (`int`, *optional*, defaults to 0): Hard negatives beside each of them.
        length_spread (`float`, *optional*, defaults to 1.3): Mean of the squared length over the square of the mean.
        batches_per_step (`int`, *optional*, defaults to 1): `gradient_accumulation_steps`.
        num_devices (`int`, *optional*, defaults to 1): W.
        strategy (`str`, *optional*, defaults to `"ddp"`): `ddp`, `zero1`, `zero2`, `zero3` or `fsdp2`.
        chunk_tokens (`int`, *optional*): Most tokens of one forward pass of a device; by default all at once.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`): Keep the layers' inputs only.
        seen_rows (`int`, *optional*): Rows of the table that are trained, with `seen_embeddings_only`.
        evaluated_queries (`int`, *optional*, defaults to 0): Queries of the evaluation before training.
        eval_batch_tokens (`int`, *optional*, defaults to 16384): Most tokens of one forward pass there.
        language_pairs (`int`, *optional*): Language pairs of the plan; by default those of the mix.

    Raises:
        ValueError: On an unknown strategy or a number below 1.

    Example:

        >>> work = Workload(4, 1000, ModelSize(2, 128, 8192), batch_size=64, tokens_per_text=11, steps=100)
        >>> work.planned_pairs, work.tokens, work.passes
        (16, 1408.0, 1.0)
    """

    languages: int
    items: int
    model: ModelSize
    batch_size: float
    tokens_per_text: float
    steps: int
    mix: str = "mono=0.5,cross=0.5"
    max_positives: int = 4
    num_negatives: int = 0
    length_spread: float = 1.3
    batches_per_step: int = 1
    num_devices: int = 1
    strategy: str = "ddp"
    chunk_tokens: int | None = None
    gradient_checkpointing: bool = False
    seen_rows: int | None = None
    evaluated_queries: int = 0
    eval_batch_tokens: int = 16_384
    language_pairs: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy: got {self.strategy!r}, allowed are {', '.join(STRATEGIES)}.")
        least_one = ("languages", "items", "batch_size", "tokens_per_text", "steps", "batches_per_step", "num_devices")
        for name in least_one:
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}; allowed is a number from 1 on.")
        MixConfig.parse(self.mix)

    # What follows of texts and tokens

    @property
    def sequences(self) -> float:
        """Texts of a batch, over all devices; the mean over the mix."""
        return sum(share * sequences for share, sequences in self._batches())

    @property
    def tokens(self) -> float:
        """Tokens of a batch, over all devices; the mean over the mix."""
        return self.sequences * self.tokens_per_text

    @property
    def tokens_in_pass(self) -> float:
        """Most tokens of one forward pass of a device: of the mix's largest batches, or of a chunk."""
        own = max(sequences for _, sequences in self._batches()) * self.tokens_per_text / self.num_devices
        return min(own, self._most_of_chunk)

    @property
    def passes(self) -> float:
        """Backward passes of a device in a step, each of which adds up gradients of all its weights."""
        return self.batches_per_step * sum(share * self._chunks(sequences) for share, sequences in self._batches())

    @property
    def texts(self) -> int:
        """Texts of the training corpus."""
        return 2 * self.items * self.languages

    @property
    def planned_pairs(self) -> int:
        """Language pairs that the plan goes through; a pool language pair is a language's."""
        if self.language_pairs is not None:
            return self.language_pairs
        mix, count = MixConfig.parse(self.mix), self.languages
        return (
            count * bool(mix.mono) + count * (count - 1) * bool(mix.cross) + count * bool(mix.pool) + bool(mix.mixed)
        )

    # What follows of work and memory

    @property
    def flops(self) -> float:
        """Return the operations of a device in a step, including recomputed ones."""
        return self._encoder_flops(self.batches_per_step * self.sequences / self.num_devices) * self._repeated

    @property
    def activations(self) -> float:
        """Elements that the layers of a device give out in a step."""
        layers = self.model.num_layers * self.batches_per_step * self._repeated
        return self.tokens / self.num_devices * self.model.hidden_size * layers

    @property
    def kept_activations(self) -> float:
        """Elements of layers' outputs that a device holds at one time.

        In training these are kept for the backward pass; the evaluation before it holds those of one layer.
        """
        model, evaluated = self.model, self.evaluated_queries / self.languages / self.num_devices
        layers = 1 + model.num_layers * _INPUT_SHARE if self.gradient_checkpointing else model.num_layers
        in_evaluation = min(self.eval_batch_tokens, evaluated * self.tokens_per_text)
        return max(self.tokens_in_pass * layers, in_evaluation) * model.hidden_size

    @property
    def kept_embeddings(self) -> float:
        """Elements that a device holds at one time beside the layers, of the same tokens."""
        return self.tokens_in_pass * self.model.hidden_size

    @property
    def trained_parameters(self) -> int:
        """Weights that have gradients."""
        left_out = 0 if self.seen_rows is None else max(0, self.model.vocabulary - self.seen_rows)
        return self.model.parameters - left_out * self.model.hidden_size

    @property
    def updated_parameters(self) -> float:
        """Weights that the optimizer of a device moves."""
        return self.trained_parameters / (self.num_devices if STRATEGIES[self.strategy][2] else 1)

    @property
    def state_bytes(self) -> float:
        """Weights, gradients and the two moments of AdamW on a device, in float32."""
        parts = (4 * self.model.parameters, 4 * self.trained_parameters, 8 * self.trained_parameters)
        shares = [self.num_devices if sharded else 1 for sharded in STRATEGIES[self.strategy]]
        return sum(size / share for size, share in zip(parts, shares, strict=True))

    @property
    def evaluation_flops(self) -> float:
        """Operations of a device in the evaluation before training, which is part of the set-up."""
        return self._encoder_flops(2 * self.evaluated_queries / self.num_devices) / 3  # forward only

    def bytes_sent(self, halved: bool) -> float:
        """Return the bytes that a device sends in a step: weights, gradients and gathered embeddings, by formula.

        Args:
            halved (`bool`): Whether weights are sent in 16 bits, as FSDP2 and DeepSpeed do in mixed precision.
        """
        if self.num_devices == 1:
            return 0.0
        width, count = 2 if halved and self.strategy != "ddp" else 4, self.batches_per_step
        sizes = width * self.model.parameters, width * self.trained_parameters
        weights = sum(
            share
            * weight_bytes_sent(
                self.strategy, *sizes, self.num_devices, chunks=self._chunks(sequences), last=number == count
            )
            for share, sequences in self._batches()
            for number in range(1, count + 1)
        )
        passages = (self.sequences - self.batch_size) / self.num_devices
        return weights + count * 2 * (self.num_devices - 1) * passages * self.model.hidden_size * 4

    def _batches(self) -> list[tuple[float, float]]:
        """Share and number of texts of the mix's batches: those of pools, and all others."""
        pool = MixConfig.parse(self.mix).pool
        batch_types = ((pool, min(self.max_positives, self.languages)), (1 - pool, 1))
        return [(share, self.batch_size * (1 + n * (1 + self.num_negatives))) for share, n in batch_types if share > 0]

    @property
    def _most_of_chunk(self) -> float:
        return max(self.chunk_tokens, self.tokens_per_text) if self.chunk_tokens else math.inf

    def _chunks(self, sequences: float) -> int:
        """Forward passes with a gradient that a device makes of its share of a batch."""
        own = sequences * self.tokens_per_text / self.num_devices
        return max(1, math.ceil(own / self._most_of_chunk - 1e-9))

    @property
    def _repeated(self) -> float:
        """Return the repeated share of operations: a forward pass is a third, repeated by chunks and checkpointing."""
        chunked = sum(share for share, sequences in self._batches() if self._chunks(sequences) > 1)
        return 1 + chunked / 3 + self.gradient_checkpointing / 3

    def _encoder_flops(self, sequences: float) -> float:
        tokens = round(sequences * self.tokens_per_text)
        squares = round(sequences * self.tokens_per_text**2 * self.length_spread)
        model = self.model
        return encoder_flops(model.matmul_parameters, model.num_layers, model.hidden_size, tokens, squares)
