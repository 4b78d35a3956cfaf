-- A job's accounts, put before every script that ends or begins one. All keys are those of one Redis.
-- inpaint:load (hash) counts unfinished jobs: by lane, by share (who they count against), and the
-- bytes of their uploads. A job carries what it counts for as fields of its own in RQ's hash.

local LOAD = 'inpaint:load'

local function count(field, amount)
  if redis.call('HINCRBY', LOAD, field, amount) <= 0 then
    redis.call('HDEL', LOAD, field)
  end
end

-- A job has just reached its end, in the same script: it counts no longer, and who waits is told.
local function settle(id, status)
  local mine = redis.call('HMGET', 'rq:job:' .. id, 'lane', 'share', 'bytes', 'reply')
  if mine[1] then
    count(mine[1], -1)
    count(mine[2], -1)
    count('bytes', -tonumber(mine[3]))
  end
  if mine[4] and mine[4] ~= '' then
    redis.call('RPUSH', mine[4], id .. ' ' .. status)
    redis.call('EXPIRE', mine[4], 60)
  end
end
