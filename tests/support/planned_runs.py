"""Run folders whose times and memory follow a known law, for what learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_hybrid.records.resources import empty_line
from hf_hybrid.records.run_folder import RunFolder

CODES = "en de es ru ar hi ja zh pt fr it nl pl tr ko vi".split()  # noqa: SIM905
SECONDS = {"step": 0.01, "flop": 2e-11, "weight": 4e-9, "text": 2e-4}
GIB = {"run": 0.5, "state_byte": 1 / 2**30, "element": 6e-8}
TOKENS_PER_TEXT = 12


def write_run_folder(
    path: Path,
    languages: int = 4,
    batch_size: int = 64,
    width: int = 128,
    layers: int = 2,
    vocabulary: int = 8000,
    steps: int = 20,
    noise: float = 0.0,
    seed: int = 0,
    config: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    world_size: int = 1,
    stall: float = 1.0,
) -> RunFolder:
    """A run of mono and cross batches whose step takes what `SECONDS` says and whose memory what `GIB` does.

    All texts are of `TOKENS_PER_TEXT` tokens; the fifth of the steps from the back takes `stall` times as long.
    """
    draw = np.random.default_rng(seed)
    codes, matmul = CODES[:languages], 12 * layers * width**2
    parameters, texts = matmul + vocabulary * width, 2 * batch_size
    tokens = texts * TOKENS_PER_TEXT
    flops = 6.0 * matmul * tokens + 12.0 * layers * width * texts * TOKENS_PER_TEXT**2
    step_s = SECONDS["step"] + SECONDS["flop"] * flops + SECONDS["weight"] * parameters + SECONDS["text"] * texts
    step_s *= float(np.exp(noise * draw.standard_normal()))
    memory = GIB["run"] + GIB["state_byte"] * 16 * parameters + GIB["element"] * tokens * width * layers
    times_s = [3 * step_s] * 2 + [step_s] * (steps - 2)
    times_s[-5] *= stall
    language_pairs = [(a, b) for a in codes for b in codes]
    folder = RunFolder(path)
    folder.write_run({
        "config": {"use_cpu": True, "cpu_threads": 1, "evaluate_before": False, **(config or {})},
        "changed": ["use_cpu", "evaluate_before"],
        "corpus": {"items_per_language": dict.fromkeys(codes, 500)},
        "mix": "mono=0.5,cross=0.5",
        "plan": {
            "language_pairs": [
                {
                    "batch_type": "mono" if a == b else "cross",
                    "language_pair": f"{a}->{b}",
                    "steps": 1,
                    "pairs": batch_size,
                }
                for a, b in language_pairs
            ]
        },
        "seed": 0,
        "world_size": world_size,
        "environment": {"platform": "Linux", "cpu_count": 2, "devices": [], **(environment or {})},
        "status": "finished",
        "identity": {},
        "model": {"num_parameters": parameters},
    })  # fmt: skip
    for step, time_s in enumerate(times_s, start=1):
        folder.append_resource_line({
            **empty_line(step), "time_s": time_s, "pairs": batch_size, "tokens": tokens, "loss": 1.0,
            "host_memory_gib": memory,
        })  # fmt: skip
    folder.write_resources({
        "train_time_s": sum(times_s),
        "setup_time_s": 2 + 1e-4 * 1000 * languages,
        "num_steps": steps,
        "num_pairs": steps * batch_size,
        "tokens": steps * tokens,
        "padding_tokens": 0,
        "pairs_per_s": None,
        "tokens_per_s": None,
        "flops": steps * flops,
        "flops_formula": "a formula",
        "flops_terms": {
            "num_matmul_parameters": matmul, "num_layers": layers, "hidden_size": width,
            "sum_squared_lengths": steps * texts * TOKENS_PER_TEXT**2,
        },
        "mfu": None,
        "peak_device_memory_gib": None,
        "peak_host_memory_gib": [memory * float(np.exp(noise * draw.standard_normal()))],
        "energy_wh": None,
        "energy_source": None,
        "per_language": {},
        "per_language_pair": {},
        "bytes_sent": None,
    })  # fmt: skip
    return folder
