"""JSON Schemas of the documents, for editors: generated from the registries, so they know every part and measure."""

from __future__ import annotations

from typing import Any, Literal

from autoprune.measures import registry as measures
from autoprune.pruning import parts
from autoprune.search import strategy as strategies
from autoprune.spec.models import EXECUTORS, Spec
from autoprune.spec.sizes import PATTERN

DRAFT = "https://json-schema.org/draft/2020-12/schema"
Json = dict[str, Any]
_POOLS = {"ray": "RaySpec", "ray-tune": "RayTuneSpec"}


def schema_of(document: Literal["spec", "policy", "space"]) -> Json:
    """The JSON Schema (draft 2020-12) of one kind of document."""
    made = {"spec": _spec, "policy": _policy, "space": _space}[document]()
    return {"$schema": DRAFT, **made, "title": f"autoprune/{document}/1"}


# ----------------------------------------------------------------------------------------------------------------- spec
def _spec() -> Json:
    schema = Spec.model_json_schema(by_alias=True)
    search = schema["$defs"]["SearchSpec"]["properties"]
    pools = [_object({name: {"$ref": f"#/$defs/{kind}"}}, (name,)) for name, kind in _POOLS.items()]
    search["executor"] = {"anyOf": [{"enum": list(EXECUTORS)}, *pools]}
    search["strategy"] = _strategies()
    for inlined in ("ExecutorSpec", "StrategySpec"):
        schema["$defs"].pop(inlined, None)
    for name in ("time", "evaluation_timeout"):
        search[name] = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^(\d+(\.\d+)?\s*[smhd]\s*)+$"}]}
    sizes: list[Json] = [{"enum": ["auto", False]}, {"type": "integer", "minimum": 0}]
    schema["$defs"]["ModelSpec"]["properties"]["cache"] = {"anyOf": [*sizes, {"type": "string", "pattern": PATTERN}]}
    properties = schema["properties"]
    known = "|".join(measures.names())
    properties["constraints"]["items"] = {"type": "string", "pattern": rf"^\s*({known})\s*(<=|>=).+$"}
    goal = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {d: _one_key(_measures()) for d in ("minimize", "maximize")},
        "additionalProperties": False,
    }
    text = {"type": "string", "pattern": rf"^(minimize|maximize)\s+({known})$"}
    properties["objectives"] = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": [text, goal]}, "minItems": 1}]
    }
    properties["search_space"] = {"anyOf": [{"type": "string"}, {"type": "object"}]}
    return schema


def _strategies() -> Json:
    found = {name: info for name in strategies.names() if (info := strategies.find(name)) is not None}
    return _one_key({name: _config(info.options) for name, info in found.items()})


def _measures() -> dict[str, Json]:
    found = {name: measures.find(name) for name in measures.names()}
    return {name: _config(info.config) for name, info in found.items() if info is not None}


# ------------------------------------------------------------------------------------------------- policies and spaces
TEXT: Json = {"type": "string", "pattern": r"^\d*\.?\d+(/\d+)?$"}
NUMBER: Json = {"anyOf": [{"type": "number"}, TEXT]}


def _config(config: Any) -> Json:
    schema = config.model_json_schema()
    schema.pop("title", None)
    properties = schema.get("properties", {})
    return {**schema, **({"properties": {k: _or_text(v) for k, v in properties.items()}} if properties else {})}


def _or_text(spec: Json) -> Json:
    """Numbers of parts may be written as text, `1/3`."""
    if spec.get("type") == "number":
        notes: Json = {key: spec[key] for key in ("default", "title") if key in spec}
        number = {key: value for key, value in spec.items() if key not in notes}
        return {"anyOf": [number, TEXT], **notes}
    if any(option.get("type") == "number" for option in spec.get("anyOf", ())):
        return {**spec, "anyOf": [*spec["anyOf"], TEXT]}
    return spec


def _one_key(options: dict[str, Json]) -> Json:
    """A part: a bare name, or a one-key mapping with its parameters."""
    mapping = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": options,
        "additionalProperties": False,
    }
    return {"anyOf": [{"enum": sorted(options)}, mapping]}


def _parts(kind: parts.Kind) -> Json:
    """All parts of a kind but those that no policy can use."""
    found = {name: info for name in parts.names(kind) if (info := parts.find(kind, name)) is not None}
    return _one_key({name: _config(info.config) for name, info in found.items() if info.sites})


def _group() -> Json:
    """`{window: 1/4}` is short for `{window: {side: 1/4}}`."""
    short = {"type": "object", "properties": {"window": NUMBER}, "required": ["window"], "additionalProperties": False}
    return {"anyOf": [*_parts("group")["anyOf"], short]}


def _object(properties: Json, required: tuple[str, ...] = ()) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _score() -> Json:
    normalise = {"enum": ["rank", "minmax", "softmax", "sum", "none"]}
    mix = _object(
        {
            "weights": {"type": "object", "additionalProperties": NUMBER},
            "normalise": normalise,
            "op": {"enum": ["sum", "product", "max"]},
        },
        ("weights",),
    )
    named = {"type": "string", "description": "a name under `criteria`"}
    return {"anyOf": [*_parts("criterion")["anyOf"], _object({"mix": mix}, ("mix",)), named]}


def _policy() -> Json:
    keep = {
        "anyOf": [
            *NUMBER["anyOf"],
            *(_object({kind: NUMBER}, (kind,)) for kind in ("of_current", "to_budget")),
            _object({"tokens": {"type": "integer", "minimum": 0}}, ("tokens",)),
        ]
    }
    counted = {"rule": {"$ref": "#/$defs/count"}, "most": NUMBER, "least": NUMBER}
    fitted = {"rule": {"$ref": "#/$defs/count"}, "fit": keep}
    keep = {"anyOf": [*keep["anyOf"], _object(counted, ("rule",)), _object(fitted, ("rule", "fit"))]}
    pick = {
        "score": {"$ref": "#/$defs/score"},
        "select": {"$ref": "#/$defs/select"},
        "group": {"$ref": "#/$defs/group"},
        "allocate": {"$ref": "#/$defs/score"},
    }
    loose = {"overlap": {"type": "boolean"}, "dilate": {"enum": ["none", "cross"]}, "count": {"$ref": "#/$defs/count"}}
    rest = {
        "merge": {"$ref": "#/$defs/merge"},
        "protect": {
            "anyOf": [
                {"enum": ["newlines", "last"]},
                _object({"index": {"type": "array", "items": {"type": "integer"}}}, ("index",)),
            ]
        },
        "positions": {"enum": ["keep", "compact"]},
        "attend": {"const": "mass"},
    }
    picks = {"type": "array", "items": _object({"share": NUMBER, **pick, **loose}), "minItems": 1}
    site = {"type": "string", "pattern": r"^(projector|input|llm:\d+(/\d+)?)$"}
    own = {"restore": {"enum": ["parked", "scattered"]}, "merge_on": {"enum": ["projected", "encoder", "earliest"]}}
    stage = _object({"at": site, "keep": keep, "pick": picks, **pick, **rest, **own}, ("at", "keep"))
    curve = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "propertyNames": {"enum": ["steps", "geometric", "linear", "logistic", "p_sigmoid"]},
    }
    along = {"type": "array", "items": {"anyOf": [{"type": "integer"}, NUMBER]}, "minItems": 2, "maxItems": 2}
    curved = _object({"along": along, "curve": curve, "pick": picks, **pick, **rest}, ("along", "curve"))
    repeated = _object({"along": along, "keep": keep, "pick": picks, **pick, **rest}, ("along", "keep"))
    top = {
        "schema": {"const": "autoprune/policy/1"},
        "name": {"type": "string"},
        "paper": {"type": "string"},
        "claims": {"type": "object"},
        "literal": {"type": "object"},
        "parity": _object(
            {
                "positions": {"enum": ["keep", "compact"]},
                "rows": {"enum": ["mean", "sum"]},
                "notes": {"type": "string"},
            }
        ),
        "confidence": {"enum": ["high", "low"]},
        "assumed": {"type": "string"},
        "criteria": {"type": "object", "additionalProperties": {"$ref": "#/$defs/score"}},
        "stages": {"type": "array", "items": {"anyOf": [stage, curved, repeated]}},
        "guard": {"type": "array", "items": _guard_rule()},
    }
    made = _object(top, ("schema", "name", "stages"))
    return {
        **made,
        "$defs": {
            "score": _score(),
            "select": _parts("selector"),
            "group": _group(),
            "merge": _parts("merger"),
            "count": _parts("count"),
        },
    }


def _guard_rule() -> Json:
    """One rule of a policy's guard."""
    entropy = _object({"stage": {"type": "integer", "minimum": 0}, "value": NUMBER}, ("value",))
    conditions = {
        "tokens_below": {"type": "integer", "minimum": 1},
        "prompt": {"type": "string", "minLength": 1, "maxLength": 200},
        "entropy_above": {"anyOf": [*NUMBER["anyOf"], entropy]},
    }
    when = {"anyOf": [_object({name: value}, (name,)) for name, value in conditions.items()]}
    use = {"anyOf": [{"const": "none"}, _object({"budget": NUMBER}, ("budget",))]}
    return _object({"when": when, "use": use}, ("when", "use"))


def _space() -> Json:
    """A policy with holes: what stands in a stage is checked by `autoprune validate`, the frame by this schema."""
    pair = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
    holes = [
        _object({"float": pair, "log": {"type": "boolean"}}, ("float",)),
        _object({"int": pair, "log": {"type": "boolean"}}, ("int",)),
        _object({"layer": pair}, ("layer",)),
        _object({"weights": {"type": "array", "items": {"type": "string"}, "minItems": 2}}, ("weights",)),
        _object({"choice": {"type": "array", "minItems": 1}}, ("choice",)),
    ]
    top = {
        "schema": {"const": "autoprune/space/1"},
        "name": {"type": "string"},
        "paper": {"type": "string"},
        "budget": {"anyOf": [holes[0], NUMBER]},
        "params": {"type": "object", "additionalProperties": {"anyOf": holes}},
        "order": {"type": "array", "items": {"type": "string"}},
        "criteria": {"type": "object"},
        "stages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "warm_start": {"type": "array", "items": {"type": "string"}},
    }
    own = {key: top[key] for key in ("budget", "params", "order", "criteria", "stages")}
    arms = {
        "type": "object",
        "minProperties": 2,
        "maxProperties": 12,
        "additionalProperties": _object(own, ("stages",)),
    }
    made = _object({**top, "arms": arms}, ("schema",))
    return {**made, "oneOf": [{"required": ["stages"]}, {"required": ["arms"]}]}
