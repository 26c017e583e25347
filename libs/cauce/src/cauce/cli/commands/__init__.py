"""The subcommands of `cauce`: a file each, and beside it `NAME_actions` (what changes something) or `NAME_pages` (what is
printed), where one would be too long. `dev_foreground` is `cauce dev` once it has been started.
"""
