"""Stands for the code that Phi-3-vision's checkpoint brings along: its names and its arguments, in a few small layers.

It is copied into a checkpoint's folder and run from there. Its own forward pass takes images as the real one does:
negative numbers in the places of their vectors, a crop and an overview of each; here the crop is always one square.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3ForCausalLM, Phi3Model


class Phi3VConfig(Phi3Config):
    model_type = "phi3_v"
    embd_layer: dict[str, Any] | None = None
    img_processor: dict[str, Any] | None = None


class Phi3ImageEmbedding(nn.Module):
    def __init__(self, config: Phi3VConfig, wte: nn.Embedding) -> None:
        super().__init__()
        assert config.img_processor is not None
        self.wte = wte
        width = int(config.img_processor["image_dim_out"])
        tower = CLIPVisionConfig(
            hidden_size=width, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=56,
            patch_size=14,
        )  # fmt: skip
        self.img_processor = CLIPVisionModel(tower)
        self.glb_GN = nn.Parameter(torch.zeros(1, 1, 4 * width))
        self.sub_GN = nn.Parameter(torch.zeros(1, 1, 1, 4 * width))
        self.img_projection = nn.Sequential(
            nn.Linear(4 * width, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, config.hidden_size)
        )

    def get_img_features(self, img_embeds: Tensor) -> Tensor:
        states = self.img_processor(img_embeds, output_hidden_states=True).hidden_states
        return states[-2][:, 1:]  # type: ignore[no-any-return]

    def view(self, features: Tensor) -> list[Tensor]:
        """The vectors of one square of 4 x 4 patches, row by row."""
        found = []
        for top in (0, 2):
            for left in (0, 2):
                places = [4 * (top + down) + left + right for down in (0, 1) for right in (0, 1)]
                found.append(torch.cat([features[place] for place in places]))
            found.append(self.sub_GN[0, 0, 0])
        return found

    def forward(self, input_ids: Tensor, pixel_values: Tensor, image_sizes: Any = None) -> Tensor:
        embedded = self.wte(input_ids.clamp_min(0)).clone()
        for row, views in enumerate(pixel_values):
            overview, crop = self.get_img_features(views)
            vectors = torch.stack([*self.view(crop), self.glb_GN[0, 0], *self.view(overview)])
            embedded[row, input_ids[row] < 0] = self.img_projection(vectors)
        return embedded  # type: ignore[no-any-return]


class Phi3VModel(Phi3Model):
    config_class = Phi3VConfig

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.vision_embed_tokens = Phi3ImageEmbedding(config, self.embed_tokens)
        self.post_init()

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Any = None,
        **others: Any,
    ) -> Any:
        if pixel_values is not None:
            assert input_ids is not None
            others["inputs_embeds"] = self.vision_embed_tokens(input_ids, pixel_values, image_sizes)
            input_ids = None
        return super().forward(input_ids, **others)


class Phi3VForCausalLM(Phi3ForCausalLM):
    config_class = Phi3VConfig
    _tied_weights_keys = ["lm_head.weight"]  # type: ignore[assignment]  # noqa: RUF012  # as in transformers 4

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.model = Phi3VModel(config)
        self.post_init()
