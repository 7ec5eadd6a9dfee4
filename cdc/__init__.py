"""The reader: PostgreSQL's WAL, through a logical slot, into Kafka.

Capture loses nothing and repeats nothing: every committed change of a captured table is in Kafka exactly once for a
`read_committed` consumer, in commit order per key, whatever is killed and whenever. The slot is confirmed only past
what the broker has acknowledged, and positions never go back.
"""

__version__ = "0.1.0"
