"""vLLM in this process, on CPU or GPU."""

import gc
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import Resources
from models.backends import LIKELIEST, Engine, Request, Response, Sampling, TextGenerator, choice_probabilities
from models.backends._replicas import Replicas
from models.checkpoints import Located

log = logging.getLogger(__name__)

_ENVIRONMENT = {
    # The engine in our own process: no second one to be left behind when ours is killed.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
# Preprocessed images that vLLM keeps. An image is asked about once or twice, so more would only fill memory.
_IMAGE_CACHE_GIB = 0.1
_SMALL_WEIGHTS = 2**30
_GIB = 2**30


@dataclass(frozen=True)
class Quirks:
    """What a model needs that its own configuration does not say."""

    trust_remote_code: bool = False
    stop_token_ids: tuple[int, ...] = ()


# By Hugging Face id. Stop tokens of MiniCPM-V 2.6, <|im_end|> and <|endoftext|>: its model card's vLLM example; without
# them it writes on until it is cut off (github.com/OpenBMB/MiniCPM-V/issues/373).
QUIRKS = {"openbmb/MiniCPM-V-2_6": Quirks(trust_remote_code=True, stop_token_ids=(151645, 151643))}


class VllmGenerator:
    """A model in a vLLM engine of this process. One at a time: close it before the next is opened.

    Attributes:
        model: the checkpoint's folder name, or its Hugging Face id.
        revision: digest of the folder's content, or the commit.
    """

    def __init__(
        self, located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
    ) -> None:
        """Start the engine.

        Raises:
            ModuleNotFoundError: if vLLM is not installed.
            ValueError: if a GPU is asked for where vLLM sees none, or the model needs code that may not be run.
        """
        self.model = Path(located.path_or_id).name if located.local else located.path_or_id
        self.revision = located.revision
        self._sampling, self._engine = sampling, engine
        self._quirks = _quirks(located, engine)
        self._running: dict[str, tuple[str, tuple[str, ...]]] = {}  # id and choices, by the engine's name for it
        self._done: list[Response] = []  # not returned yet
        warn_of_orphans()
        vllm = _import_vllm()
        self._before = (dict(os.environ), vllm.torch_set_num_threads)
        arguments = _arguments(located, engine, resources, images_per_prompt, self._quirks)
        with _quiet(stderr=True):
            self._llm: Any = vllm.module.LLM(**arguments)

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        """Answer all requests, in their order; see `finish`."""
        self.begin(requests)
        responses = {response.request_id: response for response in self.finish(len(self._running) + len(self._done))}
        return [responses[request.request_id] for request in requests]

    def begin(self, requests: Sequence[Request]) -> None:
        """Hand requests to the engine, which computes nothing yet."""
        try:
            self._enqueue(requests)
        except Exception as error:
            if len(requests) == 1:
                self._done.append(_refusal(requests[0], error))
            else:  # find out which
                for request in requests:
                    self.begin([request])

    def finish(self, least: int) -> list[Response]:
        """Let the engine work until so many requests are done, or all; returns every response not returned before.

        A prompt that the engine refuses gets a response that says so.
        """
        while len(self._done) < least and self._running:
            for output in self._llm.llm_engine.step():
                self._done.append(_response(*self._running.pop(output.request_id), output))
        responses, self._done = self._done, []
        return responses

    def close(self) -> None:
        """Free the engine's memory and undo what vLLM changed in this process; a second call does nothing."""
        if self._llm is None:
            return
        import torch
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm.llm_engine.renderer.shutdown()
        self._llm = None
        cleanup_dist_env_and_memory()
        gc.collect()
        environment, set_num_threads = self._before
        torch.set_num_threads = set_num_threads  # the CPU engine puts a warning in its place
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)

    def _enqueue(self, requests: Sequence[Request]) -> None:
        """Hand over all of them or, if one is refused, none: processors of models raise whatever they like."""
        conversations = [self._conversation(request) for request in requests]
        names = self._llm.enqueue_chat(conversations, [self._parameters(one) for one in requests], use_tqdm=False)
        for name, request in zip(names, requests, strict=True):
            # Its output has the number only, which vLLM makes unique by further letters.
            self._running[name.partition("-")[0]] = request.request_id, request.choices

    def _conversation(self, request: Request) -> list[dict[str, Any]]:
        images = [
            {"type": "image_pil", "image_pil": image, "uuid": digest}
            for image, digest in zip(request.images, request.image_digests, strict=True)
        ]
        return [{"role": "user", "content": [*images, {"type": "text", "text": request.prompt}]}]

    def _parameters(self, request: Request) -> Any:
        from vllm.sampling_params import SamplingParams, StructuredOutputsParams

        structure = None
        if self._engine.structured and request.answer:
            structure = StructuredOutputsParams(regex=object_pattern(request.answer))
        return SamplingParams(
            temperature=request.temperature,
            top_p=self._sampling.top_p,
            max_tokens=self._sampling.max_tokens,
            seed=request.seed,
            stop_token_ids=list(self._quirks.stop_token_ids) or None,
            structured_outputs=structure,
            logprobs=LIKELIEST if request.choices else None,
            skip_clone=True,  # made for this request alone
        )


def open_generator(
    located: Located, sampling: Sampling, engine: Engine, resources: Resources, images_per_prompt: int
) -> TextGenerator:
    """An engine in this process, or `resources.data_parallel` of them in processes of their own."""
    if resources.data_parallel == 1:
        return VllmGenerator(located, sampling, engine, resources, images_per_prompt)
    warn_of_orphans()
    _import_vllm()
    from vllm.platforms import current_platform

    shares: list[str | None] = [None] * resources.data_parallel
    if not current_platform.is_cpu():
        import torch

        shares = [*device_shares(resources, os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count())]
    return Replicas(VllmGenerator, located, sampling, engine, resources, images_per_prompt, shares)


def device_shares(resources: Resources, visible: str | None, count: int) -> list[str]:
    """The devices of each of the engines side by side, as CUDA_VISIBLE_DEVICES has them.

    Args:
        resources: `data_parallel` engines of `tensor_parallel` devices each.
        visible: that variable as it is; None if it is not set.
        count: devices that there are.

    Raises:
        ValueError: if these are too few.
    """
    engines, each = resources.data_parallel, resources.tensor_parallel
    names = visible.split(",") if visible else [str(place) for place in range(count)]
    if engines * each > count:
        raise ValueError(
            f"data_parallel={engines} x tensor_parallel={each} needs {engines * each} GPUs, there are {count}"
        )
    return [",".join(names[place * each : (place + 1) * each]) for place in range(engines)]


def _refusal(request: Request, error: Exception) -> Response:
    """What the engine raised instead of taking a request; raised again if it is gone."""
    from vllm.exceptions import VLLMServerError

    if isinstance(error, VLLMServerError):
        raise error
    if getattr(error, "parameter", None) == "input_tokens" or "maximum model length" in str(error):
        found = getattr(error, "value", None)
        return Response(request.request_id, "", "too_long", found if isinstance(found, int) else 0, 0)
    return Response(request.request_id, f"{type(error).__name__}: {error}", "error", 0, 0)


def _response(request_id: str, choices: tuple[str, ...], output: Any) -> Response:
    """What one of vLLM's finished outputs says."""
    answer = output.outputs[0]
    text, reason = answer.text, str(answer.finish_reason)
    if reason not in ("stop", "length"):  # a grammar that does not compile, for example
        text, reason = f"the engine ended it: {reason}", "error"
    chosen = choice_probabilities(_steps(answer), choices) if choices else None
    return Response(request_id, text, reason, len(output.prompt_token_ids), len(answer.token_ids), chosen)


def _steps(answer: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Of each token of one of vLLM's outputs its text and the logarithms of the likeliest tokens'."""
    for token, likeliest in zip(answer.token_ids, answer.logprobs or (), strict=False):
        texts: dict[str, float] = {}
        for one in likeliest.values():
            texts.setdefault(str(one.decoded_token), float(one.logprob))
        yield str(likeliest[token].decoded_token), texts


def object_pattern(fields: Sequence[str]) -> str:
    r"""Regular expression of a JSON object of texts that are not empty: {"name": "text", "other": "text"}.

    A pattern, not a JSON schema: within a schema's free white space a weak model writes blanks until its tokens run
    out, and raw control characters inside the texts.
    """
    character = r'([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})'
    return r"\{" + ", ".join(f'"{re.escape(field)}": "{character}+"' for field in fields) + r"\}"


def orphans() -> list[tuple[int, str]]:
    """Process ids and names of this user's vLLM processes whose parent died; they hold memory and do nothing."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            status = (folder / "status").read_text(encoding="utf-8", errors="replace")
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
        except OSError:
            continue  # it has just ended
        facts = dict(re.findall(r"^(Name|PPid):\s*(.*)$", status, re.MULTILINE))
        name = title if title.startswith("VLLM::") else facts.get("Name", "")
        if name.startswith("VLLM::") and _is_reaper(int(facts.get("PPid", 0))):
            found.append((int(folder.name), name))
    return sorted(found)


def warn_of_orphans() -> None:
    """Name the orphans, if any, and say how to end them."""
    left = orphans()
    if left:
        listed = ", ".join(f"{pid} ({name})" for pid, name in left)
        end = " ".join(str(pid) for pid, _ in left)
        log.warning("vLLM processes of a run that died still hold memory: %s. End them with: kill %s", listed, end)


def _is_reaper(pid: int) -> bool:
    """Whether orphans are handed to this process."""
    if pid <= 1:
        return True
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return True
    return name in ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")


@dataclass(frozen=True)
class _Vllm:
    module: Any
    torch_set_num_threads: Any


def _import_vllm() -> _Vllm:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import torch

    try:
        with _quiet():
            import vllm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"vLLM is not installed ({error}); 'uv sync' installs its CPU build, 'uv sync --no-group cpu --group gpu' "
            "the one for NVIDIA GPUs",
            name=error.name,
        ) from error
    return _Vllm(vllm, torch.set_num_threads)


def _arguments(
    located: Located, engine: Engine, resources: Resources, images_per_prompt: int, quirks: Quirks
) -> dict[str, Any]:
    from vllm.platforms import current_platform

    cpu = bool(current_platform.is_cpu())
    if cpu and resources.device == "cuda":
        raise ValueError("device=cuda, but the installed vLLM is its CPU build, or it sees no GPU; use device=auto")
    if not cpu and resources.device == "cpu":
        raise ValueError("device=cpu, but the installed vLLM is its GPU build; 'uv sync' installs the one for CPUs")
    side = engine.image_side
    arguments: dict[str, Any] = {
        "model": located.path_or_id,
        "dtype": engine.dtype,
        "max_model_len": engine.context,
        "trust_remote_code": quirks.trust_remote_code,
        "enable_prefix_caching": True,
        "limit_mm_per_prompt": {"image": {"count": images_per_prompt, "width": side, "height": side}},
        "mm_processor_cache_gb": _IMAGE_CACHE_GIB,
        "tensor_parallel_size": resources.tensor_parallel,
        "use_tqdm_on_load": False,
    }
    if not located.local:
        arguments |= dict.fromkeys(("revision", "tokenizer_revision", "code_revision"), located.revision)
    if not cpu:
        return arguments | {"gpu_memory_utilization": resources.gpu_memory}
    space = os.environ.get("VLLM_CPU_KVCACHE_SPACE")  # in GiB, vLLM's own variable
    room = int(space) * _GIB if space else _cpu_cache_bytes(located)
    # A prompt that is split over two steps makes vLLM turn its request's generator back, which no CPU generator can.
    whole = {"enable_chunked_prefill": False}
    return arguments | whole | {"enforce_eager": True, "kv_cache_memory_bytes": room}


def _cpu_cache_bytes(located: Located) -> int:
    """Room for the keys and values of running requests: half a GiB for the small checkpoints, else four."""
    if located.local:
        weights = sum(path.stat().st_size for path in Path(located.path_or_id).glob("*.safetensors"))
        if weights < _SMALL_WEIGHTS:
            return _GIB // 2
    return 4 * _GIB


def _quirks(located: Located, engine: Engine) -> Quirks:
    """The model's entry of QUIRKS, also of a copy of it in a local folder of the same name."""
    name = located.path_or_id
    if located.local:
        name = next((known for known in QUIRKS if known.split("/")[1] == Path(name).name), name)
    known = QUIRKS.get(name, Quirks())
    if engine.trust_remote_code is False and known.trust_remote_code:
        raise ValueError(f"{name} runs only with code of its own; trust_remote_code=false forbids it")
    return Quirks(bool(engine.trust_remote_code) or known.trust_remote_code, known.stop_token_ids)


@contextmanager
def _quiet(stderr: bool = False) -> Iterator[None]:
    """Keep back warnings and log lines below errors; with `stderr` also what compiled code writes there.

    What was kept back of stderr is shown if the enclosed code raises.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not stderr:
                yield
                return
            with _captured_stderr():
                yield
    finally:
        logging.disable(before)


@contextmanager
def _captured_stderr() -> Iterator[None]:
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(original, 2)
            kept.seek(0)
            sys.stderr.write(kept.read().decode("utf-8", "replace"))
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
