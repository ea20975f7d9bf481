"""What all studies do: make once what their rows share; then write, train on and measure what each row is about."""

from data.artifact import Artifact
from flows.mra_cir import MraCir
from flows.mvft_ji import MvftJi
from tasks.encode import encode
from tasks.evaluate import EvaluateConfig, evaluate
from tasks.filter import filter
from tasks.generate import generate
from tasks.ingest import ingest
from tasks.plans import GenerateConfig
from tasks.rank import rank
from tasks.sample import sample
from tasks.train import TrainConfig, train


class Study:
    """Ingests and encodes; each method is a stage, or two, with the recipe's settings where no others are given.

    Attributes:
        images: the ingested images.
        tokens: their tokens.
    """

    def __init__(self, config: MraCir | MvftJi) -> None:
        self.config, self.resources = config, config.resources
        self.images = ingest(config.ingest, resources=self.resources)
        self.tokens = encode(config.encode, self.images, resources=self.resources)

    def ranked(self, config: MraCir) -> Artifact:
        """Rank every image, for it is not known yet which the rows ask for."""
        return rank(config.rank, self.tokens, resources=self.resources)

    def paired(self, config: MraCir) -> tuple[Artifact, Artifact]:
        """The ranking, and the pairs that are drawn from it."""
        ranking = self.ranked(config)
        return ranking, sample(config.sample, ranking)

    def written(self, by: GenerateConfig, pairs: Artifact | None = None) -> Artifact:
        """Triplets of these pairs, or of single images, that pass the filters."""
        triplets = generate(by, pairs, self.images, resources=self.resources)
        return filter(self.config.filter, triplets, self.images, self.tokens, resources=self.resources)

    def trained(self, how: TrainConfig, triplets: Artifact) -> Artifact:
        """A retriever for each seed."""
        return train(how, triplets, self.images, self.tokens, resources=self.resources)

    def measured(self, trained: Artifact, texts: Artifact | None = None, *, alone: bool = False) -> Artifact:
        """The scores of a retriever, with the baselines unless it is measured `alone`."""
        how: EvaluateConfig = self.config.evaluate
        if alone:
            how = how.model_copy(update={"baselines": ()})
        return evaluate(how, trained, self.tokens, texts, resources=self.resources)
