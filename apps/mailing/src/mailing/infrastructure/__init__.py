"""The adapters of mailing-ms, one a file: texts, mail server, table."""
