"""ConceptOptions check themselves, settings by name, candidates and contrast, and all of it through the facade."""

from __future__ import annotations

import json

import numpy as np
import pytest

from eyeshine import Explainer
from eyeshine.cli import main
from eyeshine.concept import BACKGROUNDS, CANDIDATES, ConceptOptions, ContrastOptions, load_candidates
from eyeshine.concept.contrast import contrast_target
from eyeshine.errors import OptionError, SignalError, TextError
from eyeshine.methods import METHODS, ConceptAttribution, GradEclip
from eyeshine.methods.configure import configure, parse_settings, read_settings

TEXTS = ["a car", "a tree", "a dog"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 1.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": "0.8"}, "alpha"),
        ({"alpha": (0.5, 0.5)}, "one value per explained block"),
        ({"beta": 0}, "beta"),
        ({"boost": "tanh"}, "boost"),
        ({"signed": 1}, "signed"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"strategy": "best"}, "strategy"),
        ({"top": 0}, "top"),
        ({"blocks": 0}, "blocks"),
        ({"head_alpha": -1}, "head_alpha"),
        ({"penalty": "mean"}, "penalty"),
        ({"background": 1.0}, "background"),
        ({"background": "loud"}, "off, subtle, aggressive"),
    ],
)
def test_options_check_themselves(wrong, message):
    with pytest.raises(OptionError, match=message):
        ConceptOptions(**wrong)


def test_the_papers_defaults():
    options = ConceptOptions()
    assert (options.alpha, options.beta, options.epsilon, options.background) == (0.8, 0.5, 1e-8, 0.2)
    assert (options.head_alpha, options.head_beta, options.top, options.blocks) == (1.0, 0.5, 10, 4)
    assert ConceptOptions(background="aggressive").background == BACKGROUNDS["aggressive"]
    assert [ConceptOptions(strategy=s).explained_blocks for s in ("heads", "both", "layers")] == [1, 4, 4]


# Settings by name


def test_settings_are_parsed_and_applied():
    parsed = parse_settings(["alpha=.5,1", "strategy=both", "blocks=2", "head-beta=0.25", "signed=true", "top=3"])
    assert parsed["alpha"] == (0.5, 1)
    method = configure("concept_attribution", parsed)
    assert method == ConceptAttribution(
        ConceptOptions(alpha=(0.5, 1), strategy="both", blocks=2, head_beta=0.25, signed=True, top=3)
    )
    assert configure("grad_eclip", {"spatial": False}) == GradEclip(spatial=False)
    assert configure("chefer", {}) is METHODS["chefer"]


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("concept_attribution", ["gamma=1"], "no such setting.*alpha"),
        ("chefer", ["spatial=1"], "none at all"),
        ("grad_eclip", ["spatial=2"], "truth value"),
        ("grad_eclip", ["spatial"], "NAME=VALUE"),
        ("concept_attribution", ["top=1", "top=2"], "given twice"),
        ("concept_attribution", ["beta=much"], "beta"),
        ("nothing", ["a=1"], "unknown method"),
    ],
)
def test_wrong_settings_are_refused(name, pairs, message):
    with pytest.raises(OptionError, match=message):
        configure(name, parse_settings(pairs))


def test_settings_come_from_a_file(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"alpha": [0.2], "strategy": "heads"}', "utf-8")
    assert configure("concept_attribution", read_settings(path)).options.alphas == (0.2,)
    path.write_text("[1]", "utf-8")
    with pytest.raises(OptionError, match="one object"):
        read_settings(path)
    with pytest.raises(OptionError, match="cannot be read"):
        read_settings(tmp_path / "none.json")


# Candidates and contrast


def test_candidates_are_a_name_a_file_or_a_list(tmp_path):
    assert len(load_candidates("coco")) == 80
    assert "an umbrella" in CANDIDATES["coco"]
    path = tmp_path / "words.txt"
    path.write_text("a cat\n\n  a dog \na cat\n", "utf-8")
    assert load_candidates(path) == load_candidates(str(path)) == ("a cat", "a dog")
    assert load_candidates(["x", "y", "x"]) == ("x", "y")
    with pytest.raises(OptionError, match="street, coco, a file"):
        load_candidates("no such list")
    with pytest.raises(TextError):
        ContrastOptions(candidates=[])
    with pytest.raises(OptionError, match="top"):
        ContrastOptions(top=0)


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


VECTORS = dict(
    zip(
        ["a car", "a bus", "a tree", "a sheep"],
        unit([[1, 0, 0, 0.2], [0.9, 0.1, 0, 0.2], [0, 1, 0, 0.2], [0, 0, 1, 0.2]]),
        strict=True,
    )
)
IMAGES = unit([[1, 0.8, 0, 0], [0.9, 0, 1, 0]])  # a car and a tree; a car and a sheep


def encode(texts):
    return np.stack([VECTORS[text] for text in texts])


def test_the_contrast_is_in_the_image_and_least_like_the_text():
    options = ContrastOptions(candidates=list(VECTORS), top=2)
    target, choices = contrast_target(["a car"], IMAGES, encode, options, logit_scale=100.0)
    assert [row[0].chosen for row in choices] == ["a tree", "a sheep"]
    for row in choices:
        names = [name for name, _, _ in row[0].ranking]
        alike = [similarity for _, _, similarity in row[0].ranking]
        assert "a car" not in names
        assert len(names) == 2
        assert alike == sorted(alike)
    assert target.prompts == ("a car", "a tree", "a sheep")
    np.testing.assert_array_equal(target.weights, [[[1, -1, 0]], [[1, 0, -1]]])
    gradient = np.random.default_rng(0).standard_normal((2, 3, 1, 5)).astype(np.float32)
    combined = target.combine(gradient)
    np.testing.assert_allclose(combined[0, 0], gradient[0, 0] - gradient[0, 1], atol=1e-6)
    np.testing.assert_allclose(combined[1, 0], gradient[1, 0] - gradient[1, 2], atol=1e-6)


def test_probabilities_are_those_of_a_softmax_over_all_candidates():
    options = ContrastOptions(candidates=list(VECTORS), top=4)
    _, choices = contrast_target(["a bus"], IMAGES[:1], encode, options, logit_scale=10.0)
    logits = {name: 10.0 * float(IMAGES[0] @ vector) for name, vector in VECTORS.items()}
    total = sum(np.exp(value) for value in logits.values())
    for name, probability, similarity in choices[0][0].ranking:
        assert probability == pytest.approx(np.exp(logits[name]) / total, rel=1e-4)
        assert similarity == pytest.approx(float(VECTORS["a bus"] @ VECTORS[name]), abs=1e-6)


def test_without_a_candidate_but_the_text_there_is_no_contrast():
    with pytest.raises(OptionError, match="no candidate to contrast with"):
        contrast_target(["a car"], IMAGES, encode, ContrastOptions(candidates=["a car"]), 100.0)


# Through the facade


@pytest.fixture(scope="module")
def explainer(tiny_bundle):
    return Explainer.load(tiny_bundle, threads=1)


@pytest.fixture(scope="module")
def photos():
    return [np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8) for seed in range(2)]


@pytest.mark.parametrize("strategy", ["heads", "both", "layers"])
def test_a_result_says_which_heads_it_was_made_of(strategy, explainer, photos):
    options = ConceptOptions(strategy=strategy, blocks=3, top=2)
    result = explainer.explain(photos, TEXTS, method=ConceptAttribution(options))
    assert result.maps.shape[:2] == (2, 3)
    assert 0 <= result.maps.min() <= result.maps.max() <= 1 + 1e-6
    assert result.engine["graph"] == ("image" if strategy == "heads" else "deep")
    rows = result.record(1)["heads"]
    depth, heads = explainer.bundle.manifest.model.layers, explainer.bundle.manifest.model.heads
    assert [len(row) for row in rows] == [3 * heads if strategy == "layers" else 2] * 3
    allowed = {depth - 1} if strategy == "heads" else set(range(depth - 3, depth))
    assert {row["block"] for text in rows for row in text} <= allowed
    json.dumps(result.record(0))


@pytest.mark.parametrize("blocks", [2, 3])
def test_kernels_take_fewer_blocks_than_the_deep_graph_has(blocks, explainer, photos, tiny_bundle):
    """Parts of the deep graph's signals are not in one piece."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("runs the interpreter")
    method = ConceptAttribution(ConceptOptions(strategy="layers", blocks=blocks))
    wanted = explainer.explain(photos, TEXTS, method=method)
    got = Explainer.load(tiny_bundle, threads=1, backend="triton").explain(photos, TEXTS, method=method)
    np.testing.assert_allclose(got.maps, wanted.maps, atol=1e-3)


def test_the_contrast_is_in_the_result_and_changes_the_map(explainer, photos):
    contrast = ContrastOptions(candidates=["a cat", "a dog", "a car"])
    plain = explainer.explain(photos, TEXTS[:1], method="concept_attribution")
    result = explainer.explain(photos, TEXTS[:1], method="concept_attribution", against=contrast)
    chosen = [row[0].chosen for row in result.details["contrast"]]
    assert set(chosen) <= {"a cat", "a dog"}
    for index, (photo, text) in enumerate(zip(photos, chosen, strict=True)):
        named = explainer.explain(photo, TEXTS[:1], method="concept_attribution", against=[text])
        np.testing.assert_allclose(result.maps[index], named.maps[0], atol=1e-5)
    assert np.abs(result.maps - plain.maps).max() > 1e-3
    assert result.timings_ms["contrast"] > 0
    assert result.record(0)["contrast"][0]["contrast"] == chosen[0]


def test_pictures_are_suppressed_and_maps_are_not(explainer, photos):
    result = explainer.explain(photos[0], TEXTS[:1], method="concept_attribution")
    assert result.background == 0.2
    assert explainer.explain(photos[0], TEXTS[:1]).background == 0
    pictures = [np.asarray(result.overlay(background=background)) for background in (None, 0.2, 0.0)]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()
    np.testing.assert_array_equal(result.heatmap(), result.heatmap(background=0.0))
    with pytest.raises(OptionError, match="background"):
        result.overlay(background=1.0)


def test_a_bundle_without_the_blocks_names_the_export(explainer, photos):
    with pytest.raises(SignalError, match="--layers 9"):
        explainer.explain(photos[0], TEXTS, method=ConceptAttribution(ConceptOptions(strategy="layers", blocks=9)))


def test_where_there_are_fewer_heads_all_are_taken(explainer, photos):
    heads = explainer.bundle.manifest.model.heads
    result = explainer.explain(photos[0], TEXTS, method=ConceptAttribution(ConceptOptions(top=50)))
    assert sorted(row["head"] for row in result.record()["heads"][0]) == list(range(heads))


def test_every_parameter_is_on_the_command_line(tiny_bundle, photos, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    (tmp_path / "more.json").write_text('{"beta": 2.0, "top": 9}', "utf-8")
    arguments = ["explain", str(tmp_path / "photo.png"), "-b", str(tiny_bundle), "-t", "a car", "--json"]
    arguments += ["-m", "concept_attribution", "-s", "strategy=both", "-s", "blocks=2", "-s", "top=2", "-s", "alpha=1"]
    words = tmp_path / "words.txt"
    words.write_text("a cat\na dog\n", "utf-8")
    arguments += ["--settings", str(tmp_path / "more.json"), "--against-auto", "--candidates", str(words)]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--present", "1", "--out", str(tmp_path / "out")])
    assert not exit_.value.code
    record = json.loads(capsys.readouterr().out)
    assert len(record["heads"][0]) == 2
    assert len(record["contrast"][0]["ranking"]) == 1
    for wrong, message in ((["-s", "alpha=7"], "alpha"), (["--against", "a dog"], "exclude each other")):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, *wrong])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err
