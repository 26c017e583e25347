"""Generated requests against the HTTP services, as a stranger would send them, and what must be true of every answer.

Read the files in this order:

    request             one request as the bytes that are sent, and how it is printed for a replay
    hostile_values      texts, numbers and documents that are nothing, nearly right, or meant to break something
    hostile_bodies      a body around them: encodings, media types, lengths and framing that do not fit
    accounts_calls      what accounts-ms can be asked with bodies that are right
    discovery_calls     the same of music-discovery-ms
    generator           requests out of all of these; the number of a request and a seed say which one it is
    connection          a socket that sends them as they are, and reads what is answered
    verdict             what is wrong with an answer
    siege               many requests through several connections
    running_services    `python -m accounts` and `python -m music_discovery`, for whoever lays siege to them
"""
