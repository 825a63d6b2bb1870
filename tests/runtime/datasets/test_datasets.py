"""Data sets: what a sample holds, a stable order, and what is refused; the fixtures are written here."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pytest
from PIL import Image

from eyeshine import roads
from eyeshine.datasets import Captions, ClassFolders, Coco, Karpathy, Roads
from eyeshine.errors import ImageError, OptionError


def picture(path, height=40, width=50, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def table(tmp_path):
    for k in range(3):
        picture(tmp_path / "images" / f"{k}.png", seed=k)
    lines = ["a dog\timages/0.png", "", "a red car \timages/1.png", "a dog\timages/0.png", "a cat\timages/gone.png"]
    path = tmp_path / "captions.tsv"
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture
def karpathy(tmp_path):
    two = [{"raw": "a dog\n"}, {"raw": "A cat"}]
    images = [
        {"filepath": "val2014", "filename": "a.png", "split": "test", "sentences": two},
        {"filepath": "val2014", "filename": "b.png", "split": "val", "sentences": [{"raw": "a car"}]},
        {"filename": "c.png", "split": "test", "sentences": [{"raw": " "}]},
    ]  # fmt: skip
    picture(tmp_path / "coco" / "val2014" / "a.png")
    picture(tmp_path / "coco" / "c.png")
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images}), "utf-8")
    return path


@pytest.fixture
def classes(tmp_path):
    for folder, count in (("n02", 2), ("n01", 1), ("n03", 0)):
        (tmp_path / "val" / folder).mkdir(parents=True)
        for k in range(count):
            picture(tmp_path / "val" / folder / f"{k}.JPEG", seed=k)
    (tmp_path / "val" / "n02" / "notes.txt").write_text("not an image", "utf-8")
    (tmp_path / "names.txt").write_text("n01 tench, Tinca tinca\nn02 red car\nn03 cat\n", "utf-8")
    return tmp_path / "val"


def run_lengths(mask):
    """COCO's run lengths, by a loop down the columns, zeros first."""
    counts, value = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != value:
                counts.append(0)
                value = not value
            counts[-1] += 1
    return counts


@pytest.fixture
def coco(tmp_path):
    """A dog as two polygons, a car as two objects (run lengths, and compressed ones), a crowd, an empty image."""
    from pycocotools import mask as decoder

    blob = np.zeros((40, 50), bool)
    blob[3:9, 4:20] = blob[20:33, 30:31] = True
    packed = decoder.encode(np.asfortranarray(blob[::-1].copy().astype(np.uint8)))
    packed["counts"] = packed["counts"].decode()
    spans, nothing = {"size": [40, 50], "counts": run_lengths(blob)}, {"size": [40, 50], "counts": [2000]}
    annotations = [
        {"image_id": 7, "category_id": 2, "bbox": [10, 5, 20, 10], "segmentation": [
            [10, 5, 30, 5, 30, 15, 10, 15], [0, 30, 6, 30, 6, 36, 0, 36]]},
        {"image_id": 7, "category_id": 5, "bbox": [4, 3, 27, 30], "segmentation": spans},
        {"image_id": 7, "category_id": 5, "bbox": [0.4, 0.6, 2, 2], "segmentation": packed},
        {"image_id": 3, "category_id": 2, "bbox": [0, 0, 50, 40], "segmentation": [[0, 0, 50, 0, 50, 40, 0, 40]]},
        {"image_id": 7, "category_id": 9, "iscrowd": 1, "bbox": [0, 0, 50, 40], "segmentation": nothing},
    ]  # fmt: skip
    images = [{"id": k, "file_name": f"{k}.png", "height": 40, "width": 50} for k in (7, 3, 4)]
    categories = [{"id": 2, "name": "dog"}, {"id": 5, "name": "car"}, {"id": 9, "name": "tree"}]
    for k in (7, 3, 4):
        picture(tmp_path / "images" / f"{k}.png", seed=k)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}), "utf-8")
    return path, blob


def all_of(table, karpathy, classes, coco):
    return [
        Roads(5, texts="labels"),
        Captions(table),
        Karpathy(karpathy, karpathy.parent / "coco"),
        ClassFolders(classes),
        Coco(coco[0], coco[0].parent / "images"),
    ]


def test_samples_come_in_one_order_with_keys_of_their_own(table, karpathy, classes, coco):
    for first, again in zip(*(all_of(table, karpathy, classes, coco) for _ in "12"), strict=True):
        keys = [sample.key for sample in first.samples()]
        assert len(keys) == len(set(keys)) == len(first) > 1
        assert [sample.key for sample in again.samples(1)] == keys[1:]
        assert first.describe() == again.describe()
        said = json.dumps(first.describe())
        assert str(table.parent) not in said


def test_nothing_is_read_before_it_is_opened(table, monkeypatch):
    monkeypatch.setattr("eyeshine.datasets.captions.load_image", lambda path: pytest.fail("opened"))
    monkeypatch.setattr("eyeshine.roads.render", lambda **_: pytest.fail("drawn"))
    assert len(list(Captions(table).samples())) == 4
    assert len(list(Roads(5).samples())) == 5


@pytest.mark.parametrize("variant", ["plain", "cluttered"])
def test_roads_holds_what_its_scenes_say(variant):
    data = Roads(4, variant=variant, texts="labels")
    for sample in data.samples():
        scene = roads.render(seed=int(sample.key), variant=variant)
        found = sample.open()
        assert np.array_equal(found.image, scene.image)
        assert found.captions == (scene.caption,)
        assert int(sample.key) >= roads.HELD_OUT_FROM
        for text, mask, negative in zip(found.texts, found.masks, found.negatives or found.texts, strict=True):
            own = [thing for thing in scene.objects if roads.article(thing.label) == text]
            assert len(mask) == len(own) > 0
            assert all(np.array_equal(a, b.mask) for a, b in zip(mask, own, strict=True))
            if found.negatives is not None:
                assert negative in data.labels
                assert negative not in found.texts
        areas = {text: mask.sum() for text, mask in zip(found.texts, found.masks, strict=True)}
        (one,) = Roads(1, first=int(sample.key), variant=variant).samples()
        content = one.open()
        assert areas[content.texts[0]] == max(areas.values())
        assert data.labels[content.label] == content.texts[0]


def test_captions_are_rows_of_the_table(table):
    opened = [sample.open() for sample in list(Captions(table).samples())[:3]]
    assert [content.texts for content in opened] == [("a dog",), ("a red car",), ("a dog",)]
    assert np.array_equal(opened[1].image, np.asarray(Image.open(table.parent / "images" / "1.png")))
    elsewhere = Captions(table, table.parent / "images")
    with pytest.raises(ImageError):
        next(elsewhere.samples()).open()
    with pytest.raises(ImageError, match=r"gone\.png"):
        list(Captions(table).samples())[3].open()


@pytest.mark.parametrize(
    ("row", "said"),
    [("a dog\thttps://example.org/1.jpg", "URL"), ("a dog", "not caption TAB path"), ("\t1.png", "line 6"),
     ("a dog\t1.png\tmore", "line 6"), ("a dog\t", "line 6")],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_found_before_the_first_is_explained(table, row, said):
    table.write_text(table.read_text("utf-8") + "\n" + row, "utf-8")
    with pytest.raises(OptionError, match=said):
        next(Captions(table).samples())


def test_karpathy_has_the_captions_of_its_split(karpathy):
    data = Karpathy(karpathy, karpathy.parent / "coco")
    first, blank = data.samples()
    assert first.open().texts == first.open().captions == ("a dog", "A cat")
    with pytest.raises(ImageError, match="blank"):
        blank.open()
    assert [sample.key for sample in Karpathy(karpathy, karpathy.parent, split="val").samples()] == ["b.png"]
    with pytest.raises(OptionError, match="allowed: test, val"):
        len(Karpathy(karpathy, karpathy.parent, split="restval"))


def test_classes_are_folders(classes):
    data = ClassFolders(classes, classes.parent / "names.txt")
    assert data.labels == ("tench", "red car", "cat")
    assert [sample.key for sample in data.samples()] == ["n01/0.JPEG", "n02/0.JPEG", "n02/1.JPEG"]
    assert [(c.texts, c.label) for c in (sample.open() for sample in data.samples(1))] == [(("red car",), 1)] * 2
    assert ClassFolders(classes).labels == ("n01", "n02", "n03")


def test_classes_that_cannot_be_told_apart_are_refused(classes):
    names = classes.parent / "names.txt"
    names.write_text("n01 crane\nn02 crane, bird\nn03 cat", "utf-8")
    with pytest.raises(OptionError, match="two classes of one name"):
        next(ClassFolders(classes, names).samples())
    names.write_text("n01 crane\n", "utf-8")
    with pytest.raises(OptionError, match="n02, n03"):
        next(ClassFolders(classes, names).samples())


def test_coco_masks_are_polygons_and_run_lengths(coco):
    path, blob = coco
    whole, both = (sample.open() for sample in Coco(path, path.parent / "images").samples())
    assert whole.texts == ("dog",)
    assert whole.masks[0].all()
    assert both.texts == ("dog", "car")
    assert set(both.negatives) == {"tree"}
    dog, car = both.masks
    expected = np.zeros((40, 50), bool)
    expected[5:15, 10:30] = expected[30:36, 0:6] = True
    assert dog.shape == (1, 40, 50)
    assert np.array_equal(dog[0], expected)
    assert np.array_equal(car, np.stack([blob, blob[::-1]]))


def test_coco_boxes_hold_the_pixels_whose_centres_they_hold(coco, monkeypatch):
    def refuse(name, *rest):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return original(name, *rest)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    path, _ = coco
    with pytest.raises(OptionError, match=r"eyeshine\[data\]"):
        Coco(path, path.parent / "images")
    _, both = (sample.open() for sample in Coco(path, path.parent / "images", shapes="box").samples())
    expected = np.zeros((40, 50), bool)
    for y in range(40):
        for x in range(50):
            expected[y, x] = 0.6 <= y + 0.5 < 2.6 and 0.4 <= x + 0.5 < 2.4
    assert np.array_equal(both.masks[1][1], expected)


def test_coco_images_of_another_size_are_refused(coco):
    path, _ = coco
    picture(path.parent / "images" / "3.png", 50, 40)
    with pytest.raises(ImageError, match="another size"):
        next(Coco(path, path.parent / "images").samples()).open()


def edited(path, **changes):
    """The JSON with its first annotation changed."""
    found = json.loads(path.read_text("utf-8"))
    found["annotations"][0].update(changes)
    path.write_text(json.dumps(found), "utf-8")
    return path


@pytest.mark.parametrize("shape", [[], [[]], [[10, 5, 30, 5]], [[10, 5, 30, 5], [1, 1]]])
def test_coco_annotations_of_no_area_are_no_objects(coco, shape):
    """The dog is one of two things in image 7; a polygon of two corners is none."""
    path = edited(coco[0], segmentation=shape, bbox=[10, 5, 0, 10])
    for shapes in ("mask", "box"):
        data = Coco(path, path.parent / "images", shapes)
        assert [sample.open().texts for sample in data.samples()] == [("dog",), ("car",)]
    part = edited(path, segmentation=[*shape, [10, 5, 30, 5, 30, 15, 10, 15]])
    _, both = Coco(part, path.parent / "images").samples()
    assert both.open().masks[0].sum() == 200


@pytest.mark.parametrize(
    "shape", [{"size": [9, 9], "counts": [81]}, {"size": [40, 50]}, {"counts": "x"}, [["a"] * 6], [1, 2, 3, 4, 5]]
)
def test_a_coco_annotation_of_another_form_is_one_broken_sample(coco, shape):
    path = edited(coco[0], segmentation=shape)
    whole, both = Coco(path, path.parent / "images").samples()
    assert whole.open().texts == ("dog",)
    with pytest.raises(ImageError, match="an annotation of another"):
        both.open()


def test_coco_categories_without_a_name_are_refused(coco):
    path = edited(coco[0], category_id=77)
    with pytest.raises(OptionError, match=r"without a name.*77"):
        len(Coco(path, path.parent / "images"))


def test_coco_ids_may_be_words(coco):
    path = coco[0]
    text = path.read_text("utf-8").replace('"image_id": 7', '"image_id": "b7"').replace('"id": 7', '"id": "b7"')
    text = (
        text.replace('"image_id": 3', '"image_id": "a3"')
        .replace('"id": 3', '"id": "a3"')
        .replace('"id": 4', '"id": "c4"')
    )
    path.write_text(text, "utf-8")
    whole, both = Coco(path, path.parent / "images").samples()
    assert (whole.key, both.key) == ("a3", "b7")
    assert both.open().negatives == ("tree", "tree")


def test_a_table_may_come_from_windows(table):
    rows = [(content.texts, content.image.sum()) for content in (s.open() for s in list(Captions(table).samples())[:3])]
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    again = [
        (content.texts, content.image.sum()) for content in (s.open() for s in list(Captions(table).samples())[:3])
    ]
    assert again == rows


def test_column_names_are_no_sample(table):
    table.write_text("caption\tImage_Path\n" + table.read_text("utf-8"), "utf-8")
    with pytest.raises(OptionError, match=r"column names.*delete the first line"):
        len(Captions(table))


def test_hidden_folders_and_files_are_no_classes_and_no_images(classes):
    picture(classes / ".cache" / "1.png")
    (classes / "n01" / "._0.JPEG").write_bytes(b"resource fork")
    (classes.parent / "names.txt").write_text("\ufeffn01 tench\r\nn02 red car\r\nn03 cat\r\n", "utf-8")
    data = ClassFolders(classes, classes.parent / "names.txt")
    assert data.labels == ("tench", "red car", "cat")
    assert len(data) == 3


def test_karpathy_sentences_of_another_form_are_refused_before_the_first_is_explained(karpathy):
    karpathy.write_text(karpathy.read_text("utf-8").replace('"raw"', '"tokens"'), "utf-8")
    with pytest.raises(OptionError, match="raw"):
        len(Karpathy(karpathy, karpathy.parent))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "LA", "I;16"])
def test_images_of_any_kind_are_read_as_colours(table, mode):
    suffix = "tif" if mode in ("CMYK", "LA") else "png"
    grey = Image.fromarray(np.full((6, 9), 200, np.uint8))
    if mode == "I;16":
        grey = Image.fromarray(np.full((6, 9), 200 * 257, np.uint16))
    (grey if mode == "I;16" else grey.convert(mode)).save(table.parent / f"one.{suffix}")
    table.write_text(f"a dog\tone.{suffix}\n", "utf-8")
    image = next(Captions(table).samples()).open().image
    assert image.shape == (6, 9, 3)
    assert np.abs(image.astype(int) - 200).max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda path: Roads(0),
        lambda path: Roads(first=5),
        lambda path: Roads(variant="full"),
        lambda path: Roads(texts="all"),
        lambda path: Captions(path / "gone.tsv"),
        lambda path: Karpathy(path / "x.json", path / "gone"),
        lambda path: len(Karpathy(path / "x.json", path)),
        lambda path: ClassFolders(path / "gone"),
        lambda path: len(ClassFolders(path)),
        lambda path: len(Coco(path / "gone.json", path)),
        lambda path: Coco(path / "gone.json", path, shapes="points"),
    ],
)
def test_wrong_options_are_refused(tmp_path, wrong):
    (tmp_path / "x.json").write_text("{}", "utf-8")
    with pytest.raises(OptionError):
        wrong(tmp_path)
