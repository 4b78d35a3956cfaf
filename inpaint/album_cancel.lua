-- Ends all items of an album that wait outside the queue, and takes it no more; after settle.lua.
-- ARGV: album, seconds for which feeders are told, seconds for which the album is kept, now.
-- Returns the ids of its jobs that are in the queue: they are to be canceled one by one.
-- The first write frees memory, so that a full server still cancels.

local album = ARGV[1]
local key = 'inpaint:album:' .. album
redis.call('UNLINK', key .. ':pending', key .. ':same')
redis.call('LREM', 'inpaint:albums', 0, album)
redis.call('SET', key .. ':canceled', 1, 'EX', ARGV[2])
redis.call('HSET', key, 'canceled_at', ARGV[4], 'closed', 1)
local entered = {}
for i, state in ipairs(redis.call('LRANGE', key .. ':states', 0, -1)) do
  local id, print = string.match(state, '^queued (%S+) (%S+)')
  if id and redis.call('EXISTS', 'rq:job:' .. id) == 1 then
    entered[#entered + 1] = id
  elseif id then
    redis.call('LSET', key .. ':states', i - 1, 'canceled ' .. id .. ' ' .. print .. ' ')
    redis.call('HINCRBY', key, 'canceled', 1)
    redis.call('RPUSH', key .. ':log', i .. ' canceled')
  end
end
keep(album, ARGV[3])
return entered
