"""Looks at every condition on PostgreSQL and Kafka: what is wrong, why it matters, the statement that mends it."""
