"""Whether a host is this machine: what is sent to it does not travel."""

import ipaddress

__all__ = ["is_this_machine"]


def is_this_machine(host: str) -> bool:
    """For `localhost` and addresses of the loopback; another name is never looked up, so it is another machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
