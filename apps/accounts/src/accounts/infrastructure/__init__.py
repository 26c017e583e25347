"""The adapters of accounts-ms, one a file. Read tables first."""
