"""A task: the label set in order, the prompt, and what goes in (sound, text or both). Read from one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shala_audio.errors import UserError, not_one_of
from shala_audio.io import config_path, read_yaml

MODALITIES = ("audio", "text", "audio+text")
MOST_LABELS = 256
OPTIONAL = ("attributes", "ordered", "asked")  # fields of a YAML file
ASKED = "label"  # text field with the word of the label that is asked about
YES, NO = "yes", "no"  # labels of a question about one label
# In a rendered prompt this stands where the sound goes; it becomes one token for every stack of encoder frames.
AUDIO_TOKEN = "<|audio|>"


class _PromptEnvironment(ImmutableSandboxedEnvironment):
    """Prompts place texts and labels: they choose, go through a list once, and filter by the few names of `FILTERS`. All else
    of Jinja, a few characters of which could fill all memory, is refused when the prompt is read."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Node):
            if not isinstance(node, _PLAIN) or (isinstance(node, nodes.Filter) and node.name not in FILTERS):
                what = f"filter {node.name}" if isinstance(node, nodes.Filter) else type(node).__name__.lower()
                raise jinja2.TemplateSyntaxError(f"{what} is not for prompts", node.lineno)
            if isinstance(node, nodes.For) and any(node.find_all(nodes.For)):
                raise jinja2.TemplateSyntaxError("a loop in a loop is not for prompts", node.lineno)
        return tree

    def is_safe_callable(self, obj: Any) -> bool:
        return False


FILTERS = ("capitalize", "first", "join", "last", "length", "lower", "title", "trim", "upper")
_PLAIN = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.CondExpr, nodes.Name, nodes.Const,
    nodes.Getattr, nodes.Getitem, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Filter, nodes.Tuple,
    nodes.List, nodes.Keyword, nodes.Test,
)  # fmt: skip
_JINJA = _PromptEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


@dataclass(frozen=True)
class Label:
    """A label: its `name` in files and results, and the `word` with which the model answers it."""

    name: str
    word: str


@dataclass(frozen=True)
class Attribute:
    """A number that raters give beside the label, such as arousal, on a scale from `low` to `high`."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Task:
    """A label set and how to ask for it.

    Attributes:
        name: what rows name in their `task` field.
        modality: what goes in: "audio", "text" or "audio+text".
        labels: the K labels in order; every array of probabilities follows it.
        prompt: Jinja template of the question. It sees `text` (the row's text fields; none where sound alone goes in),
            `labels` (names) and `audio` (where the sound goes; empty where text alone goes in).
        answer: how the answer begins; the label's word follows it.
        ordered: whether the labels stand in an order, one step apart, as the points of a scale do.
        attributes: numbers that rows may hold in `extra`, and that a model may learn to state beside the distribution.
        asked: labels that the question is about one at a time, as `{{ text.label }}`; its answer is yes or no. None of them
            where it is about all of `labels`.
    """

    name: str
    modality: str
    labels: tuple[Label, ...]
    prompt: str
    answer: str
    attributes: tuple[Attribute, ...] = ()
    ordered: bool = False
    asked: tuple[Label, ...] = field(default=(), repr=False)  # runs are known by what is shown

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def has_audio(self) -> bool:
        return "audio" in self.modality

    def text_fields(self) -> tuple[str, ...]:
        """Names of the text fields that the prompt reads, in its order.

        >>> Task("t", "text", (Label("a", "a"),), "Does {{ text.premise }} mean {{ text.hypothesis }}?", "").text_fields()
        ('premise', 'hypothesis')
        """
        names = []
        for node in _JINJA.parse(self.prompt).find_all(nodes.Expr):
            if isinstance(node, nodes.Getattr | nodes.Getitem) and node.node == nodes.Name("text", "load"):
                names.append(node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None))
        return tuple(dict.fromkeys(str(name) for name in names if name is not None))

    def given_fields(self) -> tuple[str, ...]:
        """Text fields that a user gives: all but the label, where labels are asked about one at a time."""
        return tuple(name for name in self.text_fields() if not (self.asked and name == ASKED))

    def question(self, text: Mapping[str, str]) -> str:
        """The rendered prompt of a row, of whose text nothing is seen where sound alone goes in.

        >>> task = Task("t", "text", (Label("a", "a"), Label("b", "b")), "Feeling of: {{ text.comment }}", "Feeling:")
        >>> task.question({"comment": "Oh no."})
        'Feeling of: Oh no.'

        Raises:
            UserError: the template names a text field that the row does not have, or does something forbidden.
        """
        if self.modality == "text" and not text:
            raise UserError(f"task {self.name}: the row has no text")
        try:
            template = _template(self.prompt)
            text = text if "text" in self.modality else {}
            audio = AUDIO_TOKEN if self.has_audio else ""
            return template.render(text=text, labels=self.label_names, audio=audio).strip()
        except jinja2.UndefinedError as error:
            hint = "; `predict_rates` asks about all labels" if self.asked and ASKED not in text else ""
            raise UserError(
                f"task {self.name}: the prompt needs a text field that is not there ({error}){hint}"
            ) from None
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"task {self.name}: the prompt cannot be rendered for this row ({error})") from None

    def with_input(self, modality: str) -> Task:
        """The same task with other input, for a prompt that is written for it.

        Raises:
            UserError: no such input, or the prompt has no place for it.
        """
        if modality not in MODALITIES:
            raise not_one_of("input", modality, MODALITIES)
        seen = meta.find_undeclared_variables(_JINJA.parse(self.prompt))
        for part in ("audio", "text"):
            if part in modality and part not in seen:
                raise UserError(f"input {modality}: the prompt of task {self.name} has no place for {part}")
        return replace(self, modality=modality)

    def to_dict(self) -> dict[str, Any]:
        """The task as it stands in its YAML file."""
        lists = {name: [asdict(one) for one in getattr(self, name)] for name in ("labels", "attributes", "asked")}
        fields = {**asdict(self), **lists}
        return {name: value for name, value in fields.items() if value or name not in OPTIONAL}


def task_from_dict(fields: Mapping[str, Any], source: str) -> Task:
    """Build a task from a mapping, checking every field.

    Raises:
        UserError: a field is missing, unknown or wrong; the message names `source` and the field.
    """
    needed = {"name", "modality", "labels", "prompt", "answer"}
    if not needed <= set(fields) <= needed | set(OPTIONAL):
        missing, unknown = sorted(needed - set(fields)), sorted(set(fields) - needed - set(OPTIONAL))
        raise UserError(f"{source}: missing fields {missing}, unknown fields {unknown}")
    if fields["modality"] not in MODALITIES:
        raise UserError(f"{source}: modality is {fields['modality']!r}; use one of {', '.join(MODALITIES)}")
    labels = _labels(fields["labels"], "labels", source)
    asked = _labels(fields["asked"], "asked", source) if fields.get("asked") else ()
    prompt, answer = str(fields["prompt"]), str(fields["answer"])
    tree = _parsed(prompt, source)
    for part, place in (("audio", "{{ audio }}"), ("text", "{{ text.<field> }}")):
        if part in fields["modality"] and part not in meta.find_undeclared_variables(tree):
            raise UserError(f"{source}: {part} goes in, but the prompt has no {place}")
    if not isinstance(fields.get("ordered", False), bool):
        raise UserError(f"{source}: ordered is {fields['ordered']!r}; use true or false")
    attributes = tuple(_attribute(attribute, source) for attribute in fields.get("attributes") or ())
    ordered = bool(fields.get("ordered"))
    task = Task(str(fields["name"]), fields["modality"], labels, prompt, answer, attributes, ordered, asked)
    if asked and (task.label_names != (YES, NO) or ASKED not in task.text_fields()):
        raise UserError(
            f"{source}: of `asked`, {{{{ text.{ASKED} }}}} in the prompt is one, and the labels are {YES!r} and {NO!r}"
        )
    return task


def _labels(listed: Any, field: str, source: str) -> tuple[Label, ...]:
    """Labels of a YAML file, each a name, or a mapping of `name` and `word`."""
    if not isinstance(listed, list):
        raise UserError(f"{source}: {field} must be a list")
    if len(listed) > MOST_LABELS:
        raise UserError(f"{source}: {len(listed):,} {field}; at most {MOST_LABELS} can be asked about at once")
    labels = []
    for label in listed:
        label = dict(label) if isinstance(label, Mapping) else {"name": label, "word": label}
        if (
            set(label) - {"name", "word"}
            or not all(isinstance(value, (str, int, float)) and not isinstance(value, bool) for value in label.values())
            or not all(str(label.get(key, label.get("name", ""))).strip() for key in ("name", "word"))
        ):
            raise UserError(
                f"{source}: each label is a name, or a mapping of `name` and `word`; found {label} (yes, no, on and off need "
                "quotes in YAML)"
            )
        labels.append(Label(str(label["name"]), str(label.get("word", label["name"]))))
    for what in ("name", "word"):
        values = [getattr(label, what) for label in labels]
        if len(set(values)) != len(values):
            raise UserError(f"{source}: two labels have the same {what}")
    if len(labels) < 2:
        raise UserError(f"{source}: a task needs two labels or more")
    return tuple(labels)


@cache
def _template(prompt: str) -> jinja2.Template:
    """Compiled once, not for every row."""
    return _JINJA.from_string(prompt)


def _parsed(prompt: str, source: str) -> jinja2.nodes.Template:
    try:
        return _JINJA.parse(prompt)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{source}: the prompt is not a Jinja template ({error})") from None


def _attribute(fields: Any, source: str) -> Attribute:
    whole = isinstance(fields, Mapping) and set(fields) == {"name", "low", "high"}
    numbers = whole and all(type(fields[end]) in (int, float) for end in ("low", "high"))
    if not numbers or not fields["low"] < fields["high"]:
        raise UserError(f"{source}: each attribute has a name, a low and a higher high; found {fields}")
    return Attribute(str(fields["name"]), float(fields["low"]), float(fields["high"]))


def task_of_rows(name: str, manifest: str | Path) -> Task:
    """The task of a manifest's rows: `task.yaml` beside it, where that is of their name, else the one that they name.

    Raises:
        UserError: there is none.
    """
    beside = Path(manifest).with_name("task.yaml")
    if beside.is_file() and (found := load_task(beside)).name == name:
        return found
    try:
        return load_task(name)
    except UserError as error:
        raise UserError(
            f"{manifest}: its rows' task is {name}: {error}; --task names a file that describes it"
        ) from None


def load_task(name_or_path: str | Path) -> Task:
    """Read a task by the name of a file in `configs/tasks`, or by path.

    >>> load_task("chaosnli").label_names
    ('entailment', 'neutral', 'contradiction')
    """
    path = config_path("tasks", str(name_or_path))
    return task_from_dict(read_yaml(path), str(path))
