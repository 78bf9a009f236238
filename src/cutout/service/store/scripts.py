"""What Redis does in one step: scripts in Lua."""

__all__ = ["ADMIT", "COMMON", "END", "LOST", "RENEW", "TAKE"]

# Redis runs a script as one step. Where its memory is full it lets a script write on that began with freeing something:
# the few bytes of a state always fit, or nothing would ever be freed again.
#
# The open pictures are a sorted set: when there was last a sign of life of each, that is when it was handed out, or
# when its worker last renewed the lease; of one that was not handed out yet, its place in its batch, which is long ago.
# The clock is that of Redis.

COMMON = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local open = 'cutout:open'
local function batch(task) return 'cutout:task:' .. task end
local function ended(state) return not state or state == 'done' or state == 'failed' end
"""
"""What stands before each of them."""

ADMIT = """
local task, client, most, seconds = unpack(ARGV)
local unfinished = 'cutout:unfinished:' .. client
if redis.call('SCARD', unfinished) >= tonumber(most) then return 0 end
redis.call('HSET', batch(task), 'client', client)
redis.call('EXPIRE', batch(task), seconds)
redis.call('SADD', unfinished, task)
return 1
"""
"""Begin a batch unless its client has enough of them: batch, client, most, seconds until it is forgotten."""

TAKE = """
local task, number, lease = unpack(ARGV)
local picture = task .. ':' .. number
local client, fields, state = unpack(redis.call('HMGET', batch(task), 'client', 'fields', 'state:' .. number))
if not fields or ended(state) then
  redis.call('ZREM', open, picture)
  return false
end
if state == 'working' and now - (redis.call('ZSCORE', open, picture) or 0) < tonumber(lease) then return false end
redis.call('HDEL', batch(task), 'nothing')
redis.call('HSET', batch(task), 'state:' .. number, 'working')
redis.call('ZADD', open, now, picture)
return {client, fields, redis.call('HINCRBY', batch(task), 'attempts:' .. number, 1)}
"""
"""Take a picture: client, fields and how often it was taken, or nothing if it has ended or another has it and lives.

Arguments: batch, number, the lease in seconds.
"""

RENEW = """
redis.call('ZREM', open, 'nothing')
for _, picture in ipairs(ARGV) do redis.call('ZADD', open, 'XX', now, picture) end
"""
"""A sign of life of open pictures, which are named as `batch:number`."""

LOST = """
local lease, most = unpack(ARGV)
local before = now - lease
local next = redis.call('LINDEX', 'cutout:cutout', -1)
if next then before = math.min(before, tonumber(cjson.decode(next).headers.sent) or 0) end
before = string.format('(%.17g', before)
local lost = {}
redis.call('ZREM', open, 'nothing')
for _, picture in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', before, 'LIMIT', 0, most)) do
  local task, number = string.match(picture, '^(.+):(%d+)$')
  if ended(redis.call('HGET', batch(task), 'state:' .. number)) then -- or its batch has expired
    redis.call('ZREM', open, picture)
  else
    redis.call('HSET', batch(task), 'state:' .. number, 'waiting')
    redis.call('ZADD', open, now, picture)
    table.insert(lost, picture)
  end
end
return {string.format('%.17g', now), lost}
"""
"""Find pictures that no living worker has, and let them wait again: the time, and their names among the open pictures.

Such a one has given no sign of life for a whole lease, and was handed out before what is next in the queue: the queue
is first in, first out, so that it is not in there. That costs the same however long the queue is.

Arguments: the lease in seconds, at most how many.
"""

END = """
local task, number, state, name, value, fresh, expiry, forgotten = unpack(ARGV)
local key = batch(task)
local client, before, count = unpack(redis.call('HMGET', key, 'client', 'state:' .. number, 'count'))
if ended(before) then -- it was deleted, or ended by another worker
  redis.call('DEL', fresh)
  return
end
redis.call('DEL', key .. ':' .. number .. ':in')
redis.call('ZREM', open, task .. ':' .. number)
if state == 'done' then
  local out = key .. ':' .. number .. ':out'
  redis.call('RENAME', fresh, out)
  redis.call('EXPIRE', out, forgotten)
end
redis.call('HSET', key, 'state:' .. number, state, name .. ':' .. number, value)
if redis.call('HINCRBY', key, 'open', -1) > 0 then return end
redis.call('HSET', key, 'expires', string.format('%.17g', now + expiry / 1000))
redis.call('PEXPIRE', key, expiry)
for other = 0, count - 1 do redis.call('PEXPIRE', key .. ':' .. other .. ':out', expiry) end
redis.call('SREM', 'cutout:unfinished:' .. client, task)
"""
"""Keep an outcome, the first one only; the last outcome of a batch lets it expire.

Arguments: batch, number, state, a field and its value, the key that the result was just written under, milliseconds
until a finished batch is forgotten, seconds until any is.
"""
