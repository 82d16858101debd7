"""What a task hands to a run: data, batches, and how logits become figures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from sj_lang.manifest import LOSS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.utils.data import IterableDataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

    Reduced = Tensor | tuple[Tensor, ...]
    ReducedArrays = NDArray[np.generic] | tuple[NDArray[np.generic], ...]


#: log(step, figures): after each step of a `Learner`; figures may be empty. Raises to end the run
Log = Callable[[int, Mapping[str, float]], None]


class MapDataset(Protocol):
    """A map-style dataset: items are dicts of the model's forward arguments, `labels` among them.

    One that has `set_epoch(epoch)` is told the number of each epoch, from 0, before it is read.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


class NumberedEpochs:
    """Base of data and orders that differ from epoch to epoch; evaluation stays in epoch 0."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class MakeTokenizer(Protocol):
    """Builds the tokenizer of the recipe, which trains on `texts` if it needs training."""

    def __call__(self, *, texts: Iterable[str]) -> PreTrainedTokenizerBase: ...


class Objective(Protocol):
    """What is minimised in place of the model's own loss: an `nn.Module`, built for one model.

    Its parameters are trained with the model's and lie in the checkpoints, but are not stored with
    the model. It keeps what must not be trained or stored, such as a teacher, outside its modules.
    Evaluation uses the model without it.
    """

    #: further arguments of the model's forward pass, e.g. {"output_hidden_states": True}
    asks: Mapping[str, Any]
    # It may have `figures`, a dict: what was measured when it was built, stored with the run's.

    def __call__(self, outputs: Any, batch: Mapping[str, Any], num_items_in_batch: Tensor | int | None) -> Tensor:
        """The loss of a micro-batch. outputs: the model's, their `loss` scaled as it does.

        num_items_in_batch: labels that are not -100 in all micro-batches of the step. None: the
        model does not accept such a count, and both losses are means over the micro-batch.
        """
        ...


class Learner(Protocol):
    """Trains the model in the place of the Trainer, because the data depend on what it does, as in
    reinforcement learning. Such a run has one process and no checkpoints."""

    #: the fields of `train:` that it follows, `max_steps` among them; others are refused
    reads: Collection[str]

    def train(self, model: PreTrainedModel, arguments: TrainingArguments, log: Log) -> None:
        """Train `model` in place, for `arguments.max_steps` steps with `arguments.seed`."""
        ...

    def play(self, model: PreTrainedModel) -> None:
        """Produce the test data with the model that is tested, each time before they are read;
        `metrics` may then know more than they hold, such as a return."""
        ...


@dataclass(kw_only=True)
class Prepared:
    """Data of one run, cut, tokenized if they are texts, and ready to be batched.

    `reduce(logits, labels)` turns one batch's logits `[B, L, V]` (or `[B, classes]`) into what the
    metrics need, on the device and before anything is gathered, so that no `[N, L, V]` is ever
    kept. It returns one tensor or a tuple of tensors, batch on axis 0; for a language model the
    summed negative log likelihood `[B]` (nats) and the number of scored tokens `[B]`, from which
    means over tokens are exact whatever the batch size. With several `label_names` both are tuples:
    the labels in that order, and as many of the model's outputs.

    `metrics(split, reduced, labels)` gets the same, concatenated over the split as NumPy arrays,
    and returns figures without a prefix, e.g. `{"loss": ..., "bits_per_char": ...}`. `split` is
    `"train"`, `"validation"` or a key of `tests`. If a recipe names the figure that chooses the
    checkpoint, it is called once before the training, on a few samples of the validation, to know
    the names of the figures.
    """

    #: None: the data are no texts (`Task.tokenizes`)
    tokenizer: PreTrainedTokenizerBase | None = None
    #: a stream (without `__len__`) needs train.max_steps
    train: MapDataset | IterableDataset[dict[str, Any]]
    #: chooses the checkpoint; None: no evaluation during training, and the last weights are taken
    validation: MapDataset | None
    #: name -> data set, e.g. {"test": ...}; looked at once, after the training
    tests: Mapping[str, MapDataset]
    reduce: Callable[[Any, Any], Reduced]
    metrics: Callable[[str, ReducedArrays, NDArray[np.generic]], Mapping[str, float]]
    #: list of items -> batch; None: transformers' default (pads, if the tokenizer can)
    collate: Callable[[list[Any]], dict[str, Any]] | None = None
    #: the keys of a batch that are labels; None: those that transformers finds by their names
    label_names: list[str] | None = None
    #: config fields that the data fix, such as vocab_size; a recipe must not contradict them
    model: Mapping[str, Any] = field(default_factory=dict)
    #: the figure of `metrics("validation", ...)` that chooses the checkpoint
    select: str = "loss"
    greater_is_better: bool = False
    #: what the figure `loss` is, and its unit if it has one, as report.html tells it
    loss: str = LOSS
    #: sizes and SHA-256 of the sources, for manifest.json
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    #: sentences for the user before the training, e.g. "37 characters of test are dropped"
    notes: list[str] = field(default_factory=list)
    #: (split, reduced, labels or None) -> {file name: text} for the folder predictions/, e.g. a
    #: submission; None: the reduced arrays are stored as predictions/<split>.npz
    predictions: Callable[[str, ReducedArrays, NDArray[np.generic] | None], Mapping[str, str]] | None = None
    #: (split, reduced, labels) of a test -> what the model got most wrong, in lines for a reader;
    #: they stand in predictions/<split>.errors.txt and in the report
    errors: Callable[[str, ReducedArrays, NDArray[np.generic]], list[str]] | None = None
    #: name -> data set whose labels nobody has: predicted after the tests, not scored
    unlabelled: Mapping[str, MapDataset] = field(default_factory=dict)
    #: {name: {"dev.accuracy": ...}} of simple methods, stored as "baseline.<name>.dev.accuracy"
    baselines: Callable[[], Mapping[str, Mapping[str, float]]] | None = None
    #: sentences that `metrics` and `predictions` leave here for the user to read after the tests
    remarks: list[str] = field(default_factory=list)
    #: model -> its `Objective`, an `nn.Module`; None: its own loss. Called once; raises UserError
    objective: Callable[[PreTrainedModel], nn.Module] | None = None
    #: trains in the place of the Trainer, which then reads `train` only to try the model
    learner: Learner | None = None


class Task:
    """Base of tasks: the keyword-only constructor is the recipe's `task:` section.

    Subclasses set the three attributes, in the class or the constructor, and give `prepare`. They
    know no model; what a model must know of the data goes through `Prepared.model`.
    """

    #: the transformers class that builds the model from its config, e.g. "AutoModelForCausalLM"
    auto_class: str
    #: each position may see earlier positions only
    causal: bool
    #: batches may hold padding
    pads: bool
    #: the data are texts; False: the recipe has no `tokenizer`, and `prepare` gets None for it
    tokenizes: bool = True

    def prepare(self, tokenizer: MakeTokenizer, *, seed: int) -> Prepared:
        """Read, cut and tokenize. Raises UserError for data that cannot be used; writes nothing.

        If a network does not answer, an `Unreachable`: a dry run then checks all but the data.
        """
        raise TypeError(f"{type(self).__name__} has no prepare()")

    def outline(self) -> Mapping[str, Any]:
        """Those fields of `Prepared.model` that are known without the data."""
        return {}

    def sample_prompt(self, prepared: Prepared) -> str | None:
        """The text that a model continues if the recipe has none; None: the task writes no text."""
        return None
