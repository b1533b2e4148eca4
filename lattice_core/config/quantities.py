"""The quantities a config is written in: durations, money and shares as people write them, kept as exact integers.

`10s` → 10¹⁰ ns, `0.5` LAI → 5·10⁸ nanoLAI, `0.04` → 40,000 ppm. Bounds are stated in the reader's unit, and each quantity is
written back in that unit, so that the canonical dump of a config is itself a config.
"""

import math
import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from lattice_core.hardware import MAX_STEP_NS
from lattice_core.units import DAY_NS, HOUR_NS, MAX_PRICE_NLAI, MAX_SUPPLY_NLAI, MINUTE_NS, NANO, PPM

MAX_DURATION_NS = 3_650 * DAY_NS
"""Ten years: a sum of twenty such times fits int64."""

_SUFFIXES_NS = {"d": DAY_NS, "h": HOUR_NS, "m": MINUTE_NS, "s": NANO, "ms": 1_000_000, "us": 1_000, "ns": 1}


@dataclass(frozen=True)
class Quantity:
    """An int in [low, high], written as a decimal number of `unit`s or as text with one of the `suffixes`."""

    low: int
    high: int
    unit: int
    """The int that a plain 1 stands for."""
    allowed: str
    rounding: str = ROUND_HALF_EVEN
    suffixes: tuple[str, ...] = ("",)

    @property
    def pattern(self) -> str:
        return rf"([0-9]{{1,19}}(?:\.[0-9]{{1,18}})?)({'|'.join(self.suffixes)})"

    def read(self, value: object) -> int:
        number = self._exact(value)
        # Compared before it is rounded: a float may be of any size.
        if number is None or not 0 <= number <= self.high or (whole := number.to_integral_value(self.rounding)) < self.low:
            raise _refusal(self.allowed)
        return int(whole)

    def _exact(self, value: object) -> Decimal | None:
        if isinstance(value, str):
            match = re.fullmatch(self.pattern, value)
            return Decimal(match[1]) * _SUFFIXES_NS.get(match[2], self.unit) if match else None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            return None
        return Decimal(str(value)) * self.unit

    def write(self, value: int) -> str:
        if self.suffixes == ("",):
            return f"{(Decimal(value) / self.unit).normalize():f}"
        suffix = next(s for s in _SUFFIXES_NS if value % _SUFFIXES_NS[s] == 0) if value else "s"
        return f"{value // _SUFFIXES_NS[suffix]}{suffix}"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(self.write)
        return core_schema.no_info_plain_validator_function(self.read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        number = {"type": "number", "minimum": self.low / self.unit, "maximum": self.high / self.unit}
        return {"anyOf": [number, {"type": "string", "pattern": f"^{self.pattern}$"}]}


@dataclass(frozen=True)
class Text:
    """A string that matches `pattern` whole."""

    pattern: str
    allowed: str

    def read(self, value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise _refusal(self.allowed)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "pattern": f"^({self.pattern})$"}


class WrittenDefaults(GenerateJsonSchema):
    """The JSON schema of a config, with the defaults of quantities as they are written."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        result = super().default_schema(schema)
        serialization: Any = schema["schema"].get("serialization")
        if serialization is not None:
            result["default"] = serialization["function"](schema["default"])
        return result


def _refusal(allowed: str) -> PydanticCustomError:
    return PydanticCustomError("quantity", "must be {allowed}", {"allowed": allowed})


def _duration(low: int, high: int, most: str) -> Quantity:
    least = "more than 0" if low else "0 or more"
    allowed = f"a duration such as 250ms, 10s, 5m, 1h or 2d, or seconds; {least}, at most {most}"
    return Quantity(low, high, NANO, allowed, ROUND_CEILING, tuple(_SUFFIXES_NS))


def _money(low: int, high: int, what: str, most: str) -> Quantity:
    least = "more than 0" if low else "0 or more"
    return Quantity(low, high, NANO, f"{what} as a number; {least}, at most {most}")


Duration = Annotated[int, _duration(1, MAX_DURATION_NS, "3650d")]
"""Nanoseconds, more than 0."""

Delay = Annotated[int, _duration(0, MAX_DURATION_NS, "3650d")]
"""Nanoseconds, 0 or more."""

OfDay = Annotated[int, _duration(0, DAY_NS, "1d")]
"""Nanoseconds, at most a day."""

Step = Annotated[int, _duration(0, MAX_STEP_NS, "1s")]
"""Nanoseconds of a decoding step."""

ChainDelay = Annotated[int, _duration(1, 30 * DAY_NS, "30d")]
"""Nanoseconds, more than 0, of which the contracts take whole seconds, rounded up."""

Lai = Annotated[int, _money(0, MAX_SUPPLY_NLAI, "LAI", "9000000000")]
"""nanoLAI, 0 or more."""

SomeLai = Annotated[int, _money(1, MAX_SUPPLY_NLAI, "LAI", "9000000000")]
"""nanoLAI, more than 0."""

Price = Annotated[int, _money(0, MAX_PRICE_NLAI, "LAI per million tokens", "1000")]
"""nanoLAI per million tokens, 0 or more."""

PaidPrice = Annotated[int, _money(1, MAX_PRICE_NLAI, "LAI per million tokens", "1000")]
"""nanoLAI per million tokens, more than 0: routing divides by it."""

Share = Annotated[int, Quantity(0, PPM, PPM, "a share from 0 to 1")]
"""Parts per million of an amount of money."""

HalfShare = Annotated[int, Quantity(0, PPM // 2, PPM, "a share from 0 to 0.5")]
"""Parts per million, at most half."""

ProperShare = Annotated[int, Quantity(0, PPM - 1, PPM, "a share from 0 to less than 1")]
"""Parts per million, less than all."""
