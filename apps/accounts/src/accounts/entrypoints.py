"""The HTTP door of accounts-ms: shapes of requests and answers, and which error is which status."""

from typing import Annotated

from cauce.fastapi import StrictJsonRoute, problems
from fastapi import APIRouter, FastAPI, Header, Path, Request, Response, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from seedwork.text_types import EmailAddress, Identifier, Username

from accounts import domain
from accounts.application import Accounts, HashingOverloadedError, SignUp
from accounts.domain import KeyReusedError, TakenError, User, UserId, UserNotFoundError

__all__ = ["install"]

Password = Annotated[
    SecretStr,
    Field(min_length=domain.PASSWORD_MIN, max_length=domain.PASSWORD_MAX, examples=["password123"]),
    AfterValidator(lambda secret: SecretStr(domain.parse_password(secret.get_secret_value()))),
]
UserIdInPath = Annotated[Identifier, Path(description="The user's id")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="Any text of yours that is new for each sign-up, kept for 24 hours: a repeat with the same key and "
        "the same body gets the first answer and does nothing else. The same key with another body is refused (422).",
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NewUser(_Body):
    id: Identifier | None = Field(None, description="Chosen by us when absent")
    username: Username
    password: Password
    email: EmailAddress


class UserChange(_Body):
    """What is absent stays as it is."""

    username: Username | None = None
    email: EmailAddress | None = None


class UserView(BaseModel):
    """A user as anybody may see it: without the password."""

    id: str
    username: str
    email: str

    @staticmethod
    def of(user: User) -> "UserView":
        return UserView(id=user.id, username=user.username, email=user.email)


def install(app: FastAPI, accounts: Accounts) -> None:
    """Give `app` the endpoints of `accounts`, and the statuses of its errors."""
    app.include_router(_router(accounts))
    app.add_exception_handler(UserNotFoundError, _not_found)
    app.add_exception_handler(TakenError, _taken)
    app.add_exception_handler(KeyReusedError, _key_reused)
    app.add_exception_handler(HashingOverloadedError, _overloaded)


def _router(accounts: Accounts) -> APIRouter:
    router = APIRouter(prefix="/users", tags=["users"], route_class=StrictJsonRoute)

    @router.post(
        "",
        status_code=status.HTTP_201_CREATED,
        responses=problems.responses(409, 415, 413, 400),
        summary="Sign up",
    )
    async def create(body: NewUser, response: Response, idempotency_key: IdempotencyKey = None) -> UserView:
        request = SignUp(
            id=UserId(body.id) if body.id else None,
            username=domain.Username(body.username),
            email=domain.Email(body.email),
            password=domain.Password(body.password.get_secret_value()),
        )
        user = await accounts.sign_up(request, key=idempotency_key)
        response.headers["location"] = f"/users/{user.id}"
        return UserView.of(user)

    @router.get("/{id}", responses=problems.responses(404), summary="Read a user")
    async def read(id: UserIdInPath) -> UserView:  # noqa: A002  # the name in the path
        return UserView.of(await accounts.get(UserId(id)))

    @router.put("/{id}", responses=problems.responses(404, 409, 415, 413, 400), summary="Change name or e-mail")
    async def change(id: UserIdInPath, body: UserChange) -> UserView:  # noqa: A002
        user = await accounts.change(
            UserId(id),
            username=domain.Username(body.username) if body.username else None,
            email=domain.Email(body.email) if body.email else None,
        )
        return UserView.of(user)

    @router.delete(
        "/{id}",
        status_code=status.HTTP_204_NO_CONTENT,
        response_class=Response,
        responses=problems.responses(404),
        summary="Remove a user",
    )
    async def remove(id: UserIdInPath) -> None:  # noqa: A002
        await accounts.remove(UserId(id))

    return router


# --- errors -------------------------------------------------------------------------------------------------


async def _not_found(_request: Request, _error: Exception) -> Response:
    return problems.problem_response(404, detail="There is no user with this id.")


async def _taken(_request: Request, error: Exception) -> Response:
    fields = error.fields if isinstance(error, TakenError) else ()
    return problems.problem_response(
        409,
        detail=f"Another user has this {' and this '.join(fields)}.",
        errors=[problems.invalid(f"/{name}", "is taken") for name in fields],
    )


async def _key_reused(_request: Request, _error: Exception) -> Response:
    said = "This key belongs to another request. Use a new one for each sign-up."
    return problems.problem_response(
        422, detail=said, errors=[problems.invalid("Idempotency-Key", said, place="header")]
    )


async def _overloaded(_request: Request, _error: Exception) -> Response:
    return problems.problem_response(
        503, detail="Too many sign-ups at once; nothing was done.", headers={"retry-after": "5"}
    )
