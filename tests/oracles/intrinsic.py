"""Scores of a token by itself: the projector's sensitivity, its patch's entropy, its norm."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from oracles.basics import Array, dot, norm, softmax

Module = Callable[[Array], Array]


def gelu(z: float) -> float:
    """z Phi(z), the exact form."""
    return z * 0.5 * (1 + math.erf(z / math.sqrt(2)))


def gelu_slope(z: float) -> float:
    """Phi(z) + z phi(z)."""
    return 0.5 * (1 + math.erf(z / math.sqrt(2))) + z * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def projector(w1: Array, b1: Array, w2: Array, b2: Array) -> Module:
    """x -> W2 gelu(W1 x + b1) + b2. w1 [m,d], w2 [o,m]."""

    def apply(x: Array) -> Array:
        inner = [gelu(dot(row, x) + b) for row, b in zip(w1, b1, strict=True)]
        return np.array([dot(row, inner) + b for row, b in zip(w2, b2, strict=True)])

    return apply


def zoo_closed_form(x: Array, w1: Array, b1: Array, w2: Array) -> list[float]:
    """ZOO-Prune, sheet C4 "our shortcut": sqrt(g^T G g), g = gelu'(W1 x + b), G = (W2^T W2) o (W1 W1^T).

    It is the Frobenius norm of the Jacobian. Decided: not divided by sqrt(d), which changes no rank.
    """
    m = len(w1)
    gram = [[dot(w2[:, a], w2[:, b]) * dot(w1[a], w1[b]) for b in range(m)] for a in range(m)]
    scores = []
    for token in x:
        g = [gelu_slope(dot(row, token) + b) for row, b in zip(w1, b1, strict=True)]
        total = sum(g[a] * gram[a][b] * g[b] for a in range(m) for b in range(m))
        scores.append(math.sqrt(max(total, 0.0)))
    return scores


def normed(x: Array, gain: Array, shift: Array, epsilon: float, centred: bool) -> Array:
    """LayerNorm (`centred`) or RMSNorm of every run of len(gain) values of x."""
    n, found = len(gain), list[float]()
    for start in range(0, len(x), n):
        piece = [float(v) for v in x[start : start + n]]
        if centred:
            piece = [v - sum(piece) / n for v in piece]
        deviation = math.sqrt(sum(v * v for v in piece) / n + epsilon)
        found += [g * v / deviation + s for v, g, s in zip(piece, gain, shift, strict=True)]
    return np.array(found)


def norm_jacobian(x: Array, gain: Array, epsilon: float, centred: bool) -> Array:
    """Of `normed` at x, entry by entry: gain_a (1[a = b] - 1/n if centred - z_a z_b / n) / deviation in a run, where
    z is the run without gain and shift; 0 between runs."""
    n = len(gain)
    plain = normed(x, np.ones(n), np.zeros(n), epsilon, centred)
    found = np.zeros((len(x), len(x)))
    for start in range(0, len(x), n):
        piece = [float(v) for v in x[start : start + n]]
        mean = sum(piece) / n if centred else 0.0
        deviation = math.sqrt(sum((v - mean) ** 2 for v in piece) / n + epsilon)
        for a in range(n):
            for b in range(n):
                own = (a == b) - (1 / n if centred else 0) - plain[start + a] * plain[start + b] / n
                found[start + a, start + b] = gain[a] * own / deviation
    return found


def zoo_behind_a_norm(
    x: Array, gain: Array, shift: Array, epsilon: float, centred: bool, w1: Array, b1: Array, w2: Array
) -> list[float]:
    """ZOO-Prune, sheet C4: where a norm comes first, "add its Jacobian". The whole W2 diag(g) W1 N, entry by entry."""
    scores = []
    for token in x:
        first = norm_jacobian(token, gain, epsilon, centred)
        entered = normed(token, gain, shift, epsilon, centred)
        g = [gelu_slope(dot(row, entered) + b) for row, b in zip(w1, b1, strict=True)]
        bent = np.array([[g[a] * dot(w1[a], first[:, i]) for i in range(len(token))] for a in range(len(w1))])
        scores.append(math.sqrt(sum(dot(row, bent[:, i]) ** 2 for row in w2 for i in range(len(token)))))
    return scores


def directions(count: int, width: int, seed: int = 0) -> Array:
    """Fixed directions [count,width] of length 1, the same for every token.

    Decided: "unit Gaussian" is a Gaussian scaled to length 1, as the sheet counts h u as 3e-4 a component at h = 0.01
    and 1024 components.
    """
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal((count, width))
    return np.array([row / norm(row) for row in drawn])


def zoo_finite_differences(x: Array, module: Module, along: Array, h: float = 0.01) -> list[float]:
    """ZOO-Prune, sheet C4: S(i) = (1/m) sum_j || M(x_i + h u_j) - M(x_i - h u_j) || / 2h."""
    scores = []
    for token in x:
        replies = [norm(module(token + h * u) - module(token - h * u)) / (2 * h) for u in along]
        scores.append(sum(replies) / len(replies))
    return scores


def zoo_frobenius(x: Array, module: Module, h: float = 1e-4) -> list[float]:
    """The Jacobian's Frobenius norm by central differences along every axis: any module, no formula of its inside."""
    scores = []
    for token in x:
        total = 0.0
        for axis in np.eye(len(token)):
            total += norm(module(token + h * axis) - module(token - h * axis)) ** 2
        scores.append(math.sqrt(total) / (2 * h))
    return scores


def grey(pixel: Array) -> int:
    """One pixel's grey level 0..255. Decided: RGB by 0.299, 0.587, 0.114 (the sheet names no formula), nearest whole
    number, in thousandths so that halves are halves; a single channel as it is."""
    thousandths = 1000 * float(pixel) if pixel.ndim == 0 else dot(pixel, (299, 587, 114))
    return min(255, max(0, math.floor((thousandths + 500) / 1000)))


def patch_entropy(image: Array, patch: int) -> list[float]:
    """VFlowOpt, sheet B8: Shannon entropy (bits) of the 256-bin grey histogram of each patch, raster order.

    image [H,W] or [H,W,3], values 0..255 BEFORE normalisation (the release wraps normalised ones).
    """
    scores = []
    for top in range(0, image.shape[0] - patch + 1, patch):
        for left in range(0, image.shape[1] - patch + 1, patch):
            bins = [0] * 256
            for row in range(top, top + patch):
                for column in range(left, left + patch):
                    bins[grey(np.asarray(image[row, column]))] += 1
            shares = [b / patch**2 for b in bins if b]
            scores.append(sum(-p * math.log2(p) for p in shares))
    return scores


def vflowopt_mix(walk: list[float], entropy: list[float], alpha: float) -> list[float]:
    """VFlowOpt, sheet B8: importance + alpha_v * softmax(patch entropy). Decided: softmax over the image's patches."""
    return [w + alpha * s for w, s in zip(walk, softmax(entropy), strict=True)]


def norms(features: Array, p: int) -> list[float]:
    """Factoring 2.2 `norm(space, p)`: L1 or L2 norm of each row."""
    return [norm(x, p) for x in features]


def head_norms(states: Array, p: int) -> list[float]:
    """DART's pivot score (sheet C7): the norm of concatenated-head keys. states [H,n,d]; one number a token."""
    return [norm([float(v) for head in states for v in head[i]], p) for i in range(states.shape[1])]
