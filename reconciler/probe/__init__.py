"""A client of any xDS server: what `reconciler xds get` and the conformance suite ask with.

services.py   which gRPC method serves which type in which variant
messages.py   messages of any type: by their type URL, their names, as YAML
frames.py     requests and responses of both variants as one kind of value
follow.py     what a client must remember of one type on one stream
client.py     the stream itself, on grpc.aio
"""
