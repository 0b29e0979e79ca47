"""How alembic reaches the database: synchronously, with the URL `Store.open` hands over."""

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from countersign.adapters.store.schema import metadata

url = make_url(context.config.attributes["url"])
engine = create_engine(url.set(drivername=url.drivername.replace("+aiosqlite", "")))
with engine.connect() as connection:
    if engine.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.commit()
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
