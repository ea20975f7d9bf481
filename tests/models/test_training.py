"""The training loop's parts: schedule, data order, ranks, and steps that repeat exactly."""

import itertools
import math

import numpy as np
import pytest
import torch

from models.encoders import TrainableEncoder
from models.encoders.blip2 import Blip2Encoder
from models.objectives import Batch, RetrievalLoss
from models.training import (
    DivergedError,
    Trainer,
    cpu_bfloat16_gain,
    learning_rate,
    ranks_of_targets,
    rows_of_step,
    steps_of_epoch,
    training_dtype,
)
from tests.models.tiny_blip2 import noise_images, tiny_encoder


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, 10, 1.0, 4, "cosine") for step in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[7] == pytest.approx(0.5)  # half of the way from 4 to 10: (1 + cos 90 degrees) / 2
    assert all(before >= after for before, after in itertools.pairwise(rates[4:]))
    assert [learning_rate(99, 100, 2.0, 0, "step", epoch) for epoch in (0, 9, 10, 25)] == pytest.approx(
        [2.0, 2.0, 0.2, 0.02]
    )
    assert learning_rate(99, 100, 2.0, 0, "constant") == 2.0


def test_an_epoch_visits_every_row_once_in_another_order() -> None:
    # 10 rows in batches of 3: three whole batches, one row left out, another one each time
    epochs = [[rows_of_step(3 * epoch + place, [10], 3, seed=0) for place in range(3)] for epoch in range(20)]
    left_out = set()
    for number, epoch in enumerate(epochs):
        assert {found for found, _ in epoch} == {number}
        rows = np.concatenate([rows for _, rows in epoch])
        assert len(set(rows.tolist())) == 9
        left_out |= set(range(10)) - set(rows.tolist())
    assert left_out == set(range(10))
    assert rows_of_step(0, [10], 3, seed=1)[1].tolist() != rows_of_step(0, [10], 3, seed=0)[1].tolist()
    assert sorted(rows_of_step(5, [4], 100, seed=0)[1].tolist()) == [0, 1, 2, 3]  # fewer rows than a batch


def test_a_batch_is_of_one_group() -> None:
    # 7 and 5 rows in batches of 3: two and one whole ones, in another order each epoch
    assert steps_of_epoch([7, 5], 3) == 3
    orders = set()
    for epoch in range(20):
        batches = [rows_of_step(3 * epoch + place, [7, 5], 3, seed=0) for place in range(3)]
        assert {found for found, _ in batches} == {epoch}
        first = [bool((rows < 7).all()) for _, rows in batches]
        assert [bool((rows >= 7).all()) for _, rows in batches] == [not one for one in first]
        assert sum(first) == 2
        assert len({row for _, rows in batches for row in rows.tolist()}) == 9
        orders.add(tuple(first))
    assert len(orders) == 3


def test_ranks_share_ties_and_skip_the_reference() -> None:
    # one token of two dimensions each; scores with the query (1, 0): 1, 0.6, 0.6, 0
    gallery = torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]], [[0.6, -0.8]], [[0.0, 1.0]]])
    queries = torch.tensor([[[1.0, 0.0]]]).repeat(4, 1, 1)
    ranks = ranks_of_targets(queries, gallery, torch.tensor([0, 1, 2, 3]), torch.tensor([-1, -1, 0, 0]))
    # 0 is first; 1 shares the places 2 and 3; without image 0, image 2 shares 1 and 2; image 3 comes third
    assert ranks.tolist() == [1, 2.5, 1.5, 3]
    collapsed = ranks_of_targets(queries[:1], gallery[:1].repeat(9, 1, 1), torch.tensor([0]), torch.tensor([-1]))
    assert collapsed.tolist() == [5]  # the middle of nine, not the first


def batch(encoder: Blip2Encoder, seed: int = 0) -> Batch:
    texts = ["make it red", "add a star", "two blue circle", "remove the square"]
    reference, target = (encoder.vision(noise_images(4, seed=place)) for place in (seed, seed + 1))
    return Batch(reference, texts, target, torch.eye(4, dtype=torch.bool))


def trainer(encoder: Blip2Encoder, **options: object) -> Trainer:
    settings: dict[str, object] = {"seed": 0, "weight_decay": 0.05, "clip": 1.0, "dtype": "float32"}
    return Trainer(encoder, RetrievalLoss(), **(settings | options))  # type: ignore[arg-type]


def test_the_loss_of_one_step_is_that_of_the_similarities() -> None:
    encoder = tiny_encoder()
    data = batch(encoder)
    with torch.no_grad():
        query = encoder.query_tokens(data.reference, data.modifications).tokens
        target = encoder.image_tokens(data.target).tokens
        scores = torch.einsum("iad,jbd->ijab", query, target).amax(-1).mean(-1) / 0.07
        expected = -scores.log_softmax(dim=1).diagonal().mean()
    encoder.set_dropout(0)
    assert trainer(encoder).step(0, data, 0.0) == pytest.approx(float(expected), abs=1e-4)


def test_hard_negatives_are_wrong_answers_to_every_row_but_their_own_targets() -> None:
    encoder = tiny_encoder()
    encoder.set_dropout(0)
    data = batch(encoder)
    negatives = encoder.vision(noise_images(3, seed=7))
    same = torch.cat([torch.eye(4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)], dim=1)
    same[1, 4] = True  # the first negative is the target of row 1
    same[:, 7] = True  # row 3 has no negative of its own
    with torch.no_grad():
        query = encoder.query_tokens(data.reference, data.modifications).tokens
        images = torch.cat([encoder.image_tokens(vision).tokens for vision in (data.target, negatives)])
        scores = torch.einsum("iad,jbd->ijab", query, images).amax(-1).mean(-1) / 0.07
        scores[1, 4] = -torch.inf
        expected = -scores.log_softmax(dim=1).diagonal().mean()
    assert data.target is not None
    filled = torch.cat([negatives, data.target[3:]]).unsqueeze(1)
    data = Batch(data.reference, data.modifications, data.target, same, filled)
    assert trainer(encoder).step(0, data, 0.0) == pytest.approx(float(expected), abs=1e-4)


def test_training_lowers_the_loss_and_leaves_the_tower_alone() -> None:
    encoder = tiny_encoder()
    encoder.set_dropout(0)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    run, data = trainer(encoder), batch(encoder)
    losses = [run.step(step, data, 3e-3) for step in range(30)]
    assert losses[-1] < 0.2 * losses[0]
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not {name for name in changed if "vision_model" in name or "itm_head" in name}
    assert "temperature" in changed
    assert 0.01 <= encoder.temperature.item() <= 0.5


def test_a_fixed_temperature_stays() -> None:
    encoder = tiny_encoder()
    run = trainer(encoder, learn_temperature=False)
    run.step(0, batch(encoder), 1e-2)
    assert encoder.temperature.item() == pytest.approx(0.07)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_takes_the_same_steps(dtype: str) -> None:
    encoder = tiny_encoder()
    encoder.set_dropout(0.2)
    run, data = trainer(encoder, dtype=dtype), [batch(encoder, seed) for seed in range(6)]
    straight = []
    for step in range(6):
        if step == 3:
            state = run.state()
        straight.append(run.step(step, data[step], 1e-3))
    fresh = tiny_encoder(seed=5)  # other weights: all must come from the state, but for the frozen tower
    fresh.model.vision_model.load_state_dict(encoder.model.vision_model.state_dict())
    fresh.set_dropout(0.2)
    torch.manual_seed(99)
    again = trainer(fresh, dtype=dtype)
    again.resume(state)
    assert [again.step(step, data[step], 1e-3) for step in range(3, 6)] == straight[3:]


def test_a_loss_that_is_no_number_stops_before_the_weights_change() -> None:
    encoder = tiny_encoder()
    run, data = trainer(encoder), batch(encoder)
    before = run.snapshot()
    with pytest.raises(DivergedError):
        run.step(0, Batch(data.reference * math.nan, data.modifications, data.target, data.same_target), 1e-3)
    assert all(torch.equal(before[name], value) for name, value in run.snapshot().items())
    infinite = Trainer(
        encoder, lambda *_: {"made_up": torch.tensor(math.inf)}, seed=0, weight_decay=0.0, clip=1.0, dtype="float32"
    )
    with pytest.raises(DivergedError, match="made_up inf"):
        infinite.step(0, data, 1e-3)


@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_stops_before_the_weights_change(slope: float) -> None:
    encoder = tiny_encoder()

    def steep(encoder: TrainableEncoder, _: Batch) -> dict[str, torch.Tensor]:
        temperature = encoder.temperature * 1.0
        temperature.register_hook(lambda gradient: gradient * slope)
        return {"made_up": temperature}

    run = Trainer(encoder, steep, seed=0, weight_decay=0.0, clip=1.0, dtype="float32")
    before = run.snapshot()
    with pytest.raises(DivergedError, match=r"the loss is 0\.07, but the norm of its gradient is"):
        run.step(0, batch(encoder), 1e-3)
    assert all(torch.equal(before[name], value) for name, value in run.snapshot().items())


def test_tokens_that_are_no_numbers_have_no_ranks() -> None:
    tokens = torch.full((3, 2, 4), math.nan)
    with pytest.raises(DivergedError, match="not all finite"):
        ranks_of_targets(tokens, tokens, torch.arange(3), torch.full((3,), -1))


def test_several_losses_are_summed() -> None:
    encoder = tiny_encoder()
    two = Trainer(
        encoder,
        lambda encoder, _: {"a": encoder.temperature * 100, "b": encoder.temperature * 200},
        seed=0, weight_decay=0.0, clip=1.0, dtype="float32",
    )  # fmt: skip
    assert two.step(0, batch(encoder), 0.0) == pytest.approx(21)  # 0.07 x 300


def test_the_dtype_is_measured_on_a_cpu() -> None:
    assert training_dtype("float32") == "float32"
    assert training_dtype("auto") in ("float32", "bfloat16")
    assert 0.01 < cpu_bfloat16_gain() < 100
