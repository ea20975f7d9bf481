"""Words for what a retriever is trained to do, for configurations: importing them costs no seconds of torch."""

from typing import Literal, get_args

Term = Literal["composed_image", "composed_text", "caption_image", "image_caption"]
"""A contrastive loss.

- composed_image: each composed query finds its target image (MRA-CIR, arXiv 2505.19952).
- composed_text: each composed query finds the text of its target (MVFT-JI, arXiv 2505.19707: the first loss).
- caption_image: each caption finds the image it was written of, the reference (MVFT-JI: the second loss).
- image_caption: each image finds its caption among captions and captions that are wrong of it (InstructCIR, arXiv
  2412.05756: the first stage). A triplet's target text is such a wrong caption of its reference.
"""
TERMS: tuple[Term, ...] = get_args(Term)

Similarity = Literal["max", "pooled", "slots"]
"""How two sets of T and S tokens are compared.

- max: mean over the first's tokens of the greatest cosine among the second's, as everywhere here.
- pooled: the cosine of the two normalised means.
- slots: the mean cosine of tokens in the same place, T = S.
"""
