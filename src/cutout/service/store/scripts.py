"""What Redis does in one step: scripts in Lua."""

__all__ = ["ADMIT", "END", "LOST", "RENEW", "TAKE"]

# Redis runs a script as one step. Where its memory is full it lets a script write on that began with freeing something:
# the few bytes of a state always fit, or nothing would ever be freed again.
#
# The open pictures are a sorted set: when there was last a sign of life of each, that is when it was handed out, or
# when its worker last renewed the lease. The clock is that of Redis.

_NOW = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
"""

ADMIT = """
local task, client, most, seconds = unpack(ARGV)
if redis.call('SCARD', KEYS[2]) >= tonumber(most) then return 0 end
redis.call('HSET', KEYS[1], 'client', client)
redis.call('EXPIRE', KEYS[1], seconds)
redis.call('SADD', KEYS[2], task)
return 1
"""
"""Begin a batch unless its client has enough of them.

Keys: of the batch, of the client's set. Arguments: batch, client, most, seconds until it is forgotten.
"""

TAKE = (
    _NOW
    + """
local number, picture, lease = unpack(ARGV)
local client, fields, state = unpack(redis.call('HMGET', KEYS[1], 'client', 'fields', 'state:' .. number))
if not fields or not state or state == 'done' or state == 'failed' then
  redis.call('ZREM', KEYS[2], picture)
  return false
end
if state == 'working' and now - (redis.call('ZSCORE', KEYS[2], picture) or 0) < tonumber(lease) then return false end
redis.call('HDEL', KEYS[1], 'nothing')
redis.call('HSET', KEYS[1], 'state:' .. number, 'working')
redis.call('ZADD', KEYS[2], now, picture)
return {client, fields, redis.call('HINCRBY', KEYS[1], 'attempts:' .. number, 1)}
"""
)
"""Take a picture: client, fields and how often it was taken, or nothing if it has ended or another has it and lives.

Keys: of the batch, of the open pictures. Arguments: its number, its name among the open pictures, the lease in seconds.
"""

RENEW = (
    _NOW
    + """
redis.call('ZREM', KEYS[1], 'nothing')
for _, picture in ipairs(ARGV) do redis.call('ZADD', KEYS[1], 'XX', now, picture) end
"""
)
"""A sign of life of what is worked on.

Keys: of the open pictures. Arguments: names among them.
"""

LOST = (
    _NOW
    + """
local lease, most = unpack(ARGV)
local before = now - lease
local next = redis.call('LINDEX', KEYS[2], -1)
if next then before = math.min(before, tonumber(cjson.decode(next).headers.sent) or 0) end
before = string.format('(%.17g', before)
local lost = {}
redis.call('ZREM', KEYS[1], 'nothing')
for _, picture in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, most)) do
  local task, number = string.match(picture, '^(.+):(%d+)$')
  local batch, field = 'cutout:task:' .. task, 'state:' .. number
  local state = redis.call('HGET', batch, field)
  if state == 'waiting' or state == 'working' then
    redis.call('HSET', batch, field, 'waiting')
    redis.call('ZADD', KEYS[1], now, picture)
    table.insert(lost, picture)
  else -- its batch has expired
    redis.call('ZREM', KEYS[1], picture)
  end
end
return {string.format('%.17g', now), lost}
"""
)
"""Find pictures that no living worker has, and let them wait again: the time, and their names among the open pictures.

Such a one has given no sign of life for a whole lease, and was handed out before what is next in the queue: the queue
is first in, first out, so that it is not in there. That costs the same however long the queue is.

Keys: of the open pictures, of the queue. Arguments: the lease in seconds, at most how many.
"""

END = """
local task, number, state, name, value, expiry, expires, forgotten = unpack(ARGV)
local client, before, count = unpack(redis.call('HMGET', KEYS[1], 'client', 'state:' .. number, 'count'))
if not before or before == 'done' or before == 'failed' then -- it was deleted, or ended by another worker
  redis.call('DEL', KEYS[4])
  return
end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[5], task .. ':' .. number)
if state == 'done' then
  redis.call('RENAME', KEYS[4], KEYS[3])
  redis.call('EXPIRE', KEYS[3], forgotten)
end
redis.call('HSET', KEYS[1], 'state:' .. number, state, name, value)
if redis.call('HINCRBY', KEYS[1], 'open', -1) > 0 then return end
redis.call('HSET', KEYS[1], 'expires', expires)
redis.call('PEXPIRE', KEYS[1], expiry)
for other = 0, count - 1 do
  redis.call('PEXPIRE', KEYS[1] .. ':' .. other .. ':out', expiry)
end
redis.call('SREM', 'cutout:unfinished:' .. client, task)
"""
"""Keep an outcome, the first one only; the last outcome of a batch lets it expire.

Keys: of the batch, the input, the output, the output as it was just written, the open pictures. Arguments: batch,
number, state, a field and its value, milliseconds until a finished batch is forgotten, when that is, seconds until any
is.
"""
