"""The oracle: joint selection as the paper prints it, over B × B matrices and masks, in NumPy float64."""

import jax
import numpy as np

WEIGHTS = {"learnability": (1, -1), "easy_reference": (0, -1), "hard_learner": (1, 0), "uniform": (0, 0)}


def unit(rng: np.random.Generator, rows: int, width: int, dtype=np.float64) -> np.ndarray:
    vectors = rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def noise(key, chunk: int, candidates: int) -> np.ndarray:
    return np.asarray(jax.random.gumbel(jax.random.fold_in(key, chunk), (candidates,), np.float32), np.float64)


def sigmoid_matrix(pairs) -> np.ndarray:
    """ℓ_ij = softplus(−z_ij (t x_i·y_j + β))."""
    image, text = np.asarray(pairs.image, np.float64), np.asarray(pairs.text, np.float64)
    z = 2 * np.eye(len(image)) - 1
    return np.logaddexp(0, -z * (float(pairs.scale) * image @ text.T + float(pairs.bias)))


def softmax_logits(pairs, picked: np.ndarray) -> np.ndarray:
    """−α x_j·y_j + ½(lse_{i picked} α x_j·y_i + lse_{i picked} α y_j·x_i)."""
    image, text = np.asarray(pairs.image, np.float64), np.asarray(pairs.text, np.float64)
    alike = float(pairs.scale) * image @ text.T  # [image, text]
    logits = -np.diag(alike)
    if picked.any():
        logits = logits + 0.5 * (
            np.logaddexp.reduce(alike[:, picked], axis=1) + np.logaddexp.reduce(alike[picked], axis=0)
        )
    return logits


def select(key, learner, reference, config, valid=None):
    """Returns (index, chunk, conditional, gap): gap is the smallest distance of a draw's cut to its neighbours."""
    candidates = len(learner.image)
    size = round(candidates * (1 - config.filter_ratio))
    chunks = config.chunks if config.joint else 1
    weights = WEIGHTS[config.criterion]
    scores = sum(w * sigmoid_matrix(pairs) for w, pairs in zip(weights, (learner, reference), strict=True))
    picked = np.zeros(candidates, bool)
    open_ = np.ones(candidates, bool) if valid is None else np.asarray(valid).copy()
    index, chunk_of, conditional, gap = [], [], [], np.inf
    for chunk in range(chunks):
        count = size // chunks + (chunk < size % chunks)
        if config.loss == "sigmoid":
            logits = np.diag(scores) + scores[picked].sum(0) + scores[:, picked].sum(1)
        else:
            logits = sum(
                w * softmax_logits(pairs, picked) for w, pairs in zip(weights, (learner, reference), strict=True)
            ) + np.zeros(candidates)
        drawn = np.where(open_ & ~picked, config.gain * logits + noise(key, chunk, candidates), -np.inf)
        order = np.argsort(-drawn, kind="stable")
        best = drawn[order[: count + 1]]
        best = best[np.isfinite(best)]
        if len(best) > 1:
            gap = min(gap, float(-np.diff(best).max()))
        index += order[:count].tolist()
        chunk_of += [chunk] * count
        conditional += logits[order[:count]].tolist()
        picked[order[:count]] = True
    return np.array(index), np.array(chunk_of), np.array(conditional), gap
