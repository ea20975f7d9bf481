"""Memory and time of the loss against the plain einsum: ``python -m bench.loss --json``.

Every way runs forward and backward in a process of its own, so that none profits from memory another left behind.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bench.measure import load, measured
from models.losses import info_nce

TEMPERATURE = 0.07


def inputs(batch: int, tokens: int, dim: int) -> tuple[Tensor, Tensor]:
    """The same leaves in every process."""
    generator = torch.Generator().manual_seed(0)
    pair = (torch.randn(batch, tokens, dim, generator=generator) for _ in range(2))
    query, target = (F.normalize(values, dim=-1).requires_grad_() for values in pair)
    return query, target


def _cross_entropy(scores: Tensor) -> Tensor:
    return F.cross_entropy(scores / TEMPERATURE, torch.arange(len(scores)))


def plain(query: Tensor, target: Tensor) -> Tensor:
    """The way everybody writes it."""
    return _cross_entropy(torch.einsum("iad,jbd->ijab", query, target).amax(-1).mean(-1))


def plain_max(query: Tensor, target: Tensor) -> Tensor:
    """The same with `max`, which keeps places instead of comparing again."""
    return _cross_entropy(torch.einsum("iad,jbd->ijab", query, target).max(-1).values.mean(-1))


def checkpointed(query: Tensor, target: Tensor) -> Tensor:
    """Rows of 16 queries, computed once more in the backward pass."""

    def rows(some: Tensor, target: Tensor) -> Tensor:
        return torch.einsum("iad,jbd->ijab", some, target).amax(-1).mean(-1)

    parts = [checkpoint(rows, some, target, use_reentrant=False) for some in torch.split(query, 16)]
    return _cross_entropy(torch.cat(parts))


def ours(query: Tensor, target: Tensor) -> Tensor:
    return info_nce(query, target, TEMPERATURE)


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": ours,
    "plain": plain,
    "max": plain_max,
    "checkpoint": checkpointed,
}


def run(way: str, batch: int, tokens: int, dim: int, repeats: int) -> dict[str, float]:
    """Core-seconds (best) and peak extra memory (first run) of one way, in this process."""
    inner = inputs(2, tokens, dim)
    torch.autograd.backward(WAYS[way](*inner))  # so that the first measured run does not pay for loading the libraries
    query, target = inputs(batch, tokens, dim)
    runs = []
    for _ in range(repeats):
        query.grad = target.grad = None
        runs.append(measured(lambda: torch.autograd.backward(WAYS[way](query, target))))
    return {"core_seconds": min(one["core_seconds"] for one in runs), "peak_mib": runs[0]["peak_mib"]}


def gradient_errors(batch: int, tokens: int, dim: int) -> dict[str, float]:
    """Largest relative norm of the difference between our gradients and others', over query and target.

    Where two maxima are equal in float32, about one in two million of random inputs, ways that are all right differ:
    `amax` and ours share the gradient out between them, `max` gives it to the first. One such tie is about 1e-5 in
    relative norm. So the error is given against either.
    """
    leaves = inputs(batch, tokens, dim)
    found = torch.autograd.grad(ours(*leaves), leaves)
    errors = {}
    for name, way in (("gradient_error", plain), ("gradient_error_to_max", plain_max)):
        wanted = torch.autograd.grad(way(*leaves), leaves)
        errors[name] = max(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True))
    return errors


def bench(batch: int, tokens: int, dim: int, repeats: int, ways: Sequence[str]) -> dict[str, Any]:
    """All ways at one batch size; ratios are ours / theirs."""
    cost = {way: _elsewhere("--way", way, batch, tokens, dim, repeats) for way in ("ours", "plain", *ways)}
    mine, base = cost["ours"], cost["plain"]
    return {
        "memory_ratio": mine["peak_mib"] / base["peak_mib"],
        "time_ratio": mine["core_seconds"] / base["core_seconds"],
        **_elsewhere("--way", "gradients", batch, tokens, dim, 1),
        "ours": mine,
        "plain": base,
        "peers": {way: cost[way] for way in ways},
    }


def _elsewhere(option: str, way: str, batch: int, tokens: int, dim: int, repeats: int) -> dict[str, float]:
    numbers = ["--batches", str(batch), "--tokens", str(tokens), "--dim", str(dim), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "bench.loss", option, way, *numbers]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loss", description=__doc__)
    parser.add_argument(
        "--batches", type=lambda text: [int(part) for part in text.split(",")], default=[128, 512],
        help="batch sizes, by commas (default 128,512; 1024 needs 14 GB for the plain way)",
    )  # fmt: skip
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3, help="the best time of so many counts")
    parser.add_argument("--peers", action="store_true", help="measure `max` and checkpointing too")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--way", choices=[*WAYS, "gradients"], help="measure one way in this process and print it")
    args = parser.parse_args(argv)
    if args.way == "gradients":
        print(json.dumps(gradient_errors(args.batches[0], args.tokens, args.dim)))
        return
    if args.way:
        print(json.dumps(run(args.way, args.batches[0], args.tokens, args.dim, args.repeats)))
        return
    ways = ("max", "checkpoint") if args.peers else ()
    result = {str(size): bench(size, args.tokens, args.dim, args.repeats, ways) for size in args.batches}
    report = {"B": result, "tokens": args.tokens, "dim": args.dim, "threads": torch.get_num_threads(), "load": load()}
    if args.json:
        print(json.dumps(report))
        return
    for size, figures in result.items():
        print(f"B={size}: memory x {figures['memory_ratio']:.4f}, time x {figures['time_ratio']:.3f},"
              f" gradient error {figures['gradient_error']:.1e}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
