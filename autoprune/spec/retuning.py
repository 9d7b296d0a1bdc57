"""The `retune` section: when a served policy is measured again, and how much worse it may be then."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from autoprune.errors import Mistake
from autoprune.spec.durations import seconds

Watched = Literal["model", "calibration", "alias"]
WATCHED: tuple[Watched, ...] = ("model", "calibration", "alias")
MARGIN = "1 point"

_CRON = re.compile(r"^\S+(\s+\S+){4}$")
_MARGIN = re.compile(r"^(\d+(?:\.\d+)?)\s*(points?|%)$")


@dataclass(frozen=True)
class Margin:
    """How much lower an accuracy may be: `size` in the measure's unit, or as a part of the old value."""

    size: float
    relative: bool

    @classmethod
    def read(cls, text: str) -> Margin:
        """`1 point` is 0.01 of a measure in [0, 1]; `2 %` is a fiftieth of the old value."""
        match = _MARGIN.fullmatch(text)
        if match is None:
            raise Mistake("wrong-form", f"'{text}' is no margin; write '1 point' or '2 %'")
        return cls(float(match[1]) / 100, match[2] == "%")

    def of(self, old: float) -> float:
        """The margin in the measure's unit."""
        return self.size * old if self.relative else self.size


class RetuneSpec(BaseModel):
    """When a published policy is measured again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: str | None = Field(None, description="a cron line of five fields: when `autoprune watch` looks")
    when: tuple[Watched, ...] = Field(WATCHED, description="what has to have changed: model, calibration, alias")
    max_age: Annotated[float | None, BeforeValidator(lambda v: None if v is None else seconds(v))] = Field(
        None, description="measure again after this long, whatever else, such as 30d"
    )
    margin: str = Field(MARGIN, pattern=_MARGIN.pattern, description="such as '1 point' or '2 %'")

    @field_validator("every")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None and not _CRON.match(value.strip()):
            raise Mistake("wrong-form", f"'{value}' is not a cron line of five fields such as '0 3 * * *'")
        return value
