"""What the endpoints answer, as the OpenAPI schema tells it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class People(BaseModel):
    """How much people disagreed about the training items: quantiles of the entropy of their votes, in bits."""

    items: int
    raters: float = Field(description="votes an item, on average")
    low: float = Field(description="5 % of the items have less")
    median: float
    high: float = Field(description="5 % of the items have more")


class Trust(BaseModel):
    """Mean Jensen-Shannon distances (base 2) to the raters on items that the model had not learnt from."""

    model: float
    another_panel: float | None = Field(description="of as many other people, at least: the human agreement bound")


class Task(BaseModel):
    """A task that is served."""

    name: str
    model: str = Field(description="what answers: the folder's name")
    card: bool = Field(description="whether `/cards/<name>` says more of it")
    labels: list[str]
    several: bool = Field(description="whether people may choose several labels: the answer is the rates of all")
    ordered: bool = Field(description="whether the labels stand in an order, as the points of a scale do")
    modality: str = Field(description="audio, text or audio+text")
    text_fields: list[str] = Field(description="what to send in `text`: one as it is, several as a JSON object")
    highest_entropy: float = Field(description="bits; when all labels are equally likely")
    people: People | None
    trust: Trust | None


class Limits(BaseModel):
    """What is taken."""

    bytes: int
    seconds: float
    characters: int


class Health(BaseModel):
    """What says that the service is up."""

    status: str
    version: str
    tasks: list[str]


class Tasks(BaseModel):
    """What is served, and within which limits."""

    tasks: list[Task]
    limits: Limits


class Neighbour(BaseModel):
    """A training item that the model takes the input to be like."""

    id: str
    votes: dict[str, float]
    text: dict[str, str]
    likeness: float = Field(description="cosine, -1 to 1")


class Answer(BaseModel):
    """The distribution of human judgement of a clip or a text."""

    task: str
    seconds: float | None = Field(description="of the sound, where there is any")
    speech: bool = Field(
        default=True, description="whether speech was found in the sound; without it, the answer says nothing"
    )
    heard: str | None = Field(
        default=None, description="what is said in the sound, where `serve --transcribe` writes it down"
    )
    probs: dict[str, float] = Field(description="sum to 1, in the task's order")
    entropy: float = Field(description="bits")
    top: str
    contested: bool = Field(description="whether no label holds more than half")
    attributes: dict[str, float] = Field(default={}, description="such as arousal, where the model states them")
    more_contested_than: float | None = Field(description="share of the training items about which people agreed more")
    nearest: list[Neighbour]


class Rates(BaseModel):
    """Where people may choose several labels: what share of them would choose each."""

    task: str
    rates: dict[str, float] = Field(description="each from 0 to 1, in the task's order; no sum")


class Moment(BaseModel):
    """A window of a clip."""

    start: float
    end: float
    voiced: float = Field(description="share of the window with voice in it, by its energy")
    probs: dict[str, float]
    entropy: float


class Timeline(BaseModel):
    """A clip window by window."""

    task: str
    seconds: float
    peaks: list[float] = Field(description="largest absolute sample of equal spans, 0 to 1")
    moments: list[Moment]
