"""A service as a process: signals, the public HTTP door with its limits, the health port, and an exit code.

    sys.exit(run(service, app=app, port=8000, health_port=9000, limits=HttpLimits(body_s=300)))

Read program, limits, server, limited_protocol, door, health_thread. The names are re-exported here because this path is
public.
"""

from cauce.hosting.limits import HttpLimits
from cauce.hosting.program import EXIT_CONFIGURATION, EXIT_CRASHED, EXIT_OK, run

__all__ = ["EXIT_CONFIGURATION", "EXIT_CRASHED", "EXIT_OK", "HttpLimits", "run"]
