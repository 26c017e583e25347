"""The commands run in this process, on a project of two services; see `testsupport.shop_and_mail`."""

from testsupport.command_fixtures import broker, cauce, dialect, project

__all__ = ["broker", "cauce", "dialect", "project"]
