"""What the official evaluators compute, written again from their published formulas, with sorts and loops.

Deliberately unlike `data.scoring`: whole rankings are sorted, nothing is shared with the code under test.
"""

from typing import Any

import numpy as np


def cosines(query: Any, gallery: Any) -> Any:
    """Float32 cosines, computed per query so that equal gallery rows give equal numbers."""
    q = query.astype(np.float32)
    g = gallery.astype(np.float32)
    q = q / np.linalg.norm(q, axis=1, keepdims=True)
    g = g / np.linalg.norm(g, axis=1, keepdims=True)
    unique, inverse = np.unique(g, axis=0, return_inverse=True)
    return np.stack([(unique @ one)[inverse.reshape(-1)] for one in q])


def ranked(similarities: Any, ids: list[str]) -> list[str]:
    """Descending, equal scores in gallery order."""
    return [ids[place] for place in sorted(range(len(ids)), key=lambda place: -similarities[place])]


def fashioniq(
    entries: dict[str, list[Any]], galleries: dict[str, list[str]], scores: dict[str, Any], mask: bool
) -> Any:
    """Per category R@10 and R@50 with rank 1 + #(s > s_target), their means and the mean of these."""
    found: dict[str, float] = {}
    for category, queries in entries.items():
        place = {one: i for i, one in enumerate(galleries[category])}
        ranks = []
        for row, entry in zip(scores[category].copy(), queries, strict=True):
            if mask:
                row[place[entry["candidate"]]] = -10
            ranks.append(1 + int(np.sum(row > row[place[entry["target"]]])))
        for k in (10, 50):
            found[f"{category}/recall@{k}"] = 100 * sum(rank <= k for rank in ranks) / len(ranks)
    for k in (10, 50):
        found[f"average/recall@{k}"] = sum(found[f"{category}/recall@{k}"] for category in entries) / 3
    found["average/recall"] = (found["average/recall@10"] + found["average/recall@50"]) / 2
    return found


def cirr_hard(entries: list[Any], lists: list[list[str]], mask: bool = True) -> Any:
    """The community's metric: the reference is deleted, the subset keeps the members of the ranking."""
    hits: dict[str, list[float]] = {}
    for entry, ranking in zip(entries, lists, strict=True):
        kept = [one for one in ranking if not (mask and one == entry["reference"])]
        subset = [one for one in kept if one in entry["img_set"]["members"]]
        for k in (1, 5, 10, 50):
            hits.setdefault(f"recall@{k}", []).append(entry["target_hard"] in kept[:k])
        for k in (1, 2, 3):
            hits.setdefault(f"subset_recall@{k}", []).append(entry["target_hard"] in subset[:k])
    found = {name: 100 * float(np.mean(values)) for name, values in hits.items()}
    return found | {"average": (found["recall@5"] + found["subset_recall@1"]) / 2}


def cirr_soft(entries: list[Any], ids: list[str], scores: Any) -> Any:
    """The authors' metric: the reference falls to its row's minimum, the best soft target in the first k counts."""
    hits: dict[str, list[float]] = {}
    for entry, row in zip(entries, scores, strict=True):
        row = row.copy()
        row[ids.index(entry["reference"])] = row.min()
        ranking = ranked(row, ids)
        members = [one for one in entry["img_set"]["members"] if one != entry["reference"]]
        subset = [one for one in ranking if one in members]
        for name, order, cuts in (("recall", ranking, (1, 2, 5, 10, 50, 100)), ("subset_recall", subset, (1, 2, 3))):
            for k in cuts:
                best = max([gain for one, gain in entry["target_soft"].items() if one in order[:k]], default=0.0)
                hits.setdefault(f"{name}@{k}", []).append(max(0.0, best))
    found = {name: 100 * float(np.mean(values)) for name, values in hits.items()}
    return found | {"average": (found["recall@5"] + found["subset_recall@1"]) / 2}


def circo(entries: list[Any], lists: list[list[int]], aspects: tuple[str, ...]) -> Any:
    """mAP@k with denominator min(k, ground truths), recall of the one target, mAP@10 per semantic aspect."""
    values: dict[str, list[float]] = {f"{aspect}/map@10": [] for aspect in aspects}
    for entry, predictions in zip(entries, lists, strict=True):
        truths = entry["gt_img_ids"]
        for k in (5, 10, 25, 50):
            good, total = 0, 0.0
            for rank, one in enumerate(predictions[:k], start=1):
                if one in truths:
                    good += 1
                    total += good / rank
            precision = total / min(k, len(truths))
            values.setdefault(f"map@{k}", []).append(precision)
            values.setdefault(f"recall@{k}", []).append(float(entry["target_img_id"] in predictions[:k]))
            if k == 10:
                for aspect in entry["semantic_aspects"]:
                    values[f"{aspect}/map@10"].append(precision)
    return {name: 100 * float(np.mean(one)) for name, one in values.items()}


def genecis(similarities: dict[str, Any]) -> Any:
    """Recall of column 0 with rank 1 + #(s > s_0), and the mean over the tasks."""
    found = {}
    for task, rows in similarities.items():
        ranks = np.array([1 + sum(float(other) > float(row[0]) for other in row[1:]) for row in rows])
        for k in (1, 2, 3):
            found[f"{task}/recall@{k}"] = 100 * float(np.mean(ranks <= k))
    for k in (1, 2, 3):
        found[f"average/recall@{k}"] = sum(found[f"{task}/recall@{k}"] for task in similarities) / len(similarities)
    return found
