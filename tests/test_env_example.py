"""Whoever copies .env.example gets services that start with it."""

import os
import subprocess

import pytest
from cauce.settings import load, project_settings, resolve
from pydantic import SecretStr
from testsupport.repository import ROOT


@pytest.mark.parametrize("service", ["accounts", "mailing", "music-discovery"])
def test_every_service_accepts_the_variables_of_the_example(service: str) -> None:
    said = subprocess.run(
        ["/bin/sh", "-c", "set -a; . ./.env.example; env"],
        cwd=ROOT,
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
    )
    environment = dict(line.split("=", 1) for line in said.stdout.splitlines())

    settings = load(
        resolve(project_settings(ROOT)[service]), environ={**environment, "CAUCE_ENV_FILE": ""}, folder=ROOT
    )

    name = service.replace("-", "_")
    url = getattr(settings, f"{name}_database_url")
    plain = url.get_secret_value() if isinstance(url, SecretStr) else str(url)
    assert plain == f"postgresql+psycopg://{name}:change-me@127.0.0.1:5432/{name}"
    assert getattr(settings, "broker_url") == f"redis://{name}:change-me@127.0.0.1:6379"  # noqa: B009 — every service's
