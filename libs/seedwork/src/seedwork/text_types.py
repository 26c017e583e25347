"""The checks of `text`, `usernames` and `addresses` as types of pydantic: one annotation for check and OpenAPI alike.

class NewUser(BaseModel):
    username: Username
    email: EmailAddress
    motto: Annotated[str, OneLine(at_most=200)]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from seedwork.addresses import EMAIL_MAX, EMAIL_MIN, email_address
from seedwork.text import ID_LENGTH, ID_PATTERN, ONE_LINE_PATTERN, identifier, one_line
from seedwork.usernames import USERNAME_MAX, username

__all__ = ["CheckedBy", "EmailAddress", "Identifier", "OneLine", "Username"]


@dataclass(frozen=True, slots=True)
class CheckedBy:
    """Annotates a `str` field: `check` returns what is kept or raises ValueError; `shown` is its JSON Schema.

    `check` is given the text as it came, whatever its length: it has to look at that first.
    """

    check: Callable[[str], str]
    shown: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | dict(self.shown)


def OneLine(*, at_most: int, description: str | None = None) -> CheckedBy:  # noqa: N802  # reads as a type
    """`text.one_line` of at most so many characters."""
    shown: dict[str, Any] = {"minLength": 1, "maxLength": at_most, "pattern": ONE_LINE_PATTERN}
    if description:
        shown["description"] = description

    def check(text: str) -> str:
        return one_line(text, at_most=at_most)

    return CheckedBy(check, shown)


_ARTICLES: Final = "12345678-1234-1234-1234-123456789abc"

Identifier = Annotated[
    str,
    CheckedBy(
        identifier,
        {
            "minLength": ID_LENGTH,
            "maxLength": ID_LENGTH,
            "pattern": ID_PATTERN,
            "description": "8-4-4-4-12 hexadecimal digits, of any UUID version",
            "examples": [_ARTICLES],
        },
    ),
]
"""`text.identifier`."""

Username = Annotated[
    str,
    CheckedBy(
        username,
        {
            "minLength": 1,
            "maxLength": USERNAME_MAX,
            "description": "Letters and digits of any script and what is printable in ASCII, without commas and "
            "semicolons; blanks one by one between words (RFC 8265, UsernameCasePreserved)",
            "examples": ["john_doe"],
        },
    ),
]
"""`usernames.username`."""

EmailAddress = Annotated[
    str,
    CheckedBy(
        email_address,
        {
            "minLength": EMAIL_MIN,
            "maxLength": EMAIL_MAX,
            "format": "email",
            "description": "One bare address; its local part in ASCII, no encoded words",
            "examples": ["john.doe@example.com"],
        },
    ),
]
"""`addresses.email_address`."""
