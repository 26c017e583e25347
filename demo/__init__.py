"""Two stories on real servers: the article's (`python -m demo`) and a broker that is killed (`python -m demo.crash`).

Read story or crash/story first; playing starts and stops the system, terminal prints.
"""
