"""The pictures of an ingested table, looked up by id."""

from pathlib import Path

import pyarrow as pa
import pytest

from data.artifact import Counts, seal, write_table
from data.schemas import IMAGES
from models.backends import Engine
from tasks.pool import Pool
from tasks.rows import BATCH


def test_a_table_of_several_batches_is_looked_up_by_id(tmp_path: Path) -> None:
    count = BATCH + 2
    rows = [
        dict.fromkeys(IMAGES.names) | {"image_id": f"i{place:05d}", "uri": f"{place}.png", "sha256": f"{place:x}"}
        for place in range(count)
    ]
    for place, row in enumerate(rows):
        row |= {"width": 10 + place, "height": 10}
    rows[-1]["stored_sha256"] = "of what lies there"
    write_table(tmp_path / "images.parquet", pa.Table.from_pylist(rows, schema=IMAGES), IMAGES)
    images = seal(tmp_path, Counts(read=count, kept=count, written=count), stage="ingest", config={})
    pool = Pool(images, Engine(image_side=10 + BATCH))
    assert (len(pool), list(pool)[BATCH]) == (count, f"i{BATCH:05d}")
    assert pool[f"i{BATCH:05d}"].digest == f"{BATCH:x}"
    assert pool[f"i{BATCH + 1:05d}"].digest == f"of what lies there@{10 + BATCH}"  # it is wider than is looked at
    assert "i99999" not in pool
    with pytest.raises(KeyError, match="i99999"):
        pool["i99999"]
