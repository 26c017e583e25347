"""`python -m music_discovery`."""

import sys

from music_discovery.main import main

sys.exit(main())
