"""How databases of older brokers become this one's; run by ``broker migrate`` through Alembic.

A migration is never changed once it was released: what it needs of today's code it holds as a copy.
"""
