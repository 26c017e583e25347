"""What is wrong with an answer: an error of ours, or one that is not told as it is documented."""

import json

from testsupport.hostile_requests.connection import Answer
from testsupport.hostile_requests.request import MARK, Request

__all__ = ["whats_wrong"]

_BY_THE_SERVER = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
"""What is no request of HTTP never reaches the application: the server answers it, and closes."""


def whats_wrong(request: Request, answer: Answer | None) -> str | None:
    """A sentence, or None."""
    if answer is None:
        return "it was not answered" if request.whole else None
    if answer.status >= 500:
        return f"it was answered {answer.status}: {answer.body[:500]!r}"
    if answer.status >= 400 and request.method != "HEAD":
        return _not_as_documented(request, answer)
    return None


def _not_as_documented(request: Request, answer: Answer) -> str | None:
    if answer.headers.get("content-type") != "application/problem+json":
        by_the_server = not request.whole and answer.body.decode("latin-1") == _BY_THE_SERVER.get(answer.status)
        if by_the_server or _of_a_websocket(request):
            return None
        return f"{answer.status} is no problem document: {answer.headers} {answer.body[:200]!r}"
    document = json.loads(answer.body)
    if not isinstance(document, dict) or document.get("status") != answer.status or not document.get("title"):
        return f"{answer.status} is not as RFC 9457 has it: {document}"
    if not {"type", "title", "status"} <= set(document) <= {"type", "title", "status", "detail", "errors"}:
        return f"{answer.status} has members that are not documented: {sorted(document)}"
    for error in document.get("errors", ()):
        if set(error) != {"in", "path", "detail"}:
            return f"{answer.status} has an error that is not as documented: {error}"
    # The path of a field has the client's own names in it, and the summary of a single one its path.
    said = [error["detail"] for error in document.get("errors", ())] or [document.get("detail")]
    if MARK in json.dumps(said):
        return f"{answer.status} repeats what was sent: {document}"
    return None


def _of_a_websocket(request: Request) -> bool:
    return b"Upgrade: websocket" in request.raw
