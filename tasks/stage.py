"""The decorator that turns a plain function into a stage; it and `tasks.shown` alone know Prefect."""

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, cast

from data.artifact import Artifact, Counts, DamagedFile, key_material, read_manifest, seal
from data.config import Resources, StageConfig
from data.keys import digest
from data.progress import reporting_to
from tasks.locks import hold
from tasks.machine import commit
from tasks.passing import may_pass
from tasks.runs import ActiveRun, NotStored, StageRecord, current_run, describe
from tasks.shown import ShownProgress, show_stage
from tasks.store import Slot, faults, gate, home

P = ParamSpec("P")
Facts = Callable[..., Mapping[str, Any]]

# What may pass is tried again after so many seconds, up to half of it more: an engine or a network needs a while.
RETRY_SECONDS = (10, 60, 300)

# Default of a stage's parameter `facts`, so that callers may leave it out: the decorator gives the real ones.
NO_FACTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Outcome:
    """What a stage came to: its artifact, and whether this call did the work."""

    artifact: Artifact
    state: Literal["ran", "cached"]
    reason: str  # why it ran; empty for a cached one


@dataclass(frozen=True)
class _Call:
    config: StageConfig
    inputs: dict[str, Artifact]
    arguments: dict[str, Any]  # all parameters of the function but `out` and `facts`, by name


class Stage(Generic[P]):
    """A function `(out, config, inputs..., *, resources=..., facts=...) -> Counts` with a store around it.

    An input is an artifact, None, or a mapping of artifacts by labels.

    Calling it gives an `Artifact`: the sealed one if the store has its key, else the function runs in a folder that
    survives a kill and is sealed when it returns. `fn` is the function itself, `make` the stage without Prefect.
    """

    def __init__(self, fn: Callable[Concatenate[Path, P], Counts], version: int, facts: Facts | None) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = fn.__name__
        self.version = version
        self._facts = facts
        signature = inspect.signature(fn)
        names = list(signature.parameters)
        if names[:2] != ["out", "config"]:
            raise TypeError(f"stage {self.name}: the first parameters are out and config, not {', '.join(names[:2])}")
        self._takes_facts = "facts" in names
        given = [parameter for name, parameter in signature.parameters.items() if name not in ("out", "facts")]
        self._signature = signature.replace(parameters=given)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Artifact:
        """Run as a Prefect task; what the store already has is reported as a completed state named `Cached`.

        Within `tasks.runs.from_store` it is taken from the store without Prefect.
        """
        call = self._bind(args, kwargs)
        run = current_run()
        if run is not None:
            run.admit(self.name, call.arguments)
            if run.stored_only:
                return self._stored(call)
        result = self._prefect_task(call)
        if isinstance(result, Artifact):
            return result
        artifact = result.result()  # Prefect hands back a state that a task made itself as it is
        assert isinstance(artifact, Artifact)
        return artifact

    def make(self, *args: P.args, **kwargs: P.kwargs) -> Outcome:
        """The stage with store, lock and record, but without Prefect."""
        call = self._bind(args, kwargs)
        run = current_run()
        if run is not None:
            run.admit(self.name, call.arguments)
        return self._recorded(call)

    def _stored(self, call: _Call) -> Artifact:
        """What the store has; NotStored too if it could not be told because of what may pass: a task tries again."""
        try:
            return self._recorded(call).artifact
        except Exception as error:
            if may_pass(error):
                raise NotStored(self.name) from error
            raise

    @functools.cached_property
    def _prefect_task(self) -> Callable[[_Call], Any]:
        from prefect import task  # takes two seconds; what only reads a stage's name or config need not wait
        from prefect.cache_policies import NO_CACHE
        from prefect.states import Completed

        def execute(call: _Call) -> Any:
            outcome = self._recorded(call, shown=True)
            if outcome.state == "ran":
                return outcome.artifact
            return Completed(name="Cached", message=f"key {outcome.artifact.key}", data=outcome.artifact)

        def try_again(task: Any, task_run: Any, state: Any) -> bool:
            passing = may_pass(state.data)
            if passing and (run := current_run()) is not None:
                run.display.say(f"{self.name}: {describe(state.data)}. This may pass: it is tried again in a while")
            return passing

        named = task(
            name=self.name,
            task_run_name=self.name,
            description=inspect.getdoc(self.fn),
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=len(RETRY_SECONDS),
            retry_delay_seconds=list(RETRY_SECONDS),
            retry_jitter_factor=0.5,
            retry_condition_fn=try_again,
        )
        wrapped: Callable[[_Call], Any] = named(execute)
        return wrapped

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        config = arguments["config"]
        if not isinstance(config, StageConfig):
            raise TypeError(f"stage {self.name}: config is a StageConfig, not {type(config).__name__}")
        inputs = {}
        for name, value in arguments.items():
            if isinstance(value, Artifact):
                inputs[name] = value
            elif isinstance(value, Mapping) and all(isinstance(one, Artifact) for one in value.values()):
                inputs |= {f"{name}/{label}": one for label, one in value.items()}
            elif name != "config" and value is not None and not isinstance(value, Resources):
                raise TypeError(f"stage {self.name}: {name} is an Artifact, not {type(value).__name__}")
        return _Call(config, inputs, arguments)

    def _recorded(self, call: _Call, shown: bool = False) -> Outcome:
        """Obtain the artifact and write down what became of it; `shown`: within a Prefect task, for its pages too."""
        run = current_run()
        if run is None:
            return self._obtain(call, None, None)
        started = time.perf_counter()
        row = run.begin(self.name)
        try:
            outcome = self._obtain(call, run, row, shown)
        except BaseException as error:
            run.fail(row, error, time.perf_counter() - started)
            raise
        run.finish(row, outcome.state, outcome.artifact, time.perf_counter() - started)
        if shown:
            show_stage(run.record.recipe, row, outcome.artifact.counts.detail)
        return outcome

    def _obtain(self, call: _Call, run: ActiveRun | None, row: StageRecord | None, shown: bool = False) -> Outcome:
        given = {name: value for name, value in call.arguments.items() if isinstance(value, Artifact)}
        facts = dict(self._facts(call.config, **given)) if self._facts else {}
        material = key_material(
            stage=self.name,
            version=self.version,
            config=call.config.model_dump(mode="json"),
            facts=facts,
            inputs={name: {"stage": source.stage, "key": source.key} for name, source in call.inputs.items()},
        )
        slot = Slot(home(), self.name, digest(material))
        if run is not None and row is not None:
            with gate(slot.home):
                run.identify(row, slot.key, material)
        contents = {name: source.content for name, source in call.inputs.items()}
        force = self._why_forced(call, run)
        before = slot.making()
        if force is None:
            artifact, _ = slot.look(contents)
            if artifact is not None:
                return Outcome(artifact, "cached", "")
        if run is not None and run.stored_only:
            raise NotStored(self.name)
        say = run.display.say if run is not None else print
        with hold(slot.lock, lambda holder: say(f"{self.name}: {holder} is making the same artifact; waiting for it")):
            artifact, fault = slot.look(contents)
            if artifact is not None and (force is None or slot.making() != before):  # made while we waited
                return Outcome(replace(artifact, forced=force is not None), "cached", "")
            if fault.startswith("damaged") and force is None:
                say(f"{self.name}: the stored artifact is {fault}; it is made again")
            if row is not None:
                row.reason = force or fault
            if force is not None or not slot.finish_sealed(contents):
                self._work(slot, call, facts, contents, force is not None, shown)
            return Outcome(Artifact(slot.sealed, self.name, slot.key, force is not None), "ran", force or fault)

    def _why_forced(self, call: _Call, run: ActiveRun | None) -> str | None:
        if run is not None and self.name in run.record.rerun:
            return "it was asked for by --rerun"
        anew = [source.stage for source in call.inputs.values() if source.forced]
        return f"{', '.join(anew)} was made anew by --rerun" if anew else None

    def _work(
        self, slot: Slot, call: _Call, facts: dict[str, Any], contents: dict[str, str], forced: bool, shown: bool
    ) -> None:
        _refuse_damaged(call.inputs)
        run = current_run()
        started = time.perf_counter()
        out = slot.prepare(contents, forced)
        try:
            counts = self._call(out, call, facts, shown)
        except DamagedFile as error:
            if out not in error.path.parents:
                raise
            (run.display.say if run is not None else print)(
                f"{self.name}: a part that an earlier attempt left is damaged ({error}); the stage begins anew"
            )
            out = slot.prepare(contents, forced, fresh=True)
            counts = self._call(out, call, facts, shown)
        if not isinstance(counts, Counts):
            raise TypeError(f"stage {self.name} returned {type(counts).__name__}; a stage returns Counts")
        for name, source in call.inputs.items():
            if read_manifest(source.path)["content"] != contents[name]:
                raise ValueError(f"{name} at {source.path} was replaced while {self.name} read it; run again")
        sealed = seal(
            out,
            counts,
            stage=self.name,
            version=self.version,
            config=call.config.model_dump(mode="json"),
            facts=facts,
            inputs=call.inputs,
            seconds=time.perf_counter() - started,
            commit=commit(),
        )
        assert sealed.key == slot.key
        slot.publish()

    def _call(self, out: Path, call: _Call, facts: dict[str, Any], shown: bool) -> Counts:
        """The function itself, its progress reported."""
        run = current_run()
        reporter = run.display.reporter(self.name) if run is not None else None
        if shown and run is not None:
            reporter = ShownProgress(run.record.recipe, self.name, reporter)
        more = {"facts": facts} if self._takes_facts else {}
        with reporting_to(reporter):
            return cast(Callable[..., Counts], self.fn)(out, **call.arguments, **more)


def stage(version: int = 1, facts: Facts | None = None) -> Callable[[Callable[Concatenate[Path, P], Counts]], Stage[P]]:
    """Make a stage of a function `(out, config, inputs..., *, resources=..., facts=...) -> Counts`.

    Args:
        version: raised by hand whenever the same inputs give other rows.
        facts: called with the config and, by name, the inputs; the plain JSON it returns enters the key: digests of
            what the config only names, such as weights, prompts or the listing of a folder. A function with a
            parameter `facts` is given it.
    """
    return lambda fn: Stage(fn, version, facts)


def _refuse_damaged(inputs: Mapping[str, Artifact]) -> None:
    """Read and digest what a stage is about to work from: seconds beside its work, and no damage spreads."""
    for name, source in inputs.items():
        found = faults(source.path)
        if not found:
            continue
        slot = Slot(home(), source.stage, source.key)
        if slot.sealed == source.path:
            with hold(slot.lock, waiting=lambda holder: None):
                if faults(source.path):  # nobody made it anew meanwhile
                    slot.discard_sealed()
        raise ValueError(
            f"{name}, made by {source.stage}, was damaged after it was sealed: {'; '.join(found[:3])}. It was taken out"
            " of the store; run the same command again, and it is made anew"
        )
