"""The four real benchmarks' loaders: every count of their published files, layouts, protocols, faults."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.annotations import choose
from data.benchmarks import circo, cirr, fashioniq, genecis, load_benchmark
from data.images import BadImage
from data.layouts import BrokenAnnotations, WrongRoot
from tests.shared_data import shared_data


@pytest.fixture(scope="module")
def root() -> Path:
    return shared_data("annotations")


def image(path: Path, colour: tuple[int, int, int] = (10, 120, 30), size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


# FashionIQ val: queries, gallery, union of references and targets, distinct references.
VAL = {"dress": (2017, 3817, 2628, 1331), "shirt": (2038, 6346, 3089, 1541), "toptee": (1961, 5373, 2902, 1454)}


class TestFashionIQ:
    def test_counts(self, root: Path) -> None:
        split = fashioniq.read("val", root)
        union = fashioniq.read("val", root, fashioniq.FashionIQScoring(gallery="val_union"))
        for category, counts in VAL.items():
            queries = [one for one in split.queries if split.part(one) == category]
            references = {one.reference_id for one in queries}
            assert counts == (
                len(queries), len(split.galleries[category]), len(union.galleries[category]), len(references)
            )  # fmt: skip
            assert {len(one.targets) for one in queries} == {1}
            assert all(one.reference_id not in one.targets for one in queries)
        assert len(split.images) == 15415
        test = fashioniq.read("test", root)
        assert Counter(one.tags[0] for one in test.queries) == {"dress": 2024, "shirt": 2038, "toptee": 2056}
        assert {part: len(ids) for part, ids in test.galleries.items()} == {
            "dress": 3818,
            "shirt": 6346,
            "toptee": 5374,
        }
        assert not test.metrics
        assert not any(one.targets for one in test.queries)

    def test_first_query_and_empty_captions(self, root: Path) -> None:
        queries = {one.query_id: one for one in fashioniq.read("val", root).queries}
        first = queries["dress/0"]
        assert (first.reference_id, first.targets) == ("B005X4PL1G", ("B0084Y8XIU",))
        assert first.modification == "Is shiny and silver with shorter sleeves and fit and flare"
        for empty, target in (
            ("shirt/1928", "B005PQ02G6"),
            ("toptee/676", "B00A13DXIW"),
            ("toptee/1076", "B00BM9J4TG"),
        ):
            assert target in (queries[empty].reference_id, *queries[empty].targets)
            assert queries[empty].modification.startswith(" and ") or queries[empty].modification.endswith(" and ")

    @pytest.mark.parametrize(
        ("joining", "texts"),
        [
            ("and", ("Is Red and has (no) sleeves",)),
            ("start_kit", (" is red. <and> has (no) sleeves",)),
            ("searle", ("is Red and has (no) sleeves", "has (no) sleeves and is Red")),
            ("cirevl", ("is Red and has (no) sleeves",)),
            ("pic2word", ("has (no) sleeves and  is Red.",)),
            ("magiclens", (" is Red. and has (no) sleeves",)),
            ("covr", ("is red and has no sleeves",)),
        ],
    )
    def test_joining(self, joining: fashioniq.Joining, texts: tuple[str, ...]) -> None:
        found = fashioniq.join([" is Red.", "has (no) sleeves"], joining)
        # capitalize() also lowers the rest.
        assert found == (texts if joining != "and" else ("Is red and has (no) sleeves",))

    def test_layouts_and_extensions(self, tmp_path: Path) -> None:
        ids = ["A1", "A2", "A3"]
        for captions, top in (("captions", ""), ("json", "fashion-iq")):
            base = tmp_path / captions / top
            for category in fashioniq.CATEGORIES:
                entry = {"candidate": "A1", "target": "A3", "captions": ["", "is grey"]}
                self.put(base / captions / f"cap.{category}.val.json", [entry])
                self.put(base / "image_splits" / f"split.{category}.val.json", ids)
            image(base / "images" / "A1.jpg")
            image(base / "images" / "A2.png")
            image(base / "resized_images" / "shirt" / "A3.jpg", (200, 0, 0))
            benchmark = load_benchmark("fashioniq", "val", root=tmp_path / captions)
            assert benchmark.gallery == ("A1", "A2", "A3")
            assert benchmark.queries[0].modification == " and is grey"
            assert np.asarray(benchmark.load_image("A3"))[0, 0, 0] > 150
            assert benchmark.load_image("A2").size == (20, 16)
            (base / "images" / "A2.png").unlink()
            poorer = load_benchmark("fashioniq", "val", root=tmp_path / captions)
            assert poorer.digest != benchmark.digest
            with pytest.raises(BadImage, match=r"no file A2 \(or with another extension\) in .*images"):
                poorer.load_image("A2")

    def put(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def test_protocol_changes_the_digest_and_the_texts(self, root: Path) -> None:
        plain = load_benchmark("fashioniq", "val", root=root)
        both = load_benchmark("fashioniq", "val", root=root, joining="searle", reference="mask")
        assert plain.protocol == {"reference": "keep", "ties": "official", "gallery": "split", "joining": "and"}
        assert plain.digest != both.digest
        assert len(both.queries[0].phrasings) == 2
        assert both.metrics == ("recall@10", "recall@50")


class TestCirr:
    def test_counts(self, root: Path) -> None:
        val, test = cirr.read("val", root), cirr.read("test", root)
        found = [(len(a.queries), len(a.images), len({q.reference_id for q in a.queries})) for a in (val, test)]
        assert found == [(4181, 2297, 2165), (4148, 2315, 2178)]
        for query in (*val.queries, *test.queries):
            assert len(set(query.subset)) == 5
            assert query.reference_id not in (*query.subset, *query.targets)
        assert all(query.targets[0] in query.subset for query in val.queries)
        assert not test.metrics
        assert next(one for one in test.queries if one.query_id == "27098").modification == " "
        assert max(len(one.modification) for one in (*val.queries, *test.queries)) == 302

    def test_soft_targets(self, root: Path) -> None:
        masked = cirr.read("val", root, cirr.CirrScoring(target="soft")).queries
        kept = cirr.read("val", root, cirr.CirrScoring(target="soft", reference="keep")).queries
        hard = cirr.read("val", root).queries
        assert [one.targets[0] for one in masked] == [one.targets[0] for one in hard]
        worth = Counter(one.gains[0] for one in masked)
        # The hard target lacks a gain in 37 queries, has -1 in 3, 0.2 in 1, 0.5 in 1.
        assert worth == {1.0: 4139, 0.0: 40, 0.2: 1, 0.5: 1}
        assert sum(one.reference_id in one.targets for one in kept) == 37
        assert not any(one.reference_id in one.targets for one in masked)

    @pytest.mark.parametrize("layout", ["readme", "searle", "pic2word"])
    def test_layouts(self, layout: str, root: Path, tmp_path: Path) -> None:
        annotations = {"readme": tmp_path, "searle": tmp_path / "cirr", "pic2word": tmp_path / "CIRR"}[layout]
        pictures = {"readme": tmp_path / "img_raw", "searle": tmp_path, "pic2word": tmp_path / "CIRR"}[layout]
        for folder in ("captions", "image_splits"):
            shutil.copytree(root / "cirr" / folder, annotations / folder)
        image(pictures / "dev" / "dev-244-0-img0.png")
        benchmark = load_benchmark("cirr", "val", root=tmp_path)
        assert benchmark.load_image("dev-244-0-img0").size == (20, 16)
        assert benchmark.protocol["reference"] == "mask"
        # The same from inside the folder of the annotations.
        assert load_benchmark("cirr", "val", root=annotations).load_image("dev-244-0-img0").size == (20, 16)


class TestCirco:
    def test_counts(self, root: Path) -> None:
        val, test = circo.read("val", root), circo.read("test", root)
        assert (len(val.queries), len(test.queries)) == (220, 800)
        truths = [len(query.targets) for query in val.queries]
        assert (min(truths), max(truths), round(sum(truths) / 220, 2)) == (1, 14, 4.16)
        assert (sum(n > 5 for n in truths), sum(n > 10 for n in truths)) == (57, 9)
        assert Counter(aspect for query in val.queries for aspect in query.tags) == {
            "statement_with_conjunction": 164, "direct_addressing": 119, "spatial_relations_background": 100,
            "compare_change": 86, "addition": 80, "viewpoint": 54, "comparative_statement": 50, "cardinality": 37,
            "negation": 21,
        }  # fmt: skip
        references = [{query.reference_id for query in one.queries} for one in (val, test)]
        assert (len(references[1]), len(references[0] & references[1])) == (798, 1)
        assert all(query.reference_id not in query.targets for query in val.queries)
        assert val.galleries == {}

    def test_texts(self, root: Path) -> None:
        relative = circo.read("val", root).queries[0]
        shared = circo.read("val", root, circo.CircoProtocol(text="shared")).queries[0]
        assert relative.modification == "shows two people and has a more colorful background"
        assert shared.modification == f"find a girl with a traditional Chinese umbrella but {relative.modification}"
        assert relative.targets == ("355099", "528417", "534704")

    def test_images_and_the_list_of_images(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "circo" / "annotations", tmp_path / "annotations")
        with pytest.raises(WrongRoot, match=r"not COCO's list of images.*image_info_unlabeled2017\.zip"):
            load_benchmark("circo", "val", root=tmp_path)
        queries = circo.read("val", tmp_path).queries
        needed = dict.fromkeys(one for query in queries for one in (query.reference_id, *query.targets))
        listed = [{"id": int(one), "file_name": f"{int(one):012d}.jpg"} for one in needed]
        info = tmp_path / "COCO2017_unlabeled" / "annotations" / "image_info_unlabeled2017.json"
        info.parent.mkdir(parents=True)
        info.write_text(json.dumps({"images": listed}))
        image(tmp_path / "COCO2017_unlabeled" / "unlabeled2017" / "000000355099.jpg")
        benchmark = load_benchmark("circo", "val", root=tmp_path)
        assert benchmark.gallery == tuple(needed)
        assert benchmark.load_image("355099").size == (20, 16)


class TestGeneCis:
    def test_counts(self, root: Path) -> None:
        found = genecis.read("val", root)
        counts = {"focus_attribute": 0, "change_attribute": 0, "focus_object": 0, "change_object": 0}
        conditions: dict[str, set[str]] = {task: set() for task in counts}
        files: dict[str, set[str]] = {task: set() for task in counts}
        repeated, with_reference = [], 0
        for query in found.queries:
            task, condition = query.tags
            counts[task] += 1
            conditions[task].add(condition)
            files[task] |= {one.partition("@")[0] for one in (*query.candidates, query.reference_id)}
            assert len(query.candidates) == (10 if task == "focus_attribute" else 15)
            assert query.candidates[0] == query.targets[0] != query.reference_id
            with_reference += query.reference_id in query.candidates
            if query.targets[0] in query.candidates[1:]:
                repeated.append(query.query_id)
        assert list(counts.values()) == [2000, 2112, 1960, 1960]
        assert [len(one) for one in conditions.values()] == [40, 400, 97, 109]
        assert [len(one) for one in files.values()] == [13348, 15058, 2198, 2739]
        assert len(files["focus_attribute"] | files["change_attribute"]) == 23640
        assert len(files["focus_object"] | files["change_object"]) == 3033
        assert repeated == ["focus_attribute/14", "change_object/19"]
        assert with_reference == 79

    @pytest.mark.parametrize(
        ("box", "size", "corner"),
        [
            # Not clipped: grows by 0.7 * 20 = 14 to the left and 0.7 * 10 = 7 to the top; right and bottom stay.
            ((40, 30, 20, 10), (34, 34), (26, 23)),
            # Clipped left at 0: width 1.7 * 20 = 34 from there, right edge at 34 instead of 25.
            ((5, 30, 20, 10), (34, 34), (0, 23)),
            # Slightly negative: the same as 0. Clipped right by the image (100 wide).
            ((-0.4, -0.2, 80, 20), (100, 100), (0, 0)),
        ],
    )
    def test_crop(self, box: genecis.Box, size: tuple[int, int], corner: tuple[int, int]) -> None:
        pixels = np.zeros((60, 100, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = np.arange(100)[None, :] + 1, np.arange(60)[:, None] + 1
        found = np.asarray(genecis.crop(Image.fromarray(pixels), box))
        assert found.shape[:2] == size
        filled = np.argwhere(found[..., 0] > 0)
        top, left = filled.min(axis=0)
        assert tuple(found[top, left, :2]) == (corner[0] + 1, corner[1] + 1)
        bottom = filled.max(axis=0)[0]
        # Centred: as much black above as below, the odd row below.
        assert 0 <= (found.shape[0] - 1 - bottom) - top <= 1

    def test_a_box_outside_of_a_smaller_copy_makes_the_image_unusable(self, tmp_path: Path) -> None:
        reach = {"image_id": "7", "instance_bbox": [150, 10, 20, 20]}
        for task, rivals in genecis.TASKS.items():
            other = {"val_image_id": 7} if task.endswith("object") else reach
            entry = {"condition": "colour", "reference": other, "target": other, "gallery": [other] * rivals}
            (tmp_path / f"{task}.json").write_text(json.dumps([entry]))
        image(tmp_path / "VG_100K_all" / "7.jpg", size=(100, 60))
        with pytest.raises(BadImage, match="too_small: 100 x 60 pixels, and the box 150, 10, 20, 20 lies outside"):
            load_benchmark("genecis", "val", root=tmp_path).load_image("7@150,10,20,20")
        image(tmp_path / "VG_100K_all" / "7.jpg", size=(200, 120))
        assert load_benchmark("genecis", "val", root=tmp_path).load_image("7@150,10,20,20").size == (34, 34)

    def test_a_blank_condition_is_refused(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "genecis", tmp_path / "genecis")
        path = tmp_path / "genecis" / "focus_object.json"
        entries = json.loads(path.read_text())
        entries[5]["condition"] = " "
        path.write_text(json.dumps(entries))
        with pytest.raises(BrokenAnnotations, match=r"focus_object\.json: entry 5, condition: .* found ' '"):
            genecis.read("val", tmp_path)

    def test_images_and_wording(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "genecis", tmp_path / "genecis")
        query = genecis.read("val", root).queries[0]
        image(tmp_path / "VG_100K_all" / f"{query.reference_id.partition('@')[0]}.jpg", size=(300, 300))
        benchmark = load_benchmark("genecis", "val", root=tmp_path, wording=lambda task, word: f"{task}: {word}")
        assert benchmark.queries[0].modification == f"focus_attribute: {query.tags[1]}"
        picture = benchmark.load_image(query.reference_id)
        assert picture.mode == "RGB"
        assert picture.width == picture.height
        with pytest.raises(BadImage, match="no file"):
            benchmark.load_image(query.targets[0])
        with pytest.raises(LookupError, match="genecis has no split 'test'"):
            load_benchmark("genecis", "test", root=tmp_path)


class TestFaults:
    @pytest.mark.parametrize("module", [cirr, circo, fashioniq, genecis])
    def test_wrong_root(self, module: Any, tmp_path: Path) -> None:
        (tmp_path / "pictures").mkdir()
        with pytest.raises(WrongRoot, match=r"holds pictures/; expected .*\.json.*\. Put .* into .*https://github"):
            module.read("val", tmp_path)
        with pytest.raises(WrongRoot, match="is not there; expected a folder with"):
            module.read("val", tmp_path / "nowhere")

    def test_one_file_missing_is_named(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "genecis", tmp_path / "genecis")
        (tmp_path / "genecis" / "focus_object.json").unlink()
        with pytest.raises(WrongRoot, match=r"Put focus_object\.json into .*/genecis \("):
            genecis.read("val", tmp_path)

    def test_broken_json_is_named_with_its_place(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "circo" / "annotations", tmp_path / "annotations")
        path = tmp_path / "annotations" / "val.json"
        whole = path.read_text()
        path.write_text(whole[: len(whole) // 2])
        with pytest.raises(BrokenAnnotations, match=r"val\.json is not JSON: line \d+, column \d+"):
            circo.read("val", tmp_path)
        entries = json.loads(whole)
        entries[3].pop("relative_caption")
        path.write_text(json.dumps(entries))
        with pytest.raises(BrokenAnnotations, match=r"val\.json: entry 3, relative_caption: Field required"):
            circo.read("val", tmp_path)

    def test_a_stranger_in_the_annotations_is_named(self, root: Path, tmp_path: Path) -> None:
        for folder in ("captions", "image_splits"):
            shutil.copytree(root / "cirr" / folder, tmp_path / folder)
        path = tmp_path / "image_splits" / "split.rc2.val.json"
        files = json.loads(path.read_text())
        files.pop("dev-244-0-img0")
        path.write_text(json.dumps(files))
        with pytest.raises(BrokenAnnotations, match=r"names image 'dev-244-0-img0', which split\.rc2\.val\.json"):
            cirr.read("val", tmp_path)

    def test_choices(self) -> None:
        with pytest.raises(LookupError, match="did you mean 'joining'"):
            choose("fashioniq", fashioniq.FashionIQProtocol, {"joinin": "and"})
        with pytest.raises(ValueError, match="Input should be 'official' or 'pessimistic'"):
            choose("circo", circo.CircoProtocol, {"ties": "lucky"})
        assert choose("cirr", cirr.CirrProtocol, {}).reference == "mask"
        assert [choose(m.__name__, m.PROTOCOL, {}).reference for m in (fashioniq, circo, genecis)] == ["keep"] * 3
