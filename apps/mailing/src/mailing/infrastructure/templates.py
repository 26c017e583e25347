"""The welcome's texts, rendered from the files in `mailing/templates`."""

from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from mailing.domain import Language, Welcome

__all__ = ["Templates"]

_SUBJECTS: Final[dict[Language, str]] = {
    "es": "Te damos la bienvenida a CloneSpotify",
    "en": "Welcome to CloneSpotify",
}


class Templates:
    """Renders the welcome in one language. A name is data, never a template; in HTML it is escaped."""

    def __init__(self, language: Language) -> None:
        self._language: Final = language
        self._environment: Final = Environment(
            loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
            autoescape=select_autoescape(["html"]),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def __call__(self, name: str) -> Welcome:
        subject = _SUBJECTS[self._language]
        values = {"name": name, "language": self._language, "subject": subject}
        text, html = (
            self._environment.get_template(f"welcome.{self._language}.{kind}").render(values)
            for kind in ("txt", "html")
        )
        return Welcome(language=self._language, subject=subject, text=text, html=html)
