"""Bytes of weights and gradients that DDP, FSDP2 and DeepSpeed send, by formula."""

from __future__ import annotations


def weight_bytes_sent(
    strategy: str,
    weight_bytes: int,
    gradient_bytes: int,
    world_size: int,
    *,
    chunks: int = 1,
    last: bool = True,
    replicas: int = 1,
) -> int:
    """Return the bytes of weights and gradients that one process sends for one batch, by formula.

    In a ring of W processes each sends (W - 1) / W of the bytes in an all-gather or a reduce-scatter, and twice that
    in an all-reduce (Patarasuk and Yuan 2009). With n chunks, an encoder goes forward once and back once where n is
    1, and 2n times forward and n times back where it is more. As torch 2.13, accelerate 1.15 and DeepSpeed 0.19 do:

    - `ddp`: gradients are all-reduced, once a step.
    - `zero1`: the same, and the updated weights are all-gathered.
    - `zero2`: gradients are all-reduced in every backward pass (by default whole buckets are, not reduce-scattered:
      `use_multi_rank_bucket_allreduce`), and the updated weights are all-gathered once a step.
    - `zero3`: gradients are reduce-scattered in every backward pass. Weights are all-gathered in every pass of
      several chunks, and once for a batch in one chunk: they stay until the backward pass, being fewer than
      `stage3_max_reuse_distance`. The first steps, when DeepSpeed learns the order of the layers, gather more.
    - `fsdp2`: weights are all-gathered in every pass (with `fsdp_reshard_after_forward`), gradients are
      reduce-scattered once a step. With R replicas, rings are those of a replica's W / R processes, and the gradients
      of a process's share are all-reduced between the replicas.

    Small messages (norms, flags), the start of a run, checkpoints and evaluation are not counted, and neither is that
    some small weights are gathered less often.

    Args:
        strategy (`str`): One of the above.
        weight_bytes (`int`): Of all weights, in the precision in which they are sent: as they are, but with mixed
            precision FSDP2 and DeepSpeed send 2 bytes each, of weights and of gradients.
        gradient_bytes (`int`): Of the gradients of weights that are trained.
        world_size (`int`): Number of processes.
        chunks (`int`, *optional*, defaults to 1): Parts in which the batch is encoded.
        last (`bool`, *optional*, defaults to `True`): Whether it is the last batch of an optimizer step.
        replicas (`int`, *optional*, defaults to 1): Copies of the model that FSDP2 keeps.

    Returns:
        `int`: Bytes.

    Example:

        >>> weight_bytes_sent("ddp", 1000, 1000, world_size=4)
        1500
        >>> weight_bytes_sent("fsdp2", 1000, 1000, world_size=4, chunks=2)
        5250
    """
    several, ring = chunks > 1, world_size // replicas
    copies = {
        "ddp": 2 * last * gradient_bytes,
        "zero1": 3 * last * gradient_bytes,
        "zero2": (2 * chunks + last) * gradient_bytes,
        "zero3": (3 * chunks if several else 1) * weight_bytes + chunks * gradient_bytes,
        "fsdp2": (3 * chunks if several else 2) * weight_bytes + last * gradient_bytes,
    }
    between = 2 * last * gradient_bytes * (replicas - 1) / replicas / ring
    return round(copies[strategy] * (ring - 1) / ring + between)
