"""A small complete run folder made without training, for tests of everything that looks at runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from bvit_analysis.config import RECIPES, RunConfig, to_dict
from bvit_analysis.records import AttentionExamples, RunWriter, write_json_atomic

EMBED, HEADS = 32, 2
WEIGHT_SHAPES = {
    "attn.qkv": (3 * EMBED, EMBED),
    "attn.proj": (EMBED, EMBED),
    "mlp.fc1": (4 * EMBED, EMBED),
    "mlp.fc2": (EMBED, 4 * EMBED),
}
CHANNELS = {
    "attn.qkv.sign": EMBED,
    "attn.q_sign": EMBED,
    "attn.k_sign": EMBED,
    "attn.v_sign": EMBED,
    "attn.proj.sign": EMBED,
    "mlp.fc1.sign": EMBED,
    "mlp.fc2.sign": 4 * EMBED,
}
FLIPS_EVERY, DISTRIBUTION_EVERY, SAMPLED = 2, 10, 8
SIGNS = 8500
"Signs counted a channel: 500 images of 17 tokens."


def _sites(blocks: int) -> list[dict[str, Any]]:
    rows: list[tuple[str, str, tuple[int, ...]]] = []
    for block in range(blocks):
        prefix = f"blocks.{block}."
        rows += [(prefix + name, "weight", shape) for name, shape in WEIGHT_SHAPES.items()]
        rows += [(prefix + name, "activation", (size,)) for name, size in CHANNELS.items()]
        rows.append((f"{prefix}attn.probabilities", "attention", (HEADS,)))
    return [
        {
            "site_id": number,
            "site": site,
            "kind": kind,
            "shape": list(shape),
            "n_weights": int(np.prod(shape)) if kind == "weight" else 0,
        }
        for number, (site, kind, shape) in enumerate(rows)
    ]


def _costs(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [
        {
            "site": "patch_embed.proj",
            "kind": "patch_embed",
            "parameters": 49 * EMBED + EMBED,
            "binary_parameters": 0,
            "float_macs": 16 * 49 * EMBED,
            "binary_macs": 0,
            "elementwise_ops": 0,
        }
    ]
    for site in sites:
        if site["kind"] == "weight":
            rows.append(
                {
                    "site": site["site"],
                    "kind": site["site"].rpartition(".")[2],
                    "parameters": site["n_weights"] + site["shape"][0],
                    "binary_parameters": site["n_weights"],
                    "float_macs": 0,
                    "binary_macs": 17 * site["n_weights"],
                    "elementwise_ops": 17 * site["shape"][0],
                }
            )
    return rows


class _Weights:
    """A latent weight matrix that walks like a stationary AR(1) around a gap set by the recipe."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], *, gap: float) -> None:
        self.rng, self.gap = rng, gap
        self.home = rng.choice([-1.0, 1.0], shape) * gap
        self.noise = rng.normal(0, 0.02, shape)
        self.first = self.last = np.where(self.latent >= 0, 1, -1).astype(np.int8)
        self.gross = np.zeros(shape, np.int32)
        self.late = np.zeros(shape, np.int32)
        self.gap_flips = self.measured_at = 0
        self.flipped_at = np.full(shape, -(10**6))
        self.back = dict.fromkeys((1, 5, 10, 50, 100), 0)

    @property
    def latent(self) -> np.ndarray:
        return self.home + self.noise

    def step(self, number: int, total: int) -> None:
        self.noise = 0.95 * self.noise + self.rng.normal(0, 0.006, self.noise.shape)
        sign = np.where(self.latent >= 0, 1, -1).astype(np.int8)
        flips = sign != self.last
        self.gap_flips += int(flips.sum())
        for k in self.back:
            self.back[k] += int((flips & (number - self.flipped_at <= k)).sum())
        self.flipped_at[flips] = number
        self.gross += flips
        if number > total - max(1, total // 10):
            self.late += flips
        self.last = sign

    def flip_row(self, steps: int) -> dict[str, float]:
        gross, net = int(self.gross.sum()), int((self.first != self.last).sum())
        top = np.sort(self.gross, axis=None)[::-1][: max(1, self.gross.size // 100)]
        row = {
            "flip_rate": self.gap_flips / self.gross.size / (steps - self.measured_at),
            "gross_flips": gross / self.gross.size,  # per weight, as the instrument records them
            "net_flips": net / self.gross.size,
            "oscillating_flips": (gross - net) / self.gross.size,
            "flip_flop_ratio": gross / max(1, net),
            "frequent_share": float((self.gross > 0.02 * steps).mean()),
            "concentration": float(top.sum() / max(1, gross)),
            "near_threshold_share": float((np.abs(self.latent) < 0.006).mean()),
        }
        self.gap_flips, self.measured_at = 0, steps
        return row | {f"flip_back_{k}": n / max(1, gross) for k, n in self.back.items()}

    def normalised(self) -> np.ndarray:
        return self.latent / np.abs(self.latent).mean(axis=1, keepdims=True)

    def distribution_row(self) -> dict[str, float]:
        u = self.normalised().ravel()
        centred = u - u.mean()
        variance = float((centred**2).mean())
        kurtosis = float((centred**4).mean()) / variance**2
        skew = float((centred**3).mean()) / variance**1.5
        counts = np.histogram(u, bins=81, range=(-4, 4))[0].astype(float)
        counts = np.convolve(counts, np.ones(5) / 5, mode="same")
        peak = min(counts[:40].max(), counts[41:].max())
        shares = {
            f"mass_near_zero_{int(100 * delta):03d}": float((np.abs(u) < delta).mean())
            for delta in (0.05, 0.10, 0.20)
        }
        return shares | {
            "bimodality_coefficient": (skew**2 + 1) / kurtosis,
            "kurtosis": kurtosis,
            "otsu_ratio": float(np.abs(u).mean() ** 2 / (u**2).mean()),
            "valley_depth": float(max(0.0, 1 - counts[40] / peak)),
            "weight_scale": float(np.abs(self.latent).mean()),
        }


def _entropy_bits(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def _activation_row(
    rng: np.random.Generator, offset: np.ndarray, *, attention: bool
) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    shifted = offset + rng.normal(0, 0.02, offset.shape)
    positive = 1 / (1 + np.exp(-1.702 * shifted))
    if attention:
        positive = positive * 0.2
    entropy = _entropy_bits(positive)
    row = {
        "sign_entropy_plugin_bits": float(entropy.mean()),
        "sign_entropy_bits": float(np.minimum(1, entropy + 1 / (2 * 8500 * np.log(2))).mean()),
        "near_constant_share": float((entropy < 0.5).mean()),
        "constant_share": float((entropy < 1e-3).mean()),
        "positive_share": float(positive.mean()),
        "channel_spread": float(shifted.std()),
        "binarization_error": float(0.363 + 0.1 * (shifted**2).mean()),
        "twin_agreement": float(0.75 - 0.05 * shifted.std()),
    }
    counted = np.round(positive * SIGNS).astype(np.int64)
    return row, np.histogram(entropy, bins=20, range=(0, 1))[0].astype(np.int64), counted


def attention_examples(
    rng: np.random.Generator, sites: list[str], *, images: int = 3
) -> AttentionExamples:
    """Return invented attention of a few images over 17 tokens; the student resembles the teacher."""
    shape = (images, len(sites), HEADS, 17, 17)
    teacher = rng.dirichlet(np.full(17, 0.4), shape[:-1]).astype(np.float32)
    scores = 0.7 * teacher + 0.3 * rng.dirichlet(np.full(17, 2.0), shape[:-1]).astype(np.float32)
    labels = np.arange(images)
    return AttentionExamples(
        images=rng.integers(0, 256, (images, 1, 28, 28)).astype(np.uint8),
        labels=labels,
        predictions=(labels + (labels == 1)) % 10,
        teacher_predictions=labels,
        sites=sites,
        bits=scores >= 1.2 / 17,
        scores=scores,
        teacher=teacher,
    )


def make_run(
    path: str | Path,
    *,
    recipe: str = "baseline",
    seed: int = 0,
    steps: int = 60,
    blocks: int = 2,
    kind: str = "binary",
    state: str = "finished",
) -> Path:
    """Write a plausible run folder through RunWriter and return its path.

    Args:
        path: The folder to make.
        recipe: Name of a preset; 'asm' raises entropies, 'grs' parts the weights, as they should.
        seed: Of the invented numbers and of the configuration.
        steps: Applied steps.
        blocks: Transformer blocks, 12 sites each.
        kind: 'binary', 'float' (no sites) or 'watched' (no configuration).
        state: 'finished', 'running', 'interrupted', 'failed' or 'silent'.
    """
    path = Path(path)
    rng = np.random.default_rng(seed)
    preset = RECIPES[recipe]
    config = RunConfig(recipe=None if kind == "float" else preset, seed=seed, scale="smoke")
    sites = [] if kind == "float" else _sites(blocks)
    # Pairs of runs with one seed differ by the recipe only, as paired statistics expect.
    gap = 0.03 if preset.regularization != "none" else 0.012
    spread = 0.25 if preset.shift != "none" else 0.9
    bonus = 0.01 * (preset.regularization != "none") + 0.015 * (preset.shift != "none")
    ceiling = (0.88 if kind == "float" else 0.78 + bonus) + rng.normal(0, 0.004)
    weights = {
        row["site_id"]: _Weights(rng, tuple(row["shape"]), gap=gap)
        for row in sites
        if row["kind"] == "weight"
    }
    offsets = {
        row["site_id"]: spread * rng.normal(0, 1, row["shape"][0])
        for row in sites
        if row["kind"] != "weight"
    }
    sampled = {
        number: np.sort(rng.choice(matrix.gross.size, SAMPLED, replace=False))
        for number, matrix in weights.items()
    }
    info = {
        "run_id": path.name,
        "kind": kind,
        "config": None if kind == "watched" else to_dict(config),
        "seed": seed,
        "versions": {"bvit_analysis": "0.1.0", "torch": "2.6.0", "timm": "1.0.15"},
        "git_commit": None,
        "hardware": {"cpu": "synthetic", "threads": 1, "device": "cpu"},
        "sites": sites,
        "costs": _costs(sites) if sites else [],
    }
    writer = RunWriter(path, info=info)
    for number in range(steps + 1):
        taken = number > 0
        if taken:
            progress = number / steps
            evaluated = number % 20 == 0 or number == steps
            scalars = {
                "step": number,
                "epoch": number * 64 / 2000,
                "loss": 0.4 + 1.9 * np.exp(-4 * progress) + rng.normal(0, 0.03),
                "lr": 1e-3 * min(number / 4, 0.5 * (1 + np.cos(np.pi * progress))),
                "grad_norm": 1.0 + 0.3 * rng.random(),
            }
            if evaluated:
                scalars["accuracy"] = ceiling * (1 - 0.8 * np.exp(-4 * progress))
                scalars["validation_loss"] = 0.5 + 1.8 * np.exp(-4 * progress)
            writer.append("scalars", scalars)
            if number % 10 == 0:
                timing = {"step": number, "images_per_s": 900 + 30 * rng.random()}
                writer.append("timings", timing | {"elapsed_s": number * 64 / 900})
            for matrix in weights.values():
                matrix.step(number, steps)
            for site_id, index in sampled.items():
                latent = weights[site_id].latent.ravel()[index]
                writer.append(
                    "trajectories",
                    {
                        "step": number,
                        "site_id": site_id,
                        "index": index,
                        "latent": latent,
                        "gradient": rng.normal(0, 1e-3, len(index)),
                        "sign": np.where(latent >= 0, 1, -1).astype(np.int8),
                    },
                )
        distributed = number % DISTRIBUTION_EVERY == 0 or number == steps
        for site_id, matrix in weights.items():
            row: dict[str, Any] = {"step": number, "site_id": site_id}
            if taken and (number % FLIPS_EVERY == 0 or number == steps):
                row |= matrix.flip_row(number)
            if distributed:
                row |= matrix.distribution_row()
                counts = np.histogram(np.clip(matrix.normalised(), -4, 4), 81, (-4, 4))[0]
                _histogram(writer, number, site_id, "latent_normalised", -4.0, 4.0, counts)
            if len(row) > 2:
                writer.append("sites", row)
        if distributed:
            for site in sites:
                if site["kind"] == "weight":
                    continue
                site_id = site["site_id"]
                measured, counts, counted = _activation_row(
                    rng, offsets[site_id], attention=site["kind"] == "attention"
                )
                writer.append("sites", {"step": number, "site_id": site_id, **measured})
                _histogram(writer, number, site_id, "channel_entropy", 0.0, 1.0, counts)
                where = {"step": number, "site_id": site_id}
                writer.append("channels", where | {"n": SIGNS, "counts": counted})
    writer.seal()
    for site in sites:
        if site["kind"] == "weight" and state in ("finished", "interrupted"):
            matrix = weights[site["site_id"]]
            writer.write_counts(
                site["site"],
                gross=matrix.gross,
                first_sign=matrix.first,
                last_sign=matrix.last,
                late=matrix.late,
                steps=steps,
            )
    maps = [row["site"] for row in sites if row["kind"] == "attention"]
    if maps and state == "finished" and kind == "binary":
        writer.write_attention(attention_examples(rng, maps))
    if state == "finished":
        correct = round(500 * (ceiling - 0.01))
        writer.write_result(
            {
                "test_accuracy": correct / 500,
                "test_correct": correct,
                "test_count": 500,
                "validation_accuracy": ceiling * (1 - 0.8 * np.exp(-4)),
                "best_validation_accuracy": ceiling * (1 - 0.8 * np.exp(-4)),
                "teacher_test_accuracy": None if kind == "float" else 0.88,
                "steps": steps,
                "seconds": steps * 64 / 900,
            }
        )
    total = 2 * steps if state != "finished" else steps
    error = "TrainingError: loss is nan at step 60" if state == "failed" else None
    if state in ("running", "silent"):
        # A writer that is not closed leaves its parts and its status as a live run shows them.
        writer.write_status("running", steps, total)
        if state == "silent":
            status = {"schema_version": 1, "state": "running", "step": steps, "error": None}
            status |= {"total_steps": total, "heartbeat": time.time() - 3 * 3600}
            write_json_atomic(path / "status.json", status | {"pid": 1, "host": "elsewhere"})
    else:
        writer.write_status(state, steps, total, error)
        writer.close()
    return path


def _histogram(
    writer: RunWriter, step: int, site_id: int, kind: str, lo: float, hi: float, counts: np.ndarray
) -> None:
    columns = {"step": step, "site_id": site_id, "kind": kind, "lo": lo, "hi": hi}
    writer.append("histograms", columns | {"counts": counts.astype(np.int64)})
