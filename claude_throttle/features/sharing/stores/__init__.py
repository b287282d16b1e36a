"""The stores of a shared quota: in memory, in a SQLite file, or in a Redis server.

``contract`` says what a store is asked and answers, and ``transaction`` what it does; the other
modules differ only in where the records are and how a process gets at them. All stores run the same
contract tests, and the same random histories must give the same results in each.
"""
