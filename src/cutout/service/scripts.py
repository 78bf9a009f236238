"""What Redis does in one step: scripts in Lua."""

__all__ = ["ADMIT", "END", "RETURN", "TAKE"]

# Redis runs a script as one step. Where its memory is full it lets a script write on that began with freeing something:
# the few bytes of a state always fit, or nothing would ever be freed again.

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

TAKE = """
local client, fields, state = unpack(redis.call('HMGET', KEYS[1], 'client', 'fields', 'state:' .. ARGV[1]))
if not fields or not state or state == 'done' or state == 'failed' then return false end
redis.call('HDEL', KEYS[1], 'nothing')
redis.call('HSET', KEYS[1], 'state:' .. ARGV[1], 'working')
return {client, fields, redis.call('HINCRBY', KEYS[1], 'attempts:' .. ARGV[1], 1)}
"""
"""Take a picture: client, fields and how often it was taken and not returned, or nothing if it has ended.

Keys: of the batch. Arguments: its number.
"""

RETURN = """
if redis.call('HEXISTS', KEYS[1], 'attempts:' .. ARGV[1]) == 1 then
  redis.call('HDEL', KEYS[1], 'nothing')
  redis.call('HINCRBY', KEYS[1], 'attempts:' .. ARGV[1], -1)
end
"""
"""Count a picture as taken once less.

Keys: of the batch. Arguments: its number.
"""

END = """
local task, number, state, name, value, expiry, expires, forgotten = unpack(ARGV)
local client, before, count = unpack(redis.call('HMGET', KEYS[1], 'client', 'state:' .. number, 'count'))
if not before or before == 'done' or before == 'failed' then -- it was deleted, or ended by another worker
  redis.call('DEL', KEYS[4])
  return
end
redis.call('DEL', KEYS[2])
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
redis.call('SREM', 'cutout:unfinished', task)
redis.call('SREM', 'cutout:unfinished:' .. client, task)
"""
"""Keep an outcome, the first one only; the last outcome of a batch lets it expire.

Keys: of the batch, the input, the output, the output as it was just written. Arguments: batch, number, state, a field
and its value, milliseconds until a finished batch is forgotten, when that is, seconds until any is.
"""
