"""The history of the SQL schema, as Alembic revisions. `upgrade` brings any older database to the newest one."""
