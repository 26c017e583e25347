"""The health port: is it alive, is it ready, what has it done. Bare ASGI applications, to be served or mounted anywhere.

Read pages, app, snapshots, status. The names are re-exported here because this path is public.
"""

from cauce.health.app import health_app
from cauce.health.pages import ASGIApp, Message, Receive, Send

__all__ = ["ASGIApp", "Message", "Receive", "Send", "health_app"]
