"""A network of two binary layers over two inputs, with its gradients written out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bvit_analysis.toys.estimators import ESTIMATORS, Array, estimator, sign
from bvit_analysis.toys.weight import grs_term

PERIOD = 20
"Steps over which the two-layer toy counts flips; the library's default is 100, for longer trainings."


MOST_FLOAT = 2.0
"The float parameters are held within this, so that no learning rate makes the toy explode."


@dataclass(frozen=True)
class Network:
    """Parameters of a network of two binary layers; H hidden units over 2 inputs."""

    first: Array
    "Latent weights, (H, 2)."
    second: Array
    "Latent weights, (1, H)."
    shift: Array
    "Added to the hidden values before their sign, (H,)."
    gain: float
    "Scale of the output."
    bias: float
    "Added to the output."


@dataclass(frozen=True)
class TwoLayers:
    """What became of the two-layer toy; T steps."""

    loss: Array
    "(T,), before each step."
    flips: Array
    "(T,): signs of both layers that changed in each step."
    latent: Array
    "(T + 1, 3 H): first layer row by row, then the second."
    accuracy: Array
    "(T,): share of the points on the right side before each step, 0..1."
    network: Network
    "At the end."


def tilted(points: int = 64) -> tuple[Array, Array]:
    """Return points of a square, (P, 2), and the task: +1 above the line x1 + 2.5 x2 = 0, else -1, (P,).

    Weights of -1 and +1 over two inputs point along the diagonals only, and the best direction lies between two.
    """
    x = np.random.default_rng(7).uniform(-1.4, 1.4, (points, 2))
    return x, sign(x @ np.array([1.0, 2.5]))


def first_network(seed: int = 0, hidden: int = 4) -> Network:
    """Return a network before training, drawn from a seed."""
    draw = np.random.default_rng(seed)
    first, second = draw.uniform(-0.5, 0.5, (hidden, 2)), draw.uniform(-0.5, 0.5, (1, hidden))
    return Network(first, second, draw.uniform(0.2, 0.8, hidden), 0.5, 0.0)


def network_output(network: Network, x: Array) -> tuple[Array, Array, Array]:
    """Return hidden values before their sign (P, H), hidden signs (P, H), and outputs (P,).

    a = x (alpha sign(W1))^T + shift, z = sign(a), o = gain * z sign(W2)^T + bias, alpha = mean |W1| per row.
    """
    alpha = np.abs(network.first).mean(axis=1, keepdims=True)
    a = x @ (alpha * sign(network.first)).T + network.shift
    z = sign(a)
    return a, z, network.gain * (z @ sign(network.second[0])) + network.bias


def network_gradients(
    network: Network, x: Array, y: Array, estimator_name: str
) -> tuple[float, Network]:
    """Return the loss mean (o - y)^2 / 2 and its gradients, written out by hand as a network of gradients.

    The estimator is that of the hidden signs; weights have the clipped one, as in the library; alpha is a constant.
    """
    a, z, o = network_output(network, x)
    weight_slope = ESTIMATORS["clipped"].slope
    s2 = sign(network.second)
    alpha = np.abs(network.first).mean(axis=1, keepdims=True)
    do = (o - y) / len(y)
    dz = network.gain * np.outer(do, s2[0])
    da = dz * estimator(estimator_name).slope(a)
    gradients = Network(
        first=(da.T @ x) * alpha * weight_slope(network.first),
        second=network.gain * (do @ z)[None] * weight_slope(network.second),
        shift=da.sum(axis=0),
        gain=float(do @ (z @ s2[0])),
        bias=float(do.sum()),
    )
    return float(np.square(o - y).mean() / 2), gradients


def train_two_layers(
    *,
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    clip: float = 1.0,
    strength: float = 0.0,
    kind: str = "resilient",
    estimator_name: str = "polynomial",
    steps: int = 200,
    seed: int = 4,
) -> TwoLayers:
    """Train the network on the tilted line with all its points in every step.

    Args:
        learning_rate: Of every parameter.
        momentum: 0 to below 1.
        clip: Largest |latent weight|.
        strength: Of the gradient term, which works on the latent weights of both layers.
        kind: Of the gradient term.
        estimator_name: Of the hidden signs, one of SIGN_ESTIMATORS.
        steps: How many.
        seed: Of the first weights.

    Returns:
        Loss, flips, latent weights and the trained network.
    """
    x, y = tilted()
    names = ("first", "second", "shift", "gain", "bias")
    values = {name: np.asarray(getattr(first_network(seed), name)) for name in names}
    velocity = {name: np.zeros_like(value) for name, value in values.items()}
    reference = {name: values[name] >= 0 for name in names[:2]}
    fraction = {name: np.zeros((len(values[name]), 1)) for name in names[:2]}
    loss, accuracy, latent = [], [], [_joined(values)]
    for step in range(steps):
        now = _network(values)
        value, gradients = network_gradients(now, x, y, estimator_name)
        loss.append(value)
        accuracy.append((sign(network_output(now, x)[2]) == y).mean())
        for name in names:
            g = np.asarray(getattr(gradients, name))
            if name in reference:
                g = g + grs_term(
                    values[name],
                    g,
                    kind=kind,
                    strength=strength,
                    fraction=fraction[name],
                    progress=step / steps,
                )
                if (step + 1) % PERIOD == 0:
                    signs = values[name] >= 0
                    fraction[name] = (signs != reference[name]).mean(axis=1, keepdims=True)
                    reference[name] = signs
            velocity[name] = momentum * velocity[name] + g
            values[name] = values[name] - learning_rate * velocity[name]
            most = clip if name in reference else MOST_FLOAT
            values[name] = np.clip(values[name], -most, most)
        latent.append(_joined(values))
    path = np.array(latent)
    flips = (sign(path[1:]) != sign(path[:-1])).sum(axis=1)
    return TwoLayers(np.array(loss), flips, path, np.array(accuracy), _network(values))


def _network(values: dict[str, Array]) -> Network:
    floats = {name: float(values[name]) for name in ("gain", "bias")}
    return Network(values["first"], values["second"], values["shift"], **floats)


def _joined(values: dict[str, Array]) -> Array:
    return np.concatenate([values["first"].ravel(), values["second"].ravel()])
