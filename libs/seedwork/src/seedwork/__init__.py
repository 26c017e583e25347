"""What CloneSpotify's services share that is not about events.

problems    errors as RFC 9457 documents          body_limit   how large a request may be
database    engine, migrations at start           settings     broker, logs, database URLs
logs        structlog over stdlib logging, with secrets kept out
"""
