"""The API page of both services loads nothing from elsewhere."""

import re
from collections.abc import Callable

import httpx
import pytest
from accounts.main import build as build_accounts
from accounts.settings import Settings as AccountsSettings
from cauce.settings import load
from fastapi import FastAPI
from music_discovery.main import build as build_discovery
from music_discovery.settings import Settings as DiscoverySettings


def _accounts() -> FastAPI:
    return build_accounts(load(AccountsSettings, environ={"EVENTS_TRANSPORT": "memory"}))[1]


def _discovery() -> FastAPI:
    return build_discovery(load(DiscoverySettings, environ={"EVENTS_TRANSPORT": "memory"}))[1]


@pytest.mark.parametrize("app", [_accounts, _discovery], ids=["accounts", "music-discovery"])
async def test_every_script_style_and_picture_of_the_api_page_is_our_own(app: Callable[[], FastAPI]) -> None:
    transport = httpx.ASGITransport(app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/docs")
        assert answer.status_code == 200
        parts = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
        ours = [part for part in parts if part.startswith("/")]
        elsewhere = [part for part in parts if not part.startswith("/")]
        assert ours
        assert not elsewhere
        for part in ours:
            assert (await client.get(part)).status_code == 200
