"""`cauce config`, over a project of two services in a temporary folder."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cauce.cli.commands import config
from cauce.errors import ConfigurationError
from cauce.settings import load, project_settings, resolve

SHOP = """
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

class Settings(BaseSettings):
    redis_host: str = Field("localhost", description="the broker")
    redis_pass: SecretStr | None = Field(None, description="its password")
    shop_port: int = Field(3000, description="HTTP")
"""
POST = """
from pydantic_settings import BaseSettings

class Settings(BaseSettings):
    redis_host: str = "localhost"
    post_port: int = 3001
"""
PYPROJECT = """
[tool.cauce.dev.services.shop]
settings = "shop_for_config_test:Settings"
[tool.cauce.dev.services.post]
settings = "post_for_config_test:Settings"
[tool.cauce.dev.services.foreign]
command = ["node", "server.js"]
"""

Run = Callable[..., int]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "shop_for_config_test.py").write_text(SHOP)
    (tmp_path / "post_for_config_test.py").write_text(POST)
    (tmp_path / ".cauce").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    for name in ("REDIS_HOST", "REDIS_PASS", "CAUCE_ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for module in ("shop_for_config_test", "post_for_config_test"):
        sys.modules.pop(module, None)


@pytest.fixture
def cauce_config() -> Run:
    def run(*arguments: str) -> int:
        parser = argparse.ArgumentParser()
        config.register(parser.add_subparsers())
        return config.run(parser.parse_args(["config", *arguments]))

    return run


def test_every_setting_of_every_service_is_a_row(
    project: Path, cauce_config: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / ".cauce" / "dev.env").write_text("REDIS_PASS=hunter2\nPOST_PORT=3100\n")
    assert cauce_config() == 0
    assert capsys.readouterr().out == (
        "shop\n"
        "  REDIS_HOST  localhost  default           the broker\n"
        "  REDIS_PASS  ••••       .cauce/dev.env:1  its password\n"
        "  SHOP_PORT   3000       default           HTTP\n"
        "\n"
        "post\n"
        "  REDIS_HOST  localhost  default\n"
        "  POST_PORT   3100       .cauce/dev.env:2\n"
    )


def test_names_of_60_characters_leave_values_and_meanings_whole(
    project: Path, cauce_config: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "the_address_of_the_house_in_which_the_mail_server_lives_today"
    (project / "shop_for_config_test.py").write_text(
        "from pydantic import Field\nfrom pydantic_settings import BaseSettings\n"
        f"class Settings(BaseSettings):\n    {name}: str = Field('smtp.example.com:2525', description='of the mail server')\n"
    )
    assert cauce_config("shop") == 0
    assert capsys.readouterr().out == (
        f"shop\n  {name.upper()}\n    smtp.example.com:2525\n    default · of the mail server\n"
    )


def test_one_service_as_json(
    project: Path, cauce_config: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_HOST", "10.0.0.1")
    assert cauce_config("post", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "post": [
            {"name": "REDIS_HOST", "value": "10.0.0.1", "origin": "environment", "description": ""},
            {"name": "POST_PORT", "value": "3001", "origin": "default", "description": ""},
        ]
    }


def test_problems_of_all_services_are_told_once_and_end_with_2(
    project: Path, cauce_config: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / ".cauce" / "dev.env").write_text("SHOP_PORT=x\nPOST_PRT=1\nREDIS_HOTS=y\n")
    assert cauce_config() == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "3 problems in the configuration:\n"
        "  · POST_PRT (.cauce/dev.env:2) is not a setting. Did you mean POST_PORT?\n"
        "  · REDIS_HOTS (.cauce/dev.env:3) is not a setting. Did you mean REDIS_HOST?\n"
        "  · SHOP_PORT=x (.cauce/dev.env:1): not a whole number\n"
    )


def test_an_unknown_service_is_answered_with_the_nearest(
    project: Path, cauce_config: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cauce_config("shpo") == 2
    assert capsys.readouterr().err == "No service 'shpo'; the project has shop, post. Did you mean 'shop'?\n"


def test_outside_of_a_project_it_says_what_is_missing(
    cauce_config: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cauce_config() == 2
    assert "no pyproject.toml here or above" in capsys.readouterr().err


def test_a_key_of_another_service_of_the_project_is_fine_in_the_state_file(project: Path) -> None:
    (project / ".cauce" / "dev.env").write_text("POST_PORT=3100\n")
    assert load(resolve("shop_for_config_test:Settings"), environ={}, folder=project)


def test_unknown_keys_are_not_judged_while_a_service_of_the_project_cannot_be_imported(project: Path) -> None:
    (project / "pyproject.toml").write_text(PYPROJECT.replace("post_for_config_test", "not_installed_here"))
    (project / ".cauce" / "dev.env").write_text("POST_PORT=3100\nSHOP_PROT=1\n")
    with pytest.raises(ConfigurationError) as caught:
        load(resolve("shop_for_config_test:Settings"), environ={}, folder=project)
    assert caught.value.problems == ("SHOP_PROT (.cauce/dev.env:2) is not a setting. Did you mean SHOP_PORT?",)


def test_a_target_that_is_no_settings_class_is_refused(project: Path) -> None:
    for target in ("nowhere_at_all:Settings", "shop_for_config_test:Nothing", "json:dumps", "nonsense"):
        with pytest.raises(ConfigurationError, match="settings = "):
            resolve(target)
    assert project_settings(project) == {
        "shop": "shop_for_config_test:Settings",
        "post": "post_for_config_test:Settings",
    }


def test_a_broken_pyproject_is_one_clear_message(
    project: Path, cauce_config: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pyproject.toml").write_text("[tool.cauce\n")
    assert cauce_config() == 2
    assert "pyproject.toml: " in capsys.readouterr().err
