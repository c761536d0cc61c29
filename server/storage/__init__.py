"""Plain SQL through SQLAlchemy Core: one module per noun, functions over a connection, no ORM.

Every function takes a `Connection` first and runs inside the transaction of its caller (`Database.read` or
`Database.write`); none does network or file work. Rows come back as SQLAlchemy rows or frozen dataclasses.
"""
