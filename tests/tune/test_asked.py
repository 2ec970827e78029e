"""What a measurement asks for: classes in real proportions, or what held-out images say of themselves."""

from types import SimpleNamespace
from typing import Any

import torch

from fairlead.data.images import Attribute, ImageData
from fairlead.measure.references import counts, spread
from fairlead.models.encoders import ConditionEncoder, ImageEncoder, PromptEncoder
from fairlead.models.model import LabelEncoder
from fairlead.tune.targets import Targets

LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


def data(split: str) -> ImageData:
    captions = tuple(f"a {split} picture {i}" for i in range(6))
    ink = Attribute(("red", "blue"), torch.tensor([0, 1, -1, 0, 1, -1]))
    return ImageData(
        torch.zeros(6, 1, 4, 4, dtype=torch.uint8), LABELS, ("cat", "dog"), "d", split, False, captions, {"ink": ink}
    )


def asked(conditions: tuple[str, ...], n: int) -> Targets:
    model: Any = SimpleNamespace(
        condition_kind="label" if conditions == ("label",) else "more",
        conditions=conditions,
        classes=("cat", "dog") if "label" in conditions else (),
        encode=LabelEncoder(("cat", "dog")),
    )
    judged = SimpleNamespace(asked={"ink": data("test").attributes["ink"]})
    evaluator: Any = SimpleNamespace(reference=data("train"), held_out=data("test"), attributes=judged)
    return Targets.of(model, evaluator, n)


def test_labels_come_in_the_proportions_of_the_reference():
    found = asked(("label",), 9)
    assert counts(found.labels) == [6, 3]
    assert [("cat", "dog")[label] for label in found.labels.tolist()] == list(found.conds)


def test_prompts_are_what_held_out_images_say_and_labels_are_theirs():
    found, index = asked(("text",), 9), spread(LABELS, 9)
    assert list(found.conds) == [f"a test picture {i}" for i in index.tolist()]
    assert torch.equal(found.labels, LABELS[index])
    assert sorted(index[:6].tolist()) == list(range(6))


def test_what_each_sample_should_show_is_that_of_its_prompt_and_labels_ask_for_nothing_more():
    found, ink = asked(("text",), 9), data("test").attributes["ink"].labels
    assert torch.equal(found.attributes["ink"].labels, ink[spread(LABELS, 9)])
    part = found.part(slice(3, 6))
    assert (part.conds, part.labels.tolist()) == (found.conds[3:6], found.labels[3:6].tolist())
    assert torch.equal(part.attributes["ink"].labels, found.attributes["ink"].labels[3:6])
    assert not asked(("label",), 9).attributes


def test_several_conditions_are_written_by_name_and_read_back():
    found, index = asked(("text", "label", "ink"), 6), spread(LABELS, 6)
    parts: dict[str, LabelEncoder | PromptEncoder | ImageEncoder] = {
        "text": PromptEncoder(lambda prompts: torch.tensor([[float(p[-1])] for p in prompts])),
        "label": LabelEncoder(("cat", "dog")),
        "ink": LabelEncoder(("red", "blue"), "ink"),
    }
    condition = ConditionEncoder(parts)(found.conds)
    assert condition.values["text"][:, 0].tolist() == index.tolist()
    assert torch.equal(condition.values["label"], LABELS[index])
    ink = data("test").attributes["ink"].labels[index]
    assert torch.equal(condition.keep["ink"], ink >= 0)
    assert torch.equal(condition.values["ink"][ink >= 0], ink[ink >= 0])
