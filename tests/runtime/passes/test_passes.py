"""What all methods by passes share: what is explained, batches, memory, progress, refusals; on an exported bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from eyeshine import METHODS, Explainer
from eyeshine.concept import ContrastOptions
from eyeshine.errors import EngineError, OptionError, SignalError
from eyeshine.methods import by_passes, get_method
from eyeshine.methods.configure import configure
from eyeshine.methods.kernel_shap import KernelShap
from eyeshine.methods.occlusion import Blur, Occlusion
from eyeshine.methods.passes import Subject
from eyeshine.methods.rise import Rise
from oracle import relative

TEXTS = ["a red car", "the dog", "a tree"]
FEW = [Rise(masks=40, cells=3), KernelShap(samples=60), Occlusion(window=2), Blur(window=2)]


@pytest.fixture(params=FEW, ids=lambda method: method.name)
def method(request):
    return request.param


def test_the_map_changes_with_the_image_and_the_text(tiny, photo, method):
    first, second = (tiny.explain(photo(seed), TEXTS, method=method).maps[0] for seed in (0, 1))
    for p in range(3):
        assert np.corrcoef(first[p].ravel(), second[p].ravel())[0, 1] < 0.99
    assert np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1] < 0.99
    assert np.ptp(first, axis=(1, 2)).min() > 0


def test_a_batch_is_its_images_one_by_one_and_batches_of_passes_do_not_matter(tiny, photo, method):
    photos = [photo(0), photo(1)]
    both = tiny.explain(photos, TEXTS, method=method, max_batch=5)
    for index, one in enumerate(photos):
        alone = tiny.explain(one, TEXTS, method=method, max_batch=64)
        assert relative(both.maps[index], alone.maps[0]) <= 1e-4
        assert relative(both.similarities[index], alone.similarities[0]) <= 1e-5
    assert both.details["passes"]["batch"] == 5
    assert both.details["passes"]["encoded"] == 2 * alone.details["passes"]["encoded"]
    assert len(both.details["passes"]["images"]) == 2


def test_the_same_call_yields_the_same_bits(tiny, photo, method):
    maps = [tiny.explain(photo(), TEXTS, method=method).maps for _ in range(2)]
    assert (maps[0] == maps[1]).all()


def test_texts_share_their_passes(tiny, photo, method):
    one, three = (tiny.explain(photo(), texts, method=method) for texts in (TEXTS[:1], TEXTS))
    assert one.details["passes"] == three.details["passes"]
    assert relative(one.maps[0, 0], three.maps[0, 0]) <= 1e-4


def test_a_target_against_others_is_the_difference_of_maps(tiny, photo, method):
    plain = tiny.explain(photo(), TEXTS, method=method).maps[0]
    rest = tiny.explain(photo(), TEXTS, method=method, against="rest")
    other = tiny.explain(photo(), TEXTS[:1], method=method, against=["the dog"])
    assert relative(rest.maps[0, 2], plain[2] - (plain[0] + plain[1]) / 2) <= 1e-3
    assert relative(other.maps[0, 0], plain[0] - plain[1]) <= 1e-3
    assert rest.target == "text against the rest"
    assert rest.similarities.shape == (1, 3)


def test_a_contrast_chosen_for_each_image_counts_for_that_image(tiny, photo):
    photos, method = [photo(0), photo(1)], Occlusion(window=2)
    options = ContrastOptions(candidates=["a dog", "a tree", "the sky", "a house"], top=1)
    result = tiny.explain(photos, ["a car"], method=method, against=options)
    assert len({row[0].chosen for row in result.details["contrast"]}) == 2
    for index, one in enumerate(photos):
        chosen = result.details["contrast"][index][0].chosen
        alone = tiny.explain(one, ["a car"], method=method, against=[chosen])
        assert relative(result.maps[index], alone.maps[0]) <= 1e-3


def test_a_subject_scores_by_its_weights():
    rng = np.random.default_rng(0)
    prompts, weights = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal((2, 4)).astype(np.float32)
    vectors = rng.standard_normal((5, 6)).astype(np.float32)
    subject = Subject(np.zeros((3, 8, 8), np.float32), 0, prompts, weights)
    expected = [[sum(w * float(v @ t) for w, t in zip(row, prompts, strict=True)) for row in weights] for v in vectors]
    assert subject.score(vectors) == pytest.approx(np.array(expected), abs=1e-5)
    assert subject.score(vectors[0]).shape == (2,)
    assert (Subject(subject.pixels, 0, prompts).targets == prompts).all()


@dataclass(frozen=True)
class Probe:
    """Encodes ``count`` equal images and keeps how far it ran ahead of their embeddings."""

    count: int = 50
    value: float = 0.0

    name: ClassVar[str] = "probe"
    signals: ClassVar[frozenset[str]] = frozenset()
    graphs: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    uses_text: ClassVar[bool] = True
    cost: ClassVar[str] = "passes"
    reference: ClassVar[str] = "none"

    def explain(self, subject, model):
        made = 0

        def frames():
            nonlocal made
            frame = np.empty_like(subject.pixels)
            for _ in range(self.count):
                made += 1
                np.copyto(frame, subject.pixels)
                yield frame
                frame[:] = np.nan  # it was copied at once, or what follows is not finite

        ahead = 0
        for done, vector in enumerate(model.track(model.encode(frames()), self.count, "probe")):
            ahead = max(ahead, made - done)
            score = subject.score(vector)
        model.note(ahead=ahead, place=subject.index)
        return np.full((len(score), *model.grid), self.value) + score[:, None, None]


def test_images_are_made_no_further_ahead_than_a_batch(tiny, photo):
    result = tiny.explain([photo(0), photo(1)], TEXTS, method=Probe(), max_batch=8)
    assert result.details["passes"]["images"] == [{"ahead": 8, "place": 0}, {"ahead": 8, "place": 1}]
    assert relative(result.maps[:, :, 0, 0], result.similarities) <= 1e-4
    assert {"preprocess", "text", "load", "passes", "total"} == set(result.timings_ms)
    record = json.loads(json.dumps(result.record(1)))
    assert record["method"] == "probe"
    assert record["passes"] == {"encoded": 2 + 2 * 50, "batch": 8, "notes": {"ahead": 8, "place": 1}}
    assert result.engine["graph"] == "encode"


def test_progress_is_drawn_on_a_terminal_where_it_is_asked_for(tiny, photo, capsys, monkeypatch):
    tiny.explain(photo(), TEXTS, method=Probe(), progress=True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich: as on a terminal
    tiny.explain(photo(), TEXTS, method=Probe())
    assert capsys.readouterr() == ("", "")
    tiny.explain(photo(), TEXTS, method=Probe(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "probe" in err
    assert "100%" in err


def test_a_map_that_is_not_finite_is_refused(tiny, photo):
    with pytest.raises(EngineError, match="probe yielded a map that is not finite"):
        tiny.explain(photo(), TEXTS, method=Probe(value=np.nan))


def test_a_graph_that_the_bundle_lacks_is_named_before_the_first_pass(tiny, photo):
    class Greedy(Probe):
        graphs: ClassVar[frozenset[str]] = frozenset({"dreams"})

    with pytest.raises(SignalError, match=r"no graph 'dreams'.*eyeshine export"):
        tiny.explain(photo(), TEXTS, method=Greedy())


@pytest.mark.parametrize("max_batch", [0, 5000, True, 2.5])
def test_batches_are_whole_numbers_of_images(tiny, photo, max_batch):
    with pytest.raises(OptionError, match=r"max_batch.*1..4096"):
        tiny.explain(photo(), TEXTS, method=Probe(), max_batch=max_batch)


def test_the_device_and_cotangents_are_for_methods_that_read_signals(tiny, tiny_bundle, photo):
    kernels = Explainer.load(tiny_bundle, threads=1, backend="triton")
    with pytest.raises(OptionError, match=r"occlusion runs the model many times.*Explainer\.explain"):
        kernels.explain_on_device(photo(), TEXTS, method="occlusion")
    with pytest.raises(OptionError, match="many times"):
        tiny.explain_cotangent(photo(), np.zeros((1, 32)), ["a"], [1.0], method="rise")
    assert (
        relative(
            kernels.explain(photo(), TEXTS, method="occlusion").maps,
            tiny.explain(photo(), TEXTS, method="occlusion").maps,
        )
        <= 1e-5
    )  # maps are made on the host with either backend


def test_they_are_registered_and_set_by_name(method):
    assert type(get_method(method.name)) is type(method)
    assert by_passes(METHODS[method.name])
    assert METHODS[method.name].cost == "passes"
    assert not by_passes(METHODS["grad_eclip"])
    assert configure("rise", {"masks": 500, "seed": 3}) == Rise(masks=500, seed=3)
    with pytest.raises(OptionError, match="masks"):
        configure("rise", {"masks": "many"})


def test_pixels_that_belong_to_no_patch_play_no_part(oblong, photo, method):
    """31 rows of pixels, 24 of them in patches: what lies below them is painted over."""
    image = photo(0, 62, 80)
    painted = image.copy()
    painted[52:] = 0  # prepared, pixels below row 26
    maps = [oblong.explain(each, TEXTS, method=method).maps for each in (image, painted)]
    assert maps[0].shape == (1, 3, 3, 5)
    rows = slice(0, 1) if method.name == "blur" else slice(None)  # a blur reaches five pixels up, into the last row
    assert relative(maps[1][:, :, rows], maps[0][:, :, rows]) <= 1e-5
    assert np.ptp(maps[0], axis=(2, 3)).min() > 0
