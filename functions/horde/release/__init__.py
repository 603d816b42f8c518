"""A release of the data set: shards, tables, documents, and the manifest that names them all."""
