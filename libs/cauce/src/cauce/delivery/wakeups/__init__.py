"""Wake-ups between the processes of one service, so that a lane's owner need not find by polling what another committed.

Read wake_ups, datagrams.
"""

from cauce.delivery.wakeups.wake_ups import WakeUps

__all__ = ["WakeUps"]
