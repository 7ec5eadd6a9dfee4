"""What crosses the wire between the reader and any consumer: positions, event ids, topics, the envelope. Pure."""
