"""All that touches the world: processes, database, artifacts, Temporal, the engines' tools."""
