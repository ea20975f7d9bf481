"""The vision towers of BLIP-2: EVA's ViT-g, which Hugging Face has, and CLIP's ViT-L, which only LAVIS has.

Both are described by a `Blip2VisionConfig`; two values in it that Hugging Face does not know say what it cannot:

- `tower`: "clip" for CLIP's tower. Absent: EVA's.
- `post_layer_norm_eps`: of the norm after the tower (LAVIS's ln_vision), where it differs from the blocks'. LAVIS has
  1e-5 after ViT-g's 1e-6; Hugging Face has 1e-6 in both places.
"""

from typing import Any

from transformers import Blip2Config, Blip2ForImageTextRetrieval, CLIPVisionConfig, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

# What CLIP's own configuration calls by the same names.
_SHARED = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size", "hidden_act", "layer_norm_eps"),
)


class ClipTower(CLIPVisionModel):  # type: ignore[misc]
    """CLIP's vision transformer without its last blocks, and the norm of all its tokens that BLIP-2 adds."""

    def forward(self, pixel_values: Any = None, **options: Any) -> Any:
        """(B, P, W) features, normed, as `last_hidden_state`."""
        hidden = super().forward(pixel_values, **options).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=self.post_layernorm(hidden))


class ClipBlip2(Blip2ForImageTextRetrieval):  # type: ignore[misc]
    """BLIP-2's first stage over CLIP's tower. Hugging Face's own class cannot load its files."""

    def __init__(self, config: Blip2Config) -> None:
        super().__init__(config)
        vision = config.vision_config
        sizes = {name: getattr(vision, name) for name in _SHARED}
        self.vision_model = ClipTower._from_config(CLIPVisionConfig(**sizes))
        self.post_init()


def model_class(config: Blip2Config) -> type[Blip2ForImageTextRetrieval]:
    """The class that a configuration describes.

    Raises:
        ValueError: if it names a tower that is unknown.
    """
    tower = getattr(config.vision_config, "tower", "eva")
    classes: dict[str, type[Blip2ForImageTextRetrieval]] = {"eva": Blip2ForImageTextRetrieval, "clip": ClipBlip2}
    if tower not in classes:
        raise ValueError(f"the configuration names the vision tower {tower!r}; known are {', '.join(classes)}")
    return classes[tower]


def set_post_norm(model: Blip2ForImageTextRetrieval) -> None:
    """Give the norm after the tower the epsilon that the configuration says, if it says one."""
    vision = model.config.vision_config
    model.vision_model.post_layernorm.eps = getattr(vision, "post_layer_norm_eps", vision.layer_norm_eps)
