-- Lets items of an album that have ended run again; after settle.lua.
-- ARGV: album, seconds for which it is kept; then for each item: number, the state that it is known to have,
-- its new state, bytes that were added, the item as JSON ('': as it was), its feeder's Entry as JSON.
-- Returns for each item 1, or 0 if it has another state by now: then nothing is done with it.

local album, kept = ARGV[1], ARGV[2]
local key = 'inpaint:album:' .. album
local answer, waiting = {}, false
for i = 3, #ARGV, 6 do
  local number, known, state, bytes, item, entry = unpack(ARGV, i, i + 5)
  local same = redis.call('LINDEX', key .. ':states', number - 1) == known
  if same then
    redis.call('LSET', key .. ':states', number - 1, state)
    if item ~= '' then
      redis.call('LSET', key .. ':items', number - 1, item)
    end
    redis.call('HINCRBY', key, string.match(known, '^%S+'), -1)
    redis.call('HINCRBY', key, 'bytes', bytes)
    redis.call('RPUSH', key .. ':log', number .. ' queued')
    redis.call('RPUSH', key .. ':pending', '{"item":' .. number .. ',' .. string.sub(entry, 2))
    waiting = true
  end
  answer[#answer + 1] = same and 1 or 0
end
if waiting then
  redis.call('HDEL', key, 'canceled_at')
  redis.call('DEL', key .. ':canceled')
  redis.call('LREM', 'inpaint:albums', 0, album)
  redis.call('RPUSH', 'inpaint:albums', album)
  keep(album, kept)
end
return answer
