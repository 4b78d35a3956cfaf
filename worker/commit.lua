-- Ends jobs whose lease this worker still holds; after settle.lua.
-- ARGV: for each job: queue, id, token, the number of RQ's own writes; then each of these as
-- the number of its words and the words.
-- Returns for each job 1, or 2 if it was canceled, 0 if it was not ours any more: then nothing of it is written.

local i, mine = 1, {}
while i <= #ARGV do
  local queue, id, token, writes = unpack(ARGV, i, i + 3)
  i = i + 4
  -- The fence. It comes first because it frees memory: so a full server still drains.
  local held = redis.call('ZREM', 'rq:wip:' .. queue, id .. ':' .. token) == 1
  local status = redis.call('HGET', 'rq:job:' .. id, 'status')
  held = held and status == 'started'
  for _ = 1, tonumber(writes) do
    local words = tonumber(ARGV[i])
    if held then
      redis.call(unpack(ARGV, i + 1, i + words))
    end
    i = i + words + 1
  end
  if held then
    settle(id)
  end
  mine[#mine + 1] = held and 1 or status == 'canceled' and 2 or 0
end
return mine
