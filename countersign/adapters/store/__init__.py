"""The store remembers what Temporal drives: runs, plans, decisions, claims, attempts, state, audit.

`schema` names the tables, `database` opens them, and each other module is one set of questions or one transaction.
"""
