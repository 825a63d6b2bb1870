"""head_scores: the reference against slow loops and a whole tower, the kernel against both."""

import functools
import importlib
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch

from eyeshine_export.open_clip_config import parse_config
from eyeshine_export.reference import image_tower
from eyeshine_kernels.backend import KernelError
from eyeshine_kernels.head_scores import HeadScoreOptions, HeadScores, head_scores
from eyeshine_kernels.relevance import RelevanceOptions, relevance
from tiny import tiny_config, tiny_model

SETTINGS = {
    "both": HeadScoreOptions(top=5),
    "heads": HeadScoreOptions(strategy="heads", top=2),
    "layers": HeadScoreOptions(strategy="layers", blocks=3),
    "all-of-both": HeadScoreOptions(top=12),
    "max": HeadScoreOptions(top=6, penalty="max", head_beta=2),
    "diverse": HeadScoreOptions(top=6, head_alpha=0.25, head_beta=3),
    "relevant": HeadScoreOptions(top=4, blocks=2, head_beta=0),
}


def inputs(images, prompts, blocks, heads, depth, tokens, width, *, extras=False, seed=0):
    """Named random arrays, float32; ``extras`` are scale and offset."""
    random = np.random.default_rng(seed)
    text = random.standard_normal((prompts, width))
    named = {
        "attention": random.dirichlet(np.ones(tokens), (images, blocks, heads)),
        "values": random.standard_normal((images, blocks, tokens, heads * depth)),
        "projection": random.standard_normal((blocks, heads * depth, width)) / depth,
        "text": text / np.linalg.norm(text, axis=-1, keepdims=True),
    }
    if extras:
        named |= {"scale": random.uniform(0.1, 2, images), "offset": random.standard_normal((images, blocks, width))}
    return {name: array.astype(np.float32) for name, array in named.items()}


def as_tensors(named, device, dtype=torch.float32):
    """On the device; scale and offset stay float32, as they come from float32 arithmetic."""
    return {
        name: torch.from_numpy(array).to(device, torch.float32 if name in ("scale", "offset") else dtype)
        for name, array in named.items()
    }


def as_doubles(named):
    return {name: torch.as_tensor(entry).detach().cpu().double().numpy() for name, entry in named.items()}


def run(named, options, backend, device):
    """HeadScores as arrays, from either backend."""
    if backend == "triton":
        named = as_tensors(named, device)
    with np.errstate(invalid="ignore"):  # the interpreter computes in NumPy, which warns of inf - inf
        found = head_scores(**named, options=options, backend=backend)
    return HeadScores(**{name: torch.as_tensor(entry).cpu().numpy() for name, entry in vars(found).items()})


# The oracle: the equations one number at a time, in float64


def slow_contribution(named, b, k, h):
    """scale * M_h^T sum_i A_h[i] V_{h,i} + offset, [E], a list."""
    heads, tokens = named["attention"].shape[2:]
    depth, width = named["values"].shape[3] // heads, named["text"].shape[1]
    vector = []
    for e in range(width):
        total = 0.0
        for i in range(tokens):
            for d in range(h * depth, (h + 1) * depth):
                total += named["attention"][b, k, h, i] * named["values"][b, k, i, d] * named["projection"][k, d, e]
        total *= named["scale"][b] if "scale" in named else 1
        vector.append(total + (named["offset"][b, k, e] if "offset" in named else 0))
    return vector


def slow_cosine(first, second):
    product = sum(x * y for x, y in zip(first, second, strict=True))
    lengths = math.hypot(*first) * math.hypot(*second)
    return product / lengths if lengths else 0.0


def slow_score(standardised, vectors, chosen, candidate, options):
    """Eq. 1 with the penalty of eq. 3, given what has been chosen."""
    cosines = [slow_cosine(vectors[candidate], vectors[other]) for other in chosen]
    penalty = 0.0
    if cosines:
        penalty = cosines[-1] if options.penalty == "previous" else max(cosines)
    return options.head_alpha * standardised[candidate] - options.head_beta * penalty


def slow(named, options):
    """All of HeadScores."""
    named = {name: array.astype(float) for name, array in named.items()}
    images, blocks, heads, _ = named["attention"].shape
    first = blocks - {"heads": 1}.get(options.strategy, options.blocks)
    places = [(k, h) for k in range(first, blocks) for h in range(heads)]
    rows = {name: [] for name in ("indices", "scores", "relevance", "standardised", "weights", "contributions")}
    for b in range(images):
        vectors = [slow_contribution(named, b, k, h) for k, h in places]
        rows["contributions"].append(vectors)
        for text in named["text"]:
            raw = [sum(x * y for x, y in zip(vector, text, strict=True)) for vector in vectors]
            mean = sum(raw) / len(raw)
            deviation = math.sqrt(sum((x - mean) ** 2 for x in raw) / len(raw))
            z = [(x - mean) / deviation for x in raw]
            chosen, scores = [], []
            if options.strategy == "layers":
                chosen, scores = list(range(len(z))), [options.head_alpha * x for x in z]
            while len(chosen) < options.top and options.strategy != "layers":
                free = [c for c in range(len(z)) if c not in chosen]
                found = [slow_score(z, vectors, chosen, c, options) for c in free]
                scores.append(max(found))
                chosen.append(free[found.index(scores[-1])])
            rows["indices"].append(chosen)
            rows["scores"].append(scores)
            rows["relevance"].append(raw)
            rows["standardised"].append(z)
            rows["weights"].append([1 / len(chosen) if c in chosen else 0.0 for c in range(len(z))])
    per_head = (images, len(named["text"]), blocks - first, heads)
    shapes = {name: (*per_head[:2], -1) if name in ("indices", "scores") else per_head for name in rows}
    shapes["contributions"] = (images, *per_head[2:], -1)
    return HeadScores(**{name: np.array(rows[name]).reshape(shapes[name]) for name in rows})


@pytest.mark.parametrize("extras", [False, True], ids=["plain", "scale-and-offset"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_reference_is_the_equation(options, extras, assert_close):
    named = inputs(2, 3, 4, 3, 4, 5, 7, extras=extras)
    expected = slow(named, options)
    got = head_scores(**named, options=options)
    np.testing.assert_array_equal(got.indices, expected.indices)
    assert got.indices.dtype == np.int64
    for name in ("scores", "relevance", "standardised", "weights", "contributions"):
        assert getattr(got, name).dtype == np.float32
        assert_close(getattr(got, name), getattr(expected, name))


def test_the_settings_choose_differently():
    """So that the test before can fail: previous and max, and a penalty or none, are not the same here."""
    named = inputs(2, 3, 4, 3, 4, 5, 7)
    found = {
        name: head_scores(**named, options=HeadScoreOptions(top=6, head_beta=beta, penalty=penalty)).indices
        for name, beta, penalty in (("none", 0, "max"), ("previous", 2, "previous"), ("max", 2, "max"))
    }
    assert (found["none"] != found["previous"]).any()
    assert (found["max"] != found["previous"]).any()


# A whole tower


@functools.cache
class Tower:
    """open_clip's own tiny tower in float64: the residual of the class token, and what the kernel is given of it."""

    def __init__(self, centred):
        raw = tiny_config()
        config, model = parse_config("tiny", raw), tiny_model(raw).double()
        state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        random = torch.Generator().manual_seed(5)
        pixels = torch.rand((2, 3, 32, 32), generator=random, dtype=torch.float64)
        kept = []
        model.visual.ln_post.register_forward_pre_hook(lambda _, given: kept.append(given[0].detach()[:, 0]))
        self.embedding = model.encode_image(pixels).detach()
        (self.residual,) = kept
        _, trace = image_tower(state, config, pixels, (0, 0, 0), (1, 1, 1))
        self.blocks, self.heads = config.vision.layers, config.vision.heads
        self.values = torch.stack(trace.value, 1).detach()
        self.attention = torch.stack([a[:, :, 0] for a in trace.attention], 1).detach()
        self.mixed = torch.stack([o[:, 0] for o in trace.mixed], 1).detach()
        out = [f"visual.transformer.resblocks.{k}.attn.out_proj" for k in range(self.blocks)]
        self.w_o = torch.stack([state[f"{name}.weight"] for name in out])
        self.b_o = torch.stack([state[f"{name}.bias"] for name in out])
        self.gamma, self.beta = state["visual.ln_post.weight"], state["visual.ln_post.bias"]
        self.proj, self.text = state["visual.proj"], torch.randn((3, 24), generator=random, dtype=torch.float64)
        self.mean = self.residual.mean(-1, keepdim=True)
        variance = self.residual.var(-1, correction=0, keepdim=True)
        self.sigma = (variance + config.vision.eps).sqrt()
        self.length = self.embedding.norm(dim=-1, keepdim=True)
        self.terms = 2 * self.blocks + 1  # attention and MLP of each block, and the embedded class token
        self.centred = centred

    def through(self, vectors, share):
        """What [B, .., D] adds to the unit embedding; ``share`` is its part of LayerNorm's mean and bias."""
        column = (slice(None),) + (None,) * (vectors.ndim - 2)
        mean = vectors.mean(-1, keepdim=True) if self.centred else share * self.mean[column]
        scaled = self.gamma * (vectors - mean) / self.sigma[column] + share * self.beta
        return scaled @ self.proj / self.length[column]

    def given(self):
        """Arguments of head_scores."""
        folded = self.w_o - self.w_o.mean(1, keepdim=True) if self.centred else self.w_o
        bias = self.b_o.expand(2, -1, -1) / self.heads
        named = {
            "attention": self.attention,
            "values": self.values,
            "projection": folded.mT @ (self.gamma[:, None] * self.proj),
            "text": self.text,
            "scale": (1 / (self.sigma * self.length))[:, 0],
            "offset": self.through(bias, 1 / (self.terms * self.heads)),
        }
        return as_doubles({name: tensor.contiguous() for name, tensor in named.items()})


@pytest.mark.parametrize("centred", [False, True], ids=["shared-mean", "own-mean"])
def test_contributions_and_the_rest_are_the_embedding(centred):
    """Gandelsman et al.: the unit embedding is the sum of all heads, of the MLPs and of the embedded class token.

    "shared-mean" gives every term an equal part of LayerNorm's mean (the released code), "own-mean" its own mean.
    """
    tower = Tower(centred)
    options = HeadScoreOptions(strategy="layers", blocks=tower.blocks)
    got = head_scores(**tower.given(), options=options)
    attended = torch.einsum("kde,bke->bd", tower.w_o, tower.mixed) + tower.b_o.sum(0)
    rest = tower.through(tower.residual - attended, (tower.terms - tower.blocks) / tower.terms).numpy()
    unit = (tower.embedding / tower.length).numpy()
    assert np.abs(got.contributions).max() > 0.05
    assert np.abs(rest).max() > 0.05
    np.testing.assert_allclose(got.contributions.sum((1, 2)) + rest, unit, atol=1e-11)
    shares = got.relevance.sum((2, 3)) + rest @ tower.text.numpy().T
    np.testing.assert_allclose(shares, unit @ tower.text.numpy().T, atol=1e-11)


@pytest.mark.parametrize("centred", [False, True], ids=["shared-mean", "own-mean"])
def test_relevance_is_autograd_of_the_direct_path(centred):
    """<d cosine / d O_h, O_h> with LayerNorm's deviation and the embedding's length frozen."""
    tower = Tower(centred)
    mixed = tower.mixed.clone().requires_grad_()
    attended = torch.einsum("kde,bke->bd", tower.w_o, mixed)
    mean = attended.mean(-1, keepdim=True) if centred else 0
    cosine = (tower.gamma * (attended - mean) / tower.sigma) @ tower.proj / tower.length @ tower.text.T
    named = tower.given()
    del named["offset"]
    got = head_scores(**named, options=HeadScoreOptions(strategy="layers", blocks=tower.blocks)).relevance
    for p in range(len(tower.text)):
        (gradient,) = torch.autograd.grad(cosine[:, p].sum(), mixed, retain_graph=True)
        per_head = (gradient * tower.mixed).unflatten(-1, (tower.heads, -1)).sum(-1)
        np.testing.assert_allclose(got[:, p], per_head.numpy(), atol=1e-11)


def test_weights_go_into_relevance():
    """The mean over the chosen heads of <r_h, A_h[i] V_{h,i}>, summed over tokens, is their mean relevance."""
    named = inputs(1, 1, 4, 3, 4, 5, 7)
    found = head_scores(**named, options=SETTINGS["both"])
    gradient = np.einsum("kde,pe->pkd", named["projection"], named["text"])[None]
    options = RelevanceOptions(attention_power=1, signed=True, class_token=False)
    shared = {"attention": named["attention"], "head_weights": found.weights[0, 0], "options": options}
    maps = relevance(gradient, named["values"], heads=3, **shared)
    chosen = found.relevance.reshape(-1)[found.indices.reshape(-1)]
    np.testing.assert_allclose(maps.sum(), chosen.mean(), rtol=1e-5)


# Properties, of both backends


both_backends = pytest.mark.parametrize("backend", ["reference", "triton"])


def direct(vectors, text):
    """Inputs whose contributions are ``vectors`` [K, H, E] exactly: one token, one channel a head."""
    blocks, heads, _ = vectors.shape
    return {
        "attention": np.ones((1, blocks, heads, 1), np.float32),
        "values": np.ones((1, blocks, 1, heads), np.float32),
        "projection": np.asarray(vectors, np.float32),
        "text": np.asarray(text, np.float32),
    }


@both_backends
def test_ties_go_to_the_smaller_index(backend, device):
    vectors = np.array([[[1, 0], [3, 0], [1, 0], [3, 0], [2, 0]]])
    options = HeadScoreOptions(strategy="heads", top=5, head_beta=0)
    found = run(direct(vectors, [[1, 0]]), options, backend, device)
    np.testing.assert_array_equal(found.contributions[0], vectors)
    np.testing.assert_array_equal(found.indices, [[[1, 3, 4, 0, 2]]])


@both_backends
def test_a_penalty_avoids_the_twin_and_previous_forgets_it(backend, device):
    """Heads 0 and 1 are twins: after head 2 "previous" takes the twin of the first, "max" does not."""
    vectors = np.array([[[4, 0, 0], [4, 0, 0], [2, 6, 0], [3, 0, 3]]])
    for penalty, expected in (("previous", [0, 2, 1]), ("max", [0, 2, 3])):
        options = HeadScoreOptions(strategy="heads", top=3, head_beta=5, penalty=penalty)
        found = run(direct(vectors, [[1, 0, 0]]), options, backend, device)
        assert found.indices.tolist() == [[expected]]


@both_backends
@pytest.mark.parametrize("value", [0.0, 0.3, -7.1])
@pytest.mark.parametrize("heads", [1, 5, 12])
def test_equal_relevance_is_no_ranking(backend, value, heads, device):
    vectors = np.full((4, heads, 3), value, np.float32)
    options = HeadScoreOptions(top=min(heads * 4, 10))
    found = run(direct(vectors, [[0.6, 0.8, 0.0]]), options, backend, device)
    np.testing.assert_array_equal(found.standardised, 0)
    np.testing.assert_array_equal(found.indices, np.arange(options.top)[None, None])
    penalty = np.full(options.top, -0.5 if value else 0.0)
    penalty[0] = 0
    np.testing.assert_allclose(found.scores[0, 0], penalty, atol=1e-5)


@both_backends
def test_a_head_that_writes_nothing_has_cosine_0(backend, device):
    vectors = np.array([[[2, 1], [0, 0], [1, -2], [1, 1]]])
    options = HeadScoreOptions(strategy="heads", top=4, head_beta=1)
    found = run(direct(vectors, [[0, 1]]), options, backend, device)
    place = found.indices[0, 0].tolist().index(1)
    assert place > 0
    np.testing.assert_allclose(found.scores[0, 0, place], found.standardised[0, 0, 0, 1], atol=1e-6)
    assert np.isfinite(found.scores).all()


@both_backends
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_a_nan_chooses_nothing_and_shows(backend, options, wrong, device):
    """Of image 1 alone; a NaN in text 0 costs that prompt alone."""
    named = inputs(2, 2, 4, 3, 4, 5, 7)
    named["values"][1, 3, 2, 1] = wrong
    found = run(named, options, backend, device)
    assert (found.indices[1] == -1).all()
    for name in ("scores", "standardised", "weights"):
        assert np.isnan(getattr(found, name)[1]).all(), name
        assert np.isfinite(getattr(found, name)[0]).all(), name
    assert not np.isfinite(found.relevance[1]).all()
    assert (found.indices[0] >= 0).all()

    named = inputs(2, 2, 4, 3, 4, 5, 7)
    named["text"][0, 0] = wrong
    found = run(named, options, backend, device)
    assert (found.indices[:, 0] == -1).all()
    assert np.isnan(found.weights[:, 0]).all()
    assert (found.indices[:, 1] >= 0).all()
    assert np.isfinite(found.weights[:, 1]).all()


@both_backends
def test_a_nan_that_only_the_penalty_meets_is_not_hidden(backend, device):
    """A length that overflows float32 where the relevance does not: the first choice stands, nothing follows."""
    vectors = np.zeros((1, 3, 2), np.float32)
    vectors[0] = [[1, 0], [3, 3e38], [2, 3e38]]
    with np.errstate(over="ignore"):
        found = run(direct(vectors, [[1, 0]]), HeadScoreOptions(strategy="heads", top=3), backend, device)
    np.testing.assert_array_equal(found.indices, [[[1, -1, -1]]])
    np.testing.assert_array_equal(np.isnan(found.scores), [[[False, True, True]]])
    assert np.isnan(found.weights).all()


@both_backends
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("images", "prompts"), [(0, 2), (2, 0), (0, 0)])
def test_empty(backend, options, images, prompts, device):
    found = run(inputs(images, prompts, 4, 3, 4, 5, 7, extras=True), options, backend, device)
    last = options.candidate_blocks
    count = options.chosen(last * 3)
    assert found.indices.shape == found.scores.shape == (images, prompts, count)
    assert found.relevance.shape == found.standardised.shape == found.weights.shape == (images, prompts, last, 3)
    assert found.contributions.shape == (images, last, 3, 7)
    assert np.isfinite(found.contributions).all()


@both_backends
def test_the_texts_length_changes_the_relevance_alone(backend, device):
    named = inputs(1, 2, 4, 3, 4, 5, 7)
    found = run(named, SETTINGS["both"], backend, device)
    longer = run({**named, "text": 8 * named["text"]}, SETTINGS["both"], backend, device)
    np.testing.assert_array_equal(longer.relevance, 8 * found.relevance)
    np.testing.assert_array_equal(longer.indices, found.indices)
    np.testing.assert_allclose(longer.standardised, found.standardised, atol=1e-5)


# The kernel


def score_by(expected, options, b, p, chosen):
    """float64 scores of all candidates given what has been chosen, [C]."""
    vectors = expected.contributions[b].reshape(-1, expected.contributions.shape[-1])
    score = options.head_alpha * expected.standardised[b, p].reshape(-1)
    if len(chosen) and options.strategy != "layers":
        norms = np.linalg.norm(vectors, axis=-1)
        cosines = (vectors @ vectors[chosen].T) / (norms[:, None] * norms[chosen])
        score = score - options.head_beta * (cosines[:, -1] if options.penalty == "previous" else cosines.max(-1))
    return score


def condition(expected):
    """Largest |relevance| over the deviation, [B, P, 1]: by how much a z-score's error outgrows its relevance's."""
    raw = expected.relevance.reshape(*expected.relevance.shape[:2], -1)
    deviation, largest = raw.std(-1, keepdims=True), np.abs(raw).max(-1, keepdims=True)
    # One candidate has a z-score of 0, without an error.
    return np.divide(largest, deviation, out=np.zeros_like(largest), where=deviation > 1e-6 * largest)


def check_kernel(named, options, device, assert_close, poisoned, tolerances, dtype=torch.float32):
    """Numbers against the reference; each choice against float64 scores given the choices before it.

    Where two heads score the same but for rounding either may be taken, and everything after it differs.
    """
    tensors = as_tensors(named, device, dtype)
    got = head_scores(**tensors, options=options, backend="triton")
    assert poisoned() == len(fields(HeadScores))
    expected = head_scores(**as_doubles(tensors), options=options)
    for name in ("scores", "relevance", "standardised", "weights", "contributions"):
        assert getattr(got, name).dtype == torch.float32
        assert getattr(got, name).device == tensors["values"].device
    # Inputs are the same rounded numbers for both, sums and outputs are fp32: one tolerance for all input dtypes.
    assert_close(got.contributions, expected.contributions)
    assert_close(got.relevance, expected.relevance)
    allowed = tolerances[torch.float32] * condition(expected)
    error = np.abs(got.standardised.cpu().numpy() - expected.standardised)
    assert (error <= allowed[..., None]).all()

    indices, scores = got.indices.cpu().numpy(), got.scores.cpu().numpy()
    allowed = options.head_alpha * allowed + tolerances[torch.float32] * options.head_beta
    for b, p, step in np.ndindex(scores.shape):
        score = score_by(expected, options, b, p, indices[b, p, :step])
        assert abs(scores[b, p, step] - score[indices[b, p, step]]) <= allowed[b, p]
        if options.strategy != "layers":
            assert indices[b, p, step] not in indices[b, p, :step]
            score[indices[b, p, :step]] = -np.inf
            assert score.max() - score[indices[b, p, step]] <= 2 * allowed[b, p]
    if options.strategy == "layers":
        np.testing.assert_array_equal(indices, expected.indices)
    weights = np.zeros(expected.weights.shape).reshape(*indices.shape[:2], -1)
    np.put_along_axis(weights, indices, 1 / indices.shape[2], axis=-1)
    assert_close(got.weights, weights.reshape(expected.weights.shape))


@pytest.mark.parametrize("extras", [False, True], ids=["plain", "scale-and-offset"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_kernel_is_the_reference_in_every_setting(options, extras, device, assert_close, poisoned, tolerances):
    check_kernel(inputs(2, 3, 5, 3, 8, 17, 24, extras=extras), options, device, assert_close, poisoned, tolerances)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 31, 33, 50, 63, 64, 65, 127, 129, 197, 257, 577, 730])
def test_kernel_on_any_number_of_tokens(tokens, device, assert_close, poisoned, tolerances):
    check_kernel(inputs(1, 2, 4, 2, 4, tokens, 5), HeadScoreOptions(top=3), device, assert_close, poisoned, tolerances)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 1, 1, 1, 1, 1), id="all-one"),
        pytest.param((3, 1, 2, 1, 5, 9, 7), id="one-head"),
        pytest.param((1, 17, 1, 3, 7, 5, 16), id="many-prompts"),
        pytest.param((2, 2, 3, 2, 65, 5, 33), id="channels-past-a-tile"),
        pytest.param((1, 2, 1, 2, 130, 66, 129), id="three-tiles-of-channels-two-of-the-joint-space"),
        pytest.param((1, 2, 2, 13, 2, 3, 257), id="many-heads"),
        pytest.param((1, 1, 1, 12, 64, 197, 512), id="b16"),
    ],
)
def test_kernel_on_any_shape_and_dtype(shape, dtype, device, assert_close, poisoned, tolerances):
    candidates = shape[2] * shape[3]
    options = HeadScoreOptions(blocks=shape[2], top=max(1, candidates - 1))
    check_kernel(inputs(*shape, extras=True), options, device, assert_close, poisoned, tolerances, dtype)


@pytest.mark.parametrize("heads", [8, 12, 16, 17, 63, 64])
def test_kernel_up_to_its_most_candidates(heads, device, assert_close, poisoned, tolerances):
    named = inputs(1, 2, 4, heads, 1, 2, 40)
    check_kernel(named, HeadScoreOptions(penalty="max"), device, assert_close, poisoned, tolerances)


def test_more_candidates_are_refused(device):
    named = as_tensors(inputs(1, 1, 4, 65, 1, 2, 3), device)
    with pytest.raises(KernelError, match=r"got 260, allowed up to 256; take fewer blocks"):
        head_scores(**named, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("options", [HeadScoreOptions(), HeadScoreOptions(penalty="max", head_beta=2)], ids=str)
@pytest.mark.parametrize("heads", [12, 16, 64])
def test_hardware_equals_the_reference_on_many_images(options, heads, dtype, assert_close, poisoned, tolerances):
    check_kernel(inputs(8, 20, 4, heads, 64, 197, 512), options, "cuda", assert_close, poisoned, tolerances, dtype)


@pytest.mark.gpu
def test_offsets_pass_two_to_the_31st():
    """B * T * D above 2^31 elements; the last image alone is compared."""
    images, heads, depth, tokens, width = 2900, 12, 64, 1025, 512
    random = torch.Generator("cuda").manual_seed(0)
    named = as_tensors(inputs(1, 2, 1, heads, depth, tokens, width), "cuda", torch.float16)
    named["values"] = torch.zeros((images, 1, tokens, heads * depth), dtype=torch.float16, device="cuda")
    assert named["values"].numel() > 2**31
    named["values"][-1].normal_(generator=random)
    named["attention"] = torch.rand((images, 1, heads, tokens), device="cuda", generator=random).half() / tokens
    options = HeadScoreOptions(strategy="heads")
    got = head_scores(**named, options=options, backend="triton")
    last = {name: entry[-1:] if name in ("values", "attention") else entry for name, entry in named.items()}
    expected = head_scores(**as_doubles(last), options=options)
    for name in ("contributions", "relevance"):
        found, wanted = getattr(got, name)[-1:].cpu().numpy(), getattr(expected, name)
        assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert (got.contributions[:-1] == 0).all()


# What is refused


ZEROS = np.zeros
WRONG = {
    "rank": ({"attention": ZEROS((2, 3, 4), np.float32)}, r"attention: got \(2, 3, 4\), allowed \[B, K, H, T\]"),
    "values": ({"values": ZEROS((2, 4, 6, 12), np.float32)}, r"values: got \(2, 4, 6, 12\), allowed \(2, 4, 5, 12\)"),
    "depth": ({"values": ZEROS((2, 4, 5, 11), np.float32)}, "values: got 11 channels, allowed a multiple of the 3"),
    "no-token": ({"attention": ZEROS((2, 4, 3, 0), np.float32)}, "at least 1 head and 1 token"),
    "projection": ({"projection": ZEROS((4, 12, 8), np.float32)}, r"projection: got .* allowed \(4, 12, 7\)"),
    "no-width": ({"text": ZEROS((1, 0), np.float32)}, "text: got .* at least 1 channel"),
    "scale": ({"scale": ZEROS((2, 1), np.float32)}, r"scale: got \(2, 1\), allowed \(2,\)"),
    "offset": ({"offset": ZEROS((2, 4, 3, 7), np.float32)}, r"offset: got .* allowed \(2, 4, 7\)"),
    "blocks": ({"options": HeadScoreOptions(blocks=5)}, r"blocks: got 4, strategy 'both' needs 5; hand over"),
    "top": ({"options": HeadScoreOptions(top=13)}, r"top: got 13, allowed up to the 12 heads of 4 block"),
    "top-of-heads": ({"options": HeadScoreOptions(strategy="heads")}, "top: got 10, allowed up to the 3 heads of 1"),
    "integers": ({"values": ZEROS((2, 4, 5, 12), np.int64)}, "values: got int64"),
    "tensor": ({"text": torch.zeros((2, 7))}, "text: got Tensor, backend 'reference' takes NumPy"),
    "backend": ({"backend": "cuda"}, "unknown kernel backend: got 'cuda'"),
    "array": ({"backend": "triton"}, "attention: got ndarray, backend 'triton' takes torch tensors"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_named(changed, message):
    named = {**inputs(2, 2, 4, 3, 4, 5, 7), "options": HeadScoreOptions(top=3), **changed}
    with pytest.raises(KernelError, match=message):
        head_scores(**named)


def test_tensors_that_the_kernel_cannot_take_are_named(device):
    named = as_tensors(inputs(2, 2, 4, 3, 4, 5, 7), device)
    with pytest.raises(KernelError, match=r"values: got torch\.float64"):
        head_scores(**{**named, "values": named["values"].double()}, backend="triton")
    with pytest.raises(KernelError, match=r"attention: got strides .* call \.contiguous\(\)"):
        head_scores(**{**named, "attention": named["attention"].transpose(0, 1)}, backend="triton")
    with pytest.raises(KernelError, match="text: got device meta"):
        head_scores(**{**named, "text": named["text"].to("meta")}, backend="triton")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"strategy": "all"}, "unknown strategy: got 'all', allowed layers, heads, both"),
        ({"penalty": "mean"}, "unknown penalty: got 'mean', allowed previous, max"),
        ({"blocks": 0}, "blocks: got 0, allowed a whole number from 1"),
        ({"blocks": True}, "blocks: got True"),
        ({"top": 0}, "top: got 0"),
        ({"top": 2.0}, "top: got 2.0"),
        ({"head_alpha": -1}, "head_alpha: got -1, allowed 0..1000"),
        ({"head_beta": math.nan}, "head_beta: got nan"),
        ({"head_beta": 1e4}, "head_beta: got 10000.0"),
        ({"head_alpha": "1"}, "head_alpha: got '1'"),
    ],
)
def test_options_check_themselves(field, said):
    with pytest.raises(KernelError) as error:
        HeadScoreOptions(**field)
    assert said in str(error.value)


def test_options_are_frozen_and_have_the_papers_defaults():
    options = HeadScoreOptions()
    with pytest.raises(FrozenInstanceError):
        options.top = 3
    assert (options.head_alpha, options.head_beta, options.top, options.blocks) == (1, 0.5, 10, 4)


def test_the_reference_needs_neither_torch_nor_triton():
    program = (
        "import sys, numpy; from eyeshine_kernels.head_scores import HeadScoreOptions, head_scores; ones = numpy.ones; "
        "head_scores(ones((1, 1, 2, 3)), ones((1, 1, 3, 4)), ones((1, 4, 5)), ones((1, 5)), "
        "options=HeadScoreOptions(strategy='heads', top=1)); "
        "sys.exit(bool({'torch', 'triton', 'eyeshine'} & set(sys.modules)))"
    )
    folder = importlib.import_module("eyeshine_kernels").__path__[0]
    environment = {"PYTHONPATH": folder.rpartition("/")[0]}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
