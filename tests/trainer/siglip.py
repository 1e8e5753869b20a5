"""SigLIP's two towers in NumPy float64, written from big_vision's published definition, on its own parameter names."""

import numpy as np


def embed(parameters, images, tokens, image_heads, text_heads):
    """Returns (image, text), unit norm."""
    p = {name: np.asarray(array, np.float64) for name, array in parameters.items()}
    return unit(image_tower(p, images, image_heads)), unit(text_tower(p, tokens, text_heads))


def unit(x):
    return x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-8)


def image_tower(p, images, heads):
    kernel = p["img/embedding/kernel"]
    size = kernel.shape[0]
    pixels = images.astype(np.float64) / 127.5 - 1  # value_range(-1, 1)
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    patches = np.stack(
        [
            np.einsum("nijc,ijcd->nd", pixels[:, r * size : (r + 1) * size, c * size : (c + 1) * size], kernel)
            for r in range(rows)
            for c in range(columns)
        ],
        axis=1,
    )
    x = patches + p["img/embedding/bias"] + p["img/pos_embedding"]
    x = encoder(p, "img/Transformer", x, heads)
    probe = np.broadcast_to(p["img/MAPHead_0/probe"], (len(x), 1, x.shape[-1]))
    x = attention(p, "img/MAPHead_0/MultiHeadDotProductAttention_0", probe, x, heads)
    x = x + mlp(p, "img/MAPHead_0/MlpBlock_0", norm(p, "img/MAPHead_0/LayerNorm_0", x))
    x = x[:, 0]
    return x @ p["img/head/kernel"] + p["img/head/bias"] if "img/head/kernel" in p else x


def text_tower(p, tokens, heads):
    x = p["txt/Embed_0/embedding"][tokens] + p["txt/pos_embedding"]
    x = encoder(p, "txt/Encoder_0", x, heads)
    return x[:, -1] @ p["txt/head/kernel"] + p["txt/head/bias"]


def encoder(p, name, x, heads):
    depth = len({key.split("/")[2] for key in p if key.startswith(f"{name}/encoderblock_")})
    for layer in range(depth):
        block = f"{name}/encoderblock_{layer}"
        y = norm(p, f"{block}/LayerNorm_0", x)
        x = x + attention(p, f"{block}/MultiHeadDotProductAttention_0", y, y, heads)
        x = x + mlp(p, f"{block}/MlpBlock_0", norm(p, f"{block}/LayerNorm_1", x))
    return norm(p, f"{name}/encoder_norm", x)


def norm(p, name, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]


def mlp(p, name, x):
    x = x @ p[f"{name}/Dense_0/kernel"] + p[f"{name}/Dense_0/bias"]
    x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return x @ p[f"{name}/Dense_1/kernel"] + p[f"{name}/Dense_1/bias"]


def attention(p, name, queries, keys, heads):
    def project(kind, x):
        return np.einsum("ntd,dhe->nhte", x, p[f"{name}/{kind}/kernel"]) + p[f"{name}/{kind}/bias"][None, :, None]

    q, k, v = project("query", queries), project("key", keys), project("value", keys)
    assert q.shape[1] == heads
    scores = np.einsum("nhqe,nhke->nhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("nhqk,nhke->nqhe", weights, v)
    return np.einsum("nqhe,hed->nqd", mixed, p[f"{name}/out/kernel"]) + p[f"{name}/out/bias"]


def shapes(preset, resolution, vocabulary, length):
    """Every parameter's name and shape in a checkpoint of big_vision's two_towers."""
    result = {"t": (1,), "b": (1,)}

    def block(name, e):
        head = e.width // e.heads
        for kind in ("query", "key", "value"):
            result[f"{name}/MultiHeadDotProductAttention_0/{kind}/kernel"] = (e.width, e.heads, head)
            result[f"{name}/MultiHeadDotProductAttention_0/{kind}/bias"] = (e.heads, head)
        result[f"{name}/MultiHeadDotProductAttention_0/out/kernel"] = (e.heads, head, e.width)
        result[f"{name}/MultiHeadDotProductAttention_0/out/bias"] = (e.width,)
        result[f"{name}/MlpBlock_0/Dense_0/kernel"] = (e.width, e.mlp)
        result[f"{name}/MlpBlock_0/Dense_0/bias"] = (e.mlp,)
        result[f"{name}/MlpBlock_0/Dense_1/kernel"] = (e.mlp, e.width)
        result[f"{name}/MlpBlock_0/Dense_1/bias"] = (e.width,)

    def layer_norm(name, e):
        result[f"{name}/scale"] = result[f"{name}/bias"] = (e.width,)

    for name, e in (("img/Transformer", preset.image), ("txt/Encoder_0", preset.text)):
        for layer in range(e.depth):
            block(f"{name}/encoderblock_{layer}", e)
            layer_norm(f"{name}/encoderblock_{layer}/LayerNorm_0", e)
            layer_norm(f"{name}/encoderblock_{layer}/LayerNorm_1", e)
        layer_norm(f"{name}/encoder_norm", e)
    block("img/MAPHead_0", preset.image)
    layer_norm("img/MAPHead_0/LayerNorm_0", preset.image)
    result["img/MAPHead_0/probe"] = (1, 1, preset.image.width)
    patch = preset.patch_size
    result["img/embedding/kernel"] = (patch, patch, 3, preset.image.width)
    result["img/embedding/bias"] = (preset.image.width,)
    result["img/pos_embedding"] = (1, (resolution // patch) ** 2, preset.image.width)
    if preset.image_head:
        result["img/head/kernel"], result["img/head/bias"] = (preset.image.width, preset.embedding), (preset.embedding,)
    result["txt/Embed_0/embedding"] = (vocabulary, preset.text.width)
    result["txt/pos_embedding"] = (1, length, preset.text.width)
    result["txt/head/kernel"], result["txt/head/bias"] = (preset.text.width, preset.embedding), (preset.embedding,)
    return result


def random_parameters(seed, *args):
    """Random values of a size that lets signals through: 1/√fan-in for kernels, norms near one."""
    rng = np.random.default_rng(seed)
    parameters = {}
    for name, shape in shapes(*args).items():
        value = rng.normal(size=shape)
        if name.endswith("kernel"):
            value /= np.sqrt(np.prod(shape[:-1]) if "/out/" in name or "embedding" in name else shape[0])
        elif name.endswith("scale"):
            value = 1 + 0.1 * value
        parameters[name] = (0.1 * value if name.endswith("/bias") else value).astype(np.float32)
    parameters["t"], parameters["b"] = np.array([2.3], np.float32), np.array([-10.2], np.float32)
    return parameters
