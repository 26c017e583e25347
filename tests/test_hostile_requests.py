"""Generated requests against both HTTP services, as processes on a real PostgreSQL and a real Valkey: none is a 5xx.

Some are made by Schemathesis from the services' own OpenAPI documents, most by `testsupport.hostile_requests`. One that
is answered wrongly is printed; `generator.request(SERVICE, SEED, NUMBER)` makes it again.
"""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final

import cauce
import httpx
import pytest
import schemathesis
from cauce.dev.servers import PostgresServer, ScratchDatabases, ValkeyServer
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from testsupport.hostile_requests.connection import Answer
from testsupport.hostile_requests.generator import SERVICES, request, requests
from testsupport.hostile_requests.request import MARK, Request
from testsupport.hostile_requests.running_services import RunningService, running_service
from testsupport.hostile_requests.siege import besiege
from testsupport.hostile_requests.verdict import whats_wrong
from testsupport.long_form import PROVE

SEED: Final = 10
OWN, FROM_THE_SCHEMA = (8_800, 1_200) if PROVE else (880, 120)
"""For each of the two services: 20,000 requests in all, and a tenth of them."""

pytestmark = pytest.mark.timeout(1_200 if PROVE else 240)
Services = dict[str, RunningService]


@pytest.fixture(scope="module")
def services(
    session_postgres: PostgresServer, session_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    session_postgres.start()
    session_valkey.resume()
    session_valkey.start()
    session_valkey.flush()
    databases = ScratchDatabases(session_postgres, prefix="hostile")
    with ExitStack() as running:
        yield {
            name: running.enter_context(
                running_service(
                    name,
                    tmp_path_factory.mktemp(name),
                    database_url=databases.database(),
                    redis_url=session_valkey.url,
                    **{f"{name.upper().replace('-', '_')}_ALLOWED_HOSTS": "127.0.0.1"},
                )
            )
            for name in SERVICES
        }
    databases.drop()


USUAL: Final = {
    "accounts": {200, 201, 204, 400, 404, 405, 409, 413, 415, 422},
    "music-discovery": {200, 201, 204, 400, 404, 405, 409, 413, 415, 422},
}


@pytest.mark.parametrize("name", SERVICES)
def test_hostile_requests_get_no_5xx_and_every_error_as_documented(services: Services, name: str) -> None:
    service = services[name]

    outcome = asyncio.run(besiege(name, service.port, seed=SEED, count=OWN))

    assert not outcome.wrong, str(outcome)
    assert sum(outcome.statuses.values()) == OWN
    assert outcome.statuses.keys() >= USUAL[name], "every way a request can end is among them"
    assert outcome.answers["right", 200] > OWN // 40, "there is something to meet"
    assert outcome.statuses[0] < OWN // 10
    assert_is_well_and_says_nothing(service, MARK)


@pytest.mark.parametrize("name", SERVICES)
def test_requests_made_from_the_schema_get_no_5xx_and_what_it_says(services: Services, name: str) -> None:
    service = services[name]
    document = httpx.get(f"{service.url}/openapi.json")
    schema: Any = schemathesis.openapi.from_dict(document.json())
    operations = [found.ok() for found in schema.get_all_operations()]
    each = -(-FROM_THE_SCHEMA // (len(operations) * len(GenerationMode)))
    said, sent = service.log, set[str]()
    for operation in operations:
        for mode in GenerationMode:
            ask_as_described(service, operation, mode, each, sent)

    # Hypothesis also tries texts that it finds in our own code, such as those of our log lines.
    ours = "".join((document.text, said, *(path.read_text() for path in Path(cauce.__file__).parent.rglob("*.py"))))
    assert_is_well_and_says_nothing(service, *(text for text in sent if 8 <= len(text) <= 200 and text not in ours))


def ask_as_described(service: RunningService, operation: Any, mode: GenerationMode, count: int, sent: set[str]) -> None:
    @seed(SEED)
    @settings(_BOUNDED, max_examples=count)
    @given(case=operation.as_strategy(generation_mode=mode))
    def answered_as_described(case: Any) -> None:
        sent.update(texts_in(case.body))
        case.validate_response(case.call(base_url=service.url), checks=_CHECKS)

    answered_as_described()


_CHECKS: Final[list[Any]] = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
_BOUNDED: Final = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from (str(name), *texts_in(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from texts_in(inner)


def assert_is_well_and_says_nothing(service: RunningService, *sent: str) -> None:
    """Its log has no error, and nothing that came in a body but ids, which it names on purpose."""
    assert service.is_ready(), service.log
    lines = service.lines
    assert not [line for line in lines if "Traceback" in line or "[error" in line or "[critical" in line], service.log
    assert not [text for text in sent if any(text in line for line in lines)]


@pytest.mark.parametrize("name", SERVICES)
def test_a_number_and_a_seed_say_which_request_it_is_and_all_kinds_are_among_the_first(name: str) -> None:
    first = list(islice(requests(name, SEED), 300))

    assert first == [request(name, SEED, number) for number in range(300)]
    assert {one.kind for one in first} == {"right", "another body", "another target", "another line", "more headers"}
    assert any(one.sent < len(one.raw) for one in first)


PROBLEM = b'{"type": "about:blank", "title": "Conflict", "status": 409}'


@pytest.mark.parametrize(
    ("status", "media_type", "body", "said"),
    [
        (500, "application/problem+json", PROBLEM.replace(b"409", b"500"), "answered 500"),
        (503, "text/plain", b"Service Unavailable", "answered 503"),
        (409, "application/json", PROBLEM, "no problem document"),
        (409, "application/problem+json", b'{"detail": "Conflict"}', "RFC 9457"),
        (404, "application/problem+json", PROBLEM, "RFC 9457"),
        (409, "application/problem+json", PROBLEM.replace(b"}", b', "input": 1}'), "not documented"),
        (409, "application/problem+json", PROBLEM.replace(b"}", b', "detail": "kanari is taken"}'), "repeats"),
        (400, "text/plain", b"Bad Request", "no problem document"),
    ],
)
def test_an_answer_that_is_not_as_it_should_be_is_noticed(status: int, media_type: str, body: bytes, said: str) -> None:
    right = Request("accounts:1:1", "right", "GET", "/users", b"", 0, whole=True)
    answer = Answer(status, {"content-type": media_type}, body, 0.0)

    assert said in (whats_wrong(right, answer) or "nothing")
    assert whats_wrong(right, None) == "it was not answered"
    assert whats_wrong(right, Answer(409, {"content-type": "application/problem+json"}, PROBLEM, 0.0)) is None
