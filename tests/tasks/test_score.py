"""Scores from files equal the official formulas on the real annotation files, ties and duplicates included."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.benchmarks import circo
from data.layouts import WrongRoot
from tasks.score import Scored, score
from tests.data import official_metrics as official
from tests.shared_data import shared_data

CATEGORIES = ("dress", "shirt", "toptee")
TASKS = {"focus_attribute": 2000, "change_attribute": 2112, "focus_object": 1960, "change_object": 1960}


def close(scored: Scored, expected: dict[str, float]) -> bool:
    """The same metrics, within 1e-4 points."""
    found = scored.report()["metrics"]
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name
    return True


def loaded(*parts: str) -> Any:
    return json.loads(shared_data("annotations").joinpath(*parts).read_text())


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def coarse(generator: np.random.Generator, rows: int, dim: int = 16) -> Any:
    """Rows of +-1: every product is exact, so that equal cosines are equal in any order of summation."""
    return generator.choice([-1.0, 1.0], size=(rows, dim)).astype(np.float32)


def pulled(generator: np.random.Generator, gallery: Any, targets: list[int], noise: float) -> Any:
    """Queries near their targets, so that the metrics are neither 0 nor 100."""
    return (gallery[targets] + noise * generator.standard_normal((len(targets), gallery.shape[1]))).astype(np.float32)


@pytest.fixture(scope="module")
def root() -> Path:
    return shared_data("annotations")


@pytest.fixture(scope="module")
def cirr() -> tuple[list[Any], list[str]]:
    return loaded("cirr/captions/cap.rc2.val.json"), list(loaded("cirr/image_splits/split.rc2.val.json"))


class TestCirr:
    @pytest.mark.parametrize("kind", ["smooth", "coarse", "duplicates"])
    def test_features_score_as_the_community_does(
        self, kind: str, root: Path, cirr: tuple[list[Any], list[str]], tmp_path: Path
    ) -> None:
        entries, ids = cirr
        generator = np.random.default_rng(1)
        targets = [ids.index(entry["target_hard"]) for entry in entries]
        if kind == "coarse":
            query, gallery = coarse(generator, len(entries)), coarse(generator, len(ids))
            query = np.where(generator.random(query.shape) < 0.5, gallery[targets], query)
        else:
            gallery = generator.standard_normal((len(ids), 32)).astype(np.float32)
            if kind == "duplicates":
                gallery[generator.integers(len(ids), size=400)] = gallery[generator.integers(len(ids), size=400)]
            query = pulled(generator, gallery, targets, 1.5)
        similarity = official.cosines(query, gallery)
        lists = [official.ranked(row, ids) for row in similarity]
        path = saved(tmp_path / "f.npz", query=query, gallery=gallery)
        scored = score("cirr", "val", root / "cirr", {}, features=path)
        assert close(scored, official.cirr_hard(entries, lists))
        report = scored.report()
        assert (report["queries"], report["gallery"]) == (4181, 2297)
        assert report["protocol"] == {"reference": "mask", "target": "hard", "ties": "official"}
        assert (report["ties"] > 100) == (kind != "smooth")
        assert close(
            score("cirr", "val", root, {"target": "soft"}, features=path), official.cirr_soft(entries, ids, similarity)
        )
        kept = score("cirr", "val", root, {"reference": "keep"}, features=path)
        assert close(kept, official.cirr_hard(entries, lists, mask=False))

    def test_lists_score_like_the_features_they_come_from(
        self, root: Path, cirr: tuple[list[Any], list[str]], tmp_path: Path
    ) -> None:
        entries, ids = cirr
        generator = np.random.default_rng(2)
        lists = [[ids[place] for place in generator.permutation(len(ids))] for _ in entries]
        content: dict[str, Any] = {"version": "rc2"} | {
            str(e["pairid"]): one for e, one in zip(entries, lists, strict=True)
        }
        path = written(tmp_path / "p.json", content)
        assert close(score("cirr", "val", root, {}, predictions=path), official.cirr_hard(entries, lists))
        member = next(one for one in entries[5]["img_set"]["members"] if one != entries[5]["reference"])
        content[str(entries[5]["pairid"])].remove(entries[5]["reference"])
        told = f"query {entries[5]['pairid']}: its reference '{entries[5]['reference']}' is not ranked, but under"
        with pytest.raises(ValueError, match=f"{told} reference=keep it competes in its set; rank it too, or score"):
            score("cirr", "val", root, {"reference": "keep"}, predictions=written(path, content))
        content[str(entries[5]["pairid"])].remove(member)
        with pytest.raises(
            ValueError, match=f"query {entries[5]['pairid']}: member '{member}' of its set is not ranked"
        ):
            score("cirr", "val", root, {}, predictions=written(path, content))

    def test_the_hard_target_first_is_99_01_under_the_soft_metric(
        self, root: Path, cirr: tuple[list[Any], list[str]], tmp_path: Path
    ) -> None:
        entries, ids = cirr
        # 37 queries have no gain at their hard target, 3 have -1, 1 has 0.2, 1 has 0.5:
        # (4181 - 42 + 0.7) / 4181 = 99.0122 %
        lists = {str(e["pairid"]): [e["target_hard"], *(i for i in ids if i != e["target_hard"])] for e in entries}
        path = written(tmp_path / "p.json", lists)
        metrics = score("cirr", "val", root, {"target": "soft"}, predictions=path).report()["metrics"]
        assert metrics["recall@1"] == pytest.approx(100 * (4181 - 42 + 0.7) / 4181)
        hard = score("cirr", "val", root, {}, predictions=path).report()["metrics"]
        assert set(hard.values()) == {100.0}

    def test_a_pessimist_puts_the_target_behind_its_equals(
        self, root: Path, cirr: tuple[list[Any], list[str]], tmp_path: Path
    ) -> None:
        entries, ids = cirr
        generator = np.random.default_rng(3)
        gallery = coarse(generator, len(ids))
        targets = [ids.index(entry["target_hard"]) for entry in entries]
        query = np.where(generator.random((len(entries), 16)) < 0.7, gallery[targets], coarse(generator, len(entries)))
        similarity = official.cosines(query, gallery)
        lists = []
        for row, target in zip(similarity, targets, strict=True):
            order = sorted(range(len(ids)), key=lambda place: (-row[place], place == target))
            lists.append([ids[place] for place in order])
        path = saved(tmp_path / "f.npz", query=query, gallery=gallery)
        scored = score("cirr", "val", root, {"ties": "pessimistic"}, features=path)
        assert close(scored, official.cirr_hard(entries, lists))

    def test_dead_features_are_refused(self, root: Path, cirr: tuple[list[Any], list[str]], tmp_path: Path) -> None:
        entries, ids = cirr
        query, gallery = np.ones((len(entries), 4)), np.ones((len(ids), 4))
        with pytest.raises(ValueError, match="all 2296 scores are 1; a constant ranks nothing"):
            score("cirr", "val", root, {}, features=saved(tmp_path / "a.npz", query=query, gallery=gallery))
        gallery[7] = np.nan
        with pytest.raises(ValueError, match="array 'gallery': 1 rows hold NaN or infinity, first row 7"):
            score("cirr", "val", root, {}, features=saved(tmp_path / "b.npz", query=query, gallery=gallery))
        gallery[7] = 0
        with pytest.raises(ValueError, match="array 'gallery': 1 rows are all zeros, first row 7"):
            score("cirr", "val", root, {}, features=saved(tmp_path / "c.npz", query=query, gallery=gallery))
        with pytest.raises(ValueError, match=r"array 'query' has shape \(4180, 4\); want \(4181, D\)"):
            score(
                "cirr", "val", root, {}, features=saved(tmp_path / "d.npz", query=query[1:], gallery=np.ones((2297, 4)))
            )


class TestCirco:
    def test_the_authors_example_submission(self, root: Path) -> None:
        entries = loaded("circo/annotations/val.json")
        example = loaded("circo/submission_examples/submission_val.json")
        scored = score("circo", "val", root, {}, predictions=root / "circo/submission_examples/submission_val.json")
        assert close(scored, official.circo(entries, [example[str(i)] for i in range(220)], circo.ASPECTS))
        assert scored.report()["gallery"] is None

    @pytest.mark.parametrize("kind", ["smooth", "coarse"])
    @pytest.mark.parametrize("reference", ["keep", "mask"])
    def test_features(self, kind: str, reference: str, root: Path, tmp_path: Path) -> None:
        entries = loaded("circo/annotations/val.json")
        generator = np.random.default_rng(4)
        needed = {one for e in entries for one in (*e["gt_img_ids"], e["reference_img_id"])}
        ids = generator.permutation(np.array(sorted(needed | set(range(3000)))))
        make = coarse if kind == "coarse" else lambda g, n: g.standard_normal((n, 24)).astype(np.float16)
        gallery = make(generator, len(ids))
        place = {int(one): i for i, one in enumerate(ids)}
        targets = [place[e["target_img_id"]] for e in entries]
        query = np.where(generator.random((220, gallery.shape[1])) < 0.6, gallery[targets], make(generator, 220))
        path = saved(tmp_path / "f.npz", query=query, gallery=gallery, gallery_ids=ids)
        lists = []
        for entry, row in zip(entries, official.cosines(query, gallery), strict=True):
            order = [int(ids[i]) for i in np.argsort(-row, kind="stable")]
            lists.append([one for one in order if reference == "keep" or one != entry["reference_img_id"]])
        scored = score("circo", "val", root / "circo", {"reference": reference}, features=path)
        assert close(scored, official.circo(entries, lists, circo.ASPECTS))
        assert scored.notes == ()
        assert (scored.report()["ties"] > 20) == (kind == "coarse")
        bare = saved(tmp_path / "bare.npz", query=query, gallery=gallery)
        with pytest.raises(ValueError, match="has no array 'gallery_ids'"):
            score("circo", "val", root, {}, features=bare)

    def test_fewer_queries_or_a_doubled_image_are_refused(self, root: Path, tmp_path: Path) -> None:
        # The official evaluator averages over the ten that are there, and takes "9761" and 9761 for two images.
        ten = written(tmp_path / "ten.json", {str(i): [1, 2, 3] for i in range(10)})
        with pytest.raises(ValueError, match="ranks 10 of the 220 queries of circo val; 210 have no list, first '10'"):
            score("circo", "val", root, {}, predictions=ten)
        doubled = {str(i): ["9761", 9761] for i in range(220)}
        with pytest.raises(ValueError, match="query 0: '9761' is ranked twice"):
            score("circo", "val", root, {}, predictions=written(tmp_path / "two.json", doubled))
        twice = tmp_path / "twice.json"
        twice.write_text('{"0": [1, 2], "0": [3]}')
        with pytest.raises(ValueError, match="key '0' occurs twice"):
            score("circo", "val", root, {}, predictions=twice)
        short = written(tmp_path / "short.json", {str(i): [] for i in range(220)})
        scored = score("circo", "val", root, {}, predictions=short)
        assert set(scored.report()["metrics"].values()) == {0.0}
        assert scored.notes[0].startswith("220 of 220 lists end before the deepest cut")


@pytest.fixture(scope="module")
def real() -> tuple[dict[str, list[Any]], dict[str, list[str]]]:
    entries = {c: loaded(f"fashioniq/captions/cap.{c}.val.json") for c in CATEGORIES}
    return entries, {c: loaded(f"fashioniq/image_splits/split.{c}.val.json") for c in CATEGORIES}


class TestFashionIQ:
    @pytest.mark.parametrize("kind", ["duplicates", "coarse"])
    def test_features(self, kind: str, root: Path, real: Any, tmp_path: Path) -> None:
        entries, galleries = real
        generator = np.random.default_rng(5)
        arrays: dict[str, Any] = {}
        scores: dict[str, Any] = {}
        for category in CATEGORIES:
            ids = galleries[category]
            targets = [ids.index(entry["target"]) for entry in entries[category]]
            make = coarse if kind == "coarse" else lambda g, n: g.standard_normal((n, 16)).astype(np.float32)
            gallery = make(generator, len(ids))
            gallery[generator.integers(len(ids), size=300)] = gallery[generator.integers(len(ids), size=300)]
            query = np.where(
                generator.random((len(targets), 16)) < 0.6, gallery[targets], make(generator, len(targets))
            )
            arrays |= {f"{category}_query": query, f"{category}_gallery": gallery}
            scores[category] = official.cosines(query, gallery)
        path = saved(tmp_path / "f.npz", **arrays)
        scored = score("fashioniq", "val", root / "fashioniq", {}, features=path)
        assert close(scored, official.fashioniq(entries, galleries, scores, mask=False))
        report = scored.report()
        assert (report["queries"], report["gallery"]) == (6016, 3817 + 6346 + 5373)
        assert report["ties"] > (50 if kind == "coarse" else 0)
        masked = score("fashioniq", "val", root, {"reference": "mask"}, features=path)
        assert close(masked, official.fashioniq(entries, galleries, scores, mask=True))
        self.check_union(root, entries, galleries, scores, arrays, path, tmp_path)

    def check_union(
        self, root: Path, entries: Any, galleries: Any, scores: Any, arrays: Any, path: Path, tmp_path: Path
    ) -> None:
        columns = {}
        for category in CATEGORIES:
            used = {one for e in entries[category] for one in (e["candidate"], e["target"])}
            columns[category] = [i for i, one in enumerate(galleries[category]) if one in used]
        smaller = {c: [galleries[c][i] for i in columns[c]] for c in CATEGORIES}
        expected = official.fashioniq(entries, smaller, {c: scores[c][:, columns[c]] for c in CATEGORIES}, mask=False)
        scored = score("fashioniq", "val", root, {"gallery": "val_union"}, features=path)
        assert close(scored, expected)
        assert scored.report()["gallery"] == 2628 + 3089 + 2902
        union = {name: rows[columns[name[:-8]]] if name.endswith("gallery") else rows for name, rows in arrays.items()}
        union_path = saved(tmp_path / "u.npz", **union)
        assert close(score("fashioniq", "val", root, {"gallery": "val_union"}, features=union_path), expected)

    def test_lists(self, root: Path, real: Any, tmp_path: Path) -> None:
        entries, galleries = real
        generator = np.random.default_rng(6)
        lists, scores = {}, {}
        for category in CATEGORIES:
            ids = galleries[category]
            scores[category] = -np.tile(np.arange(len(ids), dtype=float), (len(entries[category]), 1))
            for index, row in enumerate(scores[category]):
                order = generator.permutation(60)
                row[:60] = -order
                ranked = np.argsort(-row, kind="stable")
                lists[f"{category}/{index}"] = [ids[place] for place in ranked[:50]]
        path = written(tmp_path / "p.json", lists)
        scored = score("fashioniq", "val", root, {}, predictions=path)
        assert close(scored, official.fashioniq(entries, galleries, scores, mask=False))
        lists["dress/3"][4] = "B00UNKNOWN"
        with pytest.raises(ValueError, match="query dress/3: 'B00UNKNOWN' is not in its gallery of 3817 images"):
            score("fashioniq", "val", root, {}, predictions=written(path, lists))
        lists["dress/3"] = lists["dress/3"][:3]
        short = score("fashioniq", "val", root, {}, predictions=written(path, lists))
        assert short.notes == ("1 of 6016 lists end before the deepest cut; what they do not rank counts as a miss",)


class TestGeneCis:
    def similarities(self, seed: int, levels: int | None = None) -> dict[str, Any]:
        generator = np.random.default_rng(seed)
        found = {}
        for task, queries in TASKS.items():
            rows = generator.standard_normal((queries, 10 if task == "focus_attribute" else 15)).astype(np.float32)
            found[task] = np.round(rows * levels) / levels if levels else rows
        return found

    def test_features_and_ties(self, root: Path, tmp_path: Path) -> None:
        for levels in (None, 3):
            similarities = self.similarities(7, levels)
            path = saved(tmp_path / "f.npz", **similarities)
            scored = score("genecis", "val", root / "genecis", {}, features=path)
            assert close(scored, official.genecis(similarities))
            assert (scored.report()["ties"] > 0) == (levels is not None)
            assert scored.report()["queries"] == 8032
        behind = {
            task: np.concatenate([rows[:, :1] - 0.01, rows[:, 1:]], axis=1) for task, rows in similarities.items()
        }
        pessimistic = score("genecis", "val", root, {"ties": "pessimistic"}, features=path)
        assert close(pessimistic, official.genecis(behind))

    def test_constant_similarities_are_an_error_not_100_percent(self, root: Path, tmp_path: Path) -> None:
        similarities = self.similarities(8)
        similarities["change_object"][3] = 0.25
        with pytest.raises(ValueError, match=r"query change_object/3: all 15 scores are 0\.25"):
            score("genecis", "val", root, {}, features=saved(tmp_path / "f.npz", **similarities))
        similarities["change_object"][3, 2] = np.nan
        with pytest.raises(ValueError, match="query change_object/3: 1 of 15 scores are not finite"):
            score("genecis", "val", root, {}, features=saved(tmp_path / "f.npz", **similarities))

    def test_lists_of_positions(self, root: Path, tmp_path: Path) -> None:
        similarities = self.similarities(9)
        lists = {
            f"{task}/{index}": [int(place) for place in np.argsort(-row, kind="stable")]
            for task, rows in similarities.items()
            for index, row in enumerate(rows)
        }
        path = written(tmp_path / "p.json", lists)
        assert close(score("genecis", "val", root, {}, predictions=path), official.genecis(similarities))
        lists["focus_object/1"][0] = 15
        with pytest.raises(ValueError, match=r"query focus_object/1: 15; want positions 0 \(the target\) to 14"):
            score("genecis", "val", root, {}, predictions=written(path, lists))


def test_choices_are_checked(root: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "p.json", {})
    with pytest.raises(LookupError, match="cirr has no protocol key 'targt'; did you mean 'target'"):
        score("cirr", "val", root, {"targt": "soft"}, predictions=path)
    with pytest.raises(LookupError, match="fashioniq: protocol key 'joining' words the query"):
        score("fashioniq", "val", root, {"joining": "and"}, predictions=path)
    with pytest.raises(ValueError, match="cirr: protocol reference='drop': Input should be 'mask' or 'keep'"):
        score("cirr", "val", root, {"reference": "drop"}, predictions=path)
    with pytest.raises(LookupError, match="did you mean 'circo'"):
        score("circ", "val", root, {}, predictions=path)
    with pytest.raises(ValueError, match="circo test has no public targets"):
        score("circo", "test", root, {}, predictions=path)
    with pytest.raises(WrongRoot, match=r"holds p\.json; expected annotations/val\.json .* Put annotations/val\.json"):
        score("circo", "val", tmp_path, {}, predictions=path)
