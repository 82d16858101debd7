"""Kits for a whole language model and for a task.

    check_model(lambda: MyForCausalLM(MyConfig()).eval(), vocab_size=23, causal=True)
    check_task(lambda: MyTask(data="text.txt"), tokenizer=make_tokenizer, model=make_model)

All checks run; `PartFailed` names those that failed, and what they found.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sj_lang.hf import shield
from sj_lang.task import Prepared, Task
from sj_lang.testing.compare import assert_close, assert_equal
from sj_lang.testing.components import looks_ahead, run_checks

shield()

from transformers import default_data_collator  # noqa: E402
from transformers.trainer_pt_utils import nested_concat  # noqa: E402

LENGTH, BATCH = 8, 3


def check_model(make: Callable[[], Any], *, vocab_size: int, causal: bool) -> list[str]:
    """A transformers model with `logits`, `[B, L, ...]` of tokens or `[B, ...]` of texts, and a
    vocabulary of at least 3. make: builds it with the same weights each time, for `LENGTH` tokens.
    """
    kit = _ModelChecks(make, vocab_size, causal)
    checks: tuple[Callable[[], None], ...] = (
        kit.called_as_transformers_own,
        kit.texts_do_not_mix,
        kit.padding_is_removal,
        kit.causal_as_declared,
    )
    checks = (*checks, kit.loss_is_of_the_labels, kit.pieces_equal_whole, kit.a_checkpoint_rebuilds_itself)
    return run_checks("model", (*checks, kit.gradients_reach_all))


class _ModelChecks:
    def __init__(self, make: Callable[[], Any], vocab_size: int, causal: bool) -> None:
        self.make, self.vocab_size, self.causal = make, vocab_size, causal
        self.ids = torch.randint(vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))

    def built(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return self.make().double().eval()

    def called_as_transformers_own(self) -> None:
        model, ids = self.built(), self.ids
        want = _logits(model, ids)
        for name in ("attention_mask", "output_hidden_states", "output_attentions", "labels", "inputs_embeds"):
            assert_equal(_logits(model, ids, **{name: None}), want, f"with {name}=None")
        first = model(input_ids=ids, return_dict=False)[0]
        assert_equal(first, want, "the first of return_dict=False, against the logits")
        table = model.get_input_embeddings()
        vectors = model(inputs_embeds=table(ids)).logits
        assert_close(vectors, want, "with inputs_embeds= of the table's rows, against input_ids")

    def loss_is_of_the_labels(self) -> None:
        """Of a causal model: each token is predicted one earlier, and -100 does not count."""
        if not self.causal:
            return
        model, labels = self.built(), self.ids.clone()
        labels[0, :3] = labels[1, -2:] = -100
        out = model(input_ids=self.ids, labels=labels)
        want = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        assert out.loss is not None, "no loss with labels"
        what = "the loss, against the mean over the labels that are not -100"
        assert_close(out.loss.double(), want, what, close=1e-5)  # it may be computed in float32

    def texts_do_not_mix(self) -> None:
        model, ids = self.built(), self.ids
        assert_close(_logits(model, ids[1:2]), _logits(model, ids)[1:2], "a text alone against its batch")

    def padding_is_removal(self) -> None:
        model, ids = self.built(), self.ids
        for side in ("right", "left"):
            kept = slice(0, LENGTH - 3) if side == "right" else slice(3, None)
            mask = torch.zeros_like(ids)
            mask[:, kept] = 1
            out, alone = _logits(model, ids, attention_mask=mask), _logits(model, ids[:, kept])
            of_tokens = out.dim() == 3 and out.shape[1] == LENGTH
            assert_close(out[:, kept] if of_tokens else out, alone, f"{side} padding, against the text alone")

    def causal_as_declared(self) -> None:
        model, ids = self.built(), self.ids
        for t in range(1, LENGTH) if self.causal else ():
            moved = torch.cat((ids[:, :t], (ids[:, t:] + 1) % self.vocab_size), 1)
            what = f"tokens from {t} on change the logits of those before"
            assert_close(_logits(model, moved)[:, :t], _logits(model, ids)[:, :t], what)
        if self.causal:
            vectors = model.get_input_embeddings()(ids).detach().requires_grad_()
            logits = model.train()(inputs_embeds=vectors).logits
            for t in range(1, LENGTH):
                assert not looks_ahead(logits[0, :t], vectors, t, 1), f"in train() {t} tokens see later ones"

    def pieces_equal_whole(self) -> None:
        if not self.causal:
            return
        model, padded = self.built(), torch.ones_like(self.ids)
        padded[0, :3] = padded[2, :1] = 0
        for mask, lengths in ((None, (1,) * LENGTH), (padded, (4, 1, LENGTH - 5))):
            cache, pieces, start = None, [], 0
            for length in lengths:
                part = slice(start, start := start + length)
                more: dict[str, Any] = {} if cache is None else {"cache": cache}
                more |= {} if mask is None else {"attention_mask": mask[:, :start]}
                out = model(input_ids=self.ids[:, part], use_cache=True, **more)
                cache = out.cache
                assert cache is not None, "no `cache` with use_cache=True"
                pieces.append(out.logits)
            kept = torch.ones_like(padded).bool() if mask is None else mask.bool()
            whole = _logits(model, self.ids, **({} if mask is None else {"attention_mask": mask}))
            what = f"pieces of {lengths} with a cache{'' if mask is None else ', left padding'}, against the whole"
            assert_close(torch.cat(pieces, 1)[kept], whole[kept], what)

    def a_checkpoint_rebuilds_itself(self) -> None:
        model = self.built()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        want = _logits(model, self.ids)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            again = type(model).from_pretrained(folder, dtype=torch.float64).eval()
        assert_equal(_logits(again, self.ids), want, "logits of what was stored and loaded")

    def gradients_reach_all(self) -> None:
        model = self.built().train()
        torch.autograd.backward(_logits(model, self.ids).square().sum())
        missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, f"no gradient for {', '.join(missing)}"


def _logits(model: Any, ids: Tensor, **more: Any) -> Tensor:
    out: Tensor = model(input_ids=ids, **more).logits
    assert out.shape[0] == len(ids), f"logits {list(out.shape)} of {len(ids)} texts: the batch is not first"
    return out


def _alone(values: list[Any]) -> Any:
    """As a Trainer hands on one value, and several."""
    return values[0] if len(values) == 1 else tuple(values)


def check_task(make: Callable[[], Task], *, tokenizer: Any, model: Callable[[Prepared], Any]) -> list[str]:
    """A task.

    tokenizer: a `MakeTokenizer`, or None if the task reads no text. model: builds one of its
    `auto_class` for the prepared data.
    """

    def prepared(seed: int = 0) -> Prepared:
        return make().prepare(tokenizer, seed=seed)

    def splits(data: Prepared) -> dict[str, Any]:
        named = {"train": data.train, "validation": data.validation, **data.tests}
        return {name: split for name, split in named.items() if split is not None and hasattr(split, "__len__")}

    def batch(data: Prepared, items: list[Any]) -> dict[str, Any]:
        return (data.collate or default_data_collator)(items)

    def figures(data: Prepared, network: Any, split: str, size: int) -> Mapping[str, float]:
        """Of the first items, each read anew."""
        items = [splits(data)[split][i] for i in range(min(5, len(splits(data)[split])))]
        names = data.label_names or ["labels"]
        reduced, labels = [], []
        for start in range(0, len(items), size):
            part = batch(data, items[start : start + size])
            with torch.no_grad():
                outputs = [value for name, value in network(**part).items() if name != "loss"]
            targets = [part[name] for name in names]
            needed = data.reduce(_alone(outputs[: len(names)]), _alone(targets))
            reduced.append([one.numpy() for one in (needed if isinstance(needed, tuple) else (needed,))])
            labels.append([one.numpy() for one in targets])
        joined, of_split = (
            _alone([functools.reduce(nested_concat, batches) for batches in zip(*arrays, strict=True)])
            for arrays in (reduced, labels)
        )
        return data.metrics(split, joined, of_split)

    def declares_what_it_is() -> None:
        task = make()
        for name, kind in (("auto_class", str), ("causal", bool), ("pads", bool)):
            assert isinstance(getattr(task, name, None), kind), f"no {name}, a {kind.__name__}"

    def the_same_seed_gives_the_same_data() -> None:
        one, other = prepared(), prepared()
        assert one.fingerprint == other.fingerprint, "the fingerprint of the data changes"
        for name, split in splits(one).items():
            for i in range(min(5, len(split))):
                first, second = batch(one, [split[i]]), batch(other, [splits(other)[name][i]])
                for key, value in first.items():
                    assert_equal(second[key], value, f"'{key}' of item {i} of {name}, prepared again")

    def pads_as_declared() -> None:
        data, pads = prepared(), make().pads
        for name, split in splits(data).items():
            mask = batch(data, [split[i] for i in range(min(5, len(split)))]).get("attention_mask")
            assert pads or mask is None or bool(mask.all()), f"declared to hold no padding, but {name} has some"

    def figures_are_exact() -> None:
        data = prepared()
        network = model(data).eval()
        for name in [name for name in splits(data) if name != "train"]:
            whole, pieces, again = (figures(data, network, name, size) for size in (5, 2, 5))
            assert data.select in whole, f"{name}: no figure '{data.select}', which chooses the checkpoint"
            for key, value in whole.items():
                for other, what in ((pieces[key], "of batches of 2"), (again[key], "the next time")):
                    close = abs(other - value) <= 1e-5 * max(1.0, abs(value))
                    assert close, f"{name}: {key} is {value:.6g} of a batch of 5, {other:.6g} {what}"

    checks = (declares_what_it_is, the_same_seed_gives_the_same_data, pads_as_declared, figures_are_exact)
    return run_checks("task", checks)
