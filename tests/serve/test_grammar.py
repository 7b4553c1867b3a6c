"""`response_format`: whatever a model prefers, a finished answer is JSON that its schema accepts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from nanochat.config.training import ModelConfig
from nanochat.errors import BadConfig
from nanochat.inference.engine import Engine
from nanochat.inference.request import Grammar, Request, SamplingParameters
from nanochat.model.architecture import Architecture
from nanochat.model.gpt import GPT
from nanochat.serve.grammar import grammar
from nanochat.tokenizer.bpe import Tokenizer

TEXT = ['{"name": "Ada", "age": 36, "tags": ["a", "b"], "ok": true, "none": null}\n', "žluťoučký kůň 🐎 yes. " * 3]
MOST_TOKENS = 400


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train_from_iterator(TEXT, 320)


def json_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def answer(made: Grammar, tokenizer: Tokenizer, seed: int) -> tuple[str, bool]:
    """A text of random allowed tokens, and whether it was ended by an end token."""
    generator = np.random.default_rng(seed)
    # as a real model, with a taste: some tokens are much more likely than others
    weights = np.exp(generator.normal(size=tokenizer.vocab_size) * 2)
    ends = [tokenizer.special("<|assistant_end|>"), tokenizer.bos]
    ids: list[int] = []
    for _ in range(MOST_TOKENS):
        allowed = made.allowed()
        assert allowed.shape == (tokenizer.vocab_size,) and allowed.dtype == bool
        assert not any(allowed[number] for number in tokenizer.special_tokens.values() if number not in ends)
        complete = is_json(tokenizer.decode_bytes(ids))
        assert not any(allowed[ends]) or complete, "it may not end inside the JSON"
        chances = np.where(allowed, weights, 0)
        token = int(generator.choice(tokenizer.vocab_size, p=chances / chances.sum()))
        if token in ends:
            return tokenizer.decode_bytes(ids).decode(), True
        made.accept(token)
        ids.append(token)
    return tokenizer.decode(ids), False


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def random_schema(rng: random.Random, depth: int = 3) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern", "date"]
    if depth:
        kinds += ["object", "array", "anyOf", "tuple", "nullable"] * 2
    kind = rng.choice(kinds)
    low, high = sorted(rng.sample(range(-500, 500), 2))
    match kind:
        case "string":
            return {"type": "string", "minLength": rng.randrange(3), "maxLength": rng.randrange(3, 20)}
        case "integer":
            return {"type": "integer", "minimum": low, "maximum": high}
        case "number":
            return {"type": "number", "exclusiveMinimum": low, "maximum": high}
        case "boolean" | "null":
            return {"type": kind}
        case "enum":
            return {"enum": rng.sample(["red", 'gr"een', "blü", "", 1, 2.5, None, True, [1], {"a": 2}], 4)}
        case "const":
            return {"const": rng.choice(["x y", 17, {"k": ["ž"]}])}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(["^[a-c]{2,5}$", "^(yes|no)$", "^\\d{3}-\\d{2}$"])}
        case "date":
            return {"type": "string", "format": "date"}
        case "object":
            names = rng.sample(["name", "age", "a b", "ž", "tags", 'x"y'], rng.randrange(1, 5))
            properties = {name: random_schema(rng, depth - 1) for name in names}
            required = rng.sample(names, rng.randrange(len(names) + 1))
            return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        case "array":
            least = rng.randrange(3)
            items = random_schema(rng, depth - 1)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + rng.randrange(3)}
        case "tuple":
            return {
                "type": "array", "prefixItems": [random_schema(rng, depth - 1) for _ in range(2)], "items": False,
                "minItems": 2,
            }  # fmt: skip
        case "nullable":
            return {"anyOf": [random_schema(rng, depth - 1), {"type": "null"}]}
        case _:
            return {"anyOf": [random_schema(rng, depth - 1) for _ in range(2)]}


@pytest.mark.parametrize("seed", range(60))
def test_a_finished_answer_validates(tokenizer: Tokenizer, seed: int) -> None:
    schema = {**random_schema(random.Random(seed)), "title": "Answer"}
    jsonschema.Draft202012Validator.check_schema(schema)
    make = grammar(json_schema(schema, strict=seed % 2 == 0), tokenizer)
    assert make is not None
    finished = 0
    for attempt in range(4):
        text, ended = answer(make(), tokenizer, 10 * seed + attempt)
        if ended:
            finished += 1
            jsonschema.validate(json.loads(text), schema)
    assert finished, "these schemas bound every part but numbers"


def test_a_json_object_is_an_object(tokenizer: Tokenizer) -> None:
    make = grammar({"type": "json_object"}, tokenizer)
    assert make is not None
    answers = [answer(make(), tokenizer, seed) for seed in range(12)]
    objects = [json.loads(text) for text, ended in answers if ended]
    assert len(objects) > 1
    assert all(isinstance(each, dict) for each in objects)


def test_text_needs_no_grammar(tokenizer: Tokenizer) -> None:
    assert grammar({"type": "text"}, tokenizer) is None


def test_answers_of_one_schema_are_independent(tokenizer: Tokenizer) -> None:
    make = grammar(json_schema({"enum": [12, 34]}), tokenizer)
    assert make is not None
    first, second = make(), make()
    first.accept(ord("1"))
    assert tokenizer.decode(np.flatnonzero(first.allowed())) == "2"
    assert set(np.flatnonzero(second.allowed())) == {ord("1"), ord("3")}


def test_after_the_end_only_end_tokens_are_allowed(tokenizer: Tokenizer) -> None:
    make = grammar(json_schema({"const": 7}), tokenizer)
    assert make is not None
    made = make()
    made.accept(ord("7"))
    ends = {tokenizer.special("<|assistant_end|>"), tokenizer.bos}
    assert set(np.flatnonzero(made.allowed())) == ends
    made.accept(tokenizer.bos)
    assert set(np.flatnonzero(made.allowed())) == ends


def test_a_model_cannot_fill_its_answer_with_space(tokenizer: Tokenizer) -> None:
    make = grammar(json_schema({"type": "array", "items": {"type": "null"}, "minItems": 1}), tokenizer)
    assert make is not None
    made = make()
    made.accept(ord("["))
    spaces = 0
    for _ in range(100):
        allowed = made.allowed()
        found = [number for number in (ord(" "), ord("\n"), ord("\t")) if allowed[number]]
        if not found:
            break
        made.accept(found[-1])
        spaces += 1
    assert 1 < spaces < 20


def chain(keyword: str, length: int) -> dict[str, Any]:
    return {keyword: [{"type": "string", "pattern": f".*{number}.*"} for number in range(length)]}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"oneOf": [{"type": "string"}, {"maxLength": 3}]}, "oneOf"),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"type": "string", "pattern": "(?=a)b"}, "regex"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "string", "format": "klingon"}, "Unknown format: klingon"),
        ({"$ref": "https://example.org/schema.json"}, "https://example.org/schema.json"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
        ({"const": 10**400}, "number out of range"),
        ({"type": "integer", "minimum": float("nan")}, "cannot be written as JSON"),
        ({"properties": 5}, "properties must be an object"),
        ({"type": "number", "multipleOf": 0}, "greater than 0"),
        ({"type": "integer", "multipleOf": 1_000_003}, "multipleOf"),
        ({"allOf": [{"multipleOf": 9_973}, {"multipleOf": 9_967}]}, "multipleOf"),
        (chain("allOf", 16), "16 patterns"),
        ({"type": "object", "patternProperties": {f"^x{n}$": {} for n in range(300)}}, "300 patterns"),
        ({"enum": ["x" * 40_000]}, "the limit is 32,768"),
        (nested(120), "nested deeper than"),
        (nested(2_000), "nested deeper than"),
        ({"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(1000)}}, "row"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(
    tokenizer: Tokenizer, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadConfig) as caught:
        grammar(json_schema(schema), tokenizer)
    assert reason.lower() in caught.value.message.lower()
    assert "response_format" in caught.value.message


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "json_schema": {"schema": [1]}},
        {"type": "json_schema", "json_schema": "x"},
    ],
)
def test_another_form_is_refused(tokenizer: Tokenizer, given: dict[str, Any]) -> None:
    with pytest.raises(BadConfig, match="response_format"):
        grammar(given, tokenizer)


def test_many_fields_with_dates_and_patterns_are_an_ordinary_schema(tokenizer: Tokenizer) -> None:
    """As pydantic writes optional fields: `anyOf` with null, beside annotations."""
    day = {"type": "string", "format": "date"}
    fields = {f"day_{n}": {"anyOf": [day, {"type": "null"}], "default": None, "title": f"Day {n}"} for n in range(20)}
    make = grammar(json_schema({"type": "object", "properties": fields}), tokenizer)
    assert make is not None
    assert make().allowed().any()


TOO_WIDE = json_schema(
    {
        "type": "array",
        "prefixItems": [
            {"type": "string", "minLength": 18, "maxLength": 18},
            {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(800)}},
        ],
        "minItems": 2,
    }
)
"""Hundreds of optional fields exceed a limit when their object begins."""


def test_an_answer_that_exceeds_a_limit_ends_and_is_not_complete(tokenizer: Tokenizer) -> None:
    make = grammar(TOO_WIDE, tokenizer)
    assert make is not None
    made = make()
    assert not made.complete
    for byte in b'["a long enough text",{':
        assert made.allowed()[byte]
        made.accept(byte)
    ends = {tokenizer.special("<|assistant_end|>"), tokenizer.bos}
    assert set(np.flatnonzero(made.allowed())) == ends
    assert not made.complete


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer) -> Iterator[Engine]:
    """Of a model with random weights; one thread, since it is very small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = ModelConfig(depth=2, aspect_ratio=16, head_dim=16, window_pattern="SL")
    model = GPT(Architecture(model=options, vocab_size=tokenizer.vocab_size, sequence_len=512))
    model.init_weights(1)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))  # it is zero at the start
    yield Engine(model, tokenizer)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_engine_with_many_schemas_at_once_finishes_valid_answers(
    engine: Engine, tokenizer: Tokenizer, temperature: float
) -> None:
    schemas = [random_schema(random.Random(seed)) for seed in range(16)]
    requests = [
        Request(
            prompt=[tokenizer.bos, *tokenizer.encode(f"Question {seed}:")],
            sampling=SamplingParameters(max_tokens=100, temperature=temperature, seed=seed),
            grammar=grammar(json_schema(schema), tokenizer),
        )
        for seed, schema in enumerate(schemas)
    ]
    finished = 0
    for schema, (each,) in zip(schemas, engine.complete(requests), strict=True):
        assert each.finish in ("stop", "length")
        if each.finish == "stop":
            finished += 1
            jsonschema.validate(json.loads(each.text), schema)
        else:
            assert len(each.ids) == 100
    assert finished > len(schemas) / 2


def test_an_answer_that_is_cut_off_has_reached_its_length(engine: Engine, tokenizer: Tokenizer) -> None:
    schema = {"type": "string", "minLength": 100}
    make = grammar(json_schema(schema), tokenizer)
    request = Request(prompt=[tokenizer.bos], sampling=SamplingParameters(max_tokens=5), grammar=make)
    ((cut,),) = engine.complete([request])
    assert (cut.finish, len(cut.ids)) == ("length", 5)
    make = grammar(TOO_WIDE, tokenizer)
    request = Request(prompt=[tokenizer.bos], sampling=SamplingParameters(max_tokens=300), grammar=make)
    ((cut,),) = engine.complete([request])
    assert (cut.finish, len(cut.ids) < 300) == ("length", True)
