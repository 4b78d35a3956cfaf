-- Adds items to an album, and lets their jobs wait where inpaint/feeder.py takes them; after settle.lua. All or nothing.
-- ARGV: album, seconds for which it is kept, items and bytes that an album may have, the facts of a new album
-- as the number of words and the words (0: the album is there); then for each item: its name as names are
-- compared, bytes of its uploads, its state, '1' if its job waits, the item as JSON, its feeder's Entry as JSON.
-- Returns {'added', number of each} | {'gone'} | {'closed'} | {'too-large'} | {'taken', number of the item of that name}.

local album, kept, most_items, most_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = 'inpaint:album:' .. album
local i = 6 + ARGV[5]
local first, bytes = i, 0

while i <= #ARGV do
  local number = redis.call('HGET', key .. ':names', ARGV[i])
  if number then
    return {'taken', tonumber(number)}
  end
  bytes = bytes + ARGV[i + 1]
  i = i + 6
end
local facts = redis.call('HMGET', key, 'created', 'closed', 'expect', 'bytes')
local items = redis.call('LLEN', key .. ':items')
if ARGV[5] == '0' and not facts[1] then
  return {'gone'}
elseif facts[2] == '1' then
  return {'closed'}
elseif items + (#ARGV - first + 1) / 6 > most_items or bytes + (facts[4] or 0) > most_bytes then
  return {'too-large'}
end

if ARGV[5] ~= '0' then
  redis.call('HSET', key, unpack(ARGV, 6, 5 + ARGV[5]))
end
local answer, waiting = {'added'}, false
for j = first, #ARGV, 6 do
  local name, _, state, waits, item, entry = unpack(ARGV, j, j + 5)
  items = redis.call('RPUSH', key .. ':items', item)
  redis.call('RPUSH', key .. ':states', state)
  redis.call('HSET', key .. ':names', name, items)
  local status, print = string.match(state, '^(%S+) %S+ (%S+)')
  local same = '' -- numbers of those of the same content that wait: the first is run, and all end as it does
  if waits == '1' and print ~= '-' then
    same = redis.call('HGET', key .. ':same', print) or ''
    redis.call('HSET', key .. ':same', print, same .. items .. ' ')
  end
  if waits ~= '1' then
    redis.call('HINCRBY', key, status, 1)
    redis.call('RPUSH', key .. ':log', items .. ' ' .. status)
  elseif same == '' then
    redis.call('RPUSH', key .. ':pending', '{"item":' .. items .. ',' .. string.sub(entry, 2))
    waiting = true
  end
  answer[#answer + 1] = items
end
redis.call('HINCRBY', key, 'bytes', bytes)
local expect = redis.call('HGET', key, 'expect')
if expect and expect ~= '' and items >= tonumber(expect) then
  redis.call('HSET', key, 'closed', 1)
end
if waiting then
  redis.call('LREM', 'inpaint:albums', 0, album)
  redis.call('RPUSH', 'inpaint:albums', album)
end
keep(album, kept)
return answer
