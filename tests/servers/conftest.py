"""What the servers need besides the fake."""

from tests.redis_server import _own_redis, redis_url

__all__ = ["_own_redis", "redis_url"]
