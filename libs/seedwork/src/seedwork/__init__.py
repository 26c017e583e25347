"""What CloneSpotify's services share that is not about events.

settings    broker, logs, database URLs           database     engine, migrations at start
logs        structlog over stdlib logging         statements   what a statement changed
masking     secrets kept out of the logs          turnstile    requests let in one by one
http        the HTTP application of a service  text         text from outside, checked
usernames   by the rules of PRECIS             addresses    of mail, exactly one each
text_types  the checks as pydantic's types
"""
