"""The base of every configuration: typed, frozen, and closed to what it does not know."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from data.addresses import base_address


class StageConfig(BaseModel):
    """Settings that decide a stage's result; all of them enter the stage's key.

    Unknown fields, NaN and infinities are refused, and an instance never changes. What only decides the speed
    belongs in `Resources`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False,
        hide_input_in_errors=True,  # which may be an address with a password; messages for users are made elsewhere
    )  # fmt: skip


class Resources(StageConfig):
    """Settings that decide speed and memory only; they never enter a key.

    A training batch size is not among them: it sets the number of in-batch negatives and so decides the result.
    """

    batch_size: PositiveInt = Field(64, description="rows per forward pass at inference")
    workers: PositiveInt = Field(2, description="processes or threads that read and decode images")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    chunk: PositiveInt = Field(1024, description="images, or requests without any, that the generator has at once")
    gpu_memory: Annotated[float, Field(gt=0, le=1, description="share of GPU memory for the text generator")] = 0.9
    processes: PositiveInt = Field(1, description="processes that train together, one for each GPU")
    seeds_at_once: PositiveInt | None = Field(
        None, description="seeds trained side by side on a CPU; None: as many as cores and memory allow"
    )
    sharded: bool = Field(False, description="these processes also share an MLLM's weights (FSDP), each holding a part")
    feature_gb: NonNegativeFloat = Field(
        200.0, description="disk for vision features while training; needing more, each step computes its own"
    )
    tensor_parallel: PositiveInt = Field(1, description="GPUs that share one text generator")
    data_parallel: PositiveInt = Field(1, description="text generators side by side, each with its GPUs")
    endpoints: tuple[str, ...] = Field((), description="servers that the backend openai asks: http://host:8000/v1")
    concurrency: PositiveInt = Field(64, description="requests under way at one endpoint")
    request_timeout: Annotated[float, Field(gt=0, description="seconds until an endpoint is asked again")] = 120.0
    patience: Annotated[float, Field(gt=0, description="seconds until a failing endpoint is left out")] = 60.0
    spread: Literal["here", "threads", "dask", "ray"] = Field(
        "here", description="where shards of encode and generate run: in this process, or on an engine of tasks"
    )
    spread_workers: PositiveInt = Field(2, description="workers that take shards")
    cluster: str | None = Field(None, description="a running engine: tcp://host:8786 (dask), ray://host:10001 (ray)")
    shard: PositiveInt = Field(4096, description="rows per shard, at least; 10 to 30 seconds of work")

    @field_validator("endpoints")
    @classmethod
    def _are_addresses(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        urls = tuple(base_address(endpoint) for endpoint in endpoints)
        twice = [url for url in urls if urls.count(url) > 1]
        if twice:
            raise ValueError(f"names an endpoint twice: {twice[0]}")
        return urls

    @model_validator(mode="after")
    def _shared_by_several(self) -> Self:
        if self.sharded and self.processes == 1:
            raise ValueError("sharded weights are shared by several processes; set processes to 2 or more")
        return self
