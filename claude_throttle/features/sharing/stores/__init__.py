"""Where the instants of a shared quota are kept: in memory, in a SQLite file, or in a Redis.

``contract`` says what a store is asked and answers, and ``transaction`` what it does; the other
modules differ only in where the records are and how a process gets at them.
"""
